"Edit a live optimizer, which continues with the new steppers and the state that they can use."
from collections.abc import Callable
from numbers import Real

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb._compat.wrappers import zero_refusal
from optimcb.composition.errors import MissingName
from optimcb.composition.pipeline import Composition
from optimcb.composition.storage import convert_state
from optimcb.diagnosis.of_optimizer import check_steppers, warn_late_state
from optimcb.editing.edit import Composable
from optimcb.engines.masks import changed_rules, set_pending_masks
from optimcb.hypers.groups import TorchNames

__all__ = ['LiveSteppers', 'edit_optimizer']


class LiveSteppers(Composable):
    "A mixin for optimizers: `cbs`, which may change between steps, and their `composition`."
    _choice = None # the options that chose the steppers, if an algorithm did
    _own_step = None # the name of a class whose `step` doesn't call ours

    @property
    def composition(self) -> Composition:
        "The composition of the current `cbs`, which may be changed between steps."
        known = self.__dict__.get('_composition')
        if known is None or known.cbs != tuple(self.cbs): known = self._recompose()
        groups = self.__dict__.get('param_groups', ())
        if self._choice is None or not self._choice.asks(groups, known.reads): return known
        self.cbs = L(self._choice.again(known.untapped, self.param_groups)) # raises before anything changes
        self._set_options()
        return self.composition

    def _recompose(self) -> Composition:
        "Compose `cbs` again, and add the steppers' default hyper-parameters to all groups"
        composition = self._composition = self._compose(self.cbs)
        self.hyper_names |= composition.reads
        names, groups = self._names_for(composition), self.__dict__.get('param_groups', ())
        if 'param_groups' in self.__dict__: self.param_groups.know(names)
        for d in (*groups, *([self.defaults] if 'defaults' in self.__dict__ else [])):
            if isinstance(d, TorchNames): d.know(names)
            for k, v in composition.defaults.items(): d.setdefault(k, v)
        return composition

    def _compose(self, cbs) -> Composition:
        "Return the composition of a list of steppers for this optimizer"
        if self._own_step: return _readable(cbs)
        composition = Composition(cbs)
        if composition.needs_all and self.__dict__.get('_has_part'):
            raise ValueError(zero_refusal(composition.needs_all))
        return composition

    def _names_for(self, composition) -> frozenset:
        "Return the names of hyper-parameters that steppers read or that choose steppers"
        return composition.reads if self._choice is None else composition.reads | {*self._choice.names}

    _names = property(lambda self: self._names_for(self.composition))

    def _set_options(self):
        "Store the options in which groups differ as hyper-parameters of the groups"
        if self._choice is None: return
        for k, values in self._choice.differing_flags(self.param_groups, self.composition.reads).items():
            for h, v in zip(self.hypers, values): h[k] = v
            self.defaults.setdefault(k, self._choice.options[k])

    @entry
    def edit(self,
        f:Callable # From a list of steppers to another
    ):
        """Change the steppers, and keep the state that the new ones can use. Returns the optimizer itself.

        State that only removed steppers mention is dropped. Raises `MissingName`, without changing anything,
        if a new stepper needs an unknown name."""
        edit_optimizer(self, f)
        return self


def _readable(cbs) -> Composition:
    "Return the composition of the valid steppers in `cbs`, for a class with its own `step`"
    def composition(found):
        try: return Composition(found)
        except (TypeError, ValueError): return None # some aren't steppers, or they can't be combined
    res = composition([f for f in cbs if callable(f) and composition([f])]) or Composition([])
    res.cbs = tuple(cbs)
    return res


def edit_optimizer(
    opt, # Optimizer
    f:Callable # From a list of steppers to another
) -> None:
    """Check new steppers, then switch to them: see `Optimizer.edit`.

    Raises `MissingName` before any change."""
    if 'cbs' not in opt.__dict__:
        raise TypeError(f"{type(opt).__name__} wraps an optimizer that has the steppers. Edit that one.")
    cbs, old = L(f(list(opt.cbs))), opt.composition
    new = opt._compose(cbs)
    if opt._is_checked and _untapped(new) != _untapped(old) and not opt._own_step:
        try: check_steppers(opt, new, old.makes, live=True)
        except MissingName as e:
            # they may be set before the next edit
            opt.__dict__.setdefault('_warned_unread', set()).update(e.names)
            raise
        warn_late_state(opt, new, new.makes - old.makes)
    opt.cbs = cbs
    if opt._choice is not None:
        opt._choice = opt._choice.copy(edits=(*opt._choice.edits, f), labels=new.untapped)
    new = opt.composition # adds the new steppers' default hyper-parameters
    _renew_defaults(opt, old, new)
    if 'called' in opt.__dict__: opt.called = f"{opt.called.removesuffix(', edited')}, edited"
    _drop_unused_state(opt, old, new)
    for p, state in opt.state.items() if old.stores or new.stores else ():
        if not isinstance(state, dict): continue
        convert_state(state, p, new.stores, [o.name for o in old.stores if o.holds_for(state)])


def _untapped(composition) -> list: return [s.f for s in composition.steppers if not s.taps]


def _renew_defaults(opt, old, new):
    "Replace defaults of the old steppers by those of the new ones, except values that were set"
    given = opt.__dict__.get('_given', frozenset())
    kept = new.defaults.keys() - given
    was = {k: v for k, v in old.defaults.items() if k in kept and isinstance(v, Real)}
    for d in (opt.defaults, *opt.param_groups):
        for k, v in was.items():
            if k in d and isinstance(d[k], Real) and d[k] == v: d[k] = new.defaults[k]


def _drop_unused_state(opt, old, new):
    "Drop state that only removed steppers mention, and masks of removed rules"
    gone = [s for s in old.steppers if not any(s.f is f for f in opt.cbs)]
    taps = {k for s in gone for k in s.taps}
    stale = changed_rules(old, new)
    unread = set(stale)
    if not new.reads_all:
        mentioned = frozenset().union(*(s.mentions for s in gone))
        unread |= mentioned - new.reads - set(opt._keep_on_clear)
    for state in opt._states:
        for k in [k for k in state if k in unread or k.partition('.')[0] in taps]: del state[k]
    if not (old.masks or new.masks): return
    for masks in opt.pending_masks.values():
        for k in stale: masks.pop(k, None)
    set_pending_masks(opt)
