"""The mathematics: each formula of the library, once.

A stepper takes a parameter `p`, then names of hyper-parameters and state, and returns a dict of new state,
or None. Hyper-parameters are numbers. None of the library's steppers writes into a gradient.

A fused `*_step` does in one call what the steppers in its trait `unfused` do one after the other. Each
formula stands once, in a stepper or function that both call (`over_rms`, `debias_sqr_avg`, `qhadam_avgs`, …).
Only the last operation is the step's own, so it can't be generated from the others: `addcdiv_` computes
`p - lr*num/denom` without rounding an update in between, as fastai's steps do, whose bits it keeps.
"""
from optimcb._compat.renamed import old_names
from optimcb.steppers import (
    adam,
    adaptive,
    averages,
    factored,
    layerwise,
    lookahead,
    momentum,
    moving_average,
    muon,
    parameter_free,
    parts,
    rates,
    schedules,
    second_moments,
    sgd,
    shampoo,
    sharpness,
    soap,
    storage,
)
from optimcb.steppers.adam import *
from optimcb.steppers.adaptive import *
from optimcb.steppers.averages import *
from optimcb.steppers.factored import *
from optimcb.steppers.layerwise import *
from optimcb.steppers.lookahead import *
from optimcb.steppers.momentum import *
from optimcb.steppers.moving_average import *
from optimcb.steppers.muon import *
from optimcb.steppers.parameter_free import *
from optimcb.steppers.parts import *
from optimcb.steppers.rates import *
from optimcb.steppers.schedules import *
from optimcb.steppers.second_moments import *
from optimcb.steppers.sgd import *
from optimcb.steppers.shampoo import *
from optimcb.steppers.sharpness import *
from optimcb.steppers.soap import *
from optimcb.steppers.storage import *

FORMULAS = frozenset({'debias', 'nadam_mom', 'rectification'}) # functions of numbers, not steppers

FAMILIES = [sgd, adam, second_moments, layerwise, lookahead, adaptive, rates, momentum, parameter_free, muon,
            shampoo, soap, factored, averages, sharpness, parts, schedules, storage, moving_average]
__all__ = [name for family in FAMILIES for name in family.__all__]


def __dir__(): return __all__


__getattr__ = old_names('steppers')
