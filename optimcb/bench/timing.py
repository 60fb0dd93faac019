"Measure the time and memory of one step."
import os
import time
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

import optimcb

__all__ = ['extra_memory', 'floor_bytes', 'held', 'timed']

def timed(
    step # Function to measure
) -> float:
    "Measure the seconds of `step`, from an idle device until the device has finished."
    sync = torch.cuda.synchronize if torch.cuda.is_available() else int
    sync()
    start = time.perf_counter()
    step()
    sync()
    return time.perf_counter() - start


def extra_memory(
    step, # Function to measure, called twice on the CPU
    device # 'cpu' or 'cuda'
) -> int:
    "Measure the peak of bytes that `step` allocates, beyond those before it."
    os.environ.setdefault('KINETO_LOG_LEVEL', '99') # silences torch's profiler
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as prof:
        step() # the profiler must see allocations that the next step frees
        with torch.profiler.record_function('measured'): step()
    events = sorted(prof.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    start = next(i for i, e in enumerate(events) if e.name() == 'measured')
    return max(accumulate((e.nbytes() for e in events[start:] if e.name() == '[memory]'), initial=0))


def floor_bytes(
    opt, # Optimizer after at least one step
    params:list # Its parameters
) -> int:
    """Count the bytes that a step must move to read and write parameters and state, and read gradients.

    For optimizers of this library it is the traffic of their kernels, which read more if they need a norm
    first. For others, state means the tensors in `opt.state` with the parameter's shape."""
    moved = opt.explain().moved_bytes if isinstance(opt, optimcb.Optimizer) else None
    if moved is not None: return moved
    return sum(2*p.nbytes + p.grad.nbytes + 2*_state_bytes(opt, p) for p in params)


def _state_bytes(opt, p) -> int:
    states = getattr(opt, 'state', {}).get(p, {}).values()
    return sum(v.nbytes for v in states if isinstance(v, Tensor) and v.shape == p.shape)


def held(
    device, # 'cpu' or 'cuda'
    reset=False # Reset the peak?
) -> int|None:
    """Return the peak of held bytes since the last reset, or with `reset` the current bytes.

    They are those of torch's allocator on a GPU, those of the process on Linux, and None elsewhere."""
    if device == 'cuda':
        torch.cuda.synchronize()
        if reset: torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    try:
        if reset: Path('/proc/self/clear_refs').write_text('5')
        lines = dict(o.split(':', 1) for o in Path('/proc/self/status').read_text().splitlines())
    except OSError: return None
    return int(lines['VmRSS' if reset else 'VmHWM'].split()[0])*1024
