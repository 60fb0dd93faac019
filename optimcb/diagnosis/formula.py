"""The formula of a composition, as Python code equivalent to a step, and as LaTeX.

It is derived from a rehearsal, so it is also right for users' steppers. Each stepper is one or more lines,
with all of its branches. Values that can't be traced, such as a number converted by `float`, appear as
`f(…)`, and the formula notes which stepper computes them, and why they can't be traced.
"""
import torch

from optimcb.diagnosis.exploring import Explored
from optimcb.diagnosis.expressions import ZERO, Sym, call, calls, symbols
from optimcb.diagnosis.latex import latex, latex_name
from optimcb.diagnosis.merging import behaviour_of
from optimcb.diagnosis.outcomes import Behaviour, Line, flat_lines
from optimcb.diagnosis.reading import of_step
from optimcb.diagnosis.rendering import text
from optimcb.diagnosis.sequencing import conditions, in_sequence, names_read
from optimcb.diagnosis.symbolic import expression_of
from optimcb.tracing.program import Program
from optimcb.tracing.rehearsal import Rehearsal, Step

__all__ = ['Formula', 'formulas', 'slots']


class Formula:
    """The formula of a step: `items`, which are lines and blocks of lines under conditions.

    Notebooks show LaTeX, consoles text. State is 0 before the first step, except in `starts`: an expression,
    or None for state that doesn't exist yet. The formula is valid while the conditions `assumed`, on
    hyper-parameters only, hold. `notes` explain each `f(…)`. The text is Python: names are numbers and
    tensors, functions are those of `math` and `torch`.
    """
    def __init__(self,
        what:Step|Behaviour, # A single step, from `look`, or the behaviour of steppers in all steps
        when:str='' # The parameters that it is for; empty: all
    ):
        behaviour = what if isinstance(what, Behaviour) else of_step(what)
        self.items, self.when, self.assumed = in_sequence(behaviour), when, tuple(behaviour.assumed)
        read = names_read(self.items) | {k for c in self.assumed for k in symbols(c)}
        self.starts = {k: v for k, v in behaviour.starts.items() if k in read}
        self.notes = tuple(_notes(self.items, behaviour))

    @property
    def lines(self) -> list[tuple]:
        "All lines as `(name, expression, stepper)`, without their conditions."
        return [(o.name, o.e, o.stepper) for o in flat_lines(self.items)]

    @property
    def names(self) -> list[str]:
        "The names in the formula, in order."
        in_conditions = [k for c in (*conditions(self.items), *self.assumed) for k in sorted(symbols(c))]
        in_lines = [k for o in flat_lines(self.items) for k in (o.name, *sorted(symbols(o.e)))]
        return list(dict.fromkeys(in_lines + in_conditions))

    @property
    def _starts_shown(self) -> dict: return {k: v for k, v in self.starts.items() if v != ZERO}

    @property
    def text(self) -> str:
        "The formula in Python."
        starts = ', '.join(f"{k} = {'None' if e is None else text(e)}" for k, e in self._starts_shown.items())
        before = [f'# before the first step: {starts}'] if starts else []
        before += [f'# while {text(c)}' for c in self.assumed]
        return '\n'.join([*before, *_python(self.items), *(f'# {n}' for n in self.notes)])

    @property
    def latex(self) -> str:
        "The formula in LaTeX."
        def start(k, e):
            if e is None: return latex(call('is_none', Sym(k)))
            return f'{latex_name(k)} = {latex(e)}'
        starts = r', \; '.join(start(k, e) for k, e in self._starts_shown.items())
        before = [rf'&\text{{before the first step: }} {starts}'] if starts else []
        before += [rf'&\text{{while }} {latex(c)}' for c in self.assumed]
        notes = [rf'&\text{{{_plain_text(n)}}}' for n in self.notes]
        lines = ' \\\\\n'.join([*before, *_tex(self.items), *notes])
        return f'\\begin{{aligned}}\n{lines}\n\\end{{aligned}}'

    def __str__(self): return self.text
    def __repr__(self): return self.text
    def _repr_latex_(self): return f'$$\n{self.latex}\n$$' if self.items else None


def formulas(
    rehearsal:Rehearsal, # A rehearsal that hasn't begun
    params=() # Parameters that it is for; empty: all that there may be
) -> list[Formula]:
    "Find the formulas of a composition: a single one, for all kinds of steps. Raises `NotRecorded`."
    def as_number(v): return v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 else v
    rehearsal.hypers = {k: as_number(v) for k, v in rehearsal.hypers.items()} # numbers have names
    return [Formula(behaviour_of(Explored(rehearsal, params)))]


def slots(
    step:Step, # From `look`
    program:Program # Its program
) -> list:
    "List the expression of each number that is passed to the program."
    return [expression_of(step.recording.trace.slots[k]) for k in program.slots]


# Writing

INDENT = '    '


def _python(items, depth='') -> list[str]:
    "List the lines of Python"
    res = []
    for o in items:
        if isinstance(o, Line):
            res.append(f'{depth}{o.name} = {text(o.e)}')
            continue
        yes, no = (f' # {w}' if w else '' for w in o.when)
        res += [f'{depth}if {text(o.condition)}:{yes}', *_python(o.yes, depth + INDENT)]
        if o.no: res += [f'{depth}else:{no}', *_python(o.no, depth + INDENT)]
    return res


def _tex(items, depth='') -> list[str]:
    "List the rows of LaTeX"
    res = []
    for o in items:
        if isinstance(o, Line):
            name, e = latex_name(o.name), latex(o.e)
            res.append(rf'&{depth}{name} \leftarrow {e}' if depth else rf'{name} &\leftarrow {e}')
            continue
        yes, no = (rf' \quad \text{{({w})}}' if w else '' for w in o.when)
        res += [rf'&{depth}\text{{if }} {latex(o.condition)}\text{{:}}{yes}', *_tex(o.yes, depth + r'\quad ')]
        if o.no: res += [rf'&{depth}\text{{else:}}{no}', *_tex(o.no, depth + r'\quad ')]
    return res


def _plain_text(s) -> str:
    "Escape `s` for text in LaTeX"
    for c in '\\{}': s = s.replace(c, ' ')
    for c in '_&%#$': s = s.replace(c, f'\\{c}')
    return s.replace('`', '').replace('^', ' ').replace('~', ' ')


# Notes

def _notes(items, behaviour):
    "Yield notes on functions that are neither in `math` nor in `torch`"
    unknown = {}
    for o in flat_lines(items):
        for e in calls(o.e):
            if e.name in ('f', 'F'): unknown.setdefault(o.stepper, e)
    reasons = {behaviour.steppers[place]: why for place, why in behaviour.why_unknown.items()}
    for stepper, e in unknown.items():
        why = reasons.get(stepper, 'see there')
        yield f"{text(e)} is computed by stepper `{stepper}` and can't be written as a formula: {why}"
    expressions = *(o.e for o in flat_lines(items)), *conditions(items)
    names = {e.name for x in expressions for e in calls(x)} & behaviour.by_torch.keys()
    for module in sorted({behaviour.by_torch[k] for k in names}):
        theirs = sorted(k for k in names if behaviour.by_torch[k] == module)
        yield f"{', '.join(theirs)}: by torch, in `{module}`"
