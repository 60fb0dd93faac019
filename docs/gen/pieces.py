"Pieces of the gallery's pages, in Markdown: what an algorithm or a stepper says of itself."
import inspect
import re

from comments import comments_of
from fastcore.docments import docments

import optimcb as oc
from optimcb.algorithm import FOR_ALL, _for_all
from optimcb.composition.stepper import innermost
from optimcb.diagnosis.latex import latex_name
from optimcb.tracing.recording import NotRecorded

SOURCE = re.compile(r'\s*\([^()]*\b(?:18|19|20)\d\d\b[^()]*\)') # a citation
URL = re.compile(r'(?<![/\w])((?:arxiv\.org|doi\.org|github\.com)/[^\s,;)]+)') # without https://
RUNS = {
    'kernel': 'One kernel, in C on a CPU and in Triton on a GPU; `eager` and `foreach` run it, too.',
    'steppers, one by one': 'The eager engine calls the steppers for each parameter.'}


# Text

def prose(
    doc:str # A docstring
) -> str:
    "Return a docstring as Markdown, with links."
    return URL.sub(r'[\1](https://\1)', inspect.cleandoc(doc))


def summary(
    doc:str|None # A docstring
) -> str:
    "Return the first paragraph of a docstring in one line, without citations."
    first = inspect.cleandoc(doc or '').partition('\n\n')[0]
    return SOURCE.sub('', ' '.join(first.split())).rstrip('.')


def table(
    *rows:tuple # Of cells, the first row for the header
) -> str:
    "Return a table in Markdown."
    lines = [rows[0], ['---']*len(rows[0]), *rows[1:]]
    return '\n'.join('| ' + ' | '.join(str(c).replace('|', r'\|') for c in cells) + ' |' for cells in lines)


def stepper_link(
    f # A stepper
) -> str:
    "Return the name of a stepper, as a link to the API if it is public."
    own = innermost(f)
    name = own.__name__
    return f'[`{name}`][{own.__module__}.{name}]' if name in oc.steppers.__all__ else f'`{name}`'


# What an algorithm does

def formula(
    algo:oc.Algorithm # An algorithm
) -> str:
    "Show the formula of an algorithm, the names of its letters, and the same as Python."
    try: f = algo.formula
    except NotRecorded as e: return f'There is none: {e}'
    letters = [(k, latex_name(k)) for k in f.names]
    known = ', '.join(f'${tex}$ `{k}`' for k, tex in letters if not tex.startswith(r'\mathrm'))
    python = '\n'.join(f'    {line}' for line in ['```python', *f.text.splitlines(), '```'])
    return f'$$\n{f.latex}\n$$\n\n{known}.\n\n??? note "The same as Python"\n\n{python}'


def flow(
    explained # An explanation of an algorithm
) -> str:
    "List the steppers with what they read and write."
    rows = [('stepper', 'what it does', 'reads', 'writes')]
    for s, said in zip(explained.composition.steppers, explained.steppers):
        options = said['stepper'].removeprefix(s.innermost.__name__)
        link = stepper_link(s.innermost) + (f' `{options}`' if options else '')
        names = [', '.join(f'`{k}`' for k in said[which]) for which in ('reads', 'writes')]
        rows.append((link, summary(s.innermost.__doc__), *names))
    return table(*rows)


def state(
    explained # An explanation of an algorithm
) -> str:
    "List the state of a parameter."
    rows = [(f'`{k}`', kind) for k, kind in explained.state.items()]
    return table(('name', 'kind'), *rows) if rows else 'None.'


def costs(
    row:dict, # Of the catalog
    explained # An explanation of an algorithm
) -> str:
    "Say how an algorithm runs, and what memory it takes."
    around = row['runs as'].removeprefix('kernels around ')
    runs = RUNS.get(row['runs as'], f'Kernels, with calls of torch between them: {around}.')
    memory = f"{row['state']} bytes of state per element of a float32 matrix of 64 × 64"
    moved = explained.bytes_each[1]
    moves = f'. A kernel reads and writes {moved} bytes per element in a step, weights and gradient included'
    return f"{runs}\n\nMemory: {memory}{'' if moved == '?' else moves}."


def arguments(
    algo:oc.Algorithm # An algorithm
) -> str:
    "List the arguments of an algorithm, its own first."
    said = {k: v for s in algo.composition.steppers for k, v in comments_of(s.innermost).items()}
    said |= {k: o['docment'] for k, o in docments(algo, full=True).items() if o['docment']}
    said |= {k: v for k, v in docments(_for_all).items() if v}
    own, for_all = [], []
    for k, p in algo.signature.parameters.items():
        default = '' if p.default is p.empty else f'`{p.default!r}`'
        (for_all if k in FOR_ALL | {'lr'} else own).append((f'`{k}`', default, said.get(k, '')))
    for_all.append(('`maximize`', '`False`', 'Maximize instead of minimize?'))
    return table(('argument', 'default', 'meaning'), *own, *for_all)
