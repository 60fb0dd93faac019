"What a list of steppers means: what a stepper may return and be, where it belongs, and all of them together."
from optimcb._compat.renamed import old_names
from optimcb.composition.calls import by_torch
from optimcb.composition.results import once, stop
from optimcb.composition.roles import of_directions, of_signs, part
from optimcb.composition.stepper import only, renamed, renamed_all

__all__ = ['by_torch', 'of_directions', 'of_signs', 'once', 'only', 'part', 'renamed', 'renamed_all', 'stop']

__getattr__ = old_names('composition')
