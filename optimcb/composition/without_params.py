"Algorithms that are called without parameters, and what fastai asks of a partial."
from functools import partial

from torch import nn

from optimcb._compat.cpython import frame_above, module_of
from optimcb.composition.rules import norms_and_biases

__all__ = ['Keywords', 'WithoutParams']


class Keywords(dict):
    """The keywords of a partial, plus a value for `opt`, as in fastai's `partial(OptimWrapper, opt=…)`.

    Iteration leaves `opt` out: the keywords are arguments of `Optimizer`."""
    def __init__(self,
        keywords:dict, # Keywords of a partial
        opt # The value for `opt`
    ):
        super().__init__(keywords)
        self.opt = opt

    def __missing__(self, k):
        if k != 'opt': raise KeyError(k)
        return self.opt


class WithoutParams(partial):
    """An algorithm with some options but no parameters yet: call it with parameters, or with a model.

    The `Trainer` of transformers calls optimizers that aren't classes by `AdamW()(model, **options)`."""
    def __call__(self,
        params, # As for the algorithm; or a model, whose norms and biases get no weight decay
        *args, # Further arguments of the algorithm
        **kwargs # Further arguments by name
    ):
        "Create the optimizer."
        if isinstance(params, nn.Module):
            params = _trainers_groups() or _two_groups(params, decays='wd' in self.func.hypers)
        return self.func(params, *args, **{**self.keywords, **kwargs})

    def __getattr__(self, name):
        called = self.func.__name__
        raise AttributeError(f"{called} was called without parameters, and is no optimizer yet. "
                             f"Pass them first: {called}(model.parameters(), lr=…).")


def _trainers_groups() -> list[dict]|None:
    "The groups that the `Trainer` of transformers has made, if it calls. It passes them to classes only"
    caller = frame_above(2)
    if module_of(caller) != 'transformers.trainer': return None
    return caller.f_locals.get('optimizer_grouped_parameters')


def _two_groups(model, decays) -> list[dict]:
    "Split trainable parameters into a group with weight decay, and norms and biases without"
    test, groups = norms_and_biases(model).test(), ({'params': []}, {'params': [], 'wd': 0.})
    for k, p in model.named_parameters():
        if p.requires_grad: groups[decays and test(p, k)]['params'].append((k, p))
    return [g for g in groups if g['params']]
