"Hyper-parameters: their ranges, torch's names for them, how one value is spread over groups, and the live view of a group."
import difflib
import math
from collections.abc import Iterable, MutableMapping
from copy import deepcopy
from numbers import Real

import numpy as np
from fastcore.basics import even_mults
from fastcore.foundation import L
from torch import Tensor

__all__ = ['NOT_NEGATIVE', 'RANGES', 'TORCH_NAMES', 'check', 'spread', 'from_torch', 'nearest', 'suggest', 'HyperView', 'HyperViews']

NOT_NEGATIVE = (0, math.inf) # at least, less than
RANGES = dict(lr=NOT_NEGATIVE, wd=NOT_NEGATIVE, eps=NOT_NEGATIVE, mom=(0, 1), sqr_mom=(0, 1))

TORCH_NAMES = dict(momentum=('mom',), betas=('mom', 'sqr_mom'), weight_decay=('wd',), alpha=('sqr_mom',), rho=('sqr_mom',),
                   momentum_decay=('mom_decay',), initial_accumulator_value=('init_sum',))

NOT_HYPERS = frozenset({'params', 'param_names'})


def check(
    name:str, # Name of a hyper-parameter
    value, # Its value for one group
    within:tuple|None=None # Range, if it must be a number that is at least the first and less than the second; default: that of `RANGES`
):
    """`value`, if `name` can have it: the common names have a range, and nothing may be NaN.

    Raises `TypeError` for what is no number, `ValueError` for a number that is out of range.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0: value = value.item()
    within = RANGES.get(name, within)
    if not isinstance(value, Real):
        if not within or isinstance(value, Tensor) and value.numel() == 1: return value # a device is not waited for
        raise TypeError(f"`{name}` must be a number, but is {value!r} ({type(value).__name__}).")
    if math.isnan(value): raise ValueError(f"`{name}` is NaN. Set it to a number.")
    if within and not within[0] <= value < within[1]:
        raise ValueError(f"`{name}` must be at least {within[0]} and {'finite' if within[1] == math.inf else f'less than {within[1]}'}, but is {value}.")
    return value


def spread(
    name:str, # Name of a hyper-parameter
    value, # One value, one for each group, `slice(first, last)`, or `slice(last)` for a tenth of it in the groups before
    n:int # Number of groups
) -> list:
    """`value` as a checked list with one value a group, by fastai's rules for discriminative learning rates.

    Raises `ValueError` if the number of values is not the number of groups.
    """
    if isinstance(value, slice):
        if value.stop is None: raise ValueError(f"`{name}` is {value}: a slice of hyper-parameters needs an end, as in slice(1e-3).")
        value = even_mults(value.start, value.stop, n) if value.start else [value.stop/10]*(n-1) + [value.stop]
    values = [value] if value is None or getattr(value, 'ndim', None) == 0 else list(L(value, use_list=None))
    if len(values) == 1: values = values*n
    if len(values) != n: raise ValueError(f"`{name}` has {len(values)} values, but there are {n} parameter groups. Pass one value, or one for each group.")
    return [check(name, v) for v in values]


def from_torch(
    hypers:dict, # Hyper-parameters, some of them perhaps under torch's names
    known # Names that are meant as they are
) -> dict:
    """`hypers` with torch's names (`momentum`, `betas`, `weight_decay`, …) made into ours, where ours are known.

    Raises `TypeError` if one thing is given under both names.
    """
    res = {}
    for k, v in hypers.items():
        ours = TORCH_NAMES.get(k, ())
        if k in known or not any(o in known for o in ours): ours, v = (k,), (v,)
        elif len(ours) == 1: v = (v,)
        elif len(L(v, use_list=None)) != len(ours): raise ValueError(f"`{k}` must have {len(ours)} values, for {' and '.join(ours)}, but is {v!r}.")
        for o, v_ in zip(ours, v):
            if o in res or (o != k and o in hypers): raise TypeError(f"`{k}` is torch's name for `{o}`, which is given too. Pass one of them.")
            res[o] = v_
    return res


def suggest(
    name:str, # A name that is not known
    known:Iterable # Names that are
) -> str:
    "A question that ends an error message: our name for the known one, ours or torch's, that `name` is nearest to."
    known = set(known)
    ours = {**{t: o for t, o in TORCH_NAMES.items() if known.issuperset(o)}, **{k: (k,) for k in known}}
    near = nearest(name, ours)
    return f" Did you mean {' and '.join(f'`{o}`' for o in ours[near])}?" if near and ours[near] != (name,) else ''


def nearest(
    name:str, # A name that is not known
    known:Iterable, # Names that are
    alike:float=0.6 # How much they must be alike, 0 to 1
) -> str|None:
    "The known name that is most like `name`, if one is."
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=alike)), None)


class HyperView(MutableMapping):
    "The hyper-parameters of one of `param_groups`, live: what is written here is in the group, and the other way round."
    def __init__(self,
        group:dict, # One of `Optimizer.param_groups`
        names:set # Names that are hyper-parameters; other keys of the group are somebody else's, a scheduler's say
    ): self.group, self.names = group, names

    def __contains__(self, k): return k in self.names and k in self.group and k not in NOT_HYPERS
    def __iter__(self): return (k for k in self.group if k in self)
    def __len__(self): return sum(1 for _ in self)
    def __getitem__(self, k):
        if k not in self: raise KeyError(k)
        return self.group[k]
    def __setitem__(self, k, v):
        if k in NOT_HYPERS: raise KeyError(f"`{k}` is no hyper-parameter. Set it in `param_groups`.")
        self.group[k] = check(k, v)
        self.names.add(k)
    def __delitem__(self, k):
        if k not in self: raise KeyError(k)
        del self.group[k]
    def copy(self):
        "A dict with the values of now"
        return dict(self)
    def replace(self,
        new:dict # What the hyper-parameters are from now on
    ):
        "Set these hyper-parameters and drop the others; raises what `check` does, before it changes anything"
        new = {k: check(k, v) for k, v in dict(new).items()}
        for k in set(self) - set(new): del self[k]
        self.update(new)
    def __or__(self, other): return dict(self) | dict(other)
    def __ror__(self, other): return dict(other) | dict(self)
    def __copy__(self): return dict(self)
    def __deepcopy__(self, memo): return deepcopy(dict(self), memo)
    def __repr__(self): return repr(dict(self))


class HyperViews(L):
    "The hyper-parameters of all groups; what is assigned to one of them is in its group."
    def __setitem__(self, i, new): self[i].replace(new)
