"""Sharpness-aware minimization (SAM): the gradient is taken where the loss is about the largest nearby, by going up along a first gradient.

Going up is an optimizer of one stepper, so it runs on every engine, with the norm of all parameters, also of shards.
"""
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from optimcb._boundary import entry
from optimcb.hypers.values import NOT_NEGATIVE, check
from optimcb.optimizer import Optimizer, become, runs_steppers
from optimcb.state.eval_weights import refuse_step
from optimcb.steppers import ascend, maximize

__all__ = ['Ascent', 'SAM', 'stats_kept']


class Ascent:
    """Takes the parameters of an optimizer up to where the loss is about the largest nearby, and back to the bits that they were.

    Where an objective is maximized, by the stepper `maximize` or by an option of torch's, it goes down to where that is about the smallest.
    It keeps a copy of the weights, for the next time too. Parameters without a gradient stay. Raises `ValueError` for gradients that are sparse."""
    @entry
    def __init__(self,
        opt, # Optimizer, of any kind, whose parameters they are
        rho:float=0.05, # How far to go, as the norm of all parameters together; groups may have a `sam_rho` of their own
        adaptive:bool=False, # Go further where weights are larger (ASAM)? Then 0.5 is a usual `rho`
        eta:float=0.01 # Added to the size of a weight, if `adaptive`; groups may have a `sam_eta` of their own
    ):
        self.opt, self.adaptive, self.moved, self.climber = opt, bool(adaptive), [], None
        self.hypers = dict(sam_rho=check('sam_rho', rho, NOT_NEGATIVE), sam_eta=check('sam_eta', eta, NOT_NEGATIVE))

    def up(self):
        "Go up by the gradients that are there, after going back from where a step that was skipped has left the parameters."
        self.down()
        climber = self._climber()
        ps = [p for p, *_ in climber.all_params(with_grad=True)]
        if any(p.grad.layout is not torch.strided for p in ps):
            raise ValueError("SAM needs the gradients of whole parameters, but one is sparse. Make the embedding without `sparse=True`.")
        self.moved = ps # before it begins, so that a step that fails can be undone
        try: climber.step()
        except BaseException:
            self.down()
            raise

    def down(self):
        "Go back, if the parameters are up."
        moved, self.moved = self.moved, []
        state = self.climber.state if moved else {}
        with torch.no_grad():
            for p in moved:
                if 'sam_weights' in state.get(p, {}): p.copy_(state[p]['sam_weights'])

    def _climber(self):
        "The optimizer that goes up, with the groups that there are now"
        groups, turns = self.opt.param_groups, self._turns()
        known = {**self.hypers, 'maximize': hasattr(self.opt, 'composition')} if turns else self.hypers # torch's say it
        hypers = [{k: g.get(k, v) for k, v in known.items()} for g in groups]
        climber = self.climber
        if climber is None or len(climber.param_groups) != len(groups) or list(climber.cbs[:-1]) != turns:
            params = [list(zip(g['param_names'], g['params'])) if 'param_names' in g else list(g['params']) for g in groups]
            self.climber = Optimizer([{'params': ps, **h} for ps, h in zip(params, hypers)], [*turns, partial(ascend, adaptive=self.adaptive)])
            if hasattr(self.opt, 'tracked'): self.climber._tracked = self.opt.tracked # it knows which parameters are frozen
        for mine, g, h in zip(self.climber.param_groups, groups, hypers): mine.update(h, params=g['params'])
        wanted = getattr(self.opt, 'engine', 'auto')
        if self.climber.engine != wanted: self.climber.engine = wanted
        return self.climber


    def _turns(self) -> list:
        "The steppers that turn gradients round, as the optimizer has them"
        if hasattr(self.opt, 'composition'): return [s.f for s in self.opt.composition.flips_grad]
        return [maximize] if any(g.get('maximize') for g in self.opt.param_groups) else []


class SAM(Optimizer):
    """`opt`, which steps by the gradients of where the loss is about the largest nearby (Foret et al. 2021, https://arxiv.org/abs/2010.01412, alg. 1).

    Two forward and backward passes make one step. With a closure that clears gradients, evaluates the loss and calls `backward`, `step` calls it
    twice and returns the first loss. Without one: `loss.backward()`, `opt.ascend()`, `opt.zero_grad()`, the second `backward()`, `opt.step()`.
    The gradients that are left are the second ones; the weights are those that are trained but between `ascend` and `step` or `descend`.

    Parameters, hyper-parameters and state are those of `opt`, which is in `.opt`. `sam_rho` and `sam_eta` are hyper-parameters, of groups.
    With a `GradScaler` both passes can be scaled: `scaler.unscale_(opt); opt.ascend(); scaler.update()` after the first, and as always after the second.
    A first gradient that isn't finite leads nowhere; if the scaler skips the step, `opt.descend()` takes the weights back, as the next `ascend` does.
    Raises `TypeError` for an optimizer that is not made of steppers.
    """
    @entry
    def __init__(self,
        opt:Optimizer, # Optimizer to wrap
        rho:float=0.05, # How far to go up, as the norm of all parameters together
        adaptive:bool=False, # Go further where weights are larger (ASAM, https://arxiv.org/abs/2102.11600)? Then 0.5 is a usual `rho`
        eta:float=0.01, # Added to the size of a weight, if `adaptive`
        model:nn.Module|None=None # Its running statistics are left alone in the second pass of a closure, as the authors recommend: see `stats_kept`
    ):
        if isinstance(opt, SAM): raise TypeError("this optimizer is a SAM already. Set its `sam_rho`.")
        if not runs_steppers(opt):
            raise TypeError(f"SAM wraps an Optimizer made of steppers, but {type(opt).__name__} has a step of its own. Put its steppers in an Optimizer.")
        if '_in_backward' in opt.__dict__:
            raise ValueError("this optimizer steps in backward, but SAM needs all gradients first. Call `remove()` of what `step_in_backward` returned.")
        ascent = Ascent(self, rho, adaptive, eta)
        become(self, opt, 'SAM')
        self.model, self.ascent = model, ascent
        self.hyper_names.update(ascent.hypers)
        self.set_hypers(**ascent.hypers)
        self.defaults.update(ascent.hypers)

    @property
    def is_up(self) -> bool:
        "Are the weights now where `ascend` has brought them?"
        return bool(self.ascent.moved)

    @entry
    def ascend(self):
        "Go up along the gradients that are there, to where the next ones are to be taken. Raises `ValueError` for sparse gradients."
        refuse_step(self)
        self.ascent.up()

    @entry
    def descend(self):
        "Go back without a step, if the weights are up; after a step that a `GradScaler` skipped, say."
        self.ascent.down()

    @entry
    def step(self,
        closure:Callable|None=None # Clears gradients, evaluates the model, calls `backward` and returns the loss; called twice
    ):
        "Go back down and step by the gradients that are there; with a closure, all of it. Returns the closure's first loss. Raises `RuntimeError`."
        refuse_step(self)
        loss = None
        if closure is not None: loss = self._twice(closure)
        elif not self.is_up:
            raise RuntimeError("SAM steps by the gradients after `ascend()`: call `opt.ascend()`, and do forward and backward again, before "
                               "`opt.step()`; or pass a closure that does forward and backward. In fastai, use `SAMCallback` of `optimcb.learner` instead.")
        self.descend()
        super().step()
        return loss

    def _twice(self, closure):
        "Both passes of a closure. If one fails, the weights are back where they were"
        self.descend()
        try:
            with torch.enable_grad(): loss = closure()
            self.ascend()
            for g in self.param_groups:
                for p in g['params']: p.grad = None # also for a closure that clears none
            with torch.enable_grad(), stats_kept(self.model) if self.model is not None else nullcontext(): closure()
        except BaseException:
            self.descend()
            raise
        return loss

    @entry
    def eval(self, part=None):
        "`Optimizer.eval`. Raises `RuntimeError` while the weights are up."
        self._refuse_up("averages can't be put in")
        super().eval(part)

    def _state_dict_on(self, device):
        self._refuse_up("a model that is saved now would not be what training goes on from")
        return super()._state_dict_on(device)

    @entry
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, of this optimizer or of the one that it wraps
    ):
        "`Optimizer.load_state_dict`, from where the weights are those that are trained."
        self.descend()
        super().load_state_dict(state_dict)

    def _refuse_up(self, what):
        if self.is_up: raise RuntimeError(f"the weights are where `ascend` has brought them, so {what}. Call `step()` or `descend()` first.")


SAM.step.hooked = True # torch runs the hooks of a step around `Optimizer.step`, which it calls


@contextmanager
def stats_kept(
    model:nn.Module # Model with batch norm and the like
):
    "A `with` block in which forward passes leave running statistics alone: they are to be of the weights that are trained."
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    with ExitStack() as stack:
        for m in norms: stack.callback(m.__dict__.update, {k: m.__dict__[k] for k in ('momentum', 'track_running_stats')})
        for m in norms:
            if isinstance(m, nn.modules.batchnorm._BatchNorm): m.track_running_stats = False
            else: m.momentum = 0.
        yield
