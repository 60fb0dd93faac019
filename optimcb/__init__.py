"Optimizers composed of plain Python callbacks, for fastai and PyTorch."
from optimcb.algorithms import *
from optimcb.composition import Composition, MissingName
from optimcb.lookahead import Lookahead
from optimcb.optimizer import Optimizer
from optimcb.stepper import once, renamed
from optimcb.steppers import *
from optimcb.warn import CompositionWarning

__version__ = '0.1.0'
