"The recipe of a user-defined algorithm: a fixed list of steppers."
import inspect

import numpy as np
from fastcore.foundation import L

from optimcb.composition.pipeline import Composition
from optimcb.hypers.torch_names import from_torch, suggest
from optimcb.hypers.values import check

__all__ = ['Listed']


class Listed:
    """A recipe that always lists the same steppers; all its options are hyper-parameters.

    Raises `TypeError` for names that no stepper reads, `ValueError` for values out of range."""
    def __init__(self,
        name:str, # Name of the algorithm
        cbs, # Steppers
        hypers:dict, # Default hyper-parameters
        for_all=() # Arguments that every algorithm takes besides its options
    ):
        self.__name__ = self.__qualname__ = name
        self.__module__ = 'optimcb.algorithm'
        self.cbs, self.for_all = list(L(cbs)), for_all
        composition = Composition(self.cbs)
        if not composition.steppers:
            raise ValueError(f"{name} has no steppers. List them: "
                             f"`algorithm({name!r}, [average_grad, momentum_step])`.")
        self.__doc__ = f"{' → '.join(composition.labels)}."
        self.hypers = from_torch(hypers, composition.reads)
        for k, v in self.hypers.items(): self._check(k, v, composition)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        options = [inspect.Parameter(k, kind, default=v) for k, v in self.hypers.items()]
        self.__signature__ = inspect.Signature(options)

    def _check(self, k, v, composition):
        name = self.__name__
        if k in self.for_all:
            raise TypeError(f"`{k}` is given when {name} is called: "
                            f"`{name}(model.parameters(), lr=…, {k}=…)`.")
        is_read = k == 'lr' or k in composition.reads or composition.reads_all
        if not is_read:
            there = ', '.join(composition.labels)
            raise TypeError(f"no stepper of {name} reads `{k}`: there are {there}."
                            f"{suggest(k, composition.reads)}")
        if isinstance(v, (bool, np.bool_)):
            raise TypeError(f"`{k}={v}` of {name} is no number. "
                            f"Fix it in the stepper: `partial(f, {k}={v})`.")
        for_groups = isinstance(v, (list, tuple, L, slice)) or getattr(v, 'ndim', 0) > 0
        if not for_groups: check(k, v)

    def __call__(self, **options) -> list: return list(self.cbs)
    def __reduce__(self): return Listed, (self.__name__, self.cbs, self.hypers, self.for_all)
