"""Training on processes that each have a part of every tensor, saved by some and gone on with by others: `python sharded.py folder engine other_engine`.

Processes are forked, so that torch, and what it imports late, is imported once. It is left with an error if anything is not as it should be."""
import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import optimcb as oc

ALGORITHMS = {'adam': oc.Adam, 'nesterov': partial(oc.SGD, mom=0.9, nesterov=True, wd=0.01), 'sgd': oc.SGD,
              'lookahead': lambda ps, lr, engine: oc.Lookahead(oc.NAdam(ps, lr, engine=engine), k=3)}
CASES = [(torch.float64, False, 'adam'), (torch.float64, True, 'lookahead'), (torch.float32, True, 'nesterov'), (torch.float32, False, 'sgd')] # flat or not
TOL = {torch.float64: 1e-12, torch.float32: 1e-6}


def made(dtype, name, engine, shard=True, lr=0.01):
    "A model with parameters that don't divide by the number of processes, and its optimizer"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3),
                                torch.nn.LayerNorm(3)).to(dtype)
    if shard: fully_shard(model, mesh=init_device_mesh('cpu', (dist.get_world_size(),)))
    return model, ALGORITHMS[name](model.named_parameters(), lr=lr, engine=engine)


def train(model, opt, steps):
    dtype = next(model.parameters()).dtype
    for i in steps:
        opt.set_hyper('lr', 0.01 / (1 + i))
        x = torch.randn(8, 7, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(dtype)
        model(x).square().mean().backward()
        opt.step()
        opt.zero_grad(set_to_none=True)


def kept(model, opt, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    return {'model': model.state_dict(), 'opt': get_optimizer_state_dict(model, opt, options=options)}, options


def save(folder, engine):
    for dtype, flat, name in CASES:
        model, opt = made(dtype, name, engine)
        train(model, opt, range(4))
        dcp.save(kept(model, opt, flat)[0], checkpoint_id=folder/f'{name}{dtype}')
        if name == 'adam':
            try: oc.save_state(opt, folder/'a.pt')
            except ValueError as e: assert 'torch.distributed.checkpoint' in str(e)
            else: raise AssertionError('a part was saved as the whole')


def whole(t): return t.full_tensor() if hasattr(t, 'full_tensor') else t


def go_on(folder, engine):
    "Load what was saved, train, and compare with a single process; then load what that one saved"
    for dtype, flat, name in CASES:
        model, opt = made(dtype, name, engine, lr=5.)
        state, options = kept(model, opt, flat)
        dcp.load(state, checkpoint_id=folder/f'{name}{dtype}')
        model.load_state_dict(state['model'])
        set_optimizer_state_dict(model, opt, state['opt'], options=options)
        assert all(type(v) is type(p) for p, s in opt.state.items() for v in s.values() if isinstance(v, torch.Tensor))
        train(model, opt, range(4, 9))
        plain, reference = made(dtype, name, 'eager', shard=False)
        train(plain, reference, range(9))
        for (k, p), q in zip(model.named_parameters(), plain.parameters()):
            pairs = {'p': (p, q), **{n: (opt.state[p][n], v) for n, v in reference.state[q].items()}}
            for n, (a, b) in pairs.items():
                if isinstance(b, torch.Tensor):
                    assert (whole(a) - b).abs().max() <= TOL[dtype] * b.abs().max().clamp(min=1), (name, dtype, k, n)
                else: assert type(a) is type(b) and a == b, (name, dtype, k, n, a, b)
        opt.load_state_dict(reference.state_dict())
        for p, q in zip(model.parameters(), plain.parameters()):
            for n, v in reference.state[q].items():
                assert not isinstance(v, torch.Tensor) or torch.equal(opt.state[p][n].full_tensor(), v)
        train(model, opt, [9])


def on(n, job, folder):
    "Run `job` on `n` processes"
    where = folder/f'{job.func.__name__}{n}'
    pids = []
    for rank in range(n):
        pids.append(os.fork())
        if pids[-1]: continue
        try:
            torch.set_num_threads(1)
            dist.init_process_group('gloo', init_method=f'file://{where}', rank=rank, world_size=n)
            job()
            dist.barrier()
            dist.destroy_process_group()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(ends), ends


if __name__ == '__main__':
    folder, engine, other = Path(sys.argv[1]), *sys.argv[2:]
    for n, job, e in ((2, save, engine), (1, go_on, engine), (4, go_on, other)): on(n, partial(job, folder, e), folder)
    print('equal')
