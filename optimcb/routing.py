"""For some parameters other steppers, or other numbers, than for the rest: rules that tell parameters apart, and what they are for.

A rule is asked when an optimizer is made. What it says of a parameter is state of that parameter, as `do_wd` is in fastai: it is saved, it survives
`clear_state`, and it may be changed by hand. Groups stay as they are, so that `freeze_to` and discriminative learning rates mean what they always mean.
"""
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from fastcore.foundation import L
from torch import nn

from optimcb.algorithm import Algorithm, _with
from optimcb.boundary import entry
from optimcb.composition import Composition
from optimcb.hypers import from_torch, suggest
from optimcb.optimizer import Optimizer
from optimcb.stepper import InRoute, Stepper, only, renamed, renamed_all
from optimcb.steppers import count_steps, route_lr, schedule

__all__ = ['Rule', 'by_module', 'by_name', 'by_ndim', 'by_shape', 'grouped', 'no_wd', 'norms_and_biases', 'route', 'scheduled',
           'warmup', 'cosine_decay', 'inverse_sqrt']


# Rules

class Rule:
    """Tells parameters apart. Rules are combined by `&`, `|` and `~`.

    `test()` returns a function of a parameter and its name, None if it has none. A rule is state of a parameter under the name `mark`."""
    values, mark, decider = (True, False), property(repr), property(lambda self: self)

    def test(self) -> Callable:
        "A function of a parameter and its name that tells whether the rule holds. Raises `ValueError` if it needs a name that isn't there."
        raise NotImplementedError

    def holds(self,
        v # What the state says
    ) -> bool:
        "Does the rule hold, by what the state says?"
        return bool(v)

    def __and__(self, other): return _Both(self, _rule(other), all)
    def __or__(self, other): return _Both(self, _rule(other), any)
    def __invert__(self): return _Not(self)
    def __bool__(self): raise TypeError(f"rule {self!r} is neither true nor false. Combine rules by `&`, `|` and `~`, not by `and`, `or` and `not`.")


def _rule(o):
    if isinstance(o, Rule): return o
    raise TypeError(f"a rule is needed, such as `by_ndim(2)`, but this is {o!r:.80} ({type(o).__name__})."
                    + " A function of a shape is a rule by `by_shape`."*callable(o))


@dataclass(frozen=True, repr=False)
class _Both(Rule):
    a: Rule
    b: Rule
    how: Callable # `all` or `any`
    def test(self):
        tests = self.a.test(), self.b.test()
        return lambda p, name: self.how(fits(p, name) for fits in tests)
    def __repr__(self): return f"{_in(self.a)} {'&' if self.how is all else '|'} {_in(self.b)}"


@dataclass(frozen=True, repr=False)
class _Not(Rule):
    a: Rule
    def test(self):
        a = self.a.test()
        return lambda p, name: not a(p, name)
    def __repr__(self): return f'~{_in(self.a)}'


def _in(rule): return f'({rule!r})' if isinstance(rule, _Both) else repr(rule)


NAMELESS = "{} asks for names, but a parameter of shape {} has none. Make the optimizer of `model.named_parameters()`, or give the rule the model: {}."


@dataclass(frozen=True, repr=False)
class by_name(Rule):
    "Parameters whose name fits one of some patterns: `by_name('*.bias', 'head.*')`. `*` stands for anything, as in names of files."
    patterns: tuple
    model: nn.Module|None
    def __init__(self,
        *patterns:str, # Names, with `*`, `?` and `[…]`
        model:nn.Module|None=None # Model that has the names; default: those of the pairs that the optimizer is made of
    ):
        if not patterns or not all(isinstance(k, str) for k in patterns): raise TypeError(f"by_name needs patterns of names, such as '*.bias', not {patterns}.")
        _init(self, patterns=patterns, model=model)

    def test(self):
        if self.model is None: return self._by_own_name
        names = {}
        for k, p in self.model.named_parameters(remove_duplicate=False): names.setdefault(id(p), []).append(k)
        def fits(p, name):
            if id(p) in names: return any(map(self._fits, names[id(p)]))
            if name is None: raise ValueError(f"a parameter of shape {tuple(p.shape)} is not in the model of {self!r}. Is it of another one?")
            return self._fits(name)
        return fits

    def _by_own_name(self, p, name):
        if name is None: raise ValueError(NAMELESS.format(self, tuple(p.shape), f"{repr(self)[:-1]}, model=model)"))
        return self._fits(name)
    def _fits(self, name): return any(fnmatchcase(name.replace('_orig_mod.', '').removeprefix('module.'), k) for k in self.patterns)
    def __repr__(self): return f"by_name({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, repr=False)
class by_shape(Rule):
    "Parameters of whose shape a function says so: `by_shape(is_square)`."
    f: Callable
    def __init__(self,
        f:Callable # Function of a shape. It must be one with a name in a module if the optimizer is to be pickled
    ): _init(self, f=f)
    def test(self): return lambda p, name: bool(self.f(_shape(self, p)))
    def __repr__(self): return f"by_shape({getattr(self.f, '__name__', type(self.f).__name__)})"


@dataclass(frozen=True, repr=False)
class by_ndim(Rule):
    "Parameters with some number of dimensions: `by_ndim(0, 1)` are norms' parameters and biases, `by_ndim(2)` matrices."
    dims: tuple
    def __init__(self,
        *dims:int # Numbers of dimensions
    ):
        if not dims or not all(isinstance(n, int) for n in dims): raise TypeError(f"by_ndim needs numbers of dimensions, such as 2, not {dims}.")
        _init(self, dims=dims)
    def test(self): return lambda p, name: len(_shape(self, p)) in self.dims
    def __repr__(self): return f"by_ndim({', '.join(map(str, self.dims))})"


def _shape(rule, p):
    if not getattr(p, '_fsdp_flattened', False): return tuple(p.shape)
    raise ValueError(f"{rule!r} asks for a shape, which a piece of `FullyShardedDataParallel` doesn't have. "
                     "Shard the model with `torch.distributed.fsdp.fully_shard`.")


@dataclass(frozen=True, repr=False)
class by_module(Rule):
    "Parameters in modules of some types, however deep: `by_module(model, nn.Embedding, model.head)`."
    model: nn.Module
    which: tuple
    def __init__(self,
        model:nn.Module, # Model that has the modules
        *which # Types of modules, or modules of the model
    ):
        if not isinstance(model, nn.Module): raise TypeError(f"by_module needs the model first, but has {type(model).__name__}: {model!r:.60}.")
        for o in which or [None]:
            if not (isinstance(o, type) and issubclass(o, nn.Module) or isinstance(o, nn.Module)):
                raise TypeError(f"by_module needs types of modules, such as nn.Embedding, or modules of the model, but has {o!r:.80}.")
        _init(self, model=model, which=which)

    def test(self):
        types = tuple(o for o in self.which if isinstance(o, type))
        found = [m for m in self.model.modules() if isinstance(m, types) or any(m is o for o in self.which)]
        return _among(self, {id(p) for m in found for p in m.parameters()})
    def __repr__(self):
        return f"by_module({', '.join([type(self.model).__name__, *(o.__name__ if isinstance(o, type) else _path(self.model, o) for o in self.which)])})"


def _path(model, module): return next((k for k, m in model.named_modules() if m is module), type(module).__name__)


def _among(rule, ids):
    everyone = {id(p) for p in rule.model.parameters()}
    def fits(p, name):
        if id(p) not in everyone: raise ValueError(f"a parameter of shape {tuple(p.shape)} is not in the model of {rule!r}. Is it of another one, or was the "
                                                   "model changed since?")
        return id(p) in ids
    return fits


@dataclass(frozen=True, repr=False)
class norms_and_biases(Rule):
    """Parameters that are not decayed, as a rule: those of norms, all whose name has `bias`, and what the model lists in `no_weight_decay()`, as timm's do.

    Norms are torch's, and modules whose type is called so."""
    model: nn.Module
    def test(self):
        norms = [m for m in self.model.modules() if 'norm' in type(m).__name__.lower() and not any(m.children())]
        listed = getattr(self.model, 'no_weight_decay', set)()
        named = {id(p) for k, p in self.model.named_parameters(remove_duplicate=False) if 'bias' in k.rpartition('.')[2] or k in listed}
        return _among(self, named | {id(p) for m in norms for p in m.parameters(recurse=False)})
    def __repr__(self): return f'norms_and_biases({type(self.model).__name__})'


def _init(self, **values):
    for k, v in values.items(): object.__setattr__(self, k, v)


# What rules are for

@entry
def no_wd(
    opt:Optimizer, # Some of whose parameters are not to be decayed
    where # A rule, or a model, of which it is `norms_and_biases`
) -> Optimizer:
    """Don't decay the parameters for which a rule holds. Returns `opt`, whose `explain()` lists them.

    Raises `ValueError` if nothing is decayed, or if the rule holds for no parameter. `by_ndim(0, 1)` needs no model."""
    if 'do_wd' not in opt.composition.reads: raise ValueError(f"no stepper of {', '.join(opt.composition.labels)} reads `do_wd`. Is anything decayed?")
    found = _found(opt.param_groups, norms_and_biases(where) if isinstance(where, nn.Module) else _rule(where))
    if not found: raise ValueError(f"{where if isinstance(where, Rule) else norms_and_biases(where)!r} holds for no parameter: all would be decayed.")
    for p in found: opt.state[p]['do_wd'] = False
    return opt


def _found(groups, rule) -> list:
    "The parameters of groups for which a rule holds"
    test = rule.test()
    return [p for g in groups for p, k in zip(g['params'], g.get('param_names') or [None]*len(g['params'])) if test(p, k)]


@entry
def grouped(
    model:nn.Module, # Model; parameters that are frozen now are in the groups, too
    rules:dict # By rule, hyper-parameters of the parameters for which it holds: the first rule counts that does
) -> list[dict]:
    """Groups of named parameters, one for each rule and, last, one of the rest: `AdamW(grouped(model, {norms_and_biases(model): dict(wd=0.)}), lr=1e-3)`.

    Groups without parameters are left out."""
    tests = [(_rule(r).test(), {'params': [], **hypers}) for r, hypers in rules.items()] + [(lambda p, name: True, {'params': []})]
    for name, p in model.named_parameters(): next(g for fits, g in tests if fits(p, name))['params'].append((name, p))
    return [g for _, g in tests if g['params']]


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
        self.make = lambda **options: _with(f.recipe(**options), f.edits)
        self.options = {**{k: f.signature.parameters[k].default for k in f.options}, **{k: v for k, v in f.hypers.items() if k not in f.options}, **given}

    def __call__(self, options): return self.make(**{k: {**self.options, **options}[k] for k in self.takes})


# Hyper-parameters that are functions of the step

@entry
def scheduled(
    **functions # By name of a hyper-parameter, a function of the step, 1 in the first one, or of the step and the value
) -> list:
    """Steppers that make hyper-parameters functions of the step, as a part for any rule: `Adam.wrap(scheduled(lr=warmup(100)))`.

    A function of the step returns what the hyper-parameter is multiplied by, so that schedulers and `set_hyper` go on to mean something. One of two
    arguments, the step and the value, returns the value. Each parameter counts its own steps, in state `lr_count`: one that is unfrozen
    late starts from 1. (What goes by the whole training is for `torch.optim.lr_scheduler` or fastai's `ParamScheduler`.)

    Raises `TypeError` for what is no such function."""
    if not functions: raise TypeError("`scheduled` needs functions by the names of hyper-parameters, as `scheduled(lr=warmup(100))`.")
    return [o for k, f in functions.items() for o in (
        renamed(count_steps, count=f'{k}_count'), renamed(partial(schedule, of_step=f, takes_value=_takes_value(k, f)), hyper=k, count=f'{k}_count'))]


def _takes_value(name, f) -> bool:
    if not callable(f): raise TypeError(f"`{name}` must be a function of the step, but is {f!r:.80} ({type(f).__name__}).")
    try: ps = [p for p in inspect.signature(f).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    except ValueError: return False # a builtin that keeps its signature to itself
    if len(ps) > 2: raise TypeError(f"the function for `{name}` must take the step, or the step and the value, but takes {', '.join(p.name for p in ps)}.")
    return len(ps) == 2


class _OfStep(partial):
    "A function of the step, with a name"
    __name__ = property(lambda self: f"{self.func.__name__[1:]}({', '.join(f'{k}={v}' for k, v in self.keywords.items())})")
    def __repr__(self): return self.__name__


def _warmup(step, steps): return min(1., step / steps)


def _cosine_decay(step, steps, end, warm):
    if step < warm: return step / warm
    return end + (1-end) * (1 + math.cos(math.pi * min(1., (step-warm) / (steps-warm)))) / 2


def _inverse_sqrt(step, warm): return min(step / warm, math.sqrt(warm / step))


def warmup(
    steps:int # Until it is 1
) -> Callable:
    "A factor that goes up from 0 to 1 in a line, and stays."
    return _OfStep(_warmup, steps=_at_least_1('steps', steps))


def cosine_decay(
    steps:int, # Until the end is reached, where it stays
    end:float=0., # Where it ends
    warm:int=0 # Steps, the first of them, in which it goes up from 0 to 1
) -> Callable:
    "A factor that goes down from 1 as a cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5)."
    if not 0 <= warm < steps: raise ValueError(f"`warm` must be at least 0 and less than `steps`, {steps}, but is {warm}.")
    return _OfStep(_cosine_decay, steps=steps, end=end, warm=warm)


def inverse_sqrt(
    warm:int # Steps, the first of them, in which it goes up from 0 to 1
) -> Callable:
    "A factor that goes up to 1 in a line, and down as one over the root of the step (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sec. 5.3)."
    return _OfStep(_inverse_sqrt, warm=_at_least_1('warm', warm))


def _at_least_1(name, n):
    if n >= 1: return n
    raise ValueError(f"`{name}` must be at least 1, but is {n}.")
