"An algorithm: a `partial` of `Optimizer` whose steppers are listed by a function of its options, a recipe."
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from numbers import Real

import numpy as np
from fastcore.foundation import L
from torch import nn

from optimcb._boundary import entry
from optimcb.composition.choice import Choice
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP
from optimcb.composition.rules import norms_and_biases
from optimcb.diagnosis.explain import Explained
from optimcb.diagnosis.groups import Group
from optimcb.editing.edit import Composable
from optimcb.editing.wrap import wrapped
from optimcb.hypers.torch_names import TORCH_FLAGS, from_torch, suggest
from optimcb.hypers.values import NOT_NEGATIVE, check, per_group
from optimcb.optimizer import Optimizer
from optimcb.steppers.parts import maximize as ascent

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

    test, groups = norms_and_biases(model).test(), ({'params': []}, {'params': [], 'wd': 0.})
    for k, p in model.named_parameters():
        if p.requires_grad: groups[decays and test(p, k)]['params'].append((k, p))
    return [g for g in groups if g['params']]


FOR_ALL = frozenset(inspect.signature(_for_all).parameters) - {'lr'}
LR = 1e-3 # what is explained without parameters is explained with this learning rate


class Algorithm(partial, Composable, Explained):
    """A recipe: `Optimizer` with the steppers that a function of the options lists.

    Called with `params`, `lr`, options, `engine` and `check` it makes an `Optimizer`. Options that are numbers become hyper-parameters,
    those that are flags choose steppers. When a group asks for steppers that aren't there, as one with momentum among others without, when it
    is given or later, they are chosen again. Every algorithm takes `maximize`, too. Hyper-parameters that the steppers bring along are options too.
    `.cbs` and `.hypers` are those of the defaults. What `replace`, `insert`, `remove` and `rename` return is another algorithm;
    they are done to what the recipe lists for the options that are given.

    A recipe may name an `lr`, whose default is then the optimizer's, and have a function `translated` from what others call its options.

    Raises `TypeError` for an option that the recipe doesn't have, `ValueError` for one that can't be.
    """
    @entry
    def __new__(cls,
        recipe, # Function of the options, all with defaults, that returns a list of steppers
        edits=(), # Functions from that list to another, one after the other
        base=None, # The algorithm that was edited
        name=None # What it is called; default: as the recipe
    ):
        "Make an algorithm of a recipe; `algorithm` is the decorator that does."
        options = inspect.signature(recipe).parameters
        cbs = edited(recipe(), edits)
        composition = Composition(cbs)
        gone = Composition(recipe()).reads - composition.reads if edits and not composition.reads_all else () # what only steppers read that are left out
        options = {k: o for k, o in options.items() if k not in gone}
        own = {k: o.default for k, o in options.items() if not isinstance(o.default, bool)}
        self = super().__new__(cls, Optimizer, cbs=cbs, **{**composition.defaults, **own})
        self.recipe, self.edits, self.base, self.options = recipe, edits, base, list(options)
        self.__name__ = self.__qualname__ = name or recipe.__name__
        self.__doc__, self.__module__ = recipe.__doc__, recipe.__module__
        params, lr, *for_all = inspect.signature(_for_all).parameters.values()
        if 'lr' in self.hypers: lr = lr.replace(default=self.hypers['lr'])
        listed = {'lr', *options}
        options.pop('lr', None)
        others = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v) for k, v in self.hypers.items() if k not in listed]
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
    def flags(self) -> frozenset:
        "The options that are no numbers, and only choose steppers."
        return frozenset(k for k, o in inspect.signature(self.recipe).parameters.items() if isinstance(o.default, bool))

    @property
    def choosing(self) -> tuple:
        "The options that are numbers and choose steppers by being 0, as `mom` of `SGD` does."
        if 'choosing' not in self.__dict__: self.__dict__['choosing'] = tuple(filter(self._chooses, self.options))
        return self.__dict__['choosing']

    def _chooses(self, k) -> bool:
        if not isinstance(inspect.signature(self.recipe).parameters[k].default, Real) or k in self.flags: return False
        try: without, with_it = (Composition(self.recipe(**{k: v})).labels for v in (0., 0.5))
        except (ValueError, TypeError): return False
        return without != with_it

    def steppers(self,
        maximize:bool=False, # Go up instead of down?
        **options # Options of the recipe
    ) -> list:
        "The steppers for some options."
        cbs = self.edited(self.recipe(**options), self.edits)
        return wrapped(cbs, ascent) if maximize else cbs

    def edited(self,
        cbs:list, # Steppers
        edits # Functions from such a list to another
    ) -> list:
        "`cbs`, edited. Raises `ValueError` where that can't be done."
        try: return edited(cbs, edits)
        except ValueError as e: raise ValueError(f"with these options {self.__name__} can't be edited like that: {e} Edit the optimizer instead.") from None

    @property
    def hypers(self) -> dict:
        "The default hyper-parameters."
        return {k: v for k, v in self.keywords.items() if k != 'cbs'}

    @property
    def composition(self) -> Composition:
        "What the steppers mean."
        return Composition(self.cbs)

    @property
    def _unlisted(self) -> frozenset:
        """Names that are given all the same, although they are no options: what steppers take and none of them makes.

        Of those that a recipe has chosen, names with a default are the recipe's business; but steppers that were put in may need others."""
        if isinstance(self.recipe, _Listed): taken = frozenset().union(*(s.names for s in self.composition.steppers))
        elif self.edits: taken = frozenset().union(*(s.required for s in self.composition.steppers))
        else: return frozenset()
        return taken - self.composition.makes - self.signature.parameters.keys() - ONE_STEP

    _title = property(lambda self: f"{self.__name__}{', edited' if self.edits and self.__name__ == self.recipe.__name__ else ''}")
    _groups = property(lambda self: [Group({'lr': LR, **self.hypers}, [], [])])
    _engine_wanted, _runs = 'auto', None

    @entry
    def __call__(self, *args, **kwargs) -> Optimizer:
        known = self.signature.parameters
        kwargs = from_torch(self.ours(kwargs), known)
        ascends = None if 'maximize' in known else kwargs.pop('maximize', None)
        flags = {k: kwargs.pop(k) for k in TORCH_FLAGS if k in kwargs and k not in known and (k != 'dampening' or not kwargs[k])}
        flags.pop('dampening', None) # `average_grad` takes it
        takes_any = isinstance(self.recipe, _Listed) and self.composition.reads_all
        unlisted = {k: kwargs.pop(k) for k in [*kwargs] if k in self._unlisted or takes_any and k not in known}
        for k in kwargs:
            if k not in known: raise TypeError(f"{self.__name__} has no `{k}`.{suggest(k, {*known, *self._unlisted})} It has {', '.join(known)}.")
        if not args and 'params' not in kwargs:
            if ascends is not None: flags['maximize'] = ascends
            return WithoutParams(self, **kwargs, **unlisted, **flags)
        if len(args) > 2 and isinstance(args[2], tuple) and 'sqr_mom' in known:
            third = list(known)[2]
            raise TypeError(f"the third argument of {self.__name__} is `{third}`, but is {args[2]!r}. "
                            f"Pass betas={args[2]!r}. If it is one `{third}` for each group, pass it by name.")
        try: given = self.signature.bind(*args, **kwargs)
        except TypeError as e: raise TypeError(f"{self.__name__}: {e}. Call it as {self.__name__}{self.signature}.") from None
        asked = set(given.arguments)
        given.apply_defaults()
        given = given.arguments
        usual = known['lr'].default
        if given['lr'] is None and usual is not inspect.Parameter.empty: given['lr'] = usual
        given.update({k: self.flag(k, given[k]) for k in self.flags & given.keys()})
        options = {k: given[k] for k in self.options}
        choice = Choice(self, {**options, 'maximize': self.flag('maximize', ascends)})
        params, groups = self._groups_of(given)
        cbs = choice.steppers(groups)
        composition = Composition(cbs)
        reads = composition.reads # a number that came with a stepper is gone with it
        hypers = {k: given[k] for k in ('lr', *self.hypers) if k in self.options or k in asked or k in reads}
        opt = Optimizer.__new__(Optimizer)
        opt._choice = choice
        opt.__init__(params, cbs, engine=given['engine'], check=given['check'], **hypers, **unlisted, **flags)
        opt.called = self._title
        opt._given = asked.union(self.options, unlisted) # not what comes with a stepper
        free = frozenset().union(*(s.names for s in composition.steppers if not s.is_ours)) # what others mean by a number
        for h in opt.hypers:
            for k in hypers.keys() - free: check(k, h[k], NOT_NEGATIVE)
        return opt

    def ours(self,
        given:dict # Options, or a parameter group
    ) -> dict:
        "`given`, with our names for what others call the options of this algorithm."
        return getattr(self.recipe, 'translated', dict)(given)

    def flag(self,
        k:str, # Name of a flag
        v # What it is given
    ):
        """Return the value of a flag: None is the default, and 0, which torch has for no dampening, is False.

        Other numbers are what torch's `dampening` may be. Raises `TypeError` for anything else."""
        recipe = inspect.signature(self.recipe).parameters
        if v is None: return recipe[k].default if k in recipe else False
        if isinstance(v, (bool, np.bool_)) or v == 0: return bool(v)
        if k == 'dampening' and isinstance(v, Real): return v
        _, instead = TORCH_FLAGS.get(k, ('', ''))
        raise TypeError(f"`{k}` of {self.__name__} must be True or False, but is {v!r}. {instead}".rstrip())

    def _groups_of(self, given) -> tuple:
        "The parameters, and of each group the options that may choose steppers"
        params = given['params']
        if isinstance(params, Iterator): params = list(params)
        first = next(iter(params), None) if isinstance(params, (list, tuple, L)) else None
        apart = isinstance(first, (dict, list, L))
        own = [self.ours(g) if isinstance(g, dict) else {} for g in params] if apart else [{}]
        own = [from_torch(g, self.signature.parameters) for g in own]
        values, flags = {k: per_group(k, given[k], len(own)) for k in self.choosing}, self.flags | {'maximize'}
        groups = []
        for i, g in enumerate(own):
            usual = {k: v[i] for k, v in values.items()}
            groups.append({**usual, **{k: self.flag(k, v) if k in flags else v for k, v in g.items() if k in flags | usual.keys()}})
        return params, groups

    @entry
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


def edited(
    cbs:list, # Steppers
    edits # Functions from such a list to another
) -> list:
    "Apply `edits` to `cbs`, one after the other. Returns another list."
    for edit in edits: cbs = edit(cbs)
    return cbs


def _again(base, edits, name): return Algorithm(base.recipe, edits, base, name)


class _Listed:
    "A recipe that lists the same steppers whatever its options are, which are hyper-parameters"
    def __init__(self, name, cbs, hypers):
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.cbs = list(L(cbs))
        composition = Composition(self.cbs)
        if not composition.steppers:
            raise ValueError(f"{name} has no steppers. List them: `algorithm({name!r}, [average_grad, momentum_step])`.")
        self.__doc__ = f"{' → '.join(composition.labels)}."
        self.hypers = from_torch(hypers, composition.reads)
        for k, v in self.hypers.items(): self._check(k, v, composition)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(k, kind, default=v) for k, v in self.hypers.items()])

    def _check(self, k, v, composition):
        "Raises `TypeError` for what is no hyper-parameter of these steppers, `ValueError` for what it can't be"
        name = self.__name__
        if k in FOR_ALL:
            raise TypeError(f"`{k}` is given when {name} is called: `{name}(model.parameters(), lr=…, {k}=…)`.")
        if not (k == 'lr' or k in composition.reads or composition.reads_all):
            there = ', '.join(composition.labels)
            raise TypeError(f"no stepper of {name} reads `{k}`: there are {there}.{suggest(k, composition.reads)}")
        if isinstance(v, (bool, np.bool_)):
            raise TypeError(f"`{k}={v}` of {name} is no number. Fix it in the stepper: `partial(f, {k}={v})`.")
        for_groups = isinstance(v, (list, tuple, L, slice)) or getattr(v, 'ndim', 0) > 0
        if not for_groups: check(k, v)

    def __call__(self, **options) -> list: return list(self.cbs)
    def __reduce__(self): return _Listed, (self.__name__, self.cbs, self.hypers)


def algorithm(
    recipe, # A name for the steppers that follow; or a function of options, all with defaults, that returns a list of steppers
    /,
    cbs=None, # Steppers, in the order in which they are called, after a name
    **hypers # Default hyper-parameters, after a name: they override the steppers' own
) -> Algorithm:
    """Name an algorithm of one's own: `Momentum = algorithm('Momentum', [average_grad, momentum_step], mom=0.95)`.

    As a decorator, make an `Algorithm` of a recipe, a function whose options choose the steppers that it lists.
    Raises `TypeError` or `ValueError` for steppers and hyper-parameters that can't be."""
    if isinstance(recipe, str):
        if cbs is None: raise TypeError(f"`algorithm({recipe!r})` lacks steppers. {_write(recipe)}")
        return Algorithm(_Listed(recipe, cbs, hypers))
    if isinstance(recipe, (list, tuple, L)): raise TypeError(f"a list of steppers lacks a name. {_write('Mine')}")
    if cbs is not None or hypers or not callable(recipe):
        raise TypeError("`algorithm` takes a name and steppers, or decorates a function that lists steppers, but is given "
                        f"{recipe!r:.80} ({type(recipe).__name__}).")
    lacking = [f'`{k}`' for k, o in inspect.signature(recipe).parameters.items() if o.default is o.empty]
    if lacking:
        name = getattr(recipe, '__name__', type(recipe).__name__)
        raise TypeError(f"the options of a recipe need defaults, but {name} has none for {', '.join(lacking)}. "
                        f"If it is a stepper: `Mine = algorithm('Mine', [{name}])`.")
    return Algorithm(recipe)


def _write(name) -> str: return f"Write `{name} = algorithm({name!r}, [average_grad, momentum_step])`."
