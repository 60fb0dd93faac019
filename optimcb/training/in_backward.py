"Step each parameter inside `backward`, as soon as its gradient is ready, and free the gradient."
import threading
import weakref
from operator import is_

import torch
from torch import Tensor

from optimcb._boundary import entry
from optimcb.engines.compilation import Compilation
from optimcb.engines.runner import Runner
from optimcb.optimizer import Optimizer, runs_steppers
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
    opt:Optimizer # Optimizer to step in each following backward pass
) -> 'InBackward':
    """Step each parameter as soon as `backward` has accumulated its gradient, and free the gradient.

    The result equals that of `loss.backward(); opt.step(); opt.zero_grad(set_to_none=True)`, but never holds
    all gradients at once. Step counts, state, schedules, freezing, new groups and edits work as usual. The
    hooks last until you call `.remove()` on the result, until the end of a `with` block, or until neither the
    optimizer nor the result is referenced any more.

    You may still call `opt.step()` after each backward pass: it runs closures and hooks, tells schedulers
    about the step, and steps parameters whose gradients don't come from `backward`. Call it if something
    depends on it, as `Record` and `OptStats` do.

    Anything that needs all gradients at once, or later, is impossible:

    - Steppers that sum over all parameters raise an error. torch's `clip_grad_norm_` finds no gradients,
      which can't be detected: clip each gradient separately, in a stepper.
    - Gradients can't be accumulated over several backward passes, as each pass is a step. If you call
      `opt.step()`, a second pass before the call gives a warning.
    - Gradients scaled by a `GradScaler` are only recognized when `GradScaler.step` is called, which then
      raises an error.
    - `DistributedDataParallel` averages gradients too late, after each process has stepped with its own.

    If backward fails, the parameters that it has reached are stepped. A parameter that is used several times
    is stepped once, when its gradient is complete, unless its uses are in different checkpoints with
    `use_reentrant=True`. Copies of the optimizer, by `deepcopy` or pickle, step as usual.

    Raises `TypeError` for other optimizers and those with their own `step`, `ValueError` for steppers that
    sum over all parameters and for parameters that are already stepped in backward. Source: Lv et al. 2023,
    https://arxiv.org/abs/2306.09782, which fuses gradient and update for plain SGD."""
    return InBackward(opt)


class InBackward:
    "The hooks of `step_in_backward` on an optimizer's parameters, until `remove` is called."
    def __init__(self,
        opt:Optimizer # Optimizer to step
    ):
        if not runs_steppers(opt):
            raise TypeError("step_in_backward runs the steppers of an optimcb Optimizer, "
                            f"but {type(opt).__name__} has a step of its own. "
                            "Put its steppers in an Optimizer.")
        _refuse_sums(opt.composition)
        if any(_is_ours(p) for g in opt.param_groups for p in g['params']):
            raise ValueError("parameters of this optimizer are stepped in backward already. "
                             "Call `remove()` of what `step_in_backward` returned first.")
        self.opt, self.parts = opt, {}
        self.stepped = set() # ids of parameters stepped since the last call of `opt.step()`
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
            old, self.parts, self.known = self.parts, {}, []
            for i, g in enumerate(self.opt.param_groups):
                for j, p in enumerate(g['params']):
                    self.known.append(p)
                    if not (isinstance(p, Tensor) and p.is_leaf): continue
                    part = self.parts[p] = old.pop(p, None) or Part(p, self)
                    part.group, part.place = i, j
            for part in old.values(): part.detach()

    def remove(self):
        "Stop stepping in backward. `opt.step()` continues from the optimizer's state."
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
        "Note a call of `opt.step()`, which presumably ends a backward pass"
        if 'grad_scale' in opt.__dict__: raise RuntimeError(SCALED)
        params = [p for g in opt.param_groups for p in g['params']]
        if len(params) != len(self.known) or not all(map(is_, params, self.known)): self.attach()
        self.called = self.ended = True

    def _step(self, p):
        "Step a parameter by its gradient, and drop the gradient"
        if p.grad is None: return # another hook has dropped it
        with self.lock, torch.no_grad():
            part = self._part(p)
            if part is None: return # removed from `opt`
            self._note(p)
            _refuse_sums(self.opt.composition)
            refuse_step(self.opt)
            part.refresh(self.opt)
            self.opt.step_target(part, self._runner_of(part))
            p.grad = None
            self.opt._opt_called = True # schedulers read this

    def _part(self, p):
        part = self.parts.get(p)
        if part is not None and part.is_in(self.opt): return part
        self.attach()
        return self.parts.get(p)

    def _runner_of(self, part) -> Runner:
        "Return the runner of `part`. All parts share programs and, in one backward pass, recordings"
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
        if inside is not None: inside._step(p)
        elif not self.warned:
            self.warned = True
            warn(GONE)


class Part:
    "One parameter with its hook, and with the attributes that a runner reads of an optimizer."
    def __init__(self,
        p:Tensor, # The parameter
        inside:InBackward # Owner of its hook
    ):
        self.p, self.state, self.runner, self.hook = p, {}, None, _hooked(p, inside.hook)

    def runner_on(self,
        engine:str, # Name of an engine
        compilation:Compilation|None=None # Programs that all parameters share; None for the eager engine
    ) -> Runner:
        "Return a runner for this parameter alone, which keeps its plan as long as the programs are the same."
        if self.runner is None or self.runner.engine != engine: self.runner = Runner(engine, compilation)
        elif self.runner.compilation is not compilation: self.runner.share(compilation)
        return self.runner

    def is_in(self,
        opt:Optimizer # Optimizer, whose groups may have changed
    ) -> bool:
        "Is the parameter still at the same index of the same group?"
        groups = opt.param_groups
        params = groups[self.group]['params'] if self.group < len(groups) else ()
        return self.place < len(params) and params[self.place] is self.p

    def refresh(self,
        opt:Optimizer # Optimizer to copy from
    ):
        "Update to the parameter's current hyper-parameters and state in `opt`."
        self.param_groups, self.tracked = [{**opt.param_groups[self.group], 'params': [self.p]}], opt.tracked
        self.state[self.p] = opt.state[self.p]

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
