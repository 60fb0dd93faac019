"""The weights that a model is evaluated with, where they are not those that are trained: put in, and taken out again.

Some stepper tells them by `weights_by`. While they are in the model, the weights that are trained are state: they are saved with it.
"""
import sys
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from optimcb.composition.roles import kind_of
from optimcb.composition.stepper import Stepper
from optimcb.editing.edit import place
from optimcb.steppers.averages import FREE
from optimcb.warn import CompositionWarning, calling_frame, warn

__all__ = ['EVALUATED', 'TRAINED', 'averaged', 'evaluated', 'forget', 'put_in', 'refuse_step', 'take_out',
           'tellers', 'warn_unaveraged']


EVALUATED, TRAINED = 'evaluated', 'trained_weights' # key of each group: who told the weights that are in the model now; state: those that are trained


def evaluated(
    opt # Optimizer
) -> str|None:
    "Who told the weights that are in the model now, or None if they are those that are trained."
    for g in opt.param_groups:
        if EVALUATED in g: return g[EVALUATED]


def forget(
    opt # Optimizer
) -> None:
    "Take the weights that are in the model for those that are trained."
    for g in opt.param_groups: g.pop(EVALUATED, None)
    opt.__dict__.pop('_put_in', None)


def _states(opt) -> list[tuple[Tensor, dict]]:
    "The parameters that have state, and it"
    known = opt.state
    return [(p, known[p]) for g in opt.param_groups for p in g['params'] if p in known]


def put_in(
    opt, # Optimizer
    part=None # Stepper that tells the weights, named as in `replace`; default: the last one that does
) -> None:
    "What `Optimizer.eval` does."
    tell = tellers(opt, part)
    now, new = evaluated(opt), ', '.join(s.label for s, _ in tell)
    if not tell or now == new: return
    if now is not None:
        raise ValueError(f"the model has the weights of {now} already, by an earlier `eval()`. Call `train()` before `eval()` puts in those of {new}.")
    states, opt._put_in = _states(opt), {}
    for g in opt.param_groups: g[EVALUATED] = new # before anything moves, so that `take_out` can undo what fails on the way
    for p, state in states:
        weights = next((w for _, f in reversed(tell) if (w := f(p, state)) is not None), None)
        if weights is None: continue
        state[TRAINED] = p.data.clone()
        with torch.no_grad(): p.copy_(weights)
        opt._put_in[p] = p._version


def take_out(
    opt # Optimizer
) -> None:
    "What `Optimizer.train` does."
    if evaluated(opt) is None: return
    states, put_in, changed = _states(opt), opt.__dict__.get('_put_in', {}), 0
    forget(opt)
    for p, state in states:
        weights = state.pop(TRAINED, None)
        if weights is None: continue
        if put_in.get(p, p._version) != p._version: changed += 1
        else:
            with torch.no_grad(): p.copy_(weights)
    if changed: warn(f"{changed} parameters were changed between `eval()` and `train()`, by loading a model perhaps. Training goes on from what they are now.")


@contextmanager
def averaged(
    opt, # Optimizer
    part=None # Stepper that tells the weights, named as in `replace`; default: the last one that does
):
    "A `with` block in which the model has the weights that are to be evaluated, as between `opt.eval()` and `opt.train()`. They may be in it already."
    there = evaluated(opt)
    put_in(opt, part)
    try: yield opt
    finally:
        if not there: take_out(opt)


def refuse_step(
    opt # Optimizer
) -> None:
    "Raises `RuntimeError` if the model has weights that are not those that are trained."
    if evaluated(opt):
        raise RuntimeError(f"the model has the weights of {evaluated(opt)}, which are for evaluation. Call `train()` of the optimizer before it steps.")


def warn_unaveraged(
    opt # Optimizer
) -> None:
    "Warn a fastai `Learner` that begins to fit schedule-free weights, but won't evaluate their average."
    fastai = sys.modules.get('fastai.learner')
    if fastai is None: return
    learn = calling_frame().f_locals.get('self')
    if not isinstance(learn, fastai.Learner) or hasattr(learn, 'lr_finder'): return
    if not any(kind_of(f) == FREE for f in opt.cbs): return
    learner = sys.modules.get('optimcb.learner') # nobody has such a callback who has not imported it
    if learner is None or not any(isinstance(cb, learner.AveragedWeights) for cb in learn.cbs):
        warn("a schedule-free optimizer trains other weights than those to be evaluated, but this Learner evaluates what it trains. "
             "Add `AveragedWeights()`, from `optimcb.learner`, to its `cbs`.", CompositionWarning)


def tellers(
    opt, # Optimizer
    part=None # One of its steppers, named as in `replace`; default: all
) -> list[tuple[Stepper, Callable]]:
    "Steppers that tell weights, and for each a function of a parameter and its state."
    cbs = list(opt.cbs)
    asked = cbs if part is None else [cbs[place(cbs, part)]]
    found = [(s, _teller(s)) for s in map(Stepper, filter(None, asked)) if s.traits.eval_weights]
    if part is not None and not found: raise ValueError(f"stepper `{Stepper(asked[0])}` tells no weights to evaluate.")
    return found


def _teller(stepper) -> Callable:
    weights, new = stepper.traits.eval_weights, stepper.new_name
    names = {k: new(k) for k in Stepper(weights).names}
    def tell(p, state):
        if all(isinstance(state.get(o), (Tensor, int, float)) for o in names.values()): return weights(p.data, **{k: state[o] for k, o in names.items()})
    return tell
