"""fastai's protocol: hyper-parameters, parameter lists, freezing, and the weights that a model is
evaluated with."""
import weakref
from collections.abc import Callable

from fastcore.foundation import L

from optimcb import _wrappers
from optimcb._boundary import entry
from optimcb.diagnosis.of_optimizer import slips, warn_unread
from optimcb.engines.frozen import grad_of, track
from optimcb.hypers.given import without_group_flags
from optimcb.hypers.torch_names import TORCH_FLAGS, from_torch
from optimcb.hypers.values import per_group
from optimcb.hypers.views import HyperView, HyperViews
from optimcb.state.eval_weights import averaged, put_in, take_out, warn_unaveraged
from optimcb.state.restore import clear_state
from optimcb.warn import warn

__all__ = ['FastaiProtocol']


class FastaiProtocol:
    """The methods that fastai's `Optimizer` has and torch's has not, for a `torch.optim.Optimizer` with
    steppers."""
    _keep_on_clear = ('force_train', 'do_wd') # state that `clear_state` leaves

    # Parameters

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
            # several in one tensor
            if len(g.get('param_names', ())) != len(g['params']): g.pop('param_names', None)

    @entry
    def zero_grad(self,
        set_to_none:bool=False # Drop the gradients, instead of filling them with zeros as fastai does?
    ):
        "Zero the gradients in place, or drop them."
        for p in (p for ps in self.param_lists for p in ps):
            if getattr(p, 'grad', None) is None: continue
            if set_to_none: p.grad = None
            else:
                if p.grad.grad_fn is None: p.grad.requires_grad_(False)
                else: p.grad.detach_()
                p.grad.zero_()

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
        "`set_hyper` for all `kwargs`."
        if 'lr' in kwargs and self._is_checked: warn_unaveraged(self) # as a Learner's `fit` begins
        for k, v in kwargs.items(): self.set_hyper(k, v)

    @entry
    def set_hyper(self,
        k:str, # Name; may be new
        v # A value, one for each group, or a slice
    ):
        """Set hyper-parameter `k` in every group.

        Raises `ValueError` or `TypeError`, and sets nothing, for a value that can't be."""
        count, ours = len(self.param_lists), from_torch({k: v}, self._names)
        values = {o: per_group(o, x, count) for o, x in ours.items()}
        for o, vs in values.items():
            if o in TORCH_FLAGS and (self._choice is None or o not in self._choice.flags):
                for x in vs: without_group_flags(self, {o: x})
        before = [(h, o, h.get(o)) for o in values for h in self.hypers]
        for o, vs in values.items(): self._set_hyper(o, vs)
        if self._choice is None: return
        if _wrappers.asked_by_fastai(): self._choice.ignore(values, self.param_groups)
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
        """Freeze the groups before `n`, but for parameters whose state has `force_train`, and unfreeze the
        others."""
        count = len(self.param_lists)
        self.frozen_idx = n if n >= 0 else count + n
        if self.frozen_idx >= count:
            warn(f"frozen up to group {self.frozen_idx} of {count}: the whole model is frozen.")
        for o in self.all_params(slice(n, None)): self._set_require_grad(True, *o)
        for o in self.all_params(slice(None, n)): self._set_require_grad(False, *o)
        # also plain tensors: they are frozen now if they are said to be
        self.tracked.update(p for ps in self.param_lists for p in ps)

    def _set_require_grad(self, rg, p, pg, state, h):
        """Freeze or unfreeze one of `all_params`: fastai's method, which callbacks call and subclasses
        override."""
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
        part=None # Stepper that tells the weights, named as in `replace`; default: the last one that does
    ):
        """Put the weights that are to be evaluated into the model, if they are not those that are trained:
        averages, slow weights.

        The trained ones are state until `train` is called: they are saved and loaded with it. Until then
        `step` is an error. Parameters of which there is no average yet stay as they are. Batch norm's
        statistics are of the trained weights: `torch.optim.swa_utils.update_bn(loader, model)` makes them
        anew. Raises `ValueError` if `part` tells no weights, or if others are in the model."""
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

    @entry
    def clear_state(self):
        """Forget the state of all parameters, but for `do_wd`, `force_train` and which steppers are there for
        them.

        The model keeps the weights that it has, also between `eval` and `train`."""
        clear_state(self)
