"Algorithms that are called without parameters, and what fastai asks of a partial."
from functools import partial

from torch import nn

from optimcb._cpython import frame_above, module_of
from optimcb.composition.rules import norms_and_biases

__all__ = ['Keywords', 'WithoutParams']


class Keywords(dict):
    """The keywords of a partial, which answer `opt`, too, as those of fastai's `partial(OptimWrapper, opt=…)`
    do.

    `opt` isn't among them: they are arguments of `Optimizer`."""
    def __init__(self,
        keywords:dict, # Keywords of a partial
        opt # The answer for `opt`
    ):
        super().__init__(keywords)
        self.opt = opt

    def __missing__(self, k):
        if k != 'opt': raise KeyError(k)
        return self.opt


class WithoutParams(partial):
    """An algorithm with some of its options, but without parameters: call it with them, or with a model.

    The `Trainer` of transformers calls optimizers that aren't classes by `AdamW()(model, **options)`."""
    def __call__(self,
        params, # As for the algorithm; or a model, whose norms and biases are not decayed
        *args, # More of the algorithm's arguments
        **kwargs # More of them, by name
    ):
        "Make the optimizer."
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
    "The parameters that are decayed, and norms and biases, which are not. Frozen ones are left out"
    test, groups = norms_and_biases(model).test(), ({'params': []}, {'params': [], 'wd': 0.})
    for k, p in model.named_parameters():
        if p.requires_grad: groups[decays and test(p, k)]['params'].append((k, p))
    return [g for g in groups if g['params']]
