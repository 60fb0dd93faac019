"Parameter groups, as checks and explanations see them."
from collections.abc import Set
from typing import NamedTuple

from optimcb.composition.pipeline import Composition
from optimcb.engines.masks import can_step

__all__ = ['Group', 'can_step', 'placement']


class Group(NamedTuple):
    "Parameters with the same hyper-parameters."
    hypers: dict
    params: list # Empty for an algorithm without parameters
    states: list # State of each parameter
    names: list|None = None # Name of each parameter, if they have names
    tracked: Set = frozenset() # Parameters that required gradients before: they are frozen if they don't now


FEW = 3 # number of names to show


def placement(
    composition:Composition, # Its steppers
    groups:list[Group] # The parameters
) -> list[tuple]:
    """List the parameters that match each rule, a row for each result of a rule.

    A row has the rule, its result, the number of parameters, the number of their elements, and their
    names."""
    found = {}
    for rule in (*composition.masks, 'do_wd'):
        for g in groups:
            for i, (p, state) in enumerate(zip(g.params, g.states)):
                if rule not in state or rule == 'do_wd' and state[rule]: continue
                name = g.names[i] if g.names else _shape_of(p)
                found.setdefault((rule, str(state[rule])), []).append((name, _n_elements(p)))
    def row(rule, answer, params):
        n_elements = sum(n for _, n in params)
        return rule, answer, f'{len(params):,}', f'{n_elements:,}', _first([name for name, _ in params])
    return [row(*key, params) for key, params in found.items()]


def _shape_of(p) -> str: return f'a {"×".join(map(str, p.shape))}' if can_step(p) else '?'
def _n_elements(p) -> int: return p.numel() if can_step(p) else 0
def _first(names) -> str: return ', '.join([*names[:FEW], '…'] if len(names) > FEW else names)
