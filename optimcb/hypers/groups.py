"Parameter groups that answer torch's names, and refuse values that can't be."
from collections.abc import Callable, Iterable

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb._compat.wrappers import one_cycle_is_over
from optimcb.hypers.torch_names import TORCH_NAMES, from_torch, stands_for
from optimcb.hypers.values import ALWAYS_WELCOME, check

__all__ = ['TorchNames', 'Params', 'Groups']


class TorchNames(dict):
    """A dict of hyper-parameters that also accepts torch's names: `group['betas']` reads and writes
    `(group['mom'], group['sqr_mom'])`.

    A name is answered if steppers read all that it stands for, and if it isn't one that they take
    themselves. What is stored, and seen when going through the dict, is each thing once, under our name.

    What is written is checked as by `Optimizer.set_hyper`, whoever writes, a scheduler say: it raises
    `TypeError` or `ValueError`, and changes nothing, for a hyper-parameter that can't have the value."""
    reads = frozenset() # names that the steppers read; none while a copy is filled
    notice = None # called with name and value of what is put in under a name that no stepper reads

    def know(self,
        reads:frozenset, # Names that the steppers read from now on
        notice:Callable|None=None # Called with name and value of what comes in under another name
    ) -> 'TorchNames':
        "Answer the names that stand for some of `reads`. Returns the dict itself."
        if notice is not None: self.notice = notice
        if reads != self.reads:
            before, self.reads = self.reads, reads
            for k in [k for k in self.keys() & TORCH_NAMES.keys() if self._ours(k) and k not in before]:
                self[k] = self.pop(k)
        return self

    def _ours(self, k) -> tuple:
        "Return our names for torch's name `k`; none if steppers take `k` itself"
        ours = stands_for(k, self.reads)
        return ours if ours and k not in self.reads and self.reads.issuperset(ours) else ()

    def _there(self, k) -> tuple:
        "Return our names for torch's name `k`, if the dict has all of them"
        ours = self._ours(k)
        return ours if all(map(super().__contains__, ours)) else ()

    def __contains__(self, k): return super().__contains__(k) or bool(self._there(k))
    def __missing__(self, k):
        ours = self._there(k)
        if not ours: raise KeyError(k)
        return self[ours[0]] if len(ours) == 1 else tuple(self[o] for o in ours)
    def _checked(self, k, v) -> dict:
        "Return the values to store for `k`, under our names. Raises `TypeError` and `ValueError`"
        if k == 'params': return {k: Params(v) if type(v) is list else v}
        if super().__contains__(k) or not self._ours(k): new = {k: v}
        else: new = from_torch({k: v}, self.reads)
        if not self.reads: return new
        try: return {o: check(o, x) if o in self.reads or o in ALWAYS_WELCOME else x for o, x in new.items()}
        except ValueError:
            if one_cycle_is_over(): return {}
            raise

    def _put(self, new):
        "Store what is checked"
        if self.notice is not None:
            for k in new:
                if not super().__contains__(k) and k not in self.reads: self.notice(k, new[k])
        super().update(new)

    @entry
    def __setitem__(self, k, v): self._put(self._checked(k, v))
    def __delitem__(self, k):
        for o in (k,) if super().__contains__(k) else self._there(k) or (k,): super().__delitem__(o)
    def get(self, k, default=None): return self[k] if k in self else default
    def setdefault(self, k, default=None):
        if k not in self: self[k] = default
        return self[k]
    @entry
    def update(self, *others, **more):
        new = [self._checked(k, v) for k, v in dict(*others, **more).items()] # before anything changes
        for o in new: self._put(o)
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
    def __getstate__(self): return {'reads': self.reads}


class Params(list):
    "The parameters of a group: a list, as in torch, with the methods and `items` of fastai's `L`."
    @property
    def items(self) -> list:
        "The parameters as a plain list."
        return list(self)

    def __getattr__(self, name):
        if name.startswith('_') or not hasattr(L, name):
            raise AttributeError(f"a list of parameters has no `{name}`.")
        return getattr(L(self.items), name)


class Groups(list):
    """A list of parameter groups that accept torch's names: each item becomes a `TorchNames`.

    A plain dict that is put in is copied, with torch's names translated, and checked; a `TorchNames` is put
    in itself."""
    reads = frozenset() # names that the steppers read; none while a copy is filled
    notice = None # called with name and value of what is put into a group under a name that no stepper reads

    def __init__(self,
        groups:Iterable=(), # Dicts with `params` and hyper-parameters
        reads:frozenset=frozenset() # Names that the steppers read
    ):
        super().__init__(groups)
        self.know(reads)

    def know(self,
        reads:frozenset, # Names that the steppers read from now on
        notice:Callable|None=None # Called with name and value of what comes into a group under another name
    ) -> 'Groups':
        "Let all groups accept torch's names for `reads`. Returns the list itself."
        self.reads = reads
        if notice is not None: self.notice = notice
        self[:] = self
        return self

    def _named(self, group):
        if not isinstance(group, TorchNames): group = TorchNames(group)
        is_new = not group.reads
        if 'params' in group: group['params'] = group['params'] # a plain list becomes `Params`
        if not self.reads: return group
        group.know(self.reads, self.notice)
        if is_new:
            group.update(group) # which checks it
            for k in group.keys() - self.reads if self.notice else (): self.notice(k, group[k])
        return group

    def append(self, group): super().append(self._named(group))
    def insert(self, i, group): super().insert(i, self._named(group))
    def extend(self, groups): super().extend([self._named(g) for g in groups])
    def __iadd__(self, groups):
        self.extend(groups)
        return self
    def __setitem__(self, i, new):
        super().__setitem__(i, [self._named(g) for g in new] if isinstance(i, slice) else self._named(new))
    def __getstate__(self): return {'reads': self.reads}
