"Random number generators, which trying something must leave as they were."
import random

import numpy as np
import torch

__all__ = ['Chance']


class Chance:
    "The states of the global random number generators, as they are when this is made."
    def __init__(self): self.states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def undone(self) -> bool:
        "Whether they have moved since; then they are put back."
        python, numpy, torchs = self.states
        now = np.random.get_state()
        same = now[2:] == numpy[2:] and np.array_equal(now[1], numpy[1])
        if same and random.getstate() == python and torch.equal(torch.get_rng_state(), torchs): return False
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)
        return True
