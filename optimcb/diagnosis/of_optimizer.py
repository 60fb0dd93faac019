"Check a live optimizer; warn of probable mistakes and of hyper-parameters that no stepper reads."
from collections.abc import Iterable
from numbers import Real

from optimcb._compat.boundary import entry
from optimcb._compat.warn import CompositionWarning, warn
from optimcb.composition.errors import not_so
from optimcb.composition.results import ONE_STEP
from optimcb.diagnosis.checks import warnings_for
from optimcb.diagnosis.explain import Explained
from optimcb.diagnosis.groups import Group, placement
from optimcb.engines.masks import masks_of
from optimcb.engines.runner import Runner
from optimcb.hypers.torch_names import is_of_others, is_slip, suggest
from optimcb.hypers.values import ALWAYS_WELCOME, NOT_HYPERS

__all__ = ['ExplainedOptimizer', 'check_steppers', 'groups_of', 'slips', 'warn_late_state',
           'warn_unread']


def groups_of(
    opt # Optimizer
) -> list[Group]:
    "List the groups, with masks included in the state of parameters."
    states, pending = opt.state, opt.pending_masks
    def state_of(p): return {**pending.get(p, {}), **states.get(p, {})}
    def states_of(ps): return list(map(state_of, ps)) if pending or states else [{} for _ in ps]
    return [Group(dict(h), ps, states_of(ps), g.get('param_names'), opt.tracked)
            for g, ps, h in zip(opt.param_groups, opt.param_lists, opt.hypers)]


def check_steppers(
    opt, # Optimizer
    composition, # Its composition, or one that is to replace it
    made_before:Iterable=frozenset(), # Names of state that earlier steppers have made
    live:bool=False # Does the optimizer run already?
) -> None:
    """Rehearse `composition` for each group, without the state that it must create itself.

    Raises `MissingName`; warns of probable mistakes."""
    names = (opt.hyper_names | composition.reads) - NOT_HYPERS
    masks = masks_of(opt, composition) if composition.masks else {}
    groups = []
    for g, group in zip(opt.param_groups, groups_of(opt)):
        hypers = {**composition.defaults, **{k: v for k, v in g.items() if k in names}}
        states = [{**masks.get(id(p), {}), **s} for p, s in zip(group.params, group.states)]
        groups.append(group._replace(hypers=hypers, states=states))
    for w in warnings_for(composition, groups, made_before, live): warn(w, CompositionWarning)


def warn_late_state(
    opt, # Optimizer
    composition, # New steppers
    started:Iterable # Names of new state
) -> None:
    "Warn of new state whose bias correction uses the old count of steps."
    old = next((s for s in opt._states if isinstance(s.get('step'), Real) and s['step'] > 0), None)
    if old is None: return
    def is_there(k): return k in old or k in opt.param_groups[0] or k in ONE_STEP
    for s in composition.steppers:
        late = [k for k in s.required if k in started and not is_there(k)]
        if 'step' in s.names and late:
            warn(f"`{late[0]}` starts now, but `step` goes on from {old['step']}, by which `{s}` corrects "
                 "its bias. To count anew: "
                 f"`for s in opt.state.values(): s.pop('step', None)`.", CompositionWarning)


def _options(opt) -> frozenset:
    "Names of options that choose steppers, and that groups may have, though no stepper reads them"
    return frozenset() if opt._choice is None else opt._choice.names | opt._choice.flags


def slips(
    opt, # Optimizer
    group:dict, # New entries of a group
    is_new:bool # Is it a new group? In others, names of other steppers may be notes of the user
) -> list[str]:
    "List the names that are meant as hyper-parameters, but that no stepper reads."
    composition, options = opt.composition, _options(opt)
    if composition.reads_all: return []
    given = opt.__dict__.get('_given', frozenset())
    there = (composition.defaults.keys() | given) & composition.reads | ALWAYS_WELCOME | options
    return [k for k, v in group.items() if is_new and is_of_others(k, v) or is_slip(k, there)]


def warn_unread(
    opt, # Optimizer
    names:Iterable # Names of hyper-parameters
) -> None:
    "Warn, once for each name, of hyper-parameters that no stepper reads."
    composition = opt.composition
    if opt._own_step or composition.reads_all: return
    of_routes = {f'{route}_{k}' for route in composition.routes for k in ALWAYS_WELCOME}
    known = composition.reads | _options(opt) | ALWAYS_WELCOME | of_routes | opt.hyper_names
    warned = opt.__dict__.setdefault('_warned_unread', set())
    unread = [k for k in names if k not in known and k not in warned]
    if not unread or not composition.steppers: return
    warned.update(unread)
    meant = ''.join(suggest(k, composition.reads | _options(opt)) for k in unread)
    if 'wd' in unread: meant += " Put `weight_decay` before the others, if the weights should decay."
    listed = ' or '.join(f'`{k}`' for k in unread)
    warn(f"no stepper reads {listed}: {not_so(composition.labels)}.{meant}")


class ExplainedOptimizer(Explained):
    "A mixin with the attributes of an optimizer that explanations, checks and edits need."
    _title = property(lambda self: self.__dict__.get('called', type(self).__name__))
    _engine_wanted = property(lambda self: self.engine)
    _groups = property(groups_of)
    _states = property(lambda self: [state for k, state in self.state.items() if not isinstance(k, str)])
    _is_checked = property(lambda self: self.__dict__.get('_checked', True))

    @property
    def _runs(self) -> Runner|None:
        "The runner of the steps so far, if it belongs to the current steppers"
        runner = None if '_in_backward' in self.__dict__ else self.__dict__.get('_runner')
        return runner if runner is not None and runner.composition is self.composition else None

    @entry
    def __repr__(self):
        if self._own_step: return super().__repr__()
        found = placement(self.composition, self._groups)
        rules = [f'{rule} {mask}: {names}' for rule, mask, *_, names in found]
        groups = map(_shortened, super().__repr__().splitlines())
        called = f'{self._title}: ' if 'called' in self.__dict__ else ''
        return '\n'.join([called + ', '.join(self.composition.labels), *rules, *groups])


NAMES_SHOWN = 80 # most characters of a group's names


def _shortened(line) -> str:
    "Shorten a line of torch's `repr`, where the names of a large model would take up most of it"
    if not line.startswith('    param_names: ') or len(line) <= NAMES_SHOWN: return line
    return f"{line[:NAMES_SHOWN].rpartition(',')[0]}, …]"
