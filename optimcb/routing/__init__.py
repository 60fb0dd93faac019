"Several algorithms in one: routes, rules that tell parameters apart, and hyper-parameters by the step."
from optimcb import _moved
from optimcb.composition.rules import *
from optimcb.routing.groups import *
from optimcb.routing.route import *
from optimcb.routing.schedules import *


def __getattr__(name): return _moved.find('routing', name)
