"What several tests need: parameters with gradients, and trajectories."
import pytest
import torch

SHAPES = [(3, 4), (5,), (2, 3, 2, 2), ()]

shards_on_cpu = pytest.mark.skipif(not hasattr(torch.cpu.Stream, 'record_event'),
                                   reason="torch 2.6 can't shard parameters on a CPU")


def params(shapes=SHAPES, dtype=torch.float32, seed=0):
    "Random parameters, the same for each dtype but for rounding"
    g = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for s in shapes]


def set_grads(ps, step=0, skip=()):
    "Random gradients, of a size of their own for each parameter; none for parameters whose index is in `skip`"
    g = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(ps):
        grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype) * 10.**(i-1)
        p.grad = None if i in skip else grad


def trajectory(make, dtype, steps=50, lr=0.01, skip=lambda step: (), ps=None):
    "Parameters after `steps` steps of `make(params, lr=lr)`"
    ps = params(dtype=dtype) if ps is None else ps
    default, _ = torch.get_default_dtype(), torch.set_default_dtype(dtype) # torch's scalar states have the default dtype
    try:
        opt = make(ps, lr=lr)
        for i in range(steps):
            set_grads(ps, i, skip(i))
            opt.step()
    finally: torch.set_default_dtype(default)
    return [p.data for p in ps]


def difference(a, b):
    "Largest difference of two lists of tensors, relative to the size of each tensor"
    return max(((x.double() - y.double()).abs().max() / y.double().abs().max().clamp(min=1e-30)).item()
               for x, y in zip(a, b))


def copies(ps):
    "Parameters of the same values, in memory of their own"
    return [torch.nn.Parameter(p.detach().clone()) for p in ps]


def clip_all(p, max_norm=1.):
    "A stepper that clips the norm of all gradients together"
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad * (max_norm / (total.sqrt() + 1e-6)).clamp(max=1.)


class Rows(list):
    "A data set that can be exported"
    def new_empty(self): return Rows()


def script(path, text):
    "Write an executable shell script; return its path"
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return str(path)
