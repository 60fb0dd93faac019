"Benchmark steps on this machine, next to other libraries: `python -m optimcb.bench`."
from optimcb import _moved

# Imported on first use
__all__ = ['Bench', 'SETS', 'environment', 'find', 'floor_bytes', 'main', 'table']


def __getattr__(name): return _moved.find('bench', name)
