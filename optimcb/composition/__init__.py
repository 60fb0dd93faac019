"""What a list of steppers means: one stepper (`stepper`), where it belongs (`roles`), and all of them
together (`pipeline`)."""
from optimcb import _moved


def __getattr__(name): return _moved.find('composition', name)
