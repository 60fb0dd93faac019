"The arguments of an algorithm's call: its options, options of single groups, and torch's names for them."
import inspect
from collections.abc import Iterator
from numbers import Real

import numpy as np
from fastcore.foundation import L

from optimcb.composition.listed import Listed
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP
from optimcb.hypers.torch_names import TORCH_FLAGS, from_torch, suggest
from optimcb.hypers.values import per_group

__all__ = ['Arguments']


class Arguments:
    """Mixin of `Algorithm` that reads the arguments of a call.

    It needs `recipe`, `signature`, `options`, `edits` and `composition`. A numeric option leaves steppers out
    if it is 0; a flag chooses them if it is on."""
    @property
    def flags(self) -> frozenset:
        "The boolean options, which only choose steppers."
        options = inspect.signature(self.recipe).parameters
        return frozenset(k for k, o in options.items() if isinstance(o.default, bool))

    @property
    def choosing(self) -> tuple:
        "The numeric options that leave steppers out if they are 0, like `mom` of `SGD`."
        if 'choosing' not in self.__dict__:
            self.__dict__['choosing'] = tuple(filter(self._chooses, self.options))
        return self.__dict__['choosing']

    def _chooses(self, k) -> bool:
        default = inspect.signature(self.recipe).parameters[k].default
        if not isinstance(default, Real) or k in self.flags: return False
        try: without, with_it = (Composition(self.recipe(**{k: v})).labels for v in (0., 0.5))
        except (ValueError, TypeError): return False
        return without != with_it

    @property
    def _unlisted(self) -> frozenset:
        """Names that may be passed although they aren't options: arguments of steppers that no stepper
        returns.

        A recipe decides about arguments with a default, so only an edited one has such names: those without
        a default."""
        steppers = self.composition.steppers
        if isinstance(self.recipe, Listed): taken = frozenset().union(*(s.names for s in steppers))
        elif self.edits: taken = frozenset().union(*(s.required for s in steppers))
        else: return frozenset()
        return taken - self.composition.makes - self.signature.parameters.keys() - ONE_STEP

    def ours(self,
        given:dict # Options, or a parameter group
    ) -> dict:
        "Translate other libraries' names for the options of this algorithm to ours."
        return getattr(self.recipe, 'translated', dict)(given)

    def flag(self,
        k:str, # Name of a flag
        v # Its value
    ):
        """Return the value of a flag: None means the default, and 0 (torch's "no dampening") means False.

        Only `dampening` may be another number, as in torch. Raises `TypeError` for anything else."""
        recipe = inspect.signature(self.recipe).parameters
        if v is None: return recipe[k].default if k in recipe else False
        if isinstance(v, (bool, np.bool_)) or v == 0: return bool(v)
        if k == 'dampening' and isinstance(v, Real): return v
        _, instead = TORCH_FLAGS.get(k, ('', ''))
        raise TypeError(f"`{k}` of {self.__name__} must be True or False, but is {v!r}. {instead}".rstrip())

    def _groups_of(self, given) -> tuple:
        "Return the parameters, and for each group the options that may choose steppers"
        params = given['params']
        if isinstance(params, Iterator): params = list(params)
        first = next(iter(params), None) if isinstance(params, (list, tuple, L)) else None
        apart = isinstance(first, (dict, list, L))
        own = [self.ours(g) if isinstance(g, dict) else {} for g in params] if apart else [{}]
        own = [from_torch(g, self.signature.parameters) for g in own]
        values = {k: per_group(k, given[k], len(own)) for k in self.choosing}
        flags = self.flags | {'maximize'}
        groups = []
        for i, g in enumerate(own):
            options = {k: v[i] for k, v in values.items()}
            for k, v in g.items():
                if k in flags: options[k] = self.flag(k, v)
                elif k in values: options[k] = v
            groups.append(options)
        return params, groups

    def _beside_options(self, kwargs) -> tuple[dict, dict]:
        """Remove hyper-parameters that aren't options, and torch's flags, from `kwargs`, and return both.

        Raises `TypeError` for unknown names."""
        known, flags = self.signature.parameters, {}
        for k in TORCH_FLAGS:
            is_number = k == 'dampening' and kwargs.get(k) # torch's number, not a flag
            if k in kwargs and k not in known and not is_number: flags[k] = kwargs.pop(k)
        flags.pop('dampening', None) # `average_grad` takes it
        may_be_given = self._unlisted
        takes_any = isinstance(self.recipe, Listed) and self.composition.reads_all
        unlisted = {}
        for k in [*kwargs]:
            if k in may_be_given or takes_any and k not in known: unlisted[k] = kwargs.pop(k)
        for k in kwargs:
            if k in known: continue
            raise TypeError(f"{self.__name__} has no `{k}`.{suggest(k, {*known, *may_be_given})} "
                            f"It has {', '.join(known)}.")
        return unlisted, flags

    def _bound(self, args, kwargs) -> tuple[dict, set]:
        "Return all arguments by name, defaults included, and the names of those that were passed"
        known = self.signature.parameters
        if len(args) > 2 and isinstance(args[2], tuple) and 'sqr_mom' in known:
            third = list(known)[2]
            raise TypeError(f"the third argument of {self.__name__} is `{third}`, but is {args[2]!r}. "
                            f"Pass betas={args[2]!r}. If it is one `{third}` for each group, pass it by "
                            "name.")
        try: bound = self.signature.bind(*args, **kwargs)
        except TypeError as e:
            raise TypeError(f"{self.__name__}: {e}. Call it as {self.__name__}{self.signature}.") from None
        asked = set(bound.arguments)
        bound.apply_defaults()
        given, usual = bound.arguments, known['lr'].default
        if given['lr'] is None and usual is not inspect.Parameter.empty: given['lr'] = usual
        given.update({k: self.flag(k, given[k]) for k in self.flags & given.keys()})
        return given, asked
