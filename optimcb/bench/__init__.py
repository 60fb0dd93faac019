"Measure steps on this machine, beside other libraries: `python -m optimcb.bench`."
from optimcb import _moved

# Imported when they are used
__all__ = ['Bench', 'SETS', 'environment', 'find', 'floor_bytes', 'main', 'table']


def __getattr__(name): return _moved.find('bench', name)
