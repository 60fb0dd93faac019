"A step, recorded once for all parameters of a bucket."
import os
import re
import traceback
from contextlib import contextmanager
from numbers import Number

import torch
from torch import Tensor

from optimcb._compat.cpython import references
from optimcb._compat.dtensors import is_dtensor, unsharded
from optimcb.composition.calls import by_torch
from optimcb.composition.errors import StepperError
from optimcb.composition.pipeline import Composition
from optimcb.hypers.values import check_tensors
from optimcb.tracing.bucket import Bucket, constant
from optimcb.tracing.install import install_functions
from optimcb.tracing.ir import OPAQUE, PER_ELEMENT, PER_PARAMETER, Output
from optimcb.tracing.opaque import OpaqueTensor
from optimcb.tracing.purity import value_impurity
from optimcb.tracing.trace import NOT_FROM_P, Trace, Untraceable
from optimcb.tracing.tracer import TRACERS, Tracer, as_tracer
from optimcb.tracing.typed_tracers import TypedParamTracer

__all__ = ['SYMBOLIC', 'NotRecorded', 'Recording', 'record']


install_functions()

SYMBOLIC = TRACERS | {OpaqueTensor} # types of tracers
NUMBERS = frozenset({float, int, bool, str, type(None), Tensor})
KEPT = 2 # references to the tracer of the parameter: the recording's and its trace's
HERE, TORCH = os.path.dirname(__file__), os.path.dirname(torch.__file__)
COMPOSITION, STEPPER = Composition.run.__code__.co_filename, by_torch.__code__.co_filename
KEEPS_PARAM = "it keeps the parameter that it is given", "Keep copies of its numbers, as state."
IS_SKIPPED = "a GradScaler may skip the step, which only the device knows"
IS_SHARDED = "another process has a shard of the parameter"


class Recording:
    """A trace of one step: its structure, its numbers, and the non-tensor state after it.

    `key` is the structure: nodes and outputs. `numbers` is new state that is no tensor, by name; `count` how
    many parameters it is of. `programs` caches the programs of the structure."""
    def __init__(self,
        bucket:Bucket, # The parameters
        looked:set, # Set that collects the names of parameter attributes that steppers read
        typed:bool, # Should tracers claim to be tensors?
        scaling=None, # Scale and skip flag of a GradScaler; None: neither
        numbers:dict|None=None # Non-tensor state; default: the bucket's
    ):
        self.trace = t = Trace(unsharded(bucket.example), looked, typed)
        dtype = bucket.example.dtype
        make = TypedParamTracer if typed else Tracer
        self.p = t.param = make(t, t.emit('load', dtype, PER_ELEMENT, '.p'), dtype, PER_ELEMENT, True)
        self._load_grad(bucket.grad_dtype, scaling)
        self.loaded = {k.name: self._load(k) for k in bucket.kinds}
        self.known = bucket.numbers if numbers is None else numbers
        self.state = {**self.known, **self.loaded}
        self.start, self.before = self.p.id, {name: v.id for name, v in self.loaded.items()}
        self.count, self.programs = 0, {}

    slots = property(lambda self: self.trace.slots, doc="The numbers that nodes take.")
    externals = property(lambda self: self.trace.externals, doc="The tensors from elsewhere that they take.")

    def _load_grad(self, dtype, scaling):
        "Load the gradient, without a GradScaler's factor, and note whether the step may be skipped"
        t = self.trace
        t.grad = t.tracer_type(t, t.emit('load', dtype, PER_ELEMENT, '.grad'), dtype, PER_ELEMENT)
        if scaling is not None and scaling.scale is not None:
            unscaled = t.apply('div', (t.grad, scaling.scale))
            t.grad = t.tracer_type(t, t.cast(unscaled, dtype), dtype, PER_ELEMENT)
        may_skip = scaling is not None and scaling.skip_on_device
        self.skipped = t.apply('ne', (as_tracer(t, scaling.found), 0.)).id if may_skip else None
        t.no_calls = IS_SKIPPED if may_skip else IS_SHARDED if is_dtensor(t.example) else None

    def _load(self, kind) -> Tracer|OpaqueTensor:
        "Return the tracer of a state tensor"
        t = self.trace
        id = t.emit('load', kind.dtype, kind.extent.without_shape, kind.name)
        if kind.extent.is_opaque: return OpaqueTensor(t, id, kind.dtype, kind.extent.shape)
        return t.tracer_type(t, id, kind.dtype, kind.extent, True)

    def finish(self, composition):
        "Collect the outputs. Raises `Untraceable`."
        t = self.trace
        if t.failure: raise t.failure
        t.stepper = None
        p = self.p
        outputs = [Output('.p', _written(p), p.dtype, PER_ELEMENT, False, None)] if p.id != self.start else []
        self.numbers, seen = {}, {id(p)}
        for name, v in self.state.items():
            try: outputs += self._note(name, v, seen)
            except Untraceable as e:
                e.stepper = next((s for s in reversed(composition.steppers) if name in s.mentions), None)
                raise
        if any(x._version != version for x, version in zip(t.externals, t.versions)):
            t.fail("it writes into a tensor that it computed with", "Make a new one.")
        del p
        if references(lambda: self.p) > KEPT: t.fail(*KEEPS_PARAM)
        if self.skipped is not None: outputs = list(map(self._unless_skipped, outputs))
        self.key = tuple(t.index), tuple(outputs)

    def _note(self, name, v, seen) -> list:
        "Return the output of a state if it was written; note a number"
        if type(v) not in SYMBOLIC and isinstance(v, Tensor): v = self._number(name, v)
        if type(v) in SYMBOLIC:
            if id(getattr(v, 'owner', v)) in seen:
                what = f"it returns `{name}`, a tensor that is `p` or has another name already"
                self.trace.fail(what, "Return a copy: `.clone()`.")
            seen.add(id(v))
            return self._output(name, v)
        if not constant(v):
            what = f"it keeps `{name}`, which is {type(v).__name__}, as state"
            self.trace.fail(what, "Keep tensors and numbers.")
        old = self.known.get(name, self)
        if old is not v and (old is self or old != v): self.numbers[name] = v
        return []

    def _unless_skipped(self, o) -> Output:
        "Make an output keep its old value in a skipped step"
        t = self.trace
        if o.name == '.p': old = self.start
        elif not o.is_new: old = self.before[o.name]
        else: old = t.slot(0.) if o.born is None else o.born
        return o._replace(value=t.emit('where', o.dtype, o.extent, self.skipped, old, o.value))

    def _number(self, name, v) -> Tracer:
        "Return a tracer for a real tensor from a stepper, which must be one number per parameter"
        t = self.trace
        if v.dim() or v.requires_grad:
            t.fail(f"it returns `{name}`, a tensor that doesn't come from `p`", NOT_FROM_P)
        return t.tracer_type(t, t.slot(v.item()), v.dtype, PER_PARAMETER)

    def _output(self, name, v) -> list[Output]:
        "Return the output of a state tensor if it was written"
        old = self.loaded.get(name)
        is_new, extent = old is None, v.extent
        if not is_new:
            # one number is all elements of a parameter without dimensions
            if extent is PER_PARAMETER and self.trace.no_dims and old.extent is PER_ELEMENT:
                extent = PER_ELEMENT
            self._check_same(name, old, v.dtype, extent)
            if v.id == self.before[name]: return []
        if type(v) is OpaqueTensor: return [Output(name, v.id, v.dtype, OPAQUE, is_new, None)]
        return [Output(name, _written(v), v.dtype, extent, is_new, v.born if is_new else None)]

    def _check_same(self, name, old, dtype, extent):
        "Fail if a state changes its dtype or shape"
        if old.dtype is not dtype:
            self.trace.fail(f"it makes `{name}` a tensor of another type", f"Keep it: `.to({old.dtype})`.")
        if old.extent is not extent:
            self.trace.fail(f"it makes `{name}` a tensor of another shape", "Give it another name.")


def _written(v) -> int: return v.id if v.exact is None else v.exact


class NotRecorded(Exception):
    "Some `buckets` can't be traced, for a `reason` that names stepper, line and operation."
    def __init__(self,
        buckets:list, # Those that can't
        reason:str # A sentence
    ):
        super().__init__(reason)
        self.buckets, self.reason = buckets, reason


def record(
    buckets:list[Bucket], # Parameters
    composition:Composition, # The steppers
    hypers:list[dict], # Hyper-parameters of each group
    looked:set, # Takes names of attributes of parameters that the steppers read
    typed:bool=False, # Should tracers say that they are tensors?
    scaling=None, # Scale and skip flag of a GradScaler; None: neither
    done:dict|None=None, # This step's recordings so far, by their inputs; collects new ones
    failures:list|None=None, # Takes each `NotRecorded`, which is raised otherwise
    observer=None # Observer of `Composition.run`; default: the trace
) -> list[Recording]:
    """Record a step for each bucket; those for which nothing differs share a recording.

    Raises `MissingName`, and `NotRecorded` without `failures`.
    """
    done, res, begun = {} if done is None else done, [], []
    for b in buckets:
        h = hypers[b.group]
        key = _matters(b, h)
        known, _ = done.get(key, (None, None))
        if known is None:
            check_tensors(h)
            with _collected(failures), _explained(buckets if composition.sums_over_all else [b], composition):
                _check_given(b, composition, h)
                known = _begun(Recording(b, looked, typed, scaling), composition, h, observer)
                done[key] = known, h # which keeps the objects alive whose ids are in the key
                begun.append(known)
        if known is None: continue
        known.count += len(b.places)
        res.append(known)
    if composition.sums_over_all and not failures:
        with _collected(failures), _explained(buckets, composition):
            _go_on(begun)
            for r in begun: r.finish(composition)
    return res


def _matters(bucket, hypers) -> tuple:
    "Return the inputs of a recording; buckets with the same inputs share one"
    # `bucket.numbers` rather than those in the key, which are of the time when the bucket was made
    values = *hypers.values(), *bucket.numbers.values()
    return bucket.kind, *hypers, None, *bucket.numbers, *map(type, values), *map(_compared, values)


def _compared(v):
    "Something that is equal for one value. Tensors are not looked into: that might be to wait for a device"
    return v if v is None or isinstance(v, (Number, str)) else id(v)


def _check_given(bucket, composition, hypers):
    "Raise `NotRecorded` for hyper-parameters that may differ at each use"
    for k, v in hypers.items():
        if type(v) in NUMBERS or not composition.reads_all and k not in composition.reads: continue
        why = value_impurity(v, k)
        if not why: continue
        stepper = next((s for s in composition.steppers if k in s.names), composition.steppers[0])
        what = f"stepper `{stepper}` must be called for each parameter"
        raise NotRecorded([bucket], f"{what}: by `{k}`, {why}.")


def _begun(recording, composition, hypers, observer) -> Recording:
    "Run a recording to its end, or until it needs sums over all parameters"
    trace = recording.trace
    recording.run = composition.run(recording.p, recording.state, hypers, observer or trace)
    if not composition.sums_over_all:
        for _ in recording.run:
            trace.fail("it yields, but is no generator function", "Make it one, or a partial of one.")
        recording.finish(composition)
    return recording


@contextmanager
def _collected(failures):
    "Collect a `NotRecorded` in `failures`, if given"
    try: yield
    except NotRecorded as e:
        if failures is None: raise
        failures.append(e)


@contextmanager
def _explained(buckets, composition):
    "Turn errors of steppers on tracers into `NotRecorded`, with the place where they happen"
    try: yield
    except (StepperError, NotRecorded): raise
    except Exception as e:
        if isinstance(e, Untraceable): what, instead = e.what, e.instead
        else: what, instead = f"raises {type(e).__name__} on a tracer of tensors ({e})", _instead(e)
        stepper = getattr(e, 'stepper', None)
        by = f"stepper `{stepper}`" if stepper else f"one of the steppers {', '.join(composition.labels)}"
        raise NotRecorded(buckets, f"{by}{_place(e)}: {what}. {instead}") from None


def _place(error) -> str:
    "Where in a stepper, or in its helper, an error was raised"
    def is_theirs(f):
        return not f.filename.startswith((HERE, TORCH)) and f.filename not in (COMPOSITION, STEPPER)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_theirs(f)]
    return f' at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}' if frames else ''


def _instead(e) -> str:
    "What to write instead. Functions of older torch refuse a tracer where they expect a number"
    wants_number = isinstance(e, TypeError) and re.search(r'must be (Number|float), not \w*Tracer', str(e))
    if wants_number: return "Call it as a method: `x.addcmul(a, b, value=c)`, `x.new_full(x.shape, c)`."
    return "Only the eager engine can run it."


def _go_on(recordings):
    "Send each recording the tracers of the sums over all parameters that it asks for"
    waiting, round = [(r, None) for r in recordings], 0
    while waiting:
        yielded = []
        for r, total in waiting:
            try: yielded.append((r, r.run.send(total)))
            except StopIteration: pass
        numbers = [r.count*x for r, x in yielded if isinstance(x, Number)]
        if numbers and len(numbers) < len(yielded):
            yielded[0][0].trace.fail("some parameters yield numbers, others tensors")
        waiting = [(r, sum(numbers) if numbers else r.trace.total(x, round)) for r, x in yielded]
        round += not numbers
