"Time and memory of one step."
import os
import time
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

import optimcb

__all__ = ['floor_bytes']


# What is measured

def timed(step) -> float:
    "Seconds that `step` takes, from an idle device to one that has finished."
    sync = torch.cuda.synchronize if torch.cuda.is_available() else int
    sync()
    start = time.perf_counter()
    step()
    sync()
    return time.perf_counter() - start


def extra_memory(step, device) -> int:
    "Bytes that `step` holds at its peak, beyond what was there before."
    os.environ.setdefault('KINETO_LOG_LEVEL', '99') # torch's profiler is chatty
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        step() # what it allocates in place of older states is known to the profiler when the next step frees it
        with torch.profiler.record_function('measured'): step()
    events = sorted(prof.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    start = next(i for i, e in enumerate(events) if e.name() == 'measured')
    return max(accumulate((e.nbytes() for e in events[start:] if e.name() == '[memory]'), initial=0))


def floor_bytes(
    opt, # Optimizer that has done a step
    params:list # Its parameters
) -> int:
    """Bytes that a step must move: parameters and states are read and written, gradients are read.

    Of optimizers that can be explained it is what their kernel moves: those that need a norm first read more. Of others, states are the tensors of
    a parameter's shape in `opt.state`."""
    moved = opt.explain().moved_bytes if isinstance(opt, optimcb.Optimizer) else None
    if moved is not None: return moved
    states = [[v for v in getattr(opt, 'state', {}).get(p, {}).values() if isinstance(v, Tensor) and v.shape == p.shape] for p in params]
    return sum(2*p.nbytes + p.grad.nbytes + 2*sum(v.nbytes for v in s) for p, s in zip(params, states))


def held(device, reset=False) -> int|None:
    "Bytes that are held, or with the peak forgotten from now on. On the CPU those of the process, on Linux; else None."
    if device == 'cuda':
        torch.cuda.synchronize()
        if reset: torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    try:
        if reset: Path('/proc/self/clear_refs').write_text('5')
        lines = dict(o.split(':', 1) for o in Path('/proc/self/status').read_text().splitlines())
    except OSError: return None
    return int(lines['VmRSS' if reset else 'VmHWM'].split()[0])*1024
