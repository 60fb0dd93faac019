"Decorators of functions that steppers call, and of steppers that users call by mistake."
import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import overload

from optimcb._compat.boundary import F

__all__ = ['by_torch', 'explains_calls', 'of_shape', 'without_explanation']


@overload
def by_torch(f: F, *, like: Callable|None=None, batched: bool|Callable=False) -> F: ...
@overload
def by_torch(f: None=None, *, like: Callable|None=None, batched: bool|Callable=False) -> Callable[[F], F]: ...
def by_torch(
    f:Callable|None=None, # A function of tensors and numbers that returns one new tensor, or a tuple of them
    *,
    like:Callable|None=None, # A function with results of the same shapes and dtypes; default: `f`
    batched:bool|Callable=False # May it be called once for many parameters? Or a function that is called then
) -> Callable:
    """Let steppers call `f` on whole tensors.

    It may multiply matrices, take means over some dimensions, or return state of other shapes than the
    parameter's; it writes into none of its arguments. Engines call it for each parameter, between two
    kernels. They try it before on tensors without memory; one that branches on values, as `if x.norm() >
    1` does, needs `like` for that. It sees empty tensors, too. Of sharded parameters, it sees the
    unsharded tensors.

    With `batched=True`, engines call `f` by `torch.vmap` for parameters of the same shapes: it must not
    branch on values, and makes its results of each parameter alone. A function for `batched` is called in
    place of `f`, with the same arguments. Tensors that each parameter has its own of are stacked in it, with
    a first dimension for the parameters, and so are its results; numbers are the same for all."""
    if f is None: return partial(by_torch, like=like, batched=batched)
    @wraps(f)
    def call(*args, **kwargs):
        given = *args, *kwargs.values()
        tracer = next((o for o in given if hasattr(type(o), 'by_torch')), None)
        if tracer is not None: return tracer.by_torch(call, args, kwargs)
        if not any(hasattr(type(o), 'full_tensor') for o in given): return f(*args, **kwargs)
        from optimcb._compat.dtensors import on_gathered
        return on_gathered(f, args, kwargs)
    call.like, call.batched, call.inferred_outputs = like or f, batched, {}
    return call


def of_shape(
    f:Callable # Takes a tensor, of which it uses only the shape, and numbers; returns a tuple
) -> Callable:
    "Declare that `f` depends on a shape only: formulas call it by name, as they can't express its result."
    @wraps(f)
    def call(x, *args):
        if not hasattr(x.shape, 'computed'): return f(x, *args)
        return x.shape.computed(f, args)
    return call


def explains_calls(
    f:Callable # A stepper
) -> Callable:
    """Make `f` raise an error that says what to write if it is called with options, as in `cbs=[f(0.9), …]`.

    The result has `f` itself as its attribute `in_steps`."""
    later = inspect.isgeneratorfunction(f) # a generator function would fail only when iterated
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
    given = {**dict(zip(names, args)), **kwargs}
    options = ''.join(f', {k}={v!r:.40}' for k, v in given.items())
    name = f.__name__
    write = f"Give it options by `partial({name}{options})`." if options else f"Pass it as it is: `{name}`."
    return f"`{name}` has been called, but an optimizer calls it in each step, with a parameter. {write}"


def without_explanation(
    f:Callable # A stepper
) -> Callable:
    "Unwrap `explains_calls`, which a step doesn't need."
    if type(f) is partial: return partial(without_explanation(f.func), *f.args, **f.keywords)
    inner = getattr(f, 'in_steps', f)
    return inner if getattr(f, '__wrapped__', None) is inner else f # `wraps` copies attributes
