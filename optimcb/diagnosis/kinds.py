"Parameters that are alike, rehearsed as one."
from itertools import chain, groupby

import torch
from torch import Tensor

from optimcb.composition.errors import StepperError
from optimcb.diagnosis.groups import can_step
from optimcb.diagnosis.source import _source
from optimcb.diagnosis.suggestions import worded
from optimcb.engines import c_compiler
from optimcb.engines.frozen import grad_of
from optimcb.tracing.program import Unsupported
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal

STEPS = 2 # in the first one, state is made
PATIENCE = 64 # steps in which there should be as many that no stepper ends early


class Kind:
    "Parameters of one group that are alike in type, device and number of dimensions, and in shape if steppers look at it, rehearsed as one."
    def __init__(self, composition, group, index, params, marks):
        self.composition, self.group, self.marks = composition, group, marks
        self.index, self.params, self.sizes = index, params, [p.numel() for p in params]
        self.example = params[0] if params else None
        self.rehearsal = lambda: _rehearsal(composition, group, self.example, marks)
        r = self.rehearsal()
        try:
            with worded(): self.steps, self.reason = _rehearsed(r, composition), None
        except (NotRecorded, StepperError) as e: self.steps, self.reason = [], str(e)
        self.kinds, self.numbers, self.looked = r.kinds, r.numbers, r.looked
        self.program = self.steps[-1].program if self.steps else None

    def by_shape(self) -> list:
        "A kind for each shape."
        params = sorted(self.params, key=lambda p: p.shape)
        kinds = [Kind(self.composition, self.group, self.index, list(ps), self.marks) for _, ps in groupby(params, key=lambda p: p.shape)]
        return [self] if len(kinds) < 2 else kinds

    def __str__(self): return f"group {self.index}, {str(self.example.dtype)[6:]} with {_some(self.example.dim(), 'dimension')}" if self.params else 'all'

    @property
    def place(self) -> str:
        "What its marks say, in words"
        return ', '.join(str(v) if k == 'route' else k if v is True else f'not {k}' if v is False else f'{k} {v}' for k, v in self.marks.items())


def _rehearsed(rehearsal, composition) -> list:
    "Steps, of which a few are done to the end"
    steps, whole = [], 0
    n, patience = len(composition.steppers), PATIENCE if any(s.traits.place == 'gate' for s in composition.steppers) else STEPS
    while whole < STEPS and len(steps) < patience:
        steps.append(rehearsal.step())
        whole += len(steps[-1].acts) == n
    return steps


def _rehearsal(composition, group, example, marks=None) -> Rehearsal:
    "From before the first step, but with state that somebody has put there"
    state = next((s for p, s in zip(group.params, group.states) if p is example), marks or composition.variants[0])
    return Rehearsal(composition, group.hypers, example, {k: v for k, v in state.items() if k not in composition.makes})


def _example(group): return next(chain(_live(group), filter(can_step, group.params)), None)
def _live(group): return [p for p in group.params if _is_real(p) and _is_live(p, group.tracked)]
def _is_real(p): return isinstance(p, Tensor) and not torch.nn.parameter.is_lazy(p)
def _is_live(p, tracked): return p.requires_grad or grad_of(p, tracked) is not None

def _some(n, what): return f"{n:,} {what}{'s' if n != 1 else ''}"


def _engine_for(kind, wanted) -> tuple[str, str|None]:
    "The engine that can run a kind of parameters, or why it is the eager one"
    if wanted == 'eager': return 'eager', 'that is the one asked for'
    if kind.reason: return 'eager', kind.reason
    device = kind.example.device.type if kind.example is not None else 'cpu'
    if wanted == 'foreach' or device not in ('cpu', 'cuda'): return 'foreach', None
    try:
        if device == 'cpu': c_compiler.compiler()
        _source(kind.program, device)
    except (c_compiler.CantBuild, Unsupported) as e: return 'eager' if device == 'cpu' else 'foreach', str(e)
    except ImportError as e: return 'foreach', f'there is no Triton ({e})'
    return f"fused, in {'C' if device == 'cpu' else 'Triton'}", None
