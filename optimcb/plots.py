"Pictures, in the colours of matplotlib's current style: paths of optimizers, curves of losses, schedules."
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb.composition.stepper import label
from optimcb.problems import Problem, as_problem, check_complete, path

__all__ = ['animate_paths', 'plot_curves', 'plot_layers', 'plot_paths', 'plot_sched']


@entry
def plot_paths(
    opt_funcs:dict|list, # Names and what makes optimizers, with `lr` in it; or a list, named by its items
    problem:Problem|str='rosenbrock', # Where to go, or its name in `PROBLEMS`
    steps:int=100, # How many steps
    start:tuple|None=None, # Where from, x and y; default: the problem's start
    ax=None, # Axes to draw on; default: a new figure's
    figsize:tuple=(7, 4) # Size of a new figure
):
    """Plot the path of each optimizer on a problem's contours, with the last value in the legend.

    Returns the axes."""
    return _draw(opt_funcs, problem, steps, start, ax, figsize)[0]


@entry
def animate_paths(
    opt_funcs:dict|list, # Names and what makes optimizers, with `lr` in it; or a list, named by its items
    problem:Problem|str='rosenbrock', # Where to go, or its name in `PROBLEMS`
    steps:int=100, # How many steps
    every:int|None=None, # Steps per frame; default: as few as give at most 50 frames
    fps:float=10, # Frames per second
    start:tuple|None=None, # Where from, x and y; default: the problem's start
    figsize:tuple=(7, 4) # Size of the figure
):
    """Animate `plot_paths`: return a `FuncAnimation` of matplotlib, which notebooks display.

    The last frame shows the whole path. To save it, call `.save('x.gif', writer='pillow')`."""
    plt = _pyplot()
    from matplotlib.animation import FuncAnimation
    Animation = type('Animation', (FuncAnimation,), dict(_repr_html_=FuncAnimation.to_jshtml))
    if every is None: every = max(1, -(-steps//49))
    if every < 1: raise ValueError(f"`every` must be 1 or more steps, but is {every}.")
    problem = as_problem(problem)
    ax, paths, lines = _draw(opt_funcs, problem, steps, start, None, figsize)

    def show(i):
        for xy, line in zip(paths, lines): line.set(data=xy[:i+1].T, markevery=[min(i, _finite(xy)-1)])
        ax.set_title(f'{problem.name}, step {i}')
        return lines

    ax.figure.draw_without_rendering()
    ax.figure.set_layout_engine('none') # keep the layout
    plt.close(ax.figure) # or a notebook also shows a still image
    ax.figure.set_dpi(80) # a low resolution, as animations are large; after `close`, which changes it
    return Animation(ax.figure, show, frames=[*range(0, steps, every), steps], interval=1000/fps)


@entry
def plot_curves(
    curves:dict, # Names and values: of shape (steps,) or (seeds, steps), or a list of curves of any lengths
    ax=None, # Axes to draw on; default: a new figure's
    smooth:float=0., # Coefficient of past values, from 0 (no smoothing) to 1, for each seed's curve
    log:bool=False, # Use a logarithmic scale?
    xlabel:str='step', # Label of the x axis
    ylabel:str='loss', # Label of the y axis
    figsize:tuple=(7, 4) # Size of a new figure
):
    """Plot the mean over seeds with a band of one sample standard deviation on either side.

    Returns the axes.

    Each mean is over the seeds that have a finite value at that step: NaN, infinity and the steps after the
    end of a curve are left out.
    """
    plt = _pyplot()
    if not 0 <= smooth < 1:
        raise ValueError(f"`smooth` must be at least 0 and less than 1, but is {smooth}. 0 doesn't smooth.")
    curves = {k: _smoothed(_padded(k, v), smooth) for k, v in _filled(curves, 'curves').items()}
    if ax is None: ax = plt.figure(figsize=figsize, layout='constrained').subplots()
    for k, seeds in curves.items():
        there = np.ma.masked_invalid(seeds)
        mean, sd = (o.filled(np.nan) for o in (there.mean(0), there.std(0, ddof=1)))
        line, low = ax.plot(mean, label=k)[0], mean - sd
        if log: low = np.where(low <= 0, np.fmin.reduce(seeds), low) # a logarithmic axis has no zero
        if len(seeds) > 1:
            color = line.get_color()
            ax.fill_between(np.arange(len(mean)), low, mean+sd, color=color, alpha=0.25, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale='log' if log else 'linear')
    ax.legend()
    return ax


@entry
def plot_sched(
    scheds:dict, # By name, a list of values, or a function of the position from 0 to 1, as in fastai
    n:int=100, # Number of positions at which a function is evaluated
    axs=None # Axes to draw on, one per hyper-parameter; default: a new figure's
) -> np.ndarray:
    """Plot the schedule of each hyper-parameter.

    Schedules with one value per parameter group give a line for each group. Returns the axes."""
    values = {k: _values(k, v, n) for k, v in _filled(scheds, 'scheds').items()}
    axs = _axes(len(values), axs, (3.5, 2.5))
    for ax, (k, v) in zip(axs, values.items()):
        ax.plot(np.linspace(0, 1, len(v)), v)
        ax.set(title=k, xlabel='position')
    return axs


@entry
def plot_layers(
    values:dict, # By name, arrays of shape (steps, layers)
    layers:list, # Names of the layers
    every:int=1, # Number of steps between rows
    log:bool=True, # Use a logarithmic scale?
    axs=None # Axes to draw on, one per name; default: a new figure's
) -> np.ndarray:
    """Plot a number for each layer over time: lines for few layers, else an image with a row per layer.

    Returns the axes."""
    values = _filled(values, 'values')
    few = len(layers) <= LINES
    axs = _axes(len(values), axs, (4.2, 2.8))
    for ax, (name, v) in zip(axs, values.items()):
        v = np.where(v > 0, v, np.nan) if log else np.asarray(v, float)
        steps = np.arange(len(v))*every + 1
        if few:
            for column, layer in zip(v.T, layers): ax.plot(steps, column, label=layer, lw=1)
            ax.set_yscale('log' if log else 'linear')
        else:
            norm = 'log' if log and np.isfinite(v).any() else 'linear'
            extent = 1 - every/2, steps[-1] + every/2, len(layers) - 0.5, -0.5
            shown = ax.imshow(v.T, aspect='auto', interpolation='none', norm=norm, extent=extent)
            ax.figure.colorbar(shown, ax=ax)
            _name_rows(ax, layers)
        ax.set(title=name, xlabel='step')
    if few: axs[-1].legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False, fontsize='small')
    return axs


LINES = 8 # most layers that are drawn as lines
ROWS = 24 # most layer names beside an image


def _name_rows(ax, layers):
    "Label as many rows as fit, on the leftmost of several images with the same rows"
    place = ax.get_subplotspec()
    named = range(0, len(layers), -(-len(layers)//ROWS))
    leftmost = place is None or place.is_first_col()
    ax.set_yticks(named, [layers[i] if leftmost else '' for i in named], fontsize=5)


def _axes(n, axs, size) -> np.ndarray:
    "Return `axs`, or new axes for `n` plots"
    if axs is None:
        cols = min(3, n)
        rows = -(-n//cols)
        figure = _pyplot().figure(figsize=(size[0]*cols, size[1]*rows), layout='constrained')
        axs = figure.subplots(rows, cols, squeeze=False).ravel()
        for ax in axs[n:]: ax.remove()
        axs = axs[:n]
    axs = np.ravel(axs)
    if len(axs) != n:
        raise ValueError(f"there are {len(axs)} axes for {n} pictures. Pass one for each, or none.")
    return axs


def _pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as e:
        raise ImportError(f"pictures need matplotlib, which can't be imported ({e}). "
                          "Install it: pip install 'optimcb[nbs]'.") from None
    return plt


def _draw(opt_funcs, problem, steps, start, ax, figsize) -> tuple:
    "Return the axes, the paths, and the line of each path"
    plt, problem, opt_funcs = _pyplot(), as_problem(problem), _named(opt_funcs)
    ink, paper = plt.rcParams['text.color'], plt.rcParams['axes.facecolor']
    for k, o in opt_funcs.items(): check_complete(k, o)
    paths = [path(o, problem, steps, start) for o in opt_funcs.values()]
    legend = dict(fontsize='small')
    if ax is None:
        legend = dict(loc='upper left', bbox_to_anchor=(1, 1), frameon=False) # only new axes have room for it
        ax = plt.figure(figsize=figsize, layout='constrained').subplots()
    _contours(ax, problem, ink)
    lines = []
    for k, xy in zip(opt_funcs, paths):
        text = f'{k}: {_final(problem, xy)}'
        lines.append(ax.plot(*xy.T, 'o-', ms=7, mec=paper, markevery=[_finite(xy)-1], label=text)[0])
    ax.plot(*paths[0][0], 'o', ms=7, mfc=paper, mec=ink, label='start', zorder=3)
    if problem.minimum:
        ax.plot(*problem.minimum, '*', ms=17, mfc=ink, mec='none', label='minimum', zorder=1.9)
    ax.set(title=problem.name, xlabel='x', ylabel='y', xlim=problem.xlim, ylim=problem.ylim)
    ax.legend(**legend)
    return ax, paths, lines


def _contours(ax, problem, ink):
    "Draw contours with a shade that is denser higher up; of the logarithm, if heights span decades"
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    x, y = (torch.linspace(*lim, 200, dtype=torch.float64) for lim in (problem.xlim, problem.ylim))
    z = np.ma.masked_invalid(problem.f(*torch.meshgrid(x, y, indexing='xy')).numpy())
    z = z - z.min()
    if not z.max() > 0: return
    low = np.quantile(z.compressed(), 0.01)
    if z.max() > 1000*low > 0: z = np.ma.log(np.ma.maximum(z, low))
    levels = np.linspace(z.min(), z.max(), 16)
    shade = LinearSegmentedColormap.from_list('', [to_rgba(ink, 0), to_rgba(ink, 0.25)])
    ax.contourf(x, y, z, levels, cmap=shade)
    ax.contour(x, y, z, levels[1:-1], colors=[ink], alpha=0.2, linewidths=0.8, linestyles='solid')


def _finite(xy): return int(np.isfinite(xy).all(1).sum())


def _final(problem, xy):
    if not np.isfinite(xy[-1]).all(): return 'diverged'
    return f'{problem.f(*torch.tensor(xy[-1])).item():.2g}'


def _filled(d, name):
    if not isinstance(d, dict):
        shown = _name(d) if callable(d) else repr(d)
        raise TypeError(f"`{name}` must be a dict of names and what to draw, but is {shown:.80} "
                        f"({type(d).__name__}).")
    if not d:
        raise ValueError(f"`{name}` is empty: there is nothing to draw. "
                         "Pass a name and what to draw, at least.")
    return d


def _named(opt_funcs) -> dict:
    "Return `opt_funcs` as a dict"
    if isinstance(opt_funcs, (list, tuple)):
        names = [_name(o) for o in opt_funcs]
        same = {k for k in names if names.count(k) > 1}
        if same:
            raise ValueError(f"`opt_funcs` has more than one {' and '.join(sorted(same))}. "
                             "Pass a dict, with a name for each.")
        opt_funcs = dict(zip(names, opt_funcs))
    for k, o in _filled(opt_funcs, 'opt_funcs').items():
        if not callable(o):
            raise TypeError(f"'{k}' in `opt_funcs` must be called to make an optimizer, but is {o!r:.80}. "
                            "Pass e.g. partial(SGD, lr=0.1).")
    return opt_funcs


def _name(o):
    "Return a readable name: `SGD(lr=0.1)`, or for an `Optimizer` one with its steppers"
    if hasattr(o, '__name__') or not isinstance(o, partial): return getattr(o, '__name__', type(o).__name__)
    steppers = map(label, filter(None, L(o.keywords.get('cbs'))))
    others = [f'{k}={v}' for k, v in o.keywords.items() if k != 'cbs' and not isinstance(v, (list, Callable))]
    fixed = ', '.join([*steppers, *others])
    return f'{_name(o.func)}({fixed})' if fixed else _name(o.func)


def _padded(name, curve) -> np.ndarray:
    "Return a curve, or a list of curves, as an array of shape (seeds, steps), padded with NaN"
    rows = list(curve) if np.iterable(curve) else []
    rows = [np.asarray(r, dtype=float) for r in ([rows] if rows and np.ndim(rows[0]) == 0 else rows)]
    if not rows or any(r.ndim != 1 or not r.size for r in rows):
        raise ValueError(f"'{name}' in `curves` must have the shape (steps,) or (seeds, steps), "
                         f"but is {curve!r:.80}. Reshape it.")
    res = np.full((len(rows), max(map(len, rows))), np.nan)
    for o, r in zip(res, rows): o[:len(r)] = np.where(np.isfinite(r), r, np.nan)
    return res


def _smoothed(seeds, beta) -> np.ndarray:
    "Return each seed's exponential moving average, bias-corrected as in Adam"
    res, total, weight = seeds.copy(), 0., 0.
    for i, x in enumerate(seeds.T):
        there = ~np.isnan(x)
        total, weight = beta*total + np.where(there, x, 0), beta*weight + there
        res[there, i] = total[there] / weight[there]
    return res


def _values(name, sched, n) -> np.ndarray:
    "Return the values of a schedule, of shape (positions,) or (positions, groups)"
    if not callable(sched) and not np.iterable(sched):
        raise TypeError(f"'{name}' in `scheds` must be a function or a list of values, but is {sched!r:.80}.")
    values = map(sched, np.linspace(0, 1, n).tolist()) if callable(sched) else sched
    res = np.array([np.asarray(o, dtype=float) for o in values])
    if not res.size or res.ndim > 2:
        raise ValueError(f"'{name}' in `scheds` has shape {res.shape}, "
                         "but must be a number, or one a group, at each position.")
    return res
