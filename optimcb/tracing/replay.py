"""Recordings that are made again without running a stepper, in steps that differ from an earlier one in
numbers only.

The numbers of a recording come from hyper-parameters and from numbers among the state. A step is recorded
once more with numbers that are followed: a script of it works out the numbers of later ones. It holds as
long as whatever was decided by numbers is decided alike, and all that steppers look at is what it was; else
the step is recorded, and followed as another variant.
"""
from numbers import Number
from types import NoneType

from optimcb.composition.pipeline import Composition
from optimcb.tracing.bucket import Bucket
from optimcb.tracing.numbers import FOLLOWED, NotFollowed, Script, math_followed, plain
from optimcb.tracing.outside import outside_of
from optimcb.tracing.recording import Recording, record

__all__ = ['Recorder', 'Replayed']


MOST_VARIANTS = 8 # that are tried for numbers of the same names and types
MOST_READINGS = 8 # of the steppers' code, when what they look at has changed
GIVEN = FOLLOWED | {bool, str, NoneType} # types of what steps may differ in
UNREAD = object()


class Replayed:
    "What engines take of a recording, worked out without running a stepper."
    __slots__ = ('key', 'slots', 'numbers', 'programs', 'count')
    externals = ()

    def __init__(self,
        variant, # Whose structure it has
        slots:list, # Numbers that nodes take
        numbers:dict # New state that is no tensor
    ):
        self.key, self.programs, self.slots, self.numbers, self.count = (
            variant.key, variant.programs, slots, numbers, 0)


class Variant:
    "A way that a step goes, and the function that gives its numbers."
    def __init__(self, recording, function):
        self.key, self.programs, self.function = recording.key, recording.programs, function


class Form:
    "Steps whose numbers have the same names and types."
    def __init__(self, types):
        self.variants = [] # the one that was replayed last is the first
        self.can_be_followed, self.recorded = GIVEN.issuperset(types), 0

    def is_to_be_followed(self) -> bool:
        """Note that such a step was recorded. Shall it be followed?

        The first one may be the only one. Where every step goes another way, few are."""
        n = self.recorded
        self.recorded += 1
        return self.can_be_followed and 0 < n and (n <= MOST_VARIANTS or not n & (n - 1))

    def keep(self, variant):
        "Keep a variant, instead of the one that wasn't replayed for the longest time."
        self.variants = [variant, *self.variants[:MOST_VARIANTS-1]]

    def prefer(self, variant):
        "Try a variant first from now on."
        self.variants = [variant, *(v for v in self.variants if v is not variant)]


class Recorder:
    "Records the steps of a composition, by replaying earlier recordings where it can."
    def __init__(self,
        composition:Composition, # Its steppers
        typed:bool # Should tracers say that they are tensors?
    ):
        self.composition, self.typed = composition, typed
        self.forms = {} # by the kind of a bucket: a dict of forms by names and types
        self.outside, self.readings = UNREAD, 0

    def record(self,
        buckets:list[Bucket], # What to record the step for
        hypers:list[dict], # Hyper-parameters of each group
        looked:set, # Takes names of attributes of parameters that the steppers read
        scaling=None, # What the gradients were multiplied by, and whether to skip the step; None: neither
        done:dict|None=None, # This step's recordings so far, by what matters to them; takes new ones
        failures:list|None=None # Takes each `NotRecorded`, which is raised otherwise
    ) -> list:
        "A recording for each bucket, or what replays one. Raises what `record` does."
        done = {} if done is None else done
        is_scaled = scaling is not None and (scaling.scale is not None or scaling.skip_on_device)
        if is_scaled or self.outside is None:
            return record(buckets, self.composition, hypers, looked, self.typed, scaling, done, failures)
        if self.outside is not UNREAD and not self.outside.is_same(): self._forget()
        if self.composition.sums_over_all: # together, or not at all: they yield in turn
            res = [self._replayed(b, hypers[b.group], done) for b in buckets]
            if None not in res: return res
            return self._recorded(buckets, hypers, looked, scaling, done, failures)
        res = []
        for b in buckets:
            found = self._replayed(b, hypers[b.group], done)
            res += [found] if found else self._recorded([b], hypers, looked, scaling, done, failures)
        return res

    def _forget(self):
        "Something that steppers look at has changed"
        for forms in self.forms.values(): forms.clear()
        self.outside = UNREAD if self.readings < MOST_READINGS else None

    # Replaying

    def _form(self, bucket, hypers) -> tuple:
        "The form of a bucket's step, and the values of its numbers"
        if bucket.forms is None: bucket.forms = self.forms.setdefault(bucket.kind, {})
        values = *hypers.values(), *bucket.numbers.values()
        key = *hypers, None, *bucket.numbers, *map(type, values)
        form = bucket.forms.get(key)
        if form is None: form = bucket.forms[key] = Form(map(type, values))
        return form, values

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
        "Record, and follow the numbers of a step that may come again"
        res = record(buckets, self.composition, hypers, looked, self.typed, scaling, done, failures)
        if len(res) < len(buckets) or failures: return res
        for b, r in zip(buckets, res):
            form, values = self._form(b, hypers[b.group])
            if form.variants and (form, values) in done: continue
            if form.is_to_be_followed(): self._follow(form, values, b, hypers[b.group], r)
            if form.variants: done[form, values] = r
        return res

    def _follow(self, form, values, bucket, hypers, recording):
        "Record once more, following numbers, and keep what comes to the same as `recording`"
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
        except Exception: return # of the recording none was raised: it is for the numbers that are followed
        if not script.failed: form.keep(Variant(recording, function))


def _run_alone(recording, composition, hypers):
    "Record to the end. What is summed over all parameters must be tracers, which tell nothing of the others"
    trace, total, round = recording.trace, None, 0
    recording.run = composition.run(recording.p, recording.state, hypers, trace)
    while True:
        try: yielded = recording.run.send(total)
        except StopIteration: break
        if isinstance(yielded, Number): raise NotFollowed
        total, round = trace.total(yielded, round), round + 1
    recording.finish(composition)


def _is_same(followed, recording) -> bool:
    "Has a recording that follows numbers come to the same as one that doesn't, bit for bit?"
    if followed.trace.asks_own or followed.externals or recording.externals: return False
    if followed.key != recording.key: return False
    numbers, others = followed.numbers, recording.numbers
    if list(numbers) != list(others) or len(followed.slots) != len(recording.slots): return False
    pairs = [*zip(followed.slots, recording.slots), *zip(numbers.values(), others.values())]
    return all(_same(plain(x), y) for x, y in pairs)


def _same(x, y) -> bool: return type(x) is type(y) and repr(x) == repr(y)
