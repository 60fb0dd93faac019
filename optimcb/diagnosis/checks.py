"""What can be told of a composition before its first step: what can't work is an error, what can't be meant a warning.

All of it is read off a rehearsal. A composition that can't be rehearsed, because it prints or asks for a tensor's value,
is only tried on a small tensor, for names that are missing.
"""
from itertools import chain, combinations
from numbers import Real

import torch

from optimcb import steppers
from optimcb._cpython import branches_on_values
from optimcb.composition.errors import StepperError
from optimcb.composition.pipeline import Composition, meant_to_return
from optimcb.composition.results import ONE_STEP
from optimcb.composition.stepper import Stepper, code_of, is_redefined, name_of
from optimcb.diagnosis.groups import Group, can_step, placement
from optimcb.diagnosis.suggestions import worded
from optimcb.engines import eager
from optimcb.steppers.parts import take_back
from optimcb.tracing.purity import branches, may_act
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal
from optimcb.tracing.rng import RngSnapshot

__all__ = ['doubts', 'doubts_of', 'steps_at_all']


PATIENCE = 24 # steps in which the gradient should reach the parameter
WD = 0.01 # decay with which a composition is rehearsed that has none now


@worded()
def doubts_of(
    composition:Composition, # Its steppers
    groups:list[Group], # The parameters
    own:frozenset=frozenset() # Names of state that the composition must make itself, though it may be there
) -> list[str]:
    "What is doubtful about a composition for all of some parameters. Raises `MissingName`."
    if not composition.steppers: return ["there are no steppers, so a step changes nothing. Pass some in `cbs`, such as `[sgd_step]`."]
    found, marks = {}, composition.marks
    for g in groups:
        alike = frozenset((k, type(v), isinstance(v, Real) and v == 0) for k, v in g.hypers.items()) # groups that differ in numbers do the same
        for p, state in zip(g.params, g.states):
            key = can_step(p) and (tuple(state.get(k) for k in marks), alike, p.dtype, p.dim(), _is_flat(p))
            if key and key not in found: found[key] = doubts(composition, g.hypers, p, {k: v for k, v in state.items() if k not in own})
        if not g.params:
            for v in composition.variants: found[tuple(v.values()), alike] = doubts(composition, g.hypers, state=v)
    places = {key[0] for key in found}
    shared = [_shared([ds for key, ds in found.items() if key[0] == at]) for at in places]
    res = dict.fromkeys(d for ds in shared for d in ds if not isinstance(d, OfAll) or all(d in o for o in shared))
    return [*_in_vain(composition), *res, *_unused(composition, groups), *_redefined(composition)]


def _in_vain(composition):
    "What partials fix that their steppers don't take"
    for s in composition.steppers:
        for k, name, meant in s.fixed_in_vain: yield f"a `partial` gives `{k}` to stepper `{name}`, which doesn't read it.{meant}"


class OfAll(str):
    "A doubt about a stepper of all parameters, which may be there for some of them only"


def _shared(found) -> list: return [d for ds in found for d in ds if all(d in o for o in found)]


def _redefined(composition) -> list[str]:
    "Functions that are there as they were, and as they were defined again"
    pairs = combinations(composition.steppers, 2)
    again = [(old, new) for old, new in pairs if is_redefined(new, old) and old.masks == new.masks]
    return [f"`{old}` is there twice: as it was, and defined again. To put a new one in the place of the old: "
            f"`replace({name_of(old.f)}, {name_of(new.f)})`." for old, new in again]


def _unused(composition, groups):
    "Rules that hold for no parameter: they may be misspelled, or the wrong way round"
    rows = placement(composition, groups)
    for rule, says in dict.fromkeys((k, v) for k, d in composition.marks.items() for v in d.values if v is not False):
        there = [r for r in rows if r[0] == rule]
        if there and not any(r[1] == str(says) for r in there):
            what = f"no parameter is in route `{says}`" if rule == 'route' else f"`{rule}` holds for no parameter"
            yield f"{what}: {', '.join(f'{r[2]} {r[1]}' for r in there)}. Is the rule as it is meant? `opt.explain()` shows who is where."


def doubts(
    composition:Composition, # Its steppers
    hypers:dict, # Hyper-parameters of one group
    example:torch.Tensor|None=None, # One of its parameters
    state:dict|None=None # The state of that parameter
) -> list[str]:
    """What is doubtful about a composition, a sentence each.

    Raises `MissingName` for a name that is neither given nor made, `ValueError` for sums over a tensor of which only a piece is there."""
    hypers = {**hypers, **{k: v or WD for k, v in hypers.items() if k in _decays(composition.steppers) and isinstance(v, (int, float))}}
    rehearsal = Rehearsal(composition, hypers, example, state)
    try:
        steps = [rehearsal.step()]
        while not _steps(steps[-1].acts) and rehearsal.done < PATIENCE: steps.append(rehearsal.step())
    except NotRecorded:
        if not rehearsal.refusals: _try(composition, hypers, rehearsal.example, state or {})
        return []
    if _is_flat(example) and (composition.skips_nonfinite or any(s.program.sums or s.program.calls for s in steps)): raise ValueError(FLAT)
    return _doubts([s.acts for s in steps])


FLAT = ("some stepper needs whole parameters, to sum over them or to hand them to a function, but `FullyShardedDataParallel` joins them and "
        "splits them over processes. Shard the model with `torch.distributed.fsdp.fully_shard`, which keeps parameters apart.")


def _is_flat(p) -> bool: return getattr(p, '_fsdp_flattened', False)


def _try(composition, hypers, example, state):
    "A step on a small tensor with a small copy of the state, whatever else may come of it"
    p = torch.nn.Parameter(torch.zeros((2,)*example.dim(), dtype=example.dtype))
    p.grad = torch.ones_like(p)
    def small(v): return v if not isinstance(v, torch.Tensor) else torch.zeros_like(p, dtype=v.dtype) if v.shape == example.shape else v.clone()
    before = RngSnapshot()
    try:
        with torch.no_grad(): eager.step(composition, [(p, {k: small(v) for k, v in state.items()}, hypers)])
    except StepperError: raise
    except Exception: pass # it may need larger tensors, or real ones
    finally: before.restore_if_moved()


def steps_at_all(
    cbs:list # Steppers
) -> bool:
    "Do these move a parameter along its gradients? Where that can't be told, they may."
    composition = Composition(cbs)
    names = {k: 0.5 for s in composition.steppers for k in s.required if k not in ONE_STEP}
    rehearsal = Rehearsal(composition, {**names, **composition.defaults, 'lr': 0.5})
    try: acts = [a for _ in range(PATIENCE) for a in rehearsal.step().acts]
    except (NotRecorded, StepperError): return True
    return bool(_steps(acts))


def _doubts(steps) -> list[str]:
    acts = list(chain(*steps))
    odd = [*_inert(acts), *_idle(acts), *_made_twice(steps[-1])]
    if not _steps(acts) and any(_waits(s.stepper, steps) for s in steps[0]): return odd
    return odd + (list(_unmoved(acts)) or [*_moved_twice(steps[-1]), *_decayed_twice(acts), *_unread(acts)])


def _inert(acts):
    "Steppers that return nothing and change nothing, whichever branch they take"
    composition = Composition([s.f for s in dict.fromkeys(a.stepper for a in acts)])
    acting = {a.stepper for a in acts if a.returns or a.writes}
    for s in dict.fromkeys(a.stepper for a in acts if a.stepper not in acting):
        if s.is_ours or branches(s) and may_act(s): continue
        said = str if s.masks else OfAll
        yield said(f"stepper `{s}` has no effect: it returns nothing, and changes neither `p` nor its state in place. "
                   f"{_forgotten(composition, s, {k for a in acts for k in a.given})}")


def _forgotten(composition, stepper, there) -> str:
    "Ask for what a stepper without effect may lack"
    if stepper.first in stepper.assigned: return f"`{stepper.first} = …` makes another tensor: write `{stepper.first}.data.copy_(…)`."
    name = meant_to_return(composition, stepper, there)
    return f"Did you forget `return {{'{name}': …}}`?" if name else "Did you forget to change `p.data` in place, or to return a dict?"


def _idle(acts):
    for s, k in dict.fromkeys((a.stepper, k) for a in acts for k in a.idle):
        do = {'p': "Change the parameter in place: `p.data.copy_(…)`.", 'grad': "Set it: `p.grad = …`."}.get(k)
        yield (f"stepper `{s}` returns `{k}`, which becomes state of that name and changes nothing. {do}" if do else
               f"stepper `{s}` returns `{k}`, but a hyper-parameter comes before state of its name. For a value of this step, return `once({k}=…)`.")


def _made_twice(acts):
    made = {}
    for a in acts:
        for k in (*a.writes, *a.numbers):
            if k in a.kept: made.setdefault((k, a.stepper.innermost), []).append(a.stepper.label)
    for (k, _), by in made.items():
        if len(by) > 1: yield f"`{k}` is made more than once in a step, by {_listed(by)}. Keep one of them, or give one another name with `renamed`."


def _steps(acts) -> list:
    "The acts that move the parameter along the gradient, or along what was worked out from gradients"
    of_gradients, res = {'grad'}, []
    for a in acts:
        if a.reads & of_gradients:
            of_gradients.update(a.writes.keys() - a.single - {'p'}) # a length of the step is no direction
            if 'p' in a.writes: res.append(a)
    return res


def _unmoved(acts):
    if _steps(acts): return
    made = [(a.stepper, k) for a in acts for k in a.writes if k in ONE_STEP]
    if made: yield f"stepper `{made[-1][0]}` makes `{made[-1][1]}`, but no stepper after it applies it, so nothing is trained. Put `{_applies(acts)}` after it."
    elif acts and not any('p' in a.writes for a in acts): yield f"no stepper changes the parameters. Put a step last, such as `{_applies(acts)}`."


def _waits(stepper, steps) -> bool:
    "Does it take a number that changes, and branch? It may do something later on"
    seen = {}
    for act in chain(*steps):
        for k, v in act.numbers.items(): seen.setdefault(k, set()).add(v)
    code = code_of(stepper.f)
    changing = {k for k in stepper.names if len(seen.get(k, ())) > 1}
    return bool(changing and code and branches_on_values(code))


def _applies(acts) -> str:
    "The library's stepper that takes most of what is there, and steps"
    there = {'lr'}.union(*(a.given for a in acts), *(a.writes for a in acts), *(a.numbers for a in acts))
    if there & ONE_STEP: return 'apply_update'
    fit = [s for s in (Stepper(getattr(steppers, k)) for k in steppers.__all__ if k.endswith('_step')) if there.issuperset(s.required)]
    return max(fit, key=lambda s: len(s.required)).label


def _moved_twice(acts):
    undone = max((i for i, a in enumerate(acts) if a.stepper.innermost is take_back), default=0) # what moves before that is only measured
    by = [a.stepper.label for a in _steps(acts) if not any(a is o for o in acts[:undone])]
    if len(by) > 1: yield f"the parameters are moved along their gradients more than once in a step, by {_listed(by)}. Keep one of them, unless that is meant."


def _decayed_twice(acts):
    for wd in _decays(a.stepper for a in acts):
        by = list(dict.fromkeys(a.stepper.label for a in acts if wd in a.given and a.writes.keys() & {'p', 'grad', *ONE_STEP}))
        if len(by) < 2: by = _repeated(a.stepper for a in acts if wd in a.given and a.writes.keys() & {'p', 'grad'})
        if len(by) > 1: yield f"`{wd}` is applied more than once, by {_listed(by)}. Keep one of them."


def _decays(steppers) -> list:
    "What steppers call weight decay"
    return list(dict.fromkeys(['wd', *(s.new_name('wd') for s in steppers)]))


def _repeated(steppers) -> list:
    "The labels, twice, of those that are there twice in a step"
    seen = {}
    for s in steppers: seen.setdefault(s.label, set()).add(id(s))
    return next(([label]*2 for label, ids in seen.items() if len(ids) > 1), [])


def _unread(acts):
    "Steppers of which nobody reads what they make. Those that make numbers may count for the user"
    order = {id(a.stepper): i for i, a in reversed(list(enumerate(acts)))} # where it comes in a step
    made, numbers, reads, steppers, outputs = {}, {}, {}, {}, set()
    for a in acts:
        s = id(a.stepper)
        steppers[s] = a.stepper
        made.setdefault(s, {}).update({k: k in a.kept for k in a.writes if k not in a.kept & a.single})
        made[s].update({k: False for k in a.numbers if k not in a.kept})
        numbers.setdefault(s, {}).update(dict.fromkeys(a.kept & a.single & a.writes.keys(), True))
        if 'p' in a.reads and a.kept & a.writes.keys(): outputs.add(s) # means of weights and the like
        reads.setdefault(s, set()).update(a.reads, a.given, a.stepper.names)
    alive = outputs | {s for s in made if 'p' in made[s] or not made[s] or steppers[s].taps}
    def read_by(s, k, kept): return [t for t in made if t != s and k in reads[t] and (kept or order[t] > order[s])]
    def is_read(s): return any(t in alive for k, kept in {**made[s], **numbers[s]}.items() for t in read_by(s, k, kept))
    while more := set(filter(is_read, made.keys() - alive)): alive |= more
    for s in sorted(made.keys() - alive, key=order.get):
        names, label, said = made[s], steppers[s].label, str if steppers[s].masks else OfAll
        if 'grad' in names:
            reader = next((steppers[t].label for t in sorted(alive, key=order.get) if 'grad' in reads[t] and order[t] < order[s]), None)
            yield said(f"stepper `{label}` changes the gradient, but no stepper after it reads it.{f' Put it before `{reader}`.' if reader else ''}")
        else:
            nobody = 'other stepper' if any(names.values()) else 'stepper after it'
            yield said(f"stepper `{label}` makes {_listed(names)}, which no {nobody} reads. Leave it out, or put a stepper in that does.")


def _listed(names) -> str:
    names = [f'`{o}`' for o in names]
    return ' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))
