"""A composition, rehearsed: its steppers run on stand-ins for tensors, to see who reads and writes what.

Nothing is computed and nothing changes. From step to step the state goes on as kinds of tensors and as numbers, so
that counters count, and steppers take the branches that they would take.
"""
from collections.abc import Callable
from copy import copy
from numbers import Real
from types import GeneratorType
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP, once, stop
from optimcb.composition.stepper import Stepper
from optimcb.tracing.bucket import Alike, constant
from optimcb.tracing.opaque import Foreign
from optimcb.tracing.program import Node, Program, inputs
from optimcb.tracing.purity import asks_type, refusals
from optimcb.tracing.recording import NotRecorded, Recording, record
from optimcb.tracing.rng import Chance
from optimcb.tracing.tracer import STANDS

__all__ = ['Act', 'Rehearsal', 'Step']


class Act(NamedTuple):
    "What a stepper did in a step. The parameter's names here are `p` and `grad`."
    stepper: Stepper
    given: tuple # Names of state, hyper-parameters and one-step values that it was given
    reads: frozenset # Names of tensors that what it wrote is worked out from
    writes: dict # By name, the operand of each tensor that it wrote
    numbers: dict # By name, the numbers that it returned
    kept: frozenset # Names among both that are state
    single: frozenset # Names of tensors among them that are one number for each parameter
    idle: frozenset # Names that it returned to no effect: of hyper-parameters, which come first, or of the parameter and its gradient
    shown: dict # By name, the name to show: a one-step value that hides another has a hat
    returns: bool # Did it return a dict, be it an empty one?
    place: int = 0 # Of the stepper in the composition
    there: frozenset = frozenset() # Those of its names that stood for something
    ends: bool = False # Are the steppers that follow not called?


class Step(NamedTuple):
    "A step that was rehearsed."
    recording: Recording
    acts: list[Act]
    hypers: dict # As they were handed to the steppers

    @property
    def program(self) -> Program:
        "What an engine would run."
        return Program(*self.recording.key)


class Rehearsal:
    "Steps of a composition on a stand-in for one parameter."
    def __init__(self,
        composition:Composition, # Its steppers
        hypers:dict, # Hyper-parameters of the parameter's group
        example:Tensor|None=None, # The parameter; default: a matrix in float32
        state:dict|None=None # Its state
    ):
        self.composition, self.hypers = composition, dict(hypers)
        self.example = torch.nn.Parameter(torch.zeros(2, 2)) if example is None else example
        grad = getattr(self.example, 'grad', None)
        self.grad_dtype = self.example.dtype if grad is None else grad.dtype
        self.kinds, self.numbers = _kinds(state or {}, self.example)
        self.typed, self.refusals = any(map(asks_type, composition.steppers)), list(refusals(composition))
        self.refusals += [f"`{k}` among the state is {type(v).__name__}." for k, v in self.numbers.items() if not constant(v)]
        self.done, self.looked = 0, set() # what steppers look at, of the parameter

    def look(self,
        named:Callable|None=None, # Puts something else in the place of a number: called with its name, the number, and whether it is to be kept
        began:Callable|None=None # Called with the place of each stepper before that is called; each name is then an operand of its own
    ) -> Step:
        "The next step, which is not taken. Raises `MissingName`, and `NotRecorded` if it can't be rehearsed."
        for reason in self.refusals: raise NotRecorded([], reason)
        starts = {k for s in self.composition.steppers for k in s.numbers} & self.composition.makes - self.hypers.keys() if began else ()
        named = named or (lambda name, v, kept: v)
        def all_named(values): return {k: named(k, v, True) if _is_number(v) else v for k, v in values.items()}
        acts, p = [], self.example
        watched = copy(self.composition)
        there = {*self.hypers, *self.kinds, *self.numbers}
        fixed = {k for k, v in self.hypers.items() if not self.composition.is_default(k, v)}
        watched.steppers = [_Watch(s, i, acts, named, began, there, fixed, starts) for i, s in enumerate(self.composition.steppers)]
        kinds, numbers = tuple((k, *v) for k, v in self.kinds.items()), tuple(all_named(self.numbers).items())
        alike = Alike((0, kinds, numbers, p.dtype, p.dim() == 0, self.grad_dtype, p.device, ()), 0, p)
        alike.add(0, p, {})
        hypers, before = all_named(self.hypers), Chance()
        try: return Step(record([alike], watched, [hypers], self.looked, self.typed)[0], acts, hypers)
        finally: before.undone()

    def step(self) -> Step:
        "Take the next step. Raises what `look` does."
        res = self.look()
        self.go_on(res.recording.state)
        return res

    def go_on(self,
        state:dict # What a step leaves
    ):
        "Be after a step."
        self.kinds, self.numbers = _kinds(state, self.example)
        self.done += 1


def _kinds(state, example) -> tuple[dict, dict]:
    "Of the tensors among a state their types, and whether they have an element for each, or else their shape; and the rest of it"
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) or type(v) in KINDS}
    each = {k: v.each if type(v) in KINDS else v.shape == example.shape or v.dim() > 0 and tuple(v.shape) for k, v in tensors.items()}
    return {k: (v.dtype, each[k]) for k, v in tensors.items()}, {k: v for k, v in state.items() if k not in tensors}


KINDS = STANDS | {Foreign}


def _is_number(v) -> bool: return isinstance(v, Real) and not isinstance(v, bool)


class _Watch:
    "A stepper that notes what it does"
    def __init__(self, stepper, place, acts, named, began, there, fixed, starts):
        self.stepper, self.place, self.acts, self.named, self.began = stepper, place, acts, named, began
        self.there, self.fixed, self.starts = there, fixed, starts # `starts` are state whose first value is in a signature

    def __getattr__(self, name): return getattr(self.stepper, name)
    def __repr__(self): return repr(self.stepper)

    def __call__(self, p, values):
        values = {**{k: self.named(k, v, True) for k, v in self.stepper.numbers.items() if k in self.starts and k not in values}, **values}
        before, known = _now(p, values), len(p.trace.nodes)
        if self.began: self.began(self.place)
        new = self.stepper(p, values)
        return self._going(p, values, before, known, new) if isinstance(new, GeneratorType) else self._noted(p, values, before, known, new)

    def _going(self, p, values, before, known, new):
        new = yield from new
        return self._noted(p, values, before, known, new)

    def _noted(self, p, values, before, known, new):
        made = new if isinstance(new, dict) else {}
        kept = frozenset() if isinstance(new, once) else frozenset(made) - ONE_STEP
        idle = frozenset(made) & {'p', 'grad'} | kept & self.fixed
        made = {k: v for k, v in made.items() if k not in idle}
        kept -= idle
        state = self.there.union(*(a.kept for a in self.acts))
        shown = {k: f'{k}_hat' if k not in kept and k in state else k for k in made}
        if made: new = type(new)({**new, **{k: self.named(shown[k], v, k in kept) for k, v in made.items() if _is_number(v)}})
        after = _now(p, {**values, **made})
        writes = {k: i for k, i in after.items() if before.get(k) != i}
        if self.began: writes |= _apart(p, {**values, **made}, writes)
        nodes = p.trace.nodes
        asked = [i for i in range(known, len(nodes)) if nodes[i][0] == 'total']
        used = _until(nodes, [*writes.values(), *asked], set(before.values()))
        given = tuple(k for k in (*self.stepper.names, *(sorted(self.stepper.mentions) if self.stepper.reads_all else ())) if k in values)
        reads = frozenset(k for k, i in before.items() if i in used and (k in given or k in ('p', 'grad')))
        numbers = {k: v for k, v in made.items() if _is_number(v)}
        single = frozenset(k for k in writes if type(v := made.get(k, values.get(k))) in STANDS and not v.each)
        kept |= {k for k in writes if k in state and k not in made} # what was written into
        there = frozenset(k for k in {*self.stepper.names, *(self.stepper.mentions if self.stepper.reads_all else ())} if k in values)
        self.acts.append(Act(self.stepper, tuple(dict.fromkeys(given)), reads, writes, numbers, kept, single, idle, shown,
                             isinstance(new, dict), self.place, there, isinstance(new, stop)))
        return new


def _now(p, values) -> dict:
    "What the names of tensors stand for"
    grad = p.trace.grad
    return {'p': p.id, 'grad': None if grad is None else grad.id, **{k: v.id for k, v in values.items() if type(v) in KINDS}}


def _apart(p, values, names) -> dict:
    "Give names that were written operands of their own, so that two that stand for the same now can be told apart. Returns the operands"
    marked = {}
    for k in names:
        v = p if k == 'p' else p.trace.grad if k == 'grad' else values[k]
        if v is None: continue
        if id(v) not in marked:
            marked[id(v)] = v.id = p.trace.emit('named', v.dtype, v.each if isinstance(v.each, bool) else None, v.id, p.trace.slot(0.))
            if hasattr(v, 'exact'): v.exact = None
    return {k: i for k, i in _now(p, values).items() if k in names}


def _until(nodes, operands, stop) -> set:
    "The trace's nodes that `operands` depend on, as far back as those in `stop`"
    todo, found = [o for o in operands if o is not None and o >= 0], set()
    while todo:
        i = todo.pop()
        if i in found: continue
        found.add(i)
        op, dtype, each, *args = nodes[i]
        if i not in stop: todo += inputs(Node(op, dtype, each, tuple(args)))
    return found
