"""Check a composition before its first step: raise for what can't work, warn of what is probably a mistake.

The checks read a rehearsal. A composition that can't be rehearsed, because it prints or reads a tensor's
value, is only tried on a small tensor, to find missing names.
"""
from itertools import combinations
from numbers import Real

import torch

from optimcb.composition.errors import StepperError
from optimcb.composition.identity import is_redefined
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP
from optimcb.composition.stepper import name_of
from optimcb.diagnosis.graph import Dataflow
from optimcb.diagnosis.graph_checks import NO_EFFECT, IfEverywhere, decay_names, graph_warnings
from optimcb.diagnosis.groups import Group, can_step, placement
from optimcb.diagnosis.lost import lost_in_code, lost_in_steps, may_lose
from optimcb.diagnosis.suggestions import worded
from optimcb.engines import eager
from optimcb.tracing.recording import NotRecorded
from optimcb.tracing.rehearsal import Rehearsal
from optimcb.tracing.rng import RngSnapshot

__all__ = ['steps_at_all', 'warnings_for', 'warnings_for_parameter']


MOST_STEPS = 24 # limit of steps until the gradient reaches the parameter
FIRST_STEPS = 3 # in which steppers may lose what they work out: from the second one on, there is state
WD = 0.01 # weight decay for the rehearsal if the real one is 0
FLAT = ("some stepper needs whole parameters, to sum over them or to hand them to a function, but "
        "`FullyShardedDataParallel` joins them and splits them over processes. Shard the model with "
        "`torch.distributed.fsdp.fully_shard`, which keeps parameters apart.")


def warnings_for(
    composition:Composition, # Its steppers
    groups:list[Group], # The parameters
    own:frozenset=frozenset(), # Names of state that the composition must make itself, though it may be there
    live:bool=False # Does an optimizer run already?
) -> list[str]:
    "List probable mistakes in a composition for these parameters. Raises `MissingName`."
    if not composition.steppers:
        return ["there are no steppers, so a step changes nothing. Pass some in `cbs`, such as `[sgd_step]`."]
    with worded(live): found = _by_kind(composition, groups, own)
    common = _in_common(found)
    return [*_unused_options(composition), *common, *_lost(composition, groups, common),
            *_unused_rules(composition, groups), *_redefined(composition)]


def _lost(composition, groups, said) -> list[str]:
    "Warn of what steppers lose, except those that have no effect at all"
    there = {k for g in groups for k in g.hypers}
    idle = [s for s in composition.steppers if any(w.startswith(NO_EFFECT.format(s)) for w in said)]
    return [w for s, w in lost_in_code(composition, there) if s not in idle and w not in said]


def _by_kind(composition, groups, own) -> dict:
    "Collect the warnings for each kind of parameters, by `(masks, …)`"
    found, able = {}, {}
    for g in groups:
        kinds_of_hypers = frozenset((k, type(v), isinstance(v, Real) and v == 0) for k, v in g.hypers.items())
        for p, state in zip(g.params, g.states):
            kind = type(p), getattr(p, 'dtype', None)
            if kind not in able: able[kind] = can_step(p)
            if not able[kind]: continue
            masks = tuple(state.get(k) for k in composition.masks) if composition.masks else ()
            key = masks, kinds_of_hypers, p.dtype, p.dim(), _is_flat(p)
            if key in found: continue
            before = {k: v for k, v in state.items() if k not in own}
            found[key] = warnings_for_parameter(composition, g.hypers, p, before)
        if g.params: continue
        for masks in composition.variants:
            key = tuple(masks.values()), kinds_of_hypers
            found[key] = warnings_for_parameter(composition, g.hypers, state=masks)
    return found


def _in_common(found) -> list[str]:
    "Return the warnings that all kinds with the same masks share"
    by_masks = {}
    for (masks, *_), warnings in found.items(): by_masks.setdefault(masks, []).append(warnings)
    shared = [_in_all(kinds) for kinds in by_masks.values()]
    every = dict.fromkeys(w for warnings in shared for w in warnings)
    return [w for w in every if not isinstance(w, IfEverywhere) or all(w in warnings for warnings in shared)]


def _in_all(lists) -> list: return [w for warnings in lists for w in warnings if all(w in o for o in lists)]


def warnings_for_parameter(
    composition:Composition, # Its steppers
    hypers:dict, # Hyper-parameters of one group
    example:torch.Tensor|None=None, # One of its parameters; default: a matrix in float32
    state:dict|None=None # State of that parameter
) -> list[str]:
    """List probable mistakes in a composition for one parameter, a sentence each.

    Raises `MissingName` for an unknown name, `ValueError` for sums over a tensor that is only partly in this
    process."""
    rehearsal = Rehearsal(composition, _with_decay(composition, hypers), example, state)
    try: steps = _rehearsed(rehearsal)
    except NotRecorded:
        if not rehearsal.refusals: _try_small(composition, hypers, rehearsal.example, state or {})
        return []
    needs_all = composition.skips_nonfinite or any(s.program.sums or s.program.calls for s in steps)
    if needs_all and _is_flat(example): raise ValueError(FLAT)
    graph = Dataflow(s.effects for s in steps)
    return [*graph_warnings(graph), *_lost_in_first_steps(rehearsal, steps, graph)]


def _lost_in_first_steps(rehearsal, steps, graph) -> list[str]:
    "Warn of what steppers lose in these steps, and in more of the first ones"
    composition, effects = rehearsal.composition, [e for s in steps for e in s.effects]
    if not any(map(may_lose, composition.steppers)): return []
    try:
        while rehearsal.done < FIRST_STEPS: effects += rehearsal.step().effects
    except (NotRecorded, StepperError): pass # that a later step has them is said when it comes
    known = {s.f for s, _ in lost_in_code(composition, graph.given)}
    return list(lost_in_steps(composition, [e for e in effects if e.stepper.f not in known], graph.given))


def _with_decay(composition, hypers) -> dict:
    "Replace a weight decay of 0, so that the rehearsal shows its effect"
    decays = decay_names(composition.steppers)
    return hypers | {k: v or WD for k, v in hypers.items() if k in decays and isinstance(v, (int, float))}


def _rehearsed(rehearsal) -> list:
    "Rehearse until a step moves the parameter along a gradient"
    steps = [rehearsal.step()]
    def moves(step): return bool(Dataflow([step.effects]).moves())
    while not moves(steps[-1]) and rehearsal.done < MOST_STEPS: steps.append(rehearsal.step())
    return steps


def _try_small(composition, hypers, example, state):
    "Take a step on a small tensor with a small copy of the state, and raise errors about the steppers' names"
    p = torch.nn.Parameter(torch.zeros((2,)*example.dim(), dtype=example.dtype))
    p.grad = torch.ones_like(p)
    def small(v):
        if not isinstance(v, torch.Tensor): return v
        return torch.zeros_like(p, dtype=v.dtype) if v.shape == example.shape else v.clone()
    before = RngSnapshot()
    try:
        with torch.no_grad(): eager.step(composition, [(p, {k: small(v) for k, v in state.items()}, hypers)])
    except StepperError: raise
    except Exception: pass # it may need larger tensors, or real values
    finally: before.restore_if_moved()


def steps_at_all(
    cbs:list # Steppers
) -> bool:
    "Do these steppers move a parameter along its gradients? If unknown, the answer is yes."
    composition = Composition(cbs)
    names = {k: 0.5 for s in composition.steppers for k in s.required if k not in ONE_STEP}
    rehearsal = Rehearsal(composition, {**names, **composition.defaults, 'lr': 0.5})
    try: graph = Dataflow([rehearsal.step().effects for _ in range(MOST_STEPS)])
    except (NotRecorded, StepperError): return True
    return bool(graph.moves())


def _is_flat(p) -> bool: return getattr(p, '_fsdp_flattened', False)


# Checks of the composition alone

def _unused_options(composition):
    "Warn of options in a `partial` that the stepper doesn't take"
    for s in composition.steppers:
        for k, name, meant in s.fixed_in_vain:
            yield f"a `partial` gives `{k}` to stepper `{name}`, which doesn't read it.{meant}"


def _redefined(composition):
    "Warn of redefined functions whose old version is still in the list"
    for old, new in combinations(composition.steppers, 2):
        if not is_redefined(new, old) or old.masks != new.masks: continue
        yield (f"`{old}` is there twice: as it was, and defined again. To put the new one in the place of "
               f"the old: `replace({name_of(old.f)}, {name_of(new.f)})`.")


def _unused_rules(composition, groups):
    "Warn of rules that match no parameter: they may be misspelled or inverted"
    rows = placement(composition, groups)
    answers = dict.fromkeys((k, v) for k, d in composition.masks.items() for v in d.values if v is not False)
    for rule, answer in answers:
        there = [r for r in rows if r[0] == rule]
        if not there or any(r[1] == str(answer) for r in there): continue
        is_route = rule == 'route'
        what = f"no parameter is in route `{answer}`" if is_route else f"`{rule}` holds for no parameter"
        counts = ', '.join(f'{r[2]} {r[1]}' for r in there)
        yield (f"{what}: {counts}. Is the rule as it is meant? "
               "`opt.explain()` shows which parameters are where.")
