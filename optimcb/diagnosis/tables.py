"Tables as text and as HTML."
import html

STYLE = '''<style>
.optimcb table { border-collapse: collapse; margin: 0 0 .5em; color: inherit; font-size: inherit; }
.optimcb th, .optimcb td { text-align: left !important; padding: .15em .8em .15em 0; border: 0; background: none; color: inherit; }
.optimcb tr { background: none !important; }
details.optimcb code { background: none; color: inherit; padding: 0; font-size: inherit; }
.optimcb thead tr { border-bottom: 1px solid currentColor; }
.optimcb p { margin: .6em 0 .2em; }
</style>'''

def _range(numbers): return '–'.join(map(str, sorted({min(numbers), max(numbers)}))) if numbers else '?'

def _shown(v): return f'{v:g}' if isinstance(v, float) else str(v)


def _size(n) -> str:
    for unit in ('bytes', 'KiB', 'MiB'):
        if n < 1024: return f'{n:.4g} {unit}'
        n /= 1024
    return f'{n:.4g} GiB'


def _aligned(rows) -> list[str]:
    "Rows of a table as lines of text"
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]


def _code(s): return f'<code>{html.escape(s)}</code>'


def _html_table(rows, docs) -> str:
    head = ''.join(f'<th>{html.escape(c)}</th>' for c in rows[0])
    body = ''.join(f'<tr title="{html.escape(docs[i]) if docs else ""}">{"".join(f"<td>{_code(c) if c else str()}</td>" for c in row)}</tr>'
                   for i, row in enumerate(rows[1:]))
    return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
