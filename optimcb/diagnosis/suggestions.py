"Suggest what to do about names that a stepper needs but no stepper returns."
from contextlib import contextmanager
from functools import cache

from optimcb import steppers
from optimcb.composition.errors import MissingName
from optimcb.composition.results import ONE_STEP
from optimcb.composition.stepper import Stepper
from optimcb.hypers.torch_names import TORCH_NAMES, nearest

__all__ = ['advice', 'providers', 'worded']


def providers(
    name:str # Name of state, or of a one-step value
) -> list[str]:
    "List the library's steppers that return `name`: those that keep it, or else those that mention it."
    ours = [Stepper(getattr(steppers, o)) for o in steppers.__all__ if o not in steppers.FORMULAS]
    # leave out lazy variants
    ours = [s for s in ours if not s.label.startswith('lazy_')]
    found = [s for s in ours if name in s.mentions and name not in s.required]
    if name not in ONE_STEP: return [s.label for s in [s for s in found if name in s.names] or found]
    return [s.label for s in found if not s.label.endswith('_step')] # a step only reads it


GRAD = "The gradient is an attribute of the parameter: take `{p}.grad` in its place."
DATA = "The weights are an attribute of the parameter: take `{p}.data` in their place."
OF_PARAMETER = dict( # names that one may expect to be given
    **dict.fromkeys(('grad', 'grads', 'gradient', 'gradients', 'd_p'), GRAD),
    **dict.fromkeys(('data', 'weight', 'weights'), DATA),
    state="A stepper takes state by the names that it has in it: `def f({p}, grad_avg=None): …`.",
    group="A stepper takes hyper-parameters by their names: `def f({p}, lr, wd=0.): …`.")


PERHAPS = { # short names for them, which may also be hyper-parameters
    **dict.fromkeys(('g', 'dp', 'gt', 'g_t'), "If the gradient is meant, take `{p}.grad` in its place."),
    **dict.fromkeys(('w', 'x', 'theta'), "If the weights are meant, take `{p}.data` in their place.")}

SIMILARITY = 0.75 # how much a name must be like a known one to be a slip
FEW = 2 # steppers that are proposed: the simplest


@contextmanager
def worded(
    live:bool=False # Is there an optimizer already?
):
    "Add advice to any `MissingName` raised inside a `with` block."
    try: yield
    except MissingName as e:
        e.args = (advice(e, live),)
        raise


def advice(
    e:MissingName, # An error
    live:bool=False # Is there an optimizer already?
) -> str:
    "Word what is missing, and what to do about it."
    if e.composition is None: return str(e) # it has advice already
    name, *others = sorted(e.names, key=lambda k: not providers(k))
    message = (f"stepper `{e.stepper}` needs `{name}`, which is no hyper-parameter, "
            "and no stepper before it made it.")
    composition, e.composition = e.composition, None
    if name == 'p': return f"{message} The first argument of a stepper is the parameter: put `p` first."
    first = e.stepper.first or 'p'
    if name in OF_PARAMETER: return f"{message} {OF_PARAMETER[name].format(p=first)}"
    if 'route' in e.values: message += f" That is so in route `{e.values['route']}`."
    if others: message += f" It lacks {', '.join(f'`{k}`' for k in others)}, too."
    here = next(i for i, s in enumerate(composition.steppers) if s.f is e.stepper.f)
    earlier, later = composition.steppers[:here], composition.steppers[here+1:]
    known = {*e.values, *composition.reads}
    here = _in_composition(name, e.stepper, earlier, later)
    if here: return f'{message}{here}'
    if name in PERHAPS: message += f' {PERHAPS[name].format(p=first)}'
    return f'{message}{_to_put(name, others, e, known, live)}'


def _in_composition(name, stepper, earlier, later) -> str|None:
    "Suggest what to do if a stepper of the composition returns the name, or a similar one"
    lost = next((s for s in earlier if name in s.names and name not in s.mentions), None)
    if lost:
        return f" `{lost}` takes `{name}`, but doesn't return it. Did you forget `return {{'{name}': …}}`?"
    late = next((s for s in later if name in s.mentions and name not in s.required), None)
    if late: return f" Put `{late}` before `{stepper}`, not after it."
    made = {k for s in earlier for k in s.mentions - set(s.names)}
    slip = nearest(name, made - _known() - {name}, 0.8)
    if not slip: return None
    maker = next(s for s in earlier if slip in s.mentions)
    return f" `{maker}` makes `{slip}`. Did you mean that?"


def _to_put(name, others, e, known, live) -> str:
    "Suggest what to add to the composition"
    made_by, meant = providers(name), None
    if not made_by and name not in _known(): # perhaps a typo
        meant = nearest(name, {*known, *_known(), *TORCH_NAMES} - {name}, SIMILARITY)
        meant = TORCH_NAMES.get(meant, (meant,))[0]
        if meant and meant not in e.values: made_by = providers(meant)
    near = f" Did you mean `{meant}`?" if meant else ''
    if made_by: return f"{near} Put {_listed(made_by, others)} before `{e.stepper}` in `cbs`."
    setting = f"opt.set_hyper('{name}', …)" if live else f'Optimizer(…, {name}=…)'
    res = (f"{near} Pass it as a hyper-parameter, `{setting}`, "
           f"or put a stepper that returns it before `{e.stepper}` in `cbs`.")
    if near or name in _known(): return res
    return f"{res} If you put it into `opt.state` yourself, give it a default of None, or pass `check=False`."


def _listed(made_by, others) -> str:
    "List the steppers that return a name, or one of them and those that return other missing names"
    others_by = [p[0] for p in map(providers, others) if p]
    *firsts, last = [f'`{o}`' for o in dict.fromkeys([made_by[0], *others_by])]
    return f"{', '.join(firsts)} and {last}" if firsts else ' or '.join(f'`{o}`' for o in made_by[:FEW])


@cache
def _known() -> frozenset:
    "Names that the library's steppers take"
    return frozenset(n for o in steppers.__all__ for n in Stepper(getattr(steppers, o)).names)
