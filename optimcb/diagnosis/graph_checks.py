"Check a dataflow graph for steppers without effect, unread results, and duplicate steps or decay."
from optimcb import steppers
from optimcb._compat.bytecode import branches_on_values
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP
from optimcb.composition.stepper import Stepper, code_of
from optimcb.diagnosis.graph import Dataflow
from optimcb.diagnosis.lost import what_it_lacks
from optimcb.steppers.parts import undo_step
from optimcb.tracing.purity import branches, may_act

__all__ = ['NO_EFFECT', 'IfEverywhere', 'decay_names', 'graph_warnings']


NO_EFFECT = "stepper `{}` has no effect"


class IfEverywhere(str):
    "A warning about a stepper without a rule, which is only given if all routes and masks have it."


def graph_warnings(
    graph:Dataflow # Steps of a composition, up to one that moves the parameter
) -> list[str]:
    "List probable mistakes in the steps, a sentence each."
    found = [*_without_effect(graph), *_returned_in_vain(graph), *_made_twice(graph)]
    is_trained = bool(graph.moves())
    first = {a.place for a in graph.steps[0]}
    if not is_trained and any(_may_act_later(o, graph) for o in graph.nodes if o.place in first): return found
    not_applied = [] if is_trained else list(_not_applied(graph))
    return [*found, *(not_applied or [*_moved_twice(graph), *_decayed_twice(graph), *_unread(graph)])]


# Steppers without effect

def _without_effect(graph):
    "Warn of steppers that return nothing and change nothing in any branch"
    composition = Composition([o.stepper.f for o in graph.nodes])
    for o in graph.nodes:
        s = o.stepper
        if o.acts_at_all or s.is_ours or branches(s) and may_act(s): continue
        kind = str if s.masks else IfEverywhere
        yield kind(f"{NO_EFFECT.format(s)}: it returns nothing, and changes neither `p` nor its state in "
                   f"place. {what_it_lacks(composition, s, graph.given)}")


def _returned_in_vain(graph):
    "Warn of names that a stepper returns without effect"
    instead = {'p': "Change the parameter in place: `p.data.copy_(…)`.", 'grad': "Set it: `p.grad = …`."}
    for s, k in dict.fromkeys((a.stepper, k) for a in graph.effects for k in a.idle):
        if k in instead:
            yield (f"stepper `{s}` returns `{k}`, which becomes state of that name and changes nothing. "
                   f"{instead[k]}")
        else:
            yield (f"stepper `{s}` returns `{k}`, but a hyper-parameter comes before state of its name. "
                   f"For a value of this step, return `once({k}=…)`.")


# Duplicates

def _made_twice(graph):
    "Warn of state that is written more than once in a step by the same function"
    made = {}
    for a in graph.steps[-1]:
        for k in (*a.writes, *a.numbers):
            if k in a.kept: made.setdefault((k, a.stepper.innermost), []).append(a.stepper.label)
    for (k, _), by in made.items():
        if len(by) < 2: continue
        yield (f"`{k}` is made more than once in a step, by {_listed(by)}. "
               "Keep one of them, or give one another name with `renamed`.")


def _moved_twice(graph):
    "Warn of steppers that each move the parameter along the gradient"
    effects = graph.steps[-1]
    undone = max((i for i, a in enumerate(effects) if a.stepper.innermost is undo_step), default=0)
    measured = {id(a) for a in effects[:undone]} # `undo_step` undoes their effect
    by = [a.stepper.label for a in graph.moves(effects) if id(a) not in measured]
    if len(by) > 1:
        yield (f"the parameters are moved along their gradients more than once in a step, by {_listed(by)}. "
               "Keep one of them, unless that is meant.")


def _decayed_twice(graph):
    "Warn of weight decay that more than one stepper applies"
    for wd in decay_names(o.stepper for o in graph.nodes):
        taking = [a for a in graph.effects if wd in a.given]
        applying = [a.stepper for a in taking if a.writes.keys() & {'p', 'grad', *ONE_STEP}]
        by = list(dict.fromkeys(s.label for s in applying))
        if len(by) < 2: by = _repeated(a.stepper for a in taking if a.writes.keys() & {'p', 'grad'})
        if len(by) > 1: yield f"`{wd}` is applied more than once, by {_listed(by)}. Keep one of them."


def decay_names(
    steppers # Steppers
) -> list[str]:
    "List the steppers' names for weight decay."
    return list(dict.fromkeys(['wd', *(s.new_name('wd') for s in steppers)]))


def _repeated(steppers) -> list:
    "Return the first label that two steppers share, twice"
    seen = {}
    for s in steppers: seen.setdefault(s.label, set()).add(id(s))
    return next(([label]*2 for label, ids in seen.items() if len(ids) > 1), [])


# Results that don't reach the parameter

def _not_applied(graph):
    "Warn if nothing moves the parameter along the gradient"
    made = [(a.stepper, k) for a in graph.effects for k in a.writes if k in ONE_STEP]
    if made:
        stepper, name = made[-1]
        yield (f"stepper `{stepper}` makes `{name}`, but no stepper after it applies it, so nothing is "
               f"trained. Put `{_step_for(graph)}` after it.")
    elif graph.effects and not any('p' in a.writes for a in graph.effects):
        yield f"no stepper changes the parameters. Put a step last, such as `{_step_for(graph)}`."


def _step_for(graph) -> str:
    "Return the library's step that takes most of the available names"
    there = {'lr'}.union(*(a.given for a in graph.effects), *(o.outputs for o in graph.nodes))
    if there & ONE_STEP: return 'apply_update'
    ours = [Stepper(getattr(steppers, k)) for k in steppers.__all__ if k.endswith('_step')]
    fit = [s for s in ours if there.issuperset(s.required)]
    return max(fit, key=lambda s: len(s.required)).label


def _unread(graph):
    "Warn of steppers whose results have no effect"
    for o in graph.nodes:
        if o in graph.live: continue
        kind = str if o.stepper.masks else IfEverywhere
        if 'grad' in o.results:
            reader = next((r.label for r in graph.live if 'grad' in r.reads and r.place < o.place), None)
            where = f" Put it before `{reader}`." if reader else ''
            yield kind(f"stepper `{o.label}` changes the gradient, but no stepper after it reads it.{where}")
        else:
            which = 'other stepper' if any(o.results.values()) else 'stepper after it'
            yield kind(f"stepper `{o.label}` makes {_listed(o.results)}, which no {which} reads. "
                       "Leave it out, or put a stepper in that does.")


def _may_act_later(node, graph) -> bool:
    "Does it branch and take a number that changes? Then it may act in a later step"
    seen = {}
    for a in graph.effects:
        for k, v in a.numbers.items(): seen.setdefault(k, set()).add(v)
    code = code_of(node.stepper.f)
    changing = {k for k in node.stepper.names if len(seen.get(k, ())) > 1}
    return bool(changing and code and branches_on_values(code))


def _listed(names) -> str:
    *firsts, last = [f'`{o}`' for o in names]
    return f"{', '.join(firsts)} and {last}" if firsts else last
