"The results of `compare`: tables, curves, and what of a difference is noise."
import numpy as np

from optimcb.hypers.torch_names import suggest
from optimcb.plots import plot_curves

__all__ = ['Comparison']


class Comparison:
    """The results of `compare`, displayed as a table.

    - `runs`: a row for each run and epoch, with `opt`, `seed`, `epoch`, `train_loss` (smoothed, as in
      fastai), `valid_loss`, metrics and `seconds`. What `figures` of `compare` returned stands in the last.
    - `losses`: for each optimizer, the training loss of each batch, an array of shape (seeds, steps), with
      NaN after the end of a run that stopped early.
    - `table`: a row for each optimizer: mean and standard deviation (`…_sd`) over seeds of the last epoch's
      figures; the number of runs that `diverged`, by a loss that isn't finite, and are left out of the means;
      the median `seconds` of an epoch; and the final `state_bytes` per parameter element.
    """
    def __init__(self,
        done:list # A dict for each run: `opt`, `seed`, `rows`, `losses`, `diverged`, `state_bytes`
    ):
        import pandas as pd
        per_run = pd.DataFrame(done)
        rows = []
        for o in done:
            rows += [dict(opt=o['opt'], seed=o['seed'], epoch=i, **row) for i, row in enumerate(o['rows'])]
        self.runs = pd.DataFrame(rows, columns=None if rows else ['opt', 'seed', 'epoch', 'seconds'])
        self.figures = [k for k in self.runs if k not in ('opt', 'seed', 'epoch')]
        self._finite = per_run[~per_run.diverged][['opt', 'seed']]
        last = self._last().groupby('opt')
        table = {}
        for k in self.figures:
            if k != 'seconds': table |= {k: last[k].mean(), f'{k}_sd': last[k].std()}
        by_opt = per_run.groupby('opt', sort=False)
        table['seconds'] = self.runs.groupby('opt').seconds.median()
        table['diverged'] = by_opt.diverged.sum()
        table['state_bytes'] = by_opt.state_bytes.mean()
        self.losses = {n: pd.DataFrame(list(o)).to_numpy() for n, o in by_opt.losses}
        self.table = pd.DataFrame(table, list(self.losses))

    def _last(self):
        "The last rows of the runs that didn't diverge"
        return self.runs.groupby(['opt', 'seed']).tail(1).merge(self._finite)

    def plot(self,
        what:str='loss', # `'loss'` for the training loss of each batch, or a column of `runs`
        ax=None, # matplotlib axes; default: new ones
        **kwargs # Further arguments of `plots.plot_curves`: `smooth`, `log`, …
    ):
        "Plot a curve for each optimizer with its spread over seeds. Returns the axes."
        if what == 'loss': return plot_curves(self.losses, ax, **{'ylabel': 'training loss', **kwargs})
        self._check_figure(what, 'to plot', 'loss')
        by_opt = self.runs.groupby('opt', sort=False)
        curves = {n: g.pivot(index='seed', columns='epoch', values=what).to_numpy() for n, g in by_opt}
        return plot_curves(curves, ax, **{'xlabel': 'epoch', 'ylabel': what, **kwargs})

    def epochs_to(self,
        target:float, # The value to reach
        what:str='accuracy', # A column of `runs`
        above:bool=True # Is it reached from below, as an accuracy is? False for losses and perplexities
    ):
        """Count the epochs until a figure reaches a target.

        Returns a table: mean and standard deviation over the seeds that reach it, how many do (`reached`),
        and of how many (`runs`)."""
        import pandas as pd
        self._check_figure(what, 'to reach')
        values = self.runs[what] if above else -self.runs[what]
        first = self.runs[values >= (target if above else -target)].groupby(['opt', 'seed']).epoch.min() + 1
        by_opt = first.groupby('opt')
        table = {'epochs': by_opt.mean(), 'epochs_sd': by_opt.std(), 'reached': by_opt.size()}
        res = pd.DataFrame(table, list(self.losses)).fillna({'reached': 0}).astype({'reached': int})
        return res.assign(runs=[len(o) for o in self.losses.values()])

    def differences(self,
        to:str, # The optimizer that others are compared to
        what:str='valid_loss' # A column of `runs`
    ):
        """Compare each optimizer with `to`, seed by seed, by their last figures.

        A seed gives all optimizers the same weights and batches, so that pairs differ less than runs do.
        Returns a table: mean `difference`, its `std_error`, the number of `seeds` that both have, and `p` of
        Student's t-test for paired samples: how often chance alone would give so large a difference."""
        import pandas as pd
        self._check_figure(what, 'to compare')
        if to not in self.losses:
            raise ValueError(f"there is no optimizer {to!r}.{suggest(to, self.losses)} "
                             f"There are {', '.join(self.losses)}.")
        values = self._last().pivot(index='seed', columns='opt', values=what)
        values = values.reindex(columns=list(self.losses)) # also optimizers of which all runs diverged
        rows = {n: _paired((values[n] - values[to]).dropna().to_numpy()) for n in self.losses if n != to}
        return pd.DataFrame.from_dict(rows, 'index', columns=['difference', 'std_error', 'seeds', 'p'])

    def _check_figure(self, what, purpose, *others):
        if what in self.figures: return
        raise ValueError(f"there is no `{what}` {purpose}. There are {', '.join([*others, *self.figures])}.")

    def _shown(self):
        shown, no_sd = {}, [np.nan]*len(self.table)
        for k in self.figures:
            pairs = zip(self.table[k], self.table.get(f'{k}_sd', no_sd))
            shown[k] = [f'{m:#.4g} ± {s:.1g}'.removesuffix(' ± nan') for m, s in pairs]
        return self.table.assign(**shown)[[*shown, 'diverged', 'state_bytes']]

    def __repr__(self): return self._shown().to_string()
    def _repr_html_(self): return self._shown().to_html()


def _paired(d) -> tuple:
    "Return mean, its standard error, number and p of differences"
    if len(d) < 2: return (d.mean() if len(d) else np.nan, np.nan, len(d), np.nan)
    from scipy.stats import t
    error = d.std(ddof=1)/len(d)**0.5
    p = 2*t.sf(abs(d.mean())/error, len(d)-1) if error else float(not d.any())
    return d.mean(), error, len(d), p
