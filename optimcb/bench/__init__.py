"Measure steps on this machine, beside other libraries: `python -m optimcb.bench`."
from optimcb import _moved

__all__ = ['Bench', 'SETS', 'environment', 'find', 'floor_bytes', 'main', 'table'] # imported when they are used


def __getattr__(name): return _moved.find('bench', name)
