"""Parameters that steppers see as others: complex ones, as pairs of real numbers; of those with a sparse gradient, the rows that it touches.

A view has `p`, its `grad`, and its `state`; `done` puts back what became of them.
"""
import torch
from torch import Tensor

from optimcb.composition import MissingName
from optimcb.engine.record import NotRecorded
from optimcb.rehearsal import Rehearsal

__all__ = ['AsReal', 'Rows']


class AsReal:
    "A complex parameter as a real one with a last dimension of 2, as in torch. Its state is complex where it is of that shape."
    def __init__(self,
        p:Tensor, # Parameter, complex
        grad:Tensor, # Its gradient
        state:dict # Its state
    ):
        self.whole, self.p, self.grad = state, torch.view_as_real(p.data), torch.view_as_real(grad)
        self.state = {k: torch.view_as_real(v) if isinstance(v, Tensor) and v.is_complex() and v.shape == p.shape else v for k, v in state.items()}

    def done(self, composition, hypers):
        "Let the state be complex again."
        for k, v in self.state.items():
            old = self.whole.get(k)
            if not isinstance(v, Tensor) or v.shape != self.p.shape or v.dtype != self.p.dtype: self.whole[k] = v
            elif not (isinstance(old, Tensor) and old.is_complex() and old.data_ptr() == v.data_ptr()): self.whole[k] = torch.view_as_complex(_paired(v))


def _paired(v) -> Tensor:
    "`v` with the two parts of each complex number side by side"
    even = v.storage_offset() % 2 == 0 and not any(s % 2 for s in v.stride()[:-1])
    return v if even and v.stride(-1) == 1 else v.clone(memory_format=torch.contiguous_format)


class Rows:
    "The rows of a parameter that a sparse gradient touches; no other is looked at: a lazy update, as in `torch.optim.SparseAdam`."
    def __init__(self,
        p:Tensor, # Parameter
        grad:Tensor, # Its gradient, sparse; rows that are there twice are summed
        state:dict # Its state; tensors of the parameter's shape have rows, too
    ):
        grad = grad.coalesce()
        self.all, self.at, self.whole = p.data, tuple(grad.indices()), state
        self.p = torch.nn.Parameter(self.all[self.at], p.requires_grad)
        self.p.__dict__.update(p.__dict__) # attributes that somebody gave it
        self.grad = grad.values()
        self.state = {k: v[self.at] if isinstance(v, Tensor) and v.shape == p.shape else v for k, v in state.items()}

    def done(self,
        composition, # What was run on the rows
        hypers:dict # Hyper-parameters
    ):
        "Put the rows back. State that is new starts, in other rows, from what the steppers start it from; from zero, if that can't be told."
        self.all[self.at] = self.p.data
        starts = None
        for k, v in self.state.items():
            if not (isinstance(v, Tensor) and v.shape == self.p.shape): self.whole[k] = v
            else:
                known = self.whole.get(k)
                if not isinstance(known, Tensor) or known.shape != self.all.shape or known.dtype != v.dtype:
                    if starts is None: starts = self._starts(composition, hypers)
                    known = self.whole[k] = torch.full_like(self.all, starts.get(k, 0), dtype=v.dtype)
                known[self.at] = v

    def _starts(self, composition, hypers) -> dict:
        numbers = {k: v for k, v in self.whole.items() if not isinstance(v, Tensor)}
        try: step = Rehearsal(composition, hypers, self.p, numbers).look()
        except (NotRecorded, MissingName): return {}
        return {k: step.recording.trace.slots[born] for k, (_, _, born) in step.program.fresh.items() if born is not None}
