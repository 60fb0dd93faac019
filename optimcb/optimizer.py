"The generic `Optimizer`: a `torch.optim.Optimizer` that runs a list of steppers and speaks fastai's protocol."
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import unwrap
from numbers import Real
from types import CodeType

import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb._boundary import entry, opaque, refuse_tracing
from optimcb.composition.errors import MissingName, not_so
from optimcb.composition.pipeline import Composition
from optimcb.composition.results import ONE_STEP
from optimcb.diagnosis.checks import warnings_for
from optimcb.diagnosis.explain import Explained
from optimcb.diagnosis.groups import Group, can_step, placement
from optimcb.diagnosis.suggestions import advice
from optimcb.editing.edit import Composable
from optimcb.engines import ENGINES, eager
from optimcb.engines.frozen import grad_of, track
from optimcb.engines.grad_scaling import NOT_SCALED, Scaling
from optimcb.engines.runner import Runner
from optimcb.hypers.groups import Groups, TorchNames
from optimcb.hypers.torch_names import TORCH_FLAGS, TORCH_NAMES, from_torch, suggest, without_flags
from optimcb.hypers.values import NOT_HYPERS, RANGES, check, own, spread
from optimcb.hypers.views import HyperView, HyperViews
from optimcb.state.eval_weights import averaged, forget, put_in, refuse_step, take_out, warn_unaveraged
from optimcb.state.learner_names import name_params
from optimcb.state.state_dict import copied, is_note, pack, unpack
from optimcb.warn import CompositionWarning, calling_frame, warn

__all__ = ['Optimizer']

NOTHING = "`params` is empty: there is nothing to optimize. Is it a generator that was used up, or is the whole model frozen?"
NAMES_FOR_ALL = "some parameters have names and some have not. Pass (name, tensor) pairs for all of them, or for none."
PART = ("`ZeroRedundancyOptimizer` gives each process some of the parameters only, but {} yields what is to be summed over all of them, "
        "or needs all of them. "
        "Leave it out, and call `torch.nn.utils.clip_grad_norm_` or the like before `step`; or shard with `torch.distributed.fsdp.fully_shard`.")
MADE_AGAIN = frozenset({'step', '_composition', '_tried', '_runner', '_in_backward', '_put_in', '_said_unread'}) # `step` is there where a scheduler put it
SCALER = frozenset({'grad_scale', 'found_inf'}) # what a GradScaler puts into an optimizer for a step
ALWAYS_WELCOME = frozenset({'lr', 'mom'}) # fastai passes and schedules these, whether or not a stepper reads them


class Optimizer(torch.optim.Optimizer, Composable, Explained):
    """An optimizer made of steppers.

    Each step calls every stepper of `cbs` on every parameter with a gradient, as `stepper(p, **names)`, the names that
    it takes being looked up in the hyper-parameters and in the parameter's state. What a stepper returns in a dict
    becomes state; `once(…)` and `update` last for the step only.

    Raises `ValueError` or `TypeError` for parameters and hyper-parameters that can't be used, `MissingName` if a stepper
    lacks something, and `TypeError` if one returns what would be lost: neither a dict nor None, nor what it was given.
    Warns, with `CompositionWarning`, of steppers that can't be meant to be together.
    """
    _keep_on_clear = ('force_train', 'do_wd')
    _choice = None # the options that chose the steppers, if an algorithm did

    @entry
    def __init__(self,
        params:Tensor|Iterable, # Tensors, `(name, tensor)` pairs, dicts with `params`, or a list of lists: one group each
        cbs:Callable|Iterable, # Steppers, in the order in which they are called
        *,
        engine:str='auto', # 'eager', 'foreach', 'fused', or 'auto': the fastest that can run the steppers
        check:bool=True, # Rehearse the steppers now? Else `MissingName` is raised at the first step, before anything has changed
        **hypers # Hyper-parameters: a value, one for each group, or a slice. They override the steppers' defaults
    ):
        if hypers.pop('train_bn', None) is not None:
            warn("`train_bn` has no effect in an `Optimizer`. Pass it to the `Learner`.")
        self.cbs, self.engine = L(list(L(cbs))), engine
        self.hyper_names = set()
        self._has_part = _made_by_zero()
        composition = self.composition
        hypers = from_torch(hypers, self._names)
        self._given = frozenset(hypers) # the others are the steppers' own
        hypers = {**composition.defaults, **hypers}
        if not self._own_step: hypers, self.engine = without_flags(hypers, composition, engine)
        self._warn_unread(hypers)
        groups = _as_groups(params)
        values = {k: spread(k, v, len(groups)) for k, v in hypers.items()}
        self.hyper_names.update(values)
        super().__init__([{**{k: v[i] for k, v in values.items()}, **self._own(g)} for i, g in enumerate(groups)],
                         TorchNames({k: own(k, v[-1]) for k, v in values.items()}).know(self._names))
        self._tell_choice()
        name_params(self)
        if not any(g['params'] for g in self.param_groups) and not _may_be_empty(groups): raise ValueError(NOTHING)
        self._track()
        if composition.marks: self._mark()
        self.frozen_idx = 0
        self._checked = check
        if check: self._check(composition)

    # What is stepped, and how

    @property
    def engine(self) -> str:
        "Where steps are executed: 'auto', 'eager', 'foreach' or 'fused'. May be set between steps."
        return self.__dict__.get('_engine', 'auto')
    @engine.setter
    @entry
    def engine(self, name):
        if name not in ENGINES: raise ValueError(f"there is no engine {name!r}. There are {', '.join(ENGINES)}.")
        self._engine = name
        self._forget_runner()

    @property
    def _running(self) -> Runner:
        if '_runner' not in self.__dict__: self._runner = Runner(self.engine)
        return self._runner

    def _forget_runner(self):
        runner = self.__dict__.pop('_runner', None)
        if runner is not None: runner.settle() # what it has counted may have to be taken back

    @property
    def composition(self) -> Composition:
        "What `cbs` mean now; `cbs` may be changed between steps."
        known = self.__dict__.get('_composition')
        if known is None or known.cbs != tuple(self.cbs):
            known = self._composition = self._understood(self.cbs)
            self.hyper_names |= known.reads
            if 'param_groups' in self.__dict__: self.param_groups.know(self._names_for(known))
            for d in (*self.__dict__.get('param_groups', ()), *([self.defaults] if 'defaults' in self.__dict__ else [])):
                if isinstance(d, TorchNames): d.know(self._names_for(known))
                for k, v in known.defaults.items(): d.setdefault(k, v)
        groups = self.__dict__.get('param_groups', ())
        if self._choice is not None and self._choice.asks(groups, known.reads): return self._choose_again(known)
        return known

    def _names_for(self, composition) -> frozenset:
        "The names of hyper-parameters that mean something: steppers read them, or they choose steppers"
        return composition.reads if self._choice is None else composition.reads | {*self._choice.names}

    _names = property(lambda self: self._names_for(self.composition))

    def _choose_again(self, composition):
        "Go on with the steppers that the groups ask for. Raises what `Choice.again` does, before anything changes"
        self.cbs = L(self._choice.again(composition.untapped, self.param_groups))
        self._tell_choice()
        return self.composition

    def _tell_choice(self):
        "Let groups have the options in which they differ as hyper-parameters"
        if self._choice is None: return
        for k, values in self._choice.told(self.param_groups, self.composition.reads).items():
            for h, v in zip(self.hypers, values): h[k] = v
            self.defaults.setdefault(k, self._choice.options[k])

    @property
    def _own_step(self) -> str|None:
        "The name of a class with a step that doesn't go on to ours, if that is so: what it does with `cbs` and hyper-parameters is its own business"
        return _own_step_of(type(self))

    def _understood(self, cbs):
        if self._own_step: return _readable(cbs)
        composition = Composition(cbs)
        if composition.needs_all and self.__dict__.get('_has_part'):
            raise ValueError(PART.format(' and '.join(f'`{s}`' for s in composition.needs_all)))
        return composition

    @property
    def param_groups(self) -> Groups:
        "The groups: dicts with `params` and hyper-parameters, under our names, which answer torch's names, too."
        refuse_tracing('`param_groups` of an optimcb Optimizer', "Read what is needed of it before, and pass that.")
        groups = self.__dict__.get('param_groups')
        if groups is None: # in a wrapper that delegates
            raise AttributeError(f"{type(self).__name__} has no groups of its own.")
        if type(groups) is not Groups: # torch's `__setstate__` writes into `__dict__`
            self.param_groups = groups
            return self.param_groups
        return groups
    @param_groups.setter
    @opaque
    def param_groups(self, groups):
        self.__dict__['param_groups'] = groups = groups if type(groups) is Groups else Groups(groups)
        if 'cbs' in self.__dict__: groups.know(self._names)

    @property
    @opaque
    def state(self) -> dict:
        "The state of each parameter. Waits for a step that a GPU may have skipped."
        runner = self.__dict__.get('_runner')
        if runner is not None and runner.doubt: runner.settle()
        try: return self.__dict__['state']
        except KeyError: raise AttributeError(f"{type(self).__name__} has no state of its own.") from None # a wrapper that delegates
    @state.setter
    def state(self, v): self.__dict__['state'] = v

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Does `step` unscale gradients itself? torch's GradScaler asks. Who else asks, as Lightning does, means: must nobody else unscale and clip them?
        They may.

        A wrapper with a step of its own would not know, nor would accelerate, which puts one into the instance to see whether GradScaler calls it."""
        asks = sys._getframe(1).f_globals.get('__name__')
        step = getattr(self.step, '__func__', self.step)
        return asks == torch.amp.GradScaler.__module__ and unwrap(step) is unwrap(STEP) and 'cbs' in self.__dict__

    @property
    @entry
    def param_lists(self) -> L:
        "The parameters of each group: live, and what is assigned here is in `param_groups`."
        return L(L(g['params']) for g in self.param_groups)
    @param_lists.setter
    @entry
    def param_lists(self, v):
        for g, ps in zip(self.param_groups, v, strict=True):
            g['params'] = list(ps)
            if len(g.get('param_names', ())) != len(g['params']): g.pop('param_names', None) # several in one tensor

    @property
    @entry
    def hypers(self) -> L:
        "The hyper-parameters of each group: live views of `param_groups`."
        return HyperViews(HyperView(g, self.hyper_names, self._warn_unread) for g in self.param_groups)
    @hypers.setter
    @entry
    def hypers(self, v):
        for h, new in zip(self.hypers, [dict(h) for h in v], strict=True): h.replace(new)

    @property
    def tracked(self) -> set:
        "Parameters that have required gradients. They are frozen while they don't: neither stepped nor decayed, whatever lies in their `.grad`."
        return self.__dict__.setdefault('_tracked', set())

    def _track(self): track((p for g in self.param_groups for p in g['params']), self.tracked)

    @entry
    def all_params(self,
        n:slice|int=slice(None), # Which groups
        with_grad:bool=False # Only parameters that have a gradient, and aren't frozen?
    ) -> L:
        "Each parameter as `(parameter, its group's parameters, its state, its group's hyper-parameters)`."
        if isinstance(n, int): n = slice(n, n+1 or None)
        res = L((p, pg, self.state[p], h) for pg, h in zip(self.param_lists[n], self.hypers[n]) for p in pg)
        if not with_grad: return res
        track((p for p, *_ in res), self.tracked)
        return res.filter(lambda o: self._is_stepped(o[0]))

    def _is_stepped(self, p) -> bool: return grad_of(p, self.tracked) is not None

    @entry
    @torch.no_grad()
    def step(self,
        closure:Callable|None=None # Evaluates the model again and returns the loss
    ):
        """Call the steppers on each parameter that has a gradient and isn't frozen. Returns what `closure` returns. Raises `MissingName`.

        A parameter that has required gradients and doesn't now is frozen: it rests, with its state, until it requires them again.

        A step that raises has changed nothing, wherever that can be known: kernels store when all else is done, and a
        step in which the eager engine meets a parameter, a kind of gradient or a stepper for the first time is undone.
        What is left: a stepper raises in a later step, and the eager engine runs it. Then, as in `torch.optim`, the
        parameters before it in the eager engine's part have been stepped, and it may be half stepped itself. Those
        after it, and all that kernels step, are as they were."""
        refuse_step(self)
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        runner = None if self.engine == 'eager' else self._running
        try:
            scaling = Scaling(getattr(self, 'grad_scale', None), getattr(self, 'found_inf', 0.)) if self.__dict__.keys() & SCALER else NOT_SCALED
            if scaling.in_doubt or not scaling.skips(): self._step_of(self, runner, scaling)
        except BaseException as e:
            if isinstance(e, MissingName): e.args = (advice(e),)
            for k in SCALER: self.__dict__.pop(k, None) # it takes them away after a step that doesn't fail
            raise
        return loss

    def _step_of(self, part, runner, scaling=NOT_SCALED):
        "Step the parameters of `part`, which has `param_groups` and `state`: the optimizer, or what stands for some of its parameters"
        composition = self.composition
        if composition.skips_nonfinite:
            scaling = scaling.or_nonfinite([p.grad for g in part.param_groups for p in g['params'] if self._is_stepped(p)])
            if not scaling.in_doubt and scaling.skips(): return
        mark = partial(self._mark, part) if composition.marks else None
        if mark and ((plan := getattr(runner, 'plan', None)) is None or plan.spreads): mark() # else the plan has seen it
        hypers = self._hypers_of_groups(part.param_groups)
        if runner is None:
            track((p for g in part.param_groups for p in g['params']), self.tracked)
            state = part.state
            work = [(p, state[p], h) for g, h in zip(part.param_groups, hypers) for p in g['params'] if self._is_stepped(p)]
            if work: self._step_eagerly(composition, work, hypers, scaling)
        else:
            def eagerly(work): self._step_eagerly(composition, work, hypers, scaling)
            made, stepped = runner.step(part, composition, hypers, scaling, eagerly, mark)
            if made: self._not_hypers(made)
            torch.autograd.graph.increment_version(stepped)

    @entry
    @torch.no_grad()
    def before_replay(self):
        """Make a step that a CUDA graph has captured the next one: send learning rate, step count and the like. Call it before each `graph.replay()`.

        Raises `RuntimeError` if no step was captured, or if the next one takes another branch.
        """
        refuse_step(self)
        self._running.renew(self._hypers_of_groups(self.param_groups))

    def _hypers_of_groups(self, groups):
        names = self.hyper_names - NOT_HYPERS
        return [{k: v for k, v in g.items() if k in names} for g in groups]

    def _step_eagerly(self, composition, work, hypers, scaling):
        "Step parameters by the eager engine. What is new to it is tried: if that fails, nothing has changed"
        if scaling.skips(): return
        if self.__dict__.get('_tried', (None,))[0] is not composition: self._tried = composition, set()
        tried = self._tried[1]
        new = {(id(p), p.grad.layout) for p, *_ in work}.union(map(frozenset, hypers)) - tried
        try:
            if new: self._try(composition, work, scaling)
            else: eager.step(composition, work, scaling)
        finally: torch.autograd.graph.increment_version([p for p, *_ in work])
        tried |= new

    def _try(self, composition, work, scaling):
        "Step parameters; if that fails, nothing has changed"
        before = [set(state) for _, state, _ in work]
        with ExitStack() as stack:
            for p, state, _ in work: stack.enter_context(_unharmed(p, state))
            eager.step(composition, work, scaling)
        self._not_hypers({k for (_, state, _), old in zip(work, before) for k in state.keys() - old})

    def _not_hypers(self, made):
        "A number in a signature that a stepper turns out to return was state all along, not a hyper-parameter"
        for k in made:
            for d in (self.defaults, *self.param_groups):
                if k in d and self.composition.is_default(k, d[k]): del d[k]

    @entry
    def zero_grad(self,
        set_to_none:bool=False # Drop the gradients, instead of filling them with zeros as fastai does?
    ):
        "Zero the gradients in place, or drop them."
        for p in (p for pg in self.param_lists for p in pg if _has_grad(p)):
            if set_to_none: p.grad = None
            else:
                if p.grad.grad_fn is None: p.grad.requires_grad_(False)
                else: p.grad.detach_()
                p.grad.zero_()

    # Composing

    @property
    def _said(self) -> dict:
        "What rules say of parameters without state: which steppers are there for them. (torch takes an optimizer that has some state for one that has all)"
        return self.__dict__.setdefault('_said_of', {})

    def _marks_of(self, composition, part=None) -> dict:
        "By the id of each parameter which steppers are there for it, as its state, its group or rules say. For a step of `part`: if its state doesn't say it"
        res, tests, names, states, marks = {}, {}, None, self.__dict__['state'], composition.marks
        old, routes = _other_rules(self.composition, composition), composition.routes # what other rules have said doesn't count
        for g in (part or self).param_groups:
            for p in g['params']:
                known = states.get(p, {}) if isinstance(p, Tensor) else {}
                if routes and 'route' in known and 'route' not in old: self._check_route(routes, known['route'])
                if not can_step(p) if part is None else known.keys() >= marks.keys() or not self._is_stepped(p): continue
                known = {k: v for o in (self._said.get(p, {}), {} if part else g, known) for k, v in o.items() if k in marks and k not in old}
                for k in marks.keys() - known.keys():
                    if k not in tests: tests[k] = marks[k].test()
                    if names is None: names = {id(q): name for o in self.param_groups for q, name in zip(o['params'], o.get('param_names', ()))}
                    known[k] = tests[k](p, names.get(id(p)))
                if routes: self._check_route(routes, known['route'])
                res[id(p)] = known
        return res

    def _check_route(self, routes, route):
        if route not in routes: raise ValueError(f"a parameter is in route {route!r}, but there are {', '.join(routes)}.")

    def _mark(self, part=None):
        "Note which steppers are there for each parameter: for a step of `part` in its state, before it beside that. Raises `ValueError`"
        marks = self._marks_of(self.composition, part)
        found = {p: marks[id(p)] for g in (part or self).param_groups for p in g['params'] if id(p) in marks} if marks else {}
        if part:
            for p, said in found.items(): self.state[p].update(said)
            return
        for g in self.param_groups:
            for k in self.composition.marks.keys() & g.keys(): del g[k] # now the parameters say it
        self._said.clear()
        self._said.update(found)

    def _check(self, composition, made_before=frozenset()):
        "Rehearse `composition` for each group, without the state that it must make itself. Raises `MissingName`, warns of what is doubtful"
        if self._own_step: return
        names = (self.hyper_names | composition.reads) - NOT_HYPERS
        hypers = [{**composition.defaults, **{k: v for k, v in g.items() if k in names}} for g in self.param_groups]
        marks = self._marks_of(composition) if composition.marks else {}
        groups = [g._replace(hypers=h, states=[{**marks.get(id(p), {}), **s} for p, s in zip(g.params, g.states)]) for g, h in zip(self._groups, hypers)]
        for doubt in warnings_for(composition, groups, made_before): warn(doubt, CompositionWarning)

    @entry
    def edit(self,
        f:Callable # From a list of steppers to another
    ):
        """Go on with other steppers, from the state that they can use. Returns the optimizer itself.

        State that only those steppers speak of that are gone is dropped. Raises `MissingName`, and changes nothing, if the new ones lack something."""
        if 'cbs' not in self.__dict__: raise TypeError(f"{type(self).__name__} wraps an optimizer that has the steppers. Edit that one.")
        cbs, old = L(f(list(self.cbs))), self.composition
        composition = self._understood(cbs)
        if self.__dict__.get('_checked', True) and composition.untapped != old.untapped:
            self._check(composition, old.makes)
            if not self._own_step: self._say_what_is_late(composition, composition.makes - old.makes)
        self.cbs = cbs
        if self._choice is not None: self._choice = self._choice.copy(edits=(*self._choice.edits, f), labels=composition.untapped)
        composition = self.composition # with it come its hyper-parameters
        self._renew_defaults(old, composition)
        if 'called' in self.__dict__: self.called = f"{self.called.removesuffix(', edited')}, edited"
        out = [s for s in old.steppers if not any(s.f is f for f in cbs)]
        taps = {k for s in out for k in s.taps}
        unread = frozenset() if composition.reads_all else frozenset().union(*(s.mentions for s in out)) - composition.reads - set(self._keep_on_clear)
        rules = _other_rules(old, composition)
        unread |= rules
        for state in self._states:
            for k in [k for k in state if k in unread or k.partition('.')[0] in taps]: del state[k]
        if old.marks or composition.marks:
            for said in self._said.values(): [said.pop(k, None) for k in rules]
            self._mark()
        return self

    def _renew_defaults(self, old, new):
        "Where nobody has set a number that comes with the steppers, let it be the default of the new ones"
        given = self.__dict__.get('_given', frozenset())
        was = {k: v for k, v in old.defaults.items() if k in new.defaults and k not in given and isinstance(v, Real)}
        for d in (self.defaults, *self.param_groups):
            for k, v in was.items():
                if k in d and isinstance(d[k], Real) and d[k] == v: d[k] = new.defaults[k]

    def _say_what_is_late(self, composition, started):
        "Warn of state that starts now, where a stepper takes it for as old as the count of steps"
        old = next((s for s in self._states if isinstance(s.get('step'), Real) and s['step'] > 0), None)
        for s in composition.steppers if old else ():
            late = [k for k in s.required if k in started and k not in old and k not in self.param_groups[0] and k not in ONE_STEP]
            if 'step' in s.names and late:
                warn(f"`{late[0]}` starts now, but `step` goes on from {old['step']}, by which `{s}` corrects its bias. To count anew: "
                     f"`for s in opt.state.values(): s.pop('step', None)`.", CompositionWarning)

    _title = property(lambda self: self.__dict__.get('called', type(self).__name__))
    _engine_wanted = property(lambda self: self.engine)
    _groups = property(lambda self: [Group(dict(h), ps, [{**self._said.get(p, {}), **self.state.get(p, {})} for p in ps], g.get('param_names'), self.tracked)
                                    for g, ps, h in zip(self.param_groups, self.param_lists, self.hypers)])

    @property
    def _states(self): return [state for k, state in self.state.items() if not is_note(k)]

    @property
    def _runs(self):
        runner = None if '_in_backward' in self.__dict__ else self.__dict__.get('_runner')
        return runner if runner is not None and runner.composition is self.composition else None

    # Parameters and hyper-parameters

    @entry
    def add_param_group(self,
        param_group:dict # `params`, and hyper-parameters that differ from the optimizer's
    ):
        """Add a group of parameters. What the dict leaves out has the value that the optimizer was constructed with.

        Raises `TypeError` for what is no tensor, `ValueError` for a tensor that is no leaf or that is there already.
        """
        group = self._own(param_group)
        group['params'], names = _split_names(group['params'])
        if names: group['param_names'] = names
        _check_params(group['params'], [p for g in self.param_groups for p in g['params']])
        if 'param_names' not in group and self.__dict__.pop('_names_brought', False): # by a state dict: nobody else has given any
            for g in self.param_groups: g.pop('param_names', None)
        if any(('param_names' in g) != ('param_names' in group) for g in self.param_groups):
            raise ValueError(NAMES_FOR_ALL)
        group = {**{k: own(k, v) for k, v in self.defaults.items()}, **group}
        self.param_groups.append(group)
        self._track()
        if 'frozen_idx' in self.__dict__:
            try:
                if self.composition.marks: self._mark()
                self._tell_choice()
            except BaseException:
                self.param_groups.pop()
                raise
        if '_in_backward' in self.__dict__: self._in_backward.attach()

    def _own(self, group):
        "`group` with checked hyper-parameters under our names"
        if not isinstance(group, dict): raise TypeError(f"a parameter group must be a dict with `params`, not {group!r:.80} ({type(group).__name__}).")
        if 'params' not in group: raise ValueError(f"a parameter group needs `params`, but this one has {sorted(group)}.")
        composition = self.composition
        if self._choice is not None: group = self._choice.algorithm.ours(group)
        values = from_torch({k: v for k, v in group.items() if k not in NOT_HYPERS}, self._names)
        flags = {} if self._choice is None else self._choice.flags_of(values)
        values = self._without_flags({k: v for k, v in values.items() if k not in flags})
        known = composition.reads | ALWAYS_WELCOME | self.hyper_names
        def is_meant(k, v): return k in RANGES or k in TORCH_NAMES and v or suggest(k, composition.reads)
        self._warn_unread(k for k, v in values.items() if is_meant(k, v)) # others are somebody's notes: a name, an `initial_lr`
        self.hyper_names.update(k for k in values if k in known)
        asked = {k: v for k, v in flags.items() if v != self._choice.options[k]}
        return {**{k: group[k] for k in NOT_HYPERS if k in group}, **{k: own(k, check(k, v)) if k in known else v for k, v in values.items()}, **asked}

    def _without_flags(self, group):
        "`group` without torch's options that are no numbers. Raises what `without_flags` does, and `ValueError` for an engine of its own"
        if self._own_step: return group
        values, engine = without_flags(group, self.composition, self.engine)
        if engine != self.engine: raise ValueError(f"a group can't have an engine of its own. Pass engine='{engine}' to the optimizer.")
        return values

    def _warn_unread(self, names):
        composition = self.composition
        if self._own_step: return
        welcome = ALWAYS_WELCOME.union(*({f'{r}_{k}' for k in ALWAYS_WELCOME} for r in composition.routes))
        unread = [] if composition.reads_all else [k for k in names if k not in composition.reads | welcome | self.hyper_names]
        said = self.__dict__.setdefault('_said_unread', set())
        unread = [k for k in unread if k not in said] # once is enough
        if not unread or not composition.steppers: return
        said.update(unread)
        meant = ''.join(suggest(k, composition.reads) for k in unread)
        if 'wd' in unread: meant += " Put `weight_decay` before the others, if the weights should decay."
        warn(f"no stepper reads {' or '.join(f'`{k}`' for k in unread)}: {not_so(composition.labels)}.{meant}")

    @entry
    def set_hypers(self, **kwargs):
        "`set_hyper` for all `kwargs`."
        if 'lr' in kwargs and self.__dict__.get('_checked', True): warn_unaveraged(self) # as a Learner's `fit` begins
        for k, v in kwargs.items(): self.set_hyper(k, v)

    @entry
    def set_hyper(self,
        k:str, # Name; may be new
        v # A value, one for each group, or a slice
    ):
        "Set hyper-parameter `k` in every group. Raises `ValueError` or `TypeError`, and sets nothing, for a value that can't be."
        values = {o: spread(o, x, len(self.param_lists)) for o, x in from_torch({k: v}, self._names).items()}
        for o, vs in values.items():
            if o in TORCH_FLAGS and (self._choice is None or o not in self._choice.flags):
                for x in vs: self._without_flags({o: x})
        before = [(h, o, h.get(o)) for o in values for h in self.hypers]
        for o, vs in values.items(): self._set_hyper(o, vs)
        if self._choice is None: return
        if _asked_by_fastai(): self._choice.ignore(values, self.param_groups)
        try: self.composition # noqa: B018 - which may be another one now
        except BaseException:
            for h, o, x in before:
                del h[o]
                if x is not None: h[o] = x
            raise

    def _set_hyper(self, k, values):
        "Set a hyper-parameter to a value for each group: fastai's method, which subclasses override."
        for h, v in zip(self.hypers, values): h[k] = v

    # Freezing

    @entry
    def freeze_to(self,
        n:int # Index of the first group that is trained; negative counts from the end
    ):
        "Freeze the groups before `n`, but for parameters whose state has `force_train`, and unfreeze the others."
        count = len(self.param_lists)
        self.frozen_idx = n if n >= 0 else count + n
        if self.frozen_idx >= count:
            warn(f"frozen up to group {self.frozen_idx} of {count}: the whole model is frozen.")
        for o in self.all_params(slice(n, None)): self._set_require_grad(True, *o)
        for o in self.all_params(slice(None, n)): self._set_require_grad(False, *o)
        self.tracked.update(p for ps in self.param_lists for p in ps) # also plain tensors: they are frozen now if they are said to be

    def _set_require_grad(self, rg, p, pg, state, h):
        "Freeze or unfreeze one of `all_params`: fastai's method, which callbacks call and subclasses override."
        p.requires_grad_(rg or state.get('force_train', False))

    @entry
    def freeze(self):
        "Freeze all groups but the last. Raises `ValueError` if there is only one."
        if len(self.param_lists) < 2: raise ValueError("there is only one parameter group, which would stay unfrozen. A `splitter` makes more.")
        self.freeze_to(-1)

    @entry
    def unfreeze(self):
        "Unfreeze all groups."
        self.freeze_to(0)

    # Weights to evaluate

    @entry
    def eval(self,
        part=None # Stepper that tells the weights, named as in `replace`; default: the last one that does
    ):
        """Put the weights that are to be evaluated into the model, if they are not those that are trained: averages, slow weights.

        The trained ones are state until `train` is called: they are saved and loaded with it. Until then `step` is an error. Parameters of which there is no
        average yet stay as they are. Batch norm's statistics are of the trained weights: `torch.optim.swa_utils.update_bn(loader, model)` makes them anew.
        Raises `ValueError` if `part` tells no weights, or if others are in the model."""
        put_in(self, part)

    @entry
    def train(self):
        """Take the weights that are trained back into the model, bit for bit, after `eval`.

        Those that somebody has changed since, by loading a model say, stay as they are, with a warning."""
        take_out(self)

    @entry
    def averaged(self,
        part=None # Stepper that tells the weights, named as in `replace`; default: the last one that does
    ):
        "A `with` block between `eval` and `train`."
        return averaged(self, part)

    # State

    @entry
    def clear_state(self):
        """Forget the state of all parameters, but for `do_wd`, `force_train` and which steppers are there for them.

        The model keeps the weights that it has, also between `eval` and `train`."""
        forget(self)
        if self.composition.marks: self._mark()
        kept = {p: s if is_note(p) else {k: s[k] for k in self._keep_on_clear if k in s} for p, s in self.state.items()}
        self.state.clear()
        self.state.update({p: s for p, s in kept.items() if s or is_note(p)}) # torch makes state for a checkpoint where there is none
        self._forget_runner()

    @entry
    def state_dict(self) -> dict:
        "A copy of the state in torch's shape, with fastai's `hypers`, the steppers' names and the parameters' shapes beside it."
        return self._state_dict_on(None)

    def state_dict_on(self,
        device # Where tensors are copied to; None: where they are
    ) -> dict:
        "`state_dict`, copied to a device at once, unless somebody has put another `state_dict` in its place."
        own = getattr(self.state_dict, '__func__', None) is Optimizer.state_dict
        return self._state_dict_on(device) if own else self.state_dict()

    def _state_dict_on(self, device):
        "`state_dict`, copied to `device`; None: where things are"
        for hook in self._optimizer_state_dict_pre_hooks.values(): hook(self)
        sd = pack(self, device)
        for hook in self._optimizer_state_dict_post_hooks.values():
            new = hook(self, sd)
            if new is not None: sd = new
        return sd

    @entry
    @torch.no_grad()
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, from fastai's `Optimizer`, or from an optimizer of `torch.optim`
    ):
        """Go on from a copy of `state_dict`, each state keeping its dtype, on its parameter's device.

        Where parameters have names on both sides, it is found by name, whatever the order and the groups; else by the order.
        Raises `ValueError`, and changes nothing, if it is of other parameters, or of an optimizer that no steppers do.
        Warns if it is of other steppers, or of other names: then what fits is taken. A group that is a part of one there keeps what of its hyper-parameters
        isn't the optimizer's default, and warns, too. `do_wd` and `force_train` stay where the state dict says nothing of a parameter, or is torch's.
        """
        if not isinstance(state_dict, dict): raise ValueError(f"a state dict must be a dict, but is {state_dict!r:.80} ({type(state_dict).__name__}).")
        sd = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            new = hook(self, sd)
            if new is not None: sd = new
        cbs, choice = self.cbs, self._choice and self._choice.copy()
        if choice is not None: self._choose_for(sd)
        try: groups, hyper_names, states = unpack(self, sd)
        except BaseException:
            self.cbs, self._choice = cbs, choice
            raise
        forget(self)
        if self.composition.marks: self._mark()
        for g, new in zip(self.param_groups, groups): g.update(new)
        if any('param_names' in g for g in groups): self._names_brought = True
        self.hyper_names |= hyper_names
        self.state.clear()
        self.state.update({p: s for p, s in states.items() if s or is_note(p)})
        if choice is not None: self._choice.ignore(self._choice.names, self.param_groups) # they did nothing where they are from
        self._forget_runner()
        for hook in self._optimizer_load_state_dict_post_hooks.values(): hook(self)

    def _choose_for(self, sd):
        "Go on with the steppers that a state dict is of, if other options of the algorithm choose them"
        cbs = self._choice.steppers_of(sd, self.composition)
        if cbs is not None: self.cbs = L(cbs)

    @entry
    def __repr__(self):
        if self._own_step: return super().__repr__()
        rules = [f'{rule} {says}: {who}' for rule, says, *_, who in placement(self.composition, self._groups)]
        return '\n'.join([', '.join(self.composition.labels), *rules, *map(_shortened, super().__repr__().splitlines())])

    def __getstate__(self):
        "Everything but hooks, as in torch, and what is made again when needed"
        return {k: v for k, v in {**self.__dict__, 'state': self.state}.items() if not k.endswith('_hooks') and k not in MADE_AGAIN}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.defaults.pop('differentiable', None) # torch's default for its own algorithms
        if 'param_groups' in self.__dict__: self.param_groups = self.__dict__['param_groups'] # one that delegates has none
        if not isinstance(self.defaults, TorchNames): self.defaults = TorchNames(self.defaults).know(self._names)


STEP = Optimizer.step # a patch of the class, as by fastcore's `patch`, is another one


def runs_steppers(
    opt # Some optimizer
) -> bool:
    "Is it an `Optimizer` without a step of its own? torch wraps the method once for each class."
    return isinstance(opt, Optimizer) and unwrap(type(opt).step) is unwrap(STEP)


def _own_step_of(cls) -> str|None:
    "The name of the class in whose step a step of `cls` ends, if it isn't ours: one that calls `super().step` goes on"
    for c in cls.__mro__:
        if 'step' not in vars(c): continue
        step = unwrap(vars(c)['step'])
        if step is unwrap(STEP): return None
        if not _goes_on(step, {'super', *(o.__name__ for o in cls.__mro__)}): return c.__name__


def _goes_on(step, above) -> bool:
    "Does a method call the `step` of a class that is above its own?"
    todo, names = [getattr(step, '__code__', None)], set()
    while todo:
        code = todo.pop()
        if code is None: continue
        names.update(code.co_names)
        todo += [o for o in code.co_consts if isinstance(o, CodeType)]
    return 'step' in names and not names.isdisjoint(above)


def _readable(cbs) -> Composition:
    "What can be read of `cbs`, which may be anything, for a step that isn't ours"
    def composition(found):
        try: return Composition(found)
        except (TypeError, ValueError): return None # one is no stepper, or they don't go together
    res = composition([f for f in cbs if callable(f) and composition([f])]) or Composition([])
    res.cbs = tuple(cbs)
    return res


def become(
    wrapper:Optimizer, # What wraps it
    opt:Optimizer, # Optimizer that is wrapped, in `.opt` from now on
    called:str # What the wrapper is called
):
    "Let `wrapper` have the parameters, hyper-parameters and state of `opt`, and step them by an engine of its own."
    wrapper.__dict__.update({k: v for k, v in {**opt.__dict__, 'state': opt.state}.items() if k not in MADE_AGAIN})
    if wrapper._choice is not None: wrapper._choice = wrapper._choice.copy()
    wrapper.opt, wrapper.called = opt, f'{called} of {opt._title}'


def _asked_by_fastai() -> bool:
    "Does a callback of fastai set a hyper-parameter? One-cycle schedules `mom`, which there does nothing without momentum"
    return calling_frame().f_globals.get('__name__', '').startswith('fastai.callback')


NAMES_SHOWN = 80 # characters of the names of a group


def _shortened(line) -> str:
    "A line of torch's `repr`, where the names of a large model would be the most of it"
    if not line.startswith('    param_names: ') or len(line) <= NAMES_SHOWN: return line
    return f"{line[:NAMES_SHOWN].rpartition(',')[0]}, …]"


def _other_rules(old, new) -> set: return {k for k in old.marks if new.marks.get(k) != old.marks[k]}


def _update(
    state:dict, # Takes what `new` has
    new=None # What a stepper returned
) -> dict:
    "`state` with what a stepper returned, for loops over `cbs` of one's own."
    if isinstance(new, dict): state.update(new)
    return state


def _has_grad(p) -> bool: return getattr(p, 'grad', None) is not None


@contextmanager
def _unharmed(p, state):
    "Leaves `p` and `state` as they were, if what runs inside fails"
    data, kept = p.data.clone(), copied(state)
    try: yield
    except BaseException:
        p.data.copy_(data)
        state.clear()
        state.update(kept)
        raise


def _may_be_empty(groups) -> bool:
    "May other processes have all parameters of these groups? An iterator that is used up is a mistake all the same"
    return torch.distributed.is_available() and torch.distributed.is_initialized() and not any(isinstance(g['params'], Iterator) for g in groups)


def _made_by_zero() -> bool:
    "Is this the optimizer of one process in torch's `ZeroRedundancyOptimizer`? It has some of the parameters, perhaps none"
    zero = sys.modules.get('torch.distributed.optim.zero_redundancy_optimizer')
    makes = zero and getattr(zero.ZeroRedundancyOptimizer, '_init_local_optimizer', None)
    frame = sys._getframe() if makes else None
    while frame and frame.f_code is not makes.__code__: frame = frame.f_back
    return frame is not None


def _as_groups(params) -> list[dict]:
    "`params`, in any of the forms that torch and fastai have for it, as a list of torch's dicts"
    if isinstance(params, torch.nn.Module) and not isinstance(params, torch.nn.ParameterList):
        raise TypeError("`params` is a model. Pass its parameters: `model.parameters()`.")
    if inspect.isroutine(params): raise TypeError("`params` is a function. Call it: `model.parameters()`.")
    _check_order(params)
    params = L(params)
    if not params or all(isinstance(ps, (L, list)) and not ps for ps in params): raise ValueError(NOTHING)
    if isinstance(params[0], dict): return list(params)
    if isinstance(params[0], (L, list)): return [{'params': ps} for ps in params]
    return [{'params': params}]


def _check_order(params):
    if isinstance(params, (set, frozenset)): raise TypeError("parameters are given in a set, whose order changes from run to run. Pass a list.")


def _split_names(params) -> tuple[list, list|None]:
    "Tensors, and their names where all have one"
    _check_order(params)
    params = list(L(params))
    named = [isinstance(p, tuple) for p in params]
    for p in params:
        if isinstance(p, tuple) and not (len(p) == 2 and isinstance(p[0], str)): raise TypeError(f"a pair must be (name, tensor), not {p!r:.80}.")
    if any(named) and not all(named): raise ValueError(NAMES_FOR_ALL)
    return ([p for _, p in params], [n for n, _ in params]) if any(named) else (params, None)


def _check_params(params, others):
    seen = {id(p) for p in others if isinstance(p, Tensor)}
    for i, p in enumerate(params):
        if isinstance(p, Real): continue # fastai's documentation makes optimizers of numbers, which never have a gradient
        if not isinstance(p, Tensor): raise TypeError(f"only tensors can be optimized, but parameter {i} is {p!r:.80} ({type(p).__name__}).")
        if not (p.is_leaf or p.retains_grad):
            raise ValueError(f"parameter {i}, of shape {tuple(p.shape)}, is no leaf: it was computed from other tensors. Optimize those, or `p.detach()`.")
        if id(p) in seen: raise ValueError(f"parameter {i} of the group is there twice, and would be stepped twice. Put it in one group only.")
        seen.add(id(p))
