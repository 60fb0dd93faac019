"Parameters of one optimizer that are stepped together inside `backward`, apart from the others."
from itertools import groupby

import torch
from torch import Tensor

from optimcb.engines.compilation import Compilation
from optimcb.engines.runner import Runner
from optimcb.optimizer import Optimizer

__all__ = ['Target', 'Waiting']


class Waiting:
    "Parameters whose gradients one backward pass has accumulated, by device or stream, and their elements."
    def __init__(self): self.by_stream = {}

    def add(self,
        p:Tensor, # One more
        enough:int # Elements
    ) -> list[Tensor]:
        "Take in a parameter. Return those that wait on its stream, if they are enough."
        stream = torch.cuda.current_stream(p.device) if p.is_cuda else p.device
        params, elements = self.by_stream.get(stream, ([], 0))
        params.append(p)
        self.by_stream[stream] = params, elements + p.numel()
        if elements + p.numel() < enough: return []
        del self.by_stream[stream]
        return params


class Target:
    """Parameters that are stepped together, as a runner sees an optimizer: with `param_groups`, `state` and
    `tracked`."""
    def __init__(self,
        members:list # Each parameter, as `p`, with its `group` and `place` in the optimizer
    ):
        self.members, self.state, self.runner = sorted(members, key=lambda o: (o.group, o.place)), {}, None

    def runner_on(self,
        engine:str, # Name of an engine
        compilation:Compilation|None=None # Programs that all parameters share; None for the eager engine
    ) -> Runner:
        "Return a runner of these parameters alone, which goes on from its plan if the programs are the same."
        if self.runner is None or self.runner.engine != engine: self.runner = Runner(engine, compilation)
        elif self.runner.compilation is not compilation: self.runner.share(compilation)
        return self.runner

    def refresh(self,
        opt:Optimizer # Optimizer whose hyper-parameters and state these are
    ):
        "Update to the parameters' current hyper-parameters and state in `opt`."
        by_group, self.tracked = groupby(self.members, key=lambda o: o.group), opt.tracked
        self.param_groups = [{**opt.param_groups[i], 'params': [o.p for o in found]} for i, found in by_group]
        for o in self.members: self.state[o.p] = opt.state[o.p]
