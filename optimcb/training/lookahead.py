"fastai's `Lookahead`, which wraps an optimizer by adding steppers to it."
from functools import partial
from numbers import Integral

from fastcore.foundation import L

from optimcb._compat.boundary import entry
from optimcb.composition.pipeline import Composition
from optimcb.editing.edit import with_parts
from optimcb.editing.wrap import wrapped
from optimcb.hypers.values import per_group
from optimcb.optimizer import Optimizer
from optimcb.state.pickling import adopt_state
from optimcb.steppers.lookahead import ALPHA, K, lookahead_step, slow_start
from optimcb.training.given import check_runs_steppers

__all__ = ['Lookahead', 'look_ahead']


def look_ahead() -> list:
    """List the steppers of Lookahead, a part for any algorithm (Zhang et al. 2019, arxiv.org/abs/1907.08610).

    `Lookahead` adds them to an existing optimizer."""
    return [slow_start, lookahead_step]


class Lookahead(Optimizer):
    """Add slow weights to `opt` (Zhang et al. 2019, https://arxiv.org/abs/1907.08610, alg. 1).

    Parameters, hyper-parameters and state are shared with the wrapped optimizer, `.opt`. `k` and `alpha` are
    hyper-parameters. Raises `TypeError` for an optimizer without steppers.
    """
    @entry
    def __init__(self,
        opt:Optimizer, # Optimizer to wrap
        k:int=K, # Number of fast steps per slow step, at least 1
        alpha:float=ALPHA # Slow step as a fraction of the distance to the fast weights, 0 to 1
    ):
        check_runs_steppers(opt, 'Lookahead', 'adds steppers to')
        if isinstance(opt, Lookahead):
            raise TypeError("this optimizer is a Lookahead already. It has one set of slow weights.")
        if '_in_backward' in opt.__dict__:
            raise ValueError("this optimizer steps in backward. Wrap it first, then call `step_in_backward` "
                             "on the Lookahead.")
        adopt_state(self, opt, 'Lookahead')
        self.cbs = L(wrapped(list(opt.cbs), look_ahead()))
        if self._choice is not None:
            labels = Composition(self.cbs).untapped
            edits = *self._choice.edits, partial(with_parts, parts=(look_ahead(),))
            self._choice = self._choice.copy(edits=edits, labels=labels)
        self.set_hypers(k=k, alpha=alpha)
        self.defaults.update(k=k, alpha=alpha)

    @property
    def k(self) -> int:
        "Hyper-parameter `k` of `lookahead_step`."
        return self.hypers[-1]['k']
    @k.setter
    def k(self, v): self.set_hyper('k', v)

    @property
    def alpha(self) -> float:
        "Hyper-parameter `alpha` of `lookahead_step`."
        return self.hypers[-1]['alpha']
    @alpha.setter
    def alpha(self, v): self.set_hyper('alpha', v)

    @entry
    def set_hyper(self,
        k:str, # Name; may be new
        v # One value for all groups, one per group, or a slice
    ):
        """Set a hyper-parameter, like `Optimizer.set_hyper`.

        Raises `ValueError` if `k` or `alpha` is out of range."""
        for o in per_group(k, v, len(self.param_lists)):
            if k == 'k' and not (isinstance(o, Integral) and o >= 1):
                raise ValueError(f"`k` must be a whole number of steps, 1 or more, but is {o!r}.")
            if k == 'alpha' and not 0 <= o <= 1:
                raise ValueError(f"`alpha` must be from 0 to 1, but is {o!r}.")
        super().set_hyper(k, v)

    @property
    @entry
    def count(self) -> int:
        "The number of fast steps, the largest of all parameters."
        return max((s.get('count', 0) for s in self._states), default=0)

    @property
    @entry
    def slow_weights(self) -> L|None:
        "The slow weights of each group, or None before the first step."
        if not self.count: return None
        return L(L(self.state[p].get('slow_avg', p) for p in ps) for ps in self.param_lists)

    def _state_dict_on(self, device): return {**super()._state_dict_on(device), 'count': self.count}

    @entry
    def load_state_dict(self,
        state_dict:dict # From `state_dict`, or from fastai's `Lookahead`
    ):
        "Load a state dict, like `Optimizer.load_state_dict`, including fastai's `slow_weights`."
        if state_dict.get('slow_weights') is not None:
            slow = [p for ps in state_dict['slow_weights'] for p in ps]
            pairs = zip(state_dict['state'], slow, strict=True)
            states = [{**s, 'slow_avg': p, 'count': state_dict['count']} for s, p in pairs]
            state_dict = {**state_dict, 'state': states}
        super().load_state_dict(state_dict)
