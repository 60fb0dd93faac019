"What to do about names that a stepper needs and nobody makes."
from contextlib import contextmanager

from optimcb import steppers
from optimcb.composition.errors import MissingName
from optimcb.composition.results import ONE_STEP
from optimcb.composition.stepper import Stepper
from optimcb.hypers.torch_names import TORCH_NAMES, nearest

__all__ = ['advice', 'providers', 'worded']


def providers(
    name:str # Of state, or of a value for a step
) -> list[str]:
    "The library's steppers that make `name`."
    found = [Stepper(getattr(steppers, o)) for o in steppers.__all__ if o not in steppers.FORMULAS]
    found = [s for s in found if name in s.mentions and name not in s.required and not (name in ONE_STEP and s.label.endswith('_step'))]
    keep = [] if name in ONE_STEP else [s for s in found if name in s.names]
    lazy = {f'lazy_{s.label}' for s in found} # does the same, for groups without momentum
    found, keep = ([s for s in o if s.label not in lazy] for o in (found, keep))
    return [s.label for s in keep or found] # those that keep it, or that speak of it at least


OF_PARAMETER = dict( # names that one may expect to be given
    grad="The gradient is an attribute of the parameter: take `{p}.grad` in its place.",
    data="The weights are an attribute of the parameter: take `{p}.data` in their place.",
    state="A stepper takes state by the names that it has in it: `def f({p}, grad_avg=None): …`.",
    group="A stepper takes hyper-parameters by their names: `def f({p}, lr, wd=0.): …`.")


FEW = 2 # steppers that are proposed: the simplest


@contextmanager
def worded():
    "Let a `MissingName` that is raised inside say what to do."
    try: yield
    except MissingName as e:
        e.args = (advice(e),)
        raise


def advice(
    e:MissingName # An error
) -> str:
    "What is missing, and what to do about it."
    if e.composition is None: return str(e)
    composition, stepper, names, values = e.composition, e.stepper, e.names, e.values
    e.composition = None # it is said now
    name, *others = sorted(names, key=lambda k: not providers(k))
    said = f"stepper `{stepper}` needs `{name}`, which is no hyper-parameter, and no stepper before it made it."
    if name == 'p': return f"{said} The first argument of a stepper is the parameter: put `p` first."
    if name in OF_PARAMETER: return f"{said} {OF_PARAMETER[name].format(p=stepper.first or 'p')}"
    if 'route' in values: said += f" That is so in route `{values['route']}`."
    if others: said += f" It lacks {', '.join(f'`{k}`' for k in others)}, too."
    here = next(i for i, s in enumerate(composition.steppers) if s.f is stepper.f)
    lost = next((s for s in composition.steppers[:here] if name in s.names and name not in s.mentions), None)
    if lost: return f"{said} `{lost}` takes `{name}`, but doesn't return it. Did you forget `return {{'{name}': …}}`?"
    late = [s for s in composition.steppers[here+1:] if name in s.mentions and name not in s.required]
    if late: return f"{said} Put `{late[0]}` before `{stepper}`, not after it."
    earlier = composition.steppers[:here]
    slip = nearest(name, {k for s in earlier for k in s.mentions - set(s.names)} - KNOWN - {name}, 0.8)
    if slip: return f"{said} `{next(s for s in earlier if slip in s.mentions)}` makes `{slip}`. Did you mean that?"
    made_by, meant = providers(name), None
    if not made_by and name not in KNOWN: # a slip, perhaps
        meant = nearest(name, {*values, *composition.reads, *KNOWN, *TORCH_NAMES} - {name})
        meant = TORCH_NAMES.get(meant, (meant,))[0]
        if meant and meant not in values: made_by = providers(meant)
    near = f" Did you mean `{meant}`?" if meant else ''
    if made_by:
        others_by = [p[0] for p in map(providers, others) if p]
        *firsts, last = [f'`{o}`' for o in dict.fromkeys([made_by[0], *others_by])]
        put = f"{', '.join(firsts)} and {last}" if firsts else ' or '.join(f'`{o}`' for o in made_by[:FEW])
        return f"{said}{near} Put {put} before `{stepper}` in `cbs`."
    own = '' if near or name in KNOWN else " If you put it into `opt.state` yourself, give it a default of None, or pass `check=False`."
    return f"{said}{near} Pass it as a hyper-parameter, `Optimizer(…, {name}=…)`, or put a stepper that returns it before `{stepper}` in `cbs`.{own}"


KNOWN = frozenset(n for o in steppers.__all__ for n in Stepper(getattr(steppers, o)).names) # what the library's steppers take
