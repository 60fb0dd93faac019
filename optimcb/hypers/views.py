"Live views of the hyper-parameters in `param_groups`."
from collections.abc import Callable, MutableMapping
from copy import deepcopy

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb.hypers.values import NOT_HYPERS, check

__all__ = ['HyperView', 'HyperViews']


class HyperView(MutableMapping):
    "A live view of a group's hyper-parameters: writing to either changes both."
    def __init__(self,
        group:dict, # One of `Optimizer.param_groups`
        names:set, # Names of hyper-parameters; other keys of the group belong, for example, to a scheduler
        warn_unread:Callable=lambda names: None # Called with new names
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
        if k in self.names or k not in self.group.keys(): return # the group may store it by our name
        self.warn_unread([k])
        self.names.add(k)
    def __delitem__(self, k):
        if k not in self: raise KeyError(k)
        del self.group[k]
    def copy(self):
        "Return a dict with the current values"
        return dict(self)
    def replace(self,
        new:dict # The new hyper-parameters
    ):
        "Set these hyper-parameters and delete all others; raises like `check`, before any change"
        new = {k: check(k, v) for k, v in dict(new).items()}
        for k in set(self) - set(new): del self[k]
        self.update(new)
    def __or__(self, other): return dict(self) | dict(other)
    def __ror__(self, other): return dict(other) | dict(self)
    def __copy__(self): return dict(self)
    def __deepcopy__(self, memo): return deepcopy(dict(self), memo)
    def __repr__(self): return repr(dict(self))


class HyperViews(L):
    "The hyper-parameters of all groups; assigning to an item changes its group."
    def __setitem__(self, i, new): self[i].replace(new)
