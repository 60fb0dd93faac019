"The engine that defines what the others must give: it calls the steppers on each parameter in turn."
import torch
from torch import Tensor

from optimcb._tensors import on_all, whole_of
from optimcb.engines.grad_scaling import NOT_SCALED, Scaling
from optimcb.engines.sparse_complex import AsReal, NoRows, Rows, has_rows
from optimcb.tracing.rng import RngSnapshot

__all__ = ['step']


def step(
    composition, # `Composition` to run
    work:list, # `(p, state, hypers)` of each parameter that has a gradient
    scaling:Scaling=NOT_SCALED # What the gradients were multiplied by
) -> None:
    """Run the composition on each parameter. What steppers do to a gradient is undone after the parameter's step.

    A complex parameter, and its state, is seen as real with a last dimension of 2, as in torch. Of one with a sparse gradient, the rows are
    seen that the gradient has; all, with zeros for a gradient, where some stepper needs the whole of it or some state has no rows."""
    if composition.sums_over_all: return _together(composition, work, scaling)
    for p, state, hypers in work:
        if p.grad.layout is not torch.sparse_coo: _alone(p, state, hypers, composition, scaling)
        else: _sparse(p, state, hypers, composition, scaling)


def _alone(p, state, hypers, composition, scaling, whole=False):
    "One parameter by itself"
    seen = _Seen(p, state, hypers, composition, scaling, whole)
    try:
        for _ in composition.run(seen.p, seen.state, hypers): raise TypeError("a stepper that yields must be a generator function, or a partial of one.")
        seen.done(composition, hypers)
    finally: seen.close()


def _sparse(p, state, hypers, composition, scaling):
    "Steppers that turn out to make state that has no rows are called again, for the whole parameter: they have worked on a copy"
    before = RngSnapshot()
    try: _alone(p, state, hypers, composition, scaling)
    except NoRows:
        before.restore_if_moved()
        _alone(p, state, hypers, composition, scaling, whole=True)


class _Seen:
    "What the steppers see of a parameter: `p`, with a gradient that they may change, and its `state`"
    def __init__(self, p, state, hypers, composition, scaling, whole=False):
        self.p, self.state, self.given, self.views = p, state, p.grad, []
        grad = self.given if scaling.scale is None else scaling.unscaled(self.given)
        if p.is_complex(): grad = self._see(AsReal, grad)
        if grad.layout is torch.sparse_coo:
            whole = whole or composition.needs_whole({**hypers, **state}) or not has_rows(self.p, self.state)
            grad = grad.to_dense() if whole else self._see(Rows, grad)
        if composition.spares_grads or scaling.scale is not None: self.p.grad = grad
        else:
            with torch.set_grad_enabled(grad.requires_grad): self.p.grad = grad.clone() # steppers may differentiate it again

    def _see(self, view, grad):
        self.views.append(o := view(self.p, grad, self.state))
        self.p, self.state = o.p, o.state
        return o.grad

    def done(self, composition, hypers):
        "All steppers have run"
        for view in reversed(self.views): view.done(composition, hypers)

    def close(self):
        "Let the parameter have its gradient again"
        if not self.views: self.p.grad = self.given


def _together(composition, work, scaling):
    "All parameters, from sum to sum; what a step yields is summed in float32 at least"
    seen = []
    try:
        for p, state, hypers in work: seen.append(_Seen(p, state, hypers, composition, scaling))
        waiting = [(composition.run(s.p, s.state, hypers), None) for s, (_, _, hypers) in zip(seen, work)]
        while waiting:
            yielded = []
            for run, total in waiting:
                try: yielded.append((run, run.send(total)))
                except StopIteration: pass
            waiting = _summed(yielded)
        for s, (_, _, hypers) in zip(seen, work): s.done(composition, hypers)
    finally:
        for s in seen: s.close()


def _summed(yielded) -> list:
    "What each step is sent, in the type and on the device of what it yielded"
    tensors = [x for _, x in yielded if isinstance(x, Tensor)]
    if not tensors: return [(run, sum(x for _, x in yielded)) for run, _ in yielded]
    dtype = torch.float32
    for x in tensors: dtype = torch.promote_types(dtype, x.dtype)
    total = torch.stack([torch.as_tensor(whole_of(x), dtype=dtype).to(tensors[0].device) for _, x in yielded]).sum()
    return [(run, on_all(total.to(x.device, torch.promote_types(x.dtype, torch.float32)), x) if isinstance(x, Tensor) else total) for run, x in yielded]
