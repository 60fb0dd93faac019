"A sparse gradient: the rows that it touches are a parameter of their own for a step, and no other is looked at (lazy, as `torch.optim.SparseAdam`)."
import torch
from torch import Tensor

from optimcb.composition import MissingName
from optimcb.engine.record import NotRecorded
from optimcb.rehearsal import Rehearsal

__all__ = ['Rows']


class Rows:
    "The rows of a parameter for which there is a gradient: `p`, with its `.grad`, and its `state`. What becomes of them is put back by `done`."
    def __init__(self,
        p:Tensor, # Parameter; seen as a real one, if it is complex
        grad:Tensor, # Its gradient, sparse; rows that are there twice are summed
        state:dict # Its state; tensors of the parameter's shape have rows, too
    ):
        grad = grad.coalesce()
        self.all, self.at, self.whole = p.data, tuple(grad.indices()), state
        self.p = torch.nn.Parameter(self.all[self.at], p.requires_grad)
        self.p.__dict__.update(p.__dict__) # attributes that somebody gave it
        self.p.grad = grad.values().clone()
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
