"A stepper: a callback whose parameter names are its contract."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from types import GeneratorType

import torch

from optimcb._compat.boundary import entry
from optimcb._compat.bytecode import assigned_arguments, uses_kwargs
from optimcb.composition.calls import without_explanation
from optimcb.composition.results import ONE_STEP, once
from optimcb.composition.signatures import (
    TORCH_KEYWORDS,
    chain,
    code_of,
    innermost,
    is_number,
    keywords_fixed,
    name_of,
    parameters,
    strings,
    takes_no_parameter,
)
from optimcb.composition.traits import traits_of
from optimcb.hypers.torch_names import nearest

__all__ = ['InRoute', 'Stepper', 'code_of', 'innermost', 'label', 'name_of', 'only', 'renamed',
           'renamed_all', 'strings']


class renamed(partial):
    """A stepper under other names: `renamed(average_grad, grad_avg='slow_avg', mom='slow_mom')`.

    It reads and writes the new names, so a list can hold the same stepper twice.
    Raises `ValueError` for names that the stepper doesn't use.
    """
    @entry
    def __new__(cls,
        f:Callable, # A stepper
        **names # New names of hyper-parameters and state, by their old names
    ):
        "Return `f` with some names replaced."
        s = Stepper(f)
        for k in names:
            if k not in s.mentions.union(s.names):
                raise ValueError(f"stepper `{s}` has no `{k}` that could be renamed. "
                                 f"It has {', '.join(s.names)}.")
            if names[k] in ONE_STEP and k not in ONE_STEP:
                raise ValueError(f"`{k}` of stepper `{s}` can't be `{names[k]}`, which lives for one step.")
        ps = [p.replace(name=names.get(p.name, p.name)) for p in inspect.signature(f).parameters.values()]
        new_names = [p.name for p in ps]
        same = {k for k in new_names if new_names.count(k) > 1}
        if same: raise ValueError(f"stepper `{s}` would have two names `{same.pop()}`. Take another one.")
        self = super().__new__(cls, f)
        self.names, self.__signature__ = names, inspect.Signature(ps)
        return self

    def __call__(self, p, **values):
        back = {v: k for k, v in self.names.items()}
        taken = {back.get(k, k): v for k, v in values.items() if k not in self.names or k in back}
        new = self.func(p, **self.keywords | taken)
        return self._later(new) if isinstance(new, GeneratorType) else self._renamed(new)

    def _later(self, new): return self._renamed((yield from new))
    def _renamed(self, new):
        if not isinstance(new, dict): return new
        lives_for_a_step = new and new.keys() <= ONE_STEP # under its new name, too
        kind = once if lives_for_a_step else type(new)
        return kind({self.names.get(k, k): v for k, v in new.items()})

    def __reduce__(self): return partial(renamed, **self.names), (partial(self.func, **self.keywords),)


@entry
def renamed_all(
    cbs:list, # Steppers
    **names # New names of hyper-parameters and state, by their old names
) -> list:
    "Rename hyper-parameters and state, like `renamed`. Raises `ValueError` for a name that no stepper uses."
    steppers = [Stepper(f) for f in cbs]
    own = [{k: v for k, v in names.items() if k in s.mentions.union(s.names)} for s in steppers]
    for k in names:
        if any(k in o for o in own): continue
        raise ValueError(f"none of {', '.join(map(label, cbs))} has a `{k}` that could be renamed.")
    return [renamed(f, **o) if o else f for f, o in zip(cbs, own)]


class InRoute:
    "The parameters of one route; each parameter's route is its state `route`."
    mark = 'route'
    def __init__(self,
        name:str, # Name of the route
        decider=None # Decides the route of a parameter; default: that of the other steppers
    ): self.name, self.decider = name, decider

    def holds(self,
        v # State `route` of a parameter
    ) -> bool:
        "Is the parameter in this route?"
        return v == self.name
    def __repr__(self): return self.name


class only(partial):
    """A stepper that is called only for some parameters: `only(weight_decay, ~by_ndim(1))`.

    It is skipped for all others. The rule is evaluated once per parameter when the optimizer is created; the
    result is state under the rule's name, which you may change. Raises `ValueError` for a stepper that
    yields: its sum would lack the skipped parameters.
    """
    @entry
    def __new__(cls,
        f:Callable, # A stepper
        where # A rule, such as `by_ndim(2)`, or the name of a route
    ):
        "Return `f` as a stepper that is skipped where the rule doesn't hold."
        if Stepper(f).sums_over_all: raise ValueError(SUMS_OVER_ALL.format(label(f)))
        if isinstance(where, str): where = InRoute(where)
        if not hasattr(where, 'mark') or not hasattr(where, 'holds'):
            raise TypeError("`where` must be a rule, such as `by_ndim(2)`, or the name of a route, but is "
                            f"{where!r:.80} ({type(where).__name__})."
                            + " A function of a shape is a rule by `by_shape`."*callable(where))
        self = super().__new__(cls, f)
        self.where, self.__signature__ = where, inspect.signature(f)
        return self

    def __call__(self, p, **values):
        w = self.where
        if w.mark not in values or w.holds(values[w.mark]): return self.func(p, **self.keywords | values)

    def __reduce__(self): return only, (partial(self.func, **self.keywords), self.where)


SUMS_OVER_ALL = ("stepper `{}` yields what is to be summed over all parameters, and can't be called for some "
                 "of them only. Put it before or after the steppers of a route, and without `only`.")


class Stepper:
    "A callback and the facts read from it: its arguments, their defaults, its traits, the names in its code."
    def __init__(self,
        f:Callable # Takes a parameter, then names of state and hyper-parameters; returns new state, or None
    ):
        _check_is_stepper(f)
        self.f, self.call, self.innermost, self.label = f, without_explanation(f), innermost(f), label(f)
        self.is_ours = _is_ours(self.innermost)
        self._check_call()
        self.fixed_in_vain = tuple(_fixed_in_vain(f)) # by partials, but not arguments
        if takes_no_parameter(f):
            raise TypeError(f"stepper `{self.label}` takes no parameter, which it is called with first: "
                            "write `def f(p, …)`.")
        self._read_signature()
        self._read_code()
        self.traits = traits_of(f)
        self.taps = frozenset(self.traits.taps) # state that is only recorded for users

    def _check_call(self):
        "Raise `TypeError` for optimizers, classes, and partials with positional options."
        fixed = next((o.args for o in chain(self.f) if isinstance(o, partial) and o.args), ())
        if self.is_ours and fixed:
            raise TypeError(f"a partial of `{self.label}` must give options by name, but gives {fixed}: "
                            "first comes a parameter.")
        if not isinstance(self.innermost, type): return
        if issubclass(self.innermost, torch.optim.Optimizer):
            raise TypeError(f"{getattr(self.f, '__name__', self.label)} is an optimizer, not a stepper. "
                            "Call it with parameters, or pass its steppers, `.cbs`.")
        raise TypeError(f"stepper `{self.label}` is a class. Pass an object of it, "
                        f"`{self.innermost.__name__}()`, whose `__call__` is the stepper.")

    def _read_signature(self):
        taken, self.takes_all = parameters(self.f)
        self.names = tuple(p.name for p in taken)
        self.required = tuple(p.name for p in taken if p.default is p.empty)
        self.numbers = {p.name: p.default for p in taken if is_number(p.default)}
        self.words = {p.name: p.default for p in taken if isinstance(p.default, (bool, str))}
        self.new_name = _new_names(self.f)
        self.masks = tuple(o.where for o in chain(self.f) if isinstance(o, only))
        declared = getattr(self.innermost, 'defaults', {})
        if self.is_ours: declared = {} # the same as the numbers in the signature
        given = keywords_fixed(self.f)
        self.declared = {self.new_name(k): v for k, v in declared.items() if k not in given}

    def _read_code(self):
        code = code_of(self.f)
        fixed = {v for v in keywords_fixed(self.f).values() if isinstance(v, str)}
        mentions = {*strings(code), *fixed} - TORCH_KEYWORDS
        self.mentions = frozenset(map(self.new_name, mentions))
        yields = bool(code and code.co_flags & inspect.CO_GENERATOR)
        self.sums_over_all = yields or inspect.isgeneratorfunction(self.innermost)
        self.reads_all = self.takes_all and (code is None or uses_kwargs(code))
        if self.reads_all: self.fixed_in_vain = ()

    def __call__(self, p, values:dict):
        "Call the stepper on `p` with the values that it takes."
        if self.takes_all: return self.call(p, **values)
        return self.call(p, **{k: values[k] for k in self.names if k in values})

    def applies(self,
        values:dict # State and hyper-parameters of a parameter
    ) -> bool:
        "Is it called for this parameter? Raises `KeyError` if a rule's result is missing in the state."
        return all(w.holds(values[w.mark]) for w in self.masks)

    def options(self,
        values:dict, # State and hyper-parameters of a parameter
        f:Callable # Takes a parameter, and some of the names that the innermost function takes
    ) -> dict:
        "Return the values that the innermost function gets for the names of `f`: from partials or `values`."
        names = [p.name for p in parameters(f)[0]]
        fixed = {k: v for k, v in keywords_fixed(self.f).items() if k in names}
        return fixed | {k: values[self.new_name(k)] for k in names if self.new_name(k) in values}

    @property
    def first(self) -> str|None:
        "The name of its first argument, the parameter."
        code = code_of(self.f)
        names = code.co_varnames[:code.co_argcount] if code else ()
        return next((k for k in names if k != 'self'), None)

    @property
    def assigned(self) -> frozenset:
        "The arguments that its code assigns to, as in `update = 2*update`."
        code = code_of(self.f)
        return frozenset(map(self.new_name, assigned_arguments(code))) if code else frozenset()

    def __repr__(self): return self.label


def _is_ours(f) -> bool:
    "Is it a stepper of the library, and no function that `wraps` lets pass for one?"
    if not (getattr(f, '__module__', None) or '').startswith('optimcb.steppers'): return False
    return getattr(f, '__globals__', {}).get('__name__', 'optimcb').startswith('optimcb')


def _check_is_stepper(f):
    if isinstance(f, GeneratorType):
        raise TypeError(f"`{f.__name__}` has been called, but an optimizer calls it in each step. "
                        f"Pass `{f.__name__}` itself, or `partial({f.__name__}, …)` with options.")
    if not callable(f):
        raise TypeError(f"a stepper must be callable, but {f!r} is not. "
                        "Pass functions of a parameter in `cbs`.")


def label(
    f:Callable # A stepper
) -> str:
    "Return a stepper's name with the options that partials fix: `average_grad(dampening=True)`."
    name = name_of(f)
    fixed = [f'{k}={_shown(v)}' for k, v in keywords_fixed(f).items()]
    others = [f'{k}→{v}' for r in chain(f) if isinstance(r, renamed) for k, v in r.names.items()]
    where = ''.join(f'[{o.where!r}]' for o in chain(f) if isinstance(o, only))
    return (f"{name}({', '.join(fixed + others)})" if fixed or others else name) + where


def _shown(v) -> str:
    "Format `v` without memory addresses, so that it is the same in each run"
    if isinstance(v, (str, Real, bool, type(None))): return repr(v)
    return getattr(v, '__name__', type(v).__name__)


def _fixed_in_vain(f) -> Iterator[tuple]:
    """Yield names that partials fix but `f` doesn't take, each with the argument that may be meant.

    Raises `TypeError` if such a call would fail."""
    for o in chain(f):
        if not isinstance(o, partial) or not o.keywords: continue
        taken, takes_all = parameters(o.func)
        names, known = [p.name for p in taken], frozenset(strings(code_of(f)))
        for k in o.keywords.keys() - {*names, *known}:
            near = nearest(k, names)
            meant = f" Did you mean `{near}`?" if near else f" It has {', '.join(names)}." if names else ''
            if not takes_all:
                raise TypeError(f"a `partial` gives `{k}` to stepper `{label(o.func)}`, "
                                f"which has no such argument.{meant}")
            yield k, getattr(innermost(f), '__name__', type(f).__name__), meant


def _new_names(f) -> Callable:
    "Return a function from names of the innermost function to the names that `renamed` gives them"
    renames = [r.names for r in reversed(list(chain(f))) if isinstance(r, renamed)]
    def new(name):
        for names in renames: name = names.get(name, name)
        return name
    return new
