"""Runs the text of a formula as anybody would: line by line, as Python, with `math`'s and `torch`'s functions.

It knows nothing of how formulas are made. What the text says in comments is all that it goes by: `# before the first
step:` is state that doesn't start from 0, `# while` a condition that must hold, `by torch, in` where a function is.
"""
import importlib
import math
import re

import torch
import torch.nn.functional as F

FIRST, WHILE, BY_TORCH = '# before the first step: ', '# while ', re.compile(r'^# (.*): by torch, in `(.*)`$')


def as_tensor(x):
    "A number as a tensor in float64; truths stay truths"
    return torch.as_tensor(x, dtype=None if isinstance(x, (torch.Tensor, bool)) else torch.float64)


def of_tensors(f):
    "`f` of numbers and tensors alike"
    return lambda *xs: f(*map(as_tensor, xs))


def of_either(name):
    "A function of tensors, which is `math`'s for numbers"
    tensors = of_tensors(getattr(torch, name))
    return lambda x: tensors(x) if isinstance(x, torch.Tensor) else getattr(math, name)(x)


FUNCTIONS = {k: of_tensors(getattr(torch, k))
             for k in 'abs maximum minimum sign where isnan isfinite amax amin logical_not sigmoid fmin fmax'.split()}
FUNCTIONS |= {k: of_either(k) for k in 'sqrt exp log expm1 log1p sin cos tanh floor ceil trunc'.split()}
FUNCTIONS |= {k: of_tensors(f) for k, f in dict(
    norm=torch.linalg.vector_norm, rms=lambda x: x.square().mean().sqrt(), sum=lambda x: x.double().sum(),
    mean=lambda x: x.double().mean(), softplus=lambda x, beta: F.softplus(x, beta.item())).items()}
FUNCTIONS |= dict(float=lambda x: torch.as_tensor(x).double(), total=lambda x: x, mod=lambda a, b: a % b, min=min, max=max,
                  abs=abs, prod=math.prod, nan=math.nan, inf=math.inf)


class Formula:
    "A formula's text, with the state that it has"
    def __init__(self, text, hypers):
        self.code = compile(text, 'formula', 'exec')
        self.hypers, self.state = dict(hypers), {}
        self.conditions, self.functions = [], dict(FUNCTIONS)
        for line in text.splitlines():
            if line.startswith(FIRST): exec(line.removeprefix(FIRST).replace(', ', '; '), dict(hypers), self.state)
            if line.startswith(WHILE): self.conditions.append(line.removeprefix(WHILE))
            if found := BY_TORCH.match(line):
                for k in found[1].split(', '): self.functions[k] = getattr(importlib.import_module(found[2]), k)

    def step(self, p, grad, hypers=None):
        "What the parameter is after a step"
        hypers = {**self.hypers, **(hypers or {})}
        start = {k: 0 for k in self.code.co_names if k not in self.functions}
        names = {**start, **self.state, **hypers, **self.functions, 'p': p.clone(), 'grad': grad.clone(),
                 'numel': p.numel}
        for c in self.conditions: assert eval(c, names), f'it holds while {c}'
        exec(self.code, names)
        self.state = {k: v for k, v in names.items() if k not in (*hypers, *self.functions, 'p', 'grad', 'numel', '__builtins__')}
        return torch.as_tensor(names['p'], dtype=p.dtype).broadcast_to(p.shape).clone()
