"Optimizers of `torch.optim`: their equivalents as lists of steppers, and translation of their state dicts."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch

from optimcb.composition.pipeline import Composition
from optimcb.composition.stepper import label
from optimcb.hypers.torch_names import TORCH_NAMES, from_torch
from optimcb.hypers.values import NOT_HYPERS, numbers
from optimcb.steppers import *
from optimcb.steppers.lists import LAZY, adam_avgs, largest, mean_grad

__all__ = ['COUNTERPARTS', 'PER_GROUP', 'SCALARS', 'Counterpart', 'do_the_same', 'from_torch_optim',
           'variants_of']


# Equivalents of torch's optimizers

class Counterpart(NamedTuple):
    "An optimizer of `torch.optim`, and its equivalent as steppers."
    optim:type # torch's class
    state:dict # Our names of state, by torch's
    recipe:Callable # Function from flags to a list of steppers; raises `ValueError` if there is no equivalent
    flags:dict # torch's options that choose steppers, each with one value per choice

    @property
    def defaults(self) -> dict:
        "The options of a group, with torch's defaults; flags that this torch lacks are False."
        known = inspect.signature(self.optim).parameters
        defaults = {k: p.default for k, p in known.items() if k != 'params'}
        return {**dict.fromkeys(self.flags, False), **defaults}

    @property
    def options(self) -> dict:
        "The options of the algorithm, without those of its implementation."
        return {k: v for k, v in self.defaults.items() if k not in SWITCHES}


def _sgd(momentum, nesterov, dampening):
    is_mean = bool(dampening) and dampening == momentum
    if nesterov and (is_mean or not momentum):
        raise ValueError("Nesterov momentum needs `momentum` and no `dampening`.")
    if not momentum: return [l2_reg, sgd_step]
    step = [nesterov_update, apply_update] if nesterov else [momentum_step]
    return [l2_reg, mean_grad if is_mean else average_grad, *step]


def _adam(amsgrad, decoupled_weight_decay):
    return [*adam_avgs(decoupled_weight_decay), *largest(amsgrad), step_stat, adam_step]


def _nadam(decoupled_weight_decay):
    avgs = adam_avgs(decoupled_weight_decay)
    return [*avgs, step_stat, nadam_schedule, nadam_avg, debias_sqr_avg, rms_update, apply_update]


def _radam(decoupled_weight_decay):
    return [*adam_avgs(decoupled_weight_decay), step_stat, debias_eps, radam_step]


def _adamax():
    return [*adam_avgs(False, max_abs_grad), step_stat, debias_grad_avg, adamax_update, apply_update]


def _adagrad(): return [l2_reg, step_stat, decay_lr, sum_sqr_grad, rms_update, apply_update]
def _adadelta(): return [l2_reg, average_sqr_grad, adadelta_update, apply_update]


def _rms_prop(momentum, centered):
    sqr = [average_sqr_grad, *([average_center, center_sqr_avg] if centered else [])]
    return [l2_reg, *sqr, *([rms_update, average_update, apply_update] if momentum else [rms_prop_step])]


def _sparse_adam(): return [*adam_avgs(True), step_stat, debias_eps, adam_step]


SWITCHES = frozenset({'foreach', 'fused', 'capturable', 'differentiable', 'maximize'})
PER_GROUP = 'maximize', 'amsgrad', 'nesterov', 'centered' # flags that steppers read
EITHER = False, True
MAYBE = 0., 0.9
AVGS = dict(step='step', exp_avg='grad_avg', exp_avg_sq='sqr_avg')
COUNTERPARTS = [
    Counterpart(torch.optim.SGD, dict(momentum_buffer='grad_avg'), _sgd,
                dict(momentum=MAYBE, nesterov=EITHER, dampening=MAYBE)),
    Counterpart(torch.optim.Adam, {**AVGS, 'max_exp_avg_sq': 'sqr_max'}, _adam, # and AdamW
                dict(amsgrad=EITHER, decoupled_weight_decay=EITHER)),
    Counterpart(torch.optim.NAdam, {**AVGS, 'mu_product': 'mom_prod'}, _nadam,
                dict(decoupled_weight_decay=EITHER)),
    Counterpart(torch.optim.RAdam, AVGS, _radam, dict(decoupled_weight_decay=EITHER)),
    Counterpart(torch.optim.Adamax, dict(step='step', exp_avg='grad_avg', exp_inf='grad_max'), _adamax, {}),
    Counterpart(torch.optim.Adagrad, dict(step='step', sum='sqr_avg'), _adagrad, {}),
    Counterpart(torch.optim.Adadelta, dict(step='step', square_avg='sqr_avg', acc_delta='delta_avg'),
                _adadelta, {}),
    Counterpart(torch.optim.RMSprop,
                dict(step='step', square_avg='sqr_avg', momentum_buffer='update_avg', grad_avg='grad_center'),
                _rms_prop, dict(momentum=MAYBE, centered=EITHER)),
    Counterpart(torch.optim.SparseAdam, AVGS, _sparse_adam, {}), # in torch, for sparse gradients only
]
SCALARS = dict(step=int, mu_product=float) # state that is a number here, and a tensor in torch
UNFUSED = { # by fused step, the steppers that do the same
    adam_step: (debias_grad_avg, debias_sqr_avg, rms_update, apply_update),
    rms_prop_step: (rms_update, apply_update)}


def do_the_same(
    a:Composition, # A composition
    b:Composition, # Another one
    decays:bool # Are weights decayed?
) -> bool:
    "Do two compositions compute the same updates?"
    return list(_normalized(a, decays)) == list(_normalized(b, decays))


def _normalized(composition, decays) -> Iterator[tuple]:
    "Yield the steppers that affect a step, with their labels; fused steps are split."
    for s in composition.steppers:
        if s.taps or not decays and s.innermost in (weight_decay, l2_reg): continue
        # an option of groups in torch; how state is stored
        if s.innermost in (maximize, decode_state, encode_state): continue
        unfused = next((fs for step, fs in UNFUSED.items() if s.f is step), None)
        if unfused: yield from ((f, f.__name__) for f in unfused)
        else: yield _with_mom(s)


def _with_mom(s) -> tuple:
    "Return a stepper and its label, in the form for `mom` other than 0."
    f = next((f for f, lazy in LAZY.items() if lazy is s.innermost), None)
    if f is None: return s.innermost, s.label
    return f, label(partial(f, **s.f.keywords) if isinstance(s.f, partial) else f)


def variants_of(
    counterpart:Counterpart, # Optimizer of torch
    **given # Known flags
) -> Iterator[tuple[dict, Composition]]:
    "Yield all combinations of the other flags that have an equivalent, with its steppers."
    choices = {k: [given[k]] if k in given else values for k, values in counterpart.flags.items()}
    for values in product(*choices.values()):
        flags = dict(zip(choices, values))
        try: yield flags, Composition(counterpart.recipe(**flags))
        except ValueError: pass


# From torch

def from_torch_optim(
    opt, # Optimizer that loads `sd`
    sd:dict # A state dict in torch's layout
) -> dict:
    """Translate a state dict of `torch.optim` into ours. Returns others unchanged.

    The result names the equivalent steppers. Raises `ValueError` for options without an equivalent."""
    found = _recognized(sd)
    if found is None: return _refuse_torchs(sd)
    mine, groups, steppers = opt.composition, [], opt.composition.untapped
    flags = {'maximize'} if opt._choice is None else opt._choice.flags - {'dampening'}
    asked = flags.union(*(g.keys() for g in opt.param_groups)) # options that groups may have
    for g in sd['param_groups']:
        options = _options(found, g, mine)
        theirs, same = _does(found, options, mine, asked)
        if not same: steppers = theirs.untapped
        switches = _switches(options, mine, asked)
        others = {k: g[k] for k in NOT_HYPERS if k in g}
        groups.append({**_hypers(found, options, theirs, mine), **switches, **others})
    state = {i: _state(found, mine, s) for i, s in sd['state'].items()}
    of = f'torch.optim.{found.optim.__name__}: '
    return {**sd, 'param_groups': groups, 'state': state, 'steppers': steppers, 'of': of}


def _state(found, mine, saved) -> dict:
    "Translate the state of a parameter."
    names = {k: v for k, v in found.state.items() if v != 'step' or v in mine.reads}
    known = {k: v for k, v in saved.items() if k in names and v is not None}
    return {names[k]: SCALARS[k](v) if k in SCALARS else v for k, v in known.items()}


OURS = frozenset().union(*TORCH_NAMES.values())
ALL_OPTIONS = frozenset().union(*(c.options for c in COUNTERPARTS))


def _recognized(sd) -> Counterpart|None:
    "Recognize torch's optimizer by the groups' options and names of state, or return None."
    if {'steppers', 'hypers'} & set(sd) or not sd['param_groups']: return None
    states = {k for s in sd['state'].values() for k, v in s.items() if v is not None}
    def fits(options, g):
        may_lack = {'decoupled_weight_decay'} if 'amsgrad' in g else set() # absent in older versions of torch
        return ALL_OPTIONS & set(g) <= set(options) <= set(g) | may_lack
    for c in COUNTERPARTS:
        if states <= set(c.state) and all(fits(c.options, g) for g in sd['param_groups']): return c


def _refuse_torchs(sd) -> dict:
    """Return `sd`, or raise `ValueError` if it comes from a torch optimizer without equivalent.

    If it has no state, before the first step, its options tell."""
    options = {k for g in sd['param_groups'] for k in g}
    is_ours = {'steppers', 'hypers'} & set(sd)
    if is_ours or 'maximize' not in options or any(sd['state'].values()): return sd
    options = ', '.join(sorted(options - SWITCHES - NOT_HYPERS))
    raise ValueError(f"the state dict is of another optimizer of torch, with options {options}: "
                     "no steppers do what it does.")


def _options(found, g, mine) -> dict:
    "Return all options of a group, with tensors turned into numbers."
    options = {k: numbers(v) for k, v in {**found.options, **g}.items()}
    if options.get('maximize') and not mine.flips_grad:
        raise ValueError("the state dict is of an optimizer with `maximize=True`. Make yours with it, too, "
                         "or put `maximize` before its steppers.")
    is_older_torch = 'decoupled_weight_decay' in found.flags and 'decoupled_weight_decay' not in g
    if is_older_torch: # its AdamW lacks this option
        options['decoupled_weight_decay'] = any(s.innermost is weight_decay for s in mine.steppers)
    return options


def _does(found, options, mine, asked) -> tuple[Composition, bool]:
    "Return the steppers equivalent to torch with these options, and whether ours are equivalent, too."
    open_flags = {k for k in PER_GROUP if k in mine.reads & asked and not options.get(k)} # hypers here
    if options.get('momentum') == 0: open_flags |= {'momentum', 'nesterov'} # the average is the gradient
    flags = {k: options[k] for k in found.flags if k not in open_flags}
    does = [c for _, c in variants_of(found, **flags)]
    if not does: does = [Composition(found.recipe(**flags))] # raises the error
    if flags.get('dampening'): # the number is a hyper-parameter here
        does += [c for _, c in variants_of(found, **flags | {'dampening': 0.})]
    same = [c for c in does if do_the_same(mine, c, options.get('weight_decay'))]
    return (same[0], True) if same else (does[0], False)


def _hypers(found, options, theirs, mine) -> dict:
    """Return options as our hyper-parameters, and keys that users have added.

    Hyper-parameters that torch lacks get the defaults of the equivalent steppers."""
    no_hypers = SWITCHES | NOT_HYPERS | found.flags.keys() - {'momentum'}
    given = {k: v for k, v in options.items() if k not in no_hypers}
    hypers = {'wd': 0., **theirs.defaults, **from_torch(given, OURS)}
    known = OURS | theirs.defaults.keys()
    return {k: v for k, v in hypers.items() if k in mine.reads | {'lr'} or k not in known}


def _switches(options, mine, asked) -> dict:
    "Return the options that our steppers read as hyper-parameters of groups."
    res = {k: bool(options[k]) for k in PER_GROUP if k in options and k in mine.reads & asked}
    dampens = 'dampening' in options and 'dampening' in mine.reads
    if dampens and (options['dampening'] or 'dampening' in asked): res['dampening'] = options['dampening']
    return res
