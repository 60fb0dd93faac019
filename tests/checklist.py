"""What a new rule, part or operation still lacks: `python -m tests.checklist`, from the root of a clone.

Prints a line for each lack, with the file where it belongs. `--write` makes what can be made of the code: the tables of
`docs/tables.md`, the stubs for editors, and cells of `nbs/api.ipynb`, which are run; nothing else in them changes. The tests ask the same questions.
"""
import argparse
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(o) for o in (HERE, HERE/'editing', HERE/'engines', HERE/'tracing', ROOT) if str(o) not in sys.path] # as in conftest

from fastcore.docments import docments  # noqa: E402
from stubs import write_stubs  # noqa: E402
from zoo import CASES, LRS, ROWS, TABLES, algorithm_of, apart, reference, said  # noqa: E402

import optimcb as oc  # noqa: E402
from optimcb import algorithms, parts, steppers  # noqa: E402
from optimcb.catalog import Catalog, catalog  # noqa: E402
from optimcb.catalog import parts as catalog_of_parts  # noqa: E402
from optimcb.composition.roles import PLACES  # noqa: E402
from optimcb.composition.stepper import Stepper, innermost  # noqa: E402
from optimcb.composition.traits import traits_of  # noqa: E402

COMMAND = 'run `python -m tests.checklist --write`'
API = ROOT/'nbs'/'api.ipynb'
RULES_TABLE = re.compile(r'(<!-- table: .*? -->\n)(.*?)(<!-- end of table -->)', re.DOTALL)
PARTS_TABLE = re.compile(r'(<!-- parts: .*? -->\n)(.*?)(<!-- end of parts -->)', re.DOTALL)
YEAR = re.compile(r'\b(18|19|20)\d\d\b')

# Steppers without a paper: bookkeeping, and what is too plain to have one. Others may say "No source." in their docstrings
PLAIN = frozenset('''
    apply_update momentum_step rms_update average_update average_center eps_in_root step_stat debias_grad_avg debias_sqr_avg
    start_avgs use_sqr_max decay_lr nadam_schedule larc_step slow_start grad_update avg_update larc_update accumulate
    skip_nonfinite zero_nonfinite clip_value clip_tensor_norm clip_update clip_update_norm whole_step keep_start keep_bound
    share_d sync_d lr_in_grad keep_first_norm route_lr maximize lr_in_update count_steps schedule
    decode_state encode_state'''.split())

# Parts whose row isn't in `PARTS` of tests/editing/test_wrapping.py, and where they are tested with rules instead
TESTED_ELSEWHERE = {'rms_lr': 'zoo_momentum.py, in Tiger', 'scheduled': 'routing/test_routing.py', 'stored': 'training/test_storage.py', 'weight_decay': 'cases.py, in every rule',
                    'schedule_free': 'zoo_averages.py', 'ema_weights': 'state/test_eval_weights.py', 'swa_weights': 'state/test_eval_weights.py'}


class Lack(NamedTuple):
    "Something that a name still needs."
    kind: str # 'rule', 'part', 'stepper' or 'operation'
    name: str
    what: str # What it needs
    todo: str # What to do about it

    def __str__(self): return f"{self.kind} `{self.name}` lacks {self.what}: {self.todo}"


# Questions that tests ask, too

def undocumented(
    o # A public function, class or algorithm
) -> list[str]:
    "Parameters that have no comment."
    f = o.recipe if isinstance(o, oc.Algorithm) else o.__init__ if isinstance(o, type) and '__init__' in vars(o) else o
    f = inspect.unwrap(f) # steppers have a wrapper for calls by hand
    if not hasattr(f, '__code__') or f.__code__.co_filename.startswith('<'): return [] # a dataclass has a comment for each field
    own = f.__code__.co_varnames[:f.__code__.co_argcount + f.__code__.co_kwonlyargcount]
    return [k for k, said in docments(f).items() if not said and k in own and k not in ('self', 'cls', 'p')]


def has_source(
    o # A stepper or algorithm
) -> bool:
    "Does its docstring name a year, or say that there is no source?"
    doc = o.__doc__ or ''
    return bool(YEAR.search(doc)) or 'no source' in doc.lower() or getattr(o, '__name__', '') in PLAIN


def rows_of(
    name:str # Of an algorithm
) -> list[tuple]:
    "The rows of the tables of test cases that are tests of it."
    return [r for r in ROWS if getattr(algorithm_of(r[1]), '__name__', '') == name]


@cache
def shown_in_api() -> frozenset[str]:
    "Names that have a cell in `nbs/api.ipynb`."
    return frozenset(re.findall(r'show_doc\((\w+)\)', API.read_text()))


# What is lacking

def lacks() -> Iterator[Lack]:
    "All that is lacking, by name."
    for name, algo in _every(algorithms, oc.Algorithm).items(): yield from _of_rule(name, algo)
    for name, f in _every(steppers, Stepper).items(): yield from _of_stepper(name, f)
    for name, f in _parts().items(): yield from _of_part(name, f)
    yield from _of_operations()


def _of_rule(name, algo):
    def lack(what, todo): return Lack('rule', name, what, todo)
    file = algo.recipe.__module__.rpartition('.')[2]
    if not hasattr(oc, name):
        yield lack('its public name', f'put it in `__all__` of optimcb/algorithms/{file}.py')
        return
    yield from _documented('rule', name, algo)
    if not rows_of(name): yield lack('a reference', f'add a row to `CASES` of tests/zoo_{file}.py')
    elif name not in LRS and not any(algorithm_of(r[1]) is algo for r in CASES):
        yield lack('a learning rate for the digits', f'add it to `LRS` of tests/zoo_{file}.py')
    if f'`{name}`' not in _lines_of(RULES_TABLE): yield lack('its line in docs/tables.md', COMMAND)
    if name not in shown_in_api(): yield lack('its cell in nbs/api.ipynb', COMMAND)


def _of_stepper(name, f):
    if name not in steppers.__all__:
        if traits_of(f).place not in PLACES: return # steppers that only `wrap` puts in have no public name
        yield Lack('part', name, 'its public name', f'put it in `__all__` of {_file_of(f)}')
        return
    yield from _documented('stepper', name, f)
    if name not in shown_in_api(): yield Lack('stepper', name, 'its cell in nbs/api.ipynb', COMMAND)


def _of_part(name, f):
    from test_wrapping import PARTS
    def lack(what, todo): return Lack('part', name, what, todo)
    tested = {innermost(o) for fs in PARTS.values() for o in (fs if isinstance(fs, list) else [fs])}
    own = f() if name == 'look_ahead' else [f]
    if name not in parts.__all__:
        yield lack('its place among the parts', 'import it in optimcb/parts.py, and put it in `__all__` there')
    if name not in TESTED_ELSEWHERE and not {innermost(o) for o in own} & tested:
        yield lack('a test with every rule', 'add a row to `PARTS` of tests/editing/test_wrapping.py')
    lines = _lines_of(PARTS_TABLE)
    if not any(line in lines for line in (f'`{name}`', f'`{name}()`', f'`{name}(…)`')): yield lack('its line in docs/tables.md', COMMAND)


def _of_operations():
    from test_operations import FUNCTIONS, OPS, untried
    for name in untried():
        yield Lack('operation', name, 'an expression',
                   'add it to `EXPRESSIONS`, `ONE` or `TWO` of tests/tracing/test_operations.py')
    inner = {'add_alpha', 'sub_alpha', 'cast', 'cube', 'cube_root'} # what others become
    for name in OPS.keys() - FUNCTIONS.keys() - inner:
        yield Lack('operation', name, "torch's name for it", 'add it to optimcb/tracing/torch_api.py')


def _documented(kind, name, o):
    if not o.__doc__: yield Lack(kind, name, 'a docstring', 'say in one sentence what it does')
    elif not has_source(o):
        yield Lack(kind, name, 'a source', 'name paper, year and equation in its docstring, or say "No source."')
    missing = ', '.join(f'`{k}`' for k in undocumented(o))
    if missing: yield Lack(kind, name, f'comments for {missing}', 'write one beside each parameter')


def _every(package, kind) -> dict:
    "Functions or algorithms of a package's modules by name, those without a public name too"
    found = {}
    for module in [o for o in vars(package).values() if isinstance(o, ModuleType) and o.__name__.startswith(package.__name__ + '.')]:
        for k, o in vars(module).items():
            if k.startswith('_') or k in getattr(package, 'FORMULAS', ()): continue
            if kind is Stepper and _is_stepper(o, module) or kind is not Stepper and isinstance(o, kind): found[k] = o
    return found


def _is_stepper(o, module) -> bool:
    if not inspect.isfunction(o) or o.__module__ != module.__name__: return False
    return next(iter(inspect.signature(o).parameters), None) == 'p'


def _parts() -> dict:
    placed = {k: f for k, f in _every(steppers, Stepper).items() if traits_of(f).place in PLACES}
    inside = {k for k, f in placed.items() if traits_of(f).place == 'apply' or k not in steppers.__all__}
    in_lists = {innermost(f).__name__ for f in [*oc.look_ahead(), *oc.schedule_free(), *oc.scheduled(lr=oc.warmup(1)), *oc.stored(grad_avg='bfloat16')]}
    alone = {k: f for k, f in placed.items() if k not in inside | in_lists}
    return {**alone, **{k: getattr(parts, k) for k in parts.__all__}}


def _file_of(f) -> str: return str(Path(inspect.getsourcefile(innermost(f))).resolve().relative_to(ROOT.resolve()))


def _lines_of(table) -> set[str]:
    "What the first column of a table in docs/tables.md has"
    return {line.split(' | ')[0].removeprefix('| ') for line in table.search(TABLES.read_text())[2].splitlines()}


# What can be written

def reached(
    name:str # Of an algorithm
) -> str:
    "The power of ten that all its rows are within, on the eager engine, as in `1e-16`."
    worst = max(apart(partial(ours, engine='eager'), theirs) for _, ours, theirs, _ in rows_of(name))
    return f'{10.**math.ceil(math.log10(max(worst, 1e-16))):.0e}'


def table_of_rules(
    again:bool=False # Measure how near each comes to its reference, also where the table says so already?
) -> Catalog:
    "Each algorithm's costs, what it equals in the tests, and how nearly."
    known = {} if again else {k: f'{v:.0e}' for k, v in said().items()}
    rows = [(row, row['algorithm'].strip('`')) for row in catalog()]
    equal = {name: ', '.join(dict.fromkeys(reference(r[2]) for r in rows_of(name))) for _, name in rows}
    return Catalog({**_columns(row, 'algorithm', 'state', 'runs as'), 'equals': equal[name], 'to': known.get(name) or reached(name)}
                   for row, name in rows if rows_of(name))


def table_of_parts() -> Catalog:
    "Each part's place, hyper-parameters and costs."
    return Catalog(_columns(row, 'part', 'place', 'numbers', 'state', 'runs as') for row in catalog_of_parts())


def _columns(row, *names) -> dict: return {k: row[k] for k in names}


def write_tables(
    again:bool=False # Measure again?
) -> bool:
    "Write the tables of docs/tables.md. Returns whether that changed them."
    before = TABLES.read_text()
    after = RULES_TABLE.sub(lambda m: m[1] + table_of_rules(again).markdown + m[3], before)
    after = PARTS_TABLE.sub(lambda m: m[1] + table_of_parts().markdown + m[3], after)
    TABLES.write_text(after)
    said.cache_clear()
    return after != before


def write_api() -> list[str]:
    "Put cells for names without one into `nbs/api.ipynb`, each beside its neighbour in `__all__`. Returns the names."
    nb = json.loads(API.read_text())
    families = [*(m.__all__ for m in steppers.FAMILIES), algorithms.__all__, parts.__all__]
    wanted = {k: names for names in families for k in names if k not in shown_in_api()}
    for name, names in wanted.items(): nb['cells'].insert(_place_in(nb['cells'], name, names), _cell(name))
    if wanted: API.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n')
    shown_in_api.cache_clear()
    return list(wanted)


def _place_in(cells, name, names) -> int:
    "After the cell of the nearest name before it, else before that of the nearest one after it"
    at = {m[1]: i for i, c in enumerate(cells) if (m := re.fullmatch(r'show_doc\((\w+)\)', ''.join(c['source'])))}
    i = names.index(name)
    before, after = [k for k in names[:i] if k in at], [k for k in names[i+1:] if k in at]
    return at[before[-1]] + 1 if before else at[after[0]] if after else len(cells)


def _cell(name) -> dict:
    "A cell that has run, and is clean"
    from nbdev.showdoc import show_doc
    shown = show_doc(getattr(oc, name))
    data = {k: text.splitlines(keepends=True)
            for k, text in (('text/markdown', shown._repr_markdown_()), ('text/plain', repr(shown)))}
    output = dict(data=data, execution_count=None, metadata={}, output_type='execute_result')
    return dict(cell_type='code', execution_count=None, id=f'doc-{name}', metadata={}, outputs=[output],
                source=[f'show_doc({name})'])


def main(
    argv:list|None=None # Default: the command line
) -> int:
    "Print what is lacking, and with `--write` do what can be done. Returns 1 if something is left to do."
    p = argparse.ArgumentParser('python -m tests.checklist', description=__doc__.partition('\n')[0])
    p.add_argument('--write', action='store_true', help='write the tables of docs/tables.md, the stubs for editors, and cells of nbs/api.ipynb')
    p.add_argument('--again', action='store_true', help='with --write: measure again how near algorithms come to their references')
    a = p.parse_args(argv)
    if a.write:
        if write_tables(a.again): print('wrote docs/tables.md')
        for path in write_stubs(): print(f'wrote {path.relative_to(ROOT)}')
        for name in write_api(): print(f'wrote the cell of `{name}` in nbs/api.ipynb')
    found = list(lacks())
    for o in found: print(o)
    if not found: print('nothing is lacking')
    return int(bool(found))


if __name__ == '__main__': sys.exit(main())
