"Every algorithm against its reference and the eager engine, and whether its step waits for the GPU."
import warnings
from functools import partial

import torch
import zoo
from helpers import SHAPES, difference, params, set_grads

import optimcb as oc
from optimcb.engines.runner import CantRun
from proof.device import apart

__all__ = ['agree']

LAYOUT = [*SHAPES, (5000,), (1023,), (129, 257), (1,)]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1}


def agree(
    shard:int, # Which part of the algorithms
    shards:int, # Number of parts
    results, # Takes a result for each
    device, # `Device`
    options # Options of the command
):
    "Compare algorithms."
    warnings.simplefilter('ignore')
    work = [(f'reference {name}', partial(_as_reference, *row, device)) for name, *row in zoo.ROWS]
    for name, algo in zoo.ALGORITHMS.items():
        make = partial(algo, **zoo.OPTIONS.get(name, {}))
        for dtype in [torch.float64] if device.dry else TOLERANCES:
            work.append((f'{str(dtype)[6:]} {name}', partial(_as_eager, make, dtype, device)))
        work.append((f'waits {name}', partial(_waits, make, device)))
    for name, f in (work[::40] if device.dry else work)[shard::shards]: results.attempt(name, _if_it_can, f)
    if shard == 0 and not device.dry: results.attempt('more than 2**31 elements', _more_than_2_31)
    if shard == 1: results.attempt('views at odd addresses', _odd_views, device)


def _if_it_can(f):
    try: return f()
    except CantRun as e: return dict(skipped=str(e)[:200])


def _as_reference(ours, theirs, tol, device):
    "50 steps in float64; the reference shares no code with the library"
    res = []
    torch.set_default_dtype(torch.float64) # of torch's scalar states
    try:
        for make, where in ((ours, device.type), (theirs, 'cpu')):
            on_cpu = params(SHAPES, torch.float64)
            ps = [torch.nn.Parameter(p.detach().to(where)) for p in on_cpu]
            opt = make(ps, lr=0.01)
            if make is ours: opt.engine = 'fused'
            for i in range(6 if device.dry else 50):
                set_grads(on_cpu, i)
                for p, q in zip(ps, on_cpu): p.grad = q.grad.to(where)
                opt.step()
            res.append([p.detach().cpu() for p in ps])
    finally: torch.set_default_dtype(torch.float32)
    found = difference(*res)
    return dict(apart=found, ok=found <= 10*tol)


def _steps(make, where, dtype, count, engine, call=lambda step, i: step()):
    "Parameters after steps with a learning rate that changes, and a gradient that is missing once"
    on_cpu = params(LAYOUT, dtype)
    picture = params([(16, 8, 3, 3)], dtype, 5)[0].detach().to(memory_format=torch.channels_last)
    on_cpu.append(torch.nn.Parameter(picture))
    ps = [torch.nn.Parameter(p.detach().to(where)) for p in on_cpu]
    opt = make([{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.003}], lr=0.01)
    opt.engine = engine
    for i in range(count):
        set_grads(on_cpu, i, [1] if i == 2 else [])
        for p, q in zip(ps, on_cpu): p.grad = None if q.grad is None else q.grad.to(where)
        for g in opt.param_groups: g['lr'] = g['lr']*0.9
        call(opt.step, i)
    return [p.detach().cpu() for p in ps]


def _as_eager(make, dtype, device):
    count, tol = 3 if device.dry else 8, TOLERANCES[dtype]
    want = _steps(make, 'cpu', dtype, count, 'eager')
    found = apart(_steps(make, device.type, dtype, count, 'fused'), want)
    return dict(apart=found, ok=found <= tol)


def _waits(make, device):
    "Does a step wait that has been taken before?"
    def call(step, i): device.without_waiting(step) if i > 4 else step()
    _steps(make, device.type, torch.float32, 8, 'fused', call)
    return dict(ok=True)


def _more_than_2_31():
    n = 2**31 + 3*1024 + 5
    p = torch.nn.Parameter(torch.zeros(n, dtype=torch.bfloat16, device='cuda'))
    p.grad = torch.ones_like(p)
    p.grad[-7:] = 2
    oc.SGD([p], lr=1., engine='fused').step()
    x = p.detach()
    return dict(ok=bool((x[:-7] == -1).all() and (x[-7:] == -2).all()), elements=n)


def _odd_views(device):
    "Parameters and gradients that are views of one buffer, as those of DDP's buckets are"
    sizes, res = [10, 1024, 3, 5000, 1, 2049], []
    for where, engine in (('cpu', 'eager'), (device.type, 'fused')):
        gen = torch.Generator().manual_seed(0)
        weights, grads = (torch.randn(sum(sizes) + 1, generator=gen, dtype=torch.float64) for _ in range(2))
        weights, grads, ps = weights.to(where), grads.to(where), []
        for p, g in zip(weights[1:].split(sizes), grads[1:].split(sizes)):
            ps.append(torch.nn.Parameter(p))
            ps[-1].grad = g
        opt = oc.AdamW(ps, lr=0.01, engine=engine)
        for _ in range(5): opt.step()
        res.append(weights.cpu())
    found = apart(res[1:], res[:1])
    return dict(apart=found, ok=found < 1e-12)
