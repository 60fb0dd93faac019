"Functions that `torch.compile` calls as they are, between two graphs, instead of tracing them."
import sys
from collections.abc import Callable
from functools import cache, wraps

import torch

__all__ = ['opaque', 'refuse_tracing', 'untraced']

DYNAMO = 'torch._dynamo' # takes a second to import, and whoever compiles has imported it


def opaque(
    f:Callable # A short function: what it calls may be compiled on its own
) -> Callable:
    "Let `torch.compile` call `f` instead of tracing it. Returns `f` itself."
    f._torchdynamo_disable = True
    return f


def untraced(
    f:Callable # A function or a method
) -> Callable:
    "Let `torch.compile` call `f` instead of tracing it, and compile nothing of what it calls, either."
    @wraps(f)
    def call(*args, **kwargs): return (_disabled(f) if DYNAMO in sys.modules else f)(*args, **kwargs)
    return opaque(call)


@cache
def _disabled(f): return torch.compiler.disable(f)


def refuse_tracing(
    what:str, # What is read, as an error says it
    instead:str # What to do where the whole function must be one graph
):
    """Keep `param_groups` out of a graph. Raises `Unsupported` if the compiler asks.

    When a compiled function reads `param_groups` of an optimizer, the compiler looks at all groups, and notes
    `capturable` in each as if it were a plain dict; of others it fails. `Unsupported` makes it break the graph."""
    if DYNAMO not in sys.modules or torch._guards.TracingContext.try_get() is None: return
    frame = sys._getframe(1)
    while frame and frame.f_globals.get('__name__') != f'{DYNAMO}.variables.optimizer': frame = frame.f_back
    if frame: raise sys.modules[f'{DYNAMO}.exc'].Unsupported(f"{what} can't be part of a graph. {instead}")
