"A snapshot of the random number generators, to restore them after a trial."
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

__all__ = ['RngSnapshot']


class RngSnapshot:
    "The states of the global random number generators at the time of its creation."
    def __init__(self):
        self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.on_devices = [(get(), get, put) for get, put in _generators()]

    def restore_if_moved(self) -> bool:
        "Restore the generators if they have moved since. Returns whether they had."
        python, numpy, torchs = self.states
        now = np.random.get_state()
        same = now[2:] == numpy[2:] and np.array_equal(now[1], numpy[1])
        same = same and random.getstate() == python and torch.equal(torch.get_rng_state(), torchs)
        moved = [(old, put) for old, get, put in self.on_devices if not all(map(torch.equal, old, get()))]
        for old, put in moved: put(old)
        if same: return bool(moved)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)
        return True


def _generators() -> Iterator[tuple[Callable, Callable]]:
    "Yield pairs of functions that get and set the generators' states, for each kind of device in use"
    can_be_asked = torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()
    if can_be_asked:
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
    if torch.xpu.is_initialized(): yield torch.xpu.get_rng_state_all, torch.xpu.set_rng_state_all
    if torch.backends.mps.is_available():
        yield lambda: [torch.mps.get_rng_state()], lambda states: torch.mps.set_rng_state(states[0])
