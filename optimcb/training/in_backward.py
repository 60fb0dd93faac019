"""Steps inside of `backward`: each parameter is stepped as soon as its gradient is there, and the gradient
is freed. Small ones wait for others, so that one launch steps many."""
import threading
import weakref
from functools import partial
from numbers import Integral
from operator import is_

import torch
from torch import Tensor
from torch.autograd import Variable

from optimcb._compat.boundary import entry
from optimcb._compat.warn import warn
from optimcb.engines.compilation import Compilation
from optimcb.engines.runner import Runner
from optimcb.optimizer import Optimizer
from optimcb.state.eval_weights import refuse_step
from optimcb.training.given import check_runs_steppers
from optimcb.training.targets import Target, Waiting

__all__ = ['InBackward', 'step_in_backward']


TOGETHER = 1 << 18 # elements: beside a step of so many, what a launch costs is little
MANY = 64 # targets that are kept, beside one for each parameter

ALL = ("stepper `{}` needs {} the gradients of all parameters, of which a step in backward sees one at a "
       "time. "
       "Leave that stepper out, or call `opt.step()`.")
SCALED = ("these gradients were scaled by a GradScaler, and the parameters have been stepped by them in "
          "backward, "
          "before it could unscale them. Go back to a checkpoint, and train in bfloat16 without a scaler, "
          "or without `step_in_backward`.")
TWICE = ("a parameter got gradients twice between two calls of `opt.step()`, and was stepped twice. "
         "Gradients can't be "
         "accumulated over several backward passes if each is freed at once: put the batches into one pass, "
         "or do without `step_in_backward`.")
GONE = ("an optimizer that stepped parameters in backward is gone, so they are not stepped any more. "
        "Keep a reference to it while it is to work, or call `remove()` of what `step_in_backward` returned "
        "before you let go of it.")


@entry
def step_in_backward(
    opt:Optimizer, # Optimizer whose parameters are stepped in each backward pass from now on
    together:int=TOGETHER # Elements that one launch is worth: smaller parameters wait until so many are ready
) -> 'InBackward':
    """Step each parameter as soon as `backward` has accumulated its gradient, and free the gradient.

    The result equals that of `loss.backward(); opt.step(); opt.zero_grad(set_to_none=True)`, but never holds
    all gradients at once. Step counts, state, schedules, freezing, new groups and edits work as usual. The
    hooks last until you call `.remove()` on the result, until the end of a `with` block, or until neither the
    optimizer nor the result is referenced any more.

    Parameters of fewer elements than `together` wait, with their gradients, until `together` elements are
    ready or backward ends; one launch then steps them. Their gradients have fewer than twice as many elements
    at any time, for each device and stream. With `together=0` nothing waits, nor on the eager engine, which
    steps parameters one by one anyway.

    `opt.step()` may still be called after each backward pass, and does no harm: it runs closures and
    hooks, tells schedulers that a step was done, and steps parameters whose gradients didn't come from
    `backward`. Call it where something waits for it: `Record` and `OptStats` do.

    Anything that needs all gradients at once, or later, is impossible:

    - Steppers that sum over all parameters raise an error. torch's `clip_grad_norm_` finds no gradients,
      which can't be detected: clip each gradient separately, in a stepper.
    - Gradients can't be accumulated over several backward passes, as each pass is a step. If you call
      `opt.step()`, a second pass before the call gives a warning.
    - Gradients scaled by a `GradScaler` are only recognized when `GradScaler.step` is called, which then
      raises an error.
    - `DistributedDataParallel` averages gradients too late, after each process has stepped with its own.

    If backward fails, the parameters that it has come to are stepped, but for those that wait: they keep
    their gradients, for `opt.step()` or `zero_grad`, else the next backward pass adds to them. A parameter
    that is used several times is stepped once, when all of its gradient is there, unless its uses are in
    different checkpoints with `use_reentrant=True`. Copies of the optimizer, by `deepcopy` or pickle, step
    as usual.

    Raises `TypeError` for another kind of optimizer or one with a step of its own, `ValueError` for one
    that sums over all parameters or whose parameters are stepped in backward already. Source: Lv et al.
    2023, https://arxiv.org/abs/2306.09782, where gradient and update are fused for plain SGD."""
    return InBackward(opt, together)


class InBackward:
    "The hooks of `step_in_backward` on an optimizer's parameters, until `remove` is called."
    def __init__(self,
        opt:Optimizer, # Optimizer whose parameters are stepped
        together:int=TOGETHER # Elements that one launch is worth
    ):
        if not isinstance(together, Integral) or isinstance(together, bool) or together < 0:
            raise ValueError(f"`together` must be a number of elements, 0 or more, but is {together!r}.")
        check_runs_steppers(opt, 'step_in_backward', 'runs the steppers of')
        _refuse_sums(opt.composition)
        if any(_is_ours(p) for g in opt.param_groups for p in g['params']):
            raise ValueError("parameters of this optimizer are stepped in backward already. "
                             "Call `remove()` of what `step_in_backward` returned first.")
        self.opt, self.together, self.hooked, self.targets = opt, together, {}, {}
        self.waiting = weakref.WeakValueDictionary() # by backward pass, which keeps them until it ends
        self.stepped = set() # ids of those stepped since the last call of `opt.step()`
        self.called = self.ended = False # was `opt.step()` ever called; and since the last backward pass?
        self.hook = Hook(self)
        self.compilation = self.graph = None
        self.lock = threading.RLock() # in backward, each device has its own thread
        self.before = opt.register_step_pre_hook(self._before_step)
        opt._in_backward = self
        self.attach()

    def attach(self):
        "Add and remove hooks, so that exactly the optimizer's parameters have them."
        with self.lock:
            old, self.hooked, self.known = self.hooked, {}, []
            for i, g in enumerate(self.opt.param_groups):
                for j, p in enumerate(g['params']):
                    self.known.append(p)
                    if not (isinstance(p, Tensor) and p.is_leaf): continue
                    o = self.hooked[p] = old.pop(p, None) or HookedParam(p, self)
                    o.group, o.place = i, j
            for o in old.values(): o.detach()
            self.targets = {}

    def remove(self):
        "Stop stepping in backward. `opt.step()` continues from the optimizer's state."
        with self.lock:
            if self.opt.__dict__.get('_in_backward') is not self: return
            for o in self.hooked.values(): o.detach()
            self.hooked, self.targets = {}, {}
            self.before.remove()
            del self.opt.__dict__['_in_backward']

    def __enter__(self): return self
    def __exit__(self, *error): self.remove()
    def __repr__(self): return f"{type(self).__name__} of {len(self.hooked)} parameters"
    def __reduce__(self):
        raise TypeError("hooks on parameters can't be copied. "
                        "Call `step_in_backward` on the copied optimizer.")

    def _before_step(self, opt, *args):
        "Note a call of `opt.step()`, which presumably ends a backward pass"
        if 'grad_scale' in opt.__dict__: raise RuntimeError(SCALED)
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.known) or not all(map(is_, params, self.known)): self.attach()
        self.called = self.ended = True

    def _take(self, p):
        "Step a parameter by its gradient, and drop that; or let both wait"
        if p.grad is None: return # another hook has taken it
        with self.lock, torch.no_grad():
            if self._hooked_param(p) is None: return # no longer in `opt`
            self._note(p)
            _refuse_sums(self.opt.composition)
            refuse_step(self.opt)
            graph = torch._C._current_graph_task_id()
            if p.numel() >= self.together or graph < 0 or self.opt.engine == 'eager': self._step([p])
            else: self._wait(p, graph)

    def _wait(self, p, graph):
        "Let a parameter wait for others of its backward pass and stream, and step all if they are enough"
        waiting = self.waiting.get(graph)
        if waiting is None:
            waiting = self.waiting[graph] = Waiting()
            Variable._execution_engine.queue_callback(partial(self._end, waiting))
        self._step(waiting.add(p, self.together))

    @entry
    def _end(self, waiting):
        "A backward pass has ended: step what still waits, which is ready on any stream now"
        with self.lock, torch.no_grad():
            for params, _ in waiting.by_stream.values(): self._step(params)
            waiting.by_stream.clear()

    def _step(self, params):
        "Step parameters by their gradients, and drop those"
        params = [p for p in dict.fromkeys(params) if p.grad is not None and self._hooked_param(p)]
        if not params: return
        target = self._target([self.hooked[p] for p in params])
        self.opt.step_target(target, self._runner_of(target))
        for p in params: p.grad = None
        self.opt._opt_called = True # schedulers check this

    def _hooked_param(self, p):
        found = self.hooked.get(p)
        if found is not None and found.is_in(self.opt): return found
        self.attach()
        return self.hooked.get(p)

    def _target(self, members):
        "Return the parameters of `members` as a runner sees them, as they are now"
        key = frozenset(id(o.p) for o in members)
        if len(self.targets) > MANY + len(self.hooked): self.targets = {} # others are together each time
        target = self.targets.get(key)
        if target is None: target = self.targets[key] = Target(members)
        target.refresh(self.opt)
        return target

    def _runner_of(self, target) -> Runner:
        "Return the runner of `target`. All targets share programs and, in one backward pass, recordings"
        composition, engine = self.opt.composition, self.opt.engine
        if engine == 'eager':
            self.compilation = None
            return target.runner_on(engine)
        shared = self.compilation
        if shared is None or shared.engine != engine or shared.composition is not composition:
            shared, self.graph = Compilation(engine, composition), None # raises `CantRun`
            self.compilation = shared
        graph = torch._C._current_graph_task_id()
        if graph != self.graph or graph < 0:
            self.graph = graph
            shared.share_recordings()
        return target.runner_on(engine, shared)

    def _note(self, p):
        "Note a parameter's step, and warn if the user seems to accumulate gradients"
        if self.ended: self.stepped.clear()
        elif self.called and id(p) in self.stepped:
            warn(TWICE)
            self.called = False # warn once
        self.ended = False
        self.stepped.add(id(p))


class Hook:
    """Step a parameter when its gradient is ready.

    Its reference is weak: torch's hooks aren't garbage-collected and would keep the optimizer alive."""
    def __init__(self, inside): self.inside, self.warned = weakref.ref(inside), False

    @entry
    def __call__(self, p):
        inside = self.inside()
        if inside is not None: inside._take(p)
        elif not self.warned:
            self.warned = True
            warn(GONE)


class HookedParam:
    "One parameter with its hook: number `place` of group `group`."
    def __init__(self,
        p:Tensor, # The parameter
        inside:InBackward # Owner of its hook
    ):
        self.p, self.hook = p, _hooked(p, inside.hook)

    def is_in(self,
        opt:Optimizer # Optimizer, whose groups may have changed
    ) -> bool:
        "Is the parameter still at the same index of the same group?"
        groups = opt.param_groups
        params = groups[self.group]['params'] if self.group < len(groups) else ()
        return self.place < len(params) and params[self.place] is self.p

    def detach(self):
        "Remove the hook."
        if self.hook is not None: self.hook.remove()


def _refuse_sums(composition):
    for s in composition.needs_all:
        raise ValueError(ALL.format(s, 'sums over' if s.sums_over_all else 'to look at'))


def _hooked(p, f):
    "Register a hook on `p`, even if it is frozen; return None if it can't have a gradient"
    needs = p.requires_grad
    try:
        p.requires_grad_(True)
        return p.register_post_accumulate_grad_hook(f)
    except RuntimeError: return None # integers, for example
    finally:
        if not needs: p.requires_grad_(False)


def _is_ours(p) -> bool:
    hooks = getattr(p, '_post_accumulate_grad_hooks', None) or {}
    return any(isinstance(f, Hook) and f.inside() is not None for f in hooks.values())
