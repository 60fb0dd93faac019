"""The formula of a composition, read off a rehearsal of it: so it is right also for steppers of one's own.

Hyper-parameters and counters are handed to the steppers as numbers that know what they were worked out from, tensors
are stand-ins already. What each stepper wrote is one line.
"""
import math
import operator
from contextlib import contextmanager
from copy import copy
from fractions import Fraction
from numbers import Real
from threading import RLock

import torch

from optimcb.engine.calls import HOLE
from optimcb.engine.program import LEAVES, Node, Program, operands
from optimcb.engine.record import NotRecorded
from optimcb.expression import ONE, Num, Sym, add, call, common, div, latex, latex_name, mul, neg, number, power, sub, symbols, text
from optimcb.rehearsal import Rehearsal, Step

__all__ = ['Formula', 'formulas', 'look', 'named', 'slots']

TWO, HALF = number(2), number(Fraction(1, 2))


# Numbers that know where they come from

class _Symbolic:
    "A number with an expression, `e`"


def _as(value, e):
    "`value` as a number that is worked out by `e`"
    res = (_Symbolic.whole if isinstance(value, int) else _Float)(value)
    res.e = e
    return res


def _expression(x): return x.e if isinstance(x, _Symbolic) else number(x)
def _plain(x): return int(x) if isinstance(x, (int, _Count)) else float(x)


def _operators(cls):
    "`cls` with arithmetic that is written down"
    def both(name, f, build):
        def forward(self, other):
            if not isinstance(other, Real): return NotImplemented
            return _written(f(_plain(self), _plain(other)), lambda: build(_expression(self), _expression(other)))
        def backward(self, other):
            if not isinstance(other, Real): return NotImplemented
            return _written(f(_plain(other), _plain(self)), lambda: build(_expression(other), _expression(self)))
        setattr(cls, f'__{name}__', forward)
        setattr(cls, f'__r{name}__', backward)
    for name, build in dict(add=add, sub=sub, mul=mul, truediv=div, pow=power, floordiv=_floored, mod=_rest).items(): both(name, getattr(operator, name), build)
    cls.__neg__ = lambda self: _as(-_plain(self), neg(self.e))
    cls.__abs__ = lambda self: _as(abs(_plain(self)), call('abs', self.e))
    cls.__pos__ = lambda self: self
    return cls


def _floored(a, b): return call('floor', div(a, b))
def _rest(a, b): return call('mod', a, b)


def _written(value, build): return _as(value, build()) if isinstance(value, (int, float)) else value


@_operators
class _Float(_Symbolic, float): pass
@_operators
class _Int(_Symbolic, int): pass
@_operators
class _Count(_Float):
    "A whole number that is a float, so that a float beside it leaves the operator to us"
    def __index__(self): return int(float(self))


def _named_call(name): return lambda x: call(name, x)


LOCK = RLock()
OF_MATH = dict(sqrt=lambda x: power(x, HALF), pow=power) | {k: _named_call(k) for k in ('exp', 'log', 'expm1', 'log1p', 'sin', 'cos', 'tanh')}


@contextmanager
def _math_written():
    "`math`'s functions write down what they do to our numbers; to others they do what they always do"
    def written(f, build):
        count = build.__code__.co_argcount # `log` of another base is not written down
        return lambda *xs: _as(f(*xs), build(*map(_expression, xs))) if len(xs) == count and any(isinstance(x, _Symbolic) for x in xs) else f(*xs)
    with LOCK:
        before = {k: getattr(math, k) for k in OF_MATH}
        try:
            for k, build in OF_MATH.items(): setattr(math, k, written(before[k], build))
            yield
        finally:
            for k, f in before.items(): setattr(math, k, f)


# Operations on tensors

def _where(c, a, b):
    "An extreme that is NaN where an element is NaN is the extreme, as torch has it"
    if getattr(c, 'name', '') == 'amax' and getattr(b, 'name', '') in ('amax', 'amin'): return b
    if getattr(c, 'args', None) == (a, b) and c.name in SMALLER: return call(SMALLER[c.name], a, b)
    return call('where', c, a, b)


SMALLER = dict(lt='minimum', le='minimum', gt='maximum', ge='maximum') # `where(a < b, a, b)`


def _cast(x, old, new):
    "`x` in another type: rounding to fewer bits is not written down"
    if old is torch.bool and new is not torch.bool: return call('float', x)
    return call('trunc', x) if old.is_floating_point and not new.is_floating_point and new is not torch.bool else x


def _extreme(name): return lambda x: x if x.scalar else call(name, x) # of one number for all elements, it is that


OPS = dict(
    sum=lambda x: mul(call('numel'), x) if x.scalar else call('sum', x), amax=_extreme('amax'), amin=_extreme('amin'),
    neg=neg, add=add, sub=sub, mul=mul, div=div, where=_where,
    add_alpha=lambda x, y, alpha: add(x, mul(alpha, y)), sub_alpha=lambda x, y, alpha: sub(x, mul(alpha, y)),
    addcmul=lambda x, a, b, value: add(x, mul(value, a, b)), addcdiv=lambda x, a, b, value: add(x, div(mul(value, a), b)),
    lerp=lambda a, b, weight: add(mul(sub(ONE, weight), a), mul(weight, b)),
    reciprocal=lambda x: div(ONE, x), square=lambda x: power(x, TWO), cube=lambda x: power(x, number(3)), pow=power,
    sqrt=lambda x: power(x, HALF), rsqrt=lambda x: div(ONE, power(x, HALF)),
    clamp_min=lambda x, y: call('maximum', x, y), clamp_max=lambda x, y: call('minimum', x, y),
    softplus=lambda x, beta, threshold: call('softplus', x, beta, *([] if threshold == number(20) else [threshold])))


class _Reader:
    "Writes down what a step did, one name after the other"
    def __init__(self, step):
        trace, self.hypers = step.recording.trace, step.hypers
        self.trace = trace
        self.nodes = [Node(n[0], n[1], n[2], n[3:]) for n in trace.nodes]
        self.now = {_name(n.args[0]): i for i, n in enumerate(self.nodes) if n.op == 'load'} # what names stand for
        self.lines, self.spare, self.old, self.stepper = [], {}, [], None

    def read(self, act):
        self.stepper, todo = act.stepper, {act.shown.get(k, k): v for k, v in act.writes.items() if v is not None}
        while todo: # first what overwrites nothing that the others are worked out from
            name = next((k for k in todo if not any(k in self.uses(v) for o, v in todo.items() if o != k)), next(iter(todo)))
            self.write(name, self.expression(todo[name]), name in act.kept or name in ('p', 'grad'))
            self.now[name] = todo.pop(name)
        for k, v in act.numbers.items(): self.write(act.shown[k], _expression(v), k in act.kept)

    def write(self, name, e, kept):
        "A line. One that only gives something another name is shown if that name is needed later"
        if isinstance(e, (Sym, Num)) and not kept: self.spare[name] = len(self.lines)
        if getattr(e, 'name', None) != name: self.lines.append((name, e, self.stepper))

    def uses(self, operand):
        "Names of tensors that an operand would be written with"
        if operand is None or operand < 0: return set()
        known = self.known(operand)
        if known: return {known}
        n = self.nodes[operand]
        return set().union(*(self.uses(a) for a in operands(n))) if n.op not in LEAVES else set()

    def known(self, id): return next((k for k, i in self.now.items() if i == id), None)

    def expression(self, operand):
        if operand < 0: return _expression(self.trace.slots[~operand])
        n, name = self.nodes[operand], self.known(operand)
        if name:
            self.spare.pop(name, None)
            return Sym(name, n.each is False)
        if n.op == 'load': return self.overwritten(_name(n.args[0]), n.each is False)
        if n.op == 'external':
            x = self.trace.externals[n.args[0]]
            name = next((k for k, v in self.hypers.items() if v is x), None)
            return Sym(name) if name else _expression(x.item())
        if n.op == 'numel': return call('numel')
        if n.op == 'result': return self.result(*n.args)
        args = [self.expression(a) for a in operands(n)]
        if n.op == 'cast': return _cast(args[0], self.nodes[n.args[0]].gives if n.args[0] >= 0 else n.dtype, n.dtype)
        return OPS[n.op](*args) if n.op in OPS else call(n.op, *args)

    def result(self, k, which):
        "What a function by torch returns: `f(…)`, or one of several"
        *given, called = self.nodes[k].args
        args, kwargs = called.filled(map(self.expression, given))
        e = call(called.name, *(a if o is HOLE else Sym(repr(a)) for o, a in zip((*called.args, *dict(called.kwargs).values()), (*args, *kwargs.values()))))
        several = any(n.op == 'result' and n.args[0] == k and n.args[1] for n in self.nodes)
        return call('item', e, number(which)) if several else e

    def overwritten(self, name, scalar):
        if name not in self.old: self.old.append(name)
        return Sym(f'{name}_old', scalar)


def _name(column): return column.lstrip('.') if column in ('.p', '.grad') else column


class Formula:
    "What a step does, line by line: `(name, expression, stepper)`. Shown as LaTeX in a notebook, as text elsewhere."
    def __init__(self,
        step:Step, # A step, rehearsed with `named`
        when:str='' # In which steps it is done; empty: in all
    ):
        reader = _Reader(step)
        for act in step.acts: reader.read(act)
        tensors = {n.args[0]: n.each is not False for n in reader.nodes if n.op == 'load'}
        before = [(f'{k}_old', Sym(k, not tensors.get(k, True)), None) for k in reader.old]
        self.lines, self.when = before + [o for i, o in enumerate(reader.lines) if i not in reader.spare.values()], when
        self.counters = {k for act in step.acts for k in act.numbers}

    def like(self,
        other:'Formula' # That of another step that does the same to tensors
    ) -> 'Formula':
        "What both are: a number that Python works out in different ways is `f(…)` of what it is worked out from."
        mine, theirs = ([o[0] for o in f.lines] for f in (self, other))
        if mine != theirs: # a line may be missing: one that says that something stays as it is
            if max(map(len, (mine, theirs))) > len({*mine, *theirs}): return self
            mine, theirs = ({o[0]: o for o in f.lines} for f in (self, other))
            def line(known, k, o): return known.get(k, (k, Sym(k, o[1].scalar), o[2]))
            both = {**mine, **theirs}
            pairs = [(line(mine, k, o), line(theirs, k, o)) for k, o in (both if len(mine) >= len(theirs) else {**theirs, **mine}).items()]
        else: pairs = zip(self.lines, other.lines)
        self.lines = [(k, common(a, b, self.counters.intersection(s.names) if s else ()), s) for (k, a, s), (_, b, _) in pairs]
        return self

    @property
    def names(self) -> list[str]:
        "The names in it, in their order."
        return list(dict.fromkeys(k for name, e, _ in self.lines for k in (name, *sorted(symbols(e)))))

    @property
    def text(self) -> str:
        "The formula in Python."
        return '\n'.join(f'{name} = {text(e)}' for name, e, _ in self.lines)

    @property
    def latex(self) -> str:
        "The formula in LaTeX."
        lines = ' \\\\\n'.join(rf'{latex_name(name)} &\leftarrow {latex(e)}' for name, e, _ in self.lines)
        return f'\\begin{{aligned}}\n{lines}\n\\end{{aligned}}'

    def __str__(self): return self.text
    def __repr__(self): return self.text
    def _repr_latex_(self): return f'$$\n{self.latex}\n$$' if self.lines else None


def named(
    name:str, # Of a hyper-parameter or a number among the state
    value, # Its value
    kept:bool # Is it state, or a hyper-parameter?
):
    "A number that stands for a name. One that was worked out from others goes on under its own; one that is the same in all steps has none."
    if isinstance(getattr(value, 'e', None), Sym) or not kept and not isinstance(value, _Symbolic): return value
    return _as(_plain(value), Sym(name, True, _plain(value)))


def look(
    rehearsal:Rehearsal, # A rehearsal
    key:tuple|None=None # Of the step's recording, if it is known
) -> Step:
    "Its next step, which is not taken, with numbers that know where they come from. Raises `NotRecorded`."
    key = key or rehearsal.look().recording.key
    with _math_written():
        for _Symbolic.whole in (_Count, _Int): # the first one knows more, if it does what whole numbers do
            try: res = rehearsal.look(named)
            except NotRecorded: continue
            if res.recording.key == key: break
    return res


def slots(
    step:Step, # From `look`
    program:Program # Its program
) -> list:
    "What each number that the program is handed was worked out from."
    return [_expression(step.recording.trace.slots[k]) for k in program.slots]


def formulas(
    rehearsal:Rehearsal, # A rehearsal that hasn't begun
    steps:int=32, # How many steps to rehearse: what is done less often than that is not seen
) -> list[Formula]:
    "The formulas of a composition: one, or one for each kind of step, that of most steps first. Raises `NotRecorded`."
    rehearsal.hypers = {k: v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 else v for k, v in rehearsal.hypers.items()} # numbers have names
    programs, found = {}, {}
    for i in range(1, steps + 1):
        before, step = copy(rehearsal), rehearsal.step()
        key = step.recording.key
        if key not in programs: programs[key] = step.program.key
        when, looks = found.setdefault(programs[key], ([], []))
        when.append(i)
        if len(when) < 4 or i in (7, 16, steps): looks.append(look(before, key))
    found = sorted(found.values(), key=lambda o: -len(o[0]))
    return [_of(looks, _when(when, steps) if len(found) > 1 else '') for when, looks in found]


def _of(looks, when) -> Formula:
    "The formula of several steps. The first one counts if it is alone: in it, averages may start from zero"
    res = Formula(looks[1] if len(looks) > 1 else looks[0], when)
    for o in looks[2:]: res.like(Formula(o))
    return res


def _when(steps, last) -> str:
    "In words, which of the steps up to `last`"
    first, every = steps[0], steps[1] - steps[0] if len(steps) > 1 else 1
    if len(steps) == 1: return f'in step {first}'
    if steps == list(range(first, last + 1)): return f'from step {first} on'
    if steps == list(range(first, steps[-1] + 1)): return f'in steps {first} to {steps[-1]}'
    if steps == list(range(first, last + 1, every)): return f'in every {every}th step' if first == every else f'in step {first} and every {every}th after it'
    return 'in most steps'
