"Optimizers composed of plain Python callbacks, for fastai and PyTorch."
from optimcb.algorithms import *
from optimcb.compare import Comparison, compare
from optimcb.composition import Composition, MissingName
from optimcb.lookahead import Lookahead
from optimcb.optimizer import Optimizer
from optimcb.plots import *
from optimcb.stepper import once, renamed
from optimcb.steppers import *
from optimcb.taps import OptStats, Record, tap
from optimcb.warn import CompositionWarning

__version__ = '0.1.0'
