"Hats on one-step values that hide another name: one that has a hat in some branch has it in all that follow."
from optimcb.diagnosis.algebra import Sym
from optimcb.diagnosis.outcomes import Line, Sample
from optimcb.diagnosis.rewriting import substituted

__all__ = ['with_hats_everywhere']


HAT = '_hat'


def with_hats_everywhere(
    samples:dict[int, list[Sample]] # By the place of the stepper
) -> dict[int, list[Sample]]:
    "Give names their hats in all branches: where a branch makes no new value, the hat is the name."
    first = _first_with_hat(samples)
    return {place: _at_place(place, here, first) for place, here in samples.items()}


def _first_with_hat(samples) -> dict:
    "For each name with a hat the place of the first stepper that makes it, and the line"
    first = {}
    for place in sorted(samples):
        for s in samples[place]:
            for k, line in s.outcome.names.items():
                if k.endswith(HAT) and not line.kept: first.setdefault(k, (place, line))
    return first


def _at_place(place, samples, first) -> list[Sample]:
    "Samples of one stepper, with hats on names that other branches have given them to"
    res = list(samples)
    for i, s in enumerate(samples):
        before = [k for k, (at, _) in first.items() if at < place and k not in s.hats]
        here = [line for k, (at, line) in first.items() if at == place and k not in s.outcome.names]
        if not before and not here: continue
        new = {Sym(_bare(k), scalar): Sym(k, scalar) for k in before for scalar in (True, False)}
        decisions = tuple(d._replace(condition=substituted(d.condition, new)) for d in s.decisions)
        outcome = _with_lines(s.outcome.changed(new), here, res)
        res[i] = s._replace(outcome=outcome, decisions=decisions)
    return res


def _with_lines(outcome, lines, samples):
    "With lines that give names their hats, where other samples have them: among the items or the numbers"
    same = tuple(o._replace(e=Sym(_bare(o.name), o.e.scalar)) for o in lines)
    names = {o.name for o in lines}
    items = [o for s in samples for o in s.outcome.items]
    are_items = any(isinstance(o, Line) and o.name in names for o in items)
    if are_items: return outcome._replace(items=outcome.items + same)
    return outcome._replace(numbers=outcome.numbers + same)


def _bare(name) -> str: return name.removesuffix(HAT)
