"""Give one-step values that hide a state another name: `sqr_avg_hat` for a debiased `sqr_avg`.

A rehearsal does so in the branches that make such a value. Here the other branches of the same steppers get
the same names, so that branches can be merged: where nothing is debiased, `sqr_avg_hat = sqr_avg`."""
from optimcb.diagnosis.expressions import Sym
from optimcb.diagnosis.outcomes import Line, Sample
from optimcb.diagnosis.rewriting import substituted

__all__ = ['with_hats_everywhere']


HAT = '_hat'


def with_hats_everywhere(
    samples:dict[int, list[Sample]] # Samples, by the place of the stepper
) -> dict[int, list[Sample]]:
    "Use names with hats in all samples, if one sample makes such a name."
    first = _first_with_hat(samples)
    return {place: _at_place(place, here, first) for place, here in samples.items()}


def _first_with_hat(samples) -> dict:
    "Map each name with a hat to the place of the first stepper that writes it, and the line"
    first = {}
    for place in sorted(samples):
        for s in samples[place]:
            for k, line in s.outcome.names.items():
                if k.endswith(HAT) and not line.kept: first.setdefault(k, (place, line))
    return first


def _at_place(place, samples, first) -> list[Sample]:
    "Return the samples of one stepper, with hats on names that have one in other samples"
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
    "Insert lines that define names with hats, among items or numbers as in other samples"
    same = tuple(o._replace(e=Sym(_bare(o.name), o.e.scalar)) for o in lines)
    names = {o.name for o in lines}
    items = [o for s in samples for o in s.outcome.items]
    are_items = any(isinstance(o, Line) and o.name in names for o in items)
    if are_items: return outcome._replace(items=outcome.items + same)
    return outcome._replace(numbers=outcome.numbers + same)


def _bare(name) -> str: return name.removesuffix(HAT)
