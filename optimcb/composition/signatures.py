"What the signature and the code of a function say: its names, its defaults, and what its partials fix."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from types import CodeType

__all__ = ['TORCH_KEYWORDS', 'chain', 'code_of', 'hyper_defaults', 'innermost', 'is_number',
           'keywords_fixed', 'name_of', 'parameters', 'strings', 'takes_no_parameter']


TORCH_KEYWORDS = frozenset({'alpha', 'value', 'beta', 'dim', 'dtype', 'device', 'keepdim', 'memory_format',
                            'min', 'max', 'out'}) # of torch's functions: steppers that use them mean no state


# Partials

def chain(
    f:Callable # A stepper
) -> Iterator:
    "Yield `f` and, from the outside to the inside, the functions that its partials hold."
    yield f
    while isinstance(f, partial): yield (f := f.func)


def innermost(
    f:Callable # A stepper
) -> Callable:
    "The function inside of all partials."
    while isinstance(f, partial): f = f.func
    return f


def name_of(
    f:Callable # A stepper
) -> str:
    "The name of the function inside of all partials, or of the type of the object that is called."
    o = innermost(f)
    return getattr(o, '__name__', type(o).__name__)


def keywords_fixed(
    f:Callable # A stepper
) -> dict:
    "The keyword arguments that partials fix."
    return {k: v for o in reversed(list(chain(f))) if isinstance(o, partial) for k, v in o.keywords.items()}


# Signatures

def parameters(
    f:Callable # A stepper
) -> tuple[list[inspect.Parameter], bool]:
    "List the parameters that `f` takes by name after the first one. Does it take any other name too?"
    try: ps = list(inspect.signature(f).parameters.values())
    except ValueError: return [], False # a builtin that keeps its signature to itself
    named = [p for p in ps if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    first = bool(ps) and ps[0].kind is ps[0].POSITIONAL_OR_KEYWORD
    return named[first:], any(p.kind is p.VAR_KEYWORD for p in ps)


def takes_no_parameter(
    f:Callable # A stepper
) -> bool:
    "Is there no argument for the parameter, which comes first?"
    try: ps = inspect.signature(f).parameters.values()
    except ValueError: return False # a builtin that keeps its signature to itself
    return not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in ps)


def is_number(
    v # A default, say
) -> bool:
    "Is it a number, and no bool?"
    return isinstance(v, Real) and not isinstance(v, bool)


def hyper_defaults(
    f:Callable # A stepper, no partial
) -> dict:
    "The numbers in a signature that are defaults of hyper-parameters; names that it returns are state."
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
    "The code of a stepper, if it is Python."
    f = inspect.unwrap(innermost(f))
    if not inspect.isroutine(f): f = type(f).__call__ # an object that can be called
    return getattr(f, '__code__', None)


def strings(
    code:CodeType|None # Code of a function
) -> Iterator[str]:
    "Yield the names in strings and keywords, as in `{'step': 1}`, `dict(step=1)` or `kwargs['step']`."
    todo = list(code.co_consts) if code else []
    while todo:
        c = todo.pop()
        if isinstance(c, str): yield c
        elif isinstance(c, tuple): todo += c
        elif isinstance(c, CodeType): todo += c.co_consts
