"An algorithm: a `partial` of `Optimizer` whose steppers are listed by a function of its options, a recipe."
import inspect
from functools import partial

from fastcore.foundation import L

from optimcb._boundary import entry
from optimcb.composition.arguments import Arguments
from optimcb.composition.choice import Choice
from optimcb.composition.listed import Listed
from optimcb.composition.pipeline import Composition
from optimcb.composition.without_params import Keywords, WithoutParams
from optimcb.diagnosis.explain import Explained
from optimcb.diagnosis.groups import Group
from optimcb.editing.edit import Composable
from optimcb.editing.wrap import wrapped
from optimcb.hypers.torch_names import from_torch
from optimcb.hypers.values import NOT_NEGATIVE, check
from optimcb.optimizer import Optimizer
from optimcb.steppers.parts import maximize as ascent

__all__ = ['Algorithm', 'algorithm', 'edited']

_Listed = Listed # under this name in pickles of earlier versions


def _for_all(
    params, # Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists: one group each
    lr, # Learning rate
    *,
    engine='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
    check=True # Rehearse the steppers now, and say what is missing or doubtful?
): "What every algorithm takes, beside its options"


FOR_ALL = frozenset(inspect.signature(_for_all).parameters) - {'lr'}
LR = 1e-3 # learning rate of explanations that are asked for without parameters


def _documented(algorithm):
    "A function with an algorithm's signature, for tools that show a partial as its function"
    def call(*args, **kwargs): return algorithm(*args, **kwargs)
    for k in ('__name__', '__qualname__', '__doc__', '__module__'): setattr(call, k, getattr(algorithm, k))
    call.__wrapped__, call.__signature__, call.__delwrap__ = algorithm.recipe, algorithm.signature, _for_all
    return call


class Algorithm(partial, Arguments, Composable, Explained):
    """A recipe: `Optimizer` with the steppers that a function of the options lists.

    Called with `params`, `lr`, options, `engine` and `check` it makes an `Optimizer`. Options that are
    numbers become hyper-parameters, those that are flags choose steppers. When a group asks for steppers
    that aren't there, as one with momentum among others without, when it is given or later, they are
    chosen again. Every algorithm takes `maximize`, too. Hyper-parameters that the steppers bring along are
    options too. `.cbs` and `.hypers` are those of the defaults. What `replace`, `insert`, `remove` and
    `rename` return is another algorithm; they are done to what the recipe lists for the options that are
    given.

    A recipe may name an `lr`, whose default is then the optimizer's, and have a function `translated` from
    what others call its options.

    Raises `TypeError` for an option that the recipe doesn't have, `ValueError` for one that can't be.
    """
    @entry
    def __new__(cls,
        recipe, # Function of the options, all with defaults, that returns a list of steppers
        edits=(), # Functions from that list to another, one after the other
        base=None, # The algorithm that was edited
        name=None # Its name; default: that of the recipe
    ):
        "Make an algorithm of a recipe; `algorithm` is the decorator that does."
        cbs = edited(recipe(), edits)
        composition = Composition(cbs)
        options = inspect.signature(recipe).parameters
        if edits and not composition.reads_all: # options that only steppers read that were taken out
            gone = Composition(recipe()).reads - composition.reads
            options = {k: o for k, o in options.items() if k not in gone}
        own = {k: o.default for k, o in options.items() if not isinstance(o.default, bool)}
        self = super().__new__(cls, Optimizer, cbs=cbs, **{**composition.defaults, **own})
        self.recipe, self.edits, self.base, self.options = recipe, edits, base, list(options)
        self.__name__ = self.__qualname__ = name or recipe.__name__
        self.__doc__, self.__module__ = recipe.__doc__, recipe.__module__
        self.signature = self._signature_of(options)
        self.__wrapped__ = _documented(self)
        return self

    def _signature_of(self, options) -> inspect.Signature:
        params, lr, *for_all = inspect.signature(_for_all).parameters.values()
        hypers, by_name = self.hypers, inspect.Parameter.KEYWORD_ONLY
        if 'lr' in hypers: lr = lr.replace(default=hypers['lr'])
        of_steppers = {k: v for k, v in hypers.items() if k != 'lr' and k not in options}
        others = [inspect.Parameter(k, by_name, default=v) for k, v in of_steppers.items()]
        own = [o for k, o in options.items() if k != 'lr']
        return inspect.Signature([params, lr, *own, *others, *for_all])

    @property
    def keywords(self) -> Keywords:
        "The arguments of `Optimizer` that are fixed; `opt` is the algorithm itself."
        return Keywords(super().keywords, self)

    __bases__ = (Optimizer,) # `issubclass` asks

    @property
    def cbs(self) -> list:
        "The steppers, with the default options."
        return list(self.keywords['cbs'])

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
        except ValueError as e:
            raise ValueError(f"with these options {self.__name__} can't be edited like that: {e} "
                             "Edit the optimizer instead.") from None

    @property
    def hypers(self) -> dict:
        "The default hyper-parameters."
        return {k: v for k, v in self.keywords.items() if k != 'cbs'}

    @property
    def composition(self) -> Composition:
        "The steppers with the default options, as a `Composition`."
        return Composition(self.cbs)

    @property
    def _title(self) -> str:
        is_edited = self.edits and self.__name__ == self.recipe.__name__
        return f"{self.__name__}{', edited' if is_edited else ''}"

    _groups = property(lambda self: [Group({'lr': LR, **self.hypers}, [], [])])
    _engine_wanted, _runs = 'auto', None

    @entry
    def __call__(self, *args, **kwargs) -> Optimizer:
        known = self.signature.parameters
        kwargs = from_torch(self.ours(kwargs), known)
        ascends = None if 'maximize' in known else kwargs.pop('maximize', None)
        unlisted, flags = self._beside_options(kwargs)
        if not args and 'params' not in kwargs:
            if ascends is not None: flags['maximize'] = ascends
            return WithoutParams(self, **kwargs, **unlisted, **flags)
        given, asked = self._bound(args, kwargs)
        options = {k: given[k] for k in self.options}
        choice = Choice(self, {**options, 'maximize': self.flag('maximize', ascends)})
        return self._made(choice, given, asked, unlisted, flags)

    def _made(self, choice, given, asked, unlisted, flags) -> Optimizer:
        "The optimizer with the steppers that `choice` lists"
        params, groups = self._groups_of(given)
        cbs = choice.steppers(groups)
        composition = Composition(cbs)
        reads = composition.reads # a number that came with a stepper is gone with it
        wanted = {k for k in ('lr', *self.hypers) if k in self.options or k in asked or k in reads}
        hypers = {k: given[k] for k in ('lr', *self.hypers) if k in wanted}
        opt = Optimizer.__new__(Optimizer)
        opt._choice = choice
        opt.__init__(params, cbs, engine=given['engine'], check=given['check'], **hypers,
                     **unlisted, **flags)
        opt.called = self._title
        opt._given = asked.union(self.options, unlisted) # not what comes with a stepper
        for h in opt.hypers: # users' steppers may mean something else by a number that is ours
            for k in hypers.keys() - _names_of_users(composition): check(k, h[k], NOT_NEGATIVE)
        return opt

    @entry
    def edit(self,
        f # Function from a list of steppers to another
    ) -> 'Algorithm':
        "The algorithm with other steppers: `f` of those that the recipe lists."
        return Algorithm(self.recipe, (*self.edits, f), self.base or self, self.__name__)

    def named(self,
        name:str # Its new name
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
    "Apply edits to a list of steppers, one after the other."
    for edit in edits: cbs = edit(cbs)
    return cbs


def _names_of_users(composition) -> frozenset:
    return frozenset().union(*(s.names for s in composition.steppers if not s.is_ours))


def _again(base, edits, name): return Algorithm(base.recipe, edits, base, name)


@entry
def algorithm(
    recipe, # A name for the steppers that follow; or a function of options with defaults that lists steppers
    /,
    cbs=None, # Steppers, in the order in which they are called, after a name
    **hypers # Default hyper-parameters, after a name: they override the steppers' own
) -> Algorithm:
    """Name an algorithm of one's own: `Momentum = algorithm('Momentum', [average_grad, momentum_step],
    mom=0.95)`.

    As a decorator, make an `Algorithm` of a recipe, a function whose options choose the steppers that it
    lists. Raises `TypeError` or `ValueError` for steppers and hyper-parameters that can't be."""
    if isinstance(recipe, str):
        if cbs is None: raise TypeError(f"`algorithm({recipe!r})` lacks steppers. {_write(recipe)}")
        return Algorithm(Listed(recipe, cbs, hypers, FOR_ALL))
    if isinstance(recipe, (list, tuple, L)):
        raise TypeError(f"a list of steppers lacks a name. {_write('Mine')}")
    if cbs is not None or hypers or not callable(recipe):
        raise TypeError("`algorithm` takes a name and steppers, or decorates a function that lists steppers, "
                        f"but is given {recipe!r:.80} ({type(recipe).__name__}).")
    lacking = [f'`{k}`' for k, o in inspect.signature(recipe).parameters.items() if o.default is o.empty]
    if lacking:
        name = getattr(recipe, '__name__', type(recipe).__name__)
        raise TypeError("the options of a recipe need defaults, "
                        f"but {name} has none for {', '.join(lacking)}. "
                        f"If it is a stepper: `Mine = algorithm('Mine', [{name}])`.")
    return Algorithm(recipe)


def _write(name) -> str: return f"Write `{name} = algorithm({name!r}, [average_grad, momentum_step])`."
