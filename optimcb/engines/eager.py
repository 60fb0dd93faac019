"The eager engine, the reference for the others, which calls the steppers on each parameter in turn."
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from numbers import Number

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb._compat.dtensors import gather, on_all
from optimcb.composition.errors import StepperError
from optimcb.engines.grad_scaling import NOT_SCALED, Scaling
from optimcb.engines.sparse_complex import AsReal, NoRows, Rows, has_rows
from optimcb.hypers.values import check_tensors
from optimcb.tracing.rng import RngSnapshot

__all__ = ['step', 'try_step']


def step(
    composition, # `Composition` to run
    work:list, # `(p, state, hypers)` of each parameter that has a gradient
    scaling:Scaling=NOT_SCALED # Scale of the gradients, from a GradScaler
) -> None:
    """Run the composition on each parameter, and undo its changes to the gradient afterwards.

    Steppers see a complex parameter and its state as real with a last dimension of 2, as in torch. Of a
    parameter with a sparse gradient, they see the gradient's rows; or all of it, with a dense gradient, if a
    stepper needs that or some state has no rows."""
    for hypers in {id(o): o for _, _, o in work}.values(): check_tensors(hypers)
    if composition.sums_over_all: return _step_together(composition, work, scaling)
    for p, state, hypers in work:
        if p.grad.layout is not torch.sparse_coo: _step_alone(p, state, hypers, composition, scaling)
        else: _step_sparse(p, state, hypers, composition, scaling)


def try_step(
    composition, # `Composition` to run
    work:list, # `(p, state, hypers)` of each parameter that has a gradient
    scaling:Scaling=NOT_SCALED # Scale of the gradients, from a GradScaler
) -> set:
    "Run the composition on each parameter, or change nothing if it fails. Return the names of new state."
    before = [set(state) for _, state, _ in work]
    with ExitStack() as stack:
        for p, state, _ in work: stack.enter_context(_rollback(p, state))
        step(composition, work, scaling)
    return {k for (_, state, _), old in zip(work, before) for k in state.keys() - old}


@contextmanager
def _rollback(p, state):
    "Restore `p` and `state` if the `with` block fails"
    data, kept = p.data.clone(), _copied(state)
    try: yield
    except BaseException:
        p.data.copy_(data)
        state.clear()
        state.update(kept)
        raise


def _copied(o):
    "Return a deep copy of some state"
    if isinstance(o, Tensor): return o.detach().clone()
    if isinstance(o, dict): return {k: _copied(v) for k, v in o.items()}
    if type(o) in (list, tuple, L): return type(o)(map(_copied, o))
    return deepcopy(o)


def _step_alone(p, state, hypers, composition, scaling, dense=False):
    "Step one parameter independently"
    view = _View(p, state, hypers, composition, scaling, dense)
    try:
        for _ in composition.run(view.p, view.state, hypers):
            raise TypeError("a stepper that yields must be a generator function, or a partial of one.")
        view.write_back(composition, hypers)
    except FROM_STATE as e:
        _name_state(e, p, state)
        raise
    finally: view.close()


FROM_STATE = RuntimeError, TypeError, AttributeError # what torch raises for operands that don't fit


def _name_state(error, p, state):
    "Add to an error of a stepper what state of the parameter has another shape or type, if some has"
    if isinstance(error, StepperError) or not hasattr(error, 'stepper'): return
    odd = [f'`{k}` ({_kind(v)})' for k, v in state.items() if not _may_fit(v, p, str(error))]
    if not odd: return
    error.args = (f"{error} (Stepper `{error.stepper}` failed on a parameter of shape {tuple(p.shape)}, of "
                  f"whose state these have another shape or type: {', '.join(odd)}.)",)


def _may_fit(v, p, said) -> bool:
    if isinstance(v, Tensor): return v.shape == p.shape or v.dim() == 0
    is_named = f"'{type(v).__name__}'" in said # as in "'str' object has no attribute 'mul_'"
    return not is_named and (v is None or isinstance(v, (Number, str)))


def _kind(v) -> str: return f'shape {tuple(v.shape)}' if isinstance(v, Tensor) else type(v).__name__


def _step_sparse(p, state, hypers, composition, scaling):
    """Step a parameter with a sparse gradient; repeat it with a dense one if steppers create state without
    rows"""
    before = RngSnapshot()
    try: _step_alone(p, state, hypers, composition, scaling)
    except NoRows: # nothing has changed, as the steppers have worked on copies
        before.restore_if_moved()
        _step_alone(p, state, hypers, composition, scaling, dense=True)


class _View:
    "The steppers' view of a parameter: `p`, with a gradient that they may change, and `state`"
    def __init__(self, p, state, hypers, composition, scaling, dense=False):
        self.p, self.state, self.given, self.views = p, state, p.grad, []
        grad = self.given if scaling.scale is None else scaling.unscaled(self.given)
        if p.is_complex(): grad = self._see(AsReal, grad)
        if grad.layout is torch.sparse_coo:
            dense = dense or composition.wants_dense_grad({**hypers, **state})
            dense = dense or not has_rows(self.p, self.state)
            grad = grad.to_dense() if dense else self._see(Rows, grad)
        if composition.spares_grads or scaling.scale is not None: self.p.grad = grad
        else:
            # steppers may differentiate it further
            with torch.set_grad_enabled(grad.requires_grad): self.p.grad = grad.clone()

    def _see(self, view, grad):
        self.views.append(o := view(self.p, grad, self.state))
        self.p, self.state = o.p, o.state
        return o.grad

    def write_back(self, composition, hypers):
        "Write the results of all steppers to the parameter and its state"
        for view in reversed(self.views): view.done(composition, hypers)

    def close(self):
        "Restore the parameter's own gradient"
        if not self.views: self.p.grad = self.given


def _step_together(composition, work, scaling):
    "Step all parameters in parallel, from sum to sum"
    views = []
    try:
        for p, state, hypers in work: views.append(_View(p, state, hypers, composition, scaling))
        runs = [composition.run(v.p, v.state, hypers) for v, (_, _, hypers) in zip(views, work)]
        waiting = [(run, None) for run in runs]
        while waiting:
            yielded = []
            for run, total in waiting:
                try: yielded.append((run, run.send(total)))
                except StopIteration: pass
                except FROM_STATE as e:
                    view = views[runs.index(run)]
                    _name_state(e, view.p, view.state)
                    raise
            waiting = _summed(yielded)
        for v, (_, _, hypers) in zip(views, work): v.write_back(composition, hypers)
    finally:
        for v in views: v.close()


def _summed(yielded) -> list:
    """Pair each step with the sum of all yielded values, in float32 at least.

    The sum has the dtype and device of the value that the step yielded"""
    tensors = [x for _, x in yielded if isinstance(x, Tensor)]
    if not tensors: return [(run, sum(x for _, x in yielded)) for run, _ in yielded]
    dtype = torch.float32
    for x in tensors: dtype = torch.promote_types(dtype, x.dtype)
    shares = [torch.as_tensor(gather(x), dtype=dtype).to(tensors[0].device) for _, x in yielded]
    total = torch.stack(shares).sum()
    return [(run, _like(total, x)) for run, x in yielded]


def _like(total, x):
    "Return a total in the form of the yielded `x`"
    if not isinstance(x, Tensor): return total
    return on_all(total.to(x.device, torch.promote_types(x.dtype, torch.float32)), x)
