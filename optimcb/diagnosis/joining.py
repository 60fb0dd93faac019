"""Join two outcomes of a stepper: what it does if a condition holds, and what it does if not.

Numbers that differ become choices, other lines that differ become blocks. For the condition `step > 5`,

    p = p - sign(grad); scale = 0.5        # if it holds
    p = p - grad; scale = 1                # if not

    if step > 5: p = p - sign(grad)        # both, joined
    else: p = p - grad
    scale = 0.5 if step > 5 else 1
"""
from optimcb.diagnosis.choices import both, choice, either, negated
from optimcb.diagnosis.differing import NoNumber, general_outcome, number_chosen
from optimcb.diagnosis.expressions import Sym, dims, symbols
from optimcb.diagnosis.outcomes import Block, Line, Outcome, Sample, steps_in_words
from optimcb.diagnosis.rewriting import common

__all__ = ['Joiner']


class Joiner:
    "Joins the outcomes of one stepper."
    def __init__(self,
        samples:list[Sample], # What the stepper did in rehearsed steps
        words:set[str], # Names of state that is true, false or a word
        n_steps:int # Number of rehearsed steps
    ): self.samples, self.words, self.n_steps = samples, words, n_steps

    def join(self,
        condition, # A condition
        yes:Outcome, # Where it holds
        no:Outcome # Where it doesn't
    ) -> Outcome:
        "Return one outcome for both answers of a condition."
        assumes = tuple(dict.fromkeys((*yes.assumes, *no.assumes)))
        yes, no = (o._replace(assumes=()) for o in (yes, no))
        general = yes if yes == no else general_outcome(condition, yes, no)
        if general: return general._replace(assumes=assumes)
        if condition.name in ('ne', 'is_there'):
            return self.join(negated(condition), no._replace(assumes=assumes), yes)
        lines = {o.name: o for o in (*yes.numbers, *no.numbers)}
        numbers = tuple(o._replace(e=choice(condition, _number(yes, o), _number(no, o)))
                        for o in lines.values())
        ends = either(both(condition, yes.ends), both(negated(condition), no.ends))
        return Outcome(self._items(condition, yes.items, no.items), numbers, ends, assumes)

    def _items(self, condition, yes, no) -> tuple:
        "Join the lines of both; those that differ only in numbers are written once"
        once = _with_choices(condition, yes, no)
        if once is not None: return once
        n_shared = next((i for i, (a, b) in enumerate(zip(yes, no)) if a != b), min(len(yes), len(no)))
        shared, yes, no = yes[:n_shared], yes[n_shared:], no[n_shared:]
        if not yes and not no: return shared
        when = self._when(condition, True), self._when(condition, False)
        is_nested = len(no) == 1 and isinstance(no[0], Block) and no[0].yes == yes
        if is_nested: # the same lines for two reasons
            block = Block(either(condition, no[0].condition), yes, no[0].no, ('', no[0].when[1]))
        elif yes: block = Block(condition, yes, no, when)
        else: block = Block(negated(condition), no, (), when[::-1])
        return (*shared, block)

    def _when(self, condition, answer) -> str:
        "Describe the steps in which a condition had an answer; empty if that isn't a matter of steps"
        if dims(condition): return ''
        is_of_word = condition.name == 'eq' and symbols(condition) & self.words
        if is_of_word: return ''
        if condition.name == 'is_none':
            name, = symbols(condition)
            def has_answer(s): return (name in s.there) is not answer
        else:
            def has_answer(s): return (condition, answer) in [(d.condition, d.answer) for d in s.decisions]
        steps = {s.step for s in self.samples if s.step and has_answer(s)}
        return steps_in_words(sorted(steps), self.n_steps)


def _number(outcome, line):
    "Return what an outcome computes for the name of a line, or the name itself if it stays as it is"
    return next((o.e for o in outcome.numbers if o.name == line.name), Sym(line.name, line.e.scalar))


def _with_choices(condition, yes, no) -> tuple|None:
    "Return lines with choices between numbers, or None if the lines differ in more than numbers"
    if condition.name == 'is_none': return None
    if not all(isinstance(o, Line) for o in (*yes, *no)): return None
    if [o.name for o in yes] != [o.name for o in no]: return None
    def differ(a, b): return number_chosen(condition, a, b)
    try: return tuple(o._replace(e=common(o.e, x.e, differ)) for o, x in zip(yes, no))
    except NoNumber: return None
