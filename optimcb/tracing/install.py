"Install torch's functions and methods on tracers."
from torch import Tensor

from optimcb.tracing import reductions, torch_api
from optimcb.tracing.tracer import FUNCTIONS, Tracer

__all__ = ['install_functions']


def install_functions():
    "Install torch's functions, in-place variants, and methods of the same names on tracers."
    functions = {**torch_api.functions(), **reductions.FUNCTIONS}
    for name, f in functions.items():
        FUNCTIONS[name] = f
        if not name.endswith('_') and hasattr(Tensor, f'{name}_'): FUNCTIONS[f'{name}_'] = _in_place(f)
    FUNCTIONS.update(torch_api.NOT_IN_PLACE)
    for name, f in FUNCTIONS.items():
        if hasattr(Tensor, name) and name not in vars(Tracer): setattr(Tracer, name, f)


def _in_place(f):
    "Return the in-place variant of `f`, which writes its result into its first operand"
    def g(x, *args, **kwargs): return x.write(f(x.unrounded(), *args, **kwargs))
    return g
