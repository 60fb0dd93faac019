"Combine several algorithms, each for some of the parameters."
import inspect
from functools import partial

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb.algorithm import Algorithm, edited
from optimcb.composition.pipeline import Composition
from optimcb.composition.rules import as_rule
from optimcb.composition.stepper import InRoute, Stepper, only, renamed_all
from optimcb.hypers.torch_names import from_torch, suggest
from optimcb.optimizer import Optimizer
from optimcb.steppers import route_lr

__all__ = ['route']


@entry
def route(
    called:str|None=None, # Name of the algorithm; default: derived from the routes
    /,
    apart=(), # Hyper-parameters that routes don't share although their defaults agree
    **routes # Pairs `(algorithm, rule)`; the first matching rule counts, an algorithm alone takes the rest
) -> Algorithm:
    """Combine algorithms, each for some of the parameters: `route(hidden=(SGD, by_ndim(2)), rest=AdamW)`.

    Returns an `Algorithm` with the options of all routes. Routes share `lr`, and each option for which their
    defaults agree; other options get the route's name as a prefix: `hidden_mom`, `rest_mom`.
    `hidden_lr_scale` and `rest_lr_scale` multiply `lr`, so that a single number is scheduled. A `partial`
    changes a default: `partial(AdamW, mom=0.95, lr_scale=0.015)`. A route may also be a list of steppers, or
    a `partial` of `Optimizer`. Steppers that are inserted later apply to all parameters, unless they are
    `only(f, 'hidden')`. Steppers at the end of all routes, such as `apply_update`, appear once.

    Raises `ValueError` or `TypeError` for invalid routes.
    """
    if not isinstance(called, str|None):
        raise TypeError("routes need names, by keyword, as `route(hidden=(SGD, by_ndim(2)), rest=AdamW)`.")
    if isinstance(apart, str): raise TypeError(f"`apart` must be a list of names, but is {apart!r}.")
    pairs = {k: v if isinstance(v, tuple) else (v, None) for k, v in routes.items()}
    return Algorithm(_Recipe(called or '_and_'.join(routes), pairs, tuple(apart)))


class _Routes:
    "The decision which route a parameter takes."
    def __init__(self, rules): self.rules = rules

    @property
    def values(self) -> tuple:
        "The names of the routes."
        return tuple(self.rules)

    def __eq__(self, other):
        return isinstance(other, _Routes) and list(self.rules.items()) == list(other.rules.items())

    def __hash__(self): return hash(tuple(self.rules.items()))
    def __repr__(self): return ', '.join(k if r is None else f'{k}: {r!r}' for k, r in self.rules.items())

    def test(self):
        tests = {k: r.test() if r is not None else lambda p, name: True for k, r in self.rules.items()}
        def which(p, name):
            for k, fits in tests.items():
                if fits(p, name): return k
            what = f'`{name}`' if name else 'a parameter'
            raise ValueError(f"no route takes {what} of shape {tuple(p.shape)}. There are {self!r}. "
                             "Add a route without a rule, which takes the rest.")
        return which


class _Recipe:
    "The recipe of a routed algorithm: a function from options to a list of steppers."
    def __init__(self, name, routes, apart):
        _check_routes(routes)
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.routes, self.apart = routes, apart
        self.decider = _Routes({k: r for k, (_, r) in routes.items()})
        self.branches = {k: _Branch(k, o) for k, (o, _) in routes.items()}
        _check_apart(apart, self.branches)
        self.names = {k: _option_names(k, self.branches, apart) for k in routes}
        self.__doc__ = _described(self.branches, self.decider)
        self.__signature__ = _signature(self.branches, self.names)

    def __call__(self, **options) -> list:
        lists = {k: self._steppers(k, options) for k in self.branches}
        shared = _common_ending([*lists.values()])
        own = {k: cbs[:len(cbs) - len(shared)] for k, cbs in lists.items()}
        return [*(only(f, InRoute(k, self.decider)) for k, cbs in own.items() for f in cbs), *shared]

    def _steppers(self, route, options) -> list:
        "List the steppers of one route, with hyper-parameters renamed for the routed algorithm."
        branch, names = self.branches[route], self.names[route]
        given = {k: options[new] for k, new in names.items() if new in options}
        cbs = [f for f in [route_lr, *branch(given)] if f is not None]
        has = frozenset().union(*(s.mentions.union(s.names) for s in map(Stepper, cbs)))
        new = {k: v for k, v in names.items() if k != v and k not in branch.flags and k in has}
        return renamed_all(cbs, **new)

    def __reduce__(self): return _Recipe, (self.__name__, self.routes, self.apart)


# Parts of a recipe

def _check_routes(routes):
    "Raise `ValueError` or `TypeError` for invalid routes."
    if len(routes) < 2:
        raise ValueError("`route` needs two routes or more, as `route(hidden=(SGD, by_ndim(2)), "
                         "rest=AdamW)`.")
    for k, (_, *rules) in routes.items():
        if len(rules) != 1:
            raise TypeError(f"route `{k}` must be an algorithm with a rule, in a tuple, or an algorithm "
                            "alone.")
        if rules[0] is not None: as_rule(rules[0])
    last = list(routes)[-1]
    early = [k for k, (_, r) in routes.items() if r is None and k != last]
    if early:
        raise ValueError(f"route `{early[0]}` has no rule, and takes all that comes to it: put it last.")


def _check_apart(apart, branches):
    "Raise `ValueError` for a name of `apart` that no route has."
    for k in apart:
        if not any(k in o.options for o in branches.values()):
            raise ValueError(f"no route has a `{k}` of its own.")


def _option_names(route, branches, apart) -> dict:
    "Map a route's options to their new names: unchanged for options that all routes share."
    mine = branches[route]
    others = [o for k, o in branches.items() if k != route]
    def is_shared(k): return k != 'lr_scale' and k not in apart and all(_agrees(k, mine, o) for o in others)
    return {k: k if is_shared(k) else f'{route}_{k}' for k in mine.options}


def _agrees(k, mine, other) -> bool:
    "Does option `k` have the same default in another branch, or no meaning there?"
    if k not in other.options: return k in mine.flags or k not in other.speaks
    a, b = mine.options[k], other.options[k]
    return type(a) is type(b) and a == b


def _described(branches, decider) -> str:
    "Write the docstring of a routed algorithm."
    where = {k: 'the rest' if r is None else repr(r) for k, r in decider.rules.items()}
    return '; '.join(f"{o.label} for {where[k]}" for k, o in branches.items()) + '.'


def _signature(branches, names) -> inspect.Signature:
    "Make the signature of a routed algorithm: shared options first, then those of each route."
    defaults = {}
    for route, ks in names.items():
        own_name_last = sorted(ks.items(), key=lambda o: o[0] != o[1])
        defaults.update({new: branches[route].options[k] for k, new in own_name_last})
    of_routes = {f'{route}_{k}' for route, o in branches.items() for k in o.options}
    ordered = sorted(defaults, key=lambda k: k in of_routes)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(k, kind, default=defaults[k]) for k in ordered])


def _common_ending(lists) -> list:
    """List the steppers with which all lists end.

    Only functions count: objects may differ each time the recipe is called."""
    res = []
    for fs in zip(*map(reversed, lists)):
        same = inspect.isfunction(fs[0]) and all(f is fs[0] for f in fs)
        if not same or Stepper(fs[0]).sums_over_all: break
        res.insert(0, fs[0])
    return res


class _Branch:
    "One route: its `options`, numbers and flags, with defaults; called with options, it lists its steppers."
    def __init__(self, name, what):
        f, given = _partial_of(name, what)
        own = {k: given.pop(k) for k in ('lr_scale',) if k in given}
        if isinstance(f, (list, L)) and not given: f, given = Optimizer, {'cbs': f}
        if f is Optimizer and 'cbs' in given: self._of_steppers(given)
        elif isinstance(f, Algorithm): self._of_algorithm(name, f, given)
        else:
            raise TypeError(f"route `{name}` must be an algorithm, a partial of one or of `Optimizer`, or a "
                            f"list of steppers, but is {what!r:.80}.")
        self.flags = {k for k in self.takes if isinstance(self.options[k], bool)}
        self._check_options(name)
        self.options = {'lr_scale': 1., **self.options, **own}
        composition = Composition(self({}))
        self.speaks = composition.makes | composition.reads
        self.options = {**{k: v for k, v in composition.defaults.items() if k != 'lr_scale'}, **self.options}

    def _check_options(self, name):
        "Raise `TypeError` for invalid options of a route."
        for k, v in self.options.items():
            if isinstance(v, bool) and k not in self.flags:
                raise TypeError(f"route `{name}`: `{k}={v}` is no number. Fix it in the stepper: "
                                f"`partial(f, {k}={v})`.")
            if k in ('lr', 'engine', 'check', 'params', 'zero_in_step'):
                instead = ' Give it `lr_scale`, which multiplies the `lr` of all.' if k == 'lr' else ''
                raise TypeError(f"route `{name}` can't have its own `{k}`.{instead}")

    def _of_steppers(self, given):
        "Set up a route from a list of steppers and hyper-parameters."
        cbs = given.pop('cbs')
        composition = Composition(L(cbs))
        self.label, self.takes = ', '.join(composition.labels), ()
        self.make = lambda **options: list(L(cbs))
        self.options = from_torch(given, composition.reads)

    def _of_algorithm(self, name, f, given):
        "Set up a route from an algorithm and options."
        known = f.signature.parameters
        given = from_torch(given, known)
        for k in given:
            if k not in known:
                raise TypeError(f"route `{name}`: {f.__name__} has no `{k}`.{suggest(k, known)}")
        self.label, self.takes = f.__name__, f.options
        self.make = lambda **options: edited(f.recipe(**options), f.edits)
        hypers = {k: v for k, v in f.hypers.items() if k not in f.options}
        self.options = {**{k: known[k].default for k in f.options}, **hypers, **given}

    def __call__(self, options) -> list:
        values = {**self.options, **options}
        return self.make(**{k: values[k] for k in self.takes})


def _partial_of(name, what) -> tuple:
    "Return the callable inside nested partials, and the keywords that they fix."
    f, given = what, {}
    while type(f) is partial:
        if f.args: raise TypeError(f"route `{name}`: a partial must give options by name, not {f.args}.")
        f, given = f.func, {**f.keywords, **given}
    return f, given
