"The `Optimizer`: a `torch.optim.Optimizer` that runs a list of steppers, with fastai's protocol."
from collections.abc import Callable, Iterable
from functools import partial
from inspect import unwrap

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb import _wrappers
from optimcb._boundary import entry, opaque, refuse_tracing
from optimcb._fastai_protocol import FastaiProtocol
from optimcb.composition.errors import MissingName
from optimcb.diagnosis.of_optimizer import ExplainedOptimizer, check_steppers
from optimcb.diagnosis.suggestions import advice
from optimcb.editing.live import LiveSteppers
from optimcb.engines import ENGINES
from optimcb.engines.frozen import track
from optimcb.engines.grad_scaling import NOT_SCALED, SCALER_ATTRIBUTES, Scaling, scaling_of
from optimcb.engines.masks import set_pending_masks
from optimcb.engines.runner import Runner
from optimcb.hypers import given
from optimcb.hypers.groups import Groups, TorchNames
from optimcb.hypers.torch_names import from_torch, without_flags
from optimcb.hypers.values import NOT_HYPERS, own, per_group
from optimcb.state.eval_weights import refuse_step
from optimcb.state.learner_names import name_params
from optimcb.state.pickling import picklable, renewed
from optimcb.state.restore import hooked, restore
from optimcb.state.state_dict import pack
from optimcb.warn import warn

__all__ = ['Optimizer']


class Optimizer(FastaiProtocol, LiveSteppers, ExplainedOptimizer, torch.optim.Optimizer):
    """An optimizer made of steppers.

    Each step calls every stepper of `cbs` on every parameter with a gradient, as `stepper(p, **names)`, the
    names that it takes being looked up in the hyper-parameters and in the parameter's state. What a stepper
    returns in a dict becomes state; `once(…)` and `update` last for the step only.

    Raises `ValueError` or `TypeError` for parameters and hyper-parameters that can't be used,
    `MissingName` if a stepper lacks something, and `TypeError` if one returns what would be lost: neither
    a dict nor None, nor what it was given. Warns, with `CompositionWarning`, of steppers that can't be
    meant to be together."""
    @entry
    def __init__(self,
        params:Tensor|Iterable, # Tensors, `(name, tensor)` pairs, dicts with `params`, or lists for groups
        cbs:Callable|Iterable, # Steppers, in the order in which they are called
        *,
        engine:str='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
        check:bool=True, # Rehearse the steppers now? Else `MissingName` is raised by the first step
        **hypers # Values that override the steppers' defaults: one, one for each group, or a slice
    ):
        if hypers.pop('train_bn', None) is not None:
            warn("`train_bn` has no effect in an `Optimizer`. Pass it to the `Learner`.")
        self.cbs, self.engine = L(list(L(cbs))), engine
        self.hyper_names = set()
        self._has_part = _wrappers.made_by_zero()
        composition = self.composition
        hypers = from_torch(hypers, self._names)
        self._given = frozenset(hypers) # the others are the steppers' own
        hypers = {**composition.defaults, **hypers}
        if not self._own_step: hypers, self.engine = without_flags(hypers, composition, engine)
        self._warn_unread(hypers)
        groups = given.as_groups(params)
        values = {k: per_group(k, v, len(groups)) for k, v in hypers.items()}
        self.hyper_names.update(values)
        defaults = TorchNames({k: own(k, v[-1]) for k, v in values.items()}).know(self._names)
        super().__init__([{**{k: v[i] for k, v in values.items()}, **given.checked_group(self, g)}
                          for i, g in enumerate(groups)], defaults)
        self._set_options()
        name_params(self)
        if not any(g['params'] for g in self.param_groups) and not given.may_be_empty(groups):
            raise ValueError(given.NO_PARAMS)
        self._track()
        if composition.masks: set_pending_masks(self)
        self.frozen_idx = 0
        self._checked = check
        if check and not self._own_step: check_steppers(self, composition)

    # Steps

    @property
    def _own_step(self) -> str|None:
        "The name of a class whose step doesn't go on to ours. How that uses `cbs` and `hypers` isn't known"
        return _wrappers.own_step_of(type(self), STEP)

    @property
    def engine(self) -> str:
        "Where steps are executed: 'auto', 'eager', 'foreach' or 'fused'. May be set between steps."
        return self.__dict__.get('_engine', 'auto')
    @engine.setter
    @entry
    def engine(self, name):
        if name not in ENGINES:
            raise ValueError(f"there is no engine {name!r}. There are {', '.join(ENGINES)}.")
        self._engine = name
        self.forget_runner()

    @property
    def _running(self) -> Runner:
        if '_runner' not in self.__dict__: self._runner = Runner(self.engine)
        return self._runner
    def forget_runner(self):
        "Let the next step begin anew: the engine, or all state, is another one."
        runner = self.__dict__.pop('_runner', None)
        if runner is not None: runner.settle() # what it has counted may have to be taken back

    @entry
    @torch.no_grad()
    def step(self,
        closure:Callable|None=None # Evaluates the model again and returns the loss
    ):
        """Call the steppers on each parameter that has a gradient and isn't frozen. Return the closure's
        loss.

        A parameter is frozen if it has required gradients and doesn't now: its state and weights stay.

        A step that raises has changed nothing, wherever that can be known: kernels store when all else is
        done, and if the eager engine meets a parameter, a kind of gradient or a stepper for the first
        time, its part is undone. In a later step of the eager engine, as in `torch.optim`, the parameters
        before the one that fails have been stepped, and that may be half stepped. Raises `MissingName`."""
        refuse_step(self)
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        try:
            scaling = scaling_of(self)
            if scaling.skip_on_device or not scaling.skips(): self.step_target(self, self._running, scaling)
        except BaseException as e:
            if isinstance(e, MissingName): e.args = (advice(e, live=True),)
            for k in SCALER_ATTRIBUTES: self.__dict__.pop(k, None) # else GradScaler does it
            raise
        return loss

    def step_target(self,
        target, # The optimizer, or one of its parameters, with `param_groups`, `state` and `tracked`
        runner:Runner, # Steps it
        scaling:Scaling=NOT_SCALED # What a GradScaler says
    ):
        "Step some of the parameters, by the steppers, and with the hyper-parameters, of now."
        composition = self.composition
        made = runner.step(self, target, composition, self._hypers_of(target.param_groups), scaling)
        for k in made: # a default in a signature that a stepper returns was state, not a hyper-parameter
            for d in (self.defaults, *self.param_groups):
                if k in d and composition.is_default(k, d[k]): del d[k]

    def _hypers_of(self, groups) -> list[dict]:
        names = self.hyper_names - NOT_HYPERS
        return [{k: v for k, v in g.items() if k in names} for g in groups]

    @entry
    @torch.no_grad()
    def before_replay(self):
        """Make a captured step of a CUDA graph the next one: send learning rate, step count and the like.

        Call it before each `graph.replay()`. Raises `RuntimeError` if no step was captured, or if the next
        one takes another branch."""
        refuse_step(self)
        self._running.renew(self._hypers_of(self.param_groups))

    @property
    @entry
    def _step_supports_amp_scaling(self) -> bool:
        "Does `step` unscale gradients itself? For torch's GradScaler, which asks, it does."
        return _wrappers.asked_by_grad_scaler(self, STEP)

    # Parameters, their groups and state

    @property
    def param_groups(self) -> Groups:
        "Dicts with `params` and hyper-parameters, under our names; they answer torch's names, too."
        refuse_tracing("`param_groups` of an optimcb Optimizer",
                       "Read what is needed of it before, and pass that.")
        groups = self.__dict__.get('param_groups')
        if groups is None: # in a wrapper that delegates
            raise AttributeError(f"{type(self).__name__} has no groups of its own.")
        if type(groups) is not Groups: # torch's `__setstate__` writes into `__dict__`
            self.param_groups = groups
            return self.param_groups
        return groups
    @param_groups.setter
    @opaque
    def param_groups(self, groups):
        if type(groups) is not Groups: groups = Groups(groups)
        if 'cbs' in self.__dict__: groups.know(self._names, self._notice)
        self.__dict__['param_groups'] = groups

    @property
    @opaque
    def state(self) -> dict:
        "The state of each parameter. Waits for a step that a GPU may have skipped."
        runner = self.__dict__.get('_runner')
        if runner is not None and runner.pending: runner.settle()
        try: return self.__dict__['state']
        except KeyError: # in a wrapper that delegates
            raise AttributeError(f"{type(self).__name__} has no state of its own.") from None
    @state.setter
    def state(self, v): self.__dict__['state'] = v

    @property
    def pending_masks(self) -> dict:
        "Masks of parameters without state: which steppers act on them."
        return self.__dict__.setdefault('_pending_masks', {})

    @property
    def tracked(self) -> set:
        """Parameters that have required gradients.

        While they don't, they are frozen: a step leaves them alone."""
        return self.__dict__.setdefault('_tracked', set())

    def _track(self): track((p for g in self.param_groups for p in g['params']), self.tracked)

    @entry
    def add_param_group(self,
        param_group:dict # `params`, and hyper-parameters that differ from the optimizer's
    ):
        """Add a group of parameters, with the optimizer's defaults for hyper-parameters that it lacks.

        Raises `TypeError` for what is no tensor, `ValueError` for a tensor that is no leaf, or there
        already."""
        group = given.checked_group(self, param_group)
        given.name_group(group)
        given.check_params(group['params'], [p for g in self.param_groups for p in g['params']])
        given.check_names(self, group)
        self.param_groups.append({**{k: own(k, v) for k, v in self.defaults.items()}, **group})
        self._track()
        if 'frozen_idx' in self.__dict__:
            try:
                if self.composition.masks: set_pending_masks(self)
                self._set_options()
            except BaseException:
                self.param_groups.pop()
                raise
        if '_in_backward' in self.__dict__: self._in_backward.attach()

    # State

    @entry
    def state_dict(self) -> dict:
        "Return a copy of the state in torch's shape, with fastai's `hypers`, steppers' names, and shapes."
        return self._state_dict_on(None)

    def state_dict_on(self,
        device # Where tensors are copied to; None: where they are
    ) -> dict:
        "Copy `state_dict` to a device at once, unless somebody has put another `state_dict` in its place."
        own = getattr(self.state_dict, '__func__', None) is Optimizer.state_dict
        return self._state_dict_on(device) if own else self.state_dict()

    def _state_dict_on(self, device):
        "Return `state_dict`, copied to `device`; None: where things are"
        for hook in self._optimizer_state_dict_pre_hooks.values(): hook(self)
        return hooked(self._optimizer_state_dict_post_hooks, self, pack(self, device))

    @entry
    @torch.no_grad()
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, from fastai's `Optimizer`, or from an optimizer of `torch.optim`
    ):
        """Go on from a copy of `state_dict`, each state keeping its dtype, on its parameter's device.

        Where parameters have names on both sides, it is found by name, whatever the order and the groups;
        else by the order. Raises `ValueError`, and changes nothing, if it is of other parameters, or of an
        optimizer that no steppers do. Warns if it is of other steppers, or of other names: then what fits
        is taken. A group that is a part of one there keeps what of its hyper-parameters isn't the
        optimizer's default, and warns, too. `do_wd` and `force_train` stay where the state dict says
        nothing of a parameter, or is torch's."""
        if not isinstance(state_dict, dict):
            kind = type(state_dict).__name__
            raise ValueError(f"a state dict must be a dict, but is {state_dict!r:.80} ({kind}).")
        restore(self, hooked(self._optimizer_load_state_dict_pre_hooks, self, dict(state_dict)))
        for hook in self._optimizer_load_state_dict_post_hooks.values(): hook(self)

    def __getstate__(self): return picklable(self)
    def __setstate__(self, state):
        super().__setstate__(renewed(state))
        self.defaults.pop('differentiable', None) # torch's default for its own algorithms
        if 'param_groups' in self.__dict__: self.param_groups = self.__dict__['param_groups'] # as `Groups`
        if not isinstance(self.defaults, TorchNames):
            self.defaults = TorchNames(self.defaults).know(self._names)


STEP = Optimizer.step # a patch of the class, as by fastcore's `patch`, is another one


def runs_steppers(
    opt # Some optimizer
) -> bool:
    "Is it an `Optimizer` without a step of its own? torch wraps the method once for each class."
    return isinstance(opt, Optimizer) and unwrap(type(opt).step) is unwrap(STEP)


def check_runs_steppers(
    opt, # Some optimizer, as it was given to `wrapper`
    wrapper:str, # Name of what takes it
    does:str # What that does with it
) -> None:
    "Raise `TypeError` if it isn't an `Optimizer` without a step of its own."
    if runs_steppers(opt): return
    if callable(opt) and not isinstance(opt, torch.optim.Optimizer): # an algorithm, a class, a partial of one
        made = opt.func if isinstance(opt, partial) and not hasattr(opt, '__name__') else opt
        name = getattr(made, '__name__', type(made).__name__)
        raise TypeError(f"{wrapper} {does} an optimizer, but {name} makes one. Call it first: "
                        f"`{wrapper}({name}(model.parameters(), lr=…))`.")
    if not isinstance(opt, torch.optim.Optimizer):
        raise TypeError(f"{wrapper} {does} an optimizer, but is given {opt!r:.80} ({type(opt).__name__}).")
    raise TypeError(f"{wrapper} {does} an Optimizer made of steppers, but {type(opt).__name__} has a step "
                    "of its own. Put its steppers in an Optimizer.")


def _update(
    state:dict, # Takes what `new` has
    new=None # What a stepper returned
) -> dict:
    "`state` with what a stepper returned, for loops over `cbs` of one's own."
    if isinstance(new, dict): state.update(new)
    return state
