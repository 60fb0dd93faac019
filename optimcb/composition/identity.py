"Compare steppers: do two have one name, and is one a redefinition of the other?"
import inspect
from collections.abc import Callable

from optimcb.composition.signatures import name_of
from optimcb.composition.stepper import Stepper

__all__ = ['is_redefined', 'same_name']


def same_name(
    f:Callable, # A stepper
    other:Callable # Another one
) -> bool:
    "Do two steppers have the same name, like redefined functions? Lambdas don't count."
    return name_of(f) == name_of(other) != '<lambda>'


def is_redefined(
    new:Stepper, # A stepper
    old:Stepper # Another one
) -> bool:
    """Is `new` a redefinition of the function of `old`, under the same names?

    Functions from one factory or loop share their code, and are different on purpose."""
    f, g = new.innermost, old.innermost
    if not (inspect.isfunction(f) and inspect.isfunction(g)): return False
    if not same_name(f, g) or f.__code__ is g.__code__: return False
    if (f.__module__, f.__qualname__) != (g.__module__, g.__qualname__): return False
    return all(new.new_name(k) == old.new_name(k) for k in inspect.signature(f).parameters)
