"""The recipes: each algorithm is a `partial` of `Optimizer` with a list of steppers, and nothing else.

Names that fastai has keep fastai's signatures and defaults; the others have those of their paper or of `torch.optim`.
"""
import inspect
from functools import partial

import numpy as np
from fastcore.meta import delegates

from optimcb.composition import Composition
from optimcb.display import Explained
from optimcb.editing import Composable
from optimcb.hypers import NOT_NEGATIVE, TORCH_FLAGS, check, from_torch, numbers, suggest
from optimcb.lookahead import Lookahead
from optimcb.optimizer import Optimizer
from optimcb.rehearsal import Group
from optimcb.steppers import *

__all__ = ['Algorithm', 'algorithm', 'SGD', 'RMSProp', 'Adam', 'AdamW', 'AMSGrad', 'Yogi', 'NAdam', 'Adamax', 'Adagrad',
           'Adadelta', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'ranger']


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

    _title = property(lambda self: f"{self.__name__}{', edited' if self.edits and self.__name__ == self.recipe.__name__ else ''}")
    _groups = property(lambda self: [Group({'lr': LR, **self.hypers}, [], [])])
    _engine_wanted, _runs = 'auto', None

    def __call__(self, *args, **kwargs) -> Optimizer:
        known = self.signature.parameters
        kwargs = from_torch(kwargs, known)
        flags = {k: kwargs.pop(k) for k in TORCH_FLAGS if k in kwargs and k not in known and (k != 'dampening' or not kwargs[k])}
        flags.pop('dampening', None) # `average_grad` takes it
        for k in kwargs:
            if k not in known: raise TypeError(f"{self.__name__} has no `{k}`.{suggest(k, known)} It has {', '.join(known)}.")
        if len(args) > 2 and isinstance(args[2], tuple) and 'sqr_mom' in known:
            third = list(known)[2]
            raise TypeError(f"the third argument of {self.__name__} is `{third}`, but is {args[2]!r}. "
                            f"Pass betas={args[2]!r}; one `{third}` for each group goes by name, too.")
        try: given = self.signature.bind(*args, **kwargs)
        except TypeError as e: raise TypeError(f"{self.__name__}: {e}. Call it as {self.__name__}{self.signature}.") from None
        given.apply_defaults()
        given = given.arguments
        self._set_flags(given)
        cbs = self.recipe(**{k: numbers(given[k]) for k in self.options})
        try: cbs = _with(cbs, self.edits)
        except ValueError as e: raise ValueError(f"with these options {self.__name__} can't be edited like that: {e} Edit the optimizer instead.") from None
        hypers = {k: given[k] for k in ('lr', *self.hypers)}
        opt = Optimizer(given['params'], cbs, engine=given['engine'], check=given['check'], **hypers, **flags)
        opt.called = self._title
        for h in opt.hypers:
            for k in self.hypers: check(k, h[k], NOT_NEGATIVE)
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
        "It is found by its name in its module"
        return (_again, (self.base, self.edits, self.__name__)) if self.base else self.__name__

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


def _decay(decouple_wd): return weight_decay if decouple_wd else l2_reg
def _adam_avgs(decouple_wd, sqr=average_sqr_grad): return [_decay(decouple_wd), partial(average_grad, dampening=True), sqr]


@algorithm
def SGD(
    mom=0., # Coefficient of past gradients, 0 to 1
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    nesterov=False, # Look ahead by one step?
    dampening=False # Average the gradients, instead of summing them?
):
    "Stochastic gradient descent, with momentum if `mom` is not 0 (Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013)."
    if nesterov and (dampening or not np.any(mom)): raise ValueError("Nesterov momentum needs `mom` and no `dampening`.")
    if not np.any(mom): return [_decay(decouple_wd), sgd_step]
    average = partial(average_grad, dampening=True) if dampening else average_grad
    return [_decay(decouple_wd), average, *([nesterov_update, apply_update] if nesterov else [momentum_step])]


@algorithm
def RMSProp(
    mom=0., # Coefficient of past gradients, 0 to 1
    sqr_mom=0.99, # Coefficient of past squares, 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True, # Decay the weights, or add an L2 penalty to the gradient?
    centered=False, # Divide by the standard deviation, instead of the root mean square?
    divide_first=False # Momentum of the quotients, as in torch, instead of the gradients?
):
    "Gradients over their root mean square (Tieleman & Hinton 2012, lecture 6.5)."
    sqr = [average_sqr_grad, *([average_center, center_sqr_avg] if centered else [])]
    if not np.any(mom): return [_decay(decouple_wd), *sqr, rms_prop_step]
    if divide_first: return [_decay(decouple_wd), *sqr, rms_update, average_update, apply_update]
    return [_decay(decouple_wd), average_grad, *sqr, rms_prop_step]


@algorithm
def Adam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0.01, # Weight decay
    decouple_wd=True # Decay the weights (AdamW), or add an L2 penalty to the gradient?
):
    "Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980), with decoupled weight decay unless told otherwise."
    return [*_adam_avgs(decouple_wd), step_stat, adam_step]


@algorithm
def AdamW(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0.01 # Weight decay
):
    "Adam with decoupled weight decay and torch's defaults (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."
    return Adam.recipe()


@algorithm
def AMSGrad(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam that divides by the largest mean square so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237, alg. 2; bias correction as in torch)."
    return [*_adam_avgs(decouple_wd), max_sqr_avg, use_sqr_max, step_stat, adam_step]


@algorithm
def Yogi(
    mom=0.9, # Coefficient of past gradients, 0 to 1
    sqr_mom=0.999, # Coefficient of past squares, 0 to 1
    eps=1e-3, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam whose mean square changes by at most the newest square (Zaheer et al. 2018, alg. 2; bias correction as in published code)."
    return [start_avgs, *_adam_avgs(decouple_wd, yogi_sqr_grad), step_stat, adam_step]


@algorithm
def NAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with Nesterov's momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [*_adam_avgs(decouple_wd), step_stat, nadam_schedule, nadam_avg, debias_sqr_avg, rms_update, apply_update]


@algorithm
def Adamax(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    eps=1e-8, # Added to the size of the gradient
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with a maximum in place of the root mean square (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, alg. 2)."
    return [*_adam_avgs(decouple_wd, max_abs_grad), step_stat, debias_grad_avg, adamax_update, apply_update]


@algorithm
def Adagrad(
    eps=1e-10, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Gradients over the root of the sum of all their squares (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html)."
    return [_decay(decouple_wd), step_stat, decay_lr, sum_sqr_grad, rms_update, apply_update]


@algorithm
def Adadelta(
    sqr_mom=0.9, # Coefficient of past squares (β2), 0 to 1
    eps=1e-6, # Added to both means, inside the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Gradients scaled to the size of past updates, for which `lr=1` is meant (Zeiler 2012, https://arxiv.org/abs/1212.5701)."
    return [_decay(decouple_wd), average_sqr_grad, adadelta_update, apply_update]


@algorithm
def RAdam(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0., # Weight decay
    beta=0., # Sharpness of SAdam's softplus of the root; 0: none
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam, rectified at the start (Liu et al. 2020, https://arxiv.org/abs/1908.03265); `beta` is the sharpness of SAdam's softplus."
    return [*_adam_avgs(decouple_wd), step_stat, radam_step]


@algorithm
def QHAdam(
    mom=0.999, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.999, # Coefficient of past squares (β2), 0 to 1
    nu_1=0.7, # Share of the mean of the gradients, the rest being the newest
    nu_2=1.0, # Share of the mean of the squares, the rest being the newest
    eps=1e-8, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with the newest gradient mixed into its means (Ma & Yarats 2019, https://arxiv.org/abs/1810.06801)."
    return [*_adam_avgs(decouple_wd, partial(average_sqr_grad, dampening=True)), step_stat, qhadam_step]


@algorithm
def Larc(
    mom=0.9, # Coefficient of past gradients, 0 to 1
    clip=True, # LARC, which goes no faster than `lr`? Else LARS
    trust_coeff=0.02, # How far a step may go, as a share of the tensor's norm
    eps=1e-8, # Added to the norm of the gradient
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Momentum with a learning rate for each tensor (You et al. 2017, https://arxiv.org/abs/1708.03888)."
    return [_decay(decouple_wd), *([average_grad] if np.any(mom) else []), partial(larc_layer_lr, clip=clip), larc_step]


@algorithm
def Lamb(
    mom=0.9, # Coefficient of past gradients (β1), 0 to 1
    sqr_mom=0.99, # Coefficient of past squares (β2), 0 to 1
    eps=1e-5, # Added to the root
    wd=0., # Weight decay
    decouple_wd=True # Decay the weights, or add an L2 penalty to the gradient?
):
    "Adam with a learning rate for each tensor (You et al. 2020, https://arxiv.org/abs/1904.00962)."
    return [*_adam_avgs(decouple_wd), step_stat, debias_grad_avg, debias_sqr_avg, rms_update, trust_ratio, apply_update]


@delegates(RAdam)
def ranger(
    params, # Model parameters
    lr, # Learning rate
    mom=0.95, # Coefficient of past gradients, 0 to 1
    wd=0.01, # Weight decay
    eps=1e-6, # Added to the root
    k=6, # Fast steps for one slow step
    alpha=0.5, # Length of the slow step, a share of the way, 0 to 1
    **kwargs # Other options of `RAdam`
) -> Lookahead:
    "`Lookahead` with `RAdam`."
    options = {'mom': mom, 'wd': wd, 'eps': eps, **from_torch(kwargs, RAdam.options)}
    return Lookahead(RAdam(params, lr=lr, **options), k=k, alpha=alpha)
