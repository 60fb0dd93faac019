"torch's protocol for saving and loading an optimizer: state dicts with their hooks, and pickles."
import torch

from optimcb._compat.boundary import entry
from optimcb.hypers.groups import TorchNames
from optimcb.state.pickling import picklable, renewed
from optimcb.state.restore import hooked, restore
from optimcb.state.state_dict import pack

__all__ = ['SavedState']


class SavedState:
    "A mixin that saves and loads a `torch.optim.Optimizer` with steppers."
    @entry
    def state_dict(self) -> dict:
        "Return a copy of the state in torch's layout, plus fastai's `hypers`, stepper names and shapes."
        return self._state_dict_on(None)

    def state_dict_on(self,
        device # Device to copy tensors to; None: their own
    ) -> dict:
        "Copy `state_dict` to a device directly, unless `state_dict` was replaced from outside."
        own = getattr(self.state_dict, '__func__', None) is SavedState.state_dict
        return self._state_dict_on(device) if own else self.state_dict()

    def _state_dict_on(self, device):
        "Return `state_dict`, copied to `device`; None: each tensor's own"
        for hook in self._optimizer_state_dict_pre_hooks.values(): hook(self)
        return hooked(self._optimizer_state_dict_post_hooks, self, pack(self, device))

    @entry
    @torch.no_grad()
    def load_state_dict(self,
        state_dict:dict # Of this `Optimizer`, of fastai's, or of an optimizer of `torch.optim`
    ):
        """Load a copy of `state_dict`; state keeps its dtype and moves to its parameter's device.

        Parameters are matched by name if both sides have names, whatever their order and groups, and by
        order otherwise. Raises `ValueError`, without changing anything, if the parameters don't match or if
        steppers can't express the saved optimizer. Warns if the steppers or names differ, and loads what
        matches. A group that is part of a saved group keeps those of its hyper-parameters that aren't the
        optimizer's default, with a warning. `do_wd` and `force_train` stay if the state dict comes from
        torch or has nothing for the parameter."""
        if not isinstance(state_dict, dict):
            kind = type(state_dict).__name__
            raise ValueError(f"a state dict must be a dict, but is {state_dict!r:.80} ({kind}).")
        restore(self, hooked(self._optimizer_load_state_dict_pre_hooks, self, dict(state_dict)))
        for hook in self._optimizer_load_state_dict_post_hooks.values(): hook(self)

    def __getstate__(self): return picklable(self)
    def __setstate__(self, state):
        super().__setstate__(renewed(state))
        self.defaults.pop('differentiable', None) # torch's default for its own algorithms
        if 'param_groups' in self.__dict__: self.param_groups = self.__dict__['param_groups'] # as `Groups`
        if not isinstance(self.defaults, TorchNames):
            self.defaults = TorchNames(self.defaults).know(self._names)
