"The meaning of a list of steppers: a single stepper, its results, its place, and the whole composition."
from optimcb import _moved
from optimcb.composition.calls import by_torch
from optimcb.composition.results import once, stop
from optimcb.composition.roles import of_directions, of_signs, part
from optimcb.composition.stepper import only, renamed, renamed_all

__all__ = ['by_torch', 'of_directions', 'of_signs', 'once', 'only', 'part', 'renamed', 'renamed_all', 'stop']


def __getattr__(name): return _moved.find('composition', name)
