"One step, recorded for all parameters that are alike."
import os
import re
import sys
import traceback
from contextlib import contextmanager
from numbers import Number

import torch
from torch import Tensor

from optimcb._tensors import is_dtensor, whole
from optimcb.composition.calls import by_torch
from optimcb.composition.errors import StepperError
from optimcb.composition.pipeline import Composition
from optimcb.tracing.bucket import constant
from optimcb.tracing.opaque import Foreign
from optimcb.tracing.purity import impurity
from optimcb.tracing.torch_api import dress
from optimcb.tracing.tracer import STANDS, Trace, TypedParam, Untraceable, Value, as_value

__all__ = ['NotRecorded', 'Recording', 'record']


dress()

KINDS = STANDS | {Foreign}
NUMBERS = frozenset({float, int, bool, str, type(None), Tensor})
KEPT = 3 # references to the stand-in for the parameter: the recording's, its trace's, and that of the one who asks
HERE, TORCH = os.path.dirname(__file__), os.path.dirname(torch.__file__)
COMPOSITION, STEPPER = Composition.run.__code__.co_filename, by_torch.__code__.co_filename


class Recording:
    "A trace of one step: its structure, its numbers, and what becomes of state that is no tensor."
    def __init__(self,
        alike, # Who are alike
        looked:set, # Takes names of attributes of parameters that the steppers look at
        typed:bool, # Should stand-ins say that they are tensors?
        scaling=None # What the gradients were multiplied by, and whether to skip the step; None: neither
    ):
        t = self.trace = Trace(whole(alike.example), looked, typed)
        kind = t.kind
        dtype = alike.example.dtype
        p = t.param = (TypedParam if typed else Value)(t, t.emit('load', dtype, True, '.p'), dtype, True, True)
        grad = alike.grad_dtype
        t.grad = kind(t, t.emit('load', grad, True, '.grad'), grad, True)
        in_doubt = scaling is not None and scaling.skip_on_device
        if scaling is not None and scaling.scale is not None: t.grad = kind(t, t.cast(t.apply('div', (t.grad, scaling.scale)), grad), grad, True)
        self.skipped = t.apply('ne', (as_value(t, scaling.found), 0.)).id if in_doubt else None
        t.no_calls = ("a GradScaler may skip the step, which only the device knows" if in_doubt else
                      "a part of the parameter lies in another process" if is_dtensor(t.example) else None)
        self.loaded = {name: kind(t, t.emit('load', dtype, each, name), dtype, each, True) if isinstance(each, bool) else
                       Foreign(t, t.emit('load', dtype, None, name), dtype, each) for name, dtype, each in alike.kinds}
        self.state = {**alike.numbers, **self.loaded}
        self.p, self.start, self.before = p, p.id, {name: v.id for name, v in self.loaded.items()}
        self.known, self.count = alike.numbers, 0

    def finish(self, composition):
        "Note what was written where."
        t = self.trace
        if t.failure: raise t.failure
        outputs = [('.p', _written(self.p), self.p.dtype, True, False, None)] if self.p.id != self.start else []
        self.numbers, seen = {}, {id(self.p)}
        for name, v in self.state.items():
            try:
                if type(v) not in KINDS and isinstance(v, Tensor): v = self._number(name, v)
                if type(v) in KINDS:
                    if id(getattr(v, 'owner', v)) in seen:
                        t.fail(f"it returns `{name}`, a tensor that is `p` or has another name already", "Return a copy: `.clone()`.")
                    seen.add(id(v))
                    outputs += self._written(name, v)
                elif not constant(v):
                    t.fail(f"it keeps `{name}`, which is {type(v).__name__}, as state", "Keep tensors and numbers.")
                elif name not in self.known or self.known[name] != v: self.numbers[name] = v
            except Untraceable as e:
                e.stepper = next((s for s in reversed(composition.steppers) if name in s.mentions), None)
                raise
        if any(x._version != version for x, version in zip(t.externals, t.versions)): t.fail("it writes into a tensor that it computed with", "Make a new one.")
        if sys.getrefcount(self.p) > KEPT: t.fail("it keeps the parameter that it is given", "Keep copies of its numbers, as state.")
        if self.skipped is not None: outputs = [self._unless_skipped(*o) for o in outputs]
        self.key = tuple(t.nodes), tuple(outputs)

    def _unless_skipped(self, name, new, dtype, each, is_new, born) -> tuple:
        "An output that stays what it was in a step that is skipped"
        t = self.trace
        old = self.start if name == '.p' else self.before[name] if not is_new else born if born is not None else t.slot(0.)
        return name, t.emit('where', dtype, each, self.skipped, old, new), dtype, each, is_new, born

    def _number(self, name, v) -> Value:
        "A stand-in for a real tensor that a stepper made: one number can be had for each parameter"
        t = self.trace
        if v.dim() or v.requires_grad: t.fail(f"it returns `{name}`, a tensor that doesn't come from `p`", "Make it with `torch.zeros_like(p)` or the like.")
        return t.kind(t, t.slot(v.item()), v.dtype, False)

    def _written(self, name, v) -> list:
        "What is to be stored for a state"
        old = self.loaded.get(name)
        is_new = old is None
        each = v.each or not is_new and old.each is True and self.trace.no_dims # one number is all elements of a parameter without dimensions
        if not is_new and (old.dtype, old.each) != (v.dtype, each):
            if old.dtype is v.dtype: self.trace.fail(f"it makes `{name}` a tensor of another shape", "Give it another name.")
            self.trace.fail(f"it makes `{name}` a tensor of another type", f"Keep it: `.to({old.dtype})`.")
        if type(v) is Foreign: return [(name, v.id, v.dtype, None, is_new, None)] if is_new or v.id != self.before[name] else []
        return [(name, _written(v), v.dtype, each, is_new, v.born if is_new else None)] if is_new or v.id != self.before[name] else []


def _written(v) -> int: return v.id if v.exact is None else v.exact


class NotRecorded(Exception):
    "`alike` can't be traced, for a `reason` that names stepper, line and operation."
    def __init__(self,
        alike:list, # Who can't
        reason:str # Why
    ):
        super().__init__(reason)
        self.alike, self.reason = alike, reason


def record(
    all_alike:list, # Who are alike
    composition, # What they do
    hypers:list[dict], # Hyper-parameters of each group
    looked:set, # Takes names of attributes of parameters that the steppers look at
    typed:bool=False, # Should stand-ins say that they are tensors?
    scaling=None, # What the gradients were multiplied by, and whether to skip the step; None: neither
    done:list|None=None, # What was recorded for others in this step, and takes what is recorded now: `(key, hypers, recording)`
    failures:list|None=None # Takes what would be raised for those who can't be recorded; then the recordings are of the others
) -> list[Recording]:
    "A recording for each of `all_alike`; those for which nothing differs share one. Raises `NotRecorded` or `MissingName`."
    done, res = [] if done is None else done, []
    for a in all_alike:
        key, h = (a.key[1], tuple(a.numbers.items()), *a.key[3:]), hypers[a.group] # the numbers of now: others may have been alike at another time
        known = next((r for k, g, r in done if k == key and _equal(g, h)), None)
        if known is None:
            with _collected(failures), _explained(all_alike if composition.sums_over_all else [a], composition):
                _check_given(a, composition, h)
                known = _begun(a, composition, h, looked, typed, scaling)
                done.append((key, h, known))
        if known is None: continue
        known.count += len(a.params)
        res.append(known)
    if composition.sums_over_all and not failures:
        with _collected(failures), _explained(all_alike, composition):
            _go_on([r for _, _, r in done])
            for _, _, r in done: r.finish(composition)
    return res


def _check_given(alike, composition, hypers):
    "Raise `NotRecorded` for hyper-parameters that are objects which may give something else to each parameter"
    for k, v in hypers.items():
        if type(v) in NUMBERS or not composition.reads_all and k not in composition.reads: continue
        why = impurity(v, k)
        if not why: continue
        who = next((s for s in composition.steppers if k in s.names), composition.steppers[0])
        raise NotRecorded([alike], f"stepper `{who}` must be called for each parameter: by `{k}`, {why}.")


def _begun(alike, composition, hypers, looked, typed, scaling) -> Recording:
    "A recording: to its end, unless it waits for sums over all parameters"
    res = Recording(alike, looked, typed, scaling)
    res.run = composition.run(res.p, res.state, hypers)
    if not composition.sums_over_all:
        for _ in res.run: res.trace.fail("it yields, but is no generator function", "Make it one, or a partial of one.")
        res.finish(composition)
    return res


@contextmanager
def _collected(failures):
    "Put a `NotRecorded` into a list, if there is one"
    try: yield
    except NotRecorded as e:
        if failures is None: raise
        failures.append(e)


@contextmanager
def _explained(alike, composition):
    "Errors of the steppers on stand-ins, with the place where they happen"
    try: yield
    except (StepperError, NotRecorded): raise
    except Exception as e:
        what, instead = ((e.what, e.instead) if isinstance(e, Untraceable) else
                         (f"raises {type(e).__name__} on a stand-in for tensors ({e})", _instead(e)))
        lines = [f'{os.path.basename(f.filename)}:{f.lineno}' for f in traceback.extract_tb(e.__traceback__)
                 if not f.filename.startswith((HERE, TORCH)) and f.filename not in (COMPOSITION, STEPPER)]
        who = f"stepper `{s}`" if (s := getattr(e, 'stepper', None)) else f"one of the steppers {', '.join(composition.labels)}"
        raise NotRecorded(alike, f"{who}{f' at {lines[-1]}' if lines else ''}: {what}. {instead}") from None


def _instead(e) -> str:
    "What to write for what raises `e` on a stand-in. Functions of older torch refuse one where a number is expected"
    wants_number = isinstance(e, TypeError) and re.search(r'must be (Number|float), not (Value|Typed)', str(e))
    return "Call it as a method: `x.addcmul(a, b, value=c)`, `x.new_full(x.shape, c)`." if wants_number else "Only the eager engine can run it."


def _equal(a, b):
    "Are these the same names with the same values, of the same types? Tensors are not looked into: that might be to wait for a device"
    return a is b or a.keys() == b.keys() and all(x is b[k] or type(x) is type(b[k]) and not isinstance(x, Tensor) and x == b[k] for k, x in a.items())


def _go_on(recordings):
    "Send each recording what stands for the sums over all parameters that it asks for"
    waiting, round = [(r, None) for r in recordings], 0
    while waiting:
        yielded = []
        for r, total in waiting:
            try: yielded.append((r, r.run.send(total)))
            except StopIteration: pass
        numbers = [r.count*x for r, x in yielded if isinstance(x, Number)]
        if numbers and len(numbers) < len(yielded): yielded[0][0].trace.fail("some parameters yield numbers, others tensors")
        waiting = [(r, sum(numbers) if numbers else r.trace.total(x, round)) for r, x in yielded]
        round += not numbers
