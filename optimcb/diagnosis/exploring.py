"""Explore the branches of each stepper: those that steps take, and others that it is forced to take.

Steppers get hyper-parameters and counters as symbolic numbers, which know their expression; tensors are
tracers already. A stepper that decides by a number is also forced to decide otherwise. As a stepper's names
are its contract, each is explored separately: two steppers with two branches each give four samples, not four
formulas.
"""
from copy import copy

from optimcb.composition.errors import MissingName
from optimcb.diagnosis.expressions import Sym, call, dims, functions, number, symbols
from optimcb.diagnosis.graph import Dataflow
from optimcb.diagnosis.outcomes import Sample
from optimcb.diagnosis.reading import Reader, look, read_samples
from optimcb.diagnosis.shapes import NDIM, OF_SHAPE, of_other_shapes
from optimcb.diagnosis.symbolic import Decisions, Symbolic, plain
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal, Step
from optimcb.tracing.trace import Untraceable

__all__ = ['Explored', 'is_error']


STEPS = 32 # number of rehearsed steps
MOST_LOOKS = 160 # limit of explored branches
TRIES = 3 # attempts to take a branch, each from another step
DEEPEST = 12 # limit of a stepper's explored decisions in one step
MOST_SITUATIONS = 8 # limit of kinds of state to continue from


class Explored:
    """What the steppers did in rehearsed steps, and in branches that they were forced to take.

    `samples` has what each stepper did, by its place; `failed` has the reasons why branches can't be taken,
    by `(place, known names, answers)`; `assumed` has conditions on hyper-parameters that hold for all
    samples; `graph` is the dataflow of all samples."""
    def __init__(self,
        rehearsal:Rehearsal, # A rehearsal that hasn't begun
        params=(), # Parameters that it is for; empty: all that there may be
        n_steps:int=STEPS # How many steps to rehearse
    ):
        self.steppers, self.hypers = rehearsal.composition.steppers, rehearsal.hypers
        self.n_steps, self.n_looks = n_steps, 0
        self.graph, self.samples = Dataflow(), {}
        # Branches that a decision leads to, and rehearsals from which to take each, by situation
        self.branches = {}
        self.failed, self.situations = {}, {}
        self.assumed, self.by_torch, self.old = [], {}, {}
        self.shapes = [] # of parameters that were rehearsed
        begun = copy(rehearsal)
        ways = self._rehearse(rehearsal)
        is_of_shape = not rehearsal.looked.isdisjoint(OF_SHAPE)
        for other in of_other_shapes(begun, params, self._asks_dims) if is_of_shape else ():
            try: self._rehearse(other)
            except (NotRecorded, MissingName) as e: self._leave_out(other, e)
        self._take_branches()
        self._move_numbers(ways[-1], ways[0])

    def _rehearse(self, rehearsal) -> list:
        "Rehearse steps of one parameter. Returns a rehearsal and what was seen from there, for each"
        ways = []
        for i in range(1, self.n_steps + 1):
            before = copy(rehearsal)
            self.situations.setdefault(_situation(before), before)
            samples, step = self._look(before, number=i)
            ways.append((before, samples))
            rehearsal.go_on(_state_after(step))
        self.shapes.append(_shape(rehearsal))
        return ways

    def _asks_dims(self) -> bool:
        "Does a stepper decide by the number of dimensions?"
        decisions = (d for samples in self.samples.values() for s in samples for d in s.decisions)
        return any(NDIM.name in dims(d.condition) for d in decisions)

    def _leave_out(self, rehearsal, failure):
        "Leave out a parameter that can't be rehearsed"
        shape = _shape(rehearsal)
        for place, samples in self.samples.items():
            self.samples[place] = [s for s in samples if s.shape != shape]
        if not is_error(failure): self.assumed.append(call('ne', NDIM, number(len(shape))))

    def is_fixed(self,
        condition, # A condition
        place:int # Place of the stepper that decides
    ) -> bool:
        "Does the condition depend on hyper-parameters only, so that it is the same in all steps?"
        return symbols(condition) <= self.hypers.keys() - self.graph.written_before(place)

    def is_settled(self,
        condition, # A condition
        place:int # Of the stepper that asks
    ) -> bool:
        "Tell whether it is about hyper-parameters alone, and not about the parameter's shape."
        return self.is_fixed(condition, place) and not dims(condition)

    def _look(self, rehearsal, forced=None, number=None) -> tuple[dict[int, Sample], Step]:
        "Look at a step, and note the branches that it doesn't take"
        decisions = Decisions(forced)
        step = look(rehearsal, None, decisions)
        reader = Reader(step)
        samples = read_samples(step, reader, decisions, number, _shape(rehearsal))
        self.by_torch |= reader.by_torch
        self.old |= reader.old
        self.graph.add(step.effects)
        for place, sample in samples.items():
            self.samples.setdefault(place, []).append(sample)
            self._note_branches(place, sample, rehearsal)
        if forced: self._look_after(rehearsal, step)
        return samples, step

    def _note_branches(self, place, sample, rehearsal):
        "Note where a stepper could have decided otherwise"
        for i, d in enumerate(sample.decisions[:DEEPEST]):
            if self._is_of_others(d.condition, sample): continue
            branch = place, sample.there, (*sample.answers[:i], not d.answer), sample.shape
            self.branches.setdefault(branch, {})[_situation(rehearsal)] = rehearsal

    def _is_of_others(self, condition, sample) -> bool:
        "Do only parameters of other shapes decide otherwise? Then it can't be forced for this shape"
        sizes = dims(condition)
        by_torch = sizes and any(self.by_torch.keys() & functions(o.e) for o in sample.outcome.names.values())
        return NDIM.name in sizes or bool(by_torch)

    def _look_after(self, rehearsal, step):
        "Look at the step after a forced branch, which may leave state that no other step does"
        after = copy(rehearsal)
        after.go_on(_state_after(step))
        situation = _situation(after)
        if situation in self.situations or len(self.situations) >= MOST_SITUATIONS: return
        self.situations[situation] = after
        try: self._look(after)
        except (NotRecorded, MissingName): pass # no real step gets here

    def _take_branches(self):
        "Take the branches that no step took"
        while self.n_looks < MOST_LOOKS*len(self.shapes):
            branch = next((o for o in self.branches if o not in self.failed and not self._is_seen(*o)), None)
            if branch is None: return
            place, _, answers, _ = branch
            for rehearsal in list(self.branches[branch].values())[-TRIES:]:
                self.n_looks += 1
                try: self._look(rehearsal, forced={place: answers})
                except (NotRecorded, MissingName) as e: self.failed[branch] = e
                if self._is_seen(*branch): break
            else: self.failed.setdefault(branch, None)

    def _is_seen(self, place, there, answers, shape) -> bool:
        samples = (s for s in self.samples[place] if s.there == there and s.shape == shape)
        return any(s.answers[:len(answers)] == answers for s in samples)

    # Numbers that lose their names

    def _move_numbers(self, last, first):
        "Change numbers while keeping all decisions: whatever changes now was computed without being recorded"
        rehearsal, samples = last
        self._add_moved(rehearsal, samples, {k for k, v in rehearsal.numbers.items() if _is_number(v)})
        makes = rehearsal.composition.makes
        fixed = {k for k, v in self.hypers.items() if _is_number(v) and k not in makes}
        for way in (last, first):
            if not self._moved(*way, fixed): continue
            leaks = [k for k in self.hypers if k in fixed and self._moved(*way, {k})]
            self.assumed += [call('eq', Sym(k), number(self.hypers[k])) for k in leaks]

    def _moved(self, rehearsal, samples, names) -> dict[int, Sample]:
        "Return the samples, by place, that change with the values of these names"
        if not names: return {}
        decisions = Decisions({place: s.answers for place, s in samples.items()})
        try:
            step = look(rehearsal, None, decisions, names)
            moved = read_samples(step, Reader(step), decisions, shape=_shape(rehearsal))
        except (NotRecorded, MissingName): return {}
        return {k: moved[k] for k in samples if k in moved and moved[k].outcome != samples[k].outcome}

    def _add_moved(self, rehearsal, samples, names):
        for place, moved in self._moved(rehearsal, samples, names).items():
            self.samples[place].append(moved._replace(decisions=samples[place].decisions))


def is_error(
    failure:Exception|None # Why a branch couldn't be taken
) -> bool:
    "Does a branch raise an error, so that no step takes it? Branches that can't be traced don't count."
    if isinstance(failure, MissingName): return True
    return isinstance(failure, NotRecorded) and not isinstance(failure.__context__, Untraceable | None)


def _state_after(step) -> dict:
    "Return the state after a step, with plain numbers instead of symbolic ones"
    return {k: plain(v) if isinstance(v, Symbolic) else v for k, v in step.recording.state.items()}


def _shape(rehearsal) -> tuple: return tuple(rehearsal.example.shape)
def _situation(rehearsal):
    words = {k: v for k, v in rehearsal.numbers.items() if isinstance(v, (bool, str))}
    return frozenset(rehearsal.kinds.items()), frozenset(rehearsal.numbers), frozenset(words.items()), \
        _shape(rehearsal)
def _is_number(v) -> bool: return isinstance(v, (int, float)) and not isinstance(v, bool)
