"What tests of engines need: the same steps on every engine, and differences in units in the last place."
import warnings

import torch

from optimcb import Optimizer

TRACED = ('foreach', 'fused')
SPECIAL = [0., -0., 1., -1., 0.5, -0.5, 1.5, 2.5, -2.5, 3., 1e-3, -1e-3, 1e-30, 1e30, -1e30, 1e-40, -1e-40,
           float('inf'), float('-inf'), float('nan'), 0.1, 100., -7.3, 20.5]


def ulps(a, b):
    "Largest difference in units in the last place; NaN equals NaN, and zeros are equal whatever their sign"
    a, b = a.detach(), b.detach()
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
    if not a.dtype.is_floating_point: return 0 if torch.equal(a, b) else float('inf')
    if not torch.equal(a.isnan(), b.isnan()): return float('inf')
    bits = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16,
            torch.bfloat16: torch.int16}[a.dtype]
    a, b = (x.contiguous().nan_to_num(0., float('inf'), float('-inf')).view(bits).to(torch.int64) for x in (a, b))
    size = torch.iinfo(bits).max
    apart = torch.where((a < 0) == (b < 0), (a - b).abs(), (a & size) + (b & size)) # in order of magnitude, on either side of zero
    return apart.max().item() if apart.numel() else 0


def stepped(engine, ps, grads, cbs, steps=1, quiet=True, **hypers):
    "Parameters and states after `steps` steps on an engine, of copies that lie in memory as `ps` do"
    ps = [torch.nn.Parameter(torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).copy_(p.detach())) for p in ps]
    opt = Optimizer(ps, cbs, engine=engine, **hypers)
    with warnings.catch_warnings():
        if quiet: warnings.simplefilter('ignore')
        for i in range(steps):
            for p, g in zip(ps, grads[i % len(grads)]): p.grad = None if g is None else g.clone()
            opt.step()
    return opt, [p.detach() for p in ps], [dict(opt.state[p]) for p in ps]
