"Change a list of steppers: by hand (`edit`), or with parts that declare their place (`wrap`)."
from optimcb import _moved


def __getattr__(name): return _moved.find('editing', name)
