"""Steps inside of `backward`: each parameter is stepped as soon as its gradient is there, and the gradient
is freed."""
import threading
import weakref
from operator import is_

import torch
from torch import Tensor

from optimcb._boundary import entry
from optimcb.engines.compilation import Compilation
from optimcb.engines.runner import Runner
from optimcb.optimizer import Optimizer, check_runs_steppers
from optimcb.state.eval_weights import refuse_step
from optimcb.warn import warn

__all__ = ['InBackward', 'step_in_backward']


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
    opt:Optimizer # Optimizer whose parameters are stepped in each backward pass from now on
) -> 'InBackward':
    """Step each parameter as soon as `backward` has accumulated its gradient, and free the gradient.

    Gives the same as `loss.backward(); opt.step(); opt.zero_grad(set_to_none=True)`, but all gradients
    are never there at once. Step counts, state, schedules, freezing, new groups and edits work as they do
    there. It lasts until `.remove()` of the result, or to the end of a `with` block, and only as long as
    somebody keeps the optimizer or the result.

    `opt.step()` may still be called after each backward pass, and does no harm: it runs closures and
    hooks, tells schedulers that a step was done, and steps parameters whose gradients didn't come from
    `backward`. Call it where something waits for it: `Record` and `OptStats` do.

    Not possible is whatever needs all gradients at once, or later:

    - Steppers that sum over all parameters are refused. `clip_grad_norm_` of torch finds no gradients, and
      nobody can tell that it was called: clip each gradient by itself, in a stepper.
    - Gradients can't be accumulated over several backward passes, each of which is a step. Where
      `opt.step()` is called, a second pass before it is warned of.
    - Gradients that a `GradScaler` has scaled can't be told from others before `GradScaler.step` is called,
      which is then an error.
    - `DistributedDataParallel` averages gradients later, after each process has stepped by its own.

    If backward fails, the parameters that it has come to are stepped. A parameter that is used several
    times is stepped once, when all of its gradient is there, unless its uses are in different checkpoints
    with `use_reentrant=True`. Copies of the optimizer, by `deepcopy` or pickle, step as usual.

    Raises `TypeError` for another kind of optimizer or one with a step of its own, `ValueError` for one
    that sums over all parameters or whose parameters are stepped in backward already. Source: Lv et al.
    2023, https://arxiv.org/abs/2306.09782, where gradient and update are fused for plain SGD."""
    return InBackward(opt)


class InBackward:
    "What `step_in_backward` returns: hooks on the parameters of `opt`, which `remove` takes away."
    def __init__(self,
        opt:Optimizer # Optimizer whose parameters are stepped
    ):
        check_runs_steppers(opt, 'step_in_backward', 'runs the steppers of')
        _refuse_sums(opt.composition)
        if any(_is_ours(p) for g in opt.param_groups for p in g['params']):
            raise ValueError("parameters of this optimizer are stepped in backward already. "
                             "Call `remove()` of what `step_in_backward` returned first.")
        self.opt, self.parts = opt, {}
        self.stepped = set() # ids of those stepped since the last call of `opt.step()`
        self.called = self.ended = False # was `opt.step()` ever called; and since the last backward pass?
        self.hook = Hook(self)
        self.compilation = self.graph = None
        self.lock = threading.RLock() # devices have threads of their own in backward
        self.before = opt.register_step_pre_hook(self._before_step)
        opt._in_backward = self
        self.attach()

    def attach(self):
        "See to it that exactly the optimizer's parameters have hooks."
        with self.lock:
            old, self.parts, self.known = self.parts, {}, []
            for i, g in enumerate(self.opt.param_groups):
                for j, p in enumerate(g['params']):
                    self.known.append(p)
                    if not (isinstance(p, Tensor) and p.is_leaf): continue
                    part = self.parts[p] = old.pop(p, None) or Part(p, self)
                    part.group, part.place = i, j
            for part in old.values(): part.detach()

    def remove(self):
        "Step no more in backward. The optimizer goes on from its state in `opt.step()`."
        with self.lock:
            if self.opt.__dict__.get('_in_backward') is not self: return
            for part in self.parts.values(): part.detach()
            self.parts = {}
            self.before.remove()
            del self.opt.__dict__['_in_backward']

    def __enter__(self): return self
    def __exit__(self, *error): self.remove()
    def __repr__(self): return f"{type(self).__name__} of {len(self.parts)} parameters"
    def __reduce__(self):
        raise TypeError("hooks on parameters can't be copied. "
                        "Call `step_in_backward` on the copied optimizer.")

    def _before_step(self, opt, *args):
        "`opt.step()` is called: a backward pass is over, as far as we can know"
        if 'grad_scale' in opt.__dict__: raise RuntimeError(SCALED)
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.known) or not all(map(is_, params, self.known)): self.attach()
        self.called = self.ended = True

    def _step(self, p):
        "Step a parameter by its gradient, and drop that"
        if p.grad is None: return # another hook has taken it
        with self.lock, torch.no_grad():
            part = self._part(p)
            if part is None: return # `opt` has it no more
            self._note(p)
            _refuse_sums(self.opt.composition)
            refuse_step(self.opt)
            part.refresh(self.opt)
            self.opt.step_target(part, self._runner_of(part))
            p.grad = None
            self.opt._opt_called = True # what schedulers ask for

    def _part(self, p):
        part = self.parts.get(p)
        if part is not None and part.is_in(self.opt): return part
        self.attach()
        return self.parts.get(p)

    def _runner_of(self, part) -> Runner:
        "Return the runner of `part`. All share programs and, in one backward pass, recordings"
        composition, engine = self.opt.composition, self.opt.engine
        if engine == 'eager':
            self.compilation = None
            return part.runner_on(engine)
        shared = self.compilation
        if shared is None or shared.engine != engine or shared.composition is not composition:
            shared, self.graph = Compilation(engine, composition), None # raises `CantRun`
            self.compilation = shared
        graph = torch._C._current_graph_task_id()
        if graph != self.graph or graph < 0:
            self.graph = graph
            shared.share_recordings()
        return part.runner_on(engine, shared)

    def _note(self, p):
        "Note that a parameter is stepped; warn if its gradients are meant to be accumulated"
        if self.ended: self.stepped.clear()
        elif self.called and id(p) in self.stepped:
            warn(TWICE)
            self.called = False # once is enough
        self.ended = False
        self.stepped.add(id(p))


class Hook:
    """Step a parameter when its gradient is there.

    It doesn't keep the optimizer alive, which keeps the parameters: torch's hooks aren't
    garbage-collected."""
    def __init__(self, inside): self.inside, self.warned = weakref.ref(inside), False

    @entry
    def __call__(self, p):
        inside = self.inside()
        if inside is not None: inside._step(p)
        elif not self.warned:
            self.warned = True
            warn(GONE)


class Part:
    "One parameter with its hook, as a runner sees an optimizer: with `param_groups`, `state` and `tracked`."
    def __init__(self,
        p:Tensor, # The parameter
        inside:InBackward # Whose hook it gets
    ):
        self.p, self.state, self.runner, self.hook = p, {}, None, _hooked(p, inside.hook)

    def runner_on(self,
        engine:str, # Name of an engine
        compilation:Compilation|None=None # Programs that all parameters share; None for the eager engine
    ) -> Runner:
        "Return a runner of this parameter alone, which goes on from its plan if the programs are the same."
        if self.runner is None or self.runner.engine != engine: self.runner = Runner(engine, compilation)
        elif self.runner.compilation is not compilation: self.runner.share(compilation)
        return self.runner

    def is_in(self,
        opt:Optimizer # Optimizer, whose groups may have been changed
    ) -> bool:
        "Is the parameter where it was?"
        groups = opt.param_groups
        params = groups[self.group]['params'] if self.group < len(groups) else ()
        return self.place < len(params) and params[self.place] is self.p

    def refresh(self,
        opt:Optimizer # Optimizer whose hyper-parameters and state these are
    ):
        "Be as the parameter is in `opt` now."
        self.param_groups, self.tracked = [{**opt.param_groups[self.group], 'params': [self.p]}], opt.tracked
        self.state[self.p] = opt.state[self.p]

    def detach(self):
        "Take the hook away."
        if self.hook is not None: self.hook.remove()


def _refuse_sums(composition):
    for s in composition.needs_all:
        raise ValueError(ALL.format(s, 'sums over' if s.sums_over_all else 'to look at'))


def _hooked(p, f):
    "A hook on `p`, also while it is frozen; None if it can't have a gradient"
    needs = p.requires_grad
    try:
        p.requires_grad_(True)
        return p.register_post_accumulate_grad_hook(f)
    except RuntimeError: return None # integers, say
    finally:
        if not needs: p.requires_grad_(False)


def _is_ours(p) -> bool:
    hooks = getattr(p, '_post_accumulate_grad_hooks', None) or {}
    return any(isinstance(f, Hook) and f.inside() is not None for f in hooks.values())
