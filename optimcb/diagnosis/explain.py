"Explain what a composition does and costs: in words, as a formula, and as a kernel."
import math
from functools import cached_property
from itertools import groupby

from torch import Tensor

from optimcb._compat.boundary import entry
from optimcb._compat.warn import warn
from optimcb.composition.errors import StepperError
from optimcb.composition.pipeline import Composition
from optimcb.diagnosis import report
from optimcb.diagnosis.checks import warnings_for
from optimcb.diagnosis.engine_choice import engines_of
from optimcb.diagnosis.formula import Formula, formulas
from optimcb.diagnosis.graph import Dataflow
from optimcb.diagnosis.groups import Group
from optimcb.diagnosis.kinds import Kind, first_parameter, live_parameters, parameters_like, rehearsal_of
from optimcb.diagnosis.reading import look
from optimcb.diagnosis.shapes import OF_SHAPE
from optimcb.diagnosis.source import Source
from optimcb.diagnosis.suggestions import worded
from optimcb.engines.runner import Runner
from optimcb.tracing.ir import PER_ELEMENT, PER_PARAMETER
from optimcb.tracing.recording import NotRecorded

__all__ = ['Explained', 'Explanation']


ZEROES = "zero_in_step: a step leaves zeros in the gradients that it has read, for the `zero_grad()` after it"
NOT_OURS = ('do_wd', 'force_train') # state that says what to do with a parameter


class Explained:
    "A mixin for objects with a `composition`, an `engine`, and parameter groups, which can be explained."
    @entry
    def explain(self) -> 'Explanation':
        """Explain the pipeline: what it reads and writes, its cost, its engine and its formula.

        Shown as text, or as tables in a notebook."""
        return Explanation(self._title, self.composition, self._groups, self._engine_wanted, self._runs,
                           self._own_step, self.zero_in_step)

    _own_step = None # name of a class with a `step` that doesn't run the steppers as ours does
    zero_in_step = False # of an optimizer: does a step zero the gradients?

    def _refuse_own_step(self, what):
        "Raise `NotRecorded` for a class with its own `step`"
        own = self._own_step
        if own is None: return
        raise NotRecorded([], f"{own} has a step of its own, and what that does can't be read off its "
                              f"steppers: it has no {what}.")

    @property
    @entry
    @worded()
    def formula(self) -> Formula:
        """The formula of a step, line by line, as LaTeX and as text, in all steps: for the first parameter,
        and those of its group that have the same type and the same steppers, whatever their shapes.

        It covers all steps. `explain().formulas` has those of all parameters. Raises `NotRecorded`."""
        self._refuse_own_step('formula')
        group = self._groups[0]
        example = first_parameter(group)
        params = parameters_like(example, group, self.composition.masks)
        return formulas(rehearsal_of(self.composition, group, example), params)[0]

    @entry
    @worded()
    def kernel(self,
        device:str|None=None, # 'cpu' for C, 'cuda' for Triton; default: the device of the parameters
        group:int=0 # Index of a parameter group, whose first parameter is used
    ) -> 'Source':
        """Return the source of the kernel that runs a step.

        Raises `NotRecorded` or `Unsupported` for a composition that kernels can't run."""
        self._refuse_own_step('kernel')
        group = self._groups[group]
        example = first_parameter(group)
        rehearsal = rehearsal_of(self.composition, group, example)
        rehearsal.step()
        device = device or ('cuda' if example is not None and example.is_cuda else 'cpu')
        return Source.of(look(rehearsal), device, rehearsal.grad_dtype if self.zero_in_step else None)

    def _repr_html_(self): return self.explain()._repr_html_()


class lazy(cached_property):
    "A cached property whose documentation is that of its function."
    __wrapped__ = property(lambda self: self.func)


class Explanation:
    "An explanation of what a composition does and costs."
    def __init__(self,
        title:str, # Name of the optimizer
        composition:Composition, # Its steppers
        groups:list[Group], # Its parameters
        engine:str='auto', # Requested engine
        runner:Runner|None=None, # Runner of the steps so far
        own_step:str|None=None, # Class with a `step` of its own, about which nothing is known
        zeroes:bool=False # Does a step zero the gradients?
    ):
        self.title, self.composition, self.groups = title, composition, groups
        self.engine_wanted, self.runner, self.own_step, self.zeroes = engine, runner, own_step, zeroes

    @lazy
    def kinds(self) -> list[Kind]:
        "The parameters by group, masks, dtype and number of dimensions."
        res = []
        for i, g in enumerate([] if self.own_step else self.groups):
            res += self._kinds_of(i, g)
            variants = () if g.params else self.composition.variants
            res += [Kind(self.composition, g, i, [], masks) for masks in variants]
        return res

    def _kinds_of(self, index, group):
        "Return the kinds of parameters in one group"
        names = self.composition.masks
        masks = {id(p): {k: s[k] for k in names if k in s} for p, s in zip(group.params, group.states)}
        def key(p): return str(masks[id(p)]), str(p.dtype), p.dim(), str(p.device)
        for _, params in groupby(sorted(live_parameters(group), key=key), key=key):
            params = list(params)
            kind = Kind(self.composition, group, index, params, masks[id(params[0])])
            yield from kind.by_shape() if 'shape' in kind.looked else [kind]

    @lazy
    def graph(self) -> Dataflow:
        "The dataflow of all rehearsed steps."
        return Dataflow(s.effects for k in self.kinds for s in k.steps)

    @lazy
    def steppers(self) -> list[dict]:
        "The steppers, each with its name, its docstring, and the names that it reads and writes."
        nodes = self.graph.by_place
        return [_described(s, nodes.get(i)) for i, s in enumerate(self.composition.steppers)]

    @lazy
    def state(self) -> dict[str, str]:
        "The state of each parameter, by name, in words."
        res = {}
        for k in self.kinds:
            for name, (_, dtype, extent) in k.kinds.items():
                res[name] = f'{str(dtype)[6:]}{self._extent_in_words(extent)}'
            hidden = {*NOT_OURS, *self.composition.masks}
            for name in k.numbers:
                if name not in hidden: res.setdefault(name, 'a number')
        return res

    def _extent_in_words(self, extent) -> str:
        if extent is PER_ELEMENT: return ''
        if extent is PER_PARAMETER: return ', one number'
        return ' of another shape' if len(self.kinds) > 1 else f' of shape {extent.shape}'

    @lazy
    def state_bytes(self) -> int:
        "The bytes of state of all parameters, including state that the first step will create."
        there = self.state_of
        tensors = [v for state in there.values() for v in state.values() if isinstance(v, Tensor)]
        res = sum(v.nbytes for v in tensors)
        for k in self.kinds:
            for name, (_, dtype, extent) in k.kinds.items():
                missing = [p for p in k.params if name not in there[id(p)]]
                each = extent is PER_ELEMENT
                sizes = [p.numel() if each else math.prod(extent.shape or ()) for p in missing]
                res += sum(sizes)*dtype.itemsize
        return res

    @lazy
    def moved_bytes(self) -> int|None:
        "The bytes that a step must read and write, or None if it can't be rehearsed."
        if self.own_step or any(k.program is None for k in self.kinds): return None
        return sum(self._moved_by(k)*sum(k.sizes) for k in self.kinds)

    @lazy
    def bytes_each(self) -> tuple[str, str]:
        "The bytes per element of state, and those that a step moves; a range if they differ."
        kept = {k.state_bytes_each for k in self.kinds}
        return report.range_of(kept), report.range_of({self._moved_by(k) for k in self.kinds if k.program})

    def _moved_by(self, kind) -> int:
        program = kind.program
        if self.zeroes: program = program.with_zeros(kind.example.dtype)
        return program.moved

    @lazy
    def formulas(self) -> list[Formula]:
        "The formulas: a single one, or one for each kind of parameter."
        known, found = {}, {}
        for k in self.kinds:
            if not k.steps: continue
            asked_dims = k.example is not None and not k.looked.isdisjoint(OF_SHAPE)
            key = k.program.key, k.example.dim() if asked_dims else None
            hypers, fs = known.get(key, (None, None))
            depends = fs is not None and any(f.assumed for f in fs) # on hyper-parameters
            if fs is None or depends and hypers != k.group.hypers:
                fs = formulas(k.new_rehearsal(), k.params)
                known[key] = k.group.hypers, fs
            for f in fs: found.setdefault(f.text, (f, []))[1].append(k)
        for f, kinds in found.values():
            if len(kinds) < len(self.kinds): f.when = f'{f.when} of {self._names_of(kinds)}'.strip()
        return [f for f, _ in found.values()]

    def _names_of(self, kinds) -> str:
        "Name kinds of parameters by their routes or groups, if they make up all of these, or one by one"
        places = list(dict.fromkeys(k.place for k in kinds))
        is_all = all(k in kinds for k in self.kinds if k.place in places)
        if self.composition.masks and is_all: return '; '.join(places)
        indices = dict.fromkeys(k.index for k in kinds)
        complete = [i for i in indices if all(k in kinds for k in self.kinds if k.index == i)]
        of_other_shapes = {str(k) for k in self.kinds if k not in kinds}
        names = [f'group {i}' for i in complete]
        for k in kinds:
            if k.index in complete: continue
            names.append(f'{k}, of shape {tuple(k.example.shape)}' if str(k) in of_other_shapes else str(k))
        return '; '.join(dict.fromkeys(names))

    @lazy
    def engine(self) -> list[str]:
        "The engine of each parameter, and why not a faster one, from the last step or as expected."
        if self.own_step: return [f"none of ours: {self.own_step} has a step of its own"]
        lines = engines_of(self.kinds, self.engine_wanted, self.runner, self.state_of)
        return [*lines, ZEROES] if self.zeroes else lines

    @lazy
    def notes(self) -> list[str]:
        "The steppers' notes on these parameters and this machine, one line each."
        found = (f'{s.label}: {note}' for k in self.kinds for s, note in k.notes())
        return list(dict.fromkeys(found))

    @cached_property
    def state_of(self) -> dict[int, dict]:
        "The state by the `id` of its parameter."
        return {id(p): state for g in self.groups for p, state in zip(g.params, g.states)}

    @lazy
    def warnings(self) -> list[str]:
        "Probable mistakes in the composition."
        if self.own_step: return []
        try: return warnings_for(self.composition, self.groups, self.composition.makes)
        except StepperError: return [] # the engine says so

    @property
    def doubts(self) -> list[str]:
        "The old name of `warnings`."
        warn("`doubts` of an explanation is called `warnings` now.", DeprecationWarning)
        return self.warnings

    @entry
    def __str__(self): return report.as_text(self)

    def __repr__(self): return str(self)

    @entry
    def _repr_html_(self): return report.as_html(self)


def _described(stepper, node) -> dict:
    "Return what a stepper reads and writes, from its signature if it was not rehearsed"
    def shown(names): return ['p.grad' if k == 'grad' else k for k in names]
    doc = (getattr(stepper.innermost, '__doc__', None) or '').strip().split('\n')[0]
    reads, writes = (node.inputs, node.outputs) if node else (list(stepper.names), ['?'])
    return dict(stepper=stepper.label, doc=doc, reads=shown(reads), writes=shown(writes))
