"""The gallery: a page for each algorithm and each part, generated from the code.

Formula, steppers, state and costs come from `explain`; arguments from comments beside them; references from the tables
of the tests, which are run again to say how near an algorithm comes to them."""
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pictures
from comments import comments_of
from fastcore.docments import docments
from formulas import mathml

import optimcb as oc
from optimcb import algorithms
from optimcb.algorithm import FOR_ALL, _for_all
from optimcb.catalog import LISTS, catalog
from optimcb.catalog import parts as catalog_of_parts
from optimcb.composition.roles import PLACES, place_of
from optimcb.composition.stepper import innermost
from optimcb.diagnosis.latex import latex_name
from optimcb.diagnosis.shapes import OF_SHAPE
from optimcb.tracing.recording import NotRecorded

TESTS = Path(__file__).parents[2]/'tests'
sys.path[:0] = [str(o) for o in (TESTS, TESTS/'editing') if str(o) not in sys.path]
from test_wrapping import REFERENCES  # noqa: E402
from zoo import ROWS, algorithm_of, apart, reference  # noqa: E402

FAMILIES = { # by module of `optimcb.algorithms`
    'classic': 'Classic', 'adaptive': 'Adam family', 'momentum': 'Signs and momentum',
    'parameter_free': 'Without a learning rate', 'matrices': 'For matrices', 'averages': 'Averaged weights'}
GROUPS = { # of parts, by their first place
    'gate': 'Whole steps', 'first': 'Around a step', 'gradient': 'Gradients', 'penalty': 'Decay', 'decay': 'Decay',
    'update': 'Updates', 'length': 'Updates', 'last': 'Averages of weights'}
SOURCE = re.compile(r'\s*\([^()]*\b(?:18|19|20)\d\d\b[^()]*\)') # a citation
URL = re.compile(r'(?<![(<])\b(?:https?://)?((?:arxiv\.org|doi\.org|github\.com)/[^\s,;)]+)')


@cache
def by_name() -> dict[str, oc.Algorithm]:
    "Return all algorithms by name."
    return {k: o for k in algorithms.__all__ if isinstance(o := getattr(oc, k), oc.Algorithm)}


@cache
def parts_by_name() -> dict[str, tuple[str, list]]:
    "Return all parts: by name, how it is called, and its steppers."
    lists = {k.partition('(')[0]: (k, fs) for k, (fs, _) in LISTS.items()}
    return {k: lists.get(k) or (k, [getattr(oc, k)]) for k in oc.parts.__all__}


def family(
    name:str # Of an algorithm
) -> str:
    "Return the title of an algorithm's family."
    return FAMILIES[by_name()[name].recipe.__module__.rpartition('.')[2]]


def group(
    name:str # Of a part
) -> str:
    "Return the title of a part's group."
    return GROUPS[place_of(parts_by_name()[name][1][0])]


# What pages consist of

def prose(
    doc:str # A docstring
) -> str:
    "Return a docstring as Markdown, with links."
    return URL.sub(lambda m: f'[{m[1].rstrip(".")}](https://{m[1].rstrip(".")})' + '.'*m[1].endswith('.'), inspect.cleandoc(doc))


def summary(
    doc:str # A docstring
) -> str:
    "Return the first paragraph of a docstring, in one line."
    return ' '.join(inspect.cleandoc(doc).partition('\n\n')[0].split())


def table(
    *rows:tuple # Of cells, the first for the header
) -> str:
    "Return a table in Markdown."
    def line(cells): return '| ' + ' | '.join(str(c).replace('|', r'\|') for c in cells) + ' |'
    return '\n'.join([line(rows[0]), line(['---']*len(rows[0])), *map(line, rows[1:])])


def stepper_link(
    f # A stepper
) -> str:
    "Return the name of a stepper, as a link to the API if it is public."
    own = innermost(f)
    name = own.__name__
    if name not in oc.steppers.__all__: return f'`{name}`'
    return f'[`{name}`][{own.__module__}.{name}]'


def _arguments(algo) -> str:
    "List the arguments of an algorithm, its own first"
    said = {k: o['docment'] for k, o in docments(algo, full=True).items()}
    said |= {k: v for k, v in docments(_for_all).items() if v}
    of_steppers = {k: v for o in algo.composition.steppers for k, v in comments_of(innermost(o)).items()}
    rows = [('argument', 'default', 'meaning')]
    for k, p in algo.signature.parameters.items():
        default = '' if p.default is p.empty else f'`{p.default!r}`'
        rows.append((f'`{k}`', default, said.get(k) or of_steppers.get(k, '')))
    rows.append(('`maximize`', '`False`', 'Maximize instead of minimize?'))
    own = [r for r in rows[1:] if r[0].strip('`') not in FOR_ALL | {'lr', 'maximize'}]
    for_all = [r for r in rows[1:] if r not in own]
    return table(rows[0], *own, *for_all)


def _formula(algo) -> str:
    "Show the formula of an algorithm with the names of its letters, and as Python"
    try: f = algo.formula
    except NotRecorded as e: return f'There is none: {e}'
    letters = [(k, latex_name(k)) for k in f.names]
    known = [f'{mathml(tex)} `{k}`' for k, tex in letters if not tex.startswith(r'\mathrm')]
    python = '\n'.join(f'    {line}' for line in f'```python\n{f.text}\n```'.splitlines())
    return f"{mathml(f.latex, block=True)}\n\n{', '.join(known)}.\n\n??? note \"The same as Python\"\n\n{python}"


def _flow(explained) -> str:
    "List the steppers with what they read and write"
    rows = [('stepper', 'what it does', 'reads', 'writes')]
    for s, said in zip(explained.composition.steppers, explained.steppers):
        label = said['stepper'].removeprefix(s.innermost.__name__)
        link = stepper_link(s.innermost) + (f' `{label}`' if label else '')
        names = [', '.join(f'`{k}`' for k in said[w]) for w in ('reads', 'writes')]
        rows.append((link, without_source(s.innermost.__doc__), *names))
    return table(*rows)


def without_source(doc) -> str: return SOURCE.sub('', summary(doc or '')).rstrip('.')


def _state(explained) -> str:
    rows = [(f'`{k}`', v) for k, v in explained.state.items()]
    return table(('name', 'kind'), *rows) if rows else 'None.'


def _costs(row, explained) -> str:
    moved = explained.bytes_each[1]
    runs = {'kernel': 'One kernel, in C on a CPU and in Triton on a GPU. The engines `eager` and `foreach` run it, too.',
            'steppers, one by one': 'The eager engine calls the steppers for each parameter.'}
    how = runs.get(row['runs as'])
    if how is None: how = f"Kernels, with calls of torch between them: {row['runs as'].removeprefix('kernels around ')}."
    each = f"{row['state']} bytes of state per element of a float32 matrix of 64 × 64"
    moves = '' if moved == '?' else f"; a kernel reads and writes {moved} bytes per element in a step, weights and gradient included"
    return f"{how}\n\nMemory: {each}{moves}."


# Pages

@cache
def reached(
    name:str # Of an algorithm
) -> tuple[list[str], float, float]:
    "Return the references of an algorithm, the tolerance of their tests, and how near it comes to them."
    rows = [r for r in ROWS if getattr(algorithm_of(r[1]), '__name__', '') == name]
    found = max(apart(partial(ours, engine='eager'), theirs) for _, ours, theirs, _ in rows)
    tolerance = max(max(tol) if isinstance(tol, list) else tol for *_, tol in rows)
    return list(dict.fromkeys(reference(r[2]) for r in rows)), tolerance, found


def _equality(name) -> str:
    theirs, tolerance, found = reached(name)
    known = {'its formula in a loop': "the formula of its source, in a plain loop that shares no code with the library"}
    said = ' and '.join(known.get(o, o) for o in theirs)
    return (f"The tests compare `{name}` with {said}: 50 steps in float64 on the eager engine. Relative to the size of each "
            f"tensor, the difference must stay below {tolerance:.0e}. In this build it was {f'{found:.1e}' if found else '0'}. "
            "The other engines are compared with the eager one.")


@cache
def algorithm_page(
    name:str # Of an algorithm
) -> tuple[str, bytes]:
    "Return the page of an algorithm in Markdown, and its picture."
    algo = by_name()[name]
    row = next(r for r in _rows() if r['algorithm'] == f'`{name}`')
    explained = algo.explain()
    picture, caption = pictures.of_algorithm(algo)
    if not all(k.looked.isdisjoint(OF_SHAPE) for k in explained.kinds):
        caption += f' The function has two weights, a vector; `{name}` treats vectors and matrices differently.'
    return f"""---
tags: [algorithm]
---
# {name} {{ #optimcb.{name} }}

{prose(algo.__doc__)}

```text
{_signature(algo)}
```

![The path of {name}]({name}.png){{ .path width="440" }}

{caption} Of {len(pictures.LRS)} learning rates, this one ends lowest. It says nothing about training networks.

## Formula

{_formula(algo)}

## Steppers

With the default options. Put others in with `replace`, `insert` and `remove`: see [Change an algorithm](../../how-to/change-an-algorithm.md).

{_flow(explained)}

## State

{_state(explained)}

## Engines and cost

{_costs(row, explained)}

## Arguments

{_arguments(algo)}

torch's names (`betas`, `momentum`, `weight_decay`, …) are understood, too.

## Tested against

{_equality(name)}
""", picture


def _signature(algo) -> str:
    args = [str(p) for p in algo.signature.parameters.values()]
    stars = [i for i, p in enumerate(algo.signature.parameters.values()) if p.kind is p.KEYWORD_ONLY]
    if stars: args.insert(stars[0], '*')
    return f"{algo.__name__}({', '.join(args)})"


@cache
def _rows(): return [*catalog(), *catalog_of_parts()]


@cache
def part_page(
    name:str # Of a part
) -> tuple[str, bytes|None]:
    "Return the page of a part in Markdown, and its picture."
    called, cbs = parts_by_name()[name]
    row = next(r for r in _rows() if r.get('part') == f'`{called}`')
    public = getattr(oc, name)
    rule = pictures.RULES.get(name, partial(oc.SGD))
    wrapped = rule.func.wrap(cbs)
    explained = wrapped.explain()
    drawn = pictures.of_part(name, cbs)
    picture, caption = drawn or (None, None)
    shown = f'![SGD with {name}, and without it]({name}.png){{ .path width="440" }}\n\n{caption}' if drawn else NO_PATH
    places = list(dict.fromkeys(place_of(f) for f in cbs))
    said = ' and '.join(f'*{k}* ({PLACES[k]})' for k in places)
    example = {'scheduled': 'scheduled(lr=warmup(100))'}.get(name, called)
    return f"""---
tags: [part]
---
# {name} {{ #optimcb.parts.{name} }}

{prose(public.__doc__)}

```text
Adam.wrap({example})
```

Place in a step: {said}.

{shown}

## Formula with SGD

{_formula(wrapped)}

## Steppers

{_part_steppers(cbs)}

## Arguments

{_part_arguments(public, wrapped, cbs)}

## State

{_state(explained)}

## Engines and cost

{_costs(row, explained)} This is for `SGD` with the part.

## Tested against

{_part_tests(name, cbs)}
""", picture


NO_PATH = 'No picture: on a function of two variables with finite gradients, this part changes nothing.'


def _part_steppers(cbs) -> str:
    return table(('stepper', 'what it does'), *((stepper_link(f), without_source(innermost(f).__doc__)) for f in cbs))


def _part_arguments(public, wrapped, cbs) -> str:
    own = {k: v for f in cbs for k, v in comments_of(innermost(f)).items() if k in wrapped.hypers}
    rows = [(f'`{k}`', f'`{wrapped.hypers[k]!r}`', said) for k, said in own.items()]
    if public not in cbs: # a function that makes the part
        rows = [(f'`{k}`', '', said) for k, said in comments_of(public).items() if k not in own] + rows
    if not rows: return 'None.'
    given = 'Pass them to the optimizer: `Adam.wrap(…)(params, lr=…, …)`. They can be set for each group, and scheduled.'
    return f"{given}\n\n{table(('argument', 'default', 'meaning'), *rows)}"


def _part_tests(name, cbs) -> str:
    mine = {innermost(f) for f in cbs}
    rows = [n for n, ours, _ in REFERENCES if mine & {s.innermost for s in ours.func.composition.steppers}]
    compared = (f"The tests compare it with a plain loop around `torch.optim` ({', '.join(rows)}): "
                'the difference must stay below 1e-12.')
    with_all = ('The tests put it around every algorithm, on every engine. All engines must give the same weights, '
                'or the combination must be refused with a reason.')
    found = [compared]*bool(rows) + [with_all]*(name in _tried())
    return ' '.join(found) or 'The tests run it on every engine, and compare it with the formula of its source.'


@cache
def _tried() -> set[str]:
    "Return the parts that are tested with every algorithm"
    from test_wrapping import PARTS
    tried = {innermost(f) for fs in PARTS.values() for f in (fs if isinstance(fs, list) else [fs])}
    return {k for k, (_, cbs) in parts_by_name().items() if tried & {innermost(f) for f in cbs}}


# Indices

def algorithms_index() -> str:
    "Return the page that lists all algorithms."
    said = []
    for title in FAMILIES.values():
        names = [k for k in by_name() if family(k) == title]
        rows = [(f'[{k}]({k}.md)', without_source(by_name()[k].__doc__), _row_of(k)['state'],
                 _runs(_row_of(k))) for k in names]
        said.append(f"## {title}\n\n{table(('algorithm', 'what it is', 'state', 'runs as'), *rows)}")
    return f"""# Algorithms

All {len(by_name())} algorithms, a page for each: formula, steppers, state, cost, arguments, reference, and a path on a test
function. *State* is in bytes per element of a float32 matrix. For `ranger`, which is `RAdam` with `Lookahead`, see
[the API](../../api/optimizers.md).

{(chr(10)*2).join(said)}
"""


def _row_of(name): return next(r for r in _rows() if name in (r.get('algorithm', '').strip('`'), r.get('part', '').strip('`').partition('(')[0]))
def _runs(row): return row['runs as'].partition(' around')[0].replace('kernels', 'kernels and torch')


def parts_index() -> str:
    "Return the page that lists all parts."
    said = []
    for title in dict.fromkeys(GROUPS.values()):
        names = [k for k in parts_by_name() if group(k) == title]
        rows = [(f'[{k}]({k}.md)', without_source(getattr(oc, k).__doc__), _row_of(k)['numbers'], _row_of(k)['state'])
                for k in names]
        said.append(f"## {title}\n\n{table(('part', 'what it does', 'options', 'state'), *rows)}")
    return f"""# Parts

All {len(parts_by_name())} parts, a page for each. A part goes with any algorithm: `Adam.wrap(clip_norm, cautious)`. It knows
its place in a step, so the order in which you list parts of different places doesn't matter. *State* is what `SGD` with the
part keeps, in bytes per element.

{(chr(10)*2).join(said)}
"""


def pages() -> Iterator[tuple[str, str|bytes]]:
    "Yield the files of the gallery: paths, and what is in them."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield 'gallery/algorithms/index.md', algorithms_index()
        yield 'gallery/parts/index.md', parts_index()
        for kind, names, page in (('algorithms', by_name(), algorithm_page), ('parts', parts_by_name(), part_page)):
            for name in names:
                text, picture = page(name)
                yield f'gallery/{kind}/{name}.md', text
                if picture: yield f'gallery/{kind}/{name}.png', picture
