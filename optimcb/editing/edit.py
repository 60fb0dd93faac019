"""Changing a list of steppers by hand.

Functions from a list of steppers to another, and `Composable`, whose methods they are. A stepper is named by itself, by
the function inside of a `partial`, by its name, or by its place. A function that isn't in the list names the stepper of
its own name, so that one that was defined again, in a notebook say, can take the place of the old one.
"""
from collections.abc import Iterator
from functools import partial

from optimcb._boundary import entry
from optimcb.composition.stepper import Stepper, name_of, renamed, same_name
from optimcb.editing.wrap import wrapped
from optimcb.hypers.torch_names import nearest

__all__ = ['Composable', 'inserted', 'place', 'removed', 'replaced', 'with_parts', 'with_renamed']


class Composable:
    "What has a list of steppers that can be changed by hand."
    @entry
    def replace(self,
        old, # The stepper to be replaced: itself, the function inside of its `partial`, its name, or its place
        *new # What comes in its place: a stepper, or several
    ):
        "Put `new` in the place of `old`. Raises `ValueError` if there is no such stepper, or more than one."
        return self.edit(partial(replaced, old=old, new=new))

    @entry
    def insert(self,
        *new, # Steppers
        before=None, # The stepper before which they come, or its place
        after=None # The stepper after which they come, or its place: -1 is the last
    ):
        "Put `new` before or after a stepper. Raises `ValueError` if there is no such stepper, or more than one."
        return self.edit(partial(inserted, new=new, before=before, after=after))

    @entry
    def remove(self,
        *old # Steppers, each named as in `replace`
    ):
        "Leave steppers out. Raises `ValueError` if there is no such stepper, or more than one."
        return self.edit(partial(removed, old=old))

    @entry
    def rename(self,
        old, # The stepper, named as in `replace`
        **names # By the name that it has, the name that it should have: of hyper-parameters and state
    ):
        "Let a stepper read and write under other names: see `renamed`. Raises `ValueError` if there is no such stepper or name."
        return self.edit(partial(with_renamed, old=old, names=names))

    @entry
    def wrap(self,
        *parts # Steppers that have a place, such as `clip_norm`, partials of them, or lists of several
    ):
        "Put parts that go with any rule where they belong: see `wrapped`. Raises `ValueError` for those that make no sense here."
        return self.edit(partial(with_parts, parts=parts))


def place(
    cbs:list, # Steppers
    which # One of them: itself, the function inside of its `partial`, its name, or its place
) -> int:
    "Where a stepper is. Raises `ValueError` if there is no such stepper, or more than one."
    known = {i: Stepper(f) for i, f in enumerate(cbs) if f is not None}
    labels = ', '.join(f'{i}: {s}' for i, s in known.items())
    if isinstance(which, int) and not isinstance(which, bool):
        if -len(cbs) <= which < len(cbs): return which % len(cbs)
        raise ValueError(f"there is no stepper {which}. There are {labels}.")
    found = next(filter(None, _matches(known, which)), [])
    if len(found) == 1: return found[0]
    name = which if isinstance(which, str) else Stepper(which).label
    if found: raise ValueError(f"`{name}` is there {len(found)} times, at {found}. Say which by its place: {labels}.")
    near = nearest(name, {name_of(s.f) for s in known.values()} - {name})
    raise ValueError(f"there is no stepper `{name}`.{f' Did you mean `{near}`?' if near else ''} There are {labels}.")


def _matches(known, which) -> Iterator[list]:
    "The places of the steppers that `which` may stand for: by itself, by its label, by its name. The first that aren't empty count"
    yield [i for i, s in known.items() if s.f is which]
    yield [i for i, s in known.items() if s.innermost is which or which in (s.label, name_of(s.f))]
    if not callable(which): return
    wanted = Stepper(which) # perhaps of a function that was defined again
    yield [i for i, s in known.items() if same_name(s.f, which) and s.label == wanted.label]
    yield [i for i, s in known.items() if same_name(s.f, which)]


def replaced(
    cbs:list, # Steppers
    old, # The one to be replaced
    new:tuple # What comes in its place
) -> list:
    "`cbs` with `new` in the place of `old`. Raises `ValueError`."
    i = place(cbs, old)
    return [*cbs[:i], *map(_checked, new), *cbs[i+1:]]


def inserted(
    cbs:list, # Steppers
    new:tuple, # More of them
    before=None, # The one before which they come
    after=None # The one after which they come
) -> list:
    "`cbs` with `new` before or after one of them. Raises `ValueError`."
    if (before is None) == (after is None):
        raise ValueError("say where: `before=` a stepper, or `after=` one. `before=0` is the very first, `after=-1` the very last.")
    i = place(cbs, before) if after is None else place(cbs, after) + 1
    return [*cbs[:i], *map(_checked, new), *cbs[i:]]


def removed(
    cbs:list, # Steppers
    old:tuple # Those that are left out
) -> list:
    "`cbs` without some of them. Raises `ValueError`."
    out = {place(cbs, o) for o in old}
    return [f for i, f in enumerate(cbs) if i not in out]


def with_renamed(
    cbs:list, # Steppers
    old, # One of them
    names:dict # By the name that it has, the name that it should have
) -> list:
    "`cbs` with one of them reading and writing under other names. Raises `ValueError`."
    i = place(cbs, old)
    return [*cbs[:i], renamed(cbs[i], **names), *cbs[i+1:]]


def with_parts(
    cbs:list, # Steppers
    parts:tuple # Steppers that have a place, or lists of them
) -> list:
    "`cbs` with `parts` where they belong. Raises `ValueError`."
    return wrapped(cbs, *parts)


def _checked(f):
    Stepper(f) # or it says what is wrong with it
    return f
