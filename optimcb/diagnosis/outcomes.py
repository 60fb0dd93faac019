"Types: what a stepper does, as lines and blocks of lines under conditions, and what all steppers do."
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from optimcb.composition.stepper import Stepper
from optimcb.diagnosis.expressions import Add, Call, Mul, Sym
from optimcb.diagnosis.rewriting import substituted

__all__ = ['NOWHERE', 'UNSEEN', 'Behaviour', 'Block', 'Line', 'Outcome', 'Sample', 'Tree', 'flat_lines',
           'n_cases', 'steps_in_words']


class Line(NamedTuple):
    "An assignment `name = e` by a stepper."
    name: str
    e: object # An expression
    stepper: Stepper|None = None # None: the line saves the value of a name for later lines
    kept: bool = False # Is it state, the parameter or its gradient? Other values end with the step


class Block(NamedTuple):
    "Lines under a condition, and other lines if it doesn't hold."
    condition: object # An expression
    yes: tuple # Lines and blocks
    no: tuple = ()
    when: tuple = ('', '') # In words, the rehearsed steps in which it holds, and those in which it doesn't


def flat_lines(
    items # Lines and blocks
) -> Iterator[Line]:
    "Iterate over all lines in items, without their conditions."
    for o in items:
        if isinstance(o, Line): yield o
        else: yield from (*flat_lines(o.yes), *flat_lines(o.no))


class Outcome(NamedTuple):
    "What a stepper does: `items`, in order, then `numbers`, all computed from the values before."
    items: tuple
    numbers: tuple # Lines
    ends: object # The condition under which later steppers are not called
    assumes: tuple = () # Conditions on hyper-parameters only that held when it was observed

    def changed(self,
        new:dict # New expressions by old ones
    ) -> 'Outcome':
        "Substitute expressions; names only until they are written."
        new = dict(new)
        items = _changed(self.items, new)
        numbers = tuple(o._replace(e=substituted(o.e, new)) for o in self.numbers)
        return Outcome(items, numbers, substituted(self.ends, new), self.assumes)

    @property
    def names(self) -> dict[str, Line]:
        "The lines by the names that they write."
        return {o.name: o for o in (*flat_lines(self.items), *self.numbers)}


def _changed(items, new) -> tuple:
    "Substitute expressions in items. Names that are written are removed from `new`"
    res = []
    for o in items:
        if isinstance(o, Line): res.append(o._replace(e=substituted(o.e, new)))
        else:
            condition = substituted(o.condition, new)
            res.append(o._replace(condition=condition, yes=_changed(o.yes, new), no=_changed(o.no, new)))
        written = {k.name for k in flat_lines([o])}
        for e in [e for e in new if isinstance(e, Sym) and e.name in written]: del new[e]
    return tuple(res)


def n_cases(
    outcome:Outcome # What a stepper does
) -> int:
    "Count the choices in a written outcome."
    def in_items(items):
        blocks = [o for o in items if isinstance(o, Block)]
        return sum(1 + in_items(o.yes) + in_items(o.no) for o in blocks)
    lines = *flat_lines(outcome.items), *outcome.numbers
    return in_items(outcome.items) + sum(_cases_in(o.e) for o in lines)


def _cases_in(e) -> int:
    if isinstance(e, Call): return (e.name == 'case') + sum(map(_cases_in, e.args))
    if isinstance(e, Add): return sum(_cases_in(x) for _, x in e.terms)
    return sum(_cases_in(b) + _cases_in(x) for b, x in e.factors) if isinstance(e, Mul) else 0


class Tree(NamedTuple):
    "A condition, and what a stepper does if it holds or not: outcomes, trees, `NOWHERE` or `UNSEEN`."
    condition: object # An expression
    yes: object
    no: object


NOWHERE = None # no step takes this branch: it raises an error
UNSEEN = () # an unexplored branch that needs other hyper-parameters


class Sample(NamedTuple):
    "What a stepper did in one step."
    there: frozenset # Arguments that had a value
    decisions: tuple # Its decisions, in order
    outcome: Outcome
    hats: frozenset # Names that were another value for this step before
    step: int|None # Number of the step, if it is one of a rehearsal and not of an experiment
    shape: tuple = () # Of the parameter
    words: tuple = () # Names that it was given and that stood for true, false or a word, with these

    @property
    def answers(self) -> tuple:
        "The answers of its decisions."
        return tuple(d.answer for d in self.decisions)


@dataclass
class Behaviour:
    "What the steppers of a composition do, by their places."
    outcomes: dict[int, Outcome] # By place
    old: dict[str, bool] # Names whose value before the step is needed, and whether each is one number
    by_torch: dict[str, str] # Modules of functions, by their names
    starts: dict = field(default_factory=dict) # State before the first step; None if a branch tests for it
    assumed: list = field(default_factory=list) # Conditions on hyper-parameters under which it is valid
    why_unknown: dict[int, str] = field(default_factory=dict) # By place, why a stepper has an `f(…)`
    steppers: list[Stepper] = field(default_factory=list)
    samples: dict[int, list[Sample]] = field(default_factory=dict) # The samples behind the outcomes
    n_steps: int = 1 # Number of rehearsed steps

    def words(self,
        steps:list[int] # Numbers of steps
    ) -> str:
        "Describe steps among the rehearsed ones."
        return steps_in_words(steps, self.n_steps)


def steps_in_words(
    steps:list[int], # Numbers of steps, in order
    last:int # Number of rehearsed steps
) -> str:
    "Describe steps; empty for all steps, or if they follow no simple rule."
    if not steps: return f'in none of the first {last} steps'
    first, every = steps[0], steps[1] - steps[0] if len(steps) > 1 else 1
    if steps == list(range(1, last + 1)): return ''
    if len(steps) == 1 and first < last: return f'in step {first}'
    if steps == list(range(first, last + 1)): return f'from step {first} on'
    if steps == list(range(first, steps[-1] + 1)): return f'in steps {first} to {steps[-1]}'
    if len(steps) < 3 or steps != list(range(first, last + 1, every)): return ''
    if first == every: return f'in every {ordinal(every)} step'
    return f'in step {first} and every {ordinal(every)} after it'


def ordinal(
    n:int # A number
) -> str:
    "Write `2nd`, `3rd`, `4th`, …"
    suffix = 'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')
    return f'{n}{suffix}'
