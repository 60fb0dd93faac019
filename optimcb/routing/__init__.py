"Combine algorithms: routes, groups by rules, and hyper-parameters as functions of the step."
from optimcb import _moved
from optimcb.composition import rules
from optimcb.composition.rules import *
from optimcb.routing import groups, schedules
from optimcb.routing.groups import *
from optimcb.routing.route import *
from optimcb.routing.schedules import *

__all__ = ['Rule', 'by_module', 'by_name', 'by_ndim', 'by_shape', 'norms_and_biases', 'grouped', 'no_wd',
           'route', 'scheduled', 'warmup', 'cosine_decay', 'inverse_sqrt']


def __getattr__(name): return _moved.find('routing', name)
