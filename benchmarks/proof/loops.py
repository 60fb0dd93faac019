"Training loops: GradScaler, streams and lifetimes, sharded models."
import os
import random
import threading
import traceback
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

import optimcb as oc
from optimcb.bench.sets import parameters
from proof.device import apart

__all__ = ['amp', 'lifetime', 'sharded']


# GradScaler

def amp(
    results, # Takes a result for each check
    device, # `Device`
    options # Options of the command
):
    "Train with a GradScaler that overflows at first, as torch's fused AdamW; nothing may wait."
    def as_torch():
        (p, n, s), (q, m, t) = _scaled(oc.AdamW, device), _scaled(_torch_adamw(device), device)
        found = apart(p, q)
        return dict(apart=found, steps=[n, m], scale=[s, t], ok=n == m and s == t and found < 2e-2)
    results.attempt('AdamW as torch', as_torch)
    results.attempt('a skipped step changes no bit', _skipped, device)


def _torch_adamw(device): return lambda ps, lr: torch.optim.AdamW(ps, lr, fused=not device.dry)


def _scaled(make, device):
    "Parameters, step count and scale after 23 steps with autocast"
    torch.manual_seed(0)
    convolutions = torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 33, 3), torch.nn.ReLU()
    head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(33, 10)
    model = torch.nn.Sequential(*convolutions, *head).to(device.type)
    x = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(device.type)
    y = torch.arange(16).remainder(10).to(device.type)
    opt = make(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.**26, growth_interval=5)
    low = torch.bfloat16 if device.dry else torch.float16
    def step():
        opt.zero_grad(set_to_none=True)
        with torch.autocast(device.type, low): loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
    for _ in range(3): step()
    for _ in range(20): device.without_waiting(step)
    count = sorted({int(s['step']) for s in opt.state.values()})
    return [p.detach().cpu() for p in model.parameters()], count, scaler.get_scale()


def _skipped(device):
    ps = parameters([(1000,), (33, 7)], torch.float32, device.type)
    opt = oc.Lamb(ps, lr=1e-2, engine='fused')
    for _ in range(3): opt.step()
    def all_of_it():
        states = [v for s in opt.state.values() for v in s.values()]
        return [torch.as_tensor(o).detach().cpu().clone() for o in (*ps, *states)]
    before = all_of_it()
    ps[0].grad[3] = float('inf')
    opt.grad_scale, opt.found_inf = torch.full((), 2., device=device.type), torch.ones((), device=device.type)
    opt.step()
    return dict(ok=all(map(torch.equal, before, all_of_it())))


# Streams, threads, memory that comes and goes

def lifetime(
    results, # Takes a result for each check
    device, # `Device`
    options # Options of the command
):
    "Take hundreds of steps while gradients and other memory come and go, as torch's AdamW does."
    results.attempt('one stream', _soak, device, False)
    results.attempt('two streams', _soak, device, True)
    results.attempt('two threads', _threads, device)
    results.attempt('the same bits in each run', _same_bits, device)


def _soak(device, on_two_streams):
    res = []
    for make in (lambda ps: oc.AdamW(ps, lr=1e-3), lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=True)):
        ps = parameters([(1000,), (33, 77), (5,), (100_000,), (129, 257)], torch.float64, device.type)
        opt, rng, gen = make(ps), random.Random(0), torch.Generator(device.type).manual_seed(3)
        side = torch.cuda.Stream() if on_two_streams and not device.dry else None
        for _ in range(20 if device.dry else 300):
            for p in ps:
                grad = torch.randn(p.shape, generator=gen, device=device.type, dtype=p.dtype)
                p.grad = None if rng.random() < 0.03 else grad
            sizes = [rng.randrange(1, 200_000) for _ in range(rng.randrange(4))]
            junk = [torch.full((n,), torch.nan, device=device.type) for n in sizes]
            if rng.random() < 0.5 and side:
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side): opt.step()
                torch.cuda.current_stream().wait_stream(side)
            else: opt.step()
            if rng.random() < 0.5: opt.zero_grad(set_to_none=True)
            if rng.random() < 0.02: opt.load_state_dict(opt.state_dict())
            del junk
        res.append([p.detach().cpu() for p in ps])
    found = apart(*res)
    return dict(apart=found, ok=found < 1e-11)


def _threads(device):
    "Two optimizers in two threads, each on a stream of its own"
    res = {}
    def work(i, is_alone):
        ps = parameters([(1000,), (50_000 + i,)], torch.float64, device.type)
        opt = oc.Lamb(ps, lr=1e-3)
        with nullcontext() if device.dry or is_alone else torch.cuda.stream(torch.cuda.Stream()):
            if not device.dry: torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            for _ in range(50): opt.step()
            device.sync()
        res[i, is_alone] = [p.detach().cpu() for p in ps]
    for i in range(2): work(i, True)
    threads = [threading.Thread(target=work, args=(i, False)) for i in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    found = max(apart(res[i, False], res[i, True]) for i in range(2))
    return dict(apart=found, ok=found == 0)


def _same_bits(device):
    res = []
    for _ in range(3):
        ps = parameters([(1000,), (3_000_000,)], torch.float32, device.type)
        opt = oc.Lamb(ps, lr=1e-2)
        for _ in range(5): opt.step()
        res.append([p.detach().cpu() for p in ps])
    return dict(ok=all(torch.equal(x, y) for o in res[1:] for x, y in zip(o, res[0])))


# Sharded models

def sharded(
    results, # Takes a result for each check
    device, # `Device`
    options # Options of the command
):
    "Step a model under `fully_shard` on one device; once more where nothing may wait."
    import torch.distributed as dist
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', str(random.randrange(20000, 50000)))
    kwargs = {} if device.dry else dict(device_id=torch.device('cuda', 0))
    dist.init_process_group('gloo' if device.dry else 'nccl', rank=0, world_size=1, **kwargs)
    for name in ('AdamW', 'Lamb'):
        for may_wait in (True, False):
            title = name if may_wait else f'{name}, nothing may wait'
            results.attempt(title, _as_unsharded, getattr(oc, name), may_wait, device)


def _as_unsharded(make, may_wait, device):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    res = []
    for is_sharded in (False, True):
        torch.manual_seed(0)
        layers = torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3), torch.nn.LayerNorm(3)
        model = torch.nn.Sequential(*layers).to(device.type)
        if is_sharded: fully_shard(model, mesh=init_device_mesh(device.type, (1,)))
        opt = make(model.parameters(), lr=0.01, engine='fused')
        x = torch.randn(8, 7, generator=torch.Generator().manual_seed(0)).to(device.type)
        for i in range(6):
            model(x).square().mean().backward()
            try: opt.step() if may_wait or i < 4 else device.without_waiting(opt.step)
            except RuntimeError as e:
                frames = traceback.extract_tb(e.__traceback__)[-2:]
                where = ' > '.join(f'{Path(o.filename).name}:{o.lineno}' for o in frames)
                return dict(waits=where, error=str(e)[:100])
            opt.zero_grad(set_to_none=True)
        whole = [p.full_tensor() if is_sharded else p for p in model.parameters()]
        res.append([p.detach().cpu() for p in whole])
    found = apart(*res)
    return dict(apart=found, ok=found < 1e-5)
