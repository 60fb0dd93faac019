"Live views of the hyper-parameters in `param_groups`."
from collections.abc import Callable, MutableMapping
from copy import deepcopy

from fastcore.foundation import L

from optimcb._boundary import entry
from optimcb.hypers.values import NOT_HYPERS, check

__all__ = ['HyperView', 'HyperViews']


class HyperView(MutableMapping):
    """The hyper-parameters of one of `param_groups`, live: what is written here is in the group, and the
    other way round."""
    def __init__(self,
        group:dict, # One of `Optimizer.param_groups`
        names:set, # Names of hyper-parameters; other keys of the group are somebody else's, a scheduler's say
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
