"Translate torch's names and flags of hyper-parameters to ours."
import difflib
from collections.abc import Iterable
from numbers import Real

from fastcore.foundation import L

from optimcb.hypers.values import LONG_NAMES, NOT_HYPERS, RANGES

__all__ = ['TORCH_NAMES', 'AUTHORS_NAMES', 'TORCH_FLAGS', 'stands_for', 'from_torch', 'is_of_others',
           'is_slip', 'without_flags', 'nearest', 'suggest']


TORCH_NAMES = dict(
    momentum=('mom',), betas=('mom', 'sqr_mom'), weight_decay=('wd',), alpha=('sqr_mom',), rho=('sqr_mom',),
    momentum_decay=('mom_decay',), initial_accumulator_value=('init_sum',),
    etas=('eta_minus', 'eta_plus'), step_sizes=('min_step', 'max_step'),
    decoupled_weight_decay=('decouple_wd',))

# torch's names in rules with further coefficients: the first row whose names are all known applies
AUTHORS_NAMES = dict(
    betas=(('mom', 'diff_mom', 'sqr_mom'), ('mom', 'sqr_mom', 'slow_mom'),
           ('mom', 'sqr_mom', 'rate_mom'), ('mom', 'slow_mom')),
    alpha=(('slow_weight',),))

ENGINE_FLAGS = ('foreach', 'fused')
# non-numeric options of torch.optim: the stepper with the same effect, if any, and advice otherwise
TORCH_FLAGS = dict(
    foreach=(None, ''), fused=(None, ''),
    capturable=(None, "Pass it to the optimizer, for all groups."),
    differentiable=(None, "A step changes parameters in place, where autograd doesn't look. "
                          "Write the update as an expression, for `torch.func.functional_call`."),
    maximize=(None, "Put `maximize` before these steppers, by `wrap(maximize)`."),
    amsgrad=('max_sqr_avg', "Use `Adam(…, amsgrad=True)`, or put `max_sqr_avg` and `use_sqr_max` after "
                            "`average_sqr_grad`."),
    nesterov=('nesterov_update', "Use `SGD(…, nesterov=True)` or `NAdam`, or put `nesterov_update` and "
                                 "`apply_update` in the place of `momentum_step`."),
    centered=('center_sqr_avg', "Use `RMSProp(…, centered=True)`, or put `average_center` and "
                                "`center_sqr_avg` after `average_sqr_grad`."),
    dampening=(None, "A number means what it does in `torch.optim.SGD`, and `average_grad` takes it, as in "
                     "`SGD(…, mom=0.9, dampening=0.5)`."),
    decoupled_weight_decay=('weight_decay', "`weight_decay` in `cbs` is decoupled, `l2_reg` in its place is "
                                            "not: algorithms choose it by `decouple_wd`."))


def stands_for(
    name:str, # Any name, perhaps one of torch's
    known:Iterable # Known names
) -> tuple:
    """Return our names for a name in torch or in a rule's paper.

    For Adan, `betas` stands for three coefficients, in the order of the paper."""
    known = frozenset(known)
    return next((o for o in AUTHORS_NAMES.get(name, ()) if known.issuperset(o)), TORCH_NAMES.get(name, ()))


def from_torch(
    hypers:dict, # Hyper-parameters, by our names or torch's
    known # Names that need no translation
) -> dict:
    """Translate torch's names (`momentum`, `betas`, `weight_decay`, …) to ours, if ours are known.

    Raises `TypeError` if a hyper-parameter is given by both names."""
    res = {}
    for k, v in hypers.items():
        ours = stands_for(k, known)
        if k in known or not any(o in known for o in ours): ours, v = (k,), (v,)
        elif len(ours) == 1: v = (v,)
        elif len(L(v, use_list=None)) != len(ours):
            raise ValueError(f"`{k}` must have {len(ours)} values, for {' and '.join(ours)}, but is {v!r}. "
                             "Further coefficients go by names of their own.")
        for o, v_ in zip(ours, v):
            if o in res or (o != k and o in hypers):
                raise TypeError(f"`{k}` is torch's name for `{o}`, which is given too. Pass one of them.")
            res[o] = v_
    return res


def without_flags(
    hypers:dict, # Hyper-parameters by our names, and perhaps some of `TORCH_FLAGS`
    composition, # The steppers, which decide which flags are supported
    engine:str # The requested engine
) -> tuple[dict, str]:
    """Return `hypers` without torch's non-numeric options, and the engine that these request.

    Options that are off, None, or done by the steppers are ignored. Raises `TypeError` for unsupported
    options, `ValueError` for contradictory engines."""
    known = frozenset().union(*(s.mentions.union(s.names) for s in composition.steppers if not s.is_ours))
    def read(k, v):
        if TORCH_FLAGS[k][0] is not None or k not in composition.reads: return False
        return isinstance(v, bool) or k == 'dampening' and _dampens(composition, v)
    def meant(k, v): return k not in TORCH_FLAGS or k in known or read(k, v)
    rest = {k: v for k, v in hypers.items() if meant(k, v)}
    flags = {k: v for k, v in hypers.items() if k not in rest and v is not None}
    does = {getattr(s.innermost, '__name__', None) for s in composition.steppers}
    wd = rest.get('wd')
    if not does & {'weight_decay', 'l2_reg'} or isinstance(wd, Real) and wd == 0:
        flags.pop('decoupled_weight_decay', None) # nothing decays
    if 'mom' not in composition.reads: flags.pop('dampening', None) # nothing to dampen
    for k, v in flags.items():
        by, instead = TORCH_FLAGS[k]
        if k not in ENGINE_FLAGS and bool(v) != (by in does):
            raise TypeError(f"`{k}={v!r}` can't be had with {', '.join(composition.labels)}. {instead}")
    return rest, _engine(engine, {k: bool(flags[k]) for k in ENGINE_FLAGS if k in flags})


def _dampens(composition, v) -> bool:
    "Do the steppers dampen gradients by this number? Averages of squares have no dampening"
    readers = {s.innermost.__name__ for s in composition.steppers if s.is_ours and 'dampening' in s.names}
    averages = bool(readers & {'average_grad', 'average_update'}) and 'average_sqr_grad' not in readers
    return isinstance(v, Real) and averages


def _engine(engine, flags) -> str:
    "Return the engine that `foreach` and `fused` request"
    wanted = {k for k, v in flags.items() if v}
    if len(wanted) > 1:
        raise ValueError("`foreach` and `fused` can't be True together. Pass one of them, or `engine=`.")
    if wanted - {engine} and engine != 'auto' or flags.get(engine) is False:
        raise ValueError(f"engine='{engine}' contradicts "
                         f"{' and '.join(f'{k}={v}' for k, v in flags.items())}. Pass one of them.")
    return next(iter(wanted), engine)


def is_of_others(
    name:str, # A name in a parameter group that no stepper reads
    value # Its value there
) -> bool:
    "Is it a hyper-parameter of other steppers, ours or torch's?"
    is_off = value is None or isinstance(value, Real) and value == 0
    return name in RANGES or name in TORCH_NAMES and not is_off


def is_slip(
    name:str, # A name in a parameter group that no stepper reads
    known:Iterable # Names of hyper-parameters that they do read
) -> bool:
    """Is it nearly a known name, without being made up of it?

    Others are users' notes: `name`, `initial_lr`, `max_momentum`."""
    if name in NOT_HYPERS or name in TORCH_FLAGS or not isinstance(name, str): return False
    known = set(known)
    words = {*known, *(k for k, ours in {**TORCH_NAMES, **LONG_NAMES}.items() if known.issuperset(ours))}
    if any(f'_{k}_' in f'_{name}_' for k in words - LONG_NAMES.keys()): return False
    return nearest(name, words, 0.76) is not None


def suggest(
    name:str, # An unknown name
    known:Iterable # Known names
) -> str:
    "Return ' Did you mean …?' with our name for the known name nearest to `name`, or '' if none is near."
    known = set(known)
    others = {**TORCH_NAMES, **LONG_NAMES}
    ours = {name: o for name, o in others.items() if known.issuperset(o)} | {k: (k,) for k in known}
    # one name per route
    several = sorted(k for k in known if any(k.endswith(f'_{o}') for o in (name, *TORCH_NAMES.get(name, ()))))
    if len(several) > 1: return f" Did you mean {' or '.join(f'`{k}`' for k in several)}?"
    near = nearest(name, ours)
    if not near or ours[near] == (name,): return ''
    return f" Did you mean {' and '.join(f'`{o}`' for o in ours[near])}?"


def nearest(
    name:str, # An unknown name
    known:Iterable, # Known names
    similarity:float=0.6 # Least similarity, 0 to 1
) -> str|None:
    "Return the known name most similar to `name`, or None if none is similar enough."
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=similarity)), None)
