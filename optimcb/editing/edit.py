"""Change a list of steppers by hand: functions that return a new list, and `Composable` with methods.

Refer to a stepper by itself, the function inside its `partial`, its name, or its index. A function that isn't
in the list stands for the stepper of the same name, so that a redefined function, in a notebook for example,
can replace the old one.
"""
from collections.abc import Iterator
from functools import partial
from typing import TypeVar

from optimcb._compat.boundary import entry
from optimcb.composition.identity import same_name
from optimcb.composition.stepper import Stepper, name_of, renamed
from optimcb.editing.wrap import wrapped
from optimcb.hypers.torch_names import nearest

__all__ = ['Composable', 'inserted', 'place', 'removed', 'replaced', 'with_parts', 'with_renamed']


Edited = TypeVar('Edited', bound='Composable')


class Composable:
    "A mixin for objects with a list of steppers, which adds methods to change it."
    @entry
    def replace(self:Edited,
        old, # Stepper to replace: itself, the function inside of its `partial`, its name, or its index
        *new # One or more new steppers
    ) -> Edited:
        "Replace `old` by `new`. Raises `ValueError` if there is no such stepper, or more than one."
        return self.edit(partial(replaced, old=old, new=new))

    @entry
    def insert(self:Edited,
        *new, # Steppers
        before=None, # Stepper to put them before, or its index
        after=None # Stepper to put them after, or its index; -1 is the last
    ) -> Edited:
        """Insert `new` before or after a stepper.

        Raises `ValueError` if there is no such stepper, or more than one."""
        return self.edit(partial(inserted, new=new, before=before, after=after))

    @entry
    def remove(self:Edited,
        *old # Steppers, each named as in `replace`
    ) -> Edited:
        "Remove steppers. Raises `ValueError` if there is no such stepper, or more than one."
        return self.edit(partial(removed, old=old))

    @entry
    def rename(self:Edited,
        old, # The stepper, named as in `replace`
        **names # By old name of a hyper-parameter or state, its new name
    ) -> Edited:
        """Let a stepper read and write other names: see `renamed`.

        Raises `ValueError` if there is no such stepper or name."""
        return self.edit(partial(with_renamed, old=old, names=names))

    @entry
    def wrap(self:Edited,
        *parts # Steppers with a place, such as `clip_norm`, partials of them, or lists of them
    ) -> Edited:
        """Insert parts at their places: see `wrapped`.

        Raises `ValueError` for parts that don't fit these steppers."""
        return self.edit(partial(with_parts, parts=parts))


def place(
    cbs:list, # Steppers
    which # A stepper, the function inside its `partial`, its name, or its index
) -> int:
    "Return the index of a stepper. Raises `ValueError` if there is no such stepper, or more than one."
    known = {i: Stepper(f) for i, f in enumerate(cbs) if f is not None}
    labels = ', '.join(f'{i}: {s}' for i, s in known.items())
    if isinstance(which, int) and not isinstance(which, bool):
        if -len(cbs) <= which < len(cbs): return which % len(cbs)
        raise ValueError(f"there is no stepper {which}. There are {labels}.")
    found = next(filter(None, _matches(known, which)), [])
    if len(found) == 1: return found[0]
    name = which if isinstance(which, str) else Stepper(which).label
    if found:
        raise ValueError(f"`{name}` is there {len(found)} times, at {found}. Say which by its place: "
                         f"{labels}.")
    if name.startswith('<lambda>'):
        raise ValueError("there is no such stepper, and a lambda has no name by which to find one that was "
                         f"written again. Say which by its place, as in `replace(0, …)`: {labels}.")
    near = nearest(name, {name_of(s.f) for s in known.values()} - {name})
    meant = f' Did you mean `{near}`?' if near else ''
    raise ValueError(f"there is no stepper `{name}`.{meant} There are {labels}.")


def _matches(known, which) -> Iterator[list]:
    """Yield lists of indices of steppers that `which` may stand for, from exact to loose matches.

    The first list that isn't empty counts."""
    yield [i for i, s in known.items() if s.f is which]
    yield [i for i, s in known.items() if s.innermost is which or which in (s.label, name_of(s.f))]
    if not callable(which): return
    wanted = Stepper(which) # perhaps a redefined function
    yield [i for i, s in known.items() if same_name(s.f, which) and s.label == wanted.label]
    yield [i for i, s in known.items() if same_name(s.f, which)]


def replaced(
    cbs:list, # Steppers
    old, # Stepper to replace
    new:tuple # New steppers
) -> list:
    "Replace `old` by `new`. Returns a new list. Raises `ValueError`: see `Composable.replace`."
    i = place(cbs, old)
    return [*cbs[:i], *map(_checked, new), *cbs[i+1:]]


def inserted(
    cbs:list, # Steppers
    new:tuple, # New steppers
    before=None, # Stepper to put them before
    after=None # Stepper to put them after
) -> list:
    """Insert `new` before or after a stepper.

    Returns a new list. Raises `ValueError`: see `Composable.insert`."""
    if (before is None) == (after is None):
        raise ValueError("say where: `before=` a stepper, or `after=` one. `before=0` is the very first, "
                         "`after=-1` the very last.")
    i = place(cbs, before) if after is None else place(cbs, after) + 1
    return [*cbs[:i], *map(_checked, new), *cbs[i:]]


def removed(
    cbs:list, # Steppers
    old:tuple # Steppers to remove
) -> list:
    "Remove steppers. Returns a new list. Raises `ValueError`: see `Composable.remove`."
    out = {place(cbs, o) for o in old}
    return [f for i, f in enumerate(cbs) if i not in out]


def with_renamed(
    cbs:list, # Steppers
    old, # One of them
    names:dict # By old name of a hyper-parameter or state, its new name
) -> list:
    """Let a stepper read and write other names.

    Returns a new list. Raises `ValueError`: see `Composable.rename`."""
    i = place(cbs, old)
    return [*cbs[:i], renamed(cbs[i], **names), *cbs[i+1:]]


def with_parts(
    cbs:list, # Steppers
    parts:tuple # Steppers with a place, or lists of them
) -> list:
    "Insert `parts` at their places. Returns a new list. Raises `ValueError`: see `wrapped`."
    return wrapped(cbs, *parts)


def _checked(f):
    "Return `f` if it is a stepper, else raise `TypeError`."
    Stepper(f)
    return f
