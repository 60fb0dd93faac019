"""Rehearse a composition: run its steppers on tracers to see what each reads and writes.

Nothing is computed and nothing changes. Between steps, the state is kept as kinds of tensors and as numbers,
so counters count, and steppers take the same branches as in real steps.
"""
from collections.abc import Callable
from copy import copy
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP, once, stop
from optimcb.composition.stepper import Stepper
from optimcb.tracing.bucket import Bucket, Noted, constant
from optimcb.tracing.ir import PER_ELEMENT, StateKind, extent_of
from optimcb.tracing.program import Program
from optimcb.tracing.purity import asks_type, impurities
from optimcb.tracing.recording import SYMBOLIC, NotRecorded, Recording, record
from optimcb.tracing.rng import RngSnapshot
from optimcb.tracing.tracer import TRACERS

__all__ = ['Effect', 'Rehearsal', 'Step']


class Effect(NamedTuple):
    "What a stepper did in a step. The parameter and its gradient are called `p` and `grad`."
    stepper: Stepper
    given: tuple # Names of state, hyper-parameters and one-step values that it received
    reads: frozenset # Names of tensors that its outputs depend on
    writes: dict # By name, the operand of each tensor that it wrote
    numbers: dict # By name, the numbers that it returned; in a formula, booleans and strings, too
    kept: frozenset # Names among both that are state
    single: frozenset # Names of tensors in them with one number per parameter
    idle: frozenset # Names that it returned without effect: the parameter, its gradient, hyper-parameters
    shown: dict # By name, the name to show: a one-step value that hides another has a hat
    returns: bool # Did it return a dict, even an empty one?
    place: int = 0 # Place of the stepper in the composition
    there: frozenset = frozenset() # Arguments that had a value
    ends: bool = False # Did it end the step?
    words: dict = {} # By name, arguments that are booleans or strings, and may be state
    computes: bool = False # Did it compute with tensors, with or without an effect?


class Step(NamedTuple):
    "A rehearsed step."
    recording: Recording
    effects: list[Effect]
    hypers: dict # Hyper-parameters that the steppers received

    @property
    def program(self) -> Program:
        "The program that an engine would run."
        return Program(*self.recording.key)


class Rehearsal:
    "Steps of a composition on a tracer for one parameter."
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
        self.typed = any(map(asks_type, composition.steppers))
        self.refusals = list(impurities(composition))
        odd = {k: type(v).__name__ for k, v in self.numbers.items() if not constant(v)}
        self.refusals += [f"`{k}` among the state is {name}." for k, name in odd.items()]
        self.done, self.looked = 0, set() # number of steps; attributes of the parameter that steppers read

    def look(self,
        named:Callable|None=None, # Replaces a number, given its name, the number, and whether it is kept
        began:Callable|None=None, # Takes each stepper's place as it begins; each name is its own operand then
        shown:dict|None=None # Values of attributes that steppers see instead of the parameter's
    ) -> Step:
        "Rehearse the next step without taking it. Raises `MissingName` or `NotRecorded`."
        for reason in self.refusals: raise NotRecorded([], reason)
        observer = _Observer(self, named or (lambda name, v, kept: v), began, shown or {})
        bucket, hypers, before = self._bucket(observer), observer.all_named(self.hypers), RngSnapshot()
        try:
            res = record([bucket], self.composition, [hypers], self.looked, self.typed, observer=observer)
        finally: before.restore_if_moved()
        return Step(res[0], observer.effects, hypers)

    def _bucket(self, observer) -> Bucket:
        "Return a bucket of the example alone"
        p = self.example
        numbers = tuple(observer.all_named(self.numbers).items())
        key = 0, tuple(self.kinds.values()), numbers, p.dtype, p.dim() == 0, self.grad_dtype, p.device, ()
        res = Bucket(key, 0, p)
        res.choose([0], Noted([p], [{}], {}))
        return res

    def like(self,
        example:Tensor # Another parameter
    ) -> 'Rehearsal':
        "Make a rehearsal of a parameter of another shape, which hasn't begun if this one hasn't."
        res = copy(self)
        res.example = example
        return res

    def step(self) -> Step:
        "Rehearse the next step and take it. Raises the errors of `look`."
        res = self.look()
        self.go_on(res.recording.state)
        return res

    def go_on(self,
        state:dict # State after a step
    ):
        "Continue from the state after a step."
        self.kinds, self.numbers = _kinds(state, self.example)
        self.done += 1


def _kinds(state, example) -> tuple[dict, dict]:
    "Split a state into the kinds of its tensors, by name, and the rest"
    def extent(v): return v.extent if type(v) in SYMBOLIC else extent_of(v, example)
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) or type(v) in SYMBOLIC}
    kinds = {k: StateKind(k, v.dtype, extent(v)) for k, v in tensors.items()}
    return kinds, {k: v for k, v in state.items() if k not in tensors}


def _is_number(v) -> bool: return isinstance(v, Real) and not isinstance(v, bool)


class _Observer:
    """Observer of `Composition.run` that records what each stepper does, as `effects`.

    `named` replaces the numbers that steppers take and return.
    """
    def __init__(self, rehearsal, named, began, shown):
        composition, hypers = rehearsal.composition, rehearsal.hypers
        self.named, self.began, self.shown, self.effects = named, began, shown, []
        self.places = {id(s): i for i, s in enumerate(composition.steppers)}
        self.there = {*hypers, *rehearsal.kinds, *rehearsal.numbers}
        self.fixed = {k for k, v in hypers.items() if not composition.is_default(k, v)}
        in_signatures = {k for s in composition.steppers for k in s.numbers}
        in_signatures |= {k for s in composition.steppers for k in s.words}
        # state whose first value is in a signature
        self.starts = in_signatures & composition.makes - hypers.keys() if began else ()
        self.may_be_state = composition.makes - hypers.keys()

    def all_named(self, values) -> dict:
        return {k: self.named(k, v, True) if _is_number(v) else v for k, v in values.items()}

    def enter(self, stepper, p, values) -> dict:
        "Return the values for a stepper."
        p.trace.enter(stepper, p, values)
        p.trace.shown = self.shown
        starts = {k: v for k, v in stepper.numbers.items() if k in self.starts and k not in values}
        words = {k: v for k, v in stepper.words.items() if k in self.starts and k not in values}
        given = {**{k: self.named(k, v, True) for k, v in starts.items()}, **words, **values}
        self.words = {k: v for k, v in given.items() if k in self.may_be_state and isinstance(v, (bool, str))}
        self.before, self.known = _operands(p, given), len(p.trace.index)
        if self.began: self.began(self.places[id(stepper)])
        return given

    def leave(self, stepper, p, values, new):
        "Record what a stepper did that returned `new`. Returns the replacement of `new`."
        made = new if isinstance(new, dict) else {}
        kept = frozenset() if isinstance(new, once) else frozenset(made) - ONE_STEP
        idle = frozenset(made) & {'p', 'grad'} | kept & self.fixed
        made = {k: v for k, v in made.items() if k not in idle}
        kept -= idle
        state = self.there.union(*(a.kept for a in self.effects))
        shown = {k: f'{k}_hat' if k not in kept and k in state else k for k in made}
        if made: new = type(new)({**new, **self._renamed(made, shown, kept)})
        given, values = self._names_given(stepper, values), {**values, **made}
        writes, reads = self._written(p, values)
        kept |= {k for k in writes if k in state and k not in made} # also state that was written in place
        self.effects.append(Effect(
            stepper, given, reads & {*given, 'p', 'grad'}, writes,
            numbers={k: v for k, v in made.items() if _is_number(v) or self._is_word(v)}, kept=kept,
            single=frozenset(k for k in writes if _is_single(values.get(k))), idle=idle, shown=shown,
            returns=isinstance(new, dict), place=self.places[id(stepper)], there=frozenset(given),
            ends=isinstance(new, stop), words={k: v for k, v in self.words.items() if k in given},
            computes=len(p.trace.index) > self.known))
        return new

    def _is_word(self, v) -> bool: return self.began is not None and isinstance(v, (bool, str))

    def _renamed(self, made, shown, kept) -> dict:
        return {k: self.named(shown[k], v, k in kept) for k, v in made.items() if _is_number(v)}

    def _written(self, p, values) -> tuple[dict, frozenset]:
        "Return the operands written since the stepper was entered, and the names that they depend on"
        after, before = _operands(p, values), self.before
        writes = {k: i for k, i in after.items() if before.get(k) != i}
        if self.began: writes |= _apart(p, values, writes)
        nodes = p.trace.nodes
        asked = [i for i in range(self.known, len(nodes)) if nodes[i].op == 'total']
        used = _until(nodes, [*writes.values(), *asked], set(before.values()))
        return writes, frozenset(k for k, i in before.items() if i in used)

    def _names_given(self, stepper, values) -> tuple:
        also = sorted(stepper.mentions) if stepper.reads_all else ()
        return tuple(dict.fromkeys(k for k in (*stepper.names, *also) if k in values))


def _is_single(v) -> bool: return type(v) in TRACERS and v.extent is not PER_ELEMENT


def _operands(p, values) -> dict:
    "Map names of tensors to their operands"
    grad = p.trace.grad
    tensors = {k: v.id for k, v in values.items() if type(v) in SYMBOLIC}
    return {'p': p.id, 'grad': None if grad is None else grad.id, **tensors}


def _apart(p, values, names) -> dict:
    "Give each written name its own operand, so that equal values can be distinguished"
    trace, marked = p.trace, {}
    for k in names:
        v = p if k == 'p' else trace.grad if k == 'grad' else values[k]
        if v is None or id(v) in marked: continue
        marked[id(v)] = v.id = trace.emit('named', v.dtype, v.extent.without_shape, v.id, trace.slot(0.))
        if hasattr(v, 'exact'): v.exact = None
    return {k: i for k, i in _operands(p, values).items() if k in names}


def _until(nodes, operands, stop) -> set:
    "Return the indices of nodes that `operands` depend on, back to those in `stop`"
    todo, found = [o for o in operands if o is not None and o >= 0], set()
    while todo:
        i = todo.pop()
        if i in found: continue
        found.add(i)
        if i not in stop: todo += nodes[i].inputs
    return found
