"Several algorithms in one: routes, rules that tell parameters apart, and hyper-parameters by the step."
from optimcb._compat.renamed import old_names
from optimcb.composition import rules
from optimcb.composition.rules import *
from optimcb.routing import groups, schedules
from optimcb.routing.groups import *
from optimcb.routing.route import *
from optimcb.routing.schedules import *

__all__ = ['Rule', 'by_module', 'by_name', 'by_ndim', 'by_shape', 'norms_and_biases', 'grouped', 'no_wd',
           'route', 'scheduled', 'warmup', 'cosine_decay', 'inverse_sqrt']

__getattr__ = old_names('routing')
