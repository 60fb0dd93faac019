"""Sharpness-aware minimization (SAM): take the gradient near the point of largest loss in the neighbourhood.

A first gradient leads there. This ascent is an optimizer with a single stepper, so it runs on every engine,
and its norm covers all parameters, sharded ones too.
"""
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from optimcb._compat.boundary import entry
from optimcb.hypers.values import NOT_NEGATIVE, check
from optimcb.optimizer import Optimizer
from optimcb.state.eval_weights import refuse_step
from optimcb.state.pickling import adopt_state
from optimcb.steppers import ascend, maximize
from optimcb.training.given import check_runs_steppers

__all__ = ['Ascent', 'SAM', 'stats_kept']


class Ascent:
    """The ascent of SAM: moves parameters towards a larger loss nearby, and back to exactly the old values.

    If an objective is maximized, by the stepper `maximize` or torch's option, parameters move towards a
    smaller one. A copy of the weights is kept and reused. Parameters without a gradient stay."""
    @entry
    def __init__(self,
        opt, # Optimizer of any kind, with the parameters to move
        rho:float=0.05, # Norm of the move over all parameters; groups may have their own `sam_rho`
        adaptive:bool=False, # Move larger weights further (ASAM)? A usual `rho` is then 0.5
        eta:float=0.01 # Added to a weight's magnitude, if `adaptive`; groups may have their own `sam_eta`
    ):
        self.opt, self.adaptive, self.moved, self.climber = opt, bool(adaptive), [], None
        self.hypers = {k: check(k, v, NOT_NEGATIVE) for k, v in (('sam_rho', rho), ('sam_eta', eta))}

    def up(self):
        """Go back to the trained weights if necessary, then move up along the gradients.

        Raises `ValueError` for sparse gradients."""
        self.down()
        climber = self._climber()
        ps = [p for p, *_ in climber.all_params(with_grad=True)]
        if any(p.grad.layout is not torch.strided for p in ps):
            raise ValueError("SAM needs the gradients of whole parameters, but one is sparse. "
                             "Make the embedding without `sparse=True`.")
        self.moved = ps # first, so that a failing step can be undone
        try: climber.step()
        except BaseException:
            self.down()
            raise

    def down(self):
        "Move back, if the parameters are up."
        moved, self.moved = self.moved, []
        state = self.climber.state if moved else {}
        with torch.no_grad():
            for p in moved:
                if 'sam_weights' in state.get(p, {}): p.copy_(state[p]['sam_weights'])

    def _climber(self):
        "Return the optimizer of the ascent, with the current groups."
        groups, flips = self.opt.param_groups, self._flips()
        known = self.hypers
        if flips: known = {**known, 'maximize': hasattr(self.opt, 'composition')} # torch's groups have it
        hypers = [{k: g.get(k, v) for k, v in known.items()} for g in groups]
        climber = self.climber
        if climber is None or len(climber.param_groups) != len(groups) or list(climber.cbs[:-1]) != flips:
            self.climber = self._new_climber(groups, hypers, flips)
        for mine, g, h in zip(self.climber.param_groups, groups, hypers): mine.update(h, params=g['params'])
        wanted = getattr(self.opt, 'engine', 'auto')
        if self.climber.engine != wanted: self.climber.engine = wanted
        return self.climber

    def _new_climber(self, groups, hypers, flips):
        "Create the optimizer of the ascent."
        params = []
        for g, h in zip(groups, hypers):
            pairs = zip(g['param_names'], g['params']) if 'param_names' in g else g['params']
            params.append({'params': list(pairs), **h})
        climber = Optimizer(params, [*flips, partial(ascend, adaptive=self.adaptive)])
        if hasattr(self.opt, 'tracked'): climber._tracked = self.opt.tracked # it knows the frozen parameters
        return climber

    def _flips(self) -> list:
        "List the optimizer's steppers that flip the sign of gradients."
        if hasattr(self.opt, 'composition'): return [s.f for s in self.opt.composition.flips_grad]
        return [maximize] if any(g.get('maximize') for g in self.opt.param_groups) else []


class SAM(Optimizer):
    """Add sharpness-aware minimization to `opt`: step by the gradient near the largest loss nearby.

    One step takes two forward and backward passes. `step` calls a closure, which clears gradients, evaluates
    the loss and calls `backward`, twice and returns the first loss. Without a closure, call
    `loss.backward()`, `opt.ascend()`, `opt.zero_grad()`, a second `backward()`, then `opt.step()`. `.grad`
    keeps the second gradients. The model has the trained weights, except between `ascend` and `step` or
    `descend`.

    Parameters, hyper-parameters and state are shared with the wrapped optimizer, `.opt`. `sam_rho` and
    `sam_eta` are hyper-parameters of groups. A `GradScaler` may scale both passes: call
    `scaler.unscale_(opt); opt.ascend(); scaler.update()` after the first, and proceed as usual after the
    second. If the first gradient isn't finite, nothing moves. If the scaler skips the step, `opt.descend()`
    or the next `ascend` moves the weights back. Raises `TypeError` for an optimizer without steppers.
    Source: Foret et al. 2021, https://arxiv.org/abs/2010.01412, alg. 1.
    """
    @entry
    def __init__(self,
        opt:Optimizer, # Optimizer to wrap
        rho:float=0.05, # Norm of the ascent over all parameters
        adaptive:bool=False, # Move larger weights further (ASAM, arxiv.org/abs/2102.11600)? Usual: `rho` 0.5
        eta:float=0.01, # Added to the magnitude of a weight, if `adaptive`
        model:nn.Module|None=None # Model whose running statistics skip the second pass (`stats_kept`)
    ):
        if isinstance(opt, SAM): raise TypeError("this optimizer is a SAM already. Set its `sam_rho`.")
        check_runs_steppers(opt, 'SAM', 'wraps')
        if '_in_backward' in opt.__dict__:
            raise ValueError("this optimizer steps in backward, but SAM needs all gradients first. "
                             "Call `remove()` of what `step_in_backward` returned.")
        ascent = Ascent(self, rho, adaptive, eta)
        adopt_state(self, opt, 'SAM')
        self.model, self.ascent = model, ascent
        self.hyper_names.update(ascent.hypers)
        self.set_hypers(**ascent.hypers)
        self.defaults.update(ascent.hypers)

    @property
    def is_up(self) -> bool:
        "Are the weights those after `ascend`?"
        return bool(self.ascent.moved)

    @entry
    def ascend(self):
        """Move up along the gradients, to the point for the next gradients.

        Raises `ValueError` for sparse gradients."""
        refuse_step(self)
        self.ascent.up()

    @entry
    def descend(self):
        "Move back without a step, for example after a step that a `GradScaler` skipped."
        self.ascent.down()

    @entry
    def step(self,
        closure:Callable|None=None # Clears gradients, calls `backward` and returns the loss; called twice
    ):
        """Move back, then step by the gradients; with a closure, do both passes.

        Returns the closure's first loss.

        Raises `RuntimeError` without a closure and without `ascend`, or if the model has weights for
        evaluation."""
        refuse_step(self)
        loss = None
        if closure is not None: loss = self._twice(closure)
        elif not self.is_up:
            raise RuntimeError("SAM steps by the gradients after `ascend()`: call `opt.ascend()`, and do "
                               "forward and "
                               "backward again, before `opt.step()`; or pass a closure that does forward "
                               "and backward. In fastai, use `SAMCallback` of `optimcb.learner` instead.")
        self.descend()
        super().step()
        return loss

    def _twice(self, closure):
        "Run both passes of a closure. If one fails, move the weights back."
        self.descend()
        try:
            with torch.enable_grad(): loss = closure()
            self.ascend()
            for g in self.param_groups:
                for p in g['params']: p.grad = None # in case the closure doesn't clear gradients
            keep_stats = stats_kept(self.model) if self.model is not None else nullcontext()
            with torch.enable_grad(), keep_stats: closure()
        except BaseException:
            self.descend()
            raise
        return loss

    @entry
    def eval(self, part=None):
        "Put weights for evaluation into the model, like `Optimizer.eval`. Raises `RuntimeError` if `is_up`."
        self._refuse_up("averages can't be put in")
        super().eval(part)

    def _state_dict_on(self, device):
        self._refuse_up("a model that is saved now would not be what training goes on from")
        return super()._state_dict_on(device)

    @entry
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, of this optimizer or of the one that it wraps
    ):
        "Move the weights back, then load a state dict like `Optimizer.load_state_dict`."
        self.descend()
        super().load_state_dict(state_dict)

    def _refuse_up(self, what):
        if not self.is_up: return
        raise RuntimeError(f"the weights are where `ascend` has brought them, so {what}. "
                           "Call `step()` or `descend()` first.")


SAM.step.hooked = True # torch runs step hooks around `Optimizer.step`, which this step calls


@contextmanager
def stats_kept(
    model:nn.Module # Model with batch norm and the like
):
    "Keep forward passes in a `with` block from changing running statistics."
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    norms = [m for m in norms if m.track_running_stats]
    with ExitStack() as stack:
        for m in norms:
            before = {k: m.__dict__[k] for k in ('momentum', 'track_running_stats')}
            stack.callback(m.__dict__.update, before)
        for m in norms:
            if isinstance(m, nn.modules.batchnorm._BatchNorm): m.track_running_stats = False
            else: m.momentum = 0.
        yield
