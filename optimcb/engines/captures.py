"""Steps that CUDA graphs have captured.

The kernels of each read a table of their own, with addresses and numbers, which `renew` sends again before a
replay. A graph can't be told that memory which it reads is freed. So when the plan of a step is dropped, its
kernels are disarmed: a replay then changes nothing, and what they read is kept."""
from typing import NamedTuple

import torch

from optimcb._compat.warn import warn
from optimcb.engines.grad_scaling import NOT_SCALED
from optimcb.engines.refusals import CantRun
from optimcb.tracing.bucket import Changed

__all__ = ['Captures', 'is_capturing']


class Captured(NamedTuple):
    "A step in a CUDA graph."
    launches: list # Pairs of a launch and the indices of its buckets
    tables: list # Of each launch
    grads: list # The addresses of the gradients


class Captures:
    """All steps of a plan that CUDA graphs have captured.

    `known` are the launches that the plan knew then; a plan of other parameters has others."""
    def __init__(self): self.plan, self.known, self.steps = None, None, []

    def _are_of(self, plan) -> bool:
        return plan is not None and plan is self.plan and plan.launches is self.known

    def check(self,
        plan, # Plan of the step that is being captured
        prepared, # What it runs
        is_known:bool, # Have its launches run before?
        scaling # What a GradScaler says of it
    ):
        "Raise `CantRun` if a CUDA graph can't have a step."
        launches = [launch for launch, _ in prepared.launches]
        tensors = [x for r in prepared.recordings for x in r.externals]
        reasons = {
            "a part of it is run by the eager engine": plan.eager,
            "a GradScaler may skip it": scaling.skip_on_device,
            "a function is called between its kernels": any(o.program.calls for o in launches),
            "it makes state or kernels: take some steps before": not is_known,
            "its numbers are not on the device, with the foreach engine":
                any(not hasattr(o, 'capture') for o in launches),
            "a hyper-parameter is a tensor on the CPU: make it a number, or put it on the GPU":
                any(x.is_cpu != b.example.is_cpu for x in tensors for b in plan.buckets),
            "another one was captured just before: call `opt.step()` or `opt.before_replay()` between them":
                any(getattr(o, 'spare', self) is None for o in launches)}
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why: raise CantRun(f"a CUDA graph can't have this step, since {why}.")

    def add(self,
        plan, # Plan of a step that was captured
        launches:list, # Pairs of a launch and the indices of its buckets
        tables:list # Of each launch
    ):
        "Note a step that was captured."
        self.plan, self.known = plan, plan.launches
        self.steps.append(Captured(launches, tables, plan.grad_ptrs))

    def renew(self,
        plan, # The current plan
        compilation, # Its programs
        hypers:list[dict] # Hyper-parameters of each group
    ):
        "Send all captured steps the numbers of the next one. Returns what it runs. Raises `CantRun`."
        if not self.steps or not self._are_of(plan) or plan.refrozen():
            raise CantRun("no step was captured in a CUDA graph, or parameters or state have changed since. "
                          "Capture `opt.step()` after some steps.")
        try: prepared = compilation.prepare(plan, hypers, NOT_SCALED)
        except Changed: prepared = None
        alike = [o for o in self.steps if prepared and o.launches is prepared.launches]
        if not alike:
            raise CantRun("the next step takes another branch than the one that was captured. "
                          "Capture `opt.step()` again.")
        for step in alike:
            for (launch, indices), table in zip(step.launches, step.tables):
                launch.renew([prepared.recordings[i] for i in indices], plan, step.grads, table)
        return prepared

    def keep_for(self,
        plan # The plan of the next step
    ):
        "Drop what was captured if it is of another plan."
        if self.steps and not self._are_of(plan): self.drop()

    def drop(self):
        "Disarm what was captured, as its plan is dropped, and warn."
        if not self.steps: return
        if is_capturing():
            raise CantRun("a CUDA graph can't have this step, since parameters or state have changed: "
                          "take some steps before.")
        steps, self.plan, self.known, self.steps = self.steps, None, None, []
        for step in steps:
            for (launch, _), table in zip(step.launches, step.tables): launch.disarm(table)
        warn("a CUDA graph has captured a step of this optimizer, whose parameters, state or engine have "
             "changed. From now on, a replay of it changes no parameter. Capture `opt.step()` again.")


def is_capturing() -> bool:
    "Is a CUDA graph capturing?"
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
