"Optimizers composed of plain Python callbacks, for fastai and PyTorch."
from optimcb.algorithms import *
from optimcb.composition import Composition, MissingName
from optimcb.lookahead import Lookahead
from optimcb.optimizer import Optimizer
from optimcb.stepper import once
from optimcb.steppers import *

__version__ = '0.1.0'
