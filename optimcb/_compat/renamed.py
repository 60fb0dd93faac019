"""Names of earlier versions, of modules, functions and classes: imports work, files and pickles load.

Whoever imports one under another name than today's is warned once, and gets what stands in its place now.
"""
import os
import re
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from optimcb._compat.cpython import stacklevel_outside

__all__ = ['LABELS', 'MOVED', 'RENAMED', 'current_label', 'install', 'old_names']

MOVED = {  # by the old name under `optimcb`, the modules that have its contents now
    'averages': ['state.eval_weights'],
    'backward': ['training.in_backward'],
    'bench': ['bench.measure', 'bench.contenders', 'bench.sets', 'bench.timing', 'bench.report',
              'bench.__main__'],
    'boundary': ['_compat.boundary'],
    'branches': ['diagnosis.operations', 'diagnosis.outcomes', 'diagnosis.reading', 'diagnosis.exploring',
                 'diagnosis.hats', 'diagnosis.starting', 'diagnosis.branches', 'diagnosis.joining',
                 'diagnosis.merging'],
    'checkpoint': ['state.state_dict', 'state.param_names', 'state.copies'],
    'checks': ['diagnosis.checks'],
    'choice': ['composition.choice'],
    'composition': ['composition.pipeline', 'composition.errors'],
    'curvature': ['training.hessian'],
    'display': ['diagnosis.explain', 'diagnosis.source', 'diagnosis.kinds', 'diagnosis.report'],
    'editing': ['editing.edit'],
    'engine': ['engines', 'engines.runner'],
    'engine.advice': ['tracing.advice'],
    'engine.build': ['engines.c_compiler'],
    'engine.calls': ['tracing.opaque'],
    'engine.chance': ['tracing.rng'],
    'engine.cpu': ['engines.c_kernels'],
    'engine.cuda': ['engines.triton_kernels', 'engines.triton_source'],
    'engine.eager': ['engines.eager'],
    'engine.foreach': ['engines.foreach'],
    'engine.frozen': ['engines.frozen'],
    'engine.launch': ['engines.launch'],
    'engine.memory': ['engines.arena'],
    'engine.ops': ['tracing.ops'],
    'engine.plan': ['engines.plan', 'tracing.bucket'],
    'engine.program': ['tracing.program', 'tracing.ir'],
    'engine.reading': ['tracing.purity', 'tracing.code_reader', 'tracing.code_walk', 'tracing.purity_tables'],
    'engine.record': ['tracing.recording'],
    'engine.runner': ['engines.runner', 'engines.compilation', 'engines.refusals'],
    'engine.scaling': ['engines.grad_scaling'],
    'engine.shards': ['_compat.dtensors', 'engines.sharded'],
    'engine.spelling': ['tracing.torch_api', 'tracing.reductions', 'tracing.install'],
    'engine.trace': ['tracing.tracer', 'tracing.typed_tracers', 'tracing.trace'],
    'engine.triton_ops': ['engines.triton_math'],
    'engine.views': ['engines.sparse_complex'],
    'expression': ['diagnosis.expressions', 'diagnosis.algebra', 'diagnosis.choices', 'diagnosis.rewriting',
                   'diagnosis.rendering', 'diagnosis.latex'],
    'files': ['state.files'],
    'formula': ['diagnosis.formula', 'diagnosis.reading'],
    'hypers': ['hypers.values', 'hypers.torch_names', 'hypers.groups', 'hypers.views'],
    'interop': ['state.torch_optim', 'state.to_torch'],
    'lookahead': ['training.lookahead'],
    'names': ['state.learner_names'],
    'rehearsal': ['tracing.rehearsal', 'diagnosis.groups'],
    'routing': ['routing.route', 'routing.groups', 'routing.schedules', 'composition.rules'],
    'sam': ['training.sam'],
    'stepper': ['composition.stepper', 'composition.identity', 'composition.signatures', 'composition.traits',
                'composition.results', 'composition.calls'],
    'steppers.formulas': ['steppers.moving_average', 'steppers.norms', 'steppers.sgd', 'steppers.adam'],
    'steppers.classic': ['steppers.adam', 'steppers.sgd', 'steppers.moving_average', 'steppers.norms',
                         'steppers.second_moments', 'steppers.layerwise', 'steppers.lookahead'],
    'steppers.matrices': ['steppers.shampoo', 'steppers.muon', 'steppers.soap', 'steppers.factored',
                          'steppers.kronecker'],
    'steppers.tools': ['steppers.schedules'],
    'symbolic': ['diagnosis.symbolic'],
    'warn': ['_compat.warn'],
    'wrapping': ['editing.wrap', 'composition.roles'],
}

RENAMED = { # by module and old public name, under `optimcb`, the module and name of today
    'engines.grad_scaling.Doubt': 'engines.grad_scaling.PendingSkip',
    '_compat.dtensors.Spread': '_compat.dtensors.Sharding',
    'engines.sharded.agreed': 'engines.sharded.agree',
    '_compat.dtensors.spread_of': '_compat.dtensors.sharding_of',
    '_compat.dtensors.on_wholes': '_compat.dtensors.on_gathered',
    '_compat.dtensors.whole': '_compat.dtensors.unsharded',
    '_compat.dtensors.whole_of': '_compat.dtensors.gather',
    'hypers.values.spread': 'hypers.values.per_group',
    'tracing.bucket.Alike': 'tracing.bucket.Bucket',
    # of `steppers`, whichever of its modules had the name
    'steppers.ascend': 'steppers.sharpness.ascend',
    'steppers.average_rate': 'steppers.rates.average_rate',
    'steppers.bound_by_average': 'steppers.rates.bound_by_average',
    'steppers.bound_rate': 'steppers.rates.bound_rate',
    'steppers.direction': 'steppers.sgd.descent_direction',
    'steppers.free_start': 'steppers.averages.schedule_free_start',
    'steppers.free_step': 'steppers.averages.schedule_free_step',
    'steppers.free_warm_up': 'steppers.averages.schedule_free_warmup',
    'steppers.free_weight': 'steppers.averages.schedule_free_weight',
    'steppers.nadam_mom': 'steppers.adam.nadam_mom',
    'steppers.precise': 'steppers.norms.at_least_float32',
    'steppers.rate_update': 'steppers.rates.rate_update',
    'steppers.rectification': 'steppers.adam.rectification',
    'steppers.rms_rate': 'steppers.rates.rms_rate',
    'steppers.share_d': 'steppers.parameter_free.sync_d',
    'steppers.slow_vectors': 'steppers.muon.scale_vector_lr',
    'steppers.take_back': 'steppers.parts.undo_step',
    'steppers.turn_back': 'steppers.soap.project_back',
    'steppers.turn_grad': 'steppers.soap.project_grad',
}


def _last(path) -> str: return path.rpartition('.')[2]


LABELS = { # by old name of a stepper, its name now
    _last(old): _last(now) for old, now in RENAMED.items() if old.startswith('steppers.')}


def current_label(
    label:str # Name of a stepper, perhaps with options, from a state dict
) -> str:
    "Return the label that this version uses."
    return re.sub(r'^\w+', lambda m: LABELS.get(m[0], m[0]), label)


# Names in a module

def old_names(
    module:str # Name of the module, without `optimcb.`
) -> Callable:
    """Make the `__getattr__` of a module, which finds what it had in earlier versions.

    It raises `AttributeError` for what it never had."""
    def find(name):
        homes = () if name.startswith('__') else MOVED.get(module, ()) # `__all__` and the like are its own
        package = module.rpartition('.')[0]
        for home in (module, *homes, package):
            if f'{home}.{name}' in RENAMED: return _renamed(f'{home}.{name}')
            contents = vars(import_module(f'optimcb.{home}')) if home in homes else {}
            if name in contents: return contents[name]
        raise AttributeError(f"module 'optimcb.{module}' has no attribute {name!r}")
    return find


def _renamed(old):
    path, _, name = RENAMED[old].rpartition('.')
    if name != _last(old): _warn(old, RENAMED[old])
    return getattr(import_module(f'optimcb.{path}'), name)


# Modules

class _OldModule(ModuleType):
    "A module of earlier versions, whose contents have moved."
    def __getattr__(self, name): return old_names(self.__name__.removeprefix('optimcb.'))(name)


class _Finder(MetaPathFinder, Loader):
    "Finds modules of earlier versions that are not there any more."
    def find_spec(self, fullname, path=None, target=None):
        package, _, old = fullname.partition('.')
        if package == 'optimcb' and old in MOVED: return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec): return _OldModule(spec.name)

    def exec_module(self, module):
        old = module.__name__.removeprefix('optimcb.')
        _warn(old, *MOVED[old])


def install():
    "Let imports find old module names; existing modules come first."
    if not any(isinstance(o, _Finder) for o in sys.meta_path): sys.meta_path.append(_Finder())


# Warnings

OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
WARNED = set() # old names that were asked for


def _warn(old, *now):
    "Warn once of an old name, at the line of the user that uses it."
    if old in WARNED: return
    WARNED.add(old)
    names = ', '.join(f'`optimcb.{o}`' for o in now)
    level = stacklevel_outside(lambda frame: frame.f_code.co_filename.startswith(OURS))
    warnings.warn(f"`optimcb.{old}` is now {names}.", DeprecationWarning, stacklevel=level)
