"Several algorithms in one: rules that tell parameters apart, routes, and hyper-parameters as functions of the step."
from optimcb import _moved
from optimcb.composition import rules
from optimcb.composition.rules import *
from optimcb.routing import groups, schedules
from optimcb.routing.groups import *
from optimcb.routing.route import *
from optimcb.routing.schedules import *

__all__ = [*rules.__all__, *groups.__all__, 'route', *schedules.__all__]


def __getattr__(name): return _moved.find('routing', name)
