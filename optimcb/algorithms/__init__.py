"""The algorithms: each is a `partial` of `Optimizer` with a recipe, which lists its steppers.

The mathematics of each file's recipes is in the file of the same name in `optimcb.steppers`.
"""
from optimcb.algorithms import adaptive, averages, classic, matrices, momentum, parameter_free
from optimcb.algorithms.adaptive import *
from optimcb.algorithms.averages import *
from optimcb.algorithms.classic import *
from optimcb.algorithms.matrices import *
from optimcb.algorithms.momentum import *
from optimcb.algorithms.parameter_free import *

__all__ = [*classic.__all__, *adaptive.__all__, *momentum.__all__, *parameter_free.__all__, *matrices.__all__,
           *averages.__all__]


def __dir__(): return __all__
