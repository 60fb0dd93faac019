"""The mathematics: every formula of the library, once.

A stepper takes a parameter `p`, then names of hyper-parameters and state, and returns a dict of new state, or None.
Hyper-parameters are numbers. None of the library's steppers writes into a gradient.
"""
from inspect import isfunction

from optimcb.composition.calls import called_in_steps
from optimcb.composition.stepper import hyper_defaults
from optimcb.steppers import (
    adam,
    adaptive,
    averages,
    factored,
    formulas,
    layerwise,
    lookahead,
    momentum,
    muon,
    parameter_free,
    parts,
    schedules,
    second_moments,
    sgd,
    shampoo,
    soap,
)
from optimcb.steppers.adam import *
from optimcb.steppers.adaptive import *
from optimcb.steppers.averages import *
from optimcb.steppers.factored import *
from optimcb.steppers.formulas import *
from optimcb.steppers.layerwise import *
from optimcb.steppers.lookahead import *
from optimcb.steppers.momentum import *
from optimcb.steppers.muon import *
from optimcb.steppers.parameter_free import *
from optimcb.steppers.parts import *
from optimcb.steppers.schedules import *
from optimcb.steppers.second_moments import *
from optimcb.steppers.sgd import *
from optimcb.steppers.shampoo import *
from optimcb.steppers.soap import *

FORMULAS = frozenset({'debias', 'nadam_mom', 'rectification'}) # functions of numbers, not steppers

FAMILIES = [sgd, adam, second_moments, layerwise, lookahead, adaptive, momentum, parameter_free, muon, shampoo, soap,
            factored, averages, parts, schedules, formulas]
__all__ = [name for family in FAMILIES for name in family.__all__]


def _help_callers():
    "Let every stepper, wherever it has a name here, tell who calls it by hand to use `partial`"
    public = {k: f for m in FAMILIES for k, f in vars(m).items() if k in m.__all__ and k not in FORMULAS and isfunction(f)}
    helpful = {f: called_in_steps(f) for f in public.values()}
    for f, new in helpful.items():
        if hasattr(f, 'parts'): new.parts = [helpful[o] for o in f.parts]
    for names in (*map(vars, FAMILIES), globals()):
        names.update({k: helpful[f] for k, f in names.items() if isfunction(f) and f in helpful})


_help_callers()

for name in __all__: # as fastai's steppers tell them, for whoever asks there
    if name not in FORMULAS: globals()[name].defaults = hyper_defaults(globals()[name])


def __dir__(): return __all__
