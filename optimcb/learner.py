"fastai's side: a callback that watches the optimizer of a `Learner`. The only module that imports fastai at once."
from fastai.callback.core import Callback

from optimcb.optimizer import Optimizer
from optimcb.taps import OptStats

__all__ = ['OptStatsCallback']


class OptStatsCallback(Callback):
    """Watches the optimizer while a `Learner` trains: `learn.opt_stats` is then an `OptStats`, for `learn.opt_stats.plot()`.

    A later fit makes a new one. `lr_find` is not watched.
    """
    name = 'watch_opt' # `learn.opt_stats` is what it leaves, also where it is a callback of one fit only

    def __init__(self,
        every:int=1 # Record every so many steps
    ): self.every, self.stats = every, None

    def before_train(self):
        "Put the taps in. Raises `TypeError` if the optimizer is not one of ours."
        if self.stats is not None and self.stats.opt is self.opt or hasattr(self.learn, 'lr_finder'): return
        if not isinstance(self.opt, Optimizer):
            raise TypeError(f"OptStatsCallback watches an optimcb Optimizer, but this Learner has {type(self.opt).__name__}. Pass `opt_func=optimcb.Adam`.")
        self.stats = self.learn.opt_stats = OptStats(self.opt, self.model, self.every)

    def before_fit(self):
        "End what a fit has left that was broken off."
        self.after_fit()

    def after_fit(self):
        "Take the taps out."
        if self.stats is not None: self.stats.stop()
        self.stats = None
