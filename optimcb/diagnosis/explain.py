"What a composition does and what it costs: in words, as a formula, and as the kernel that runs."
import html
import math
from collections import Counter
from functools import cached_property
from itertools import groupby

from torch import Tensor

from optimcb._boundary import entry
from optimcb._tensors import local, shard_of, whole
from optimcb.composition.errors import StepperError
from optimcb.composition.pipeline import Composition
from optimcb.diagnosis.algebra import latex_name
from optimcb.diagnosis.branches import look
from optimcb.diagnosis.checks import doubts_of
from optimcb.diagnosis.formula import Formula, formulas
from optimcb.diagnosis.groups import Group, placement
from optimcb.diagnosis.kinds import Kind, _engine_for, _example, _is_real, _live, _rehearsal, _some
from optimcb.diagnosis.source import Source
from optimcb.diagnosis.suggestions import worded
from optimcb.diagnosis.tables import STYLE, _aligned, _code, _html_table, _range, _shown, _size
from optimcb.engines.runner import Runner
from optimcb.tracing.bucket import fit, key_of, misfit, sharing
from optimcb.tracing.ir import PER_ELEMENT
from optimcb.tracing.recording import NotRecorded

__all__ = ['Explained', 'Explanation']


NOT_OURS = ('do_wd', 'force_train') # state that says what to do with a parameter


class Explained:
    "What can be explained: it has a `composition`, an `engine`, and groups of parameters."
    @entry
    def explain(self) -> 'Explanation':
        "The pipeline, what it reads and writes, its cost, its engine and its formula. Shown as text, or as tables in a notebook."
        return Explanation(self._title, self.composition, self._groups, self._engine_wanted, self._runs, self._own_step)

    _own_step = None # the name of a class with a step that runs no steppers as ours does

    def _steps_by_ours(self, what):
        "Raise `NotRecorded` if they don't"
        own = self._own_step
        if own: raise NotRecorded([], f"{own} has a step of its own, and what that does can't be read off its steppers: it has no {what}.")

    @property
    @entry
    @worded()
    def formula(self) -> Formula:
        """What a step does, line by line, as LaTeX and as text: for the first parameter, in all steps. `explain().formulas` has all parameters.

        Raises `NotRecorded`."""
        self._steps_by_ours('formula')
        group = self._groups[0]
        return formulas(_rehearsal(self.composition, group, _example(group)))[0]

    @entry
    @worded()
    def kernel(self,
        device:str|None=None, # 'cpu' for C, 'cuda' for Triton; default: where the parameters are
        group:int=0 # Group of parameters: its first one counts
    ) -> 'Source':
        "The source of the kernel that does a step. Raises `NotRecorded` or `Unsupported` for a composition that no kernel can do."
        self._steps_by_ours('kernel')
        group = self._groups[group]
        example = _example(group)
        r = _rehearsal(self.composition, group, example)
        r.step()
        device = device or ('cuda' if example is not None and example.is_cuda else 'cpu')
        return Source.of(look(r), device)

    def _repr_html_(self): return self.explain()._repr_html_()


class lazy(cached_property):
    "A property that is worked out once. What it is worked out by is what is shown of it."
    __wrapped__ = property(lambda self: self.func)


class Explanation:
    "What a composition does and what it costs."
    def __init__(self,
        title:str, # What it is called
        composition:Composition, # Its steppers
        groups:list[Group], # Its parameters
        engine:str='auto', # Engine that was asked for
        runner:Runner|None=None, # What has run its steps so far
        own_step:str|None=None # Class with a step of its own: nothing is told of what it does
    ):
        self.own_step = own_step
        self.title, self.composition, self.groups, self.engine_wanted, self.runner = title, composition, groups, engine, runner

    @lazy
    def kinds(self) -> list[Kind]:
        "The parameters, by group, type and number of dimensions."
        res = []
        for i, g in enumerate([] if self.own_step else self.groups):
            marks = {id(p): {k: s[k] for k in self.composition.marks if k in s} for p, s in zip(g.params, g.states)}
            def alike(p, marks=marks): return str(marks[id(p)]), *_alike(p)
            for _, ps in groupby(sorted(_live(g), key=alike), key=alike):
                ps = list(ps)
                kind = Kind(self.composition, g, i, ps, marks[id(ps[0])])
                res += kind.by_shape() if 'shape' in kind.looked else [kind]
            if not g.params: res += [Kind(self.composition, g, i, [], v) for v in self.composition.variants]
        return res

    @lazy
    def steppers(self) -> list[dict]:
        "Of each stepper its name, what it does, and the names that it reads and writes."
        acts = [a for k in self.kinds for s in k.steps for a in s.acts]
        return [_row(s, [a for a in acts if a.stepper is s]) for s in self.composition.steppers]

    @lazy
    def state(self) -> dict[str, str]:
        "What is kept for each parameter, by name."
        res = {}
        for k in self.kinds:
            for name, (_, dtype, extent) in k.kinds.items():
                of = '' if extent is PER_ELEMENT else ', one number'
                if extent.is_opaque: of = ' of another shape' if len(self.kinds) > 1 else f' of shape {extent.shape}'
                res[name] = f'{str(dtype)[6:]}{of}'
            for name in k.numbers.keys() - {*NOT_OURS, *self.composition.marks}: res.setdefault(name, 'a number')
        return res

    @lazy
    def state_bytes(self) -> int:
        "Bytes of state of all parameters: what is there, and what the first step will make of what is not."
        there = self._state_of
        expected = sum((p.numel() if extent is PER_ELEMENT else math.prod(extent.shape or ()))*dtype.itemsize
                       for k in self.kinds for p in k.params for name, (_, dtype, extent) in k.kinds.items() if name not in there[id(p)])
        return sum(v.nbytes for state in there.values() for v in state.values() if isinstance(v, Tensor)) + expected

    @lazy
    def moved_bytes(self) -> int|None:
        "Bytes that a step must read and write, if it can be rehearsed."
        return None if self.own_step or any(k.program is None for k in self.kinds) else sum(k.program.moved*sum(k.sizes) for k in self.kinds)

    @lazy
    def bytes_each(self) -> tuple[str, str]:
        "Bytes of state, and bytes that a step moves, for each element; a range where they differ."
        return _range({_each(k) for k in self.kinds}), _range({k.program.moved for k in self.kinds if k.program})

    @lazy
    def formulas(self) -> list[Formula]:
        "One formula, or one for each kind of parameter."
        known, found = {}, {}
        for k in self.kinds:
            if not k.steps: continue
            hypers, fs = known.get(k.program.key, (None, None))
            if fs is None or any(f.assumed for f in fs) and hypers != k.group.hypers: # it may hold for others, or not
                fs = formulas(k.rehearsal())
                known[k.program.key] = k.group.hypers, fs
            for f in fs: found.setdefault(f.text, (f, []))[1].append(k)
        for f, ks in found.values():
            if len(ks) < len(self.kinds): f.when = f'{f.when} of {self._who(ks)}'.strip()
        return [f for f, _ in found.values()]

    def _who(self, kinds) -> str:
        "Whole routes or groups, if these kinds are all of theirs"
        places = list(dict.fromkeys(k.place for k in kinds))
        if self.composition.marks and all(k in kinds for k in self.kinds if k.place in places): return '; '.join(places)
        whole = [i for i in dict.fromkeys(k.index for k in kinds) if all(k in kinds for k in self.kinds if k.index == i)]
        rest = [k for k in kinds if k.index not in whole]
        also = {str(k) for k in self.kinds if k not in kinds} # of other shapes
        rest = [f'{k}, of shape {tuple(k.example.shape)}' if str(k) in also else str(k) for k in rest]
        return '; '.join([f'group {i}' for i in whole] + list(dict.fromkeys(rest)))

    @lazy
    def engine(self) -> list[str]:
        "Which engine runs what, and why not a faster one: as in the last step, or as it is to be expected."
        if self.own_step: return [f"none of ours: {self.own_step} has a step of its own"]
        runs, left, kernels = Counter(), Counter(), {}
        plan = getattr(self.runner, 'plan', None)
        shared = sharing([(id(p), shard_of(p)) for k in self.kinds for p in k.params if not misfit(shard_of(p))]) if plan is None else ()
        for k in self.kinds:
            name, why = _engine_for(k, self.engine_wanted)
            for p in k.params or [None]:
                refusal = self._refusal(p, plan, shared) if p is not None and self.engine_wanted != 'eager' else None
                if refusal or why: left['eager' if refusal else name, refusal or why] += p is not None
                else:
                    runs[name] += p is not None
                    kernels.setdefault(name, set()).add(k.program.key)
        def who(n): return _some(n, 'parameter') if n else 'any parameters'
        res = [f"{name}: {who(n) if name == 'foreach' else _some(len(kernels[name]), 'kernel') + ' for ' + who(n)}" for name, n in runs.items()]
        forced = self.engine_wanted in ('fused', 'foreach') and any(k.reason for k in self.kinds)
        return res + [f"{'none' if forced else name}: {who(n)}, for {why}" for (name, why), n in left.items()]

    def _refusal(self, p, plan, shared) -> str|None:
        "Why this parameter is left to the eager engine"
        seen = shard_of(p)
        grad = getattr(seen, 'grad', None)
        why = misfit(seen, grad)
        left = plan is not None and grad is not None and not any(p is whole(o) for o in plan.flat)
        if not why and (id(p) in shared or left): why = 'it shares memory with another'
        if self.runner is None or not self.runner.refused: return why
        can = fit(seen, grad, {k: local(v) for k, v in self._state_of[id(p)].items()}) or ((), ())
        return self.runner.refusal(key_of(0, can, seen, p.dtype if grad is None else grad.dtype, self.runner)) or why

    @cached_property
    def _state_of(self) -> dict: return {id(p): state for g in self.groups for p, state in zip(g.params, g.states)}

    @lazy
    def doubts(self) -> list[str]:
        "What is doubtful about the composition."
        if self.own_step: return []
        try: return doubts_of(self.composition, self.groups, self.composition.makes)
        except StepperError: return [] # the engine says so

    def _parts(self):
        "Titles and what is under them: tables of rows, or lines"
        rows = [(str(i), r['stepper'], ', '.join(r['reads']), ', '.join(r['writes'])) for i, r in enumerate(self.steppers)]
        if not self.own_step: yield 'steppers', [('', 'stepper', 'reads', 'writes'), *rows]
        there = any(g.params for g in self.groups)
        names = sorted(dict.fromkeys(n for g in self.groups for n in g.hypers if n not in self.composition.marks), key=lambda n: n != 'lr') # it comes first
        def frozen(g): return sum(map(_is_real, g.params)) - len(_live(g))
        def sizes(i, g):
            return str(i), f'{len(g.params):,}' + (f' ({n:,} frozen)' if (n := frozen(g)) else ''), f'{sum(p.numel() for p in g.params if _is_real(p)):,}'
        def values(g): return ('…' if n == 'lr' and not there else _shown(g.hypers.get(n, '')) for n in names) # an algorithm has none yet
        rows = [(*(sizes(i, g) if there else ()), *values(g)) for i, g in enumerate(self.groups)]
        yield 'hyper-parameters', [(*(('group', 'parameters', 'elements') if there else ()), *names), *rows]
        yield 'where', [('rule', 'says', 'parameters', 'elements', 'who'), *placement(self.composition, self.groups)]
        each, moved = self.bytes_each
        yield 'state', [('name', 'kind'), *self.state.items()]
        def total(n): return f', {_size(n)} in all' if there else ''
        of_each = [] if self.own_step else [f'{each} bytes an element']
        cost = [f"state: {', '.join([*of_each, *([f'{_size(self.state_bytes)} in all'] if there else [])])}"]
        if self.moved_bytes is not None: cost.append(f'a kernel moves {moved} bytes an element{total(self.moved_bytes)}')
        yield 'cost', cost
        yield 'engine', self.engine
        if self.doubts: yield 'doubtful', self.doubts

    def __str__(self):
        out = [self.title]
        for title, rows in self._parts():
            table = bool(rows) and isinstance(rows[0], tuple)
            if len(rows) > table: out += ['', title, *(f'  {line}' for line in (_aligned(rows) if table else rows))]
        for f in self.formulas: out += ['', f'formula {f.when}'.strip(), *(f'  {line}' for line in f.text.splitlines())]
        return '\n'.join(out)

    __repr__ = __str__

    def _repr_html_(self):
        docs = [r['doc'] for r in self.steppers]
        out = [f'<details open class="optimcb"><summary><b>{html.escape(self.title)}</b></summary>', STYLE]
        for title, rows in self._parts():
            if rows and isinstance(rows[0], tuple):
                if len(rows) > 1: out += [f'<p><b>{title}</b></p>', _html_table(rows, docs if title == 'steppers' else ())]
            else: out += [f'<p><b>{title}</b></p>', '<br>'.join(map(_code, rows))]
        for f in self.formulas: out += [f'<p><b>formula</b> {html.escape(f.when)}</p>', html.escape(f._repr_latex_() or '')]
        letters = {k: latex_name(k) for k in dict.fromkeys(k for f in self.formulas for k in f.names)}
        out.append(', '.join(rf'\({html.escape(tex)}\) {_code(k)}' for k, tex in letters.items() if not tex.startswith(r'\mathrm')))
        return '\n'.join([*out, '</details>'])


def _alike(p): return str(p.dtype), p.dim(), str(p.device)
def _each(kind): return sum(d.itemsize for _, d, extent in kind.kinds.values() if extent is PER_ELEMENT)


def _row(stepper, acts) -> dict:
    "What a stepper reads and writes; if it was not rehearsed, what its signature tells"
    def name(k): return 'p.grad' if k == 'grad' else k
    if acts:
        reads = [k for k in ('p', 'grad') if any(k in a.reads for a in acts)] + [k for a in acts for k in a.given]
        writes = [k for a in acts for k in (*a.writes, *a.numbers)]
    else: reads, writes = stepper.names, ['?']
    doc = (getattr(stepper.innermost, '__doc__', None) or '').strip().split('\n')[0]
    return dict(stepper=stepper.label, doc=doc, reads=list(dict.fromkeys(map(name, reads))), writes=list(dict.fromkeys(map(name, writes))))
