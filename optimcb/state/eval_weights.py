"""Swap weights for evaluation, such as averages, into a model, and the trained weights back.

A stepper declares the weights for evaluation by `weights_by`. While they are in the model, the trained
weights are kept in the optimizer's state, and saved with it.
"""
import sys
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from optimcb._compat.warn import CompositionWarning, calling_frame, warn
from optimcb.composition.roles import kind_of
from optimcb.composition.stepper import Stepper, name_of
from optimcb.editing.edit import place
from optimcb.steppers.averages import FREE
from optimcb.steppers.lookahead import lookahead_step

__all__ = ['EVALUATED', 'TRAINED', 'averaged', 'evaluated', 'forget', 'put_in', 'refuse_step', 'take_out',
           'tellers', 'warn_unaveraged']


EVALUATED = 'evaluated' # key of each group: the labels of the steppers whose weights are in the model now
TRAINED = 'trained_weights' # key of a parameter's state: its trained weights between `eval` and `train`


def evaluated(
    opt # Optimizer
) -> str|None:
    "Return the labels of the steppers whose weights are in the model, or None if those are the trained ones."
    for g in opt.param_groups: # asked in each step: our groups' own `in` takes ten times as long
        if dict.__contains__(g, EVALUATED): return g[EVALUATED]


def forget(
    opt # Optimizer
) -> None:
    "Treat the model's current weights as the trained ones."
    for g in opt.param_groups: g.pop(EVALUATED, None)
    opt.__dict__.pop('_put_in', None)


def _states(opt) -> list[tuple[Tensor, dict]]:
    "List the parameters that have state, each with its state."
    known = opt.state
    return [(p, known[p]) for g in opt.param_groups for p in g['params'] if p in known]


def put_in(
    opt, # Optimizer
    part=None # Stepper with the weights, named as in `replace`; default: the last such stepper
) -> None:
    """Put the weights for evaluation into the model: see `Optimizer.eval`.

    Raises `ValueError` if those of another stepper are in it."""
    tell = tellers(opt, part)
    now, new = evaluated(opt), ', '.join(s.label for s, _ in tell)
    if not tell or now == new: return
    if part is None: _warn_several(tell)
    if now is not None:
        raise ValueError(f"the model has the weights of {now} already, by an earlier `eval()`. "
                         f"Call `train()` before `eval()` puts in those of {new}.")
    states, opt._put_in = _states(opt), {}
    for g in opt.param_groups: g[EVALUATED] = new # first, so that `take_out` can undo a failure halfway
    for p, state in states:
        given = (f(p, state) for _, f in reversed(tell))
        weights = next((w for w in given if w is not None), None)
        if weights is None: continue
        state[TRAINED] = p.data.clone()
        with torch.no_grad(): p.copy_(weights)
        opt._put_in[p] = p._version


def _warn_several(tell):
    "Warn if averages are kept that are not put in, as others come later"
    *others, last = [name_of(s.f) for s, _ in tell]
    in_vain = [k for k in others if k != lookahead_step.__name__] # whose weights are trained with
    if not in_vain: return
    warn(f"`{in_vain[0]}` keeps averages, too, but those of `{last}` are put in, where there are some yet. "
         f"Say which, as in `opt.eval('{in_vain[0]}')`, or leave one out.", CompositionWarning)


def take_out(
    opt # Optimizer
) -> None:
    "Put the trained weights back into the model: see `Optimizer.train`."
    if evaluated(opt) is None: return
    states, put_in, changed = _states(opt), opt.__dict__.get('_put_in', {}), 0
    forget(opt)
    for p, state in states:
        weights = state.pop(TRAINED, None)
        if weights is None: continue
        if put_in.get(p, p._version) != p._version: changed += 1
        else:
            with torch.no_grad(): p.copy_(weights)
    if changed:
        warn(f"{changed} parameters were changed between `eval()` and `train()`, by loading a model perhaps. "
             "Training continues from their current values.")


@contextmanager
def averaged(
    opt, # Optimizer
    part=None # Stepper with the weights, named as in `replace`; default: the last such stepper
):
    """Put the weights for evaluation into the model during a `with` block, like `opt.eval()`.

    If they were in the model before, they stay."""
    there = evaluated(opt)
    put_in(opt, part)
    try: yield opt
    finally:
        if not there: take_out(opt)


def refuse_step(
    opt # Optimizer
) -> None:
    "Raise `RuntimeError` if the weights in the model are not the trained ones."
    if evaluated(opt):
        raise RuntimeError(f"the model has the weights of {evaluated(opt)}, which are for evaluation. "
                           "Call `train()` of the optimizer before it steps.")


def warn_unaveraged(
    opt # Optimizer
) -> None:
    "Warn if a fastai `Learner` starts to fit a schedule-free optimizer without evaluating its average."
    fastai = sys.modules.get('fastai.learner')
    if fastai is None: return
    learn = calling_frame().f_locals.get('self')
    if not isinstance(learn, fastai.Learner) or hasattr(learn, 'lr_finder'): return
    if not any(kind_of(f) == FREE for f in opt.cbs): return
    learner = sys.modules.get('optimcb.learner') # the callback is in it
    if learner is None or not any(isinstance(cb, learner.AveragedWeights) for cb in learn.cbs):
        warn("a schedule-free optimizer trains other weights than those to be evaluated, but this Learner "
             "evaluates what it trains. Add `AveragedWeights()`, from `optimcb.learner`, to its "
             "`cbs`.", CompositionWarning)


def tellers(
    opt, # Optimizer
    part=None # One of its steppers, named as in `replace`; default: all
) -> list[tuple[Stepper, Callable]]:
    "List the steppers with weights for evaluation, each with a function of a parameter and its state."
    cbs = list(opt.cbs)
    asked = cbs if part is None else [cbs[place(cbs, part)]]
    found = [(s, _teller(s)) for s in map(Stepper, filter(None, asked)) if s.traits.eval_weights]
    if part is not None and not found:
        raise ValueError(f"stepper `{Stepper(asked[0])}` tells no weights to evaluate.")
    return found


def _teller(stepper) -> Callable:
    "Return a function of a parameter and its state: its weights for evaluation, or None if there are none."
    weights, new = stepper.traits.eval_weights, stepper.new_name
    names = {k: new(k) for k in Stepper(weights).names}
    def tell(p, state):
        is_there = all(isinstance(state.get(o), (Tensor, int, float)) for o in names.values())
        if is_there: return weights(p.data, **{k: state[o] for k, o in names.items()})
    return tell
