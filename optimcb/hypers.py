"Hyper-parameters: their ranges, torch's names for them, how one value is spread over groups, and the live view of a group."
import difflib
import math
from collections.abc import Callable, Iterable, MutableMapping
from copy import deepcopy
from numbers import Real

import numpy as np
import torch
from fastcore.basics import even_mults
from fastcore.foundation import L
from torch import Tensor

from optimcb.boundary import entry

__all__ = ['NOT_NEGATIVE', 'RANGES', 'TORCH_NAMES', 'AUTHORS_NAMES', 'TORCH_FLAGS', 'check', 'own', 'numbers', 'spread', 'stands_for', 'from_torch',
           'without_flags', 'nearest', 'suggest', 'TorchNames', 'Params', 'Groups', 'HyperView', 'HyperViews']

NOT_NEGATIVE = (0, math.inf) # at least, less than; None: any larger number, infinity too
RANGES = dict(lr=NOT_NEGATIVE, wd=NOT_NEGATIVE, eps=NOT_NEGATIVE, mom=(0, 1), sqr_mom=(0, 1), diff_mom=(0, 1), slow_mom=(0, 1), rate_mom=(0, 1),
              d_mom=(0, 1), ema_mom=(0, 1), grok_mom=(0, 1), growth_rate=(1, None), refresh_steps=(1, None), accum=(1, None), ema_every=(1, None),
              swa_every=(1, None))

TORCH_NAMES = dict(momentum=('mom',), betas=('mom', 'sqr_mom'), weight_decay=('wd',), alpha=('sqr_mom',), rho=('sqr_mom',),
                   momentum_decay=('mom_decay',), initial_accumulator_value=('init_sum',), etas=('eta_minus', 'eta_plus'), step_sizes=('min_step', 'max_step'),
                   decoupled_weight_decay=('decouple_wd',))

LONG_NAMES = dict(beta1=('mom',), beta2=('sqr_mom',), learning_rate=('lr',)) # that nobody takes, but that one may try

AUTHORS_NAMES = dict( # what a name of torch's stands for in rules whose authors have more coefficients: the first of these of which all names are known
    betas=(('mom', 'diff_mom', 'sqr_mom'), ('mom', 'sqr_mom', 'slow_mom'), ('mom', 'sqr_mom', 'rate_mom'), ('mom', 'slow_mom')),
    alpha=(('slow_weight',),))

ENGINE_FLAGS = ('foreach', 'fused')
TORCH_FLAGS = dict( # options of torch.optim that are no numbers: the stepper that does it, if there is one, and what to do instead
    foreach=(None, ''), fused=(None, ''),
    capturable=(None, "Leave it out: a CUDA graph can have any step that kernels run. `opt.before_replay()` sends it the numbers of the next one."),
    differentiable=(None, "A step changes parameters in place, where autograd doesn't look. "
                          "Write the update as an expression, for `torch.func.functional_call`."),
    maximize=(None, "Put `maximize` before these steppers, by `wrap(maximize)`."),
    amsgrad=('max_sqr_avg', "Use `Adam(…, amsgrad=True)`, or put `max_sqr_avg` and `use_sqr_max` after `average_sqr_grad`."),
    nesterov=('nesterov_update', "Use `SGD(…, nesterov=True)` or `NAdam`, or put `nesterov_update` and `apply_update` in the place of `momentum_step`."),
    centered=('center_sqr_avg', "Use `RMSProp(…, centered=True)`, or put `average_center` and `center_sqr_avg` after `average_sqr_grad`."),
    dampening=(None, "A number means what it does in `torch.optim.SGD`, and `average_grad` takes it, as in `SGD(…, mom=0.9, dampening=0.5)`."),
    decoupled_weight_decay=('weight_decay', "`weight_decay` in `cbs` is decoupled, `l2_reg` in its place is not: algorithms choose it by `decouple_wd`."))

NOT_HYPERS = frozenset({'params', 'param_names'})


def check(
    name:str, # Name of a hyper-parameter
    value, # Its value for one group
    within:tuple|None=None # Range, if it must be a number that is at least the first and less than the second; default: that of `RANGES`
):
    """`value`, if `name` can have it: the common names have a range, and nothing may be NaN.

    Raises `TypeError` for what is no number, `ValueError` for a number that is out of range. A tensor of one number is a number.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0: value = value.item()
    within = RANGES.get(name, within)
    if not isinstance(value, Real):
        if not within: return value
        if isinstance(value, Tensor): return _check_tensor(name, value, within)
        hint = f" `scheduled({name}=…)` makes it a function of the step." if callable(value) else ''
        raise TypeError(f"`{name}` must be a number, but is {value!r} ({type(value).__name__}).{hint}")
    if math.isnan(value): raise ValueError(f"`{name}` is NaN. Set it to a number.")
    least, limit = within or (None, None)
    if within and not (least <= value and (limit is None or value < limit)):
        below = '' if limit is None else ' and finite' if limit == math.inf else f' and less than {limit}'
        raise ValueError(f"`{name}` must be at least {least}{below}, but is {value}.")
    return value


def _check_tensor(name, value, within):
    "`value`, if it is one real number that nobody differentiates"
    if value.numel() != 1 or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"`{name}` must be one number, but is a tensor of shape {tuple(value.shape)} and {value.dtype}. "
                        "Pass a tensor without dimensions, or a list with one for each group.")
    if value.requires_grad: raise ValueError(f"`{name}` is a tensor that requires a gradient, but no step is differentiated. Pass `{name}.detach()`.")
    if type(value) is Tensor and value.device.type == 'cpu': check(name, value.item(), within) # a device would be waited for
    return value


def own(
    name:str, # Name of a hyper-parameter
    value # Its value
):
    "`value` for one group alone: a tensor of one number is copied, and where a real number is meant it has no dimensions, and fractions."
    if not isinstance(value, Tensor) or value.numel() != 1 or value.requires_grad: return value
    value = value.clone()
    if name not in RANGES: return value
    return value.reshape(()) if value.is_floating_point() else value.reshape(()).to(torch.get_default_dtype())


def numbers(
    v # A value, or some in a list or tuple
):
    "`v` with numbers for tensors of one number, by which steppers can be chosen; of several, a tuple."
    if isinstance(v, (list, tuple)): return tuple(map(numbers, v))
    return v.item() if isinstance(v, Tensor) and v.numel() == 1 and not v.is_meta else v


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
    return [own(name, check(name, v)) for v in values]


def stands_for(
    name:str, # A name of torch's, perhaps
    known:Iterable # Names that are known
) -> tuple:
    "Our names for what torch, or the authors of a rule, call `name`: `betas` are three of Adan's coefficients, in the order of its paper."
    known = frozenset(known)
    return next((o for o in AUTHORS_NAMES.get(name, ()) if known.issuperset(o)), TORCH_NAMES.get(name, ()))


def from_torch(
    hypers:dict, # Hyper-parameters, some of them perhaps under torch's names
    known # Names that are meant as they are
) -> dict:
    """`hypers` with torch's names (`momentum`, `betas`, `weight_decay`, …) made into ours, where ours are known.

    Raises `TypeError` if one thing is given under both names.
    """
    res = {}
    for k, v in hypers.items():
        ours = stands_for(k, known)
        if k in known or not any(o in known for o in ours): ours, v = (k,), (v,)
        elif len(ours) == 1: v = (v,)
        elif len(L(v, use_list=None)) != len(ours):
            raise ValueError(f"`{k}` must have {len(ours)} values, for {' and '.join(ours)}, but is {v!r}. "
                             "Further coefficients go by names of their own.")
        for o, v_ in zip(ours, v):
            if o in res or (o != k and o in hypers): raise TypeError(f"`{k}` is torch's name for `{o}`, which is given too. Pass one of them.")
            res[o] = v_
    return res


def without_flags(
    hypers:dict, # Hyper-parameters under our names, some of `TORCH_FLAGS` perhaps among them
    composition, # The steppers, which decide what can be had
    engine:str # The engine that was asked for
) -> tuple[dict, str]:
    """`hypers` without torch's options that are no numbers, and the engine that they ask for.

    What is off, or None, or what the steppers do, is passed over. Raises `TypeError` for what can't be had, `ValueError` for engines that contradict."""
    known = frozenset().union(*(s.mentions.union(s.names) for s in composition.steppers if not s.is_ours))
    def read(k, v):
        if TORCH_FLAGS[k][0] is not None or k not in composition.reads: return False
        return isinstance(v, bool) or k == 'dampening' and _dampens(composition, v)
    def meant(k, v): return k not in TORCH_FLAGS or k in known or read(k, v)
    rest = {k: v for k, v in hypers.items() if meant(k, v)}
    flags = {k: v for k, v in hypers.items() if k not in rest and v is not None}
    does = {getattr(s.innermost, '__name__', None) for s in composition.steppers}
    wd = rest.get('wd')
    if not does & {'weight_decay', 'l2_reg'} or isinstance(wd, Real) and wd == 0: flags.pop('decoupled_weight_decay', None) # nothing decays
    if 'mom' not in composition.reads: flags.pop('dampening', None) # nothing to dampen
    for k, v in flags.items():
        by, instead = TORCH_FLAGS[k]
        if k not in ENGINE_FLAGS and bool(v) != (by in does):
            raise TypeError(f"`{k}={v!r}` can't be had with {', '.join(composition.labels)}. {instead}")
    return rest, _engine(engine, {k: bool(flags[k]) for k in ENGINE_FLAGS if k in flags})


def _dampens(composition, v) -> bool:
    "Is a number torch's `dampening`? Averages of squares have none"
    readers = {s.innermost.__name__ for s in composition.steppers if s.is_ours and 'dampening' in s.names}
    return isinstance(v, Real) and bool(readers & {'average_grad', 'average_update'}) and 'average_sqr_grad' not in readers


def _engine(engine, flags) -> str:
    "The engine that `foreach` and `fused` ask for"
    wanted = {k for k, v in flags.items() if v}
    if len(wanted) > 1: raise ValueError("`foreach` and `fused` can't be True together. Pass one of them, or `engine=`.")
    if wanted - {engine} and engine != 'auto' or flags.get(engine) is False:
        raise ValueError(f"engine='{engine}' contradicts {' and '.join(f'{k}={v}' for k, v in flags.items())}. Pass one of them.")
    return next(iter(wanted), engine)


def suggest(
    name:str, # A name that is not known
    known:Iterable # Names that are
) -> str:
    "A question that ends an error message: our name for the known one, ours or torch's, that `name` is nearest to."
    known = set(known)
    ours = {**{t: o for t, o in {**TORCH_NAMES, **LONG_NAMES}.items() if known.issuperset(o)}, **{k: (k,) for k in known}}
    several = sorted(k for k in known if any(k.endswith(f'_{o}') for o in (name, *TORCH_NAMES.get(name, ())))) # each route's own
    if len(several) > 1: return f" Did you mean {' or '.join(f'`{k}`' for k in several)}?"
    near = nearest(name, ours)
    return f" Did you mean {' and '.join(f'`{o}`' for o in ours[near])}?" if near and ours[near] != (name,) else ''


def nearest(
    name:str, # A name that is not known
    known:Iterable, # Names that are
    alike:float=0.6 # How much they must be alike, 0 to 1
) -> str|None:
    "The known name that is most like `name`, if one is."
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=alike)), None)


class TorchNames(dict):
    """A dict of hyper-parameters that answers torch's names, too: `group['betas']` is `(group['mom'], group['sqr_mom'])`, to be read and written.

    A name is answered if steppers read all that it stands for, and if it isn't one that they take themselves. What is stored, and seen when
    going through the dict, is each thing once, under our name."""
    reads = frozenset() # names that the steppers read; none while a copy is filled

    def know(self,
        reads:frozenset # Names that the steppers read from now on
    ) -> 'TorchNames':
        "Answer the names that stand for some of `reads`. Returns the dict itself."
        if reads != self.reads:
            before, self.reads = self.reads, reads
            for k in [k for k in self.keys() & TORCH_NAMES.keys() if self._ours(k) and k not in before]: self[k] = self.pop(k)
        return self

    def _ours(self, k) -> tuple:
        "What `k` stands for, where it isn't itself"
        ours = stands_for(k, self.reads)
        return ours if ours and k not in self.reads and self.reads.issuperset(ours) else ()

    def _there(self, k) -> tuple:
        "What `k` stands for, if all of it is there"
        ours = self._ours(k)
        return ours if all(map(super().__contains__, ours)) else ()

    def __contains__(self, k): return super().__contains__(k) or bool(self._there(k))
    def __missing__(self, k):
        ours = self._there(k)
        if not ours: raise KeyError(k)
        return self[ours[0]] if len(ours) == 1 else tuple(self[o] for o in ours)
    def __setitem__(self, k, v):
        if k == 'params' and type(v) is list: v = Params(v)
        if super().__contains__(k) or not self._ours(k): super().__setitem__(k, v)
        else: super().update({o: check(o, x) for o, x in from_torch({k: v}, self.reads).items()})
    def __delitem__(self, k):
        for o in (k,) if super().__contains__(k) else self._there(k) or (k,): super().__delitem__(o)
    def get(self, k, default=None): return self[k] if k in self else default
    def setdefault(self, k, default=None):
        if k not in self: self[k] = default
        return self[k]
    def update(self, *others, **more):
        for k, v in dict(*others, **more).items(): self[k] = v
    def pop(self, k, *default):
        if not (super().__contains__(k) or self._there(k)): return super().pop(k, *default)
        v = self[k]
        del self[k]
        return v
    def copy(self): return TorchNames(self).know(self.reads)
    def __or__(self, other):
        new = self.copy()
        new.update(other)
        return new
    def __ior__(self, other):
        self.update(other)
        return self


class Params(list):
    "The parameters of a group: a list, as in torch, that has the methods of fastai's `L`, and its `items`."
    @property
    def items(self) -> list:
        "The parameters, in a plain list."
        return list(self)

    def __getattr__(self, name):
        if name.startswith('_') or not hasattr(L, name):
            raise AttributeError(f"a list of parameters has no `{name}`.")
        return getattr(L(self.items), name)


class Groups(list):
    """Parameter groups that answer torch's names, whoever puts them there: each is a `TorchNames`.

    A plain dict that is put in is copied, with torch's names translated; a `TorchNames` is put in itself."""
    reads = frozenset() # names that the steppers read; none while a copy is filled

    def __init__(self,
        groups:Iterable=(), # Dicts with `params` and hyper-parameters
        reads:frozenset=frozenset() # Names that the steppers read
    ):
        super().__init__(groups)
        self.know(reads)

    def know(self,
        reads:frozenset # Names that the steppers read from now on
    ) -> 'Groups':
        "Let all groups answer the names that stand for some of `reads`. Returns the list itself."
        self.reads = reads
        self[:] = self
        return self

    def _named(self, group):
        if not isinstance(group, TorchNames): group = TorchNames(group)
        if 'params' in group: group['params'] = group['params'] # a plain list becomes `Params`
        return group.know(self.reads) if self.reads else group

    def append(self, group): super().append(self._named(group))
    def insert(self, i, group): super().insert(i, self._named(group))
    def extend(self, groups): super().extend([self._named(g) for g in groups])
    def __iadd__(self, groups):
        self.extend(groups)
        return self
    def __setitem__(self, i, new):
        super().__setitem__(i, [self._named(g) for g in new] if isinstance(i, slice) else self._named(new))


class HyperView(MutableMapping):
    "The hyper-parameters of one of `param_groups`, live: what is written here is in the group, and the other way round."
    def __init__(self,
        group:dict, # One of `Optimizer.param_groups`
        names:set, # Names that are hyper-parameters; other keys of the group are somebody else's, a scheduler's say
        warn_unread:Callable=lambda names: None # Called with the names of those that are new
    ): self.group, self.names, self.warn_unread = group, names, warn_unread

    def __contains__(self, k): return k in self.names and k in self.group.keys() and k not in NOT_HYPERS
    def __iter__(self): return (k for k in self.group if k in self)
    def __len__(self): return sum(1 for _ in self)
    def __getitem__(self, k):
        if k not in self: raise KeyError(k)
        return self.group[k]
    @entry
    def __setitem__(self, k, v):
        if k in NOT_HYPERS: raise KeyError(f"`{k}` is no hyper-parameter. Set it in `param_groups`.")
        self.group[k] = check(k, v)
        if k in self.names or k not in self.group.keys(): return # the group may have it under our name
        self.warn_unread([k])
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
