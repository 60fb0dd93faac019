"Convert an optimizer's state for an optimizer of `torch.optim`."
import torch
from torch import Tensor

from optimcb._compat.boundary import entry
from optimcb.composition.pipeline import Composition
from optimcb.composition.storage import convert_state
from optimcb.hypers.torch_names import TORCH_NAMES
from optimcb.state.copies import is_note, ours
from optimcb.state.state_dict import pack
from optimcb.state.torch_optim import COUNTERPARTS, PER_GROUP, SCALARS, Counterpart, do_the_same, variants_of

__all__ = ['to_torch']


@entry
def to_torch(
    opt # Optimizer
) -> dict:
    """Return a state dict with which an optimizer of `torch.optim` continues in place of `opt`.

    It fits the class that does the same as the steppers, with the same parameters: `torch.optim.AdamW` for
    `AdamW`, and so on by `COUNTERPARTS`. Everything is copied. Raises `ValueError` if there is no such class,
    `TypeError` for other optimizers."""
    mine = ours(opt).composition
    decays = 'wd' in mine.reads and any(h['wd'] != 0 for h in opt.hypers)
    c, flags, theirs = _counterpart(mine, decays)
    sd = pack(opt)
    notes = {k: v for k, v in sd['state'].items() if is_note(k)}
    if decays and any(s.get('do_wd') is False for k, s in sd['state'].items() if k not in notes):
        raise ValueError("some parameters are not decayed (`do_wd` in their state), which torch's "
                         "optimizers can't tell. "
                         "Put them in a group with `wd=0`; in fastai, `Learner(…, wd_bn_bias=True)` or a "
                         "`splitter` that puts them in a group of their own.")
    ascends = {'maximize': True} if mine.flips_grad else {}
    groups, state = [], {}
    for g, h, ps in zip(sd['param_groups'], sd['hypers'], opt.param_lists):
        hypers = {**ascends, **{k: v for k, v in h.items() if k in mine.reads or k == 'lr'}}
        others = {k: v for k, v in g.items() if k not in opt.hyper_names}
        groups.append({**_torchs_options(c, flags, theirs, hypers), **others})
        starts = {'step': 0, 'mom_prod': 1., 'sqr_avg': h.get('init_sum', 0.)} # initial values; others are 0
        for i, p in zip(g['params'], ps):
            own = sd['state'][i]
            convert_state(own, p, [], [o.name for o in mine.stores])
            names = {k: v for k, v in c.state.items() if v in theirs.reads or v == 'step'}
            state[i] = {k: _torchs_state(k, own.get(v, starts.get(v, 0.)), p) for k, v in names.items()}
    return {'state': {**{i: s for i, s in state.items() if s}, **notes}, 'param_groups': groups}


def _counterpart(mine, decays) -> tuple[Counterpart, dict, Composition]:
    """Return the counterpart that does the same, with its flags and steppers.

    Raises `ValueError` if there is none.

    If several do, the one with the same kind of decay wins, even if nothing is decayed."""
    variants = [(c, flags, theirs) for c in COUNTERPARTS for flags, theirs in variants_of(c)]
    found = [o for o in variants if do_the_same(mine, o[2], decays)]
    if not found:
        raise ValueError("no optimizer of torch.optim does what these steppers do: "
                         f"{', '.join(mine.labels)}.")
    return min(found, key=lambda o: not do_the_same(mine, o[2], True))


def _torchs_options(c, flags, theirs, hypers) -> dict:
    "Return a group's options for torch, from our hyper-parameters."
    known = {o for k in c.options for o in TORCH_NAMES.get(k, (k,))}
    for k, v in theirs.defaults.items():
        if k not in known and hypers.get(k, v) != v:
            raise ValueError(f"torch.optim.{c.optim.__name__} has no `{k}`, which is {hypers[k]} here, not "
                             f"{v}.")
    res = {**c.defaults, **{k: v for k, v in flags.items() if k not in ('momentum', 'dampening')}}
    for k in c.options.keys() - flags.keys() | {'momentum'} & flags.keys():
        values = [hypers.get(o, 0.) for o in TORCH_NAMES.get(k, (k,))] # 0 if no stepper reads it
        res[k] = tuple(values) if len(values) > 1 else values[0]
    res.update({k: bool(hypers[k]) for k in PER_GROUP if k in hypers})
    if 'dampening' in c.flags:
        dampening = hypers.get('dampening', bool(flags['dampening']))
        res['dampening'] = res['momentum'] if dampening is True else float(dampening)
    return res


def _torchs_state(k, v, p):
    "Return state `k` of parameter `p` in torch's form; if it doesn't exist yet, torch's initial value."
    if k in SCALARS:
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        return torch.tensor(float(v), dtype=dtype)
    return v if isinstance(v, Tensor) else torch.full_like(p, v, requires_grad=False)
