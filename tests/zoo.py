"All rows of all tables of algorithms: those of `cases`, and those of each `zoo_*.py`, with the learning rates that these are meant to be used with."
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from cases import CASES, TOL
from helpers import difference, trajectory

import optimcb as oc

THEMES = [import_module(f.stem) for f in sorted(Path(__file__).parent.glob('zoo_*.py'))]
ZOO = [(name, ours, theirs, *(tol or [TOL[torch.float64]])) for o in THEMES for name, ours, theirs, *tol in o.CASES]
ROWS = [(*row, TOL[torch.float64]) for row in CASES] + ZOO
LRS = {name: lr for o in THEMES for name, lr in o.LRS.items()} # by algorithm
OPTIONS = {name: options for o in THEMES for name, options in getattr(o, 'OPTIONS', {}).items()} # beside the learning rate, if there must be some
ALGORITHMS = {o.__name__: o for o in vars(oc).values() if isinstance(o, oc.Algorithm)}


def algorithm_of(ours) -> oc.Algorithm|None:
    "The algorithm that a row is a test of"
    if isinstance(ours, oc.Algorithm): return ours
    return algorithm_of(ours.func) if isinstance(ours, partial) else None


def apart(ours, theirs, **kwargs) -> float:
    "How far two optimizers are from each other after 50 steps in float64, relative to the size of each tensor"
    return difference(trajectory(ours, torch.float64, **kwargs), trajectory(theirs, torch.float64, **kwargs))


def reference(theirs) -> str:
    "What a row is compared with, in words"
    made = theirs.func if isinstance(theirs, partial) else theirs
    return f'`torch.optim.{made.__name__}`' if getattr(made, '__module__', '').startswith('torch.optim') else getattr(made, 'reference', "its paper's formula in a loop")
