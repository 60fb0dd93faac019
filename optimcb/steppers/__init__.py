"""The mathematics: every formula of the library, once.

A stepper takes a parameter `p`, then names of hyper-parameters and state, and returns a dict of new state, or None.
Hyper-parameters are numbers. None of the library's steppers writes into a gradient.
"""
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


def __dir__(): return __all__
