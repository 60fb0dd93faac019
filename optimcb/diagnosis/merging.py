"""Merge the samples of each stepper into one outcome for all decisions and all states.

A stepper's samples first form a tree of its decisions. Its branches are merged from the leaves up: different
numbers become choices, different lines become blocks under a condition.
"""
from functools import reduce

from optimcb.diagnosis.algebra import (
    Num,
    Sym,
    call,
    dims,
    number,
    symbols,
)
from optimcb.diagnosis.choices import NO, YES, both, choice, either, negated
from optimcb.diagnosis.differing import (
    NoNumber,
    all_unknown,
    general_outcome,
    in_common,
    nothing_known,
    number_chosen,
    where,
    written,
)
from optimcb.diagnosis.exploring import Explored, is_error
from optimcb.diagnosis.hats import with_hats_everywhere
from optimcb.diagnosis.outcomes import (
    NOWHERE,
    UNSEEN,
    Behaviour,
    Block,
    Line,
    Outcome,
    Tree,
    n_cases,
    steps_in_words,
)
from optimcb.diagnosis.reading import value_of
from optimcb.diagnosis.rewriting import common
from optimcb.diagnosis.shapes import NDIM, SHAPE
from optimcb.diagnosis.starting import first_values
from optimcb.tracing.recording import NotRecorded

__all__ = ['behaviour_of']


MOST_LEAVES = 64 # branches of a stepper that are put together
MOST_CASES = 12 # choices among them that are shown
OF_SHAPE = 'it depends on the shape of `p`, in a way that can\'t be followed'
LEAKS = 'it takes numbers out of their names, by `float`, `int`, an index or a loop, say'


def behaviour_of(
    explored:Explored # Steps, and the branches of their steppers
) -> Behaviour:
    "Merge what the steppers do into their behaviour in all steps."
    return _Merger(explored).merge()


class _Merger:
    "Merges samples"
    def __init__(self, explored):
        self.explored, self.hypers = explored, explored.hypers
        self.samples = with_hats_everywhere(explored.samples)
        self.assumed, self.unsaid = [], {}
        # Names that steppers give something true, false, or a word
        written = {o.name for here in self.samples.values() for s in here for o in s.outcome.numbers}
        self.words = {k for here in self.samples.values() for s in here for k, _ in s.words} & written
        self.starts, self.no_start = {}, [] # first values of state, and names of state that have none
        self.no_word = set() # names of state that is a word only after the first step

    def merge(self) -> Behaviour:
        "Merge all steppers. State without an initial value becomes a condition: does it exist?"
        asked = set()
        while True:
            self.starts, self.no_start, self.assumed = {}, [], list(self.explored.assumed)
            outcomes = {place: self.outcome(place, asked) for place in sorted(self.samples)}
            if not self.no_start: break
            alone = {k for names in self.no_start if len(names) == 1 for k in names}
            asked |= alone or {min(self.no_start[0], key=lambda k: (k in self.starts, k))}
        e = self.explored
        starts = self.values_in_signatures() | self.starts | dict.fromkeys(sorted(asked | self.no_word))
        assumed = self.of_one_dimension(dict.fromkeys(self.assumed))
        return Behaviour(outcomes, e.old, e.by_torch, starts, assumed, self.unsaid, e.steppers, self.samples,
                         e.n_steps)

    def of_one_dimension(self, assumed) -> list:
        "Conditions, with one in the place of several if parameters of one number of dimensions were seen"
        about_dims = [c for c in assumed if dims(c) == {NDIM.name} and not symbols(c)]
        numbers = {len(shape) for shape in self.explored.shapes}
        if len(about_dims) < 2 or len(numbers) > 1: return list(assumed)
        return [call('eq', NDIM, Num(*numbers)), *(c for c in assumed if c not in about_dims)]

    def values_in_signatures(self) -> dict:
        "Return the state whose initial value is in a stepper's signature"
        made = self.explored.graph.state - self.hypers.keys()
        numbers = [o for s in reversed(self.explored.steppers) for o in s.numbers.items()]
        words = [o for s in reversed(self.explored.steppers) for o in s.words.items() if o[0] in self.words]
        return {k: number(v) for k, v in numbers if k in made} | {k: value_of(v) for k, v in words}

    def outcome(self, place, asked) -> Outcome:
        "What one stepper does, whatever was there and whatever it decides"
        return self.settled(place, self.whatever_words(place, self.samples[place], asked))

    def whatever_words(self, place, samples, asked, done=frozenset()) -> Outcome:
        "What samples do, whatever state is that is true, false or a word"
        name = next((k for s in samples for k, _ in s.words if k in self.words - done), None)
        if name is None: return self.whatever_shape(place, samples, asked)
        by_word = {}
        for s in samples: by_word.setdefault(dict(s.words).get(name), []).append(s)
        absent = by_word.pop(None, [])
        if any(name in s.there for s in absent): return self.whatever_shape(place, samples, asked)
        outcomes = {k: self.whatever_words(place, o, asked, done | {name}) for k, o in by_word.items()}
        is_one = {k: call('eq', Sym(name), k) for k in outcomes}
        if outcomes.keys() != {YES, NO}: self.assumed.append(reduce(either, is_one.values()))
        *others, (_, res) = outcomes.items()
        for k, outcome in others: res = self.chosen(place, is_one[k], outcome, res)
        if not absent: return res
        self.no_word.add(name)
        first = self.whatever_words(place, absent, asked, done | {name})
        return self.chosen(place, call('is_none', Sym(name)), first, res)

    def whatever_shape(self, place, samples, asked, depth=0) -> Outcome:
        "What samples do, whatever was there. Those that ask for dimensions first are told apart by that"
        conditions = {s.decisions[depth].condition if len(s.decisions) > depth else None for s in samples}
        condition = conditions.pop()
        if not conditions and condition is not None and NDIM.name in dims(condition):
            yes = [s for s in samples if s.decisions[depth].answer]
            no = [s for s in samples if not s.decisions[depth].answer]
            if yes and no:
                yes, no = (self.whatever_shape(place, o, asked, depth + 1) for o in (yes, no))
                return self.chosen(place, condition, yes, no)
        by_there = {}
        for s in samples: by_there.setdefault(s.there, []).append(s)
        trees = {there: self.readable_tree(place, alike) for there, alike in by_there.items()}
        return self.merged(place, self.whatever_is_there(place, trees, asked))

    def settled(self, place, outcome) -> Outcome:
        "Remove branches on hyper-parameters only; the outcome is valid while these keep their values"
        for d in dict.fromkeys(d for s in self.samples[place] for d in s.decisions):
            if not self.explored.is_settled(d.condition, place): continue
            settled = where(outcome, d.condition, d.natural)
            if settled != outcome: self.assumed.append(d.condition if d.natural else negated(d.condition))
            outcome = settled
        self.assumed += outcome.assumes
        return outcome

    # A tree of decisions

    def one_for_each_number_of_dims(self, place, trees) -> Tree|Outcome:
        "A tree that asks for the number of dimensions first, and holds for those that are known"
        (last, res), *others = sorted(trees.items(), reverse=True)
        for n, tree in others:
            if self.merged(place, trees[last]) != self.merged(place, tree):
                res = Tree(call('lt', NDIM, Num(last)), tree, res)
            last = n
        if isinstance(res, Tree) and dims(res.condition): self.assumed.append(_is_one_of(trees.keys()))
        return res

    def readable_tree(self, place, samples) -> Tree|Outcome:
        "The branches of a stepper, if they can be read when they are put together"
        by_ndim = {}
        for s in samples: by_ndim.setdefault(len(s.shape), []).append(s)
        before = dict(self.unsaid)
        tree = self.tree(place, samples)
        is_of_dims = len(by_ndim) > 1 and self.unsaid.keys() > before.keys()
        if is_of_dims: # perhaps it can be said for each number of dimensions
            self.unsaid = before
            trees = {n: self.tree(place, [_of_known_ndim(s) for s in alike]) for n, alike in by_ndim.items()}
            tree = self.one_for_each_number_of_dims(place, trees)
        cases = n_cases(self.merged(place, tree))
        return tree if cases <= MOST_CASES else self.agreed(place, samples, f'it has {cases} cases')

    def tree(self, place, samples, depth=0) -> Tree|Outcome:
        "Build the tree of samples that have made the same decisions so far"
        conditions = {s.decisions[depth].condition if len(s.decisions) > depth else None for s in samples}
        if conditions == {None} or len(conditions) > 1: return self.agreed(place, samples)
        is_fixed = self.explored.is_fixed
        ways = {tuple(d.answer for d in s.decisions if not is_fixed(d.condition, place)) for s in samples}
        if len(ways) > MOST_LEAVES:
            return self.agreed(place, samples, f'it has {len(ways)} branches, or more')
        condition, = conditions
        yes = [s for s in samples if s.decisions[depth].answer]
        no = [s for s in samples if not s.decisions[depth].answer]
        if yes and no:
            return Tree(condition, self.tree(place, yes, depth + 1), self.tree(place, no, depth + 1))
        seen = self.tree(place, samples, depth + 1)
        other = self.other_branch(place, samples[0], depth, condition, seen)
        return Tree(condition, seen, other) if yes else Tree(condition, other, seen)

    def other_branch(self, place, sample, depth, condition, seen):
        "A branch that no sample took, beside one that all took"
        answers = *sample.answers[:depth], not sample.answers[depth]
        branch = place, sample.there, answers, sample.shape
        failure = self.explored.failed.get(branch)
        if is_error(failure): return NOWHERE
        is_of_others = dims(condition) and self.is_answered_otherwise(place, condition, sample.answers[depth])
        if is_of_others: return NOWHERE # parameters of other shapes have other state
        if self.explored.is_fixed(condition, place): return UNSEEN
        is_known = isinstance(failure, NotRecorded)
        self.unsaid.setdefault(place, str(failure) if is_known else 'it has more branches than are looked at')
        return nothing_known(self.merged(place, seen), condition)

    def is_answered_otherwise(self, place, condition, answer) -> bool:
        decisions = (d for s in self.samples[place] for d in s.decisions)
        return any(d.condition == condition and d.answer is not answer for d in decisions)

    def merged(self, place, tree) -> Outcome:
        "Merge the branches of a tree"
        if isinstance(tree, Outcome): return tree
        c = tree.condition
        if tree.yes is NOWHERE or tree.no is NOWHERE: return self.merged(place, tree.yes or tree.no)
        if tree.yes is UNSEEN or tree.no is UNSEEN:
            res = self.merged(place, tree.yes or tree.no)
            return res._replace(assumes=(c if tree.yes else negated(c), *res.assumes))
        return self.chosen(place, c, self.merged(place, tree.yes), self.merged(place, tree.no))

    def tensors(self) -> set:
        "Return the state that some stepper writes as a tensor"
        outcomes = [s.outcome for samples in self.samples.values() for s in samples]
        written = [line for o in outcomes for line in o.names.values()]
        return {line.name for line in written if line.kept and not line.e.scalar}

    def agreed(self, place, samples, why=LEAKS) -> Outcome:
        "Return what samples with the same decisions share; numbers that differ become `f(…)`"
        # State may be a number before the first step, and a tensor after it
        tensors = {Sym(k): Sym(k, False) for k in self.tensors()}
        res, *others = dict.fromkeys(s.outcome.changed(tensors) for s in samples)
        if not others: return res
        of_shape, of_step = self.differ(samples, tensors)
        self.unsaid.setdefault(place, OF_SHAPE if of_shape and why == LEAKS else why)
        counters = self.explored.graph.counters & {*self.explored.steppers[place].names}
        also = [SHAPE]*of_shape + [Sym(k) for k in sorted(counters)]*of_step
        for other in others:
            is_alike = written(res) == written(other) and res.ends == other.ends
            if not is_alike: return all_unknown(res, other, also)
            res = in_common(res, other, also)
        return res

    def differ(self, samples, tensors) -> tuple[bool, bool]:
        "Do samples of several shapes differ, and do samples of one shape?"
        by_shape = {}
        for s in samples: by_shape.setdefault(s.shape, set()).add(s.outcome.changed(tensors))
        each = list(by_shape.values())
        return any(o != each[0] for o in each), any(len(o) > 1 for o in each)

    # A choice between two outcomes

    def chosen(self, place, condition, yes, no) -> Outcome:
        "Merge the outcomes for a condition that holds and that doesn't"
        assumes = tuple(dict.fromkeys((*yes.assumes, *no.assumes)))
        yes, no = (o._replace(assumes=()) for o in (yes, no))
        general = yes if yes == no else general_outcome(condition, yes, no)
        if general: return general._replace(assumes=assumes)
        if condition.name in ('ne', 'is_there'):
            return self.chosen(place, negated(condition), no._replace(assumes=assumes), yes)
        lines = {o.name: o for o in (*yes.numbers, *no.numbers)}
        def value(outcome, line):
            return next((o.e for o in outcome.numbers if o.name == line.name), Sym(line.name, line.e.scalar))
        numbers = tuple(o._replace(e=choice(condition, value(yes, o), value(no, o))) for o in lines.values())
        ends = either(both(condition, yes.ends), both(negated(condition), no.ends))
        return Outcome(self.items(place, condition, yes.items, no.items), numbers, ends, assumes)

    def items(self, place, condition, yes, no) -> tuple:
        "Merge the lines of both; those that differ only in numbers are written once"
        only_lines = all(isinstance(o, Line) for o in (*yes, *no))
        if condition.name != 'is_none' and only_lines and [o.name for o in yes] == [o.name for o in no]:
            def differ(a, b): return number_chosen(condition, a, b)
            try: return tuple(o._replace(e=common(o.e, x.e, differ)) for o, x in zip(yes, no))
            except NoNumber: pass
        start = next((i for i, (a, b) in enumerate(zip(yes, no)) if a != b), min(len(yes), len(no)))
        shared, yes, no = yes[:start], yes[start:], no[start:]
        when = tuple(self.when(place, condition, answer) for answer in (True, False))
        has_two_reasons = len(no) == 1 and isinstance(no[0], Block) and no[0].yes == yes
        if has_two_reasons:
            return (*shared, Block(either(condition, no[0].condition), yes, no[0].no, ('', no[0].when[1])))
        if not yes and not no: return shared
        block = Block(condition, yes, no, when) if yes else Block(negated(condition), no, (), when[::-1])
        return (*shared, block)

    def when(self, place, condition, answer) -> str:
        "In words, the steps in which a condition had an answer"
        if dims(condition): return '' # it is the same in all steps
        if symbols(condition) & self.words and condition.name == 'eq': return ''
        if condition.name == 'is_none':
            name, = symbols(condition)
            def has_answer(s): return (name in s.there) is not answer
        else:
            def has_answer(s): return (condition, answer) in [(d.condition, d.answer) for d in s.decisions]
        steps = {s.step for s in self.samples[place] if s.step and has_answer(s)}
        return steps_in_words(sorted(steps), self.explored.n_steps)

    # State that exists, or doesn't yet

    def whatever_is_there(self, place, trees, asked) -> Tree|Outcome:
        "Merge the trees for existing and missing state into one if it starts from a number, else keep both"
        if len(trees) == 1: return next(iter(trees.values()))
        all_names = frozenset().union(*trees)
        differ = (k for k in all_names if len({k in there for there in trees}) > 1)
        name = min(differ, key=lambda k: (k not in asked, k))
        present, absent = ({o: v for o, v in trees.items() if (name in o) is side} for side in (True, False))
        missing = frozenset.intersection(*present) - frozenset().union(*absent)
        present, absent = (self.whatever_is_there(place, o, asked) for o in (present, absent))
        if present == absent: return present
        if missing & asked: return Tree(call('is_none', Sym(min(missing & asked))), absent, present)
        merged = self.merged(place, present), self.merged(place, absent)
        found = first_values(present, absent, merged, sorted(missing), self.starts, self.hypers)
        if found is None: self.no_start.append(missing)
        else: self.starts |= found
        return present if found is None else _completed_tree(present, absent)


def _of_known_ndim(sample):
    "A sample without what it decided by the number of dimensions alone"
    def is_known(c): return dims(c) == {NDIM.name} and not symbols(c)
    return sample._replace(decisions=tuple(d for d in sample.decisions if not is_known(d.condition)))


def _is_one_of(numbers):
    "The condition that the number of dimensions is one of some"
    last = max(numbers)
    if set(range(1, last)) <= numbers: return call('le', NDIM, Num(last))
    return reduce(either, (call('eq', NDIM, Num(n)) for n in sorted(numbers)))


def _completed_tree(present, absent) -> Tree|Outcome:
    "What is done with state, and in branches where there is none what is done without it"
    if present is NOWHERE: return absent
    if not isinstance(present, Tree) or not isinstance(absent, Tree): return present
    if present.condition != absent.condition: return present
    yes, no = _completed_tree(present.yes, absent.yes), _completed_tree(present.no, absent.no)
    return Tree(present.condition, yes, no)
