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
    ): self.every = every

    def before_train(self):
        "Put the taps in. Raises `TypeError` if the optimizer is not one of ours."
        stats = getattr(self.learn, 'opt_stats', None)
        if hasattr(self.learn, 'lr_finder') or stats is not None and stats.opt is self.opt: return
        if not isinstance(self.opt, Optimizer):
            raise TypeError(f"OptStatsCallback watches an optimcb Optimizer, but this Learner has {type(self.opt).__name__}. Pass `opt_func=optimcb.Adam`.")
        self.learn.opt_stats = OptStats(self.opt, self.model, self.every)

    def after_fit(self):
        "Take the taps out, also those of a fit that was broken off."
        stats = getattr(self.learn, 'opt_stats', None)
        if stats is not None: stats.stop()

    before_fit = after_fit
