"What is there: every algorithm, and every part that goes with any of them, as tables that are made of the code."
import torch

import optimcb
from optimcb.algorithm import Algorithm
from optimcb.stepper import Stepper
from optimcb.wrapping import PLACES, place_of

__all__ = ['Catalog', 'catalog', 'parts']

SHAPE = 64, 64 # of the parameter whose state is counted


class Catalog(list):
    "Rows, as dicts with the same keys. Shown as a table in a notebook, and as text in Markdown."
    @property
    def markdown(self) -> str:
        "The table in Markdown."
        lines = [list(self[0]), ['---']*len(self[0]), *(r.values() for r in self)] if self else []
        return ''.join(f"| {' | '.join(str(o).replace('|', chr(92) + '|') for o in line)} |\n" for line in lines)

    def _repr_markdown_(self): return self.markdown
    def __repr__(self): return self.markdown


def catalog() -> Catalog:
    "Every algorithm: its steppers, bytes of state for each element of a float32 matrix of 64 × 64, how it runs, what it is and where it is from."
    return Catalog(_row(o) for o in vars(optimcb).values() if isinstance(o, Algorithm))


def _row(algo) -> dict:
    explained = algo([torch.nn.Parameter(torch.zeros(SHAPE))], lr=1., check=False).explain()
    what = ' '.join(algo.__doc__.split()).rstrip('.')
    return {'algorithm': f'`{algo.__name__}`', 'steppers, with the default options': ' → '.join(f'`{s}`' for s in algo.composition.labels),
            'state': f'{explained.state_bytes/torch.Size(SHAPE).numel():.3g}', 'runs as': _runs_as(explained), 'what, and where from': what}


def _runs_as(explained) -> str:
    programs = [k.program for k in explained.kinds]
    if None in programs: return 'steppers'
    called = dict.fromkeys(p.nodes[i].args[-1].name for p in programs for i in getattr(p, 'calls', ()))
    return f"kernels around {', '.join(f'`{k}`' for k in called)}" if called else 'kernel'


def parts() -> Catalog:
    "Every part that goes with any algorithm, in the order of a step: where it belongs, and what it does."
    found = [(f, place_of(f)) for f in vars(optimcb).values() if callable(f) and not isinstance(f, (type, Algorithm)) and getattr(f, 'place', None) in PLACES]
    found.sort(key=lambda o: list(PLACES).index(o[1]))
    return Catalog({'part': f'`{Stepper(f)}`', 'place': place, 'what, and where from': ' '.join(f.__doc__.split())} for f, place in found if place != 'apply')
