"""Train a small network on digits with several processes and an optimizer of one's own, then save it.

    python examples/distributed.py                                             # one process
    torchrun --standalone --nproc-per-node 2 examples/distributed.py           # data parallel: each process has the whole model
    torchrun --standalone --nproc-per-node 2 examples/distributed.py --fsdp    # sharded: each process has a part of every parameter

Runs on GPUs where there is one for each process, else on CPUs. Takes seconds.
"""
import argparse
import gc
import os
import sys
from functools import partial

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from optimcb import Adam, Optimizer

# The optimizer: nothing in it knows of processes. What is yielded is summed over all parameters, and norms are of whole parameters, sharded or not


def clip_norm(p, max_norm=1.):
    "The gradient, no longer than `max_norm` over all parameters."
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)


Clipped = partial(Optimizer, cbs=[clip_norm, *Adam.cbs], **Adam.hypers)


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument('--fsdp', action='store_true', help='shard parameters, gradients and state, with fully_shard')
    p.add_argument('--epochs', type=int, default=10, help='times that the training set is seen')
    p.add_argument('--bs', type=int, default=64, help='batch size, of all processes together')
    p.add_argument('--lr', type=float, default=1e-2, help='top of the one-cycle schedule')
    p.add_argument('--checkpoint', default='checkpoint', metavar='FOLDER', help='where model and optimizer are saved')
    return p.parse_args(argv)


def begin() -> torch.device:
    "Join the other processes, if `torchrun` has started some; the device of this one"
    gpus = torch.cuda.device_count() >= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0))) if gpus else torch.device('cpu')
    if gpus: torch.cuda.set_device(device)
    alone = {} if 'RANK' in os.environ else dict(store=dist.HashStore(), rank=0, world_size=1)
    dist.init_process_group('nccl' if gpus else 'gloo', **alone)
    return device


def digits(device):
    "The 1,797 digits that come with scikit-learn: training set and validation set, each as pictures and labels"
    from sklearn.datasets import load_digits
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    x, y = x.float().view(-1, 1, 8, 8).div(16).to(device), y.to(device)
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def network():
    def conv(n_in, n_out): return nn.Sequential(nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.GroupNorm(4, n_out), nn.ReLU())
    return nn.Sequential(conv(1, 16), conv(16, 32), nn.Flatten(), nn.Linear(128, 10))


def distributed(model, fsdp):
    if not fsdp: return DistributedDataParallel(model)
    for layer in model: fully_shard(layer)
    return fully_shard(model)


def batches(n, a, epoch) -> list:
    "This process's part of each batch: indices, shuffled alike everywhere"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
    size = a.bs // dist.get_world_size()
    return [b[dist.get_rank()*size:][:size] for b in order.split(a.bs) if len(b) == a.bs]


def train(model, opt, sched, data, a):
    x, y = data
    for epoch in range(a.epochs):
        for i in batches(len(x), a, epoch):
            nn.functional.cross_entropy(model(x[i]), y[i]).backward()
            opt.step()
            opt.zero_grad()
            sched.step()


@torch.no_grad()
def accuracy(model, data) -> float:
    "On the whole set, in every process: a sharded model must be called by all at once"
    model.eval()
    x, y = data
    return (model(x).argmax(1) == y).float().mean().item()


def save(model, opt, folder):
    "Each process writes its part. Any number of processes can load it, DDP or FSDP"
    weights, state = get_state_dict(model, opt)
    dcp.save({'model': weights, 'opt': state}, checkpoint_id=folder)


def load(model, opt, folder):
    "Put what `save` has written into a model and an optimizer, which may be new"
    weights, state = get_state_dict(model, opt)
    dcp.load({'model': weights, 'opt': state}, checkpoint_id=folder)
    set_state_dict(model, opt, model_state_dict=weights, optim_state_dict=state)


def run(a, device):
    "Train, and let the first process tell the result"
    if a.bs % dist.get_world_size(): sys.exit(f"distributed.py: --bs must be a multiple of {dist.get_world_size()}, the number of processes, not {a.bs}.")
    torch.manual_seed(0) # the same weights in every process
    train_set, valid_set = digits(device)
    model = distributed(network().to(device), a.fsdp)
    opt = Clipped(model.parameters(), lr=a.lr)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, a.lr, epochs=a.epochs, steps_per_epoch=len(train_set[0])//a.bs, cycle_momentum=False)
    train(model, opt, sched, train_set, a)
    result = accuracy(model, valid_set)
    save(model, opt, a.checkpoint)
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} × {device.type}, {'sharded' if a.fsdp else 'data parallel'}: accuracy {result:.1%}, saved in {a.checkpoint}")


def main(argv=None):
    a = arguments(argv)
    device = begin()
    try: run(a, device)
    finally:
        gc.collect() # a model that holds on to its processes' group longest may wait for itself forever
        dist.destroy_process_group()


if __name__ == '__main__': main()
