"Optimizers of `torch.optim`: which compositions do what they do, and their state dicts, translated both ways."
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from optimcb._boundary import entry
from optimcb.composition.pipeline import Composition
from optimcb.composition.stepper import label
from optimcb.hypers.torch_names import TORCH_NAMES, from_torch
from optimcb.hypers.values import NOT_HYPERS, numbers
from optimcb.state.state_dict import is_note, ours, pack
from optimcb.steppers import *
from optimcb.steppers.lists import LAZY, adam_avgs, largest, mean_grad

__all__ = ['COUNTERPARTS', 'Counterpart', 'from_torch_optim', 'to_torch']


# What torch's optimizers are here

class Counterpart(NamedTuple):
    "What an optimizer of `torch.optim` is here."
    optim:type # torch's class
    state:dict # By torch's name of a state, ours
    recipe:Callable # From the flags to our steppers; raises `ValueError` if there are none that do the same
    flags:dict # torch's options that choose steppers, each with values that stand for the choices

    @property
    def defaults(self) -> dict:
        "A group's options, with torch's defaults; a flag that came with a later torch is False."
        known = inspect.signature(self.optim).parameters
        return {**dict.fromkeys(self.flags, False), **{k: p.default for k, p in known.items() if k != 'params'}}

    @property
    def options(self) -> dict:
        "Those that are mathematics."
        return {k: v for k, v in self.defaults.items() if k not in SWITCHES}


def _sgd(momentum, nesterov, dampening):
    is_mean = bool(dampening) and dampening == momentum
    if nesterov and (is_mean or not momentum): raise ValueError("Nesterov momentum needs `momentum` and no `dampening`.")
    if not momentum: return [l2_reg, sgd_step]
    step = [nesterov_update, apply_update] if nesterov else [momentum_step]
    return [l2_reg, mean_grad if is_mean else average_grad, *step]


def _adam(amsgrad, decoupled_weight_decay):
    return [*adam_avgs(decoupled_weight_decay), *largest(amsgrad), step_stat, adam_step]


def _nadam(decoupled_weight_decay):
    avgs = adam_avgs(decoupled_weight_decay)
    return [*avgs, step_stat, nadam_schedule, nadam_avg, debias_sqr_avg, rms_update, apply_update]


def _radam(decoupled_weight_decay): return [*adam_avgs(decoupled_weight_decay), step_stat, debias_eps, radam_step]


def _adamax():
    return [*adam_avgs(False, max_abs_grad), step_stat, debias_grad_avg, adamax_update, apply_update]


def _adagrad(): return [l2_reg, step_stat, decay_lr, sum_sqr_grad, rms_update, apply_update]
def _adadelta(): return [l2_reg, average_sqr_grad, adadelta_update, apply_update]


def _rms_prop(momentum, centered):
    sqr = [average_sqr_grad, *([average_center, center_sqr_avg] if centered else [])]
    return [l2_reg, *sqr, *([rms_update, average_update, apply_update] if momentum else [rms_prop_step])]


def _sparse_adam(): return [*adam_avgs(True), step_stat, debias_eps, adam_step]


SWITCHES = frozenset({'foreach', 'fused', 'capturable', 'differentiable', 'maximize'}) # how torch runs; `maximize` is looked at for itself
PER_GROUP = 'maximize', 'amsgrad', 'nesterov', 'centered' # switches that steppers read
EITHER = False, True
MAYBE = 0., 0.9
AVGS = dict(step='step', exp_avg='grad_avg', exp_avg_sq='sqr_avg')
COUNTERPARTS = [
    Counterpart(torch.optim.SGD, dict(momentum_buffer='grad_avg'), _sgd, dict(momentum=MAYBE, nesterov=EITHER, dampening=MAYBE)),
    Counterpart(torch.optim.Adam, {**AVGS, 'max_exp_avg_sq': 'sqr_max'}, _adam, dict(amsgrad=EITHER, decoupled_weight_decay=EITHER)), # and AdamW
    Counterpart(torch.optim.NAdam, {**AVGS, 'mu_product': 'mom_prod'}, _nadam,
                dict(decoupled_weight_decay=EITHER)),
    Counterpart(torch.optim.RAdam, AVGS, _radam, dict(decoupled_weight_decay=EITHER)),
    Counterpart(torch.optim.Adamax, dict(step='step', exp_avg='grad_avg', exp_inf='grad_max'), _adamax, {}),
    Counterpart(torch.optim.Adagrad, dict(step='step', sum='sqr_avg'), _adagrad, {}),
    Counterpart(torch.optim.Adadelta, dict(step='step', square_avg='sqr_avg', acc_delta='delta_avg'), _adadelta, {}),
    Counterpart(torch.optim.RMSprop, dict(step='step', square_avg='sqr_avg', momentum_buffer='update_avg', grad_avg='grad_center'),
                _rms_prop,
                dict(momentum=MAYBE, centered=EITHER)),
    Counterpart(torch.optim.SparseAdam, AVGS, _sparse_adam, {}), # which refuses gradients that are not sparse
]
SCALARS = dict(step=int, mu_product=float) # states that are numbers here, and tensors there
IN_PARTS = (adam_step, (debias_grad_avg, debias_sqr_avg, rms_update, apply_update)), (rms_prop_step, (rms_update, apply_update))


def _same(a, b, decays) -> bool:
    "Do two compositions the same, where weights are decayed or are not?"
    def essence(composition):
        for s in composition.steppers:
            if s.taps or not decays and s.innermost in (weight_decay, l2_reg): continue
            if s.innermost is maximize: continue # groups say it
            yield from next((((f, f.__name__) for f in parts) for whole, parts in IN_PARTS if s.f is whole), [_essence(s)])
    return list(essence(a)) == list(essence(b))


def _essence(s) -> tuple:
    "A stepper, as it is where `mom` isn't 0, and its label"
    f = next((f for f, lazy in LAZY.items() if lazy is s.innermost), None)
    if f is None: return s.innermost, s.label
    return f, label(partial(f, **s.f.keywords) if isinstance(s.f, partial) else f)


def _variants(counterpart, **given) -> Iterator[tuple[dict, Composition]]:
    "Flags, of those that are not given all there are, and the steppers that do the same, where there are some"
    choices = {k: [given[k]] if k in given else values for k, values in counterpart.flags.items()}
    for values in product(*choices.values()):
        flags = dict(zip(choices, values))
        try: yield flags, Composition(counterpart.recipe(**flags))
        except ValueError: pass


# From torch

def from_torch_optim(
    opt, # Optimizer that is to go on from `sd`
    sd:dict # A state dict in torch's shape
) -> dict:
    """`sd` as ours, if it is of an optimizer of `torch.optim`; else as it is.

    Raises `ValueError` for options that no composition does. Of other steppers than those of `opt`, it says of which."""
    found = _recognized(sd)
    if found is None: return _refuse_torchs(sd)
    mine, groups, steppers = opt.composition, [], opt.composition.untapped
    flags = {'maximize'} if opt._choice is None else opt._choice.flags - {'dampening'}
    asked = flags.union(*(g.keys() for g in opt.param_groups)) # what groups may say
    for g in sd['param_groups']:
        options = _options(found, g, mine)
        theirs, same = _does(found, options, mine, asked)
        if not same: steppers = theirs.untapped
        switches = _switches(options, mine, asked)
        groups.append({**_hypers(found, options, theirs, mine), **switches, **{k: g[k] for k in NOT_HYPERS if k in g}})
    names = {k: v for k, v in found.state.items() if v != 'step' or v in mine.reads}
    state = {i: {names[k]: SCALARS[k](v) if k in SCALARS else v for k, v in s.items() if k in names and v is not None} for i, s in sd['state'].items()}
    return {**sd, 'param_groups': groups, 'state': state, 'steppers': steppers, 'of': f'torch.optim.{found.optim.__name__}: '}


OURS = frozenset().union(*TORCH_NAMES.values())
ALL_OPTIONS = frozenset().union(*(c.options for c in COUNTERPARTS))


def _recognized(sd) -> Counterpart|None:
    "Whose state dict it is, by a group's options and the names of state"
    if {'steppers', 'hypers'} & set(sd) or not sd['param_groups']: return None
    states = {k for s in sd['state'].values() for k, v in s.items() if v is not None}
    def fits(options, g): return ALL_OPTIONS & set(g) <= set(options) <= set(g) | ({'decoupled_weight_decay'} if 'amsgrad' in g else set())
    return next((c for c in COUNTERPARTS if states <= set(c.state) and all(fits(c.options, g) for g in sd['param_groups'])), None)


def _refuse_torchs(sd) -> dict:
    "`sd`, if it isn't of an optimizer of torch that has not stepped yet, which only its options tell"
    options = {k for g in sd['param_groups'] for k in g}
    if {'steppers', 'hypers'} & set(sd) or 'maximize' not in options or any(sd['state'].values()): return sd
    options = ', '.join(sorted(options - SWITCHES - NOT_HYPERS))
    raise ValueError(f"the state dict is of another optimizer of torch, with options {options}: no steppers do what it does.")


def _options(found, g, mine) -> dict:
    "A group's options, all of them, and numbers where they are tensors"
    options = {k: numbers(v) for k, v in {**found.options, **g}.items()}
    if options.get('maximize') and not mine.flips_grad:
        raise ValueError("the state dict is of an optimizer with `maximize=True`. Make yours with it, too, or put `maximize` before its steppers.")
    if 'decoupled_weight_decay' in found.flags and 'decoupled_weight_decay' not in g: # AdamW of older torch doesn't say that it is
        options['decoupled_weight_decay'] = any(s.innermost is weight_decay for s in mine.steppers)
    return options


def _does(found, options, mine, asked) -> tuple[Composition, bool]:
    "Steppers that do what torch does with these options, and whether ours do"
    no_matter = ('momentum', 'nesterov') if options.get('momentum') == 0 else () # an average is then the gradient
    no_matter += tuple(k for k in PER_GROUP if k in mine.reads & asked and not options.get(k)) # then it is a hyper-parameter
    flags = {k: options[k] for k in found.flags if k not in no_matter}
    does = [c for _, c in _variants(found, **flags)] or [Composition(found.recipe(**flags))] # which says why there are none
    if flags.get('dampening'): does += [c for _, c in _variants(found, **flags | {'dampening': 0.})] # the number is a hyper-parameter
    return next(((c, True) for c in does if _same(mine, c, options.get('weight_decay'))), (does[0], False))


def _hypers(found, options, theirs, mine) -> dict:
    "Options as hyper-parameters that our steppers read, with what torch doesn't have as its steppers have it; and somebody's notes"
    given = {k: v for k, v in options.items() if k not in SWITCHES | NOT_HYPERS | found.flags.keys() - {'momentum'}}
    hypers = {'wd': 0., **theirs.defaults, **from_torch(given, OURS)}
    return {k: v for k, v in hypers.items() if k in mine.reads | {'lr'} or k not in OURS | theirs.defaults.keys()}


def _switches(options, mine, asked) -> dict:
    "Options that steppers take as hyper-parameters of groups, where they may be other than steppers have them anyway"
    res = {k: bool(options[k]) for k in PER_GROUP if k in options and k in mine.reads & asked}
    dampens = 'dampening' in options and 'dampening' in mine.reads
    if dampens and (options['dampening'] or 'dampening' in asked): res['dampening'] = options['dampening']
    return res


# To torch

@entry
def to_torch(
    opt # Optimizer
) -> dict:
    """A state dict with which an optimizer of `torch.optim`, made of the same parameters, goes on as `opt` would.

    It is for the class that does what the steppers do: `torch.optim.AdamW` for `AdamW`, and so on by `COUNTERPARTS`. All of it is a copy.
    Raises `ValueError` if there is none, `TypeError` if `opt` is no `Optimizer`."""
    mine = ours(opt).composition
    decays = 'wd' in mine.reads and any(h['wd'] != 0 for h in opt.hypers)
    found = [(c, flags, theirs) for c in COUNTERPARTS for flags, theirs in _variants(c) if _same(mine, theirs, decays)]
    if not found: raise ValueError(f"no optimizer of torch.optim does what these steppers do: {', '.join(mine.labels)}.")
    c, flags, theirs = min(found, key=lambda o: not _same(mine, o[2], True)) # with the same decay, even where it is 0
    sd = pack(opt)
    notes = {k: v for k, v in sd['state'].items() if is_note(k)}
    if decays and any(s.get('do_wd') is False for k, s in sd['state'].items() if k not in notes):
        raise ValueError("some parameters are not decayed (`do_wd` in their state), which torch's optimizers can't tell. Put them in a group with `wd=0`; "
                         "in fastai, `Learner(…, wd_bn_bias=True)` or a `splitter` that puts them in a group of their own.")
    ascends = {'maximize': True} if mine.flips_grad else {}
    groups, state = [], {}
    for g, h, ps in zip(sd['param_groups'], sd['hypers'], opt.param_lists):
        hypers = {**ascends, **{k: v for k, v in h.items() if k in mine.reads or k == 'lr'}}
        groups.append({**_torchs_options(c, flags, theirs, hypers), **{k: v for k, v in g.items() if k not in opt.hyper_names}})
        starts = {'step': 0, 'mom_prod': 1., 'sqr_avg': h.get('init_sum', 0.)} # of others, zero
        for i, p in zip(g['params'], ps):
            own = sd['state'][i]
            state[i] = {k: _torchs_state(k, own.get(v, starts.get(v, 0.)), p) for k, v in c.state.items() if v in theirs.reads or v == 'step'}
    return {'state': {**{i: s for i, s in state.items() if s}, **notes}, 'param_groups': groups}


def _torchs_options(c, flags, theirs, hypers) -> dict:
    "A group's options for torch, from the hyper-parameters that our steppers read"
    known = {o for k in c.options for o in TORCH_NAMES.get(k, (k,))}
    for k, v in theirs.defaults.items():
        if k not in known and hypers.get(k, v) != v: raise ValueError(f"torch.optim.{c.optim.__name__} has no `{k}`, which is {hypers[k]} here, not {v}.")
    res = {**c.defaults, **{k: v for k, v in flags.items() if k not in ('momentum', 'dampening')}}
    for k in c.options.keys() - flags.keys() | {'momentum'} & flags.keys():
        values = [hypers.get(o, 0.) for o in TORCH_NAMES.get(k, (k,))] # no momentum or no decay, if no stepper reads it
        res[k] = tuple(values) if len(values) > 1 else values[0]
    res.update({k: bool(hypers[k]) for k in PER_GROUP if k in hypers})
    if 'dampening' in c.flags:
        dampening = hypers.get('dampening', bool(flags['dampening']))
        res['dampening'] = res['momentum'] if dampening is True else float(dampening)
    return res


def _torchs_state(k, v, p):
    "State `k` of parameter `p` as torch has it; what ours has not made yet is as it starts"
    if k in SCALARS: return torch.tensor(float(v), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
    return v if isinstance(v, Tensor) else torch.full_like(p, v, requires_grad=False)
