"An algorithm: a `partial` of `Optimizer` whose steppers are listed by a function of its options, a recipe."
import inspect
import sys
from functools import partial

import numpy as np
from torch import nn

from optimcb.composition import Composition
from optimcb.display import Explained
from optimcb.editing import Composable
from optimcb.hypers import NOT_NEGATIVE, TORCH_FLAGS, check, from_torch, numbers, suggest
from optimcb.optimizer import Optimizer
from optimcb.rehearsal import Group
from optimcb.stepper import ONE_STEP

__all__ = ['Algorithm', 'algorithm']


def _for_all(
    params, # Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists: one group each
    lr, # Learning rate
    *,
    engine='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
    check=True # Rehearse the steppers now, and say what is missing or doubtful?
): "What every algorithm takes, beside its options"


def _documented(algorithm):
    "A function with an algorithm's signature, for who shows signatures and comments: a partial would be shown as what it is of"
    def call(*args, **kwargs): return algorithm(*args, **kwargs)
    for k in ('__name__', '__qualname__', '__doc__', '__module__'): setattr(call, k, getattr(algorithm, k))
    call.__wrapped__, call.__signature__, call.__delwrap__ = algorithm.recipe, algorithm.signature, _for_all
    return call


class Keywords(dict):
    """The keywords of a partial, which answer `opt`, too, as those of fastai's `partial(OptimWrapper, opt=…)` do.

    `opt` isn't among them: they are arguments of `Optimizer`."""
    def __init__(self,
        keywords:dict, # Keywords of a partial
        opt # What `opt` is
    ):
        super().__init__(keywords)
        self.opt = opt

    def __missing__(self, k):
        if k != 'opt': raise KeyError(k)
        return self.opt


class WithoutParams(partial):
    """An algorithm with some of its options, but without parameters: call it with them, or with a model.

    The `Trainer` of transformers makes an optimizer of what is no class by `AdamW()(model, **options)`."""
    def __call__(self,
        params, # As for the algorithm; or a model, of which norms and biases are not decayed
        *args, # More of the algorithm's arguments
        **kwargs # More of them, by name
    ) -> Optimizer:
        "Make the optimizer."
        if isinstance(params, nn.Module):
            params = _trainers_groups() or _two_groups(params, decays='wd' in self.func.hypers)
        return self.func(params, *args, **{**self.keywords, **kwargs})

    def __getattr__(self, name):
        called = self.func.__name__
        raise AttributeError(f"{called} was called without parameters, and is no optimizer yet. Pass them first: "
                             f"{called}(model.parameters(), lr=…).")


def _trainers_groups() -> list[dict]|None:
    "The groups that the `Trainer` of transformers has made, if it calls. It passes them to classes only"
    caller = sys._getframe(2)
    if caller.f_globals.get('__name__') != 'transformers.trainer': return None
    return caller.f_locals.get('optimizer_grouped_parameters')


def _two_groups(model, decays) -> list[dict]:
    "The parameters that are decayed, and norms and biases, which are not. Frozen ones are left out"
    from optimcb.routing import norms_and_biases  # which is made of algorithms
    test, groups = norms_and_biases(model).test(), ({'params': []}, {'params': [], 'wd': 0.})
    for k, p in model.named_parameters():
        if p.requires_grad: groups[decays and test(p, k)]['params'].append((k, p))
    return [g for g in groups if g['params']]


LR = 1e-3 # what is explained without parameters is explained with this learning rate


class Algorithm(partial, Composable, Explained):
    """A recipe: `Optimizer` with the steppers that a function of the options lists.

    Called with `params`, `lr`, options, `engine` and `check` it makes an `Optimizer`. Options that are numbers become hyper-parameters,
    those that are flags only choose steppers. Hyper-parameters that the steppers bring along are options too.
    `.cbs` and `.hypers` are those of the defaults. What `replace`, `insert`, `remove` and `rename` return is another algorithm;
    they are done to what the recipe lists for the options that are given.

    Raises `TypeError` for an option that the recipe doesn't have, `ValueError` for one that can't be.
    """
    def __new__(cls,
        recipe, # Function of the options, all with defaults, that returns a list of steppers
        edits=(), # Functions from that list to another, one after the other
        base=None, # The algorithm that was edited
        name=None # What it is called; default: as the recipe
    ):
        "Make an algorithm of a recipe; `algorithm` is the decorator that does."
        options = inspect.signature(recipe).parameters
        cbs = _with(recipe(), edits)
        composition = Composition(cbs)
        gone = Composition(recipe()).reads - composition.reads if edits and not composition.reads_all else () # what only steppers read that are left out
        options = {k: o for k, o in options.items() if k not in gone}
        own = {k: o.default for k, o in options.items() if not isinstance(o.default, bool)}
        self = super().__new__(cls, Optimizer, cbs=cbs, **{**composition.defaults, **own})
        self.recipe, self.edits, self.base, self.options = recipe, edits, base, list(options)
        self.__name__ = self.__qualname__ = name or recipe.__name__
        self.__doc__, self.__module__ = recipe.__doc__, recipe.__module__
        params, lr, *for_all = inspect.signature(_for_all).parameters.values()
        others = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v) for k, v in self.hypers.items() if k not in options]
        self.signature = inspect.Signature([params, lr, *options.values(), *others, *for_all])
        self.__wrapped__ = _documented(self)
        return self

    @property
    def keywords(self) -> Keywords:
        "The arguments of `Optimizer` that are fixed; `opt` is the algorithm itself."
        return Keywords(super().keywords, self)

    __bases__ = (Optimizer,) # `issubclass` asks

    @property
    def cbs(self) -> list:
        "The steppers, with the default options."
        return list(self.keywords['cbs'])

    @property
    def hypers(self) -> dict:
        "The default hyper-parameters."
        return {k: v for k, v in self.keywords.items() if k != 'cbs'}

    @property
    def composition(self) -> Composition:
        "What the steppers mean."
        return Composition(self.cbs)

    @property
    def _required(self) -> frozenset:
        "Names without a default that only steppers which were put in take, and that none of them makes"
        if not self.edits: return frozenset()
        required = frozenset().union(*(s.required for s in self.composition.steppers))
        return required - self.composition.makes - self.signature.parameters.keys() - ONE_STEP

    _title = property(lambda self: f"{self.__name__}{', edited' if self.edits and self.__name__ == self.recipe.__name__ else ''}")
    _groups = property(lambda self: [Group({'lr': LR, **self.hypers}, [], [])])
    _engine_wanted, _runs = 'auto', None

    def __call__(self, *args, **kwargs) -> Optimizer:
        known = self.signature.parameters
        kwargs = from_torch(kwargs, known)
        flags = {k: kwargs.pop(k) for k in TORCH_FLAGS if k in kwargs and k not in known and (k != 'dampening' or not kwargs[k])}
        flags.pop('dampening', None) # `average_grad` takes it
        required = {k: kwargs.pop(k) for k in self._required & kwargs.keys()}
        for k in kwargs:
            if k not in known: raise TypeError(f"{self.__name__} has no `{k}`.{suggest(k, {*known, *self._required})} It has {', '.join(known)}.")
        if not args and 'params' not in kwargs: return WithoutParams(self, **kwargs, **required, **flags)
        if len(args) > 2 and isinstance(args[2], tuple) and 'sqr_mom' in known:
            third = list(known)[2]
            raise TypeError(f"the third argument of {self.__name__} is `{third}`, but is {args[2]!r}. "
                            f"Pass betas={args[2]!r}; one `{third}` for each group goes by name, too.")
        try: given = self.signature.bind(*args, **kwargs)
        except TypeError as e: raise TypeError(f"{self.__name__}: {e}. Call it as {self.__name__}{self.signature}.") from None
        asked = set(given.arguments)
        given.apply_defaults()
        given = given.arguments
        self._set_flags(given)
        cbs = self.recipe(**{k: numbers(given[k]) for k in self.options})
        try: cbs = _with(cbs, self.edits)
        except ValueError as e: raise ValueError(f"with these options {self.__name__} can't be edited like that: {e} Edit the optimizer instead.") from None
        reads = Composition(cbs).reads # a number that came with a stepper is gone with it
        hypers = {k: given[k] for k in ('lr', *self.hypers) if k in self.options or k in asked or k in reads}
        opt = Optimizer(given['params'], cbs, engine=given['engine'], check=given['check'], **hypers, **required, **flags)
        opt.called = self._title
        for h in opt.hypers:
            for k in hypers: check(k, h[k], NOT_NEGATIVE)
        return opt

    def _set_flags(self, given):
        "Options that choose steppers are True or False; None is the default, and 0, which torch has for no dampening, is False"
        for k, o in inspect.signature(self.recipe).parameters.items():
            if not isinstance(o.default, bool) or k not in given: continue
            if given[k] is None: given[k] = o.default
            elif isinstance(given[k], (bool, np.bool_)) or given[k] == 0: given[k] = bool(given[k])
            else: raise TypeError(f"`{k}` of {self.__name__} must be True or False, but is {given[k]!r}. {TORCH_FLAGS.get(k, ('', ''))[1]}".rstrip())

    def edit(self,
        f # Function from a list of steppers to another
    ) -> 'Algorithm':
        "The algorithm with other steppers: `f` of those that the recipe lists."
        return Algorithm(self.recipe, (*self.edits, f), self.base or self, self.__name__)

    def named(self,
        name:str # What it is called from now on
    ) -> 'Algorithm':
        "The algorithm under another name, for tables and pictures."
        return Algorithm(self.recipe, self.edits, self.base or self, name)

    def __reduce__(self):
        "It is found by its name in its module, unless its recipe is an object that can be pickled"
        if self.base: return _again, (self.base, self.edits, self.__name__)
        return self.__name__ if inspect.isfunction(self.recipe) else (Algorithm, (self.recipe,))

    def __repr__(self): return f"{self.__name__}{self.signature}: {', '.join(Composition(self.cbs).labels)}"


def _with(cbs, edits) -> list:
    for edit in edits: cbs = edit(cbs)
    return cbs


def _again(base, edits, name): return Algorithm(base.recipe, edits, base, name)


def algorithm(
    recipe # Function of the options, all with defaults, that returns a list of steppers
) -> Algorithm:
    "Make a function from options to a list of steppers into an `Algorithm`."
    return Algorithm(recipe)
