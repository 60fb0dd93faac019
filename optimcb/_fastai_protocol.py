"""fastai's protocol: hyper-parameters, parameter lists, freezing, and the weights that a model is
evaluated with."""
import weakref
from collections.abc import Callable

from fastcore.foundation import L

from optimcb._compat import wrappers
from optimcb._compat.boundary import entry
from optimcb._compat.warn import warn
from optimcb.diagnosis.of_optimizer import slips, warn_unread
from optimcb.engines.frozen import grad_of, track
from optimcb.engines.zeroing import zero
from optimcb.hypers.given import without_group_flags
from optimcb.hypers.torch_names import TORCH_FLAGS, from_torch
from optimcb.hypers.values import per_group
from optimcb.hypers.views import HyperView, HyperViews
from optimcb.state.eval_weights import averaged, put_in, take_out, warn_unaveraged
from optimcb.state.on_device import fill_hyper
from optimcb.state.restore import clear_state

__all__ = ['FastaiProtocol']


class FastaiProtocol:
    "A mixin that adds the methods of fastai's `Optimizer` to a `torch.optim.Optimizer` with steppers."
    _capturable = False # are numbers kept on the device?
    _keep_on_clear = ('force_train', 'do_wd') # state that `clear_state` keeps

    # Parameters

    @property
    @entry
    def param_lists(self) -> L:
        "The parameters of each group, live: assignments change `param_groups`."
        return L(L(g['params']) for g in self.param_groups)
    @param_lists.setter
    @entry
    def param_lists(self, v):
        for g, ps in zip(self.param_groups, v, strict=True):
            g['params'] = list(ps)
            # several in one tensor
            if len(g.get('param_names', ())) != len(g['params']): g.pop('param_names', None)

    @entry
    def zero_grad(self,
        set_to_none:bool=False # Set gradients to None, instead of filling them with zeros as in fastai?
    ):
        """Zero the gradients in place, or drop them.

        Those that a step with `zero_in_step` has zeroed, and that are unchanged since, are skipped."""
        zeroed, params = self.__dict__.pop('_zeroed', None), [p for ps in self.param_lists for p in ps]
        grads = [g for p in params if (g := getattr(p, 'grad', None)) is not None]
        if not set_to_none: zero(zeroed.others(grads) if zeroed else grads)
        else:
            for p in params:
                if getattr(p, 'grad', None) is not None: p.grad = None

    @property
    def zero_in_step(self) -> bool:
        """Does a step leave zeros in the gradients that it has read? May be set between steps.

        A kernel then stores them in the pass that reads a gradient last, instead of another pass over all
        gradients in `zero_grad()`, which still must follow: it zeroes what is left, such as gradients of
        frozen parameters, sparse ones, shards, those that require gradients or share memory, and all after a
        step that was or may have been skipped. Numbers stay the same to the bit. Whatever reads gradients
        after the step, as a hook, sees zeros. `zero_grad` finds by identity and `_version` what has been
        changed since: not changes through `.data` between `step` and `zero_grad`. It pays where gradients are
        larger than a cache; a few small tensors are zeroed as fast by `zero_grad`."""
        return self.__dict__.get('_zero_in_step', False)
    @zero_in_step.setter
    @entry
    def zero_in_step(self, v):
        if v not in (True, False): raise TypeError(f"`zero_in_step` must be True or False, but is {v!r}.")
        self._zero_in_step = bool(v)

    @entry
    def all_params(self,
        n:slice|int=slice(None), # Index or slice of groups
        with_grad:bool=False # Only unfrozen parameters with a gradient?
    ) -> L:
        "List `(parameter, its group's parameters, its state, its group's hyper-parameters)` for each one."
        if isinstance(n, int): n = slice(n, n+1 or None)
        res = L((p, pg, self.state[p], h) for pg, h in zip(self.param_lists[n], self.hypers[n]) for p in pg)
        if not with_grad: return res
        track((p for p, *_ in res), self.tracked)
        return res.filter(lambda o: grad_of(o[0], self.tracked) is not None)

    # Hyper-parameters

    @property
    @entry
    def hypers(self) -> L:
        "The hyper-parameters of each group: live views of `param_groups`."
        return HyperViews(HyperView(g, self.hyper_names, self._warn_unread) for g in self.param_groups)
    @hypers.setter
    @entry
    def hypers(self, v):
        for h, new in zip(self.hypers, [dict(h) for h in v], strict=True): h.replace(new)

    def _warn_unread(self, names): warn_unread(self, names)
    def _warn_slips(self, group, is_new=False): warn_unread(self, slips(self, group, is_new))

    @property
    def _notice(self) -> Callable:
        "What groups call with a new name that no stepper reads, and its value. They don't keep the optimizer"
        ref = weakref.ref(self)
        def notice(k, v):
            opt = ref()
            if opt is not None: opt._warn_slips({k: v})
        return notice

    @entry
    def set_hypers(self, **kwargs):
        "Call `set_hyper` for each of `kwargs`."
        if 'lr' in kwargs and self._is_checked: warn_unaveraged(self) # a Learner's `fit` calls this first
        for k, v in kwargs.items(): self.set_hyper(k, v)

    @entry
    def set_hyper(self,
        k:str, # Name; may be new
        v # One value for all groups, one per group, or a slice
    ):
        """Set hyper-parameter `k` in all groups.

        Raises `ValueError` or `TypeError` for an invalid value, without setting any."""
        count, ours = len(self.param_lists), from_torch({k: v}, self._names)
        values = {o: per_group(o, x, count) for o, x in ours.items()}
        for o, vs in values.items():
            if o in TORCH_FLAGS and (self._choice is None or o not in self._choice.flags):
                for x in vs: without_group_flags(self, {o: x})
        before = [(h, o, h.get(o)) for o in values for h in self.hypers]
        for o, vs in values.items(): self._set_hyper(o, vs)
        if self._choice is None: return
        if wrappers.asked_by_fastai(): self._choice.ignore(values, self.param_groups)
        try: self.composition # noqa: B018 - the value may ask for other steppers
        except BaseException:
            for h, o, x in before:
                del h[o]
                if x is not None: h[o] = x
            raise

    def _set_hyper(self, k, values):
        "Set a hyper-parameter to one value per group: fastai's hook for subclasses."
        for h, v in zip(self.hypers, values):
            if not (self._capturable and fill_hyper(h, k, v)): h[k] = v

    # Freezing

    @entry
    def freeze_to(self,
        n:int # Index of the first group to train; negative indices count from the end
    ):
        """Freeze the groups before `n` and unfreeze the others.

        Parameters with `force_train` in their state are never frozen."""
        count = len(self.param_lists)
        self.frozen_idx = n if n >= 0 else count + n
        if self.frozen_idx >= count:
            warn(f"frozen up to group {self.frozen_idx} of {count}: the whole model is frozen.")
        for o in self.all_params(slice(n, None)): self._set_require_grad(True, *o)
        for o in self.all_params(slice(None, n)): self._set_require_grad(False, *o)
        # plain tensors too: from now on `requires_grad` decides whether they are frozen
        self.tracked.update(p for ps in self.param_lists for p in ps)

    def _set_require_grad(self, rg, p, pg, state, h):
        "Freeze or unfreeze one of `all_params`: fastai's hook for callbacks and subclasses."
        p.requires_grad_(rg or state.get('force_train', False))

    @entry
    def freeze(self):
        "Freeze all groups but the last. Raises `ValueError` if there is only one."
        if len(self.param_lists) < 2:
            raise ValueError("there is only one parameter group, which would stay unfrozen. "
                             "A `splitter` makes more.")
        self.freeze_to(-1)

    @entry
    def unfreeze(self):
        "Unfreeze all groups."
        self.freeze_to(0)

    # Weights to evaluate

    @entry
    def eval(self,
        part=None # Stepper with the weights, named as in `replace`; default: the last such stepper
    ):
        """Put the weights for evaluation, such as averages or slow weights, into the model.

        Until `train` is called, the trained weights are kept in the state, saved and loaded with it, and
        `step` raises. Parameters without an average yet keep their weights. Batch norm statistics still
        belong to the trained weights: `torch.optim.swa_utils.update_bn(loader, model)` recomputes them.
        Raises `ValueError` if `part` has no weights for evaluation, or if those of another stepper are in
        the model."""
        put_in(self, part)

    @entry
    def train(self):
        """Put the trained weights back into the model after `eval`, bit for bit.

        Weights that were changed in the meantime, for example by loading a model, stay, with a warning."""
        take_out(self)

    @entry
    def averaged(self,
        part=None # Stepper with the weights, named as in `replace`; default: the last such stepper
    ):
        "Return a context manager that calls `eval`, and `train` at its end."
        return averaged(self, part)

    @entry
    def clear_state(self):
        """Clear the state of all parameters, except `do_wd`, `force_train` and masks.

        The model keeps its current weights, also between `eval` and `train`."""
        clear_state(self)
