"""The mathematics: every formula of the library, once.

A stepper takes a parameter `p`, then names of hyper-parameters and state, and returns a dict of new state, or None.
Hyper-parameters are numbers. None of the library's steppers writes into a gradient.
"""
from inspect import isfunction

from optimcb.stepper import called_in_steps, hyper_defaults
from optimcb.steppers import adaptive, averages, classic, matrices, momentum, parameter_free, parts, tools
from optimcb.steppers.adaptive import *
from optimcb.steppers.averages import *
from optimcb.steppers.classic import *
from optimcb.steppers.matrices import *
from optimcb.steppers.momentum import *
from optimcb.steppers.parameter_free import *
from optimcb.steppers.parts import *
from optimcb.steppers.tools import *

FORMULAS = frozenset({'debias', 'nadam_mom', 'rectification'}) # functions of numbers, not steppers

__all__ = [*classic.__all__, *adaptive.__all__, *momentum.__all__, *parameter_free.__all__, *matrices.__all__, *averages.__all__, *parts.__all__,
           *tools.__all__]


def _help_callers():
    "Let every stepper, wherever it has a name here, tell who calls it by hand to use `partial`"
    modules = adaptive, averages, classic, matrices, momentum, parameter_free, parts, tools
    public = {k: f for m in modules for k, f in vars(m).items() if k in m.__all__ and k not in FORMULAS and isfunction(f)}
    helpful = {f: called_in_steps(f) for f in public.values()}
    for f, new in helpful.items():
        if hasattr(f, 'parts'): new.parts = [helpful[o] for o in f.parts]
    for names in (*map(vars, modules), globals()):
        names.update({k: helpful[f] for k, f in names.items() if isfunction(f) and f in helpful})


_help_callers()

for name in __all__: # as fastai's steppers tell them, for whoever asks there
    if name not in FORMULAS: globals()[name].defaults = hyper_defaults(globals()[name])


def __dir__(): return __all__
