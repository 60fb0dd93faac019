"Facts from a function's signature and code: its names, its defaults, and the arguments that partials fix."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from types import CodeType

__all__ = ['TORCH_KEYWORDS', 'chain', 'code_of', 'hyper_defaults', 'innermost', 'is_number',
           'keywords_fixed', 'name_of', 'parameters', 'strings', 'takes_no_parameter']


TORCH_KEYWORDS = frozenset({'alpha', 'value', 'beta', 'dim', 'dtype', 'device', 'keepdim', 'memory_format',
                            'min', 'max', 'out'}) # arguments of torch functions, not names of state


# Partials

def chain(
    f:Callable # A stepper
) -> Iterator:
    "Yield `f`, then the functions inside its partials, from the outermost to the innermost."
    yield f
    while isinstance(f, partial): yield (f := f.func)


def innermost(
    f:Callable # A stepper
) -> Callable:
    "Return the function inside all partials."
    while isinstance(f, partial): f = f.func
    return f


def name_of(
    f:Callable # A stepper
) -> str:
    "Return the name of the function inside all partials, or the type's name of a callable object."
    o = innermost(f)
    return getattr(o, '__name__', type(o).__name__)


def keywords_fixed(
    f:Callable # A stepper
) -> dict:
    "Return the keyword arguments that partials fix."
    return {k: v for o in reversed(list(chain(f))) if isinstance(o, partial) for k, v in o.keywords.items()}


# Signatures

def parameters(
    f:Callable # A stepper
) -> tuple[list[inspect.Parameter], bool]:
    "Return the parameters that `f` takes by name after the first one, and whether it also takes `**kwargs`."
    try: ps = list(inspect.signature(f).parameters.values())
    except ValueError: return [], False # a builtin that keeps its signature to itself
    named = [p for p in ps if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    first = bool(ps) and ps[0].kind is ps[0].POSITIONAL_OR_KEYWORD
    return named[first:], any(p.kind is p.VAR_KEYWORD for p in ps)


def takes_no_parameter(
    f:Callable # A stepper
) -> bool:
    "Does the function lack the first argument, the parameter?"
    try: ps = inspect.signature(f).parameters.values()
    except ValueError: return False # a builtin that keeps its signature to itself
    return not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in ps)


def is_number(
    v # Any value, such as a default
) -> bool:
    "Is it a number other than a bool?"
    return isinstance(v, Real) and not isinstance(v, bool)


def hyper_defaults(
    f:Callable # A stepper, not a partial
) -> dict:
    "Return the default hyper-parameters: numbers in the signature, except names that `f` returns as state."
    code = f.__code__ # quicker than a signature: this is asked of every stepper of the library at import
    taken = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    positional, usual = taken[:code.co_argcount], f.__defaults__ or ()
    defaults = {**dict(zip(positional[len(positional)-len(usual):], usual)), **(f.__kwdefaults__ or {})}
    returned = {*strings(code)} - TORCH_KEYWORDS
    return {k: defaults[k] for k in taken[1:]
            if k in defaults and is_number(defaults[k]) and k not in returned}


# Code

def code_of(
    f:Callable # A stepper
) -> CodeType|None:
    "Return the code object of a stepper, or None if it isn't Python."
    f = inspect.unwrap(innermost(f))
    if not inspect.isroutine(f): f = type(f).__call__ # an object that can be called
    return getattr(f, '__code__', None)


def strings(
    code:CodeType|None # Code of a function
) -> Iterator[str]:
    "Yield the strings and keywords in the code, as in `{'step': 1}`, `dict(step=1)` or `kwargs['step']`."
    todo = list(code.co_consts) if code else []
    while todo:
        c = todo.pop()
        if isinstance(c, str): yield c
        elif isinstance(c, tuple): todo += c
        elif isinstance(c, CodeType): todo += c.co_consts
