"fastai's side: a callback that watches the optimizer of a `Learner`. The only module that imports fastai at once."
from fastai.callback.core import Callback

from optimcb.optimizer import Optimizer
from optimcb.taps import OptStats

__all__ = ['OptStatsCallback']


class OptStatsCallback(Callback):
    """Watches the optimizer while a `Learner` trains: `learn.opt_stats.plot()`, `learn.opt_stats['grad_norm']`.

    What was recorded in the last fit is in `stats`, an `OptStats`. `lr_find` is not recorded.
    """
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
        self.stats = OptStats(self.opt, self.model, self.every)

    def after_fit(self):
        "Take the taps out."
        if self.stats is not None: self.stats.stop()

    def _recorded(self) -> OptStats:
        if self.stats is None: raise ValueError("nothing was recorded yet. Fit the Learner first.")
        return self.stats

    def __getitem__(self, name): return self._recorded()[name]

    def plot(self,
        *names:str, # What to draw; default: all that was recorded
        **kwargs # Others of `Record.plot`
    ):
        "`Record.plot` of the last fit."
        return self._recorded().plot(*names, **kwargs)

    def plot_sched(self,
        *names:str, # Hyper-parameters; default: all that are numbers
        **kwargs # Others of `Record.plot_sched`
    ):
        "`Record.plot_sched` of the last fit."
        return self._recorded().plot_sched(*names, **kwargs)
