"""Taps: steppers that record a number for each parameter and change nothing.

They are computed in the kernel, with everything else, and the numbers stay on the device. `Record` keeps
them over time without synchronizing; `OptStats` inserts the usual taps into an optimizer.
"""
import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from optimcb._compat.boundary import entry
from optimcb._compat.dtensors import gather_numbers
from optimcb.composition.results import once
from optimcb.composition.signatures import parameters
from optimcb.composition.stepper import Stepper
from optimcb.composition.traits import Traits, has_traits
from optimcb.steppers.norms import at_least_float32

__all__ = ['OptStats', 'Record', 'cosine', 'histogram', 'norm', 'tap']


# Measures. A name is `p`, `grad`, a state, or a value of the step such as `update`

class tap:
    """Record the results of `measures` as unsaved state: `tap(size=lambda p, update: update.norm())`.

    Raises `ValueError` without measures, and at the first step `TypeError` for a result that isn't a single
    number.
    """
    @entry
    def __init__(self,
        **measures:Callable # By name, functions like steppers that return a number or a list of them
    ):
        if not measures:
            raise ValueError("a tap needs something to measure, as in `tap(grad_norm=norm('grad'))`.")
        self.measures, self.taken = measures, {k: Stepper(f).names for k, f in measures.items()}
        self.traits, self.__name__ = Traits(taps=tuple(measures)), f"tap({', '.join(measures)})"
        named = {p.name: p.replace(kind=p.KEYWORD_ONLY) for f in measures.values() for p in parameters(f)[0]}
        self.__signature__ = inspect.Signature([P, *named.values()])

    def __call__(self, p, **values):
        def taken(k): return {n: values[n] for n in self.taken[k] if n in values}
        return _flat({k: f(p, **taken(k)) for k, f in self.measures.items()})

    def __reduce__(self): return partial(tap, **self.measures), ()
    def __repr__(self): return self.__name__


P = inspect.Parameter('p', inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _flat(found) -> dict:
    "Return one number for each name; the items of a list get numbered names"
    return dict(pair for k, v in found.items() for pair in _numbered(k, v))


def _numbered(k, v):
    for name, x in ((f'{k}.{i}', x) for i, x in enumerate(v)) if isinstance(v, (list, tuple)) else [(k, v)]:
        if getattr(x, 'ndim', 0):
            raise TypeError(f"tap `{k}` measures a tensor of shape {tuple(x.shape)}, not a number. "
                            "Reduce it: `.mean()`, …")
        yield name, x


def _tensor(p, name, values):
    if name == 'p': return at_least_float32(p.data)
    if name == 'grad': return at_least_float32(p.grad.data)
    return at_least_float32(values[name])


class _Measure:
    "A measure that applies `f` to the tensors called `names`, with these names in its signature"
    @entry
    def __init__(self, f, *names):
        self.f, self.names = f, names
        needed = [n for n in dict.fromkeys(names) if n not in ('p', 'grad')]
        taken = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in needed]
        self.__signature__ = inspect.Signature([P, *taken])

    def __call__(self, p, **values): return self.f(*(_tensor(p, n, values) for n in self.names))


def _norm(x): return torch.linalg.vector_norm(x)
def _cosine(x, y): return (x*y).sum() / (_norm(x)*_norm(y))


def _shares(x, edges):
    below = [0., *((x.abs() < e).to(x.dtype).mean() for e in edges), 1.]
    return [b - a for a, b in zip(below, below[1:])]


def norm(
    name:str # What to measure: 'p', 'grad', a state, or a value of the step
) -> Callable:
    "Measure the L2 norm, for `tap`."
    return _Measure(_norm, name)


def cosine(
    a:str, # What to measure: 'p', 'grad', a state, or a value of the step
    b:str # The other tensor, named in the same way
) -> Callable:
    "Measure the cosine of the angle between two tensors, for `tap`; NaN if one of them is zero."
    return _Measure(_cosine, a, b)


def histogram(
    name:str, # What to measure: 'p', 'grad', a state, or a value of the step
    low:float=-10., # Power of ten at which the first bin begins
    high:float=2., # Power of ten at which the last bin ends
    bins:int=12 # Number of bins
) -> Callable:
    """Measure the share of elements whose magnitude is in each bin of a logarithmic scale, for `tap`.

    The first bin includes all smaller magnitudes, the last bin all larger ones."""
    return _Measure(partial(_shares, edges=[10.**e for e in np.linspace(low, high, bins + 1)[1:-1]]), name)


# Over time

def _itself(opt): return opt if hasattr(opt, 'cbs') else getattr(opt, 'optimizer', opt) # accelerate wraps it


EVERY = "`every` must be 1 or more steps, but is {}."


class Record:
    """Record the numbers of an optimizer's taps in each step.

    `record['grad_norm']` is an array of shape (steps, parameters), with NaN where a parameter had no
    gradient. The device is not synchronized until the record is read.
    Raises `ValueError` if the optimizer has no taps.
    """
    @entry
    def __init__(self,
        opt, # Optimizer with taps among its steppers
        model:torch.nn.Module|None=None, # Model to take parameter names from
        every:int=1 # Number of steps between records
    ):
        if every < 1: raise ValueError(EVERY.format(every))
        opt = _itself(opt)
        if not any(s.taps for s in opt.composition.steppers):
            raise ValueError("no stepper of this optimizer is a tap. "
                             "Put one in: `opt.insert(tap(grad_norm=norm('grad')), before=0)`.")
        known = {} if model is None else {id(p): k for k, p in model.named_parameters()}
        given = {id(p): k for g in opt.param_groups for p, k in zip(g['params'], g.get('param_names', ()))}
        self.params = [p for g in opt.param_groups for p in g['params']]
        self.param_names = [known.get(id(p)) or given.get(id(p)) or str(i) for i, p in enumerate(self.params)]
        self.every, self.steps, self.rows, self.hypers = every, 0, [], []
        self.hook = opt.register_step_post_hook(self._note)

    @torch.no_grad()
    def _note(self, opt, *args):
        self.steps += 1
        if (self.steps - 1) % self.every: return
        tapped = [k for s in opt.composition.steppers for k in s.taps]
        inside = opt.__dict__.get('_in_backward') # gradients have been freed by now
        def stepped(p):
            has_grad = getattr(p, 'grad', None) is not None
            return has_grad or inside is not None and id(p) in inside.stepped
        states = opt.__dict__['state'] # `opt.state` would wait for a GPU, if a GradScaler may skip the step
        found = [states[p] if stepped(p) and p in states else {} for p in self.params]
        kept = dict.fromkeys(k for p in self.params for k in states.get(p, ()))
        names = [k for k in kept if k.partition('.')[0] in tapped]
        self.rows.append({k: gather_numbers([state.get(k) for state in found]) for k in names})
        self.hypers.append([{k: _as_it_is(v) for k, v in h.items()} for h in opt.hypers])

    def stop(self):
        "Stop recording."
        if self.hook: self.hook.remove()
        self.hook = None

    @property
    def names(self) -> list[str]:
        "The names of the recorded numbers."
        return list(dict.fromkeys(k for row in self.rows for k in row))

    def __getitem__(self, name) -> np.ndarray:
        if name not in self.names:
            known = ', '.join(self.names) or 'none, for there was no step yet'
            raise KeyError(f"there is no record of `{name}`. There are {known}.")
        return self._column(name)

    def _column(self, name):
        none = torch.full((len(self.params),), torch.nan)
        return torch.stack([row.get(name, none).cpu() for row in self.rows]).numpy()

    def __len__(self): return len(self.rows)
    def __getstate__(self): return {**self.__dict__, 'hook': None, 'params': [None for _ in self.params]}

    def __repr__(self):
        recorded = ', '.join(self.names) or 'nothing yet'
        return f"{type(self).__name__} of {recorded}: {len(self)} steps, {len(self.params)} parameters"

    def frame(self,
        name:str # One of `names`
    ):
        "Return a pandas table of the numbers called `name`: a row per step, a column per parameter."
        import pandas as pd
        steps = pd.Index(np.arange(len(self))*self.every + 1, name='step')
        return pd.DataFrame(self[name], index=steps, columns=self.param_names)

    def plot(self,
        *names:str, # Names of recorded numbers; default: all
        log:bool=True, # Logarithmic values?
        axs=None # Axes to draw on, one a name; default: a new figure's
    ):
        "Plot recorded numbers over time, for each parameter. Returns the axes."
        from optimcb.plots import plot_layers
        drawn = {k: self[k] for k in names or self.names}
        return plot_layers(drawn, self.param_names, every=self.every, log=log, axs=axs)

    def plot_sched(self,
        *names:str, # Hyper-parameters; default: all numeric ones
        axs=None # Axes to draw on, one a name; default: a new figure's
    ):
        """Plot the hyper-parameters over time, a line for each group.

        Returns the axes. Raises `KeyError`, or `ValueError` before the first step."""
        from optimcb.plots import plot_sched
        if not self.hypers: raise ValueError("there was no step yet, so there is nothing to draw.")
        known = self.hypers[0][0]
        for k in names:
            if k not in known:
                raise KeyError(f"there is no hyper-parameter `{k}`. There are {', '.join(known)}.")
        names = names or [k for k, v in known.items() if _is_number(v)]
        return plot_sched({k: [[float(h[k]) for h in step] for step in self.hypers] for k in names}, axs=axs)


def _is_number(v) -> bool:
    if isinstance(v, Tensor): return v.numel() == 1
    return np.isscalar(v) and not isinstance(v, (str, bool))


def _as_it_is(v):
    "Return the current value of a hyper-parameter: schedulers write into tensors"
    return v.clone() if isinstance(v, Tensor) else v


@has_traits(taps=('p_start',))
def keep_start(p):
    "Keep the parameter as `p_start` until the end of the step."
    return once(p_start=p.data.clone())


def _moved(p, p_start): return _norm(at_least_float32(p.data) - at_least_float32(p_start))


# The recorded numbers; for a ratio, what the norm of the step is divided by
RATIOS = dict(grad_norm=None, update_ratio='weight_norm', effective_lr='grad_norm')


class OptStats(Record):
    """Record gradients and steps of each parameter: `grad_norm`, `update_ratio` and `effective_lr`.

    `update_ratio` is the norm of the step divided by that of the weights, `effective_lr` divided by that of
    the gradient. Inserts taps into the optimizer, first and last; `stop` removes them. They are computed in
    each step, whatever `every` is.
    """
    @entry
    def __init__(self,
        opt, # Optimizer to watch
        model:torch.nn.Module|None=None, # Model to take parameter names from
        every:int=1 # Number of steps between records
    ):
        if every < 1: raise ValueError(EVERY.format(every))
        opt = _itself(opt)
        if any(f is keep_start for f in opt.cbs):
            raise ValueError("this optimizer has an OptStats already. Call its `stop()` first.")
        first = keep_start, tap(grad_norm=norm('grad'))
        last = tap(update_norm=_moved, weight_norm=norm('p'))
        self.opt, self.taps = opt, (*first, last)
        opt.edit(lambda cbs: [*first, *cbs, last])
        super().__init__(opt, model, every)

    def stop(self):
        "Stop recording, and remove the taps from the optimizer."
        super().stop()
        def is_own(f): return any(f is t for t in self.taps)
        if self.opt is not None: self.opt.edit(lambda cbs: [f for f in cbs if not is_own(f)])
        self.opt = None

    @property
    def names(self) -> list[str]:
        "The names of the recorded numbers, those of other taps included."
        if not self.rows: return []
        own = 'grad_norm', 'update_norm', 'weight_norm'
        return [*RATIOS, *(k for k in super().names if k not in own)]

    def _column(self, name):
        over = RATIOS.get(name)
        if not over: return super()._column(name)
        with np.errstate(divide='ignore', invalid='ignore'):
            return super()._column('update_norm') / super()._column(over)

    def __getstate__(self): return {**super().__getstate__(), 'opt': None, 'taps': ()}
