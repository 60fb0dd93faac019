"Several algorithms in one, each for some of the parameters."
import inspect
from functools import partial

from fastcore.foundation import L

from optimcb._boundary import entry
from optimcb.algorithm import Algorithm, edited
from optimcb.composition.pipeline import Composition
from optimcb.composition.rules import _rule
from optimcb.composition.stepper import InRoute, Stepper, only, renamed_all
from optimcb.hypers.torch_names import from_torch, suggest
from optimcb.optimizer import Optimizer
from optimcb.steppers import route_lr

__all__ = ['route']


# Several compositions in one optimizer

@entry
def route(
    called:str|None=None, # What the algorithm is called; default: after the routes
    /,
    apart=(), # Hyper-parameters that each route has for itself, though the defaults agree
    **routes # By name, what to do with which parameters: `(algorithm, rule)`. The first rule that holds counts; an algorithm alone takes the rest
) -> Algorithm:
    """Several algorithms in one, each for some of the parameters: `route(hidden=(SGD, by_ndim(2)), rest=AdamW)`.

    What comes out is an `Algorithm` of all options. An option on whose default the routes agree is one, as `lr` is; others are there for each route, under the
    route's name: `hidden_mom`, `rest_mom`. `hidden_lr_scale` and `rest_lr_scale` multiply `lr`, which stays one number to be scheduled. What a `partial`
    fixes is the default: `partial(AdamW, mom=0.95, lr_scale=0.015)`.
    A route may also be a list of steppers, or a `partial` of `Optimizer`. What is inserted afterwards is for all parameters, unless it is `only(f, 'hidden')`.
    The steppers with which all routes end, such as `apply_update`, are there once.

    Raises `ValueError` or `TypeError` for routes that can't be.
    """
    if not isinstance(called, str|None): raise TypeError("routes need names, by keyword, as `route(hidden=(SGD, by_ndim(2)), rest=AdamW)`.")
    if isinstance(apart, str): raise TypeError(f"`apart` must be a list of names, but is {apart!r}.")
    return Algorithm(_Recipe(called or '_and_'.join(routes), {k: v if isinstance(v, tuple) else (v, None) for k, v in routes.items()}, tuple(apart)))


class _Routes:
    "Decides which route a parameter takes"
    def __init__(self, rules): self.rules = rules
    values = property(lambda self: tuple(self.rules))
    def __eq__(self, other): return isinstance(other, _Routes) and list(self.rules.items()) == list(other.rules.items())
    def __hash__(self): return hash(tuple(self.rules.items()))
    def __repr__(self): return ', '.join(k if r is None else f'{k}: {r!r}' for k, r in self.rules.items())

    def test(self):
        tests = {k: r.test() if r is not None else lambda p, name: True for k, r in self.rules.items()}
        def which(p, name):
            for k, fits in tests.items():
                if fits(p, name): return k
            raise ValueError(f"no route takes {f'`{name}`' if name else 'a parameter'} of shape {tuple(p.shape)}. There are "
                             f"{self!r}. Add a route without a rule, which takes the rest.")
        return which


class _Recipe:
    "A recipe of several, as `algorithm` takes it"
    def __init__(self, name, routes, apart):
        if len(routes) < 2: raise ValueError("`route` needs two routes or more, as `route(hidden=(SGD, by_ndim(2)), rest=AdamW)`.")
        for k, (_, *rules) in routes.items():
            if len(rules) != 1: raise TypeError(f"route `{k}` must be an algorithm with a rule, in a tuple, or an algorithm alone.")
            if rules[0] is not None: _rule(rules[0])
        last = list(routes)[-1]
        early = [k for k, (_, r) in routes.items() if r is None and k != last]
        if early: raise ValueError(f"route `{early[0]}` has no rule, and takes all that comes to it: put it last.")
        self.__name__, self.routes, self.apart = name, routes, apart
        self.__qualname__, self.__module__ = name, __name__
        self.decider = _Routes({k: r for k, (_, r) in routes.items()})
        self.parts = {k: _Part(k, o) for k, (o, _) in routes.items()}
        for k in apart:
            if not any(k in o.options for o in self.parts.values()): raise ValueError(f"no route has a `{k}` of its own.")
        self.__doc__ = '; '.join(f"{o.label} for {'the rest' if r is None else repr(r)}" for o, (_, r) in zip(self.parts.values(), routes.values())) + '.'
        self.names = {r: {k: self._name(r, k) for k in o.options} for r, o in self.parts.items()}
        defaults = {new: self.parts[r].options[k] for r, ks in self.names.items() for k, new in sorted(ks.items(), key=lambda o: o[0] != o[1])}
        defaults = {k: defaults[k] for k in sorted(defaults, key=lambda k: any(k == f'{r}_{o}' for r, p in self.parts.items() for o in p.options))}
        self.__signature__ = inspect.Signature([inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v) for k, v in defaults.items()])

    def _name(self, route, k):
        "What an option of a route is called: a name is shared if it means and is the same wherever it is"
        mine, others = self.parts[route].options[k], [o for r, o in self.parts.items() if r != route]
        flag = k in self.parts[route].flags
        same = all(type(o.options[k]) is type(mine) and o.options[k] == mine if k in o.options else flag or k not in o.speaks for o in others)
        return k if same and k != 'lr_scale' and k not in self.apart else f'{route}_{k}'

    def __call__(self, **options) -> list:
        res = []
        for r, part in self.parts.items():
            names = self.names[r]
            cbs = [route_lr, *part({k: options[new] for k, new in names.items() if new in options})]
            res.append([f for f in cbs if f is not None])
        shared = _ending([self._renamed(r, cbs) for r, cbs in zip(self.parts, res)])
        res = [self._renamed(r, cbs)[:len(cbs) - len(shared)] for r, cbs in zip(self.parts, res)]
        return [*(only(f, InRoute(r, self.decider)) for r, cbs in zip(self.parts, res) for f in cbs), *shared]

    def _renamed(self, route, cbs):
        new = {k: v for k, v in self.names[route].items() if k != v and k not in self.parts[route].flags}
        has = frozenset().union(*(s.mentions.union(s.names) for s in map(Stepper, cbs)))
        return renamed_all(cbs, **{k: v for k, v in new.items() if k in has})

    def __reduce__(self): return _Recipe, (self.__name__, self.routes, self.apart)


def _ending(lists) -> list:
    "The steppers with which all lists end, which are functions: any object may be another one the next time"
    res = []
    for fs in zip(*map(reversed, lists)):
        if not inspect.isfunction(fs[0]) or any(f is not fs[0] for f in fs) or Stepper(fs[0]).sums_over_all: break
        res.insert(0, fs[0])
    return res


class _Part:
    "What one route does: its `options`, numbers and flags, with their defaults, and the steppers for them"
    def __init__(self, name, what):
        given = {}
        f = what
        while type(f) is partial:
            if f.args: raise TypeError(f"route `{name}`: a partial must give options by name, not {f.args}.")
            f, given = f.func, {**f.keywords, **given}
        own = {k: given.pop(k) for k in ('lr_scale',) if k in given}
        if isinstance(f, (list, L)) and not given: f, given = Optimizer, {'cbs': f}
        if f is Optimizer and 'cbs' in given: self._of_steppers(given)
        elif isinstance(f, Algorithm): self._of_algorithm(name, f, given)
        else: raise TypeError(f"route `{name}` must be an algorithm, a partial of one or of `Optimizer`, or a list of steppers, but is {what!r:.80}.")
        self.flags = {k for k in self.takes if isinstance(self.options[k], bool)}
        for k in self.options:
            if isinstance(self.options[k], bool) and k not in self.flags:
                raise TypeError(f"route `{name}`: `{k}={self.options[k]}` is no number. Fix it in the stepper: `partial(f, {k}={self.options[k]})`.")
            if k in ('lr', 'engine', 'check', 'params'):
                instead = ' Give it `lr_scale`, which multiplies the `lr` of all.' if k == 'lr' else ''
                raise TypeError(f"route `{name}` can't have its own `{k}`.{instead}")
        self.options = {'lr_scale': 1., **self.options, **own}
        composition = Composition(self({}))
        self.speaks = composition.makes | composition.reads
        self.options = {**{k: v for k, v in composition.defaults.items() if k != 'lr_scale'}, **self.options}

    def _of_steppers(self, given):
        cbs = given.pop('cbs')
        composition = Composition(L(cbs))
        self.label, self.make, self.takes = ', '.join(composition.labels), lambda **options: list(L(cbs)), ()
        self.options = from_torch(given, composition.reads)

    def _of_algorithm(self, name, f, given):
        given = from_torch(given, f.signature.parameters)
        for k in given:
            if k not in f.signature.parameters: raise TypeError(f"route `{name}`: {f.__name__} has no `{k}`.{suggest(k, f.signature.parameters)}")
        self.label, self.takes = f.__name__, f.options
        self.make = lambda **options: edited(f.recipe(**options), f.edits)
        self.options = {**{k: f.signature.parameters[k].default for k in f.options}, **{k: v for k, v in f.hypers.items() if k not in f.options}, **given}

    def __call__(self, options): return self.make(**{k: {**self.options, **options}[k] for k in self.takes})
