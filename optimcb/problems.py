"Functions of two variables on which optimizers can be watched, and the path that an optimizer takes on them."
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from optimcb._compat.boundary import entry
from optimcb.hypers.torch_names import suggest

__all__ = ['PROBLEMS', 'Problem', 'as_problem', 'beale', 'check_complete', 'path', 'ravine', 'rosenbrock',
           'saddle']


class Problem(NamedTuple):
    "A function of two variables to minimize, with a starting point and the region to plot."
    name:str
    f:Callable # Elementwise function of two tensors, x and y
    start:tuple
    minimum:tuple|None=None # The only minimum; None if there are none or several
    xlim:tuple=(-2, 2)
    ylim:tuple=(-2, 2)


# A curved valley: easy to find, hard to follow (Rosenbrock 1960)
rosenbrock = Problem(
    'rosenbrock', lambda x, y: (1-x)**2 + 100*(y-x**2)**2,
    (-1.2, 1.), (1., 1.), (-2, 2), (-1, 3))

# Flat around its minimum, and steep at the corners (Beale 1958; start of Moré et al. 1981)
beale = Problem(
    'beale', lambda x, y: (1.5-x+x*y)**2 + (2.25-x+x*y**2)**2 + (2.625-x+x*y**3)**2,
    (1., 1.), (3., 0.5), (-0.5, 4.5), (-1, 1.5))

# A quadratic with 20 times the curvature in one direction, where momentum helps
# (Polyak 1964; function and start of Saitoh 2016)
ravine = Problem('ravine', lambda x, y: x**2/20 + y**2, (-7., 2.), (0., 0.), (-8, 4), (-3, 3))

# x² - y² at the origin, where optimizers get stuck (Dauphin et al. 2014).
# y⁴/8 makes two minima, at y = ±2. It starts a little off the ridge
saddle = Problem('saddle', lambda x, y: x**2 - y**2 + y**4/8, (-1.5, 0.01), None, (-2, 2), (-3, 3))

PROBLEMS = {p.name: p for p in (rosenbrock, beale, ravine, saddle)}


def as_problem(
    problem:Problem|str # A problem, or its name in `PROBLEMS`
) -> Problem:
    """Return a problem, looked up by name if necessary.

    Raises `ValueError` for an unknown name, `TypeError` for anything but a name or a problem."""
    if isinstance(problem, Problem): return problem
    if not isinstance(problem, str):
        raise TypeError("a problem must be a `Problem` or a name, "
                        f"but is {problem!r:.80} ({type(problem).__name__}).")
    if problem not in PROBLEMS:
        raise ValueError(f"there is no problem '{problem}'.{suggest(problem, PROBLEMS)} "
                         f"There are {', '.join(PROBLEMS)}.")
    return PROBLEMS[problem]


@entry
def path(
    opt_func:Callable, # Creates an optimizer, of any library, as `opt_func([p], **hypers)`
    problem:Problem|str, # A problem, or its name in `PROBLEMS`
    steps:int=100, # Number of steps
    start:tuple|None=None, # Starting point (x, y); default: the problem's
    **hypers # Hyper-parameters for `opt_func`, such as `lr`
) -> np.ndarray:
    """Run an optimizer on a problem; return the points as an array of shape (steps+1, 2), the start first.

    The parameter is one float64 tensor of two numbers. After the first point that isn't finite, the path is
    NaN.
    """
    problem = as_problem(problem)
    start = problem.start if start is None else start
    if np.shape(start) != (2,) or not np.isfinite(start).all():
        raise ValueError(f"`start` must be two finite numbers, x and y, but is {start!r:.80}.")
    p = torch.tensor([float(o) for o in start], dtype=torch.float64, requires_grad=True)
    opt = opt_func([p], **hypers)
    res = np.full((steps+1, 2), np.nan)
    res[0] = start
    for i in range(steps):
        p.grad, = torch.autograd.grad(problem.f(*p), p)
        opt.step()
        if not p.isfinite().all(): break
        res[i+1] = p.detach()
    return res


def check_complete(
    name:str, # Name of the optimizer
    opt_func:Callable # Makes an optimizer
):
    "Raise `TypeError` if an `opt_func` needs a learning rate to make an optimizer."
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # its path says it again
        try: opt_func([p])
        except TypeError as e:
            works = 'lr' in str(e) and _works_with_lr(opt_func, p)
            if not works: raise
            made = getattr(opt_func, '__name__', '…')
            raise TypeError(f"'{name}' makes no optimizer without a learning rate. "
                            f"Pass `partial({made}, lr=0.1)`, say.") from None


def _works_with_lr(opt_func, p) -> bool:
    try: return bool(opt_func([p], lr=0.1))
    except Exception: return False
