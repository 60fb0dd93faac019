"How long a comparison will take, from a few batches."
import time
from collections.abc import Callable
from math import ceil

from optimcb._compat.boundary import entry

__all__ = ['estimate_seconds']


@entry
def estimate_seconds(
    make_learner:Callable, # As in `compare`
    opt_func:Callable, # One of the optimizers
    n_epoch:int=1, # Number of epochs of a run
    n_runs:int=1, # Number of runs: optimizers times seeds
    n_batches:int=4 # Number of batches to time, for training and for validation
) -> float:
    """Estimate the seconds that `compare` will take, by training a new Learner on a few batches.

    The first batch isn't counted if there are more, because it includes what is done once. The global random
    state is restored afterwards."""
    from fastai.callback.schedule import no_random
    with no_random():
        learn = make_learner(opt_func)
        times = _time_batches(n_batches)
        with learn.no_bar(), learn.no_logging(), learn.added_cbs(times): learn.fit(1)
        epoch = sum(_mean(times.seconds[k])*ceil(times.sizes[k]) for k in times.seconds)
    return epoch * n_epoch * n_runs


def _mean(seconds):
    counted = seconds[1:] or seconds
    return sum(counted)/len(counted) if counted else 0.


def _time_batches(n_batches):
    "Return a callback that ends training and validation after some batches, and keeps their seconds"
    from fastai.callback.core import Callback, CancelTrainException, CancelValidException

    class TimeBatches(Callback):
        order = 60 # after the Recorder
        def __init__(self): self.seconds, self.sizes = {True: [], False: []}, {True: 0, False: 0}

        def before_train(self): self.start = time.perf_counter()
        before_validate = before_train

        def after_batch(self):
            now, seconds = time.perf_counter(), self.seconds[self.training]
            seconds.append(now - self.start) # with the time that its data took to load
            self.start, self.sizes[self.training] = now, len(self.dl)
            if len(seconds) < n_batches: return
            raise CancelTrainException if self.training else CancelValidException
    return TimeBatches()
