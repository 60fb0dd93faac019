"""Repeat the last step with other numbers and gradients: the usual case, and the fastest way through a step.

A repeated step is not recorded, and builds nothing. Functions from `tracing/replay` compute its numbers, and
the kernels of the last step run again. A step for which that isn't possible is prepared as the first one
was."""
from optimcb.tracing.replay import Replayed

__all__ = ['Repeated']


class Repeated:
    """The last step, as one that can be repeated.

    `reruns` compute the numbers of each bucket, and `launches` run the kernels. They hold as long as the plan
    has the same `choice` of parameters, by its launches, and the objects `outside` that steppers read besides
    their arguments are the same."""
    def __init__(self,
        plan, # Plan of the last step
        prepared, # Recordings and launches of that step
        reruns:list, # Of each bucket
        outside # Objects that steppers read besides their arguments
    ):
        self.launches, self.choice, self.outside = prepared.launches, plan.launches, outside
        self.reruns = list(zip(plan.buckets, reruns))

    @classmethod
    def of(cls,
        plan, # Plan of the last step
        prepared, # Recordings and launches of that step
        recorder, # The `Recorder` that they come from
        hypers:list[dict] # Hyper-parameters of each group
    ) -> 'Repeated|None':
        "Return the last step as one that can be repeated; None if it can't."
        if not plan.buckets or plan.eager or plan.shardings or plan.zeroes: return None
        if not all(launch.can_repeat for launch, _ in prepared.launches): return None
        if not all(type(r) is Replayed for r in prepared.recordings): return None
        reruns = [recorder.rerun(b, hypers[b.group], r) for b, r in zip(plan.buckets, prepared.recordings)]
        return cls(plan, prepared, reruns, recorder.outside) if all(reruns) else None

    def step(self,
        plan, # Plan that was found unchanged
        hypers:list[dict] # Hyper-parameters of each group
    ) -> bool:
        "Repeat the step. Return False, with nothing changed, if more than numbers and gradients differ."
        if plan.launches is not self.choice or not self.outside.is_same(): return False
        slots, made = [], []
        for bucket, (names, types, function) in self.reruns:
            given, known = hypers[bucket.group], bucket.numbers
            values = *given.values(), *known.values()
            if (*given, None, *known) != names or tuple(map(type, values)) != types: return False
            found = function(*values)
            if found is None: return False # steppers take another branch
            slots.append(found[0])
            made.append(found[1])
        for launch, indices in self.launches: launch.repeat([slots[i] for i in indices], plan.grad_ptrs)
        for (bucket, _), numbers in zip(self.reruns, made): bucket.put(numbers)
        plan.put(made)
        return True
