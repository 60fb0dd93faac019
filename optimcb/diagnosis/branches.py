"""What each stepper of a composition does, in each of the ways that it can do it: read off rehearsals.

Hyper-parameters and counters are handed to the steppers as numbers that know what they were worked out from, tensors
are tracers already. A stepper that decides by a number is told to decide otherwise, too. A stepper's names are its
contract, so each is read for itself: two that branch in two ways are four samples to look at, not four formulas.
"""
import ast
from contextlib import nullcontext
from copy import copy
from functools import cache
from itertools import product
from typing import NamedTuple

import torch

from optimcb.composition.errors import MissingName
from optimcb.composition.stepper import Stepper
from optimcb.diagnosis.algebra import (
    ONE,
    ZERO,
    Add,
    Call,
    Mul,
    Num,
    Sym,
    add,
    apart,
    both,
    call,
    choice,
    common,
    condition,
    div,
    either,
    mul,
    neg,
    negated,
    number,
    power,
    sub,
    substituted,
    symbols,
    unknown,
)
from optimcb.diagnosis.symbolic import WHOLE, Decisions, Symbolic, expression_of, math_written, plain, symbolic
from optimcb.tracing.ir import LEAVES, PER_PARAMETER
from optimcb.tracing.opaque import PLACEHOLDER
from optimcb.tracing.ops import OPS as TABLE
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal, Step
from optimcb.tracing.trace import Untraceable

__all__ = ['Block', 'Explored', 'Line', 'Outcome', 'look', 'of_step']


# Operations on tensors

def _where(c, a, b):
    "An extreme that is NaN where an element is NaN is the extreme, as torch has it"
    if isinstance(c, Num): return a if c.value else b
    if getattr(c, 'name', '') == 'amax' and getattr(b, 'name', '') in ('amax', 'amin'): return b
    if getattr(c, 'args', None) == (a, b) and c.name in SMALLER: return call(SMALLER[c.name], a, b)
    return call('where', c, a, b)


SMALLER = dict(lt='minimum', le='minimum', gt='maximum', ge='maximum') # `where(a < b, a, b)`


def _cast(x, old, new):
    "`x` in another type: rounding to fewer bits is not written down"
    if old is torch.bool and new is not torch.bool: return call('float', x)
    return call('trunc', x) if old.is_floating_point and not new.is_floating_point and new is not torch.bool else x


def _extreme(name): return lambda x: x if x.scalar else call(name, x) # of one number for all elements, it is that


def _sum(x): return mul(call('numel'), x) if x.scalar else call('sum', x)


def _softplus(x, beta, threshold):
    "torch's default threshold is not written down"
    return call('softplus', x, beta, *([] if threshold == number(20) else [threshold]))


SPECIAL = dict(sum=_sum, amax=_extreme('amax'), amin=_extreme('amin'), where=_where, softplus=_softplus)
ARITHMETIC = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: power}


def _applied(name, args):
    "The expression of an operation, by its row in the table"
    if name in SPECIAL: return SPECIAL[name](*args)
    if name not in TABLE or TABLE[name].formula is None: return call(name, *args)
    return _evaluated(_parsed(name), args)


@cache
def _parsed(name) -> ast.expr:
    "The syntax tree of a row's formula, whose operands are names `x0`, `x1`, …"
    op = TABLE[name]
    return ast.parse(op.formula.format(*(f'x{i}' for i in range(op.arity))), mode='eval').body


def _evaluated(o, args):
    "The expression that a syntax tree stands for"
    if isinstance(o, ast.Constant): return number(o.value)
    if isinstance(o, ast.Name): return args[int(o.id[1:])]
    if isinstance(o, ast.UnaryOp): return neg(_evaluated(o.operand, args))
    if isinstance(o, ast.Call): return call(o.func.id, *(_evaluated(a, args) for a in o.args))
    return ARITHMETIC[type(o.op)](_evaluated(o.left, args), _evaluated(o.right, args))


class Line(NamedTuple):
    "`name = e`, as a stepper does it."
    name: str
    e: object # An expression
    stepper: Stepper|None = None # None: it keeps for the lines after it what the name stands for
    kept: bool = False # Is it state, the parameter or its gradient? Other names end with the step


class Block(NamedTuple):
    "Lines under a condition, and others if it doesn't hold."
    condition: object # An expression
    yes: tuple # Of lines and blocks
    no: tuple = ()
    when: tuple = ('', '') # In which of the steps that were rehearsed it holds, and in which it doesn't, in words


class Outcome(NamedTuple):
    "What a stepper does: first `items`, one after the other, then `numbers`, all worked out from what there was before."
    items: tuple
    numbers: tuple # Of lines
    ends: object # The condition under which the steppers that follow are not called
    assumes: tuple = () # Conditions, on hyper-parameters alone, without which it was not looked at

    def changed(self, new) -> 'Outcome':
        "With other expressions in the place of some: of names, until they are written."
        new = dict(new)
        def lines(items):
            res = []
            for o in items:
                if isinstance(o, Line): res.append(o._replace(e=substituted(o.e, new)))
                else: res.append(o._replace(condition=substituted(o.condition, new), yes=lines(o.yes), no=lines(o.no)))
                written = {k.name for k in _flat([o])}
                for e in [e for e in new if isinstance(e, Sym) and e.name in written]: del new[e]
            return tuple(res)
        items, ends = lines(self.items), substituted(self.ends, new)
        return Outcome(items, tuple(o._replace(e=substituted(o.e, new)) for o in self.numbers), ends, self.assumes)

    @property
    def names(self) -> dict:
        "The names that are written."
        return {o.name: o for o in (*_flat(self.items), *self.numbers)}


def _flat(items):
    "The lines in items"
    for o in items:
        if isinstance(o, Line): yield o
        else: yield from (*_flat(o.yes), *_flat(o.no))


class Tree(NamedTuple):
    "What a stepper does under a condition, and what it does otherwise: outcomes, trees, `NOWHERE` or `UNSEEN`."
    condition: object # An expression
    yes: object
    no: object


NOWHERE = None # no step takes this branch: it raises an error
UNSEEN = () # nobody has looked at this branch, which only other hyper-parameters lead to


class Sample(NamedTuple):
    "What a stepper did in one step."
    there: frozenset # Names that it takes and that stood for something
    decisions: tuple # What it decided, one after the other
    outcome: Outcome
    hats: frozenset # Names that were another value for this step before
    step: int|None # Number of the step, if it is one of a rehearsal and not of an experiment

    @property
    def answers(self) -> tuple:
        "Its decisions."
        return tuple(d.answer for d in self.decisions)


# A step, read

class _Reader:
    "Writes down what a step did, one stepper after the other"
    def __init__(self, step):
        trace, self.hypers = step.recording.trace, step.hypers
        self.trace = trace
        self.nodes = trace.nodes
        self.now = {_name(n.args[0]): i for i, n in enumerate(self.nodes) if n.op == 'load'} # what names stand for
        self.old, self.by_torch = {}, {} # names that stood for something else before the step, functions that torch runs
        self.before, self.newest, self.kept_before = {}, {}, {} # what names stood for before a stepper, what it writes, what it needs of before

    def read(self, act) -> Outcome:
        "What a stepper did."
        todo, lines = {act.shown.get(k, k): v for k, v in act.writes.items() if v is not None}, []
        kept = {act.shown.get(k, k) for k in act.kept} | {'p', 'grad'}
        self.before, self.newest, self.kept_before = dict(self.now), {}, {}
        while todo: # first what overwrites nothing that the others are worked out from
            name = next((k for k in todo if not any(k in self.uses(v) for o, v in todo.items() if o != k)), next(iter(todo)))
            lines.append(Line(name, self.expression(todo[name]), act.stepper, name in kept))
            self.now.pop(name, None)
            self.now[name] = id = todo.pop(name)
            self.newest[name] = self.nodes[id].args[0] if id >= 0 and self.nodes[id].op == 'named' else id
        numbers = [Line(act.shown[k], expression_of(v), act.stepper, k in act.kept) for k, v in act.numbers.items()]
        before = [Line(f'{k}_old', Sym(k, scalar)) for k, scalar in self.kept_before.items()]
        self.newest = {}
        return Outcome((*before, *lines), tuple(numbers), Num(act.ends))

    def uses(self, operand):
        "Names of tensors that an operand would be written with"
        if operand is None or operand < 0: return set()
        known = self.known(operand)
        if known: return {known}
        n = self.nodes[operand]
        return set().union(*(self.uses(a) for a in n.operands)) if n.op not in LEAVES else set()

    def known(self, id):
        "The last name that was given to an operand: an earlier one may stand for something else in another branch"
        return next((k for names in (self.now, self.newest) for k, i in reversed(names.items()) if i == id), None)

    def expression(self, operand):
        if operand < 0: return expression_of(self.trace.slots[~operand])
        n, name = self.nodes[operand], self.known(operand)
        if name: return Sym(name, n.extent is PER_PARAMETER)
        before = next((k for k, i in reversed(self.before.items()) if i == operand), None)
        if before:
            self.kept_before[before] = n.extent is PER_PARAMETER
            return Sym(f'{before}_old', n.extent is PER_PARAMETER)
        if n.op == 'load': return self.overwritten(_name(n.args[0]), n.extent is PER_PARAMETER)
        if n.op == 'external':
            x = self.trace.externals[n.args[0]]
            name = next((k for k, v in self.hypers.items() if v is x), None)
            return Sym(name) if name else expression_of(x.item())
        if n.op == 'named': return self.expression(n.args[0])
        if n.op == 'numel': return call('numel')
        if n.op == 'result': return self.result(*n.args)
        args = [self.expression(a) for a in n.operands]
        if n.op == 'cast': return _cast(args[0], self.nodes[n.args[0]].result_dtype if n.args[0] >= 0 else n.dtype, n.dtype)
        if n.op in TURNED: return condition(n.op, *args)
        return _applied(n.op, args)

    def result(self, k, which):
        "What a function by torch returns: `f(…)`, or one of several"
        *given, called = self.nodes[k].args
        self.by_torch[called.name] = getattr(called.f, '__module__', None) or type(called.f).__module__
        args, kwargs = called.filled(map(self.expression, given))
        fixed = *called.args, *dict(called.kwargs).values()
        e = call(called.name, *(a if o is PLACEHOLDER else Sym(repr(a)) for o, a in zip(fixed, (*args, *kwargs.values()))))
        several = any(n.op == 'result' and n.args[0] == k and n.args[1] for n in self.nodes)
        return call('item', e, number(which)) if several else e

    def overwritten(self, name, scalar):
        self.old[name] = scalar
        return Sym(f'{name}_old', scalar)


def _name(column): return column.lstrip('.') if column in ('.p', '.grad') else column


def _read(step, reader, decisions=None, number=None) -> dict:
    "What each stepper did in a step, by its place"
    res, hats = {}, frozenset()
    for act in step.acts:
        made = decisions.made.get(act.place, ()) if decisions else ()
        res[act.place] = Sample(act.there, tuple(made), reader.read(act), hats, number)
        hats |= {new for k, new in act.shown.items() if new != k}
    return res


# A look at a step

def _short_named(hypers):
    "Numbers that were worked out from others go on under names of their own; those that are the same in all steps have none"
    def named(name, value, kept):
        if isinstance(getattr(value, 'e', None), Sym) or not kept and not isinstance(value, Symbolic): return value
        return _named(name, value, hypers)
    return named


def _all_named(hypers, moved):
    "All numbers go on under their names, those in `moved` with other values"
    def named(name, value, kept):
        x = _named(name, value, hypers)
        if name not in moved: return x
        return symbolic(plain(x) + 1 if isinstance(plain(x), int) else plain(x)*1.0009765625 + 0.0009765625, x.e)
    return named


def _named(name, value, hypers):
    "A number that stands for a name. Hyper-parameters know their value: it tells the sign of a difference"
    return symbolic(plain(value), Sym(name, True, plain(value) if name in hypers else None))


def look(
    rehearsal:Rehearsal, # A rehearsal
    key:tuple|None=None, # Of the step's recording, if it is known
    decisions:Decisions|None=None, # Takes down what steppers decide, and tells them
    moved=frozenset() # Names of numbers to take other values of: what changes with them knows nothing of its names
) -> Step:
    "Its next step, which is not taken, with numbers that know where they come from. Raises `NotRecorded`."
    named = _all_named(rehearsal.hypers, moved) if decisions else _short_named(rehearsal.hypers)
    if key is None and not decisions: key = rehearsal.look().recording.key
    res = failure = None
    with math_written():
        for Symbolic.whole in WHOLE:
            with decisions.listen() if decisions else nullcontext():
                try: res = rehearsal.look(named, decisions and decisions.began)
                except NotRecorded as e:
                    failure = failure or e
                    continue
            if key is None or res.recording.key == key: return res
    if res is None: raise failure
    return res


# All steps

STEPS = 32 # to rehearse
LOOKS = 160 # at branches, at most
TRIES = 3 # to take a branch, each from another step
DEEP = 12 # decisions of a stepper in one step that are looked into
LEAVES_SEEN = 64 # branches of a stepper that are put together
CASES_SHOWN = 12 # choices among them that are shown
LEAKS = 'it takes numbers out of their names, by `float`, `int`, an index or a loop, say'
SITUATIONS = 8 # kinds of state from which to go on


class Explored:
    """What the steppers do in all steps: `outcomes`, by their places.

    `starts` is what state is before the first step, `None` where a branch asks whether it is there. `assumed` are conditions on
    hyper-parameters that the outcomes hold for, `unsaid` is why a stepper has an `f(…)`, `by_torch` are the modules of functions by their
    names, `old` the names that lines need as they were before the step.
    """
    def __init__(self,
        rehearsal:Rehearsal, # A rehearsal that hasn't begun
        steps:int=STEPS # How many steps to rehearse
    ):
        self.steppers, self.hypers = rehearsal.composition.steppers, rehearsal.hypers
        self.samples, self.flips, self.failed = {}, {}, {}
        self.starts, self.assumed, self.unsaid, self.by_torch, self.old = {}, [], {}, {}, {}
        self.steps, self.looks, self.situations, ways = steps, 0, {}, []
        for i in range(1, steps + 1):
            before = copy(rehearsal)
            self.situations.setdefault(_situation(before), before)
            found, step = self.look(before, number=i)
            ways.append((before, found))
            rehearsal.go_on(_state_after(step))
        self.explore()
        self.move(ways[-1], ways[0])
        self.put_together()

    # Looking

    def look(self, rehearsal, told=None, number=None) -> tuple[dict, Step]:
        "Look at a step, and note which branches it doesn't take."
        decisions = Decisions(told)
        step = look(rehearsal, None, decisions)
        reader = _Reader(step)
        found = _read(step, reader, decisions, number)
        self.by_torch |= reader.by_torch
        self.old |= reader.old
        for place, sample in found.items():
            self.samples.setdefault(place, []).append(sample)
            for i, answer in enumerate(sample.answers[:DEEP]):
                asked = sample.decisions[i].condition
                if self.by_torch and asked.name not in ('eq', 'ne') and self.is_fixed(asked, place): continue # a matter of shapes, say
                other = place, sample.there, (*sample.answers[:i], not answer)
                self.flips.setdefault(other, {})[_situation(rehearsal)] = rehearsal
        if told: self.go_on(rehearsal, step)
        return found, step

    def go_on(self, rehearsal, step):
        "A branch may leave state that no other one does: look at what follows"
        after = copy(rehearsal)
        after.go_on(_state_after(step))
        situation = _situation(after)
        if situation in self.situations or len(self.situations) >= SITUATIONS: return
        self.situations[situation] = after
        try: self.look(after)
        except (NotRecorded, MissingName): pass # no step comes here

    def explore(self):
        "Take the branches that no step took"
        while self.looks < LOOKS:
            todo = next((o for o in self.flips if o not in self.failed and not self.seen(*o)), None)
            if todo is None: return
            place, _, answers = todo
            for rehearsal in list(self.flips[todo].values())[-TRIES:]:
                self.looks += 1
                try: self.look(rehearsal, told={place: answers})
                except (NotRecorded, MissingName) as e: self.failed[todo] = e
                if self.seen(*todo): break
            else: self.failed.setdefault(todo, None)

    def seen(self, place, there, answers) -> bool:
        return any(s.there == there and s.answers[:len(answers)] == answers for s in self.samples[place])

    def move(self, last, first):
        "Let numbers be others, and all decisions the same: what changes now is worked out unseen"
        composition, numbers = last[0].composition, last[0].numbers
        self.moved(*last, {k for k, v in numbers.items() if _is_number(v)})
        fixed = {k for k, v in self.hypers.items() if _is_number(v) and k not in composition.makes}
        for way in (last, first):
            if not self.moved(*way, fixed, keep=False): continue
            leaks = [k for k in self.hypers if k in fixed and self.moved(*way, {k}, keep=False)]
            self.assumed += [call('eq', Sym(k), number(self.hypers[k])) for k in leaks]

    def moved(self, rehearsal, found, names, keep=True) -> bool:
        "Does anything but its numbers change with these names?"
        if not names: return False
        decisions = Decisions({place: s.answers for place, s in found.items()})
        try:
            step = look(rehearsal, None, decisions, names)
            others = _read(step, _Reader(step), decisions)
        except (NotRecorded, MissingName): return False
        changed = [k for k in found if k in others and others[k].outcome != found[k].outcome]
        if keep:
            for k in changed: self.samples[k].append(others[k]._replace(decisions=found[k].decisions))
        return bool(changed)

    # Putting together

    def put_together(self):
        "Work out what all samples of a stepper say"
        self.level_hats()
        self.outcomes, never, assumed = {}, set(), self.assumed
        while True:
            found, self.no_start, self.assumed = {}, [], list(assumed)
            self.outcomes = {place: self.outcome(place, found, never) for place in sorted(self.samples)}
            if not self.no_start: break
            alone = {k for names in self.no_start if len(names) == 1 for k in names}
            never |= alone or {min(self.no_start[0], key=lambda k: (k in found, k))}
        self.starts = self.first_numbers() | found | dict.fromkeys(sorted(never))
        self.assumed = list(dict.fromkeys(self.assumed))

    def level_hats(self):
        "A name that has a hat in some branch has it in all that follow"
        first = {}
        for place in sorted(self.samples):
            for s in self.samples[place]:
                for k, line in s.outcome.names.items():
                    if k.endswith('_hat') and not line.kept: first.setdefault(k, (place, line))
        for place, samples in self.samples.items():
            for i, s in enumerate(samples):
                missing = [k for k, (at, _) in first.items() if at < place and k not in s.hats]
                here = [line for k, (at, line) in first.items() if at == place and k not in s.outcome.names]
                if not missing and not here: continue
                new = {Sym(k[:-4], scalar): Sym(k, scalar) for k in missing for scalar in (True, False)}
                outcome = s.outcome.changed(new)
                same = tuple(o._replace(e=Sym(o.name[:-4], o.e.scalar)) for o in here)
                if any(isinstance(o, Line) and o.name in [k.name for k in here] for x in samples for o in x.outcome.items):
                    outcome = outcome._replace(items=outcome.items + same)
                else: outcome = outcome._replace(numbers=outcome.numbers + same)
                decisions = tuple(d._replace(condition=substituted(d.condition, new)) for d in s.decisions)
                samples[i] = s._replace(outcome=outcome, decisions=decisions)

    def first_numbers(self) -> dict:
        "State whose first value is in a signature"
        made = {k for samples in self.samples.values() for s in samples for k, o in s.outcome.names.items() if o.kept}
        return {k: number(v) for s in reversed(self.steppers) for k, v in s.numbers.items() if k in made and k not in self.hypers}

    def outcome(self, place, starts, never) -> Outcome:
        "Of one stepper, whatever was there and whatever it decides"
        by_there = {}
        for s in self.samples[place]: by_there.setdefault(s.there, []).append(s)
        trees = {there: self.shown(place, samples) for there, samples in by_there.items()}
        return self.settled(place, self.merged(place, self.whatever_is_there(place, trees, starts, never)))

    def settled(self, place, outcome) -> Outcome:
        "Without branches on hyper-parameters alone: what is said holds while they are as they are"
        for d in dict.fromkeys(d for s in self.samples[place] for d in s.decisions):
            if not self.is_fixed(d.condition, place): continue
            settled = _taking(outcome, d.condition, d.natural)
            if settled != outcome: self.assumed.append(d.condition if d.natural else negated(d.condition))
            outcome = settled
        self.assumed += outcome.assumes
        return outcome

    def shown(self, place, samples) -> Tree|Outcome:
        "The branches of a stepper, if they can be read when they are put together"
        tree = self.tree(place, samples)
        cases = _cases(self.merged(place, tree))
        return tree if cases <= CASES_SHOWN else self.agreed(place, samples, f'it has {cases} cases')

    def tree(self, place, samples, depth=0) -> Tree|Outcome:
        "What samples say that decided alike up to here"
        conditions = {s.decisions[depth].condition if len(s.decisions) > depth else None for s in samples}
        if conditions == {None} or len(conditions) > 1: return self.agreed(place, samples)
        ways = {tuple(d.answer for d in s.decisions if not self.is_fixed(d.condition, place)) for s in samples}
        if len(ways) > LEAVES_SEEN: return self.agreed(place, samples, f'it has {len(ways)} branches, or more')
        condition, = conditions
        sides = {answer: [s for s in samples if s.decisions[depth].answer is answer] for answer in (True, False)}
        yes, no = (self.tree(place, o, depth + 1) if o else None for o in sides.values())
        if all(sides.values()): return Tree(condition, yes, no)
        answer = bool(sides[True])
        res = yes if answer else no
        failure = self.failed.get((place, samples[0].there, (*samples[0].answers[:depth], not answer)))
        if _is_error(failure): other = NOWHERE
        elif self.is_fixed(condition, place): other = UNSEEN
        else:
            why = str(failure) if isinstance(failure, NotRecorded) else 'it has more branches than are looked at'
            self.unsaid.setdefault(place, why)
            other = _nothing_known(self.merged(place, res), condition)
        return Tree(condition, res, other) if answer else Tree(condition, other, res)

    def merged(self, place, tree) -> Outcome:
        "The branches of a tree together"
        if isinstance(tree, Outcome): return tree
        c = tree.condition
        if tree.yes is NOWHERE or tree.no is NOWHERE: return self.merged(place, tree.yes or tree.no)
        if tree.yes is UNSEEN or tree.no is UNSEEN:
            res = self.merged(place, tree.yes or tree.no)
            return res._replace(assumes=(c if tree.yes else negated(c), *res.assumes))
        return self.chosen(place, c, self.merged(place, tree.yes), self.merged(place, tree.no))

    def is_fixed(self, condition, place) -> bool:
        "Is it about hyper-parameters alone, so that it is the same in all steps?"
        written = {k for i in range(place) for s in self.samples.get(i, ()) for k in s.outcome.names}
        return symbols(condition) <= self.hypers.keys() - written

    def agreed(self, place, samples, why=LEAKS) -> Outcome:
        "What samples with the same decisions say. A number that differs is worked out in a way that isn't seen"
        outcomes = list(dict.fromkeys(s.outcome for s in samples))
        res, *others = outcomes
        if not others: return res
        self.unsaid.setdefault(place, why)
        numbers = {o.name for others in self.samples.values() for s in others for o in s.outcome.numbers if o.kept}
        counters = numbers & {*self.steppers[place].names}
        also = [Sym(k) for k in sorted(counters)]
        for other in others:
            mine, theirs = ([o.name for o in (*x.items, *x.numbers) if isinstance(o, Line)] for x in (res, other))
            if mine != theirs or res.ends != other.ends:
                names = {**res.names, **other.names}
                seen = [o.e for o in names.values()]
                items = tuple(o._replace(e=unknown(*seen, also=also)) for o in names.values())
                return Outcome(items, (), res.ends if res.ends == other.ends else unknown(*seen, also=also))
            def differ(a, b): return _unseen(a, b, also)
            def lines(a, b): return tuple(o._replace(e=common(o.e, x.e, differ)) for o, x in zip(a, b))
            res = Outcome(lines(res.items, other.items), lines(res.numbers, other.numbers), res.ends)
        return res

    def chosen(self, place, condition, yes, no) -> Outcome:
        "What is done under a condition, and what is done otherwise, together"
        assumes = tuple(dict.fromkeys((*yes.assumes, *no.assumes)))
        yes, no = (o._replace(assumes=()) for o in (yes, no))
        special = yes if yes == no else _special(condition, yes, no)
        if special: return special._replace(assumes=assumes)
        if condition.name in ('ne', 'is_there'): return self.chosen(place, negated(condition), no._replace(assumes=assumes), yes)
        names = {o.name: o for o in (*yes.numbers, *no.numbers)}
        def value(outcome, line): return next((o.e for o in outcome.numbers if o.name == line.name), Sym(line.name, line.e.scalar))
        numbers = tuple(o._replace(e=choice(condition, value(yes, o), value(no, o))) for o in names.values())
        ends = either(both(condition, yes.ends), both(negated(condition), no.ends))
        return Outcome(self.items(place, condition, yes.items, no.items), numbers, ends, assumes)

    def items(self, place, condition, yes, no) -> tuple:
        "Lines that differ in numbers only are written once"
        only_lines = all(isinstance(o, Line) for o in (*yes, *no))
        if condition.name != 'is_none' and only_lines and [o.name for o in yes] == [o.name for o in no]:
            def differ(a, b): return _number_chosen(condition, a, b)
            try: return tuple(o._replace(e=common(o.e, x.e, differ)) for o, x in zip(yes, no))
            except _NoNumber: pass
        start = next((i for i, (a, b) in enumerate(zip(yes, no)) if a != b), min(len(yes), len(no)))
        shared, yes, no = yes[:start], yes[start:], no[start:]
        when = tuple(self.words(self.when(place, condition, answer)) for answer in (True, False))
        if len(no) == 1 and isinstance(no[0], Block) and no[0].yes == yes: # two reasons for the same
            return (*shared, Block(either(condition, no[0].condition), yes, no[0].no, ('', no[0].when[1])))
        block = Block(condition, yes, no, when) if yes else Block(negated(condition), no, (), when[::-1])
        return (*shared, *([block] if yes or no else []))

    def when(self, place, condition, answer) -> list:
        "The steps in which a condition had an answer"
        if condition.name == 'is_none':
            name, = symbols(condition)
            return [s.step for s in self.samples[place] if s.step and (name in s.there) is not answer]
        def answered(s): return any(d.condition == condition and d.answer is answer for d in s.decisions)
        return [s.step for s in self.samples[place] if s.step and answered(s)]

    def words(self, steps) -> str:
        "In words, which of the steps that were rehearsed these are."
        return _words(steps, self.steps)

    def whatever_is_there(self, place, trees, starts, never) -> Tree|Outcome:
        "Where state is there and where it isn't yet: that is one thing if it starts from a number, or else two"
        if len(trees) == 1: return next(iter(trees.values()))
        varying = [k for k in sorted(frozenset().union(*trees)) if len({k in there for there in trees}) > 1]
        name = varying[0]
        present, absent = ({o: v for o, v in trees.items() if (name in o) is side} for side in (True, False))
        missing = frozenset.intersection(*present) - frozenset().union(*absent)
        present, absent = (self.whatever_is_there(place, o, starts, never) for o in (present, absent))
        if present == absent: return present
        if missing & never: return Tree(call('is_none', Sym(min(missing & never))), absent, present)
        known = self.started(place, present, absent, sorted(missing), starts)
        if known is None: self.no_start.append(missing)
        else: starts |= known
        return present

    def started(self, place, present, absent, names, starts) -> dict|None:
        "Numbers that state may start from, with which what is done later is what is done at first"
        first, later = (self.merged(place, o).names for o in (absent, present))
        def candidates(name):
            if name in starts: return [starts[name]]
            found = [ZERO, ONE]
            if name in first: found.append(first[name].e)
            if name in first and name in later: found.append(sub(first[name].e, substituted(later[name].e, _all_as({name: ZERO}))))
            return [e for e in dict.fromkeys(found) if symbols(e) <= self.hypers.keys() and e.scalar]
        for values in product(*map(candidates, names)):
            known = dict(zip(names, values))
            if _is_like(absent, present, known): return known


def _is_like(absent, present, known) -> bool:
    "Is what is done without state what is done with state of which this is known?"
    if absent is NOWHERE or absent is UNSEEN: return True
    if isinstance(present, Tree):
        c = substituted(present.condition, _all_as(known))
        if isinstance(c, Num): return _is_like(absent, present.yes if c.value else present.no, known)
        if not isinstance(absent, Tree) or absent.condition != c: return False
        return _is_like(absent.yes, present.yes, known) and _is_like(absent.no, present.no, known)
    if not isinstance(absent, Outcome) or not isinstance(present, Outcome): return False
    return _without_same(present.changed(_all_as(known)), known) == _without_same(absent, known)


def _cases(outcome) -> int:
    "How many choices it takes to write it"
    def of(e):
        if isinstance(e, Call): return (e.name == 'case') + sum(map(of, e.args))
        if isinstance(e, Add): return sum(of(x) for _, x in e.terms)
        return sum(of(b) + of(x) for b, x in e.factors) if isinstance(e, Mul) else 0
    def blocks(items): return sum(1 + blocks(o.yes) + blocks(o.no) for o in items if isinstance(o, Block))
    return blocks(outcome.items) + sum(of(o.e) for o in (*_flat(outcome.items), *outcome.numbers))


class _NoNumber(Exception):
    "More than numbers differ"


def _is_error(failure) -> bool:
    "Is a branch one that raises an error, and none that can't be seen?"
    if isinstance(failure, MissingName): return True
    return isinstance(failure, NotRecorded) and not isinstance(failure.__cause__, Untraceable | None)


def _nothing_known(outcome, condition) -> Outcome:
    "The lines of `outcome`, of which nothing is known but what they depend on"
    def lines(items): return tuple(o._replace(e=unknown(o.e, also=[condition])) for o in items)
    return Outcome(lines(_flat(outcome.items)), lines(outcome.numbers), outcome.ends)


def _state_after(step) -> dict:
    "State with numbers that know nothing"
    return {k: plain(v) if isinstance(v, Symbolic) else v for k, v in step.recording.state.items()}


def _situation(rehearsal): return frozenset(rehearsal.kinds.items()), frozenset(rehearsal.numbers)
def _is_number(v) -> bool: return isinstance(v, (int, float)) and not isinstance(v, bool)
def _all_as(new): return {Sym(k, scalar): e for k, e in new.items() for scalar in (True, False)}


TURNED = dict(lt='gt', gt='lt', le='ge', ge='le')


def _taking(outcome, condition, answer) -> Outcome:
    "What it is where a condition has an answer"
    new = {condition: Num(answer), negated(condition): Num(not answer)}
    new |= {call(TURNED[c.name], *c.args[::-1]): holds for c, holds in new.items() if c.name in TURNED}
    def taken(items):
        for o in items:
            if isinstance(o, Line): yield o
            elif isinstance(o.condition, Num): yield from taken(o.yes if o.condition.value else o.no)
            else: yield o._replace(yes=tuple(taken(o.yes)), no=tuple(taken(o.no)))
    res = outcome.changed(new)
    return res._replace(items=tuple(taken(res.items)))


def _without_same(outcome, known) -> Outcome:
    "Without lines that only say that something is what it started from"
    def stays(o): return isinstance(o, Line) and o.name in known and o.e == known[o.name]
    def others(lines): return tuple(o for o in lines if not stays(o))
    return outcome._replace(items=others(outcome.items), numbers=others(outcome.numbers))


def _special(condition, yes, no) -> Outcome|None:
    "The one that holds for both, if the other is what it comes to where a name has the value that is asked for"
    if condition.name not in ('eq', 'ne'): return None
    name, value = sorted(condition.args, key=lambda x: not isinstance(x, Sym))
    if not isinstance(name, Sym) or name.name in symbols(value): return None
    special, general = (yes, no) if condition.name == 'eq' else (no, yes)
    there = {name: value}
    same = {o.name: o for o in (*_flat(general.items), *general.numbers)}
    def filled(outcome):
        "With the lines that it lacks, in which names stay what they are"
        outcome = outcome.changed(there)
        def completed(lines, others):
            known = {o.name: o for o in lines if isinstance(o, Line)}
            if len(known) < len(lines) or not known.keys() <= {getattr(o, 'name', None) for o in others}: return lines
            return tuple(known.get(o.name, o._replace(e=Sym(o.name, o.e.scalar))) for o in others)
        return Outcome(completed(outcome.items, general.items), completed(outcome.numbers, general.numbers), outcome.ends)
    return general if same and filled(special) == filled(general) else None


def _number_chosen(condition, a, b):
    if not (a.scalar and b.scalar): raise _NoNumber
    return choice(condition, a, b)


def _unseen(a, b, also):
    "`f(…)` in the place of numbers that differ"
    if not (a.scalar and b.scalar): return unknown(a, b, also=also)
    shared, a, b = apart(a, b)
    return mul(shared, unknown(a, b, also=also))


def _words(steps, last) -> str:
    "In words, which of the steps up to `last`"
    if not steps: return f'in none of the first {last} steps'
    first, every = steps[0], steps[1] - steps[0] if len(steps) > 1 else 1
    if steps == list(range(1, last + 1)): return ''
    if len(steps) == 1 and first < last: return f'in step {first}'
    if steps == list(range(first, last + 1)): return f'from step {first} on'
    if steps == list(range(first, steps[-1] + 1)): return f'in steps {first} to {steps[-1]}'
    if len(steps) > 2 and steps == list(range(first, last + 1, every)):
        return f'in every {every}th step' if first == every else f'in step {first} and every {every}th after it'
    return ''


def of_step(
    step:Step # A step, from `look`
) -> Explored:
    "What the steppers do in this step, as it is."
    res = Explored.__new__(Explored)
    reader = _Reader(step)
    res.outcomes = {place: s.outcome for place, s in _read(step, reader).items()}
    res.starts, res.assumed, res.unsaid, res.by_torch, res.old, res.steps = {}, [], {}, reader.by_torch, reader.old, 1
    res.steppers, res.samples = [], {}
    return res
