"""Replay recordings: compute a step's numbers without running the steppers.

Most steps differ from an earlier one only in numbers: learning rate, step count, bias correction. So a
step is recorded a second time with followed numbers (`numbers`), which gives a script from hyper-parameters
and numbers in the state to the numbers of the recording. Later steps run the script instead of the steppers,
as long as all decisions by numbers have the same outcome and everything that steppers read besides their
arguments (`outside`) is unchanged. Otherwise the step is recorded, and followed as another variant.
"""
from collections.abc import Callable
from numbers import Number
from types import NoneType
from typing import NamedTuple

from optimcb.composition.pipeline import Composition
from optimcb.tracing.bucket import Bucket
from optimcb.tracing.numbers import FOLLOWED, NotFollowed, Script, math_followed, plain
from optimcb.tracing.outside import outside_of
from optimcb.tracing.recording import Recording, record

__all__ = ['Recorder', 'Replayed', 'Rerun']


MOST_VARIANTS = 8 # limit of variants for numbers of the same names and types
MOST_READINGS = 8 # limit of readings of the steppers' code, one after each change of outside objects
GIVEN = FOLLOWED | {bool, str, NoneType} # types of values in which steps may differ
UNREAD = object() # the steppers' code wasn't read since the last change


class Replayed:
    "The facts of a recording that engines need, computed without running the steppers."
    __slots__ = ('key', 'slots', 'numbers', 'programs', 'count')
    externals = ()

    def __init__(self,
        variant, # The variant that was replayed
        slots:list, # Numbers of the trace's nodes
        numbers:dict # New non-tensor state
    ):
        self.key, self.programs, self.slots, self.numbers, self.count = (
            variant.key, variant.programs, slots, numbers, 0)


class Variant:
    "A path through the steppers' branches: its structure, and the function that computes its numbers."
    def __init__(self, recording, function):
        self.key, self.programs, self.function = recording.key, recording.programs, function


class Rerun(NamedTuple):
    "What computes the numbers of a step that is replayed, and for which steps."
    names: tuple # Names of hyper-parameters, None, and names of numbers in the state
    types: tuple # Types of their values
    function: Callable # From these values to the numbers of nodes and of the state; to None in another branch


class Form:
    "Steps whose numbers have the same names and types."
    def __init__(self, names, types):
        self.names, self.types = names, types
        self.variants = [] # most recently replayed first
        self.can_be_followed, self.recorded = GIVEN.issuperset(types), 0

    def is_to_be_followed(self) -> bool:
        """Count a recorded step, and decide whether to follow it.

        The first one isn't followed, as it may be the only one. If steps keep taking new branches, only the
        2nd to 9th recording is followed, then every power of two."""
        n = self.recorded
        self.recorded += 1
        return self.can_be_followed and 0 < n and (n <= MOST_VARIANTS or not n & (n - 1))

    def keep(self, variant):
        "Keep a new variant, and drop the least recently replayed one if there are too many."
        self.variants = [variant, *self.variants[:MOST_VARIANTS-1]]

    def prefer(self, variant):
        "Try a variant first from now on."
        self.variants = [variant, *(v for v in self.variants if v is not variant)]


class Recorder:
    "Records the steps of a composition, or replays earlier recordings where possible."
    def __init__(self,
        composition:Composition, # Its steppers
        typed:bool # Should tracers claim to be tensors?
    ):
        self.composition, self.typed = composition, typed
        self.forms = {} # by the kind of a bucket: a dict of forms by names and types
        self.outside, self.readings = UNREAD, 0

    def record(self,
        buckets:list[Bucket], # Parameters
        hypers:list[dict], # Hyper-parameters of each group
        looked:set, # Set that collects the names of parameter attributes that steppers read
        scaling=None, # Scale and skip flag of a GradScaler; None: neither
        done:dict|None=None, # This step's recordings so far, by their inputs; collects new ones
        failures:list|None=None # Collects `NotRecorded` errors; None: raise them
    ) -> list:
        "Return a `Recording` or `Replayed` for each bucket. Raises the errors of `record`."
        done = {} if done is None else done
        is_scaled = scaling is not None and (scaling.scale is not None or scaling.skip_on_device)
        if is_scaled or self.outside is None:
            return record(buckets, self.composition, hypers, looked, self.typed, scaling, done, failures)
        if self.outside is not UNREAD and not self.outside.is_same(): self._forget()
        if self.composition.sums_over_all: # replay all or none, as they exchange sums
            res = [self._replayed(b, hypers[b.group], done) for b in buckets]
            if None not in res: return res
            return self._recorded(buckets, hypers, looked, scaling, done, failures)
        res = []
        for b in buckets:
            found = self._replayed(b, hypers[b.group], done)
            res += [found] if found else self._recorded([b], hypers, looked, scaling, done, failures)
        return res

    def _forget(self):
        "Drop all variants, as something that steppers read has changed"
        for forms in self.forms.values(): forms.clear()
        self.outside = UNREAD if self.readings < MOST_READINGS else None

    # Replaying

    def _form(self, bucket, hypers) -> tuple:
        "Return the form of a bucket's step, and the values of its numbers"
        if bucket.forms is None: bucket.forms = self.forms.setdefault(bucket.kind, {})
        values = *hypers.values(), *bucket.numbers.values()
        names, types = (*hypers, None, *bucket.numbers), tuple(map(type, values))
        form = bucket.forms.get((names, types))
        if form is None: form = bucket.forms[names, types] = Form(names, types)
        return form, values

    def rerun(self,
        bucket:Bucket, # Parameters
        hypers:dict, # Hyper-parameters of their group
        replayed:Replayed # What the last step of them was
    ) -> Rerun|None:
        "Return what has computed the numbers of the last step; None if it isn't known any more."
        form, _ = self._form(bucket, hypers)
        function = next((v.function for v in form.variants if v.programs is replayed.programs), None)
        return function and Rerun(form.names, form.types, function)

    def _replayed(self, bucket, hypers, done) -> Recording|Replayed|None:
        form, values = self._form(bucket, hypers)
        if not form.variants: return None
        found = done.get((form, values))
        if found is not None: return found
        for variant in form.variants:
            numbers = variant.function(*values)
            if numbers is None: continue
            if variant is not form.variants[0]: form.prefer(variant)
            res = done[form, values] = Replayed(variant, *numbers)
            return res

    # Following

    def _recorded(self, buckets, hypers, looked, scaling, done, failures) -> list:
        "Record a step, and follow its numbers if the same branches may be taken again"
        res = record(buckets, self.composition, hypers, looked, self.typed, scaling, done, failures)
        if len(res) < len(buckets) or failures: return res
        for b, r in zip(buckets, res):
            form, values = self._form(b, hypers[b.group])
            if form.variants and (form, values) in done: continue
            if form.is_to_be_followed(): self._follow(form, values, b, hypers[b.group], r)
            if form.variants: done[form, values] = r
        return res

    def _follow(self, form, values, bucket, hypers, recording):
        "Record again with followed numbers, and keep the script if the result equals `recording`"
        if self.outside is UNREAD:
            self.outside = outside_of(self.composition)
            self.readings += 1
        if self.outside is None: return
        script = Script()
        try:
            inputs = script.inputs(values)
            given, numbers = dict(zip(hypers, inputs)), dict(zip(bucket.numbers, inputs[len(hypers):]))
            followed = Recording(bucket, set(), self.typed, numbers=numbers)
            with math_followed(): _run_alone(followed, self.composition, given)
            if not _is_same(followed, recording): return
            function = script.function(len(values), followed.slots, followed.numbers)
        except Exception: return # caused by followed numbers, as the first recording raised none
        if not script.failed: form.keep(Variant(recording, function))


def _run_alone(recording, composition, hypers):
    "Record one bucket to the end. Sums over all parameters must be tracers, not numbers of all buckets"
    trace, total, round = recording.trace, None, 0
    recording.run = composition.run(recording.p, recording.state, hypers, trace)
    while True:
        try: yielded = recording.run.send(total)
        except StopIteration: break
        if isinstance(yielded, Number): raise NotFollowed
        total, round = trace.total(yielded, round), round + 1
    recording.finish(composition)


def _is_same(followed, recording) -> bool:
    "Is a recording with followed numbers equal to one without, bit for bit?"
    if followed.trace.asks_own or followed.externals or recording.externals: return False
    if followed.key != recording.key: return False
    numbers, others = followed.numbers, recording.numbers
    if list(numbers) != list(others) or len(followed.slots) != len(recording.slots): return False
    pairs = [*zip(followed.slots, recording.slots), *zip(numbers.values(), others.values())]
    return all(_same(plain(x), y) for x, y in pairs)


def _same(x, y) -> bool: return type(x) is type(y) and repr(x) == repr(y)
