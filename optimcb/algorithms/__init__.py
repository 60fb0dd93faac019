"""The recipes: each algorithm is a `partial` of `Optimizer` with a list of steppers, and nothing else.

A file here has the recipes whose mathematics is in the file of the same name in `optimcb.steppers`.
"""
from optimcb.algorithms import classic
from optimcb.algorithms.classic import *

__all__ = [*classic.__all__]
