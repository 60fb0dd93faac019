"Tables of all algorithms and of all parts for them, generated from the code."
import inspect

import torch

import optimcb
from optimcb.algorithm import Algorithm
from optimcb.composition.roles import PLACES, place_of
from optimcb.composition.stepper import Stepper
from optimcb.composition.traits import traits_of
from optimcb.training.lookahead import look_ahead

__all__ = ['Catalog', 'catalog', 'parts']

SHAPE = 64, 64 # of the parameter whose state is measured
# Parts of several steppers, which only work together:
# how they are called, an example, the function that creates it
LISTS = {
    'look_ahead()': (look_ahead(), look_ahead),
    'schedule_free()': (optimcb.schedule_free(), optimcb.schedule_free),
    'scheduled(…)': (optimcb.scheduled(lr=optimcb.warmup(100)), optimcb.scheduled),
    'stored(…)': (optimcb.stored(grad_avg='bfloat16'), optimcb.stored)}
RULES = {'stored(…)': optimcb.Lion} # with which parts are measured that need an average; others with SGD


class Catalog(list):
    "A list of rows, dicts with the same keys. Notebooks show a table, consoles its Markdown."
    @property
    def markdown(self) -> str:
        "The table in Markdown."
        lines = [list(self[0]), ['---']*len(self[0]), *(r.values() for r in self)] if self else []
        def escaped(o): return str(o).replace('|', r'\|')
        return ''.join(f"| {' | '.join(map(escaped, line))} |\n" for line in lines)

    def _repr_markdown_(self): return self.markdown
    def __repr__(self): return self.markdown


def catalog() -> Catalog:
    """List every algorithm: its steppers, size of state, kernels, description and source.

    The size of state is in bytes per element of a 64 × 64 float32 matrix."""
    return Catalog(_algorithm(o) for o in vars(optimcb).values() if isinstance(o, Algorithm))


def _algorithm(algo) -> dict:
    return {'algorithm': f'`{algo.__name__}`',
            'steppers, with the default options': ' → '.join(f'`{s}`' for s in algo.composition.labels),
            **_costs(algo), 'what, and where from': _description(algo)}


def parts() -> Catalog:
    """List every part for any algorithm, in the order of a step: its place, hyper-parameters and description.

    The size of state and the kernels are those of SGD with the part, or of Lion with `stored`."""
    single = {f.__name__: ([f], f) for f in vars(optimcb).values() if _is_part(f)}
    inside = {Stepper(o).innermost.__name__ for fs, _ in LISTS.values() for o in fs}
    found = {k: o for k, o in {**single, **LISTS}.items() if k not in inside}
    return Catalog(_part(k, *found[k]) for k in sorted(found, key=lambda k: min(map(_rank, found[k][0]))))


def _is_part(f) -> bool:
    is_function = callable(f) and not isinstance(f, (type, Algorithm))
    return is_function and traits_of(f).place in {*PLACES} - {'apply'}


def _rank(f) -> int: return list(PLACES).index(place_of(f))
def _description(f) -> str: return ' '.join(inspect.getdoc(f).partition('\n\nRaises')[0].split()).rstrip('.')


def _part(name, fs, f) -> dict:
    wrapped = RULES.get(name, optimcb.SGD).wrap(fs)
    own = dict.fromkeys(k for o in map(Stepper, fs) for k in o.names if k in wrapped.hypers)
    return {'part': f'`{name}`', 'place': ', '.join(dict.fromkeys(place_of(o) for o in fs)),
            'numbers': ', '.join(f'`{k}={wrapped.hypers[k]:g}`' for k in own),
            **_costs(wrapped), 'what, and where from': _description(f)}


def _costs(algo) -> dict:
    explained = algo([torch.nn.Parameter(torch.zeros(SHAPE))], lr=1., check=False).explain()
    return {'state': f'{explained.state_bytes/torch.Size(SHAPE).numel():.3g}', 'runs as': _runs_as(explained)}


def _runs_as(explained) -> str:
    programs = [k.program for k in explained.kinds]
    if None in programs: return 'steppers, one by one'
    called = dict.fromkeys(p.nodes[i].args[-1].name for p in programs for i in getattr(p, 'calls', ()))
    return f"kernels around {', '.join(f'`{k}`' for k in called)}" if called else 'kernel'
