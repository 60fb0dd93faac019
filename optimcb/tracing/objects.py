"Questions to objects that run none of their code."
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)

import numpy as np
from torch import Tensor
from torch.nn import Parameter

from optimcb.tracing.purity_tables import (
    CALL_BACK,
    CONTAINERS,
    ELEMENTS,
    INERT,
    MADE_IN_C,
    MODULES,
    PURE,
    UNKNOWN,
)

__all__ = ['attributes_of', 'can_change', 'elements_of', 'has_parts', 'is_a', 'is_bound', 'is_in', 'is_inert',
    'is_known_module', 'is_made_up', 'is_of', 'is_python', 'is_readable', 'slot_of', 'top_module']


WITHOUT_PARTS = (FunctionType, BuiltinFunctionType, ModuleType, type)


def top_module(
    name # Name of a module, or what stands for one
) -> str:
    "The package that a module belongs to; empty if it has no name."
    return name.partition('.')[0] if isinstance(name, str) else ''


def is_a(
    o, # Anything
    types:type|tuple # One type, or some
) -> bool:
    """Tell whether an object has one of these types, without running any of the object's code.

    The types must not be abstract: unlike plain ones, those run code when they are asked."""
    return issubclass(type(o), types)


def is_of(
    cls:type, # A class
    modules:tuple # Beginnings of names
) -> bool:
    "Is the class defined in one of these modules?"
    return isinstance(cls.__module__, str) and cls.__module__.startswith(modules)


def is_in(
    cls:type, # A class
    classes:tuple # Some classes
) -> bool:
    "Is the class one of these? Unlike `in`, this doesn't run its metaclass's `==`."
    return any(cls is c for c in classes)


def is_known_module(
    o:ModuleType # A module
) -> bool:
    "Does it belong to a package that the tables have?"
    return top_module(o.__name__) in PURE | MODULES.keys()


def is_inert(
    o # Anything
) -> bool:
    "Do all uses of the object give the same result each time?"
    if is_a(o, Tensor): return type(o) in (Tensor, Parameter) or is_of(type(o), CALL_BACK)
    return is_a(o, INERT) and top_module(type(o).__module__) in {*PURE, 'sys', 'optimcb'}


def is_python(
    cls:type # A class
) -> bool:
    "Is the class written in Python?"
    in_c = (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)
    return not any(isinstance(v, in_c) and v.__objclass__ is cls for v in vars(cls).values())


def is_readable(
    cls:type # A class
) -> bool:
    "Is all that its objects do known, or written in Python?"
    return all(is_in(c, MADE_IN_C) or is_python(c) for c in cls.__mro__)


def attributes_of(
    o # Anything
) -> dict:
    "The attributes of an object without those of its class."
    try: return object.__getattribute__(o, '__dict__')
    except AttributeError: return {}


def slot_of(
    o, # An object
    descriptor:MemberDescriptorType # Of one of its `__slots__`
):
    "What the slot holds; None if it is empty."
    try: return descriptor.__get__(o)
    except AttributeError: return None


def elements_of(
    o # Anything
) -> tuple:
    "What a container holds, whatever its class says; nothing of another object."
    if is_a(o, dict): return *dict.keys(o), *dict.values(o)
    if is_a(o, MappingProxyType): return *o, *o.values()
    if is_a(o, np.ndarray): return tuple(o.flat) if o.dtype.hasobject else ()
    kind = next((c for c in ELEMENTS if is_a(o, c)), None)
    return tuple(kind.__iter__(o)) if kind else ()


def can_change(
    o # Anything
) -> bool:
    "Is it a container, or an object with attributes?"
    return o is not UNKNOWN and not is_inert(o) and not is_a(o, WITHOUT_PARTS)


def has_parts(
    o # Anything
) -> bool:
    "May something in the object be changed that isn't the object itself, or memory be written through it?"
    first, todo, seen = o, [o], set()
    while todo:
        o = todo.pop()
        if is_a(o, (Tensor, np.ndarray)) or o is not first and is_a(o, CONTAINERS): return True
        if id(o) in seen or o is UNKNOWN or is_inert(o) or is_a(o, WITHOUT_PARTS): continue
        seen.add(id(o))
        todo += *elements_of(o), *attributes_of(o).values()
        if is_a(o, MethodType): todo.append(o.__self__)
    return False


def is_bound(
    cell:CellType # Of a closure
) -> bool:
    "Does it hold something by now?"
    try: return cell.cell_contents is not UNKNOWN
    except ValueError: return False


def is_made_up(
    f:np.ufunc # A function of arrays
) -> bool:
    "Does it call a function in Python for each element?"
    return set(''.join(f.types)) <= set('O->')
