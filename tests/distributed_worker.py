"""What several processes check together, each in comparison with what one process does alone. `torchrun` starts it:

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 tests/distributed_worker.py ddp fsdp --engines eager fused

On the way it says what differs by how much. A check that fails raises, which ends all processes.
"""
import argparse
import datetime
import tempfile
import warnings
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import leave
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR

import optimcb
from optimcb import (
    SGD,
    Adam,
    AdamW,
    Algorithm,
    Lamb,
    Larc,
    Lookahead,
    MissingName,
    Optimizer,
    OptStats,
    ranger,
)
from optimcb.algorithms import matrices
from optimcb.engines.runner import Runner

STEPS, BATCH, TOL = 5, 8, 1e-12 # in float64, where sums over processes round in another order


def clip_norm(p, max_norm=0.05):
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)


Momentum = partial(SGD, mom=0.9)
Clipped = partial(Optimizer, cbs=[clip_norm, *Adam.cbs], **Adam.hypers)
MAKERS = {'adam': partial(Adam, wd=0.1), 'momentum': Momentum, 'lamb': Lamb, 'clipped': Clipped}
ALL = {k: o for k, o in vars(optimcb).items() if isinstance(o, Algorithm) and k != 'SOAP'} # whose bases turn by a rounding error, where gradients have few directions
ALL |= MAKERS | {'ranger': ranger}
KERNELS = {k: o for k, o in ALL.items() if k not in matrices.__all__} # of functions on whole matrices, kernels don't know
CHECKS = {}


def check(f): return CHECKS.setdefault(f.__name__, f)


# A model, the same everywhere, and its batches, of which each process has a part

class Net(nn.Module):
    "Its parameters have 3, 5 and 1 rows: no number of processes divides them all, and 4 processes are too many for two of them"
    def __init__(self, dtype=torch.float64, channels_last=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.hidden, self.head = nn.Conv2d(2, 3, 3), nn.Linear(12, 5), nn.Linear(5, 1)
        self.to(dtype, memory_format=torch.channels_last if channels_last else torch.preserve_format)

    def forward(self, x): return self.head(self.hidden(self.conv(x).flatten(1).tanh()).tanh())


def batch(i):
    g = torch.Generator().manual_seed(100 + i)
    return torch.randn(BATCH, 2, 4, 4, generator=g, dtype=torch.float64), torch.randn(BATCH, 1, generator=g,
                                                                                      dtype=torch.float64)


def mine(x): return x.chunk(dist.get_world_size())[dist.get_rank()]
def my_batch(i): return map(mine, batch(i))
def mse(model, x, y): return nn.functional.mse_loss(model(x.to(y.dtype)), y)


def train(model, opt, steps=range(STEPS), batch=batch, before_step=lambda: None, after_step=lambda: None):
    for i in steps:
        mse(model, *batch(i)).backward()
        before_step()
        opt.step()
        opt.zero_grad()
        after_step()
    return model


def alone(make, net=Net, **kwargs):
    "The model as one process trains it, on whole batches, by the engine that defines what is right"
    model = net()
    return train(model, make(model.parameters(), lr=0.01, engine='eager'), **kwargs)


def whole(p): return p.full_tensor() if isinstance(p, DTensor) else p
def numbers(o): return [whole(p.detach()) for p in (o.parameters() if isinstance(o, nn.Module) else o)]


def close(name, mine, theirs, tol=TOL):
    "The parameters of two models are equal but for `tol`, on every process"
    mine, theirs = numbers(mine), numbers(theirs)
    assert len(mine) == len(theirs) and all(m.shape == t.shape for m, t in zip(mine, theirs))
    diff = max((m - t).abs().max().item() for m, t in zip(mine, theirs))
    say(f'{name}: {diff:.1e}')
    assert diff <= tol, f'{name}: differs by {diff} on process {dist.get_rank()}'


def say(*args):
    if dist.get_rank() == 0: print(*args, flush=True)


# Data parallel

class Heads(nn.Module):
    "The first process uses one head and the others another, in turns; a third one joins late"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = nn.Linear(32, 5).double(), nn.ModuleList(nn.Linear(5, 1) for _ in range(3)).double()
        self.step = 0

    def on(self, x, rank):
        return self.heads[2 if self.step > 2 and rank else (self.step + (rank > 0)) % 2](self.body(x.flatten(1)).tanh())
    def forward(self, x): return self.on(x, dist.get_rank())


class AllHeads(Heads):
    def forward(self, x):
        return torch.cat([self.on(part, rank) for rank, part in enumerate(x.chunk(dist.get_world_size()))])


@check
def ddp(engine):
    "With the gradients in memory of their own, or in buckets, where parameters may lie in memory otherwise"
    for name, make in MAKERS.items():
        expected = alone(make)
        for options in ({}, {'gradient_as_bucket_view': True},
                        {'static_graph': True})[:3 if dist.get_world_size() == 2 else 1]:
            model = DDP(Net(), **options)
            train(model, make(model.parameters(), lr=0.01, engine=engine), batch=my_batch)
            close(f'ddp, {engine}, {name}, {options}', model, expected)
        model, expected = DDP(Net(channels_last=True), gradient_as_bucket_view=True), alone(make, partial(Net, channels_last=True))
        train(model, make(model.parameters(), lr=0.01, engine=engine), batch=my_batch)
        close(f'ddp, {engine}, {name}, channels last', model, expected)


@check
def accumulated(engine):
    "Gradients of two batches, of which only the second talks to others"
    def run(model, opt, batch, silent):
        for i in range(0, 2*STEPS, 2):
            with silent(): (mse(model, *batch(i))/2).backward()
            (mse(model, *batch(i+1))/2).backward()
            opt.step()
            opt.zero_grad()
        return model
    for name, make in MAKERS.items():
        one, model = Net(), DDP(Net(), gradient_as_bucket_view=True)
        run(one, make(one.parameters(), lr=0.01, engine='eager'), batch, nullcontext)
        run(model, make(model.parameters(), lr=0.01, engine=engine), my_batch, model.no_sync)
        close(f'accumulated, {engine}, {name}', model, one)


@check
def unused(engine):
    "Parameters without a gradient, here or everywhere: what no process uses is left alone"
    for name, make in MAKERS.items():
        for options in ({}, {'gradient_as_bucket_view': True}):
            one, many = AllHeads(), DDP(Heads(), find_unused_parameters=True, **options)
            for model, part, engine_ in ((one, batch, 'eager'), (many, my_batch, engine)):
                opt, core = make(model.parameters(), lr=0.01, engine=engine_), getattr(model, 'module', model)
                start = core.heads[2].weight.detach().clone()
                for core.step in range(6):
                    opt.zero_grad(set_to_none=True)
                    mse(model, *part(core.step)).backward()
                    opt.step()
                    assert core.step > 2 or torch.equal(core.heads[2].weight,
                                                        start) and not opt.state[core.heads[2].weight]
            close(f'unused, {engine}, {name}, {options}', many, one)


# Sharded

def sharded(net=Net, **options):
    model = net()
    fully_shard(model.conv, **options)
    fully_shard(model, **options)
    return model


def sharded_run(make, engine, *args, **kwargs):
    model = sharded(*args, **kwargs)
    opt = make(model.parameters(), lr=0.01, engine=engine)
    return train(model, opt, batch=my_batch)


@check
def fsdp(engine):
    "Every algorithm: norms are of whole parameters, of which some processes have nothing"
    model = sharded()
    say([tuple(p.to_local().shape) for p in model.parameters()])
    makers = (ALL if engine == 'eager' else KERNELS) if dist.get_world_size() == 2 else MAKERS
    for name, make in makers.items(): close(f'fsdp, {engine}, {name}', sharded_run(make, engine), alone(make))


class Partly(Net):
    "With a frozen parameter, and one that every process has whole"
    def __init__(self):
        super().__init__()
        self.hidden.bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x): return super().forward(x) * self.scale


@check
def partly(engine):
    for name, make in (MAKERS | {'larc': Larc}).items():
        model = Partly()
        fully_shard(model, ignored_params={model.scale})
        opt = make(model.parameters(), lr=0.01, engine=engine)
        def average(): dist.all_reduce(model.scale.grad.div_(dist.get_world_size())) # noqa: B023
        train(model, opt, batch=my_batch, before_step=average)
        assert not isinstance(model.scale, DTensor) and isinstance(model.hidden.bias, DTensor) and not opt.state[model.hidden.bias]
        close(f'partly, {engine}, {name}', model, alone(make, Partly))


@check
def frozen(engine):
    "A layer that is frozen for some steps in mid-training, with gradients of zeros that are left, or new ones"
    def run(model, opt, batch):
        for i in range(9):
            model.hidden.requires_grad_(not 3 <= i < 6)
            before = [p.clone() for p in numbers(model.hidden)]
            train(model, opt, [i], batch)
            assert all(map(torch.equal, numbers(model.hidden), before)) == (3 <= i < 6), (i, [whole(p.grad) for p in model.hidden.parameters()])
        return model
    for name in ('adam', 'clipped'):
        one, model = Net(), sharded()
        opt, alone_opt = (MAKERS[name](m.parameters(), lr=0.01, engine=e) for m, e in ((model, engine), (one, 'eager')))
        close(f'frozen, {engine}, {name}', run(model, opt, my_batch), run(one, alone_opt, batch))


def looks_at_vectors(p):
    if p.ndim == 1: p.grad.sum() > 0 or None # noqa: B015
    return {}


@check
def beside(engine):
    "What is left to the eager engine goes on beside what kernels step, and their counts go on"
    def make(params, lr, engine):
        return Optimizer(params, [looks_at_vectors, *Adam.cbs], engine=engine, **{**Adam.hypers, 'lr': lr})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = sharded()
        opt = make(model.parameters(), lr=0.01, engine=engine)
        close('beside', train(model, opt, batch=my_batch), alone(make))
    assert {s['step'] for s in opt.state.values()} == {STEPS} and 0 < len(opt._running.plan.eager) < len(opt.state)


@check
def mixed(engine):
    "Computed in bfloat16, kept in float32: what torch's own AdamW makes of it"
    options = dict(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32,
                                                  output_dtype=torch.float32))
    def part(i): return (t.float() for t in my_batch(i))
    models = []
    for make in (partial(AdamW, engine=engine), torch.optim.AdamW):
        models.append(Net(torch.float32))
        fully_shard(models[-1], **options)
        opt = make(models[-1].parameters(), lr=0.01)
        train(models[-1], opt, batch=part)
    assert all(v.dtype == torch.float32 for s in opt.state.values() for v in s.values())
    close(f'mixed, {engine}', *models, tol=1e-5)


@check
def clipped(engine):
    "`clip_grad_norm_` before a step: of DTensors it is over all of them"
    one, model = Net(), sharded()
    for m, part, engine_ in ((one, batch, 'eager'), (model, my_batch, engine)):
        train(m, Lamb(m.parameters(), lr=0.01, engine=engine_), batch=part,
              before_step=lambda m=m: clip_grad_norm_(m.parameters(), 0.05))
    close(f'clipped, {engine}', model, one)


@check
def tensor_parallel(engine):
    "Parameters cut along another dimension, and one that all processes have, in one optimizer"
    mesh = init_device_mesh('cpu', (dist.get_world_size(),))
    for name, make in (MAKERS | {'larc': Larc}).items():
        one = [p.detach().clone() for p in Net().hidden.parameters()]
        many = [distribute_tensor(one[0], mesh, [Shard(1)]), distribute_tensor(one[1].clone(), mesh, [Replicate()])]
        for ps, engine_ in ((one, 'eager'), (many, engine)):
            ps[:] = map(nn.Parameter, ps)
            opt = make(ps, lr=0.01, engine=engine_)
            for i in range(STEPS):
                x = batch(i)[0].flatten(1)[:, :12]
                if ps is many: x = distribute_tensor(x, mesh, [Replicate()])
                (x @ ps[0].T + ps[1]).pow(2).mean().backward()
                opt.step()
                opt.zero_grad()
        close(f'tensor parallel, {engine}, {name}', many, one)


@check
def two_meshes(engine):
    "4 processes: parameters sharded over two and replicated on two, and beside them some on a mesh of another shape"
    mesh = init_device_mesh('cpu', (2, 2), mesh_dim_names=('replicate', 'shard'))
    for name, make in MAKERS.items():
        close(f'hsdp, {engine}, {name}', sharded_run(make, engine, mesh=mesh), alone(make))
        model = Net()
        fully_shard(model.conv, mesh=mesh)
        fully_shard(model) # over all 4
        opt = make(model.parameters(), lr=0.01, engine=engine)
        close(f'two meshes, {engine}, {name}', train(model, opt, batch=my_batch), alone(make))


@check
def shards_of_shards(engine):
    "4 processes: layers cut over two of them, and each of their parts over two others"
    mesh = init_device_mesh('cpu', (2, 2), mesh_dim_names=('data', 'layer'))
    warnings.simplefilter('ignore') # torch's, of its own collectives
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for name, make in MAKERS.items():
        model, one = net(), net()
        parallelize_module(model, mesh['layer'], {'1': ColwiseParallel(), '3': RowwiseParallel()})
        fully_shard(model, mesh=mesh['data'])
        x = batch(0)[0]
        for m, engine_ in ((model, engine), (one, 'eager')):
            opt = make(m.parameters(), lr=0.01, engine=engine_)
            for _ in range(STEPS):
                m(x).square().mean().backward()
                opt.step()
                opt.zero_grad()
        close(f'shards of shards, {engine}, {name}', model, one)


def by_largest(p, lr, largest=None):
    "Shards may be empty; the largest of none is none"
    now = p.grad.abs().max()
    largest = now.clone() if largest is None else torch.maximum(largest, now)
    p.data.add_(p.grad/largest*p.numel(), alpha=-lr)
    return {'largest': largest}


@check
def scaled(engine):
    "A GradScaler, whose every process may find that a step is to be skipped; and reductions of empty shards, where kernels are asked for them"
    def run(model, opt, batch):
        scaler = torch.amp.GradScaler('cpu', init_scale=64.)
        for i in range(STEPS):
            loss = mse(model, *batch(i))
            scaler.scale(loss*float('inf') if i in (0, 3) else loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
        assert {s.get('step', STEPS - 2) for s in opt.state.values()} == {STEPS - 2} and scaler.get_scale() == 16
        return model
    for name, make in {'lamb': Lamb, **({} if engine == 'eager' else {'largest': partial(Optimizer, cbs=[by_largest])})}.items():
        model, one = sharded(), Net()
        run(model, make(model.parameters(), lr=0.01, engine=engine), my_batch)
        close(f'scaled, {engine}, {name}', model, run(one, make(one.parameters(), lr=0.01, engine='eager'), batch))


@check
def noted(engine):
    "What one process alone notes in the state makes it tell parameters apart otherwise, but it neither waits for the others nor takes one sum for another"
    model = sharded()
    opt = Lamb(model.parameters(), lr=0.01, engine=engine)
    def note():
        if not dist.get_rank(): opt.state[list(model.parameters())[2]]['note'] = 1.
    close(f'noted, {engine}', train(model, opt, batch=my_batch, before_step=note), alone(Lamb))


@check
def failed(engine):
    "A step that fails has changed nothing"
    def half(p): p.data.mul_(0.5)
    def lost(p, lr, nowhere): p.data.add_(nowhere)
    model = sharded()
    opt = Optimizer(model.parameters(), [half, *Adam.cbs, lost], check=False, **{**Adam.hypers, 'lr': 0.1},
                    engine=engine)
    mse(model, *my_batch(0)).backward()
    try: opt.step()
    except MissingName: pass
    else: raise AssertionError("no error")
    close(f'failed, {engine}', model, Net(), 0)
    assert not any(opt.state.values())


@check
def watched(engine):
    "Taps see whole parameters, and are looked at by one process alone"
    one, model = Net(), sharded()
    opt, ours = Lamb(one.parameters(), lr=0.01, engine='eager'), Lamb(model.parameters(), lr=0.01, engine=engine)
    expected, stats = OptStats(opt, one), OptStats(ours, model)
    train(one, opt)
    train(model, ours, batch=my_batch)
    str(ours.explain()), repr(ours), ours.kernel()
    if dist.get_rank() == 0:
        for k in ('grad_norm', 'update_ratio', 'effective_lr'):
            torch.testing.assert_close(torch.tensor(stats[k]), torch.tensor(expected[k]), rtol=1e-5, atol=0)


@check
def resumed(engine):
    "State dicts of many processes and of one, from this optimizer to another and by torch.distributed.checkpoint"
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    def fresh(numbers):
        model = sharded()
        model.load_state_dict(numbers)
        return model, make(model.parameters(), lr=0.5, engine=engine)
    for name, make in MAKERS.items():
        model, one = sharded(), Net()
        opt, opt_alone = make(model.parameters(), lr=0.01, engine=engine), make(one.parameters(), lr=0.01,
                                                                                engine='eager')
        train(model, opt, range(3), my_batch)
        train(one, opt_alone, range(3))
        weights, saved, saved_alone = model.state_dict(), opt.state_dict(), opt_alone.state_dict()
        both = dict(zip(('model', 'optim'), get_state_dict(model, opt)))
        dcp.save(both, checkpoint_id=f'{folder[0]}/{name}')
        full = get_optimizer_state_dict(model, opt, options=StateDictOptions(full_state_dict=True))
        weights = {k: v.clone() for k, v in weights.items()}
        ways = {}
        for way, sd in (('own', saved), ('of one process', saved_alone)):
            ways[way] = fresh(weights)
            ways[way][1].load_state_dict(sd)
        ways['checkpoint'] = fresh(sharded().state_dict())
        loaded = dict(zip(('model', 'optim'), get_state_dict(*ways['checkpoint'])))
        dcp.load(loaded, checkpoint_id=f'{folder[0]}/{name}')
        set_state_dict(*ways['checkpoint'], model_state_dict=loaded['model'], optim_state_dict=loaded['optim'])
        ways['whole'] = fresh(weights)
        set_optimizer_state_dict(*ways['whole'], full, options=StateDictOptions(full_state_dict=True))
        expected = train(one, opt_alone, range(3, 6))
        for way, (m, o) in ways.items():
            assert all(isinstance(v, DTensor) for s in o.state.values()
                       for k, v in s.items() if k != 'step'), (way, o.state)
            close(f'resumed, {engine}, {name}, {way}', train(m, o, range(3, 6), my_batch), expected)
        if name == 'adam':
            with refused(ValueError, 'full_state_dict'): opt_alone.load_state_dict(saved)


# Each process with some of the parameters

class refused:
    "What runs inside must raise, and say something"
    def __init__(self, error, said): self.error, self.said = error, said
    def __enter__(self): pass
    def __exit__(self, kind, e, tb):
        assert e is not None, f"no {self.error.__name__} that says {self.said}"
        if not isinstance(e, self.error): return False
        assert self.said in str(e), f"{e} doesn't say {self.said}"
        return True


class Single(nn.Linear):
    "One parameter, of which one process only can take care"
    def __init__(self): torch.manual_seed(0); super().__init__(32, 1, bias=False, dtype=torch.float64) # noqa: E702
    def forward(self, x): return super().forward(x.flatten(1))


def groups(model):
    return [{'params': [*model.conv.parameters(), *model.head.parameters()], 'lr': 0.1},
            {'params': list(model.hidden.parameters()), 'wd': 0.1}]


@check
def zero(engine):
    in_parts = partial(Optimizer, cbs=Adam.cbs, **Adam.hypers)
    def ahead(params, lr, engine): return Lookahead(SGD(params, lr, engine=engine), k=2)
    for name, make in {'adam': Adam, 'momentum': Momentum, 'lamb': Lamb, 'partial': in_parts,
                       'cbs': partial(Optimizer, cbs=SGD.cbs), 'ahead': ahead}.items():
        for options in ({}, {'parameters_as_bucket_view': True}):
            if name == 'cbs': made, options = Optimizer, {'cbs': SGD.cbs, **options} # noqa: PLW2901
            else: made = make
            model = DDP(Net())
            opt = ZeroRedundancyOptimizer(model.parameters(), made, lr=0.01, engine=engine, **options)
            close(f'zero, {engine}, {name}, {list(options)}', train(model, opt, batch=my_batch), alone(make))
    model = DDP(Net())
    opt = ZeroRedundancyOptimizer(model.parameters(), Adam, lr=0.01, betas=(0.8, 0.9))
    close('zero, torch names', train(model, opt, batch=my_batch), alone(partial(Adam, mom=0.8, sqr_mom=0.9)))
    model = DDP(Single())
    opt = ZeroRedundancyOptimizer(model.parameters(), Adam, lr=0.01, engine=engine)
    close(f'zero, {engine}, nothing for some', train(model, opt, batch=my_batch), alone(Adam, Single))
    assert str(opt.optim.explain()) and len(opt.optim.all_params()) == (dist.get_rank() == 0)
    model = DDP(Net())
    with refused(ValueError, '`clip_norm` yields what is to be summed'):
        ZeroRedundancyOptimizer(model.parameters(), Clipped, lr=0.01)
    opt = ZeroRedundancyOptimizer(model.parameters(), Adam, lr=0.01)
    with refused(ValueError, '`clip_norm` yields what is to be summed'): opt.optim.insert(clip_norm, before=0)
    assert opt.optim.composition.labels == Adam.composition.labels
    with refused(ValueError, 'functional optimizer equivalent for Adam'):
        ZeroRedundancyOptimizer(model.parameters(), Adam, lr=0.01, overlap_with_ddp=True)
    with refused(ValueError, 'used up'): Adam(iter([]), 0.1)


@check
def zero_resumed(engine):
    "With a schedule and two groups, gathered on one process, and dealt out again"
    one = Net()
    opt_alone = Adam(groups(one), lr=0.01, engine='eager')
    sched_alone = CosineAnnealingLR(opt_alone, 8)
    train(one, opt_alone, range(3), after_step=sched_alone.step)
    model = DDP(Net())
    opt = ZeroRedundancyOptimizer(groups(model.module), Adam, lr=0.01, engine=engine)
    sched = CosineAnnealingLR(opt, 8)
    train(model, opt, range(3), my_batch, after_step=sched.step)
    close(f'zero, {engine}, schedule', model, one)
    assert [g['lr'] for g in opt.param_groups] == [g['lr'] for g in opt_alone.param_groups] # the optimizer inside takes them over in the next step
    opt.consolidate_state_dict(to=0)
    saved = [opt.state_dict() if dist.get_rank() == 0 else None, sched.state_dict()]
    dist.broadcast_object_list(saved)
    again = DDP(Net())
    again.load_state_dict(model.state_dict())
    opt = ZeroRedundancyOptimizer(groups(again.module), Adam, lr=0.01, engine=engine)
    sched = CosineAnnealingLR(opt, 8)
    opt.load_state_dict(saved[0])
    sched.load_state_dict(saved[1])
    train(again, opt, range(3, 6), my_batch, after_step=sched.step)
    close(f'zero, {engine}, resumed', again, train(one, opt_alone, range(3, 6), after_step=sched_alone.step))


def stay_on_engine():
    "An engine that is asked for by name leaves nothing to the eager one"
    eagerly = Runner._step_eagerly
    def step(self, composition, work, *args):
        assert self.engine in ('auto', 'eager'), f'{self.engine} leaves {[p.shape for p, *_ in work]} to eager, on process {dist.get_rank()}'
        return eagerly(self, composition, work, *args)
    Runner._step_eagerly = step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checks', nargs='+', choices=list(CHECKS))
    parser.add_argument('--engines', nargs='+', default=['eager'])
    args = parser.parse_args()
    torch.set_num_threads(1)
    stay_on_engine()
    warnings.simplefilter('error', UserWarning) # nothing of it is doubtful
    for said in ('.*lr_scheduler.step.*', '.*barrier.*', '.*implicitly creating a replicated DTensor.*'):
        warnings.filterwarnings('ignore', said)
    dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=60))
    for name in args.checks:
        for engine in args.engines: CHECKS[name](engine)
    leave(f"all is well: {', '.join(args.checks)}")


if __name__ == '__main__': main()
