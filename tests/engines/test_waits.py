"A step doesn't wait for a GPU: nothing in it asks for a number, or sends one from a list. It is watched on the CPU, where the same calls would not wait."
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import shards_on_cpu
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class NoNumberIsAskedFor(TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f.__name__.partition('.')[0]
        if name in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'equal', 'masked_select'): raise AssertionError(f"`{name}` waits")
        return f(*args, **kwargs or {})


class NoListIsSent(TorchFunctionMode):
    def __torch_function__(self, f, types, args=(), kwargs=None):
        if f is torch.tensor: raise AssertionError("a tensor of a list waits")
        if f in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(o, list) or isinstance(o, torch.Tensor) and o.dtype == torch.bool for o in index): raise AssertionError("such an index waits")
        return f(*args, **kwargs or {})


@contextmanager
def nothing_waits():
    with NoNumberIsAskedFor(), NoListIsSent(): yield


def put(x): x[:, [0]] = 1.


@pytest.mark.parametrize('f', [lambda x: x.sum().item(), lambda x: x[:, [0, 1]], lambda x: x[x > 0], lambda x: torch.tensor([1., 2.]), lambda x: bool(x.any()), put])
def test_what_waits_is_seen(f):
    with pytest.raises(AssertionError, match='waits'), nothing_waits(): f(torch.ones(3, 2))


def sharded(name):
    "Some steps of a model under `fully_shard`, in a process of its own; the later ones must not wait"
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import optimcb as oc
    dist.init_process_group('gloo', rank=0, world_size=1, store=dist.HashStore())
    model = torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3), torch.nn.LayerNorm(3))
    fully_shard(model, mesh=init_device_mesh('cpu', (1,)))
    opt = getattr(oc, name)(model.parameters(), lr=0.01, engine='fused')
    for i in range(6):
        model(torch.ones(8, 7)).square().mean().backward()
        if i < 4: opt.step()
        else:
            with nothing_waits(): opt.step()
        opt.zero_grad()
    dist.destroy_process_group()


@shards_on_cpu
@pytest.mark.parametrize('name', ['AdamW', 'Lamb', 'Larc', 'Prodigy'])
def test_sharded_steps_with_norms_do_not_wait(name):
    code = f"import test_waits; test_waits.sharded({name!r}); print('good')"
    here = Path(__file__).parent
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(here), str(here.parent), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout.strip().endswith('good'), done.stderr[-2000:]
