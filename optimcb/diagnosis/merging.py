"""Merge what each stepper did in all its samples into one outcome, valid for all decisions and all states.

A sample says what a stepper did in one step: which state it had, what it decided, which lines it made. Of

    def average(p, step, avg=None, **kwargs):
        if avg is None: avg = torch.zeros_like(p)
        avg = avg + p.grad
        if step > 5: avg = avg/2
        return {'avg': avg}

there are two kinds of samples without `avg`, one for each answer to `step > 5`, and two with it. Samples are
merged in this order:

1. Decisions, by `branches`: `if step > 5: avg = (avg + grad)/2`, `else: avg = avg + grad`; and without
   `avg`, `if step > 5: avg = grad/2`, `else: avg = grad`.
2. State that doesn't exist yet, by `starting`: with a first value of 0, the lines with `avg` are right for
   the first step, too, and the others are dropped. Without such a value, `avg is None` is a condition.
3. The number of dimensions, if a stepper asks for it before anything else.
4. State that is true, false or a word: its values become conditions.
"""
from functools import reduce

from optimcb.diagnosis.branches import Branches, by_answer, grouped, question
from optimcb.diagnosis.choices import NO, YES, either, negated
from optimcb.diagnosis.differing import where
from optimcb.diagnosis.exploring import Explored
from optimcb.diagnosis.expressions import Num, Sym, call, dims, number, symbols
from optimcb.diagnosis.hats import with_hats_everywhere
from optimcb.diagnosis.joining import Joiner
from optimcb.diagnosis.outcomes import NOWHERE, Behaviour, Outcome, Tree
from optimcb.diagnosis.reading import value_of
from optimcb.diagnosis.shapes import NDIM
from optimcb.diagnosis.starting import first_values

__all__ = ['behaviour_of']


def behaviour_of(
    explored:Explored # Steps, and the branches of their steppers
) -> Behaviour:
    "Merge what the steppers do into their behaviour in all steps."
    return _Merger(explored).merge()


class _Merger:
    "Merges the samples of all steppers"
    def __init__(self, explored):
        self.explored = explored
        self.samples = with_hats_everywhere(explored.samples)
        all_samples = [s for samples in self.samples.values() for s in samples]
        numbers = {o.name for s in all_samples for o in s.outcome.numbers}
        # Names of state that is true, false or a word
        self.words = {k for s in all_samples for k, _ in s.words} & numbers
        lines = [o for s in all_samples for o in s.outcome.names.values()]
        self.tensors = {o.name for o in lines if o.kept and not o.e.scalar}

    def merge(self) -> Behaviour:
        "Merge all steppers. State without a first value becomes a condition: does it exist?"
        asked = set() # names of such state
        while True:
            found = self._merge_each(asked)
            starts = {k: v for o in found.values() for k, v in o.starts.items()}
            no_start = [names for o in found.values() for names in o.no_start]
            if not no_start: break
            alone = {k for names in no_start if len(names) == 1 for k in names}
            asked |= alone or {min(no_start[0], key=lambda k: (k in starts, k))}
        e = self.explored
        no_word = {k for o in found.values() for k in o.no_word}
        starts = self._values_in_signatures() | starts | dict.fromkeys(sorted(asked | no_word))
        assumed = dict.fromkeys([*e.assumed, *(c for o in found.values() for c in o.assumed)])
        why_unknown = {place: o.branches.why_unknown for place, o in found.items() if o.branches.why_unknown}
        outcomes = {place: o.outcome for place, o in found.items()}
        return Behaviour(outcomes, e.old, e.by_torch, starts, self._of_one_dimension(assumed), why_unknown,
                         e.steppers, self.samples, e.n_steps)

    def _merge_each(self, asked) -> dict:
        "Merge the steppers one after the other, by their places"
        found, starts = {}, {}
        for place in sorted(self.samples):
            found[place] = _StepperMerger(self, place, asked, starts)
            starts = starts | found[place].starts
        return found

    def _of_one_dimension(self, assumed) -> list:
        "Replace several conditions on dimensions by one, if all rehearsed parameters had the same number"
        about_dims = [c for c in assumed if dims(c) == {NDIM.name} and not symbols(c)]
        numbers = {len(shape) for shape in self.explored.shapes}
        if len(about_dims) < 2 or len(numbers) > 1: return list(assumed)
        return [call('eq', NDIM, Num(*numbers)), *(c for c in assumed if c not in about_dims)]

    def _values_in_signatures(self) -> dict:
        "Return the state whose first value is in a stepper's signature"
        steppers, made = self.explored.steppers, self.explored.graph.state - self.explored.hypers.keys()
        numbers = [o for s in reversed(steppers) for o in s.numbers.items()]
        words = [o for s in reversed(steppers) for o in s.words.items() if o[0] in self.words]
        return {k: number(v) for k, v in numbers if k in made} | {k: value_of(v) for k, v in words}


class _StepperMerger:
    "Merges the samples of one stepper into `outcome`"
    def __init__(self, merger, place, asked, known_starts):
        self.explored, self.place, self.words = merger.explored, place, merger.words
        self.asked = asked # names of state whose existence is to be a condition
        self.known_starts = known_starts # first values of state, from steppers before it
        self.starts, self.no_start = {}, [] # first values of state, and names of state that has none
        self.no_word = set() # names of state that is a word only after the first step
        samples = merger.samples[place]
        self.joiner = Joiner(samples, self.words, self.explored.n_steps)
        self.branches = Branches(self.explored, place, samples, self.joiner, merger.tensors)
        self.assumed = self.branches.assumed
        self.outcome = self._settled(self._for_all_words(samples), samples)

    def _settled(self, outcome, samples) -> Outcome:
        "Remove branches on hyper-parameters only; the outcome is valid while these keep their values"
        for d in dict.fromkeys(d for s in samples for d in s.decisions):
            if not self.explored.is_settled(d.condition, self.place): continue
            settled = where(outcome, d.condition, d.natural)
            if settled != outcome: self.assumed.append(d.condition if d.natural else negated(d.condition))
            outcome = settled
        self.assumed += outcome.assumes
        return outcome

    def _for_all_words(self, samples, done=frozenset()) -> Outcome:
        "Merge samples, whatever the values of state that is true, false or a word"
        name = next((k for s in samples for k, _ in s.words if k in self.words - done), None)
        if name is None: return self._for_all_shapes(samples)
        by_word = grouped(samples, lambda s: dict(s.words).get(name))
        absent = by_word.pop(None, [])
        if any(name in s.there for s in absent): return self._for_all_shapes(samples)
        outcomes = {k: self._for_all_words(same, done | {name}) for k, same in by_word.items()}
        is_one = {k: call('eq', Sym(name), k) for k in outcomes}
        if outcomes.keys() != {YES, NO}: self.assumed.append(reduce(either, is_one.values()))
        *others, (_, res) = outcomes.items()
        for k, outcome in others: res = self.joiner.join(is_one[k], outcome, res)
        if not absent: return res
        self.no_word.add(name)
        return self.joiner.join(call('is_none', Sym(name)), self._for_all_words(absent, done | {name}), res)

    def _for_all_shapes(self, samples, depth=0) -> Outcome:
        "Merge samples, whatever state exists; those that ask for dimensions first are split by the answer"
        condition = question(samples, depth)
        if condition is not None and NDIM.name in dims(condition):
            yes, no = by_answer(samples, depth)
            if yes and no:
                yes, no = (self._for_all_shapes(o, depth + 1) for o in (yes, no))
                return self.joiner.join(condition, yes, no)
        by_there = grouped(samples, lambda s: s.there)
        trees = {there: self.branches.readable_tree(same) for there, same in by_there.items()}
        return self.branches.merged(self._whatever_exists(trees))

    def _whatever_exists(self, trees) -> Tree|Outcome:
        "Merge trees with and without some state into one if the state has a first value, else keep both"
        if len(trees) == 1: return next(iter(trees.values()))
        all_names = frozenset().union(*trees)
        differ = (k for k in all_names if len({k in there for there in trees}) > 1)
        name = min(differ, key=lambda k: (k not in self.asked, k))
        present = {there: tree for there, tree in trees.items() if name in there}
        absent = {there: tree for there, tree in trees.items() if name not in there}
        missing = frozenset.intersection(*present) - frozenset().union(*absent)
        present, absent = self._whatever_exists(present), self._whatever_exists(absent)
        if present == absent: return present
        if missing & self.asked: return Tree(call('is_none', Sym(min(missing & self.asked))), absent, present)
        merged = self.branches.merged(present), self.branches.merged(absent)
        known = self.known_starts | self.starts
        found = first_values(present, absent, merged, sorted(missing), known, self.explored.hypers)
        if found is None: self.no_start.append(missing)
        else: self.starts |= found
        return present if found is None else _completed_tree(present, absent)


def _completed_tree(present, absent) -> Tree|Outcome:
    "Return the tree with state, with branches of the one without it where it has none"
    if present is NOWHERE: return absent
    if not isinstance(present, Tree) or not isinstance(absent, Tree): return present
    if present.condition != absent.condition: return present
    yes, no = _completed_tree(present.yes, absent.yes), _completed_tree(present.no, absent.no)
    return Tree(present.condition, yes, no)
