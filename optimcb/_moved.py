"""Module names of earlier versions, so that their pickles load and their imports work.

Importing one warns once, and gives what is asked for from where it is now.
"""
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ['MOVED', 'find', 'install']

MOVED = {  # by the old name under `optimcb`, the modules that have its contents now
    'averages': ['state.eval_weights'],
    'backward': ['training.in_backward'],
    'bench': ['bench.measure', 'bench.contenders', 'bench.sets', 'bench.timing', 'bench.report', 'bench.__main__'],
    'checkpoint': ['state.state_dict'],
    'checks': ['diagnosis.checks'],
    'composition': ['composition.pipeline', 'composition.errors'],
    'curvature': ['training.hessian'],
    'display': ['diagnosis.explain', 'diagnosis.source', 'diagnosis.kinds', 'diagnosis.tables'],
    'editing': ['editing.edit'],
    'engine': ['engines', 'engines.runner'],
    'engine.build': ['engines.c_compiler'],
    'engine.calls': ['tracing.opaque'],
    'engine.chance': ['tracing.rng'],
    'engine.cpu': ['engines.c_kernels'],
    'engine.cuda': ['engines.triton_kernels'],
    'engine.eager': ['engines.eager'],
    'engine.foreach': ['engines.foreach'],
    'engine.launch': ['engines.launch'],
    'engine.memory': ['engines.arena'],
    'engine.ops': ['tracing.ops'],
    'engine.plan': ['engines.plan', 'tracing.bucket'],
    'engine.program': ['tracing.program'],
    'engine.reading': ['tracing.purity'],
    'engine.record': ['tracing.recording'],
    'engine.runner': ['engines.runner'],
    'engine.scaling': ['engines.grad_scaling'],
    'engine.shards': ['_tensors', 'engines.sharded'],
    'engine.spelling': ['tracing.torch_api'],
    'engine.trace': ['tracing.tracer'],
    'engine.triton_ops': ['engines.triton_math'],
    'engine.views': ['engines.sparse_complex'],
    'expression': ['diagnosis.algebra'],
    'files': ['state.files'],
    'formula': ['diagnosis.formula'],
    'hypers': ['hypers.values', 'hypers.torch_names', 'hypers.groups', 'hypers.views'],
    'interop': ['state.torch_optim'],
    'lookahead': ['training.lookahead'],
    'rehearsal': ['tracing.rehearsal', 'diagnosis.groups'],
    'routing': ['routing.route', 'routing.groups', 'composition.rules', 'routing.schedules'],
    'sam': ['training.sam'],
    'stepper': ['composition.stepper', 'composition.results', 'composition.calls'],
    'steppers.classic': ['steppers.adam', 'steppers.sgd', 'steppers.formulas', 'steppers.second_moments',
                         'steppers.layerwise', 'steppers.lookahead'],
    'steppers.matrices': ['steppers.shampoo', 'steppers.muon', 'steppers.soap', 'steppers.factored', 'steppers.sides'],
    'steppers.tools': ['steppers.schedules'],
    'wrapping': ['editing.wrap', 'composition.roles'],
}


def find(
    old:str, # Old name of a module, without `optimcb.`
    name:str # What is asked of it
) -> Any:
    "What the old module `old` had under `name`. Raises `AttributeError`."
    if name.startswith('__'): raise AttributeError(name) # `__all__` and the like are a module's own
    for new in MOVED[old]:
        module = import_module(f'optimcb.{new}')
        if name in vars(module): return vars(module)[name]
    raise AttributeError(f"module 'optimcb.{old}' has no attribute '{name}'")


class _OldModule(ModuleType):
    "A module that has moved"
    def __getattr__(self, name): return find(self.__name__.removeprefix('optimcb.'), name)


class _Finder(MetaPathFinder, Loader):
    "Finds old modules that aren't there any more"
    def find_spec(self, fullname, path=None, target=None):
        package, _, old = fullname.partition('.')
        if package == 'optimcb' and old in MOVED: return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec): return _OldModule(spec.name)

    def exec_module(self, module):
        old = module.__name__.removeprefix('optimcb.')
        now = ', '.join(f'`optimcb.{o}`' for o in MOVED[old])
        warnings.warn(f"`{module.__name__}` has moved: its contents are in {now}.", DeprecationWarning, stacklevel=2)


def install():
    "Let imports find old module names, after everything that is really there."
    if not any(isinstance(o, _Finder) for o in sys.meta_path): sys.meta_path.append(_Finder())
