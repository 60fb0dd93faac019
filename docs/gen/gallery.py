"""The gallery: a page for each algorithm and each part, generated from the code.

Formula, steppers, state and costs come from `explain`; arguments from comments beside them; references from
the tables of the tests, which are run again to say how near an algorithm comes to them."""
import inspect
import warnings
from collections.abc import Iterator
from functools import cache, partial
from textwrap import fill

import drawings
import tested
from comments import comments_of
from pieces import arguments, costs, flow, formula, prose, state, stepper_link, summary, table

import optimcb as oc
from optimcb import algorithms
from optimcb.catalog import LISTS, catalog
from optimcb.catalog import parts as catalog_of_parts
from optimcb.composition.roles import PLACES, place_of
from optimcb.composition.stepper import innermost
from optimcb.diagnosis.shapes import OF_SHAPE

FAMILIES = { # by module of `optimcb.algorithms`
    'classic': 'Classic', 'adaptive': 'Adam family', 'momentum': 'Signs and momentum',
    'parameter_free': 'Without a learning rate', 'matrices': 'For matrices', 'averages': 'Averaged weights'}
GROUPS = { # of parts, by their first place
    'gate': 'Whole steps', 'first': 'Around a step', 'gradient': 'Gradients', 'penalty': 'Decay',
    'decay': 'Decay', 'update': 'Updates', 'length': 'Updates', 'last': 'Averages of weights'}
CALLS = { # how parts are written, if not as in the catalog
    'scheduled': 'scheduled(lr=warmup(100))', 'stored': "stored(grad_avg='bfloat16')"}
NO_PATH = 'No picture: on a function of two variables with finite gradients, this part changes nothing.'


# What there is

@cache
def algorithms_by_name() -> dict[str, oc.Algorithm]:
    "Return all algorithms."
    return {k: o for k in algorithms.__all__ if isinstance(o := getattr(oc, k), oc.Algorithm)}


@cache
def parts_by_name() -> dict[str, tuple[str, list]]:
    "Return all parts: how each is called, and its steppers."
    lists = {k.partition('(')[0]: (k, fs) for k, (fs, _) in LISTS.items()}
    return {k: lists.get(k) or (k, [getattr(oc, k)]) for k in oc.parts.__all__}


def family(
    name:str # Of an algorithm
) -> str:
    "Return the title of an algorithm's family."
    return FAMILIES[algorithms_by_name()[name].recipe.__module__.rpartition('.')[2]]


def group(
    name:str # Of a part
) -> str:
    "Return the title of a part's group."
    return GROUPS[place_of(parts_by_name()[name][1][0])]


@cache
def _rows() -> dict[str, dict]:
    "Return the rows of the catalog by name"
    rows = [*catalog(), *catalog_of_parts()]
    return {next(iter(r.values())).strip('`').partition('(')[0]: r for r in rows}


# A page

def algorithm_page(
    name:str # Of an algorithm
) -> tuple[str, bytes]:
    "Return the page of an algorithm in Markdown, and its picture."
    algo = algorithms_by_name()[name]
    explained = algo.explain()
    picture, caption = drawings.of_algorithm(algo)
    if not all(k.looked.isdisjoint(OF_SHAPE) for k in explained.kinds):
        caption += f' The two weights are a vector: `{name}` treats vectors and matrices differently.'
    return f"""# {name} {{ #optimcb.{name} }}

{prose(algo.__doc__)}

```python
{_signature(algo)}
```

![The path of {name}]({name}.png){{ .path width="440" }}

{caption} It says nothing about training networks.

## Formula

{formula(algo)}

## Steppers

With the default options. `replace`, `insert` and `remove` change the list: see
[Change an algorithm](../../how-to/change-an-algorithm.md).

{flow(explained)}

## State

{state(explained)}

## Engines and cost

{costs(_rows()[name], explained)}

## Arguments

{arguments(algo)}

torch's names (`betas`, `momentum`, `weight_decay`, …) are understood, too.

## Tested against

{tested.of_algorithm(name)}
""", picture


def _signature(algo) -> str:
    signature = inspect.signature(algo)
    return fill(f'{algo.__name__}{signature}', 84, subsequent_indent='    ', break_long_words=False)


def part_page(
    name:str # Of a part
) -> tuple[str, bytes|None]:
    "Return the page of a part in Markdown, and its picture."
    called, cbs = parts_by_name()[name]
    public = getattr(oc, name)
    wrapped = drawings.RULES.get(name, partial(oc.SGD)).func.wrap(cbs)
    explained = wrapped.explain()
    picture, caption = drawings.of_part(name, cbs) or (None, None)
    path = f'![SGD with {name}, and without it]({name}.png){{ .path width="440" }}\n\n{caption}'
    places = dict.fromkeys(place_of(f) for f in cbs)
    steppers = [(stepper_link(f), summary(innermost(f).__doc__)) for f in cbs]
    return f"""# {name} {{ #optimcb.parts.{name} }}

{prose(public.__doc__)}

```python
Adam.wrap({CALLS.get(name, called)})
```

Place in a step: {' and '.join(f'*{k}* ({PLACES[k]})' for k in places)}.

{path if picture else NO_PATH}

## Formula with SGD

{formula(wrapped)}

## Steppers

{table(('stepper', 'what it does'), *steppers)}

## Arguments

{_part_arguments(public, wrapped, cbs)}

## State

{state(explained)}

## Engines and cost

{costs(_rows()[name], explained)} This is for `SGD` with the part.

## Tested against

{tested.of_part(name, cbs)}
""", picture


def _part_arguments(public, wrapped, cbs) -> str:
    own = {k: v for f in cbs for k, v in comments_of(innermost(f)).items() if k in wrapped.hypers}
    rows = [(f'`{k}`', f'`{wrapped.hypers[k]!r}`', said) for k, said in own.items()]
    if public not in cbs: # a function that makes the part
        rows = [(f'`{k}`', '', said) for k, said in comments_of(public).items() if k not in own] + rows
    if not rows: return 'None.'
    given = ('Pass numbers to the optimizer: `Adam.wrap(…)(params, lr=…, …)`. '
             'They can be set for each group, and scheduled.')
    return f"{given}\n\n{table(('argument', 'default', 'meaning'), *rows)}"


# Indices

def algorithms_index() -> str:
    "Return the page that lists all algorithms."
    said = []
    for title in FAMILIES.values():
        rows = [('algorithm', 'what it is', 'state', 'runs as')]
        for name, algo in algorithms_by_name().items():
            if family(name) != title: continue
            row = _rows()[name]
            runs = 'kernels and torch' if 'around' in row['runs as'] else row['runs as']
            rows.append((f'[{name}]({name}.md)', summary(algo.__doc__), row['state'], runs))
        said.append(f'## {title}\n\n{table(*rows)}')
    return f"""# Algorithms

All {len(algorithms_by_name())} algorithms, a page for each: formula, steppers, state, cost, arguments,
reference, and a path on a test function. *State* is in bytes per element of a float32 matrix. For
`ranger`, which is `RAdam` with `Lookahead`, see [the API](../../api/optimizers.md).

""" + '\n\n'.join(said) + '\n'


def parts_index() -> str:
    "Return the page that lists all parts."
    sections = []
    for title in dict.fromkeys(GROUPS.values()):
        rows = [('part', 'what it does', 'options', 'state')]
        for name in parts_by_name():
            if group(name) != title: continue
            row = _rows()[name]
            said = summary(getattr(oc, name).__doc__)
            rows.append((f'[{name}]({name}.md)', said, row['numbers'], row['state']))
        sections.append(f'## {title}\n\n{table(*rows)}')
    return f"""# Parts

All {len(parts_by_name())} parts, a page for each. A part goes with any algorithm, as in
`Adam.wrap(clip_norm, cautious)`. It knows its place in a step, so the order in which you list parts of
different places doesn't matter. *State* is what `SGD` with the part keeps, in bytes per element.

""" + '\n\n'.join(sections) + '\n'


def pages() -> Iterator[tuple[str, str|bytes]]:
    "Yield the files of the gallery: paths, and what is in them."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield 'gallery/algorithms/index.md', algorithms_index()
        yield 'gallery/parts/index.md', parts_index()
        for k in algorithms_by_name(): yield from _files(f'gallery/algorithms/{k}', *algorithm_page(k))
        for k in parts_by_name(): yield from _files(f'gallery/parts/{k}', *part_page(k))


def _files(path, text, picture):
    yield f'{path}.md', text
    if picture: yield f'{path}.png', picture
