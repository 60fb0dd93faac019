"Translate a rehearsed step to lines of a formula, for each stepper."
from contextlib import nullcontext

from optimcb.diagnosis.choices import condition
from optimcb.diagnosis.expressions import Num, Sym, call
from optimcb.diagnosis.operations import applied, cast
from optimcb.diagnosis.outcomes import Behaviour, Line, Outcome, Sample
from optimcb.diagnosis.shapes import named_shape
from optimcb.diagnosis.symbolic import (
    WHOLE,
    Decisions,
    Symbolic,
    expression_of,
    math_written,
    plain,
    symbolic,
)
from optimcb.tracing.ir import LEAVES, PER_PARAMETER
from optimcb.tracing.opaque import PLACEHOLDER
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Effect, Rehearsal, Step

__all__ = ['SWAPPED', 'Reader', 'look', 'of_step', 'read_samples', 'value_of']


SWAPPED = dict(lt='gt', gt='lt', le='ge', ge='le') # the same comparisons with swapped operands


class Reader:
    """Reads the effects of the steppers in a step, in order.

    `old` has names with another value before the step, and whether each is one number; `by_torch` has the
    modules of functions that torch runs, by their names."""
    def __init__(self,
        step:Step # A step, rehearsed with named numbers
    ):
        self.trace, self.hypers = step.recording.trace, step.hypers
        self.nodes = self.trace.nodes
        loads = [(i, n) for i, n in enumerate(self.nodes) if n.op == 'load']
        self.now = {_name(n.args[0]): i for i, n in loads} # current values of names
        self.old, self.by_torch = {}, {}
        # Values of names before a stepper, values that it writes, and the old values that it needs
        self.before, self.newest, self.kept_before = {}, {}, {}

    def read(self,
        effect:Effect # Effect of the next stepper
    ) -> Outcome:
        "Read an effect of a stepper."
        self.before, self.newest, self.kept_before = dict(self.now), {}, {}
        kept = {effect.shown.get(k, k) for k in effect.kept} | {'p', 'grad'}
        todo = {effect.shown.get(k, k): v for k, v in effect.writes.items() if v is not None}
        lines = []
        while todo:
            name = self._next_to_write(todo)
            lines.append(Line(name, self.expression(todo[name]), effect.stepper, name in kept))
            self._write(name, todo.pop(name))
        numbers = [Line(effect.shown[k], value_of(v), effect.stepper, k in effect.kept)
                   for k, v in effect.numbers.items()]
        before = [Line(f'{k}_old', Sym(k, scalar)) for k, scalar in self.kept_before.items()]
        self.newest = {}
        return Outcome((*before, *lines), tuple(numbers), Num(effect.ends))

    def _next_to_write(self, todo):
        "Return a name that none of the others depends on, or the first"
        for name in todo:
            others = [v for k, v in todo.items() if k != name]
            if not any(name in self._names_in(v) for v in others): return name
        return next(iter(todo))

    def _write(self, name, id):
        "Assign an operand to a name"
        self.now.pop(name, None) # the newest name comes last
        self.now[name] = id
        is_named = id >= 0 and self.nodes[id].op == 'named'
        self.newest[name] = self.nodes[id].args[0] if is_named else id

    def _names_in(self, operand) -> set:
        "Return the names of tensors in the expression of an operand"
        if operand is None or operand < 0: return set()
        known = self._name_of(operand)
        if known: return {known}
        n = self.nodes[operand]
        return set() if n.op in LEAVES else set().union(*(self._names_in(a) for a in n.operands))

    def _name_of(self, id):
        "Return the last name of an operand: an earlier one may differ in another branch"
        for names in (self.now, self.newest):
            name = next((k for k, i in reversed(names.items()) if i == id), None)
            if name: return name

    def expression(self,
        operand:int # An operand of the trace
    ):
        "Write an operand with the current names."
        if operand < 0: return expression_of(self.trace.slots[~operand])
        n, name = self.nodes[operand], self._name_of(operand)
        if name: return Sym(name, n.extent is PER_PARAMETER)
        before = next((k for k, i in reversed(self.before.items()) if i == operand), None)
        if before:
            self.kept_before[before] = n.extent is PER_PARAMETER
            return Sym(f'{before}_old', n.extent is PER_PARAMETER)
        if n.op == 'load':
            name = _name(n.args[0])
            self.old[name] = n.extent is PER_PARAMETER
            return Sym(f'{name}_old', n.extent is PER_PARAMETER)
        if n.op == 'external': return self._external(self.trace.externals[n.args[0]])
        if n.op == 'named': return self.expression(n.args[0])
        if n.op == 'numel': return call('numel')
        if n.op == 'result': return self._result(*n.args)
        args = [self.expression(a) for a in n.operands]
        if n.op == 'cast':
            old = self.nodes[n.args[0]].result_dtype if n.args[0] >= 0 else n.dtype
            return cast(args[0], old, n.dtype)
        if n.op in SWAPPED: return condition(n.op, *args)
        return applied(n.op, args)

    def _external(self, x):
        "Write a tensor from outside: a hyper-parameter, or a number"
        name = next((k for k, v in self.hypers.items() if v is x), None)
        return Sym(name) if name else expression_of(x.item())

    def _result(self, k, which):
        "Write the result of a function that torch runs: `f(…)`, or one of several"
        *given, called = self.nodes[k].args
        self.by_torch[called.name] = getattr(called.f, '__module__', None) or type(called.f).__module__
        args, kwargs = called.filled(map(self.expression, given))
        fixed = *called.args, *dict(called.kwargs).values()
        filled = *args, *kwargs.values()
        for o in fixed: # a tuple that a function of the shape computed
            if hasattr(o, 'module'): self.by_torch[o.e.name] = o.module
        e = call(called.name, *(a if o is PLACEHOLDER else _constant(a) for o, a in zip(fixed, filled)))
        is_one_of_several = any(n.op == 'result' and n.args[0] == k and n.args[1] for n in self.nodes)
        return call('item', e, Num(which)) if is_one_of_several else e


def value_of(
    x # A number, true, false or a word
):
    "Write a value of state."
    return Sym(repr(x)) if isinstance(x, (bool, str)) else expression_of(x)


def _constant(x): return getattr(x, 'e', None) or Sym(repr(x))
def _name(column): return column.lstrip('.') if column in ('.p', '.grad') else column


def read_samples(
    step:Step, # A step, rehearsed with named numbers
    reader:Reader, # Its reader
    decisions:Decisions|None=None, # What the steppers decided in it
    number:int|None=None, # Number of a rehearsed step; None for an experiment
    shape:tuple=() # Of the parameter
) -> dict[int, Sample]:
    "Read each stepper's effect in a step, by its place."
    res, hats = {}, frozenset()
    for effect in step.effects:
        made = decisions.made.get(effect.place, ()) if decisions else ()
        words = tuple(sorted((k, value_of(v)) for k, v in effect.words.items()))
        res[effect.place] = Sample(effect.there, tuple(made), reader.read(effect), hats, number, shape, words)
        hats |= {new for k, new in effect.shown.items() if new != k}
    return res


def of_step(
    step:Step # A step, from `look`
) -> Behaviour:
    "Read the behaviour of the steppers in this step alone."
    reader = Reader(step)
    outcomes = {place: s.outcome for place, s in read_samples(step, reader).items()}
    return Behaviour(outcomes, reader.old, reader.by_torch)


# A look at a step

def look(
    rehearsal:Rehearsal, # A rehearsal
    key:tuple|None=None, # Key of the step's recording, if known
    decisions:Decisions|None=None, # Records the steppers' decisions, and may force them
    moved=frozenset() # Names of numbers to change without changing their expressions
) -> Step:
    """Rehearse the next step with symbolic numbers, without taking it.

    Raises `NotRecorded`."""
    named = _naming_all(rehearsal.hypers, moved) if decisions else _naming_short(rehearsal.hypers)
    if key is None and not decisions: key = rehearsal.look().recording.key
    res = failure = None
    with math_written():
        # The first kind of whole numbers records more, but not every stepper accepts it
        for Symbolic.whole in WHOLE:
            with decisions.listen() if decisions else nullcontext():
                shown = named_shape(rehearsal.example) if decisions else None
                try: res = rehearsal.look(named, decisions and decisions.began, shown)
                except NotRecorded as e:
                    failure = failure or e
                    continue
            if key is None or res.recording.key == key: return res
    if res is None: raise failure
    return res


def _naming_short(hypers):
    "Give computed numbers their own names; constants have none"
    def named(name, value, kept):
        has_name = isinstance(getattr(value, 'e', None), Sym)
        is_constant = not kept and not isinstance(value, Symbolic)
        return value if has_name or is_constant else _named(name, value, hypers)
    return named


def _naming_all(hypers, moved):
    "Give all numbers their names, and other values to those in `moved`"
    def named(name, value, kept):
        x = _named(name, value, hypers)
        if name not in moved: return x
        value = plain(x)
        return symbolic(value + 1 if isinstance(value, int) else value*1.0009765625 + 0.0009765625, x.e)
    return named


def _named(name, value, hypers):
    "Return a number as a symbol. Hyper-parameters keep their value, for the sign of a difference"
    return symbolic(plain(value), Sym(name, True, plain(value) if name in hypers else None))
