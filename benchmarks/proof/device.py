"What sections share: the device, its clock, sets of parameters, and commands with a limit."
import os
import signal
import statistics
import subprocess
import time

import torch

from optimcb.bench import SETS

__all__ = ['CHILDREN', 'Device', 'apart', 'command', 'shapes_of']


class Device:
    "A GPU, or the CPU in its place in a dry run."
    def __init__(self,
        dry:bool # Use the CPU?
    ):
        self.dry, self.type = dry, 'cpu' if dry else 'cuda'
        if dry: torch.set_num_threads(1)
        self.sync = int if dry else torch.cuda.synchronize

    def times(self,
        step, # Function to measure
        repeats:int, # Number of calls
        before=int # Called before each, outside the measurement
    ) -> tuple[float, float]:
        "Measure the median seconds from an idle device until it has finished, and until `step` returns."
        done, host = [], []
        for _ in range(repeats):
            before()
            self.sync()
            start = time.perf_counter()
            step()
            host.append(time.perf_counter() - start)
            self.sync()
            done.append(time.perf_counter() - start)
        return statistics.median(done), statistics.median(host)

    def busy(self,
        step, # Function to measure
        host:float, # Seconds until it returns
        calls:int=4, # Number of calls in a row
        repeats:int=5 # Number of measurements
    ) -> float:
        "Measure the seconds that the device takes for `step`, while the host is ahead of it."
        if self.dry: return self.times(step, repeats)[0]
        found = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.sync()
            torch.cuda._sleep(int(min(2e9*(1.5*host*calls + 2e-3), 1.5e9))) # cycles
            start.record()
            for _ in range(calls): step()
            end.record()
            self.sync()
            found.append(start.elapsed_time(end)/1e3/calls)
        return statistics.median(found)

    def without_waiting(self,
        f # Function to call
    ):
        "Call `f` where anything that waits for the device raises an error."
        if self.dry: return f()
        torch.cuda.set_sync_debug_mode('error')
        try: return f()
        finally: torch.cuda.set_sync_debug_mode('default')

    def copy_of(self,
        size:int # Bytes
    ) -> float:
        "Measure the seconds of an operation in place that reads and writes `size` bytes in all."
        x = torch.ones(max(1, size//8), device=self.type)
        return self.busy(lambda: x.add_(1.), 1e-5, 10, 3)


def apart(
    got:list, # Tensors
    want:list # Tensors to compare them with
) -> float:
    "Return the largest difference, relative to the largest element of each tensor."
    def one(x, y):
        x, y = x.double(), y.double()
        return ((x - y).abs().max() / y.abs().max().clamp(min=1e-30)).item()
    return max(map(one, got, want))


def gpt2() -> list[tuple]:
    "List the shapes of GPT-2's parameters: 124 M elements."
    w, norm = 768, [(768,), (768,)]
    def linear(n_in, n_out): return [(n_out, n_in), (n_out,)]
    block = [*norm, *linear(w, 3*w), *linear(w, w), *norm, *linear(w, 4*w), *linear(4*w, w)]
    return [(50257, w), (1024, w), *block*12, *norm]


def shapes_of(
    name:str, # One of the sets
    dry:bool # A few small ones in their place?
) -> list[tuple]:
    "List the shapes of a set of parameters."
    shapes = {**SETS, 'gpt2': gpt2(), 'huge': [(200_000_000,)]}[name]
    return [tuple(min(n, 8) for n in s) for s in shapes[:12]] if dry else shapes


CHILDREN = set() # ids of commands that run, which end with the section


def command(
    args:list, # Program and arguments
    seconds:float, # Its limit
    **kwargs # For `Popen`
) -> tuple[str, int|None]:
    "Return a command's output and its exit status, None if it took too long."
    out = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    with subprocess.Popen(args, start_new_session=True, **out, **kwargs) as p:
        CHILDREN.add(p.pid)
        try: text, _ = p.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            return p.communicate()[0], None
        finally: CHILDREN.discard(p.pid)
    return text, p.returncode
