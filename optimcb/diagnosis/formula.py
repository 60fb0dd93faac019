"""The formula of a composition: Python that does what a step does, and the same in LaTeX.

It is read off a rehearsal, so it is right also for steppers of one's own. What each stepper does, in all of its
branches, is one line or more; what can't be read off, such as a number that was taken out of a name by `float`, is
`f(…)`, and the formula says whose it is and why.
"""
import torch

from optimcb.diagnosis.algebra import ZERO, Call, Num, Sym, call, latex, latex_name, negated, substituted, symbols, text
from optimcb.diagnosis.branches import Block, Explored, Line, of_step
from optimcb.diagnosis.symbolic import expression_of
from optimcb.tracing.program import Program
from optimcb.tracing.rehearsal import Rehearsal, Step

__all__ = ['Formula', 'formulas', 'slots']


class Formula:
    """What a step does: `items`, lines and blocks of lines under conditions. Shown as LaTeX in a notebook, as text elsewhere.

    State is 0 before the first step, but for what `starts` says: an expression, or None if the state isn't there. What the formula says holds
    where the conditions `assumed`, on hyper-parameters alone, hold. `notes` are what else is to be said, one of them for each `f(…)`.
    The text is Python: names are numbers and tensors, functions those of `math` and `torch`.
    """
    def __init__(self,
        what:Step|Explored, # A step, from `look`, as it is; or what steppers do in all steps
        when:str='' # For which parameters it is; empty: for all
    ):
        found = what if isinstance(what, Explored) else of_step(what)
        tensors = [Line(f'{k}_old', Sym(k, scalar)) for k, scalar in found.old.items()]
        items = _needed([*tensors, *_steps(found, sorted(found.outcomes))])
        self.items, self.when, self.assumed = tuple(_short(items)), when, tuple(found.assumed)
        read = _reads(self.items) | {k for c in self.assumed for k in symbols(c)}
        self.starts = {k: v for k, v in found.starts.items() if k in read}
        self.notes = tuple(_notes(self.items, found))

    @property
    def lines(self) -> list[tuple]:
        "All lines, whatever their conditions: `(name, expression, stepper)`."
        return [(o.name, o.e, o.stepper) for o in _lines(self.items)]

    @property
    def names(self) -> list[str]:
        "The names in it, in their order."
        conditions = [k for c in (*_conditions(self.items), *self.assumed) for k in sorted(symbols(c))]
        return list(dict.fromkeys([k for o in _lines(self.items) for k in (o.name, *sorted(symbols(o.e)))] + conditions))

    @property
    def _starts_said(self) -> dict: return {k: v for k, v in self.starts.items() if v != ZERO}

    @property
    def text(self) -> str:
        "The formula in Python."
        starts = ', '.join(f"{k} = {'None' if e is None else text(e)}" for k, e in self._starts_said.items())
        before = [f'# before the first step: {starts}'] if starts else []
        before += [f'# while {text(c)}' for c in self.assumed]
        return '\n'.join([*before, *_python(self.items), *(f'# {n}' for n in self.notes)])

    @property
    def latex(self) -> str:
        "The formula in LaTeX."
        def start(k, e):
            if e is None: return latex(call('is_none', Sym(k)))
            return f'{latex_name(k)} = {latex(e)}'
        starts = r', \; '.join(start(k, e) for k, e in self._starts_said.items())
        before = [rf'&\text{{before the first step: }} {starts}'] if starts else []
        before += [rf'&\text{{while }} {latex(c)}' for c in self.assumed]
        notes = [rf'&\text{{{_plain_text(n)}}}' for n in self.notes]
        lines = ' \\\\\n'.join([*before, *_tex(self.items), *notes])
        return f'\\begin{{aligned}}\n{lines}\n\\end{{aligned}}'

    def __str__(self): return self.text
    def __repr__(self): return self.text
    def _repr_latex_(self): return f'$$\n{self.latex}\n$$' if self.items else None


# One step after the other

def _steps(found, places) -> list:
    "What steppers do, one after the other: those after one that ends the step are under the condition that it doesn't"
    items = []
    for i, place in enumerate(places):
        o = found.outcomes[place]
        lines, ends = _one_by_one(o.numbers, o.ends)
        items += [*o.items, *lines]
        if not isinstance(ends, Num):
            goes_on = [s.step for s in found.samples[place] if s.step and s.outcome.ends == Num(False)]
            items.append(Block(negated(ends), tuple(_steps(found, places[i+1:])), (), (found.words(goes_on), '')))
        if ends != Num(False): break
    return items


def _one_by_one(numbers, ends) -> tuple[list, Call|Num]:
    "Lines that are all worked out from what there was before, so that they can be done one by one; and the condition after them"
    todo = {o.name: o for o in numbers if o.e != Sym(o.name, o.e.scalar)} | {END: Line(END, ends)}
    done = []
    while len(todo) > 1:
        lines = [o for o in todo.values() if o.name != END]
        line = next((o for o in lines if not _waiting(o, todo)), lines[0])
        old = _waiting(line, todo)
        todo = _after(line, todo)
        if old: # it is needed as it was before
            done.append(Line(f'{line.name}_old', Sym(line.name)))
            before = {Sym(line.name): Sym(f'{line.name}_old')}
            todo = {k: o._replace(e=substituted(o.e, before)) for k, o in todo.items()}
        done.append(line)
    back = {_new_value(o.name): Sym(o.name) for o in numbers}
    return [o._replace(e=substituted(o.e, back)) for o in done], substituted(todo[END].e, back)


END = '' # the condition under which the step ends, among names


def _new_value(name) -> Sym: return Sym(f'{name} (new)')


def _after(line, todo) -> dict:
    "The other lines, in which the name stands for what it is after a line, where they compute that"
    new = {} if isinstance(line.e, (Sym, Num)) else {line.e: _new_value(line.name)}
    return {k: o._replace(e=substituted(o.e, new)) for k, o in todo.items() if k != line.name}


def _waiting(line, todo) -> list:
    "The other lines that need what the name is before a line"
    return [k for k, o in _after(line, todo).items() if line.name in symbols(o.e)]


# Shorter

def _lines(items):
    for o in items:
        if isinstance(o, Line): yield o
        else: yield from (*_lines(o.yes), *_lines(o.no))


def _conditions(items):
    for o in items:
        if isinstance(o, Block): yield from (o.condition, *_conditions(o.yes), *_conditions(o.no))


def _reads(items) -> set:
    return {k for e in (*(o.e for o in _lines(items)), *_conditions(items)) for k in symbols(e)}


def _writes(items) -> set: return {o.name for o in _lines(items)}


def _changed(item, new):
    "An item with other expressions in the place of some"
    if isinstance(item, Line): return item._replace(e=substituted(item.e, new))
    return item._replace(condition=substituted(item.condition, new), yes=tuple(_changed(o, new) for o in item.yes),
                         no=tuple(_changed(o, new) for o in item.no))


def _short(items, after=frozenset()) -> list:
    "Without lines that only give something another name. `after` are the names that are read after all of them"
    items = list(items)
    i = 0
    while i < len(items):
        line = items[i]
        if isinstance(line, Block):
            live = frozenset(_reads(items[i+1:])) | after
            yes, no = (tuple(_short(o, live)) for o in (line.yes, line.no))
            items[i:i+1] = [line._replace(yes=yes, no=no)] if yes or no else []
            i += bool(yes or no)
            continue
        if line.e == Sym(line.name, line.e.scalar): del items[i]
        elif isinstance(line.e, (Sym, Num)) and line.name not in ('p', 'grad'): i += not _passed_on(items, i, after)
        else: i += 1
    return items


def _passed_on(items, i, after) -> bool:
    "Put what a line gives another name in the place of that, and leave the line out if nobody needs the name; is it left out?"
    line, fixed = items[i], {items[i].name} | symbols(items[i].e)
    new = {Sym(line.name, scalar): line.e for scalar in (True, False)}
    changed, rewritten = [], False
    rest = items[i+1:]
    for o in rest:
        if isinstance(o, Block) and fixed & _writes([o]): break
        changed.append(_changed(o, new))
        rewritten = isinstance(o, Line) and o.name == line.name
        if isinstance(o, Line) and o.name in fixed: break
    needed = not rewritten and (line.name in _reads(rest[len(changed):]) or line.name in after)
    if needed and not line.kept: return False
    items[i+1:] = [*changed, *rest[len(changed):]]
    if line.kept: return False
    del items[i]
    return True


def _needed(items) -> list:
    "Without what a name was before, if nobody reads it"
    read = _reads(items)
    return [o for o in items if not (isinstance(o, Line) and o.stepper is None and o.name not in read)]


# Writing

INDENT = '    '


def _python(items, depth='') -> list[str]:
    "Lines of Python"
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
    "Rows of LaTeX"
    res = []
    for o in items:
        if isinstance(o, Line):
            res.append(rf'{depth}{latex_name(o.name)} &\leftarrow {latex(o.e)}' if not depth else
                       rf'&{depth}{latex_name(o.name)} \leftarrow {latex(o.e)}')
            continue
        yes, no = (rf' \quad \text{{({w})}}' if w else '' for w in o.when)
        res += [rf'&{depth}\text{{if }} {latex(o.condition)}\text{{:}}{yes}', *_tex(o.yes, depth + r'\quad ')]
        if o.no: res += [rf'&{depth}\text{{else:}}{no}', *_tex(o.no, depth + r'\quad ')]
    return res


def _plain_text(s) -> str:
    "`s` for LaTeX's text"
    for c in '\\{}': s = s.replace(c, ' ')
    for c in '_&%#$': s = s.replace(c, f'\\{c}')
    return s.replace('`', '').replace('^', ' ').replace('~', ' ')


def _notes(items, found):
    "What is to be said of functions that are not `math`'s or `torch`'s"
    unsaid = {}
    for o in _lines(items):
        for e in _calls(o.e):
            if e.name in ('f', 'F'): unsaid.setdefault(o.stepper, e)
    reasons = {found.steppers[place]: why for place, why in found.unsaid.items()}
    for stepper, e in unsaid.items():
        yield f"{text(e)} is what stepper `{stepper}` works out, which can't be said: {reasons.get(stepper, 'see there')}"
    names = {e.name for x in (*(o.e for o in _lines(items)), *_conditions(items)) for e in _calls(x)}
    for module in sorted({found.by_torch[k] for k in names & found.by_torch.keys()}):
        yield f"{', '.join(sorted(k for k in names if found.by_torch.get(k) == module))}: by torch, in `{module}`"


def _calls(e):
    "The functions in an expression"
    if isinstance(e, Call): yield e
    for x in _inside(e): yield from _calls(x)


def _inside(e) -> list:
    if isinstance(e, (Sym, Num)): return []
    if isinstance(e, Call): return list(e.args)
    return [x for o in e[0] for x in o if isinstance(x, tuple)]


def slots(
    step:Step, # From `look`
    program:Program # Its program
) -> list:
    "What each number that the program is handed was worked out from."
    return [expression_of(step.recording.trace.slots[k]) for k in program.slots]


def formulas(
    rehearsal:Rehearsal # A rehearsal that hasn't begun
) -> list[Formula]:
    "The formulas of a composition: one, of all kinds of steps. Raises `NotRecorded`."
    hypers = {k: v.item() if isinstance(v, torch.Tensor) and v.numel() == 1 else v for k, v in rehearsal.hypers.items()}
    rehearsal.hypers = hypers # numbers have names
    return [Formula(Explored(rehearsal))]
