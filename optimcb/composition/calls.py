"Functions that steppers call, and steppers that are called by hand."
import inspect
from collections.abc import Callable
from functools import partial, wraps

__all__ = ['by_torch', 'called_in_steps']


def by_torch(
    f:Callable|None=None, # A function of tensors and numbers that returns a new tensor, or a tuple of them, and writes into none
    *,
    like:Callable|None=None # A function of the same arguments, whose results have the shapes and types of those of `f`. Default: `f` itself
) -> Callable:
    """Let steppers call `f` on whole tensors: products of matrices, means over some dimensions, state of other shapes than the parameter's.

    Engines that run kernels call it for each parameter between two of them. They try it before on tensors without memory; one that looks into tensors, as
    `if x.norm() > 1` does, needs `like` for that. Of parameters that are spread over processes, it sees the whole."""
    if f is None: return partial(by_torch, like=like)
    @wraps(f)
    def call(*args, **kwargs):
        given = *args, *kwargs.values()
        stand_in = next((o for o in given if hasattr(type(o), 'by_torch')), None) # a trace is being made
        if stand_in is not None: return stand_in.by_torch(call, args, kwargs)
        if not any(hasattr(type(o), 'full_tensor') for o in given): return f(*args, **kwargs)
        from optimcb._tensors import on_wholes
        return on_wholes(f, args, kwargs)
    call.like, call.inferred_outputs = like or f, {}
    return call


def called_in_steps(
    f:Callable # A stepper
) -> Callable:
    "Let `f` say what to write when it is called with options, as in `cbs=[f(0.9), …]`, instead of a parameter."
    later = inspect.isgeneratorfunction(f) # it fails when it is iterated
    @wraps(f)
    def call(*args, **kwargs):
        if later and not (args and hasattr(args[0], 'grad')): raise TypeError(_to_write(f, args, kwargs))
        try: return f(*args, **kwargs)
        except (AttributeError, TypeError):
            if args and hasattr(args[0], 'grad'): raise
            raise TypeError(_to_write(f, args, kwargs)) from None
    call.in_steps = f
    return call


def _to_write(f, args, kwargs) -> str:
    names = [p for p in inspect.signature(f).parameters if p != 'p']
    options = ''.join(f', {k}={v!r:.40}' for k, v in {**dict(zip(names, args)), **kwargs}.items())
    write = f"Give it options by `partial({f.__name__}{options})`." if options else f"Pass it as it is: `{f.__name__}`."
    return f"`{f.__name__}` has been called, but an optimizer calls it in each step, with a parameter. {write}"


def _in_steps(f) -> Callable:
    "`f` without the help of `called_in_steps`, which a step doesn't need"
    if type(f) is partial: return partial(_in_steps(f.func), *f.args, **f.keywords)
    return getattr(f, 'in_steps', f)
