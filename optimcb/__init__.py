"Optimizers composed of plain Python callbacks, for fastai and PyTorch."
from optimcb.algorithm import Algorithm, algorithm
from optimcb.algorithms import *
from optimcb.backward import InBackward, step_in_backward
from optimcb.checkpoint import named_state
from optimcb.compare import Comparison, compare
from optimcb.composition import Composition, MissingName
from optimcb.curvature import hutchinson, update_hessian
from optimcb.files import load_state, save_state
from optimcb.interop import to_torch
from optimcb.lookahead import Lookahead, look_ahead
from optimcb.names import names_in_learners
from optimcb.optimizer import Optimizer
from optimcb.plots import *
from optimcb.routing import *
from optimcb.sam import SAM, stats_kept
from optimcb.stepper import by_torch, once, only, renamed, renamed_all, stop
from optimcb.steppers import *
from optimcb.taps import OptStats, Record, tap
from optimcb.warn import CompositionWarning
from optimcb.wrapping import of_directions, of_signs, part, wrapped

names_in_learners()

__version__ = '0.1.0'
__all__ = [k for k, v in globals().items() if k[0] != '_' and type(v).__name__ != 'module'] # without the modules, one of which is `display`
