"A stepper: a callback of which the parameter names are the contract, and what it may return."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from types import CodeType, GeneratorType

import torch

from optimcb._boundary import entry
from optimcb._cpython import assigned_arguments, uses_kwargs
from optimcb.composition.calls import _in_steps
from optimcb.composition.results import ONE_STEP, once
from optimcb.hypers.torch_names import nearest

__all__ = ['InRoute', 'Stepper', 'code_of', 'hyper_defaults', 'innermost', 'is_redefined', 'label',
           'name_of', 'only', 'renamed', 'renamed_all', 'same_name', 'strings', 'weights_by']


TORCH_KEYWORDS = frozenset({'alpha', 'value', 'beta', 'dim', 'dtype', 'device', 'keepdim', 'memory_format', 'min', 'max', 'out'})  # of its functions


def weights_by(
    weights:Callable # Takes a parameter and names of its state; returns the weights to evaluate it with
) -> Callable:
    "Let a stepper tell the weights that a model is better evaluated with than with those that are trained, for `Optimizer.eval`."
    def mark(f):
        f.weights = weights
        return f
    return mark


class renamed(partial):
    """A stepper that reads and writes under other names: `renamed(average_grad, grad_avg='slow_avg', mom='slow_mom')`.

    So two of a kind can be side by side. Raises `ValueError` for a name that the stepper doesn't have.
    """
    @entry
    def __new__(cls,
        f:Callable, # A stepper
        **names # By the name that it has, the name that it should have: of hyper-parameters and state
    ):
        "A stepper with the names of `f`, but for those that are given another one."
        s = Stepper(f)
        for k in names:
            if k not in s.mentions.union(s.names): raise ValueError(f"stepper `{s}` has no `{k}` that could be renamed. It has {', '.join(s.names)}.")
            if names[k] in ONE_STEP and k not in ONE_STEP: raise ValueError(f"`{k}` of stepper `{s}` can't be `{names[k]}`, which lives for one step.")
        ps = [p.replace(name=names.get(p.name, p.name)) for p in inspect.signature(f).parameters.values()]
        same = {p.name for p in ps if [o.name for o in ps].count(p.name) > 1}
        if same: raise ValueError(f"stepper `{s}` would have two names `{same.pop()}`. Take another one.")
        self = super().__new__(cls, f)
        self.names, self.__signature__ = names, inspect.Signature(ps)
        return self

    def __call__(self, p, **values):
        back = {v: k for k, v in self.names.items()}
        new = self.func(p, **self.keywords | {back.get(k, k): v for k, v in values.items() if k not in self.names or k in back})
        return self._later(new) if isinstance(new, GeneratorType) else self._renamed(new)

    def _later(self, new): return self._renamed((yield from new))
    def _renamed(self, new):
        if not isinstance(new, dict): return new
        kind = once if new and new.keys() <= ONE_STEP else type(new) # what lives for one step does so under another name, too
        return kind({self.names.get(k, k): v for k, v in new.items()})

    def __reduce__(self): return partial(renamed, **self.names), (partial(self.func, **self.keywords),)


@entry
def renamed_all(
    cbs:list, # Steppers
    **names # By the name that some of them have, the name that they should have: of hyper-parameters and state
) -> list:
    "`cbs`, each reading and writing under other names: see `renamed`. Raises `ValueError` for a name that none has."
    has = [{k: v for k, v in names.items() if k in s.mentions.union(s.names)} for s in map(Stepper, cbs)]
    for k in names:
        if not any(k in o for o in has): raise ValueError(f"none of {', '.join(map(label, cbs))} has a `{k}` that could be renamed.")
    return [renamed(f, **o) if o else f for f, o in zip(cbs, has)]


class InRoute:
    "The parameters of one of several compositions. State `route` tells which one is a parameter's."
    mark = 'route'
    def __init__(self,
        name:str, # Name of the route
        decider=None # Tells the route of a parameter; default: that of the steppers beside it
    ): self.name, self.decider = name, decider

    def holds(self,
        v # State `route` of a parameter
    ) -> bool:
        "Is it this route?"
        return v == self.name
    def __repr__(self): return self.name


class only(partial):
    """A stepper that is called for some of the parameters: `only(weight_decay, ~by_ndim(1))`.

    For the others it isn't there. What the rule says of a parameter is state, under the rule's name, when the optimizer is made: it may be changed there, for
    each parameter. Raises `ValueError` for a stepper that yields: its sum would lack the other parameters.
    """
    @entry
    def __new__(cls,
        f:Callable, # A stepper
        where # A rule, such as `by_ndim(2)`, or the name of a route
    ):
        "A stepper that is left out where the rule doesn't hold."
        if Stepper(f).sums_over_all:
            raise ValueError(f"stepper `{label(f)}` yields what is to be summed over all parameters, and can't be called for some of them only. "
                             "Put it before or after the steppers of a route, and without `only`.")
        if isinstance(where, str): where = InRoute(where)
        if not hasattr(where, 'mark') or not hasattr(where, 'holds'):
            raise TypeError(f"`where` must be a rule, such as `by_ndim(2)`, or the name of a route, but is {where!r:.80} ({type(where).__name__})."
                            + " A function of a shape is a rule by `by_shape`."*callable(where))
        self = super().__new__(cls, f)
        self.where, self.__signature__ = where, inspect.signature(f)
        return self

    def __call__(self, p, **values):
        w = self.where
        if w.mark not in values or w.holds(values[w.mark]): return self.func(p, **self.keywords | values)

    def __reduce__(self): return only, (partial(self.func, **self.keywords), self.where)


class Stepper:
    "A callback, read once: the names that it takes, their defaults, and the names that it speaks of."
    def __init__(self,
        f:Callable # Takes a parameter, then names of state and hyper-parameters; returns a dict of new state, or None
    ):
        if isinstance(f, GeneratorType):
            raise TypeError(f"`{f.__name__}` has been called, but an optimizer calls it in each step. Pass `{f.__name__}` itself, "
                            f"or `partial({f.__name__}, …)` with options.")
        if not callable(f): raise TypeError(f"a stepper must be callable, but {f!r} is not. Pass functions of a parameter in `cbs`.")
        self.f, self.call, self.innermost, self.label = f, _in_steps(f), innermost(f), label(f)
        self.is_ours = (getattr(self.innermost, '__module__', None) or '').startswith('optimcb.steppers')
        fixed = next((o.args for o in _chain(f) if isinstance(o, partial) and o.args), ())
        if self.is_ours and fixed: raise TypeError(f"a partial of `{self.label}` must give options by name, but gives {fixed}: first comes a parameter.")
        if isinstance(self.innermost, type) and issubclass(self.innermost, torch.optim.Optimizer):
            raise TypeError(f"{getattr(f, '__name__', self.label)} is an optimizer, not a stepper. Call it with parameters, or pass its steppers, `.cbs`.")
        if isinstance(self.innermost, type):
            raise TypeError(f"stepper `{self.label}` is a class. Pass an object of it, `{self.innermost.__name__}()`, whose `__call__` is the stepper.")
        self.fixed_in_vain = tuple(_fixed_in_vain(f)) # by partials, but not taken
        if _takes_no_parameter(f):
            raise TypeError(f"stepper `{self.label}` takes no parameter, which it is called with first: write `def f(p, …)`.")
        taken, self.takes_all = _parameters(f)
        code = code_of(f)
        self.names = tuple(p.name for p in taken)
        self.required = tuple(p.name for p in taken if p.default is p.empty)
        self.new_name = new_name = _new_names(f)
        given = _given(f)
        self.masks = tuple(o.where for o in _chain(f) if isinstance(o, only))
        said = {*strings(code), *(v for v in given.values() if isinstance(v, str))}
        self.mentions = frozenset(map(new_name, said - TORCH_KEYWORDS))
        self.taps = frozenset(getattr(self.innermost, 'taps', ())) # state that only people read
        self.sums_over_all = inspect.isgeneratorfunction(self.innermost) or bool(code and code.co_flags & inspect.CO_GENERATOR)
        self.reads_all = self.takes_all and (code is None or uses_kwargs(code))
        if self.reads_all: self.fixed_in_vain = ()
        declared = {} if self.is_ours else getattr(self.innermost, 'defaults', {}) # of ours, numbers in the signature
        self.declared = {new_name(k): v for k, v in declared.items() if k not in given}
        self.numbers = {p.name: p.default for p in taken if _is_number(p.default)}

    def __call__(self, p, values:dict):
        "Call the stepper on `p` with those of `values` that it takes."
        return self.call(p, **(values if self.takes_all else {k: values[k] for k in self.names if k in values}))

    def applies(self,
        values:dict # State and hyper-parameters of a parameter
    ) -> bool:
        "Is it called for this parameter? Raises `KeyError` if nobody has said so."
        return all(w.holds(values[w.mark]) for w in self.masks)

    @property
    def first(self) -> str|None:
        "What it calls the parameter."
        code = code_of(self.f)
        names = code.co_varnames[:code.co_argcount] if code else ()
        return next((k for k in names if k != 'self'), None)

    @property
    def assigned(self) -> frozenset:
        "The arguments that it assigns another value to, as in `update = 2*update`."
        code = code_of(self.f)
        return frozenset(map(self.new_name, assigned_arguments(code))) if code else frozenset()

    def __repr__(self): return self.label


def label(
    f:Callable # A stepper
) -> str:
    "A stepper's name, with what partials fix: `average_grad(dampening=True)`."
    name = name_of(f)
    fixed = [f'{k}={_shown(v)}' for k, v in _given(f).items()]
    others = [f'{k}→{v}' for r in _chain(f) if isinstance(r, renamed) for k, v in r.names.items()]
    where = ''.join(f'[{o.where!r}]' for o in _chain(f) if isinstance(o, only))
    return (f"{name}({', '.join(fixed + others)})" if fixed or others else name) + where


def name_of(
    f:Callable # A stepper
) -> str:
    "The name of the function inside of all partials, or of the type of the object that is called."
    o = innermost(f)
    return getattr(o, '__name__', type(o).__name__)


def same_name(
    f:Callable, # A stepper
    other:Callable # Another one
) -> bool:
    "Do two steppers have the same name, as a function has that was defined again? A lambda has no name of its own."
    return name_of(f) == name_of(other) != '<lambda>'


def is_redefined(
    new:Stepper, # A stepper
    old:Stepper # Another one
) -> bool:
    """Is `new` the function of `old`, defined again under the same name at the same place, and does it use the same names?

    Functions that a factory or a loop makes have the same code, and are several on purpose."""
    f, g = new.innermost, old.innermost
    if not (inspect.isfunction(f) and inspect.isfunction(g)) or not same_name(f, g) or f.__code__ is g.__code__: return False
    same_place = (f.__module__, f.__qualname__) == (g.__module__, g.__qualname__)
    return same_place and all(new.new_name(k) == old.new_name(k) for k in inspect.signature(f).parameters)


def _shown(v) -> str:
    "`v` as it is from run to run: no addresses"
    return repr(v) if isinstance(v, (str, Real, bool, type(None))) else getattr(v, '__name__', type(v).__name__)


def _chain(f) -> Iterator:
    "`f` and, from the outside to the inside, what its partials hold"
    yield f
    while isinstance(f, partial): yield (f := f.func)


def _given(f) -> dict:
    "What partials fix"
    return {k: v for o in reversed(list(_chain(f))) if isinstance(o, partial) for k, v in o.keywords.items()}


def _fixed_in_vain(f) -> Iterator[tuple]:
    "What partials fix that isn't an argument, and the argument that may be meant. Raises `TypeError` where it can't be called like that"
    for o in _chain(f):
        if not isinstance(o, partial) or not o.keywords: continue
        taken, takes_all = _parameters(o.func)
        names, said = [p.name for p in taken], frozenset(strings(code_of(f)))
        for k in o.keywords.keys() - {*names, *said}:
            near = nearest(k, names)
            meant = f" Did you mean `{near}`?" if near else f" It has {', '.join(names)}." if names else ''
            if not takes_all: raise TypeError(f"a `partial` gives `{k}` to stepper `{label(o.func)}`, which has no such argument.{meant}")
            yield k, getattr(innermost(f), '__name__', type(f).__name__), meant


def hyper_defaults(
    f:Callable # A stepper, no partial
) -> dict:
    "The numbers in a stepper's signature that are defaults of hyper-parameters: one that it returns is state."
    returned = {*strings(code_of(f))} - TORCH_KEYWORDS
    return {p.name: p.default for p in _parameters(f)[0] if _is_number(p.default) and p.name not in returned}


def _is_number(v) -> bool: return isinstance(v, Real) and not isinstance(v, bool)


def innermost(
    f:Callable # A stepper
) -> Callable:
    "The function inside of all partials."
    return list(_chain(f))[-1]


def _new_names(f) -> Callable:
    "What becomes of the names that the innermost function has"
    renames = [r.names for r in reversed(list(_chain(f))) if isinstance(r, renamed)]
    def new(name):
        for names in renames: name = names.get(name, name)
        return name
    return new


def _parameters(f) -> tuple[list[inspect.Parameter], bool]:
    "The parameters that `f` takes by name after the first one, and whether it takes any other name too"
    try: ps = list(inspect.signature(f).parameters.values())
    except ValueError: return [], False  # a builtin that keeps its signature to itself
    named = [p for p in ps if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    first = bool(ps) and ps[0].kind is ps[0].POSITIONAL_OR_KEYWORD
    return named[first:], any(p.kind is p.VAR_KEYWORD for p in ps)


def _takes_no_parameter(f) -> bool:
    try: ps = inspect.signature(f).parameters.values()
    except ValueError: return False # a builtin that keeps its signature to itself
    return not any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in ps)


def code_of(
    f:Callable # A stepper
) -> CodeType|None:
    "The code of a stepper, if it is Python"
    f = inspect.unwrap(innermost(f))
    if not inspect.isroutine(f): f = type(f).__call__ # an object that can be called
    return getattr(f, '__code__', None)


def strings(
    code:CodeType|None # Code of a function
) -> Iterator[str]:
    "The names that a function speaks of in strings and keywords, as in `{'step': 1}`, `dict(step=1)` or `kwargs['step']`"
    todo = list(code.co_consts) if code else []
    while todo:
        c = todo.pop()
        if isinstance(c, str): yield c
        elif isinstance(c, tuple): todo += c
        elif isinstance(c, CodeType): todo += c.co_consts
