"Kinds of parameters, which are rehearsed together."
from itertools import chain, groupby

import torch
from torch import Tensor

from optimcb.composition.errors import StepperError
from optimcb.diagnosis.groups import Group, can_step
from optimcb.diagnosis.suggestions import worded
from optimcb.engines.frozen import grad_of
from optimcb.tracing.ir import PER_ELEMENT
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal

__all__ = ['Kind', 'counted', 'first_parameter', 'is_real', 'live_parameters', 'parameters_like',
           'rehearsal_of']


FULL_STEPS = 2 # number of rehearsed steps that no stepper ends early; the first creates state
MOST_STEPS = 64 # limit of rehearsed steps


class Kind:
    """Parameters of one group with equal masks, dtype, device and number of dimensions, rehearsed together.

    They also have the same shape, if steppers read it. If they can't be rehearsed, `steps` is empty, and
    `reason` says why."""
    def __init__(self,
        composition, # Its steppers
        group:Group, # Its group
        index:int, # Index of the group
        params:list, # The parameters; empty for an algorithm without parameters
        masks:dict # Results of rules and routes for them, by name
    ):
        self.composition, self.group, self.index, self.masks = composition, group, index, masks
        self.params, self.sizes = params, [p.numel() for p in params]
        self.example = params[0] if params else None
        rehearsal = self.new_rehearsal()
        try:
            with worded(): self.steps, self.reason = _rehearsed(rehearsal, composition), None
        except (NotRecorded, StepperError) as e: self.steps, self.reason = [], str(e)
        self.kinds, self.numbers, self.looked = rehearsal.kinds, rehearsal.numbers, rehearsal.looked
        self.program = self.steps[-1].program if self.steps else None

    def __str__(self):
        if not self.params: return 'all'
        dtype, dims = str(self.example.dtype)[6:], counted(self.example.dim(), 'dimension')
        return f'group {self.index}, {dtype} with {dims}'

    def new_rehearsal(self) -> Rehearsal:
        "Create a rehearsal of these parameters that starts before the first step."
        return rehearsal_of(self.composition, self.group, self.example, self.masks)

    def by_shape(self) -> list['Kind']:
        "Split the kind by shape."
        params = sorted(self.params, key=lambda p: p.shape)
        by_shape = [list(ps) for _, ps in groupby(params, key=lambda p: p.shape)]
        if len(by_shape) < 2: return [self]
        return [Kind(self.composition, self.group, self.index, ps, self.masks) for ps in by_shape]

    @property
    def place(self) -> str:
        "The masks, in words."
        return ', '.join(_in_words(k, v) for k, v in self.masks.items())

    def notes(self) -> list[tuple]:
        "List the steppers that tell something about these parameters, each with what it tells."
        if self.example is None: return []
        values = {**self.group.hypers, **self.masks}
        steppers = [s for s in self.composition.steppers if s.traits.note and s.applies(values)]
        found = [(s, s.traits.note(self.example, **s.options(values, s.traits.note))) for s in steppers]
        return [(s, note) for s, note in found if note]

    @property
    def state_bytes_each(self) -> int:
        "The bytes of state per element."
        return sum(dtype.itemsize for _, dtype, extent in self.kinds.values() if extent is PER_ELEMENT)


def _in_words(name, value) -> str:
    if name == 'route': return str(value)
    return name if value is True else f'not {name}' if value is False else f'{name} {value}'


def _rehearsed(rehearsal, composition) -> list:
    "Rehearse up to two steps that no stepper ends early"
    steps, n_full = [], 0
    has_gate = any(s.traits.place == 'gate' for s in composition.steppers)
    most = MOST_STEPS if has_gate else FULL_STEPS
    while n_full < FULL_STEPS and len(steps) < most:
        steps.append(rehearsal.step())
        n_full += len(steps[-1].effects) == len(composition.steppers)
    return steps


def rehearsal_of(
    composition, # Its steppers
    group:Group, # A group
    example, # One of its parameters; None: a matrix in float32
    masks:dict|None=None # Its masks, if it isn't a parameter of the group; default: any
) -> Rehearsal:
    "Create a rehearsal that starts before the first step, but with state that the user has set."
    own = next((s for p, s in zip(group.params, group.states) if p is example), None)
    state = own if own is not None else masks or composition.variants[0]
    before = {k: v for k, v in state.items() if k not in composition.makes}
    return Rehearsal(composition, group.hypers, example, before)


def first_parameter(
    group:Group # A group
):
    "Return the first parameter that is stepped, or else that could be, or None."
    return next(chain(live_parameters(group), filter(can_step, group.params)), None)


def parameters_like(
    example, # A parameter of the group, or None
    group:Group, # A group
    masks:frozenset # Names of what rules and routes say
) -> list[Tensor]:
    "List the parameters of a group with the same dtype, device and masks as `example`."
    if example is None: return []
    states = {id(p): s for p, s in zip(group.params, group.states)}
    def key(p): return p.dtype, p.device, {k: states[id(p)].get(k) for k in masks}
    others = [p for p in live_parameters(group) if key(p) == key(example)]
    return others or [example]


def live_parameters(
    group:Group # A group
) -> list[Tensor]:
    "List the parameters of a group that are not frozen."
    def is_live(p): return p.requires_grad or grad_of(p, group.tracked) is not None
    return [p for p in group.params if is_real(p) and is_live(p)]


def is_real(
    p # A parameter
) -> bool:
    "Is it a tensor with a known shape?"
    return isinstance(p, Tensor) and not torch.nn.parameter.is_lazy(p)


def counted(
    n:int, # A number
    what:str # A noun in the singular
) -> str:
    "Write a number and a noun."
    return f"{n:,} {what}{'s' if n != 1 else ''}"
