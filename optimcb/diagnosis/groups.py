"Parameter groups as the checks and explanations see them."
from collections.abc import Set
from typing import NamedTuple

from optimcb.composition.pipeline import Composition
from optimcb.engines.masks import can_step

__all__ = ['Group', 'can_step', 'placement']


class Group(NamedTuple):
    "Parameters with the same hyper-parameters."
    hypers: dict
    params: list # Empty for an algorithm without parameters
    states: list # Of each parameter its state
    names: list|None = None # Of each parameter its name, if they have names
    tracked: Set = frozenset() # Parameters that have required gradients, and are frozen if they don't now


FEW = 3 # names that are shown of many


def placement(
    composition:Composition, # Its steppers
    groups:list[Group] # The parameters
) -> list[tuple]:
    "Which steppers are there for which parameters: a rule, what it says, of how many parameters, with how many elements, and who they are."
    found = {}
    for k in (*composition.marks, 'do_wd'):
        for g in groups:
            names = g.names or [f'a {"×".join(map(str, p.shape))}' if can_step(p) else '?' for p in g.params]
            for p, state, name in zip(g.params, g.states, names):
                if k in state and (k != 'do_wd' or not state[k]): found.setdefault((k, str(state[k])), []).append((name, p.numel() if can_step(p) else 0))
    def first(names): return ', '.join([*names[:FEW], '…'] if len(names) > FEW else names)
    return [(k, v, f'{len(o):,}', f'{sum(n for _, n in o):,}', first([name for name, _ in o])) for (k, v), o in found.items()]
