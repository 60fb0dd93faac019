"Pictures of the gallery: paths on functions of two variables, in colours for light and dark pages."
import io
from functools import cache, partial

import matplotlib
import numpy as np
import torch

import optimcb as oc
from optimcb.composition.traits import traits_of
from optimcb.problems import PROBLEMS, path

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

STEPS = 100
INK, PATH = '#808080', '#e8590c'
STYLE = {'text.color': INK, 'axes.labelcolor': INK, 'axes.edgecolor': INK, 'xtick.color': INK,
         'ytick.color': INK, 'axes.facecolor': 'none', 'figure.facecolor': 'none', 'font.size': 8,
         'axes.prop_cycle': plt.cycler(color=[PATH])}
LRS = [3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.] # of which an algorithm has the one that ends lowest

# Parts are shown with gradient descent with momentum, and options that let them act within a few steps
RULE, PARTS_LR, PARTS_STEPS = partial(oc.SGD, mom=0.9), 0.05, 60
RULES = {'schedule_free': partial(oc.SGD), # which has momentum itself
         'stored': partial(oc.Lion)} # which has the state that is stored
OPTIONS = {
    'l2_reg': dict(wd=0.1), 'weight_decay': dict(wd=0.1), 'full_decay': dict(wd=0.01),
    'decay_update': dict(wd=0.1), 'decay_toward': dict(wd=0.1), 'ema_weights': dict(ema_mom=0.9),
    'add_noise': dict(noise=1.), 'rms_lr': dict(lr=0.03), 'grokfast': dict(grok_mom=0.9, lr=0.02)}


def of_algorithm(
    algo:oc.Algorithm # An algorithm
) -> tuple[bytes, str]:
    "Draw the path of an algorithm on Rosenbrock's function. Returns a PNG and what it shows."
    problem = PROBLEMS['rosenbrock']
    finds_it = 'd0' in algo.hypers # it finds its own step size
    lr = min([1.] if finds_it else LRS, key=lambda lr: (_leaves(algo, lr), _end(algo, lr)))
    with plt.rc_context(STYLE):
        fig, ax = _axes()
        oc.plot_paths({algo.__name__: _with(algo, lr)}, problem, STEPS, ax=ax)
        ax.get_legend().remove()
        ax.set_title('')
    start, end = (problem.f(*torch.tensor(o)).item() for o in (problem.start, _path(algo, lr)[-1]))
    why = 'which it is meant for' if finds_it else f'which ends lowest of {len(LRS)} learning rates'
    if not _leaves(algo, lr) and not finds_it: why += ' without leaving the picture'
    return _png(fig), (f"{STEPS} steps of `{algo.__name__}` on Rosenbrock's function, from {start:.3g} to "
                       f'{end:.2g}, with `lr={lr:g}`, {why}.')


def of_part(
    name:str, # Of a part
    cbs:list # Its steppers
) -> tuple[bytes, str]|None:
    "Draw the path of gradient descent with momentum with a part, and without it; None if they are the same."
    problem, rule, options = PROBLEMS['ravine'], RULES.get(name, RULE), OPTIONS.get(name, {})
    given = {'lr': PARTS_LR, **options}
    with_part = partial(rule.func.wrap(cbs), engine='eager', **rule.keywords, **given)
    averages = any(traits_of(f).eval_weights for f in cbs)
    torch.manual_seed(0)
    points = _averages(with_part, problem) if averages else path(with_part, problem, PARTS_STEPS)
    plain = path(rule, problem, PARTS_STEPS, lr=PARTS_LR)
    if np.allclose(points, plain): return None
    with plt.rc_context(STYLE):
        fig, ax = _axes()
        oc.plot_paths({f'without {name}': partial(rule, lr=PARTS_LR)}, problem, PARTS_STEPS, ax=ax)
        line = ax.lines[0]
        line.set(color=INK, alpha=0.8, lw=1, label=f'without {name}')
        label = f'the averages of {name}' if averages else f'with {name}'
        ours, = ax.plot(*points.T, 'o-', color=PATH, lw=1.5, ms=6, markevery=[len(points)-1], label=label)
        below = dict(loc='upper center', bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
        ax.legend(handles=[line, ours], **below)
        ax.set(title='', xlabel='', ylabel='')
    momentum = 'momentum 0.9' if rule.keywords else 'no momentum'
    options = ', '.join(f'`{k}={v:g}`' for k, v in given.items())
    return _png(fig), f'{PARTS_STEPS} steps of `SGD` with {momentum}, {options}, in a long valley.'


def _averages(opt_func, problem) -> np.ndarray:
    "Return the points at which the weights would be evaluated"
    p = torch.tensor(problem.start, dtype=torch.float64, requires_grad=True)
    opt, points = opt_func([p]), [problem.start]
    for _ in range(PARTS_STEPS):
        p.grad, = torch.autograd.grad(problem.f(*p), p)
        opt.step()
        with opt.averaged(): points.append(p.detach().tolist())
    return np.array(points)


def _with(algo, lr):
    "Return an algorithm with a learning rate and without decay, on the engine that needs no compiler"
    return partial(algo, lr=lr, engine='eager', check=False, **({'wd': 0.} if 'wd' in algo.hypers else {}))


@cache
def _path(algo, lr) -> np.ndarray: return path(_with(algo, lr), 'rosenbrock', STEPS)


def _end(algo, lr) -> float:
    "Return the value at the end of a path"
    return PROBLEMS['rosenbrock'].f(*torch.tensor(_path(algo, lr)[-1])).nan_to_num(torch.inf).item()


def _leaves(algo, lr) -> bool:
    "Does a path leave the picture?"
    problem, points = PROBLEMS['rosenbrock'], _path(algo, lr)
    low, high = zip(problem.xlim, problem.ylim)
    return not ((low <= points) & (points <= high)).all()


def _axes():
    fig = plt.figure(figsize=(4.6, 3), layout='constrained')
    return fig, fig.subplots()


def _png(fig) -> bytes:
    out = io.BytesIO()
    fig.savefig(out, dpi=160, transparent=True, metadata={'Software': None})
    plt.close(fig)
    return out.getvalue()
