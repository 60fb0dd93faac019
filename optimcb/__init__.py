"""Optimizers composed of plain Python callbacks, for fastai and PyTorch.

    from optimcb import *           # algorithms, parts and tools; after fastai, which also has an Adam
    from optimcb.fastai import *    # for a fastai Learner, with callbacks

Make an optimizer
    Adam(model.parameters(), lr=1e-3)             call an algorithm; `Learner(…, opt_func=Adam)`
    algorithm('Mine', [average_grad, my_step])    name your own list of functions; `Optimizer` runs one
    create_optimizer('adamw', model, lr=1e-3)     by name; `list_optimizers('*adam*')` finds names
    Adam.wrap(clip_norm, cautious)                add parts, which work with any algorithm
    Adam.replace(average_sqr_grad, my_square)     swap steppers; `insert`, `remove`, `rename`, also of `opt`
    route(hidden=(Muon, by_ndim(2)), rest=Adam)   combine algorithms; `no_wd` and `grouped` take rules, too
    SAM(opt), Lookahead(opt)                      wrap an optimizer
See what it does
    opt.explain(), opt.formula, opt.kernel()      data flow, mathematics, generated code
    OptStats, tap, Record                         numbers for each parameter while it trains
    compare, plot_paths, plot_sched               tables and plots
    optimcb.doctor()                              versions, compiler, GPU, engines: for a bug report
Keep its state
    save_state, load_state, named_state           files; the state by parameter name
    to_torch                                      the state for an optimizer of `torch.optim`

Browse the rest, where each name has a docstring
    optimcb.algorithms    every algorithm, with its defaults and its source
    optimcb.parts         parts for `wrap`: clipping, decay, averages, …
    optimcb.steppers      the building blocks of algorithms
    optimcb.composition   results of steppers (`once`, `stop`) and wrappers (`only`, `renamed`, `by_torch`)
    optimcb.routing       rules, `route`, hyper-parameters as functions of the step
    optimcb.taps          measures for taps: `norm`, `cosine`, `histogram`
    optimcb.plots         plots; `optimcb.problems` has test functions for paths
    optimcb.learner       callbacks for a fastai Learner
    optimcb.catalog       tables of algorithms and parts, with their costs
    optimcb.bench         `python -m optimcb.bench` measures steps

Every algorithm, part and stepper can also be imported from `optimcb` by name.
"""
from importlib import import_module as _import_module
from inspect import isfunction as _isfunction

from optimcb._compat import renamed as _renamed
from optimcb._compat.warn import CompositionWarning
from optimcb.algorithm import Algorithm, algorithm
from optimcb.algorithms import *
from optimcb.compare import Comparison, compare
from optimcb.composition import documentation as _documentation
from optimcb.composition.calls import by_torch
from optimcb.composition.errors import MissingName
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import once, stop
from optimcb.composition.roles import of_directions, of_signs, part
from optimcb.composition.rules import *
from optimcb.composition.stepper import only, renamed, renamed_all
from optimcb.diagnosis.partials import show_partials as _show_partials
from optimcb.editing.wrap import wrapped
from optimcb.factory import create_optimizer, list_optimizers
from optimcb.optimizer import Optimizer
from optimcb.plots import *
from optimcb.routing.groups import *
from optimcb.routing.route import *
from optimcb.routing.schedules import *
from optimcb.state.files import load_state, save_state
from optimcb.state.learner_names import names_in_learners as _names_in_learners
from optimcb.state.param_names import named_state
from optimcb.state.to_torch import to_torch
from optimcb.steppers import *
from optimcb.taps import OptStats, Record, tap
from optimcb.training.hessian import hutchinson, update_hessian
from optimcb.training.in_backward import InBackward, step_in_backward
from optimcb.training.lookahead import Lookahead, look_ahead
from optimcb.training.sam import SAM, stats_kept
from optimcb.training.storage import stored

__version__ = '0.2.0'
__all__ = [ # common names, without `only` and `stop`, which would hide fastcore's
    *algorithms.__all__, *parts.__all__,
    'Optimizer', 'Lookahead', 'SAM', 'algorithm', 'create_optimizer', 'list_optimizers',
    # steppers of the classic algorithms
    'sgd_step', 'momentum_step', 'adam_step', 'average_grad', 'average_sqr_grad', 'step_stat',
    'debias_grad_avg', 'debias_sqr_avg', 'rms_update', 'apply_update', 'max_sqr_avg', 'use_sqr_max',
    'yogi_sqr_grad',

    'once', 'renamed', 'by_torch', 'part', 'wrapped', 'Composition', 'CompositionWarning', 'MissingName',
    'route', 'by_name', 'by_ndim', 'by_shape', 'by_module', 'norms_and_biases', 'no_wd', 'grouped',
    'warmup', 'cosine_decay', 'inverse_sqrt',
    'OptStats', 'Record', 'tap', 'compare', 'plot_paths', 'animate_paths', 'plot_sched', 'plot_curves',
    'save_state', 'load_state', 'named_state', 'to_torch', 'step_in_backward',
    'update_hessian', 'hutchinson', 'stats_kept']
__all__ = list(dict.fromkeys(__all__))

_PLACES = 'algorithms', 'composition', 'parts', 'plots', 'routing', 'steppers', 'taps'
_LATE = 'bench', 'catalog', 'fastai', 'learner', 'problems' # imported on first use

_names_in_learners()
_show_partials(Optimizer)
_documentation.explain_arguments(f for k, f in [*globals().items()] if _isfunction(f) and k[0] != '_')
_documentation.explain_hypers([look_ahead, schedule_free])


def __dir__(): return sorted({*__all__, *_PLACES, '__version__', 'doctor'})


def __getattr__(name):
    if name == 'doctor': return _import_module('optimcb.environment').doctor
    if name in _LATE or name in _renamed.MOVED: return _import_module(f'{__name__}.{name}')
    if name in _renamed.LABELS: return getattr(steppers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_renamed.install()
