"Measure steps on this machine, beside other libraries: `python -m optimcb.bench`."
from optimcb import _moved


def __getattr__(name): return _moved.find('bench', name)
