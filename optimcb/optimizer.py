"The `Optimizer`: a `torch.optim.Optimizer` that runs a list of steppers, with fastai's protocol."
from collections.abc import Callable, Iterable
from inspect import unwrap
from itertools import chain

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb._compat import wrappers
from optimcb._compat.boundary import entry, opaque, refuse_tracing
from optimcb._compat.warn import warn
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
from optimcb.engines.zeroing import zero_read
from optimcb.hypers import given
from optimcb.hypers.groups import Groups, TorchNames
from optimcb.hypers.torch_names import from_torch, without_flags
from optimcb.hypers.values import hypers_of, own, per_group
from optimcb.state.eval_weights import refuse_step
from optimcb.state.learner_names import name_params
from optimcb.state.on_device import put_on_device
from optimcb.state.protocol import SavedState

__all__ = ['Optimizer']


class Optimizer(FastaiProtocol, LiveSteppers, ExplainedOptimizer, SavedState, torch.optim.Optimizer):
    """An optimizer composed of steppers.

    Each step calls every stepper of `cbs` on every parameter with a gradient, as `stepper(p, **names)`. Its
    arguments are looked up by name in the hyper-parameters and in the parameter's state. A dict that a
    stepper returns becomes state; `once(…)` and `update` last only until the end of the step.

    `capturable=True` keeps counts of steps on the device: a CUDA graph of a step can then be replayed without
    `before_replay()`. Hyper-parameters that change between replays must be tensors: `lr=torch.tensor(1e-3)`.

    Raises `ValueError` or `TypeError` for invalid parameters and hyper-parameters, `MissingName` if a stepper
    needs an unknown name, and `TypeError` if a stepper returns something else than a dict, None or one of
    its arguments, which would be lost. Warns with `CompositionWarning` about combinations of steppers that
    are probably a mistake."""
    @entry
    def __init__(self,
        params:Tensor|Iterable, # Tensors, `(name, tensor)` pairs, dicts with `params`, or lists for groups
        cbs:Callable|Iterable, # Steppers, in the order in which they are called
        *,
        engine:str='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
        check:bool=True, # Rehearse the steppers now? If not, the first step raises `MissingName`
        zero_in_step:bool=False, # Let a step zero the gradients? For loops in which `zero_grad()` follows it
        **hypers # Values that override the steppers' defaults: one for all groups, one per group, or a slice
    ):
        if hypers.pop('train_bn', None) is not None:
            warn("`train_bn` has no effect in an `Optimizer`. Pass it to the `Learner`.")
        self.cbs, self.engine, self.zero_in_step = L(list(L(cbs))), engine, zero_in_step
        # torch's option: numbers are on the device, where a CUDA graph finds them
        self._capturable = bool(hypers.pop('capturable', False))
        self.hyper_names = set()
        self._has_part = wrappers.made_by_zero()
        composition = self.composition
        hypers = from_torch(hypers, self._names)
        self._given = frozenset(hypers) # the others are defaults of the steppers
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
        if type(self).add_param_group is not Optimizer.add_param_group: self._track() # may not go on to ours
        if composition.masks: set_pending_masks(self)
        self.frozen_idx = 0
        self._checked = check
        if check and not self._own_step: check_steppers(self, composition)

    # Steps

    @property
    def _own_step(self) -> str|None:
        "The name of a class whose `step` doesn't call ours, so that its use of `cbs` and `hypers` is unknown"
        return wrappers.own_step_of(type(self), STEP)

    @property
    def engine(self) -> str:
        "The engine that executes steps: 'auto', 'eager', 'foreach' or 'fused'. May be set between steps."
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
        self._runner.zeroes = self.zero_in_step
        return self._runner
    def forget_runner(self):
        "Drop the runner after a change of the engine or of all state; the next step creates a new one."
        runner = self.__dict__.pop('_runner', None)
        if runner is not None: runner.close() # a skipped step may have to be taken off its counters

    @entry
    @torch.no_grad()
    def step(self,
        closure:Callable|None=None # Evaluates the model again and returns the loss
    ):
        """Call the steppers on each unfrozen parameter with a gradient. Return the closure's loss.

        A parameter is frozen if it required gradients before and doesn't now: its state and weights stay.

        If a step raises, it leaves everything unchanged where possible: kernels write last of all, and the
        eager engine undoes its part if it met a parameter, a kind of gradient or a stepper for the first
        time. In later steps of the eager engine, as in `torch.optim`, the parameters before the failing one
        have been stepped, and the failing one perhaps in part. Raises `MissingName`."""
        refuse_step(self)
        with torch.enable_grad(): loss = None if closure is None else closure()
        try:
            scaling = scaling_of(self)
            self.__dict__.pop('_zeroed', None)
            if scaling.skip_on_device or not scaling.skips():
                self.step_target(self, runner := self._running, scaling)
                if runner.zeroes: self._zeroed = zero_read(self, runner)
        except BaseException as e:
            if isinstance(e, MissingName): e.args = (advice(e, live=True),)
            for k in SCALER_ATTRIBUTES: self.__dict__.pop(k, None) # GradScaler does it after other steps
            raise
        return loss

    def step_target(self,
        target, # The optimizer, or one of its parameters, with `param_groups`, `state` and `tracked`
        runner:Runner, # Steps it
        scaling:Scaling=NOT_SCALED # Scale and skip flag of a GradScaler
    ):
        "Step the target's parameters with the current steppers and hyper-parameters."
        if self._capturable and runner.plan is None: put_on_device(target) # state may have come in
        composition, hypers = self.composition, hypers_of(target.param_groups, self.hyper_names)
        made = runner.step(self, target, composition, hypers, scaling)
        for k in made: # a default of a name that a stepper returned was state, not a hyper-parameter
            for d in (self.defaults, *self.param_groups):
                if k in d and composition.is_default(k, d[k]): del d[k]

    @entry
    @torch.no_grad()
    def before_replay(self):
        """Prepare the next replay of a captured CUDA graph: send learning rate, step count and other scalars.

        Call it before each `graph.replay()`, except with `capturable=True`. Raises `RuntimeError` if no step
        was captured, or if the next step takes another branch."""
        refuse_step(self)
        self._running.renew(hypers_of(self.param_groups, self.hyper_names))

    @property
    @entry
    def _step_supports_amp_scaling(self) -> bool:
        "Does `step` unscale gradients itself? Yes, if torch's GradScaler asks."
        return wrappers.asked_by_grad_scaler(self, STEP)

    # Parameters, their groups and state

    @property
    def param_groups(self) -> Groups:
        "Dicts with `params` and hyper-parameters, by our names; torch's names work too."
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
        """Parameters that required gradients at some time.

        While one of them doesn't, it is frozen: a step skips it."""
        return self.__dict__.setdefault('_tracked', set())

    def _track(self): track((p for g in self.param_groups for p in g['params']), self.tracked)

    @entry
    def add_param_group(self,
        param_group:dict # `params`, and hyper-parameters that differ from the optimizer's defaults
    ):
        """Add a group of parameters, with the optimizer's defaults for missing hyper-parameters.

        Raises `TypeError` for anything but tensors, `ValueError` for a tensor that is not a leaf or already
        in the optimizer."""
        group = given.checked_group(self, param_group)
        given.name_group(group)
        given.check_params(group['params'], chain.from_iterable(g['params'] for g in self.param_groups))
        given.check_names(self, group)
        self.param_groups.append({**{k: own(k, v) for k, v in self.defaults.items()}, **group})
        track(group['params'], self.tracked)
        if 'frozen_idx' in self.__dict__:
            try:
                if self.composition.masks: set_pending_masks(self)
                self._set_options()
            except BaseException:
                self.param_groups.pop()
                raise
        if '_in_backward' in self.__dict__: self._in_backward.attach()


STEP = Optimizer.step # to recognize a patched method, as by fastcore's `patch`


def runs_steppers(
    opt # Any optimizer
) -> bool:
    "Is it an `Optimizer` that inherits `step`? torch wraps the method once for each class."
    return isinstance(opt, Optimizer) and unwrap(type(opt).step) is unwrap(STEP)


def _update(
    state:dict, # State to update
    new=None # Result of a stepper
) -> dict:
    "Return `state`, updated with a stepper's result; for custom loops over `cbs`."
    if isinstance(new, dict): state.update(new)
    return state
