"fastai's side: a callback that watches the optimizer of a `Learner`. The only module that imports fastai at once."
from fastai.callback.core import Callback

from optimcb.optimizer import Optimizer
from optimcb.taps import OptStats

__all__ = ['OptStatsCallback']


class OptStatsCallback(Callback):
    "Watches the optimizer while training: `learn.opt_stats` is an `OptStats`, for `learn.opt_stats.plot()`. A later `fit` begins anew."
    def __init__(self,
        every:int=1 # Record every so many steps
    ): self.every, self.stats = every, None

    def before_fit(self):
        "Put the taps in. Raises `TypeError` if the optimizer is not one of ours."
        self.after_fit() # of a fit that was broken off
        self.run = not hasattr(self.learn, 'lr_finder') and not hasattr(self, 'gather_preds')
        if not self.run: return
        if not isinstance(self.opt, Optimizer):
            raise TypeError(f"OptStatsCallback watches an optimcb Optimizer, but this Learner has {type(self.opt).__name__}. Pass `opt_func=optimcb.Adam`.")
        self.stats = self.learn.opt_stats = OptStats(self.opt, self.model, self.every)

    def after_fit(self):
        "Take the taps out."
        if self.stats is not None: self.stats.stop()
        self.stats = None
