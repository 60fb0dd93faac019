"""Callbacks of a fastai `Learner`: watch its optimizer, evaluate averages of the weights, take SAM's steps,
let a step zero the gradients.

Importing this module imports fastai."""
from fastai.callback.core import Callback, CancelBackwardException
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.training import GradientAccumulation

from optimcb.composition.errors import not_so
from optimcb.optimizer import Optimizer
from optimcb.state.eval_weights import evaluated, tellers
from optimcb.taps import OptStats
from optimcb.training.sam import SAM, Ascent, stats_kept

__all__ = ['AveragedWeights', 'OptStatsCallback', 'SAMCallback', 'ZeroInStepCallback']


class OptStatsCallback(Callback):
    """Watch the optimizer while a `Learner` trains.

    Each fit stores a new `OptStats` as `learn.opt_stats`: `learn.opt_stats.plot()`. `lr_find` is not watched.
    """
    name = 'watch_opt' # `learn.opt_stats` is the record, which outlives a callback of a single fit

    def __init__(self,
        every:int=1 # Number of steps between records
    ): self.every = every

    def before_train(self):
        "Insert the taps. Raises `TypeError` for an optimizer of another library."
        stats = getattr(self.learn, 'opt_stats', None)
        if hasattr(self.learn, 'lr_finder') or stats is not None and stats.opt is self.opt: return
        _check_ours(self.opt, 'OptStatsCallback watches')
        self.learn.opt_stats = OptStats(self.opt, self.model, self.every)

    def after_fit(self):
        "Remove the taps, also after an interrupted fit."
        stats = getattr(self.learn, 'opt_stats', None)
        if stats is not None: stats.stop()

    before_fit = after_fit


class AveragedWeights(Callback):
    """Evaluate the optimizer's averaged weights instead of the trained ones.

    They come from EMA, SWA, schedule-free algorithms or Lookahead. The model holds them from the end of an
    epoch's training until the next epoch: during validation, when `SaveModelCallback` saves, in `validate`,
    `get_preds` and `predict`, and, if `keep`, after the fit. Meanwhile the trained weights are saved in the
    optimizer's state, and the next fit continues from exactly these. After `freeze` or `unfreeze`, which
    clear the state, and after loading a model without its optimizer, training continues from the model's
    weights. Batch norm statistics still belong to the trained weights: recompute them by
    `torch.optim.swa_utils.update_bn`. Raises `TypeError` or `ValueError` for an optimizer without averages.
    """
    order = 55 # before callbacks that save models, and before the learning rate finder

    def __init__(self,
        part=None, # Stepper that averages the weights, named as in `replace`; default: the last such stepper
        keep:bool=True # Leave the averages in the model after a fit?
    ): self.part, self.keep, self.is_mine = part, keep, False

    def before_train(self):
        "Put the trained weights into the model."
        _check_ours(self.opt, 'AveragedWeights asks')
        if not tellers(self.opt, self.part):
            there = not_so(self.opt.composition.labels)
            raise ValueError(f"AveragedWeights needs an optimizer that keeps averages, but {there}. "
                             "Put `ema_weights` last in `cbs`, say.")
        self.opt.train()

    def after_train(self):
        "Put the averages into the model."
        self.opt.eval(self.part)

    def before_validate(self):
        "Put the averages into the model when validating outside a fit."
        self.is_mine = isinstance(self.opt, Optimizer) and evaluated(self.opt) is None
        if self.is_mine: self.opt.eval(self.part)

    def after_validate(self):
        "Put the trained weights back after validating outside a fit."
        if self.is_mine: self.opt.train()
        self.is_mine = False

    def after_fit(self):
        "Leave the averages in the model if `keep`, else the trained weights."
        if not isinstance(self.opt, Optimizer): return
        if self.keep: self.opt.eval(self.part)
        else: self.opt.train()


class SAMCallback(Callback):
    """Train with sharpness-aware minimization (SAM), with any optimizer.

    Before each step, the batch's gradient is taken again at weights moved up along the gradient. The recorded
    loss, predictions and batch norm statistics are those of the trained weights. Gradient clipping applies to
    the second gradient. `after_pred`, `after_loss` and the events of `backward` occur twice per batch.
    `sam_rho` and `sam_eta` can be scheduled as hyper-parameters. Raises `ValueError` with mixed precision or
    gradient accumulation, and if the optimizer is itself a `SAM`. Source: Foret et al. 2021,
    https://arxiv.org/abs/2010.01412.
    """
    order, run_valid = MixedPrecision.order - 1, False # before gradients are clipped

    def __init__(self,
        rho:float=0.05, # Radius of the ascent step: its norm over all parameters
        adaptive:bool=False, # Scale the ascent by the size of each weight (ASAM)? A usual `rho` is then 0.5
        eta:float=0.01 # Added to the magnitude of a weight, if `adaptive`
    ):
        self.options, self.ascent = dict(rho=rho, adaptive=adaptive, eta=eta), None
        Ascent(None, **self.options) # raises for invalid options

    def before_fit(self):
        "Check that no other callback conflicts with SAM. Raises `ValueError`."
        if isinstance(self.opt, SAM):
            raise ValueError("SAMCallback goes up before each step, and so does this optimizer, a `SAM`. "
                             "Make the Learner with the optimizer that it wraps.")
        for cb in self.learn.cbs:
            if isinstance(cb, (MixedPrecision, NonNativeMixedPrecision, GradientAccumulation)):
                raise ValueError("SAMCallback does forward and backward again for each batch, which "
                                 f"{type(cb).__name__} doesn't know of. Leave one out, or write the loop "
                                 "with `optimcb.SAM`, which says how it goes with a `GradScaler`.")
        self.ascent = Ascent(self.opt, **self.options)

    def before_step(self):
        "Take the batch's gradients again after the ascent step."
        learn, first = self.learn, {k: getattr(self.learn, k) for k in ('pred', 'loss', 'loss_grad')}
        self.ascent.up()
        try:
            self.opt.zero_grad()
            with stats_kept(self.model):
                learn.pred = self.model(*self.xb)
                learn('after_pred')
                learn.loss_grad = self.loss_func(learn.pred, *self.yb)
                learn.loss = learn.loss_grad.clone()
                learn('after_loss')
                learn._with_events(learn._backward, 'backward', CancelBackwardException)
        finally:
            self.ascent.down()
            for k, v in first.items(): setattr(learn, k, v)

    def after_fit(self):
        "Drop the copy of the weights."
        self.ascent = None


class ZeroInStepCallback(Callback):
    """Let each step of a fit zero the gradients that it has read: see `Optimizer.zero_in_step`.

    A Learner calls `opt.zero_grad()` after each step, which then finds nothing left to do. Weights, losses
    and state stay the same to the bit. Taps see the gradients, as part of the step, and so does whatever
    comes before it, such as `GradientClip`; `after_step` sees zeros in their place. Batches that
    `GradientAccumulation` adds up, and others that are cancelled before their step, keep theirs. After the
    fit, the optimizer is as it was. Raises `TypeError` if it is not one of ours.
    """
    def __init__(self): self.before = None # the optimizer, and whether its steps zeroed before

    def before_fit(self):
        "Switch it on."
        _check_ours(self.opt, 'ZeroInStepCallback sets an option of')
        self.after_fit() # a fit may have been broken off
        self.before, self.opt.zero_in_step = (self.opt, self.opt.zero_in_step), True

    def after_fit(self):
        "Let the optimizer be as before."
        if self.before is None: return
        opt, zeroed = self.before
        self.before, opt.zero_in_step = None, zeroed


def _check_ours(opt, doing):
    if not isinstance(opt, Optimizer):
        raise TypeError(f"{doing} an optimcb Optimizer, but this Learner has {type(opt).__name__}. "
                        "Pass `opt_func=optimcb.Adam`, say.")
