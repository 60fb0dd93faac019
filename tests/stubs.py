"""What editors and type checkers know of the package, generated from the code: `python -m tests.checklist --write`.

An algorithm's signature is made of its recipe and its steppers, and modules and names are looked up when they are used.
An editor runs nothing, so stubs beside the code list the names and spell the signatures out.
"""
import inspect
import types
from collections import defaultdict
from numbers import Real
from pathlib import Path
from textwrap import indent

import optimcb
from optimcb import Algorithm, algorithms

PACKAGE = Path(optimcb.__file__).parent
HEADER = '# Generated from the code by `python -m tests.checklist --write`\n'
SUBMODULES = [*optimcb._PLACES, *optimcb._LATE] # attributes of the package that are modules
TYPES = {bool: 'bool', str: 'str'}

IMPORTS = '''from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from optimcb.algorithm import Algorithm
'''
ALIASES = '''# One value, one for each group, or a slice, for discriminative learning rates
Hyper = float | Tensor | Sequence[float] | slice
# Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists, one per group
Params = Tensor | Iterable[Any]
'''


def stubs() -> dict[Path, str]:
    "The stubs by their paths."
    return {PACKAGE/'__init__.pyi': of_package(), PACKAGE/'algorithms'/'__init__.pyi': of_algorithms()}


def of_package() -> str:
    "List each public name of the package, imported from where it is defined, under its own name: that exports it."
    homes = defaultdict(list)
    for k, o in public().items(): homes['optimcb.algorithms' if isinstance(o, Algorithm) else o.__module__].append(k)
    homes['optimcb'] = SUBMODULES
    homes['optimcb.environment'] = ['doctor']
    lines = [f'from {home} import {k} as {k}' for home in sorted(homes) for k in sorted(homes[home])]
    listed = ',\n    '.join(repr(k) for k in optimcb.__all__)
    return HEADER + '\n'.join(lines) + f'\n\n__version__: str\n__all__ = [\n    {listed}]\n'


def public() -> dict:
    "The functions, classes, algorithms and values of the package, by name."
    return {k: o for k, o in vars(optimcb).items() if not k.startswith('_') and not isinstance(o, types.ModuleType)}


def of_algorithms() -> str:
    "Spell out the signature of each algorithm."
    found = {k: getattr(algorithms, k) for k in algorithms.__all__}
    others = [f'from {o.__module__} import {k} as {k}' for k, o in found.items() if not isinstance(o, Algorithm)]
    shown = [_algorithm(k, o) for k, o in found.items() if isinstance(o, Algorithm)]
    listed = ',\n    '.join(map(repr, algorithms.__all__))
    imports = '\n'.join([*sorted(others), 'from optimcb.optimizer import Optimizer', ''])
    return '\n'.join([HEADER + IMPORTS + imports, ALIASES, *shown, f'__all__ = [\n    {listed}]\n'])


def _algorithm(name, algo) -> str:
    "A class whose call has the signature; torch's names, and those of edited lists, are taken, too"
    lines = ['self', *_arguments(algo.signature), '**names: Any']
    doc = indent(f'"""{inspect.getdoc(algo)}"""', ' '*8)
    arguments = indent(',\n'.join(lines), ' '*8)
    return f'class _{name}(Algorithm):\n    def __call__(\n{arguments}\n    ) -> Optimizer:\n{doc}\n{name}: _{name}\n'


def _arguments(signature):
    is_open = True # to arguments by position
    for k, o in signature.parameters.items():
        if o.kind is o.KEYWORD_ONLY and is_open:
            yield '*'
            is_open = False
        default = '' if o.default is o.empty else f' = {o.default!r}'.replace('inf', "float('inf')")
        yield f'{k}: {_type(k, o.default)}{default}'


def _type(name, default) -> str:
    if name == 'params': return 'Params'
    if type(default) in TYPES: return TYPES[type(default)]
    is_hyper = name == 'lr' or isinstance(default, Real)
    return 'Hyper' if is_hyper else 'Any'


def write_stubs() -> list[Path]:
    "Write the stubs that differ from the code. Returns their paths."
    changed = {path: text for path, text in stubs().items() if not path.is_file() or path.read_text() != text}
    for path, text in changed.items(): path.write_text(text)
    return list(changed)
