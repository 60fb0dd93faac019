"Text about arguments and recipes, for `?` in IPython and for `print`."
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Real

from fastcore.docments import docments

from optimcb.composition.pipeline import Composition
from optimcb.composition.stepper import Stepper
from optimcb.hypers.values import NOT_NEGATIVE, RANGES

__all__ = ['comments_of', 'comments_of_steppers', 'explain_arguments', 'explain_hypers', 'explained',
           'recipe']

SYMBOLS = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
HIDDEN = ('p', 'self', 'cls', 'kwargs') # what only an optimizer passes


def explain_arguments(
    functions:Iterable[Callable] # Functions with comments beside their parameters
) -> None:
    "Let `?` in IPython, which calls `getdoc`, explain each argument of functions."
    for f in functions: f.getdoc = partial(_explained, f)


def explain_hypers(
    functions:Iterable[Callable] # Functions that list steppers, and need no arguments
) -> None:
    "Let `?` in IPython also explain the hyper-parameters of the steppers that a function lists."
    for f in functions: f.getdoc = partial(_with_hypers, f)


def _explained(f) -> str:
    parameters = inspect.signature(f).parameters
    of_stepper = 'p' in parameters
    rows = _rows(parameters.values(), comments_of(f), of_stepper)
    return _with_table(inspect.getdoc(f), 'Arguments', rows)


def _with_hypers(f) -> str:
    composition = Composition(f())
    hypers = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v)
              for k, v in composition.defaults.items()]
    rows = _rows(hypers, comments_of_steppers(composition))
    return _with_table(_explained(f), 'Hyper-parameters of its steppers', rows)


def explained(
    doc:str, # What it does
    parameters:Iterable[inspect.Parameter], # Of its signature
    comments:dict[str, str] # What each of them is, by name
) -> str:
    "Return a docstring that lists all arguments, with their defaults, comments and ranges, a line each."
    return _with_table(doc, 'Arguments', _rows(parameters, comments))


def _rows(parameters, comments, are_hypers=True) -> list:
    shown = [o for o in parameters if o.name not in HIDDEN]
    return [(_named(o), _said(o, comments.get(o.name, ''), are_hypers)) for o in shown]


def _with_table(doc, heading, rows) -> str:
    return '\n'.join([doc, '', heading, *_table(rows)]) if rows else doc


def _named(parameter) -> str:
    symbol, default = SYMBOLS.get(parameter.kind, ''), parameter.default
    if default is parameter.empty: return f'{symbol}{parameter.name}'
    return f'{symbol}{parameter.name}={getattr(default, "__name__", None) or repr(default)}'


def _said(parameter, comment, is_hyper) -> str:
    within = _range(parameter) if is_hyper else ''
    return f'{comment}; {within}' if within and ' to 1' not in comment else comment


def _range(parameter) -> str:
    "The valid values of a hyper-parameter, in words"
    is_number = isinstance(parameter.default, Real) and not isinstance(parameter.default, bool)
    least, limit = RANGES.get(parameter.name) or (NOT_NEGATIVE if is_number else (None, None))
    if least is None: return ''
    return f'at least {least}' if limit in (None, math.inf) else f'at least {least}, less than {limit}'


def _table(rows) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, said in rows: yield f'    {name:<{width}}  {said}'.rstrip()


def comments_of(
    f:Callable # A function with comments beside its parameters
) -> dict[str, str]:
    "What the comments beside a function's parameters say, by name."
    f = inspect.unwrap(f)
    if not inspect.isfunction(f): return {}
    found, last = docments(f), [*inspect.signature(f).parameters.values()][-1:]
    if last and last[0].kind is last[0].VAR_KEYWORD: # its comment is taken for that of the result
        found[last[0].name] = found.get('return')
    return {k: comment for k, comment in found.items() if comment}


def comments_of_steppers(
    composition:Composition # Steppers
) -> dict[str, str]:
    "What the comments of steppers say, by the names that these have in the composition."
    found = {}
    for s in composition.steppers:
        comments = comments_of(s.innermost)
        inner = [k for k in inspect.signature(s.innermost).parameters if k not in HIDDEN]
        for name, k in zip(s.names, inner): found.setdefault(name, comments.get(k, ''))
    return found


def recipe(
    title:str, # Name of the algorithm
    composition:Composition, # Its steppers
    hypers:dict # Its hyper-parameters
) -> str:
    "List steppers in their order, each with the numbers that it reads."
    rows = [(s.label, ', '.join(_numbers(s, hypers))) for s in composition.steppers]
    return '\n'.join([title, *_table(rows)])


def _numbers(stepper:Stepper, hypers) -> Iterator[str]:
    for k in stepper.names:
        if k in hypers: yield f'{k}={hypers[k]!r}'
        elif k == 'lr': yield k
