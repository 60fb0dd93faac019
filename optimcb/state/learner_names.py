"""Take parameter names from the model, for optimizers that were given tensors without names.

A fastai `Learner` passes its optimizer the tensors that a splitter returns.
"""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

from torch import nn

__all__ = ['name_params', 'named_after', 'names_in_learners']


_modules = ContextVar('modules that an optimizer is being made for', default=())


@contextmanager
def named_after(
    model:nn.Module, # Model to take names from
    **others # Further modules; the keyword prefixes their parameters' names. Other objects are ignored
) -> Iterator[None]:
    "Let optimizers created in a `with` block name their parameters after modules, if they have no names."
    modules = [('', model), *((f'{k}.', m) for k, m in others.items() if isinstance(m, nn.Module))]
    token = _modules.set(modules)
    try: yield
    finally: _modules.reset(token)


def name_params(
    opt # Optimizer under construction
) -> None:
    "Name all parameters, if none has a name and the modules of `named_after` contain all of them."
    if not _modules.get() or any('param_names' in g for g in opt.param_groups): return
    known = {id(p): prefix + k for prefix, m in reversed(_modules.get()) for k, p in m.named_parameters()}
    if not all(id(p) in known for g in opt.param_groups for p in g['params']): return
    for g in opt.param_groups: g['param_names'] = [known[id(p)] for p in g['params']]
    opt._names_brought = True # groups added later need no names


# fastai's Learners

FASTAI = 'fastai.learner'


def names_in_learners() -> None:
    """Let optimizers take names from their `Learner`'s model, now or once fastai is imported.

    This doesn't import fastai."""
    if FASTAI in sys.modules: _name_in(sys.modules[FASTAI])
    elif not any(isinstance(o, _WhenThere) for o in sys.meta_path): sys.meta_path.insert(0, _WhenThere())


def _name_in(module):
    "Patch `Learner.create_opt` so that its optimizers take names from the model."
    Learner = getattr(module, 'Learner', None)
    if Learner is None or hasattr(Learner.create_opt, 'names_params'): return # still being imported, or done
    make = Learner.create_opt

    @wraps(make)
    def create_opt(self):
        with named_after(self.model, loss_func=self.loss_func): return make(self)

    create_opt.names_params = True
    Learner.create_opt = create_opt


class _WhenThere(MetaPathFinder):
    "An importer that patches fastai's Learner right after its import."
    def find_spec(self, name, path=None, target=None):
        if name != FASTAI: return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None: return sys.meta_path.insert(0, self) # not installed yet
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _name_in(module)

        spec.loader.exec_module = exec_module
        return spec
