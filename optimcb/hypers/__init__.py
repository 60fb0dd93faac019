"Hyper-parameters: valid values, torch's names for them, and live views of a group."
from optimcb import _moved


def __getattr__(name): return _moved.find('hypers', name)
