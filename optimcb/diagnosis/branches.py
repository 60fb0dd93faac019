"""Build the tree of a stepper's decisions from its samples, and join its branches into one outcome.

Each sample is a path through the tree: the answers to its conditions, in order. Of a stepper that does
`if wd != 0: …` and then `if step > 5: …`, samples with the answers (yes, no), (yes, yes) and (no,) give

    Tree(wd != 0, Tree(step > 5, outcome, outcome), outcome)

A branch without a sample is one that no step takes (`NOWHERE`), one that other hyper-parameters take
(`UNSEEN`), or one of which only the names are known that it depends on: its lines are `f(…)`.
"""
from functools import reduce

from optimcb.diagnosis.choices import either, negated
from optimcb.diagnosis.differing import all_unknown, in_common, nothing_known, written
from optimcb.diagnosis.exploring import Explored, is_error
from optimcb.diagnosis.expressions import Num, Sym, call, dims, symbols
from optimcb.diagnosis.joining import Joiner
from optimcb.diagnosis.outcomes import NOWHERE, UNSEEN, Outcome, Sample, Tree, n_cases
from optimcb.diagnosis.shapes import NDIM, SHAPE
from optimcb.tracing.recording import NotRecorded

__all__ = ['Branches', 'by_answer', 'grouped', 'question']


MOST_LEAVES = 64 # limit of a stepper's branches in one tree
MOST_CASES = 12 # limit of the choices among them that are shown
BY_SHAPE = 'it depends on the shape of `p`, in a way that can\'t be followed'
LEAKS = 'it takes numbers out of their names, by `float`, `int`, an index or a loop, say'


class Branches:
    """The branches of one stepper.

    `assumed` collects conditions under which they are complete; `why_unknown` is the reason for an `f(…)`."""
    def __init__(self,
        explored:Explored, # Steps, and the branches of their steppers
        place:int, # The stepper's place
        samples:list[Sample], # All that it did
        joiner:Joiner, # Joins its outcomes
        tensors:set[str] # State that some stepper writes as a tensor
    ):
        self.explored, self.place, self.samples, self.joiner = explored, place, samples, joiner
        # State may be a number before the first step, and a tensor after it
        self.as_tensors = {Sym(k): Sym(k, False) for k in tensors}
        self.assumed, self.why_unknown = [], None

    def readable_tree(self,
        samples:list[Sample] # Some of the samples, which had the same state
    ) -> Tree|Outcome:
        "Build the tree of samples; one outcome with `f(…)` if it would have too many cases to be read."
        by_ndim = grouped(samples, lambda s: len(s.shape))
        before = self.why_unknown
        tree = self._tree(samples)
        may_be_of_dims = len(by_ndim) > 1 and self.why_unknown != before
        if may_be_of_dims: # then each number of dimensions may have a tree without `f(…)`
            self.why_unknown = before
            trees = {n: self._tree([_of_known_ndim(s) for s in same]) for n, same in by_ndim.items()}
            tree = self._tree_of_dims(trees)
        cases = n_cases(self.merged(tree))
        return tree if cases <= MOST_CASES else self._in_common(samples, f'it has {cases} cases')

    def merged(self,
        tree:Tree|Outcome # A tree of decisions
    ) -> Outcome:
        "Join all branches of a tree, from the leaves up."
        if isinstance(tree, Outcome): return tree
        c = tree.condition
        if tree.yes is NOWHERE or tree.no is NOWHERE: return self.merged(tree.yes or tree.no)
        if tree.yes is UNSEEN or tree.no is UNSEEN:
            res = self.merged(tree.yes or tree.no)
            return res._replace(assumes=(c if tree.yes else negated(c), *res.assumes))
        return self.joiner.join(c, self.merged(tree.yes), self.merged(tree.no))

    # Building

    def _tree(self, samples, depth=0) -> Tree|Outcome:
        "Build the tree of samples whose first `depth` decisions were the same"
        condition = question(samples, depth)
        if condition is None: return self._in_common(samples)
        is_fixed = self.explored.is_fixed
        ways = {tuple(d.answer for d in s.decisions if not is_fixed(d.condition, self.place))
                for s in samples}
        if len(ways) > MOST_LEAVES:
            return self._in_common(samples, f'it has {len(ways)} branches, or more')
        yes, no = by_answer(samples, depth)
        if yes and no: return Tree(condition, self._tree(yes, depth + 1), self._tree(no, depth + 1))
        seen = self._tree(samples, depth + 1)
        other = self._other_branch(samples[0], depth, condition, seen)
        return Tree(condition, seen, other) if yes else Tree(condition, other, seen)

    def _other_branch(self, sample, depth, condition, seen):
        "Return what is known of a branch that no sample took, beside one that all took"
        answer = sample.answers[depth]
        branch = self.place, sample.there, (*sample.answers[:depth], not answer), sample.shape
        failure = self.explored.failed.get(branch)
        if is_error(failure): return NOWHERE
        decisions = (d for s in self.samples for d in s.decisions)
        is_taken = any(d.condition == condition and d.answer is not answer for d in decisions)
        if is_taken and dims(condition): return NOWHERE # parameters of other shapes have other state
        if self.explored.is_fixed(condition, self.place): return UNSEEN
        is_known = isinstance(failure, NotRecorded)
        self._note(str(failure) if is_known else 'it has more branches than are looked at')
        return nothing_known(self.merged(seen), condition)

    def _tree_of_dims(self, trees) -> Tree|Outcome:
        "Build a tree that asks for the number of dimensions first, valid for those in `trees`"
        (last, res), *others = sorted(trees.items(), reverse=True)
        for n, tree in others:
            if self.merged(trees[last]) != self.merged(tree):
                res = Tree(call('lt', NDIM, Num(last)), tree, res)
            last = n
        if isinstance(res, Tree) and dims(res.condition): self.assumed.append(_is_one_of(trees.keys()))
        return res

    # Samples that differ without a decision

    def _in_common(self, samples, why=LEAKS) -> Outcome:
        "Return what samples have in common; numbers that differ become `f(…)`"
        res, *others = dict.fromkeys(s.outcome.changed(self.as_tensors) for s in samples)
        if not others: return res
        of_shape, of_step = self._differ(samples)
        self._note(BY_SHAPE if of_shape and why == LEAKS else why)
        counters = self.explored.graph.counters & {*self.explored.steppers[self.place].names}
        also = [SHAPE]*of_shape + [Sym(k) for k in sorted(counters)]*of_step
        for other in others:
            has_same_lines = written(res) == written(other) and res.ends == other.ends
            if not has_same_lines: return all_unknown(res, other, also)
            res = in_common(res, other, also)
        return res

    def _differ(self, samples) -> tuple[bool, bool]:
        "Do samples of several shapes differ, and do samples of one shape?"
        by_shape = grouped(samples, lambda s: s.shape)
        outcomes = [{s.outcome.changed(self.as_tensors) for s in same} for same in by_shape.values()]
        return any(o != outcomes[0] for o in outcomes), any(len(o) > 1 for o in outcomes)

    def _note(self, why): self.why_unknown = self.why_unknown or why


def question(
    samples:list[Sample], # Samples of one stepper
    depth:int # Number of decisions before
):
    "Return the condition that all samples decide next, or None if they don't decide the same."
    conditions = {s.decisions[depth].condition if len(s.decisions) > depth else None for s in samples}
    return conditions.pop() if len(conditions) == 1 else None


def by_answer(
    samples:list[Sample], # Samples that decide the same condition
    depth:int # Number of decisions before
) -> tuple[list, list]:
    "Split samples by their answer to the condition: yes, no."
    yes = [s for s in samples if s.decisions[depth].answer]
    return yes, [s for s in samples if not s.decisions[depth].answer]


def grouped(
    samples:list[Sample], # Samples
    key # Function of a sample
) -> dict:
    "Group samples by a key, in order."
    res = {}
    for s in samples: res.setdefault(key(s), []).append(s)
    return res


def _of_known_ndim(sample):
    "Remove the decisions by the number of dimensions alone from a sample"
    def is_known(c): return dims(c) == {NDIM.name} and not symbols(c)
    return sample._replace(decisions=tuple(d for d in sample.decisions if not is_known(d.condition)))


def _is_one_of(numbers):
    "Return the condition that the number of dimensions is one of `numbers`"
    last = max(numbers)
    if set(range(1, last)) <= numbers: return call('le', NDIM, Num(last))
    return reduce(either, (call('eq', NDIM, Num(n)) for n in sorted(numbers)))
