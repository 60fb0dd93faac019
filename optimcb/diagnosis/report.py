"Show an explanation as text, and as HTML for a notebook."
import html

from optimcb.diagnosis.groups import placement
from optimcb.diagnosis.kinds import is_real, live_parameters
from optimcb.diagnosis.latex import latex_name

__all__ = ['as_html', 'as_text', 'range_of']


STYLE = '''<style>
.optimcb table { border-collapse: collapse; margin: 0 0 .5em; color: inherit; font-size: inherit; }
.optimcb th, .optimcb td { text-align: left !important; padding: .15em .8em .15em 0; border: 0; }
.optimcb th, .optimcb td { background: none; color: inherit; }
.optimcb tr { background: none !important; }
details.optimcb code { background: none; color: inherit; padding: 0; font-size: inherit; }
.optimcb thead tr { border-bottom: 1px solid currentColor; }
.optimcb p { margin: .6em 0 .2em; }
</style>'''


WIDE = 10 # columns of a table that fit a notebook's page


def as_text(
    explanation # An `Explanation`
) -> str:
    "Write an explanation as text, with aligned tables."
    out = [explanation.title]
    for title, rows in _sections(explanation):
        is_table = bool(rows) and isinstance(rows[0], tuple)
        if len(rows) <= is_table: continue # only a header
        lines = _aligned(rows) if is_table else rows
        out += ['', title, *(f'  {line}' for line in lines)]
    for f in explanation.formulas:
        out += ['', f'formula {f.when}'.strip(), *(f'  {line}' for line in f.text.splitlines())]
    return '\n'.join(out)


def as_html(
    explanation # An `Explanation`
) -> str:
    "Write an explanation as collapsible HTML, with formulas for MathJax."
    docs = [r['doc'] for r in explanation.steppers]
    out = [f'<details open class="optimcb"><summary><b>{html.escape(explanation.title)}</b></summary>', STYLE]
    for title, rows in _sections(explanation):
        is_table, head = bool(rows) and isinstance(rows[0], tuple), f'<p><b>{title}</b></p>'
        if not is_table: out += [head, '<br>'.join(map(_code, rows))]
        elif len(rows) > 1: out += [head, _html_table(_upright(rows), docs if title == 'steppers' else ())]
    for f in explanation.formulas:
        out += [f'<p><b>formula</b> {html.escape(f.when)}</p>', html.escape(f._repr_latex_() or '')]
    letters = {k: latex_name(k) for f in explanation.formulas for k in f.names}
    known = [(k, tex) for k, tex in letters.items() if not tex.startswith(r'\mathrm')]
    out.append(', '.join(rf'\({html.escape(tex)}\) {_code(k)}' for k, tex in known))
    return '\n'.join([*out, '</details>'])


# Sections: titles, and rows of a table (with its header) or lines

def _sections(e):
    rows = [(str(i), r['stepper'], ', '.join(r['reads']), ', '.join(r['writes']))
            for i, r in enumerate(e.steppers)]
    if not e.own_step: yield 'steppers', [('', 'stepper', 'reads', 'writes'), *rows]
    yield 'hyper-parameters', _hypers(e)
    yield 'where', [('rule', 'says', 'parameters', 'elements', 'which'), *placement(e.composition, e.groups)]
    yield 'state', [('name', 'kind'), *e.state.items()]
    yield 'cost', _costs(e)
    yield 'engine', e.engine
    if e.notes: yield 'notes', e.notes
    if e.warnings: yield 'warnings', e.warnings


def _hypers(e) -> list[tuple]:
    "List each group's hyper-parameters; an algorithm has no parameters and no learning rate yet"
    has_params = any(g.params for g in e.groups)
    found = dict.fromkeys(n for g in e.groups for n in g.hypers if n not in e.composition.masks)
    names = sorted(found, key=lambda n: n != 'lr') # `lr` comes first
    rows = [(*(('group', 'parameters', 'elements') if has_params else ()), *names)]
    for i, g in enumerate(e.groups):
        values = ['…' if n == 'lr' and not has_params else _shown(g.hypers.get(n, '')) for n in names]
        rows.append((*(_sizes(i, g) if has_params else ()), *values))
    return rows


def _sizes(index, group) -> tuple:
    "Return the index of a group, and the numbers of its parameters and their elements"
    real = [p for p in group.params if is_real(p)]
    frozen = len(real) - len(live_parameters(group))
    count = f'{len(group.params):,}' + (f' ({frozen:,} frozen)' if frozen else '')
    return str(index), count, f'{sum(p.numel() for p in real):,}'


def _costs(e) -> list[str]:
    has_params = any(g.params for g in e.groups)
    kept, moved = e.bytes_each
    state = [] if e.own_step else [f'{kept} bytes an element']
    if has_params: state.append(f'{_size(e.state_bytes)} in all')
    res = [f"state: {', '.join(state)}"]
    if e.moved_bytes is None: return res
    in_all = f', {_size(e.moved_bytes)} in all' if has_params else ''
    return [*res, f'a kernel moves {moved} bytes an element{in_all}']


# Numbers and tables

def range_of(
    numbers # A set of numbers
) -> str:
    "Write the smallest and largest number, or the only one, or `?`."
    return '–'.join(map(str, sorted({min(numbers), max(numbers)}))) if numbers else '?'


def _shown(v): return f'{v:g}' if isinstance(v, float) else str(v)


def _size(n) -> str:
    for unit in ('bytes', 'KiB', 'MiB'):
        if n < 1024: return f'{n:.4g} {unit}'
        n /= 1024
    return f'{n:.4g} GiB'


def _aligned(rows) -> list[str]:
    "Format the rows of a table as lines of text"
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]


def _code(s): return f'<code>{html.escape(s)}</code>'


def _upright(rows) -> list[tuple]:
    "Turn a table that is wider than a page, so that its columns are rows"
    return [*zip(*rows)] if len(rows[0]) > WIDE else rows


def _html_table(rows, docs) -> str:
    def cells(row): return ''.join(f'<td>{_code(c) if c else ""}</td>' for c in row)
    head = ''.join(f'<th>{html.escape(c)}</th>' for c in rows[0])
    titles = docs or ['']*len(rows)
    body = ''.join(f'<tr title="{html.escape(doc)}">{cells(row)}</tr>' for row, doc in zip(rows[1:], titles))
    return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
