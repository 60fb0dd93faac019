"""Create optimizers by name, as in timm: `create_optimizer('adamw', model, lr=1e-3)`.

A name is that of an algorithm, in upper or lower case, with or without `_` or `-` between words. Names of
parts may precede it (`cautious_lion`, `clip_norm_lookahead_adamw`), and so may `sam` (`sam_adamw`).
"""
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from inspect import signature

from torch import nn

from optimcb import algorithms, parts
from optimcb._compat.boundary import entry
from optimcb.algorithm import Algorithm
from optimcb.composition.rules import Rule, norms_and_biases
from optimcb.hypers.torch_names import from_torch, nearest
from optimcb.optimizer import Optimizer
from optimcb.routing.groups import no_wd as without_wd
from optimcb.routing.groups import params_of
from optimcb.training.sam import SAM

__all__ = ['create_optimizer', 'list_optimizers']


def _plain(name) -> str: return re.sub('[_-]', '', name.lower())
def _defaults(f, *names) -> dict: return {k: signature(f).parameters[k].default for k in names}


ALGORITHMS = {_plain(k): o for k, o in vars(algorithms).items() if isinstance(o, Algorithm)}
ALIASES = { # other names: the name that each stands for, options, description
    'momentum': ('sgd', dict(mom=0.9), '`SGD` with `mom=0.9`.'),
    'lars': ('larc', dict(clip=False), '`Larc` with `clip=False`.'),
    'ranger': ('lookahead_radam', _defaults(algorithms.ranger, 'mom', 'wd', 'eps'),
               algorithms.ranger.__doc__),
    'nadamw': ('nadam', dict(decouple_wd=True), '`NAdam` with decoupled weight decay.'),
    'radamw': ('radam', dict(decouple_wd=True), '`RAdam` with decoupled weight decay.'),
    'sgdw': ('momentum', dict(decouple_wd=True), '`SGD` with `mom=0.9` and decoupled weight decay.'),
    'sam': ('sam_momentum', {}, '`SAM` with SGD and `mom=0.9`; `sam_…` with any other.')}
SAM_OPTIONS = signature(SAM).parameters.keys() - {'opt', 'model'}
NEED_ARGUMENTS = 'scheduled', 'stored'
PARTS = {_plain(k): getattr(parts, k) for k in parts.__all__ if k not in NEED_ARGUMENTS}
FACTORIES = parts.look_ahead, parts.schedule_free # parts of several steppers, created by a call


@entry
def list_optimizers(
    filter:str|Iterable='', # A pattern such as `'*adam*'`, or several, of which one must match; default: all
    exclude_filters:str|Iterable=(), # Patterns of names to leave out
    with_description:bool=False # Return pairs of name and description instead of names?
) -> list:
    """List the names that `create_optimizer` knows, in alphabetical order.

    Names of parts and `sam` may precede each of them. Where patterns fit none, but begin with such a name,
    as `'cautious_*'` does, the algorithms that it may precede are listed with it."""
    wanted, unwanted = _patterns(filter), _patterns(exclude_filters)
    def fits(name, patterns): return any(fnmatchcase(_plain(name), k) for k in patterns)
    names = sorted({*ALGORITHMS, *ALIASES})
    listed = [k for k in names if not wanted or fits(k, wanted)]
    if not listed:
        listed = [f'{part}_{k}' for part in _leading(wanted) for k in names if _go_together(part, k)]
    listed = [k for k in listed if (not wanted or fits(k, wanted)) and not fits(k, unwanted)]
    return [(k, _description(k)) for k in listed] if with_description else listed


def _leading(patterns) -> list:
    "Return the parts, and perhaps `sam`, with which patterns begin"
    names = [k for k in (*parts.__all__, 'sam') if _plain(k) in {*PARTS, 'sam'}]
    return [k for k in names if any(o.startswith(_plain(k)) for o in patterns)]


def _go_together(part, name) -> bool:
    "May a part precede the name of an algorithm?"
    try: algo, in_front, _ = _understood(f'{part}_{name}')
    except ValueError: return False
    if in_front - {'sam'}:
        try: algo.wrap(*_made(k for k in PARTS if k in in_front))
        except ValueError: return False
    return True


def _patterns(given) -> list: return [_plain(k) for k in ([given] if isinstance(given, str) else given) if k]


def _description(name) -> str:
    *in_front, name = name.rsplit('_', 1)
    doc = ALIASES[name][-1] if name in ALIASES else ALGORITHMS[name].__doc__
    return ' '.join(doc.partition('\n\n')[0].split())


@entry
def create_optimizer(
    name:str, # A name from `list_optimizers`, perhaps after parts or `sam`: `cautious_lion`, `sam_adamw`
    model, # A model, whose trainable parameters are optimized by name; or parameters, as for `Optimizer`
    lr=None, # Learning rate
    *,
    wd=None, # Weight decay; default: the algorithm's
    no_wd:bool|Rule=False, # Parameters without weight decay: True for the model's norms and biases, or a rule
    **options # Options of algorithm, parts and `SAM`, by our names or torch's (`betas=…`); `engine`, `check`
) -> Optimizer:
    """Create an optimizer by the name of its algorithm, with its default options.

    Raises `ValueError` for unknown names and for parts that can't be combined, `TypeError` for unknown
    options."""
    if isinstance(model, str):
        raise TypeError(f"the name comes first: `create_optimizer({model!r}, model, lr=…)`.")
    if not isinstance(name, str):
        raise TypeError("the first argument must be a name, such as 'adamw', "
                        f"but is {name!r:.80} ({type(name).__name__}).")
    algo, in_front, defaults = _understood(name)
    of_model = isinstance(model, nn.Module)
    if no_wd is True and not of_model:
        raise TypeError("`no_wd=True` needs the model to know norms and biases: "
                        "pass it instead of its parameters, or a rule, as `no_wd=by_ndim(0, 1)`.")
    if in_front - {'sam'}: algo = algo.wrap(*_made(k for k in PARTS if k in in_front)).named(name)
    for_sam = {k: options.pop(k) for k in SAM_OPTIONS & options.keys()} if 'sam' in in_front else {}
    options |= {k: v for k, v in dict(lr=lr, wd=wd).items() if v is not None}
    given = from_torch(options, algo.signature.parameters)
    params = [(k, p) for k, p in model.named_parameters() if p.requires_grad] if of_model else model
    opt = algo(params, **{**defaults, **given})
    if no_wd is True: _spare(opt, norms_and_biases(model))
    elif no_wd not in (None, False): without_wd(opt, no_wd)
    return SAM(opt, **for_sam, model=model if of_model else None) if 'sam' in in_front else opt


def _spare(opt, rule):
    "Turn off weight decay for parameters that match a rule, if the optimizer has any decay"
    if 'do_wd' in opt.composition.reads:
        for p in params_of(opt.param_groups, rule): opt.state[p]['do_wd'] = False


def _made(names) -> list: return [f() if f in FACTORIES else f for f in map(PARTS.get, names)]


def _understood(name) -> tuple[Algorithm, set, dict]:
    "Split a name into its algorithm, the names of parts before it, and the options that it stands for"
    words = re.split('[_-]', name.lower())
    for i in range(len(words)):
        last = ''.join(words[i:])
        if last in ALGORITHMS: return ALGORITHMS[last], _in_front(name, words[:i]), {}
        if last in ALIASES:
            meant, options, _ = ALIASES[last]
            algo, in_front, others = _understood(meant)
            return algo, _joined(name, in_front, _in_front(name, words[:i])), {**others, **options}
    near = nearest(_plain(name), {*ALGORITHMS, *ALIASES})
    raise ValueError(f"there is no optimizer {name!r}.{_did_you_mean(near)} "
                     "`list_optimizers()` has all, `list_optimizers('*adam*')` some.")


def _did_you_mean(near) -> str: return f" Did you mean {near!r}?" if near else ''


def _joined(name, some, others) -> set:
    "Join two sets of parts, of which none may be in both"
    if twice := some & others:
        raise ValueError(f"{name!r} has {min(twice)!r} twice. A part is put in once: leave one of them out.")
    return some | others


def _in_front(name, words) -> set:
    "Return the parts that consecutive words name"
    if not words: return set()
    known = {*PARTS, 'sam'}
    for i in range(len(words), 0, -1):
        first = ''.join(words[:i])
        if first in known: return _joined(name, {first}, _in_front(name, words[i:]))
    near = nearest(''.join(words), known)
    listed = ', '.join(k for k in parts.__all__ if _plain(k) in known)
    raise ValueError(f"there is no part '{'_'.join(words)}', as in {name!r}.{_did_you_mean(near)} "
                     f"There are {listed} and sam.")
