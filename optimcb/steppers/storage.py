"State that is stored in another type than it is computed in."
import torch

from optimcb.composition.roles import part
from optimcb.composition.traits import stepper
from optimcb.steppers.norms import at_least_float32

__all__ = ['decode_state', 'encode_state']


@stepper
@part('first')
def decode_state(p,
    kept=None, # State: `stored` gives it its name
    **kwargs):
    "Turn a stored state into the type that steppers see: float32, or its own if that has more bits."
    if kept is not None: return {'kept': at_least_float32(kept)}


@stepper(stores='kept')
@part('last')
def encode_state(p,
    kept, # State: `stored` gives it its name
    format='bfloat16', # Type that it is stored in, by its name in torch
    **kwargs):
    "Round a state to the type that it is stored in."
    return {'kept': kept.to(getattr(torch, format))}
