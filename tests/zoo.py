"""All rows of all tables of algorithms: those of `cases`, and those of each `zoo_*.py`, with the learning rates that these are meant to be used with.

`python tests/zoo.py` prints how many lines each algorithm takes, beyond what others use, too."""
import ast
import inspect
import re
import statistics
import textwrap
from collections import Counter
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import torch
from cases import CASES, TOL
from helpers import difference, trajectory

import optimcb as oc

THEMES = [import_module(f.stem) for f in sorted(Path(__file__).parent.glob('zoo_*.py'))]
ZOO = [(name, ours, theirs, *(tol or [TOL[torch.float64]])) for o in THEMES for name, ours, theirs, *tol in o.CASES]
ROWS = [(*row, TOL[torch.float64]) for row in CASES] + ZOO
LRS = {name: lr for o in THEMES for name, lr in o.LRS.items()} # by algorithm
OPTIONS = {name: options for o in THEMES for name, options in getattr(o, 'OPTIONS', {}).items()} # beside the learning rate, if there must be some
TABLES = Path(__file__).parent.parent/'docs'/'tables.md' # the page with what the code and the tests say of algorithms and parts
ALGORITHMS = {o.__name__: o for o in vars(oc).values() if isinstance(o, oc.Algorithm)}


def algorithm_of(ours) -> oc.Algorithm|None:
    "The algorithm that a row is a test of"
    if isinstance(ours, oc.Algorithm): return ours
    return algorithm_of(ours.func) if isinstance(ours, partial) else None


def apart(ours, theirs, **kwargs) -> float:
    "How far two optimizers are from each other after 50 steps in float64, relative to the size of each tensor"
    return difference(trajectory(ours, torch.float64, **kwargs), trajectory(theirs, torch.float64, **kwargs))


def reference(theirs) -> str:
    "What a row is compared with, in words"
    made = theirs.func if isinstance(theirs, partial) else theirs
    return f'`torch.optim.{made.__name__}`' if getattr(made, '__module__', '').startswith('torch.optim') else getattr(made, 'reference', 'its formula in a loop')


@cache
def said() -> dict[str, float]:
    "How near to their references docs/tables.md says that algorithms are"
    lines = TABLES.read_text().splitlines()
    return {line.split('`')[1]: float(line.rsplit('|', 2)[1]) for line in lines if re.search(r'^\| `.*\| 1e-\d+ \|$', line)}


def lines_of(f) -> int:
    "Lines of code of a function, without its signature, its docstring, comments and empty lines"
    body = ast.parse(textwrap.dedent(inspect.getsource(f))).body[0].body
    return len({n.lineno for o in body[ast.get_docstring(ast.Module(body, [])) is not None:]
                for n in ast.walk(o) if hasattr(n, 'lineno')})


def own_lines() -> dict[str, int]:
    "Of each algorithm the lines of its recipe, and of the steppers that no other algorithm has, with any flags"
    used = {name: {s.innermost for cbs in _variants(o) for s in oc.Composition(cbs).steppers}
            for name, o in ALGORITHMS.items()}
    shared = Counter(f for fs in used.values() for f in fs)
    return {name: lines_of(o.recipe) + sum(lines_of(f) for f in used[name] if shared[f] == 1)
            for name, o in ALGORITHMS.items()}


def _variants(algo):
    "What the recipe lists with all flags as they are, and with each of them turned"
    flags = {k: p.default for k, p in inspect.signature(algo.recipe).parameters.items() if isinstance(p.default, bool)}
    for change in ({}, *({k: not v} for k, v in flags.items())):
        try: yield algo.recipe(**change)
        except ValueError: continue


if __name__ == '__main__':
    for name, n in (found := own_lines()).items(): print(f'{n:3} {name}')
    print(f'{statistics.median(found.values()):3g} the median of {len(found)}')
