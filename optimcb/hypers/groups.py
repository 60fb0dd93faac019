"Parameter groups that also accept torch's names."
from collections.abc import Iterable

from fastcore.foundation import L

from optimcb.hypers.torch_names import TORCH_NAMES, from_torch, stands_for
from optimcb.hypers.values import check

__all__ = ['TorchNames', 'Params', 'Groups']


class TorchNames(dict):
    """A dict of hyper-parameters that also accepts torch's names: `group['betas']` reads and writes
    `(group['mom'], group['sqr_mom'])`.

    A torch name works if steppers read all our names that it stands for, and don't take that name
    themselves. Only our names are stored and iterated over."""
    reads = frozenset() # names that the steppers read; empty while a copy is filled

    def know(self,
        reads:frozenset # Names that the steppers read from now on
    ) -> 'TorchNames':
        "Accept torch's names for `reads`. Returns the dict itself."
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

    Plain dicts are copied, with torch's names translated; a `TorchNames` is stored itself."""
    reads = frozenset() # names that the steppers read; empty while a copy is filled

    def __init__(self,
        groups:Iterable=(), # Dicts with `params` and hyper-parameters
        reads:frozenset=frozenset() # Names that the steppers read
    ):
        super().__init__(groups)
        self.know(reads)

    def know(self,
        reads:frozenset # Names that the steppers read from now on
    ) -> 'Groups':
        "Let all groups accept torch's names for `reads`. Returns the list itself."
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
