"Parameters that kernels can't step, with the reasons, and the warnings and errors about them."
from collections.abc import Hashable

from optimcb._compat.dtensors import sharding_of, unsharded
from optimcb._compat.warn import warn
from optimcb.tracing.purity import impurities

__all__ = ['CantRun', 'MAX_KERNELS', 'Refusals']


MISSING = object() # value of an attribute that a parameter doesn't have
MAX_KERNELS = 100 # limit per composition: each combination of branches needs its own kernel


class CantRun(RuntimeError):
    "An engine that was requested by name can't run the composition."


class Refusals:
    """The kinds of parameters that kernels can't step for a composition, with reasons.

    `reasons` maps each kind of parameter to a reason; the kind `None` stands for all parameters. `looked` has
    the names of parameter attributes that steppers read: parameters that differ in them are of different
    kinds."""
    def __init__(self,
        engine:str, # 'auto', 'fused' or 'foreach'
        composition # Composition to run
    ):
        self.engine, self.all_or_none = engine, composition.sums_over_all
        self.reasons, self.looked, self.warned = {}, set(), set()
        for reason in impurities(composition): self.add(reason)
        for s in composition.draws:
            self.add(f"stepper `{s}` draws random numbers for each parameter.", quiet=True)

    def look(self, p) -> tuple:
        "Return the values of the attributes that steppers read, and the sharding of `p`."
        p, sharding = unsharded(p), sharding_of(p)
        seen = [(k, p.stride() if k == 'stride()' else getattr(p, k, MISSING)) for k in sorted(self.looked)]
        if sharding: seen.append(('', sharding))
        return tuple((k, v if isinstance(v, Hashable) else id(v)) for k, v in seen)

    def why(self,
        key:tuple # Key of a bucket
    ) -> str|None:
        "Return why a bucket is left to the eager engine, or None if kernels can step it."
        kinds = None, _kind(key), _kind_with_state(key)
        return next((self.reasons[k] for k in kinds if k in self.reasons), None)

    def add(self,
        reason:str, # Reason, with the stepper, the line and the operation
        kind:tuple|None=None, # Kind of parameters; None: all
        quiet:bool=False # Without a warning?
    ):
        "Leave parameters to the eager engine. Raises `CantRun` if another engine was requested by name."
        if self.engine != 'auto':
            raise CantRun(f"engine='{self.engine}' can't run this: "
                          f"{reason} `engine='auto'` falls back to what can.")
        self.reasons[kind] = reason
        place = reason.split(': ')[0] # the stepper and the line
        if place not in self.warned and not quiet:
            warn(f"the eager engine runs what the fused one can't: {reason}")
        self.warned.add(place)

    def add_failures(self,
        failures:list, # `NotRecorded` errors
        buckets:list # All buckets
    ):
        """Leave buckets that can't be recorded to the eager engine.

        If parameters of the same kind with other state can be recorded, only this state is refused."""
        failed = {_kind_with_state(b.key) for e in failures for b in e.buckets}
        others = set()
        if len(self.reasons) < MAX_KERNELS:
            others = {_kind(b.key) for b in buckets if _kind_with_state(b.key) not in failed}
        for e in failures:
            key = e.buckets[0].key
            if self.all_or_none: self.add(e.reason)
            else: self.add(e.reason, _kind_with_state(key) if _kind(key) in others else _kind(key))


def _kind(key) -> tuple:
    "Return the dtypes, device and attributes in a bucket's key, without its group and state"
    return key[3:]


def _kind_with_state(key) -> tuple:
    "Return what `_kind` does, with the kinds of state; its numbers may change in each step, and aren't in it"
    return key[1], *key[3:]
