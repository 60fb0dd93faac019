"An algorithm: a `partial` of `Optimizer` whose steppers are listed by a function of its options, a recipe."
import inspect
from functools import partial

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb.composition.arguments import Arguments
from optimcb.composition.choice import Choice
from optimcb.composition.documentation import comments_of, comments_of_steppers, explained, recipe
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

_Listed = Listed # the name in pickles of earlier versions


def _for_all(
    params, # Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists, one per group
    lr, # Learning rate
    *,
    engine='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
    check=True, # Rehearse the steppers now, and report missing names and doubtful combinations?
    zero_in_step=False # Let a step zero the gradients? For loops in which `zero_grad()` follows it
): "Stand for the arguments that every algorithm takes besides its options"


FOR_ALL = frozenset(inspect.signature(_for_all).parameters) - {'lr'}
OURS = 'optimcb.algorithms.' # where the library's recipes are
READ = frozenset({'_fixed', 'options', 'signature', '__wrapped__'}) # what `Algorithm._read` sets
LR = 1e-3 # learning rate of explanations without an optimizer


def _documented(algorithm):
    "Return a function with the algorithm's signature, for tools that document a partial by its function"
    def call(*args, **kwargs): return algorithm(*args, **kwargs)
    for k in ('__name__', '__qualname__', '__doc__', '__module__'): setattr(call, k, getattr(algorithm, k))
    call.__wrapped__, call.__signature__, call.__delwrap__ = algorithm.recipe, algorithm.signature, _for_all
    return call


class Algorithm(partial, Arguments, Composable, Explained):
    """An `Optimizer` whose steppers are listed by a recipe, a function of the options.

    Call it with `params`, `lr`, options, `engine`, `check` and `zero_in_step` to create an `Optimizer`.
    Numeric options become hyper-parameters, flags choose steppers. If a parameter group needs other steppers,
    now or later (one group with momentum among groups without), they are chosen again. Default
    hyper-parameters of the steppers are options too, and every algorithm takes `maximize`. `.cbs` and
    `.hypers` belong to the default options. `replace`, `insert`, `remove` and `rename` return a new
    algorithm, which applies the edit to the recipe's list for any options.

    A recipe may take `lr`, to set its default, and may have a function `translated` that maps other
    libraries' option names to its own.

    Raises `TypeError` for an unknown option, `ValueError` for an invalid value.
    """
    @entry
    def __new__(cls,
        recipe, # Function of the options, all with defaults, that returns a list of steppers
        edits=(), # Functions from a list of steppers to another, applied in order
        base=None, # The algorithm that was edited
        name=None # Its name; default: that of the recipe
    ):
        "Make an algorithm of a recipe, like the decorator `algorithm`."
        self = super().__new__(cls, Optimizer)
        self.recipe, self.edits, self.base = recipe, edits, base
        self.__name__ = self.__qualname__ = name or recipe.__name__
        self.__doc__, self.__module__ = recipe.__doc__, recipe.__module__
        if edits or not self.__module__.startswith(OURS): self._read() # which may raise
        return self

    def _read(self):
        "Read the recipe: its steppers, options and signature. The library's own are read when they are used."
        cbs = edited(self.recipe(), self.edits)
        composition = Composition(cbs)
        options = inspect.signature(self.recipe).parameters
        if self.edits and not composition.reads_all: # drop options that only removed steppers read
            gone = Composition(self.recipe()).reads - composition.reads
            options = {k: o for k, o in options.items() if k not in gone}
        own = {k: o.default for k, o in options.items() if not isinstance(o.default, bool)}
        self._fixed, self.options = {'cbs': cbs, **composition.defaults, **own}, list(options)
        self.signature = self._signature_of(options)
        self.__wrapped__ = _documented(self)

    def __getattr__(self, k):
        if k not in READ: raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}")
        self._read()
        return self.__dict__[k]

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
        return Keywords(self._fixed, self)

    __bases__ = (Optimizer,) # for `issubclass`

    @property
    def cbs(self) -> list:
        "The steppers for the default options."
        return list(self.keywords['cbs'])

    def steppers(self,
        maximize:bool=False, # Maximize instead of minimize?
        **options # Options of the recipe
    ) -> list:
        "List the steppers for the given options."
        cbs = self.edited(self.recipe(**options), self.edits)
        return wrapped(cbs, ascent) if maximize else cbs

    def edited(self,
        cbs:list, # Steppers
        edits # Functions from such a list to another
    ) -> list:
        "Apply edits to `cbs`. Raises `ValueError` if they don't fit these steppers."
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
        "The steppers for the default options, as a `Composition`."
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
        "Create the optimizer with the steppers that `choice` lists"
        params, groups = self._groups_of(given)
        cbs = choice.steppers(groups)
        composition = Composition(cbs)
        reads = composition.reads # drop defaults of steppers that weren't chosen
        wanted = {k for k in ('lr', *self.hypers) if k in self.options or k in asked or k in reads}
        hypers = {k: given[k] for k in ('lr', *self.hypers) if k in wanted}
        opt = Optimizer.__new__(Optimizer)
        opt._choice = choice
        for_all = {k: given[k] for k in FOR_ALL - {'params'}}
        opt.__init__(params, cbs, **for_all, **hypers, **unlisted, **flags)
        opt.called = self._title
        opt._given = asked.union(self.options, unlisted) # without defaults of steppers
        for h in opt.hypers: # a user's stepper may use the name of our default for something else
            for k in hypers.keys() - _names_of_users(composition): check(k, h[k], NOT_NEGATIVE)
        return opt

    @entry
    def edit(self,
        f # Function from a list of steppers to another
    ) -> 'Algorithm':
        "Return an algorithm that applies `f` to the recipe's steppers."
        return Algorithm(self.recipe, (*self.edits, f), self.base or self, self.__name__)

    def named(self,
        name:str # Its new name
    ) -> 'Algorithm':
        "Return the algorithm under another name, for tables and plots."
        return Algorithm(self.recipe, self.edits, self.base or self, name)

    def __reduce__(self):
        "Pickle by module and name, or as the recipe if that can be pickled itself"
        if self.base: return _again, (self.base, self.edits, self.__name__)
        return self.__name__ if inspect.isfunction(self.recipe) else (Algorithm, (self.recipe,))

    def __get__(self, instance, owner=None) -> 'Algorithm':
        "Stay an algorithm in a class. What has this method is a function for `help`, with a signature."
        return self

    def getdoc(self) -> str:
        "Return the docstring with all arguments; IPython calls it for `?`."
        comments = comments_of_steppers(self.composition)
        comments |= comments_of(self.recipe) | comments_of(_for_all)
        return explained(inspect.cleandoc(self.__doc__), self.signature.parameters.values(), comments)

    def __str__(self): return recipe(self._title, self.composition, self.hypers)
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
    recipe, # A name for the list of steppers, or a function that lists steppers; its options need defaults
    /,
    cbs=None, # With a name: steppers, in the order in which they are called
    **hypers # With a name: default hyper-parameters, which override the steppers' own
) -> Algorithm:
    """Define an algorithm: `Momentum = algorithm('Momentum', [average_grad, momentum_step], mom=0.95)`.

    As a decorator, it turns a recipe, a function that lists steppers depending on its options, into an
    `Algorithm`. Raises `TypeError` or `ValueError` for invalid steppers and hyper-parameters."""
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
