"""Names for work with a fastai `Learner`. Import them after fastai: `from optimcb.fastai import *`.

They are algorithms, parts for `wrap`, callbacks, and tools to define an algorithm. They replace only fastai's
optimizers: `Adam`, `SGD`, …, `Optimizer` and `Lookahead`, which have the same signatures and give the same
numbers.
"""
from optimcb import (
    Lookahead,
    Optimizer,
    algorithm,
    algorithms,
    by_module,
    by_name,
    by_ndim,
    by_shape,
    compare,
    cosine_decay,
    create_optimizer,
    list_optimizers,
    norms_and_biases,
    once,
    part,
    parts,
    renamed,
    route,
    tap,
    warmup,
)
from optimcb.algorithms import *
from optimcb.learner import AveragedWeights, OptStatsCallback, SAMCallback, ZeroInStepCallback
from optimcb.parts import *

# Not exported, as fastai has them too: use `wd` and `decouple_wd` of an algorithm
FASTAIS = {'weight_decay', 'l2_reg'}

__all__ = [
    *algorithms.__all__, *(k for k in parts.__all__ if k not in {*FASTAIS, *algorithms.__all__}),
    'AveragedWeights', 'OptStatsCallback', 'SAMCallback', 'ZeroInStepCallback', 'compare', 'tap',
    'Lookahead', 'Optimizer', 'algorithm', 'create_optimizer', 'list_optimizers', 'once', 'part', 'renamed',
    'route', 'by_module', 'by_name', 'by_ndim', 'by_shape', 'norms_and_biases', 'cosine_decay', 'warmup']


def __dir__(): return __all__
