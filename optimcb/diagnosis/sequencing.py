"""Turn what steppers do into lines that can be read and run from top to bottom.

All numbers of a stepper are computed from the old values, so their lines are sorted until each can overwrite
its name. Lines that only rename something are left out."""
from optimcb.diagnosis.choices import negated
from optimcb.diagnosis.expressions import Num, Sym, symbols
from optimcb.diagnosis.outcomes import Behaviour, Block, Line, flat_lines
from optimcb.diagnosis.rewriting import substituted

__all__ = ['conditions', 'in_sequence', 'names_read']


def in_sequence(
    behaviour:Behaviour # What the steppers do
) -> tuple:
    "Return the lines and blocks of a step, from top to bottom."
    before = [Line(f'{k}_old', Sym(k, scalar)) for k, scalar in behaviour.old.items()]
    return tuple(_short(_needed([*before, *_steps(behaviour, sorted(behaviour.outcomes))])))


def conditions(
    items # Lines and blocks
):
    "Iterate over the conditions in items."
    for o in items:
        if isinstance(o, Block): yield from (o.condition, *conditions(o.yes), *conditions(o.no))


def names_read(
    items # Lines and blocks
) -> set[str]:
    "Collect the names that items read."
    return {k for e in (*(o.e for o in flat_lines(items)), *conditions(items)) for k in symbols(e)}


def _steps(behaviour, places) -> list:
    "List the steppers' lines; after one that may end the step, under the condition that it doesn't"
    items = []
    for i, place in enumerate(places):
        outcome = behaviour.outcomes[place]
        lines, ends = _one_by_one(outcome.numbers, outcome.ends)
        items += [*outcome.items, *lines]
        if not isinstance(ends, Num):
            going_on = (s for s in behaviour.samples[place] if s.outcome.ends == Num(False))
            goes_on = sorted({s.step for s in going_on if s.step})
            rest = tuple(_steps(behaviour, places[i+1:]))
            items.append(Block(negated(ends), rest, (), (behaviour.words(goes_on), '')))
        if ends != Num(False): break
    return items


# Numbers, one by one

END = '' # stands among names for the condition that ends the step


def _one_by_one(numbers, ends) -> tuple:
    "Return lines for numbers that are all computed from old values, and the condition after them"
    todo = {o.name: o for o in numbers if o.e != Sym(o.name, o.e.scalar)} | {END: Line(END, ends)}
    done = []
    while len(todo) > 1:
        lines = [o for o in todo.values() if o.name != END]
        line = next((o for o in lines if not _waiting(o, todo)), lines[0])
        old = _waiting(line, todo)
        todo = _after(line, todo)
        if old: # its old value is needed
            done.append(Line(f'{line.name}_old', Sym(line.name)))
            before = {Sym(line.name): Sym(f'{line.name}_old')}
            todo = {k: o._replace(e=substituted(o.e, before)) for k, o in todo.items()}
        done.append(line)
    back = {_new_value(o.name): Sym(o.name) for o in numbers}
    return [o._replace(e=substituted(o.e, back)) for o in done], substituted(todo[END].e, back)


def _new_value(name) -> Sym: return Sym(f'{name} (new)')


def _after(line, todo) -> dict:
    "Return the remaining lines, which use a line's name for the expression that it computes"
    new = {} if isinstance(line.e, (Sym, Num)) else {line.e: _new_value(line.name)}
    return {k: o._replace(e=substituted(o.e, new)) for k, o in todo.items() if k != line.name}


def _waiting(line, todo) -> list:
    "Return the other lines that need the old value of a line's name"
    return [k for k, o in _after(line, todo).items() if line.name in symbols(o.e)]


# Superfluous lines

def _needed(items) -> list:
    "Remove saved old values that nothing reads"
    read = names_read(items)
    def is_needed(o): return not isinstance(o, Line) or o.stepper is not None or o.name in read
    return [o for o in items if is_needed(o)]


def _short(items, after=frozenset()) -> list:
    "Remove lines that only rename something. `after` has names that are read later"
    items = list(items)
    i = 0
    while i < len(items):
        line = items[i]
        if isinstance(line, Block):
            block = _short_block(line, frozenset(names_read(items[i+1:])) | after)
            items[i:i+1] = block
            i += len(block)
        elif line.e == Sym(line.name, line.e.scalar): del items[i]
        else:
            is_other_name = isinstance(line.e, (Sym, Num)) and line.name not in ('p', 'grad')
            is_left_out = is_other_name and _pass_on(items, i, after)
            i += not is_left_out
    return items


def _short_block(block, after) -> list:
    "Remove lines of a block that only rename something, and the block if none are left"
    yes, no = (tuple(_short(o, after)) for o in (block.yes, block.no))
    return [block._replace(yes=yes, no=no)] if yes or no else []


def _pass_on(items, i, after) -> bool:
    "Replace a line's name by its expression in later lines. Returns whether the line can be removed"
    line, fixed = items[i], {items[i].name} | symbols(items[i].e)
    new = {Sym(line.name, scalar): line.e for scalar in (True, False)}
    changed, is_rewritten = [], False
    rest = items[i+1:]
    for o in rest:
        if isinstance(o, Block) and fixed & {k.name for k in flat_lines([o])}: break
        changed.append(_changed(o, new))
        is_rewritten = isinstance(o, Line) and o.name == line.name
        if isinstance(o, Line) and o.name in fixed: break
    left = rest[len(changed):]
    is_needed = not is_rewritten and (line.name in names_read(left) or line.name in after)
    if is_needed and not line.kept: return False
    items[i+1:] = [*changed, *left]
    if line.kept: return False
    del items[i]
    return True


def _changed(item, new):
    "Substitute expressions in an item"
    if isinstance(item, Line): return item._replace(e=substituted(item.e, new))
    yes, no = (tuple(_changed(o, new) for o in items) for items in (item.yes, item.no))
    return item._replace(condition=substituted(item.condition, new), yes=yes, no=no)
