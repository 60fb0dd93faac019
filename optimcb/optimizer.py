"The generic `Optimizer`: a `torch.optim.Optimizer` that runs a list of steppers and speaks fastai's protocol."
from collections.abc import Callable, Iterable
from inspect import unwrap

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb import _wrappers
from optimcb._boundary import entry, opaque, refuse_tracing
from optimcb._fastai_protocol import FastaiProtocol
from optimcb.composition.errors import MissingName
from optimcb.diagnosis import of_optimizer
from optimcb.diagnosis.explain import Explained
from optimcb.diagnosis.groups import placement
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
from optimcb.state.restore import restore
from optimcb.state.state_dict import is_note, pack
from optimcb.warn import warn

__all__ = ['Optimizer']

# Attributes that are made again when needed; `step` is there where a scheduler put it
NOT_PICKLED = frozenset({'step', '_composition', '_runner', '_in_backward', '_put_in', '_warned_unread'})


class Optimizer(torch.optim.Optimizer, FastaiProtocol, LiveSteppers, Explained):
    """An optimizer made of steppers.

    Each step calls every stepper of `cbs` on every parameter with a gradient, as `stepper(p, **names)`, the names that
    it takes being looked up in the hyper-parameters and in the parameter's state. What a stepper returns in a dict
    becomes state; `once(…)` and `update` last for the step only.

    Raises `ValueError` or `TypeError` for parameters and hyper-parameters that can't be used, `MissingName` if a stepper
    lacks something, and `TypeError` if one returns what would be lost: neither a dict nor None, nor what it was given.
    Warns, with `CompositionWarning`, of steppers that can't be meant to be together.
    """

    @entry
    def __init__(self,
        params:Tensor|Iterable, # Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists: one group each
        cbs:Callable|Iterable, # Steppers, in the order in which they are called
        *,
        engine:str='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
        check:bool=True, # Rehearse the steppers now? Else `MissingName` is raised at the first step, before anything has changed
        **hypers # Hyper-parameters: a value, one for each group, or a slice. They override the steppers' defaults
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
        if composition.marks: set_pending_masks(self)
        self.frozen_idx = 0
        self._checked = check
        if check and not self._own_step: of_optimizer.check_steppers(self, composition)

    # Steps

    @property
    def _own_step(self) -> str|None:
        "The name of a class whose step doesn't go on to ours: what that does with `cbs` and hyper-parameters isn't known"
        return _wrappers.own_step_of(type(self), STEP)

    @property
    def engine(self) -> str:
        "Where steps are executed: 'auto', 'eager', 'foreach' or 'fused'. May be set between steps."
        return self.__dict__.get('_engine', 'auto')
    @engine.setter
    @entry
    def engine(self, name):
        if name not in ENGINES: raise ValueError(f"there is no engine {name!r}. There are {', '.join(ENGINES)}.")
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
        """Call the steppers on each parameter that has a gradient and isn't frozen. Returns what `closure` returns. Raises `MissingName`.

        A parameter that has required gradients and doesn't now is frozen: it rests, with its state, until it requires them again.

        A step that raises has changed nothing, wherever that can be known: kernels store when all else is done, and a
        step in which the eager engine meets a parameter, a kind of gradient or a stepper for the first time is undone.
        What is left: a stepper raises in a later step, and the eager engine runs it. Then, as in `torch.optim`, the
        parameters before it in the eager engine's part have been stepped, and it may be half stepped itself. Those
        after it, and all that kernels step, are as they were."""
        refuse_step(self)
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        try:
            scaling = scaling_of(self)
            if scaling.skip_on_device or not scaling.skips(): self.step_target(self, self._running, scaling)
        except BaseException as e:
            if isinstance(e, MissingName): e.args = (advice(e),)
            for k in SCALER_ATTRIBUTES: self.__dict__.pop(k, None) # it takes them away after a step that doesn't fail
            raise
        return loss

    def step_target(self,
        target, # What to step: the optimizer itself, or one of its parameters, with `param_groups`, `state` and `tracked`
        runner:Runner, # Steps it
        scaling:Scaling=NOT_SCALED # What a GradScaler says
    ):
        "Step some of the parameters, by the steppers, and with the hyper-parameters, of now."
        composition = self.composition
        made = runner.step(self, target, composition, self._hypers_of(target.param_groups), scaling)
        for k in made: # a number in a signature that a stepper returns was state all along, not a hyper-parameter
            for d in (self.defaults, *self.param_groups):
                if k in d and composition.is_default(k, d[k]): del d[k]

    def _hypers_of(self, groups) -> list[dict]:
        names = self.hyper_names - NOT_HYPERS
        return [{k: v for k, v in g.items() if k in names} for g in groups]

    @entry
    @torch.no_grad()
    def before_replay(self):
        """Make a step that a CUDA graph has captured the next one: send learning rate, step count and the like.

        Call it before each `graph.replay()`. Raises `RuntimeError` if no step was captured, or if the next one takes another branch.
        """
        refuse_step(self)
        self._running.renew(self._hypers_of(self.param_groups))

    @entry
    def zero_grad(self,
        set_to_none:bool=False # Drop the gradients, instead of filling them with zeros as fastai does?
    ):
        "Zero the gradients in place, or drop them."
        for p in (p for ps in self.param_lists for p in ps):
            if getattr(p, 'grad', None) is None: continue
            if set_to_none: p.grad = None
            else:
                if p.grad.grad_fn is None: p.grad.requires_grad_(False)
                else: p.grad.detach_()
                p.grad.zero_()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        "Does `step` unscale gradients itself? For torch's GradScaler, which asks, it does."
        return _wrappers.asked_by_grad_scaler(self, STEP)

    # Parameters, their groups and state

    @property
    def param_groups(self) -> Groups:
        "The groups: dicts with `params` and hyper-parameters, under our names, which answer torch's names, too."
        refuse_tracing('`param_groups` of an optimcb Optimizer', "Read what is needed of it before, and pass that.")
        groups = self.__dict__.get('param_groups')
        if groups is None: raise AttributeError(f"{type(self).__name__} has no groups of its own.") # a wrapper that delegates
        if type(groups) is not Groups: # torch's `__setstate__` writes into `__dict__`
            self.param_groups = groups
            return self.param_groups
        return groups
    @param_groups.setter
    @opaque
    def param_groups(self, groups):
        self.__dict__['param_groups'] = groups = groups if type(groups) is Groups else Groups(groups)
        if 'cbs' in self.__dict__: groups.know(self._names)

    @property
    @opaque
    def state(self) -> dict:
        "The state of each parameter. Waits for a step that a GPU may have skipped."
        runner = self.__dict__.get('_runner')
        if runner is not None and runner.pending: runner.settle()
        try: return self.__dict__['state']
        except KeyError: raise AttributeError(f"{type(self).__name__} has no state of its own.") from None # as above
    @state.setter
    def state(self, v): self.__dict__['state'] = v

    @property
    def pending_masks(self) -> dict:
        "For each parameter that was not stepped yet, which steppers are there for it. Later that is in its state."
        return self.__dict__.setdefault('_pending_masks', {})

    @property
    def tracked(self) -> set:
        """Parameters that have required gradients. They are frozen while they don't.

        Then they are neither stepped nor decayed, whatever lies in their `.grad`."""
        return self.__dict__.setdefault('_tracked', set())

    def _track(self): track((p for g in self.param_groups for p in g['params']), self.tracked)

    @entry
    def add_param_group(self,
        param_group:dict # `params`, and hyper-parameters that differ from the optimizer's
    ):
        """Add a group of parameters. What the dict leaves out has the value that the optimizer was constructed with.

        Raises `TypeError` for what is no tensor, `ValueError` for a tensor that is no leaf or that is there already.
        """
        group = given.checked_group(self, param_group)
        group['params'], names = given.split_names(group['params'])
        if names: group['param_names'] = names
        given.check_params(group['params'], [p for g in self.param_groups for p in g['params']])
        if 'param_names' not in group and self.__dict__.pop('_names_brought', False): # names that no user gave
            for g in self.param_groups: g.pop('param_names', None)
        if any(('param_names' in g) != ('param_names' in group) for g in self.param_groups):
            raise ValueError(given.NAMES_FOR_ALL)
        self.param_groups.append({**{k: own(k, v) for k, v in self.defaults.items()}, **group})
        self._track()
        if 'frozen_idx' in self.__dict__:
            try:
                if self.composition.marks: set_pending_masks(self)
                self._set_options()
            except BaseException:
                self.param_groups.pop()
                raise
        if '_in_backward' in self.__dict__: self._in_backward.attach()

    # State

    @entry
    def state_dict(self) -> dict:
        "A copy of the state in torch's shape, with fastai's `hypers`, the steppers' names and the parameters' shapes beside it."
        return self._state_dict_on(None)

    def state_dict_on(self,
        device # Where tensors are copied to; None: where they are
    ) -> dict:
        "`state_dict`, copied to a device at once, unless somebody has put another `state_dict` in its place."
        own = getattr(self.state_dict, '__func__', None) is Optimizer.state_dict
        return self._state_dict_on(device) if own else self.state_dict()

    def _state_dict_on(self, device):
        "`state_dict`, copied to `device`; None: where things are"
        for hook in self._optimizer_state_dict_pre_hooks.values(): hook(self)
        return _hooked(self._optimizer_state_dict_post_hooks, self, pack(self, device))

    @entry
    @torch.no_grad()
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, from fastai's `Optimizer`, or from an optimizer of `torch.optim`
    ):
        """Go on from a copy of `state_dict`, each state keeping its dtype, on its parameter's device.

        Where parameters have names on both sides, it is found by name, whatever the order and the groups; else by the order.
        Raises `ValueError`, and changes nothing, if it is of other parameters, or of an optimizer that no steppers do.
        Warns if it is of other steppers, or of other names: then what fits is taken. A group that is a part of one there
        keeps what of its hyper-parameters isn't the optimizer's default, and warns, too. `do_wd` and `force_train` stay
        where the state dict says nothing of a parameter, or is torch's.
        """
        if not isinstance(state_dict, dict):
            raise ValueError(f"a state dict must be a dict, but is {state_dict!r:.80} ({type(state_dict).__name__}).")
        restore(self, _hooked(self._optimizer_load_state_dict_pre_hooks, self, dict(state_dict)))
        for hook in self._optimizer_load_state_dict_post_hooks.values(): hook(self)

    def __getstate__(self):
        "Return all attributes, but for hooks, as in torch, and what is made again when needed"
        attributes = {**self.__dict__, 'state': self.state}
        return {k: v for k, v in attributes.items() if not k.endswith('_hooks') and k not in NOT_PICKLED}

    def __setstate__(self, state):
        if '_said_of' in state: # of an earlier version
            state = {**state, '_pending_masks': state['_said_of']}
            del state['_said_of']
        super().__setstate__(state)
        self.defaults.pop('differentiable', None) # torch's default for its own algorithms
        if 'param_groups' in self.__dict__: self.param_groups = self.__dict__['param_groups'] # not in a wrapper that delegates
        if not isinstance(self.defaults, TorchNames): self.defaults = TorchNames(self.defaults).know(self._names)

    # What explanations and edits ask

    _title = property(lambda self: self.__dict__.get('called', type(self).__name__))
    _engine_wanted = property(lambda self: self.engine)
    _groups = property(of_optimizer.groups_of)
    _states = property(lambda self: [state for k, state in self.state.items() if not is_note(k)])
    _is_checked = property(lambda self: self.__dict__.get('_checked', True))

    @property
    def _runs(self) -> Runner|None:
        "What has run the steps so far, by the steppers of now"
        runner = None if '_in_backward' in self.__dict__ else self.__dict__.get('_runner')
        return runner if runner is not None and runner.composition is self.composition else None

    @entry
    def __repr__(self):
        if self._own_step: return super().__repr__()
        rules = [f'{rule} {says}: {names}' for rule, says, *_, names in placement(self.composition, self._groups)]
        return '\n'.join([', '.join(self.composition.labels), *rules, *map(_shortened, super().__repr__().splitlines())])


STEP = Optimizer.step # a patch of the class, as by fastcore's `patch`, is another one


def runs_steppers(
    opt # Some optimizer
) -> bool:
    "Is it an `Optimizer` without a step of its own? torch wraps the method once for each class."
    return isinstance(opt, Optimizer) and unwrap(type(opt).step) is unwrap(STEP)


def adopt_state(
    wrapper:Optimizer, # Optimizer that wraps another
    opt:Optimizer, # Optimizer that is wrapped, in `.opt` from now on
    called:str # Name of the wrapper
):
    "Let `wrapper` have the parameters, hyper-parameters and state of `opt`, and step them by an engine of its own."
    attributes = {**opt.__dict__, 'state': opt.state}
    wrapper.__dict__.update({k: v for k, v in attributes.items() if k not in NOT_PICKLED})
    if wrapper._choice is not None: wrapper._choice = wrapper._choice.copy()
    wrapper.opt, wrapper.called = opt, f'{called} of {opt._title}'


NAMES_SHOWN = 80 # characters of the names of a group


def _shortened(line) -> str:
    "Return a line of torch's `repr`, where the names of a large model would be the most of it"
    if not line.startswith('    param_names: ') or len(line) <= NAMES_SHOWN: return line
    return f"{line[:NAMES_SHOWN].rpartition(',')[0]}, …]"


def _hooked(hooks, opt, sd) -> dict:
    "Return a state dict, as hooks make it"
    for hook in hooks.values():
        new = hook(opt, sd)
        if new is not None: sd = new
    return sd


def _update(
    state:dict, # Takes what `new` has
    new=None # What a stepper returned
) -> dict:
    "`state` with what a stepper returned, for loops over `cbs` of one's own."
    if isinstance(new, dict): state.update(new)
    return state
