"""fastai's `distrib_ctx` on several processes without a GPU: `torchrun --standalone --nproc-per-node 2 tests/distributed_fastai.py`

All processes end with the same weights, which are those that fastai's own Adam gives there.
"""
import fastai.callback.schedule  # noqa: F401
import torch
import torch.distributed as dist
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, set_seed
from fastai.callback.progress import ProgressCallback
from fastai.distributed import DistributedDL, num_distrib
from fastai.optimizer import Adam as FastaiAdam
from processes import leave
from sklearn.datasets import load_digits
from torch import nn, tensor

import optimcb


def broadcast(self, t, rank):
    "What `DistributedDL` does by way of a GPU"
    t = torch.tensor(t)
    dist.broadcast(t, rank)
    return t.tolist()


DistributedDL._broadcast = broadcast


class IsDistributed(Callback):
    "The model must be, while it trains"
    def before_batch(self): assert isinstance(self.model, nn.parallel.DistributedDataParallel)


def trained(opt_func):
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    items = list(zip(tensor(images/16), tensor(labels)))
    dls = DataLoaders.from_dsets(items[:256], items[256:320], bs=16, num_workers=0, device='cpu')
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)).double()
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), opt_func=opt_func, cbs=IsDistributed)
    learn.remove_cb(ProgressCallback)
    with learn.distrib_ctx(in_notebook=False, sync_bn=False, cpu=True), learn.no_logging():
        assert num_distrib() == 2 and not learn.opt
        learn.fit_one_cycle(2, 1e-2)
    return learn


ours, theirs = trained(optimcb.Adam), trained(FastaiAdam)
assert type(ours.opt) is optimcb.Optimizer
for p, q in zip(ours.model.parameters(), theirs.model.parameters()):
    everywhere = [torch.zeros_like(p) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, p.detach())
    assert all(torch.equal(o, p) for o in everywhere)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
leave(f'all is well: {max((p - q).abs().max().item() for p, q in zip(ours.model.parameters(), theirs.model.parameters()))}')
