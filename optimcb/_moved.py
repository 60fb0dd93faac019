"""Names of earlier versions, so that old pickles load and old imports work.

Importing an old module, or a public name that has changed, warns once and gives its current counterpart.
"""
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from optimcb._renamed import LABELS

__all__ = ['MOVED', 'RENAMED', 'find', 'install', 'renamed']

MOVED = {  # by old module under `optimcb`, the modules that now have its contents
    'averages': ['state.eval_weights'],
    'backward': ['training.in_backward'],
    'bench': ['bench.measure', 'bench.contenders', 'bench.sets', 'bench.timing', 'bench.report',
              'bench.__main__'],
    'boundary': ['_boundary'],
    'branches': ['diagnosis.operations', 'diagnosis.outcomes', 'diagnosis.reading', 'diagnosis.exploring',
                 'diagnosis.hats', 'diagnosis.starting', 'diagnosis.merging'],
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
    'engine.shards': ['_tensors', 'engines.sharded'],
    'engine.spelling': ['tracing.torch_api', 'tracing.reductions', 'tracing.install'],
    'engine.trace': ['tracing.tracer', 'tracing.trace'],
    'engine.triton_ops': ['engines.triton_math'],
    'engine.views': ['engines.sparse_complex'],
    'expression': ['diagnosis.algebra', 'diagnosis.choices', 'diagnosis.rewriting', 'diagnosis.rendering',
                   'diagnosis.latex'],
    'files': ['state.files'],
    'formula': ['diagnosis.formula', 'diagnosis.reading'],
    'hypers': ['hypers.values', 'hypers.torch_names', 'hypers.groups', 'hypers.views'],
    'interop': ['state.torch_optim', 'state.to_torch'],
    'lookahead': ['training.lookahead'],
    'names': ['state.learner_names'],
    'rehearsal': ['tracing.rehearsal', 'diagnosis.groups'],
    'routing': ['routing.route', 'routing.groups', 'routing.schedules', 'composition.rules'],
    'sam': ['training.sam'],
    'stepper': ['composition.stepper', 'composition.signatures', 'composition.traits', 'composition.results',
                'composition.calls'],
    'steppers.formulas': ['steppers.moving_average', 'steppers.norms', 'steppers.sgd', 'steppers.adam'],
    'steppers.classic': ['steppers.adam', 'steppers.sgd', 'steppers.moving_average', 'steppers.norms',
                         'steppers.second_moments', 'steppers.layerwise', 'steppers.lookahead'],
    'steppers.matrices': ['steppers.shampoo', 'steppers.muon', 'steppers.soap', 'steppers.factored',
                          'steppers.kronecker'],
    'steppers.tools': ['steppers.schedules'],
    'symbolic': ['diagnosis.symbolic'],
    'wrapping': ['editing.wrap', 'composition.roles'],
}

RENAMED = { # by module and old public name under `optimcb`, the current module and name
    'engines.grad_scaling.Doubt': 'engines.grad_scaling.PendingSkip',
    '_tensors.Spread': '_tensors.Sharding',
    'engines.sharded.agreed': 'engines.sharded.agree',
    '_tensors.spread_of': '_tensors.sharding_of',
    '_tensors.on_wholes': '_tensors.on_gathered',
    '_tensors.whole': '_tensors.unsharded',
    '_tensors.whole_of': '_tensors.gather',
    'hypers.values.spread': 'hypers.values.per_group',
    'tracing.bucket.Alike': 'tracing.bucket.Bucket',
} # To keep the old name in the current module too, let that module end in
  # `def __getattr__(name): return _moved.renamed(__name__, name)`

_warned = set() # names of `RENAMED` that have been imported


def renamed(
    module:str, # Name of the module that had the name, with `optimcb.`
    name:str # Old name
) -> Any:
    "Return the object of an old public name; warn the first time. Raises `AttributeError`."
    old = f'{module}.{name}'.removeprefix('optimcb.')
    if old not in RENAMED: raise AttributeError(f"module {module!r} has no attribute {name!r}")
    path, _, new = RENAMED[old].rpartition('.')
    if old not in _warned:
        _warned.add(old)
        warnings.warn(f"`optimcb.{old}` is now `optimcb.{RENAMED[old]}`.", DeprecationWarning, stacklevel=3)
    return getattr(import_module(f'optimcb.{path}' if path else 'optimcb'), new)


def find(
    old:str, # Old name of a module, without `optimcb.`
    name:str # Name in that module
) -> Any:
    "Return the object that was called `name` in the old module. Raises `AttributeError`."
    if name.startswith('__'): raise AttributeError(name) # `__all__` and the like are the module's own
    for new in MOVED[old]:
        module = import_module(f'optimcb.{new}')
        if name in vars(module): return vars(module)[name]
        if f'{new}.{name}' in RENAMED: return renamed(module.__name__, name)
    if old.startswith('steppers') and name in LABELS: return getattr(import_module('optimcb.steppers'), name)
    raise AttributeError(f"module 'optimcb.{old}' has no attribute '{name}'")


class _OldModule(ModuleType):
    "A module of an earlier version whose contents have moved."
    def __getattr__(self, name): return find(self.__name__.removeprefix('optimcb.'), name)


class _Finder(MetaPathFinder, Loader):
    "An importer of modules that no longer exist."
    def find_spec(self, fullname, path=None, target=None):
        package, _, old = fullname.partition('.')
        if package == 'optimcb' and old in MOVED: return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec): return _OldModule(spec.name)

    def exec_module(self, module):
        old = module.__name__.removeprefix('optimcb.')
        now = ', '.join(f'`optimcb.{o}`' for o in MOVED[old])
        message = f"`{module.__name__}` has moved: its contents are in {now}."
        warnings.warn(message, DeprecationWarning, stacklevel=2)


def install():
    "Let imports find old module names, after all existing modules."
    if not any(isinstance(o, _Finder) for o in sys.meta_path): sys.meta_path.append(_Finder())
