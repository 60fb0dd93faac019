"""Views of parameters for steppers: complex parameters as pairs of real numbers, and the rows of a sparse
gradient.

A view has `p` with its `grad`, and its `state`; `done` writes the results back."""
import torch
from torch import Tensor

from optimcb.composition.errors import StepperError
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal
from optimcb.tracing.rng import RngSnapshot

__all__ = ['AsReal', 'NoRows', 'Rows', 'has_rows']


NO_ROWS = ("a gradient is sparse, but state `{}` has another shape than the parameter, so it is unknown "
           "which part of it belongs to the gradient's rows. "
           "Pass dense gradients, `torch.nn.Embedding(…, sparse=False)`, or give this parameter to "
           "elementwise steppers. These are {}.")


class NoRows(ValueError):
    """Some state has no rows, so the steppers can't run on the rows of a sparse gradient.

    Nothing has changed."""


def has_rows(
    p:Tensor, # A parameter
    state:dict # Its state
) -> bool:
    "Does each state have rows like the parameter, or a single number?"
    return all(not isinstance(v, Tensor) or v.dim() == 0 or v.shape == p.shape for v in state.values())


def _is_complex(v) -> bool: return isinstance(v, Tensor) and v.is_complex()


class AsReal:
    """A complex parameter as a real one with a last dimension of 2, as in torch.

    State of the same shape is converted, too."""
    def __init__(self,
        p:Tensor, # Parameter, complex
        grad:Tensor, # Its gradient
        state:dict # Its state
    ):
        self.all_state, self.original = state, p
        self.p, self.grad = torch.view_as_real(p.data), _as_real(grad)
        def seen(v): return torch.view_as_real(v) if _is_complex(v) and v.shape == p.shape else v
        self.state = {k: seen(v) for k, v in state.items()}

    def done(self, composition, hypers):
        "Convert the state back to complex, and assign the parameter if it was given other memory."
        if self.p.data_ptr() != self.original.data_ptr(): torch.view_as_real(self.original.data).copy_(self.p)
        for k, v in self.state.items():
            old = self.all_state.get(k)
            if not isinstance(v, Tensor) or v.shape != self.p.shape or v.dtype != self.p.dtype:
                self.all_state[k] = v
            elif not (isinstance(old, Tensor) and old.is_complex() and old.data_ptr() == v.data_ptr()):
                self.all_state[k] = torch.view_as_complex(_paired(v))


def _as_real(grad) -> Tensor:
    """Return a complex gradient as a real one; of a sparse gradient only the values, as older torch has no
    real view of sparse tensors"""
    if grad.layout is not torch.sparse_coo: return torch.view_as_real(grad.resolve_conj())
    grad = grad.coalesce()
    values = torch.view_as_real(grad.values().resolve_conj())
    return torch.sparse_coo_tensor(grad.indices(), values, (*grad.shape, 2), is_coalesced=True)


def _paired(v) -> Tensor:
    "Interleave real and imaginary parts of `v`"
    even = v.storage_offset() % 2 == 0 and not any(s % 2 for s in v.stride()[:-1])
    return v if even and v.stride(-1) == 1 else v.clone(memory_format=torch.contiguous_format)


class Rows:
    """The rows of a parameter that are in a sparse gradient, for a lazy update as in
    `torch.optim.SparseAdam`.

    Other rows are not read."""
    def __init__(self,
        p:Tensor, # Parameter
        grad:Tensor, # Its sparse gradient; duplicate rows are summed
        state:dict # Its state, of which tensors with the parameter's shape have rows, too
    ):
        grad = grad.coalesce()
        self.all, self.at, self.all_state = p.data, tuple(grad.indices()), state
        self.rows = {k for k, v in state.items() if isinstance(v, Tensor) and v.shape == p.shape}
        self.p = torch.nn.Parameter(self.all[self.at], p.requires_grad)
        self.p.__dict__.update(p.__dict__) # attributes that users added
        self.grad = grad.values()
        self.state = {k: v[self.at] if k in self.rows else v for k, v in state.items()}

    def done(self,
        composition, # Composition that ran on the rows
        hypers:dict # Hyper-parameters
    ):
        """Write the rows back.

        In the other rows, new state gets its initial values. Raises `NoRows`."""
        tensors = {k: v for k, v in self.state.items() if isinstance(v, Tensor)}
        odd = [k for k, v in tensors.items() if v.dim() and v.shape not in (self.p.shape, self.all.shape)]
        if odd: raise NoRows(NO_ROWS.format(odd[0], ', '.join(composition.labels)))
        same = {k: v for k, v in tensors.items() if v.shape == self.p.shape}
        rows = {k: v for k, v in same.items() if k in self.rows or k not in self.all_state}
        starts = self._starts(composition, hypers) if rows.keys() - self.rows else {}
        for k, v in self.state.items():
            if k not in rows: self.all_state[k] = v
            else:
                known = self.all_state[k] if k in self.rows else starts.get(k, 0)
                if isinstance(known, Tensor): known = known.to(v.dtype)
                else: known = torch.full_like(self.all, known, dtype=v.dtype)
                self.all_state[k] = known
                known[self.at] = v
        self.all[self.at] = self.p.data

    def _starts(self, composition, hypers) -> dict:
        """Return the initial values of new state.

        They are numbers from a rehearsal, or else the result of a step of the whole parameter with a zero
        gradient"""
        p = torch.nn.Parameter(self.all.clone(), self.p.requires_grad)
        state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.all_state.items()}
        p.__dict__.update(self.p.__dict__)
        p.grad = torch.zeros_like(p)
        before, run, total = RngSnapshot(), composition.run(p, state, hypers), None
        try:
            while True: total = run.send(total)
        except StopIteration: pass
        finally: before.restore_if_moved()
        numbers = {k: v for k, v in self.all_state.items() if not isinstance(v, Tensor)}
        starts = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == p.shape}
        try: step = Rehearsal(composition, hypers, self.p, numbers).look()
        except (NotRecorded, StepperError): return starts
        fresh, slots = step.program.fresh, step.recording.trace.slots
        return starts | {k: slots[born] for k, (_, _, born) in fresh.items() if born is not None}
