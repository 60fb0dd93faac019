"""Measure an optimizer's step on this machine, next to torch's, fastai's and other libraries'.

    python -m optimcb.bench                              # AdamW, on four sets of parameters
    python -m optimcb.bench Lamb mymodule:MyAlgorithm --on resnet34 --json times.json
    python -m optimcb.bench Muon --on matrices --against torch # Muon is for matrices
    python -m optimcb.bench --python --train             # Python's share, and a whole training step of fastai
    python -m optimcb.bench --on tiny                    # 110 tensors of 30 elements: all of it is Python
    python -m optimcb.bench --backward                   # memory and time of training

Contenders take turns, with their own parameters and gradients, in a new random order for each round.

- median: the median time of a step, from an idle device until the device has finished.
- × torch fused: the median divided by that of `torch.optim`'s fused step of the same algorithm, if any.
- × floor: the median divided by that of a read-modify-write of as many bytes as the algorithm must move
  (`floor_bytes`), in the same rounds.
- first step: the first `step()` of a new optimizer. Its kernels may come from a cache on disk, unless
  `--cold` starts with an empty one. Only the first set of parameters shows the full time, as later sets may
  reuse kernels in memory.
- optimizer: the smallest time of `step` and `zero_grad` in a training step.
- extra MiB: the peak memory of torch's allocator during a later step, beyond that before it.
- gradients MiB: the peak memory of gradients.
- peak MiB: the peak memory of training beyond that before the model was created: memory of the process
  (Linux), or of torch's allocator on a GPU. Each is measured in a separate process.
"""
import inspect
import multiprocessing
import os
import statistics
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from types import SimpleNamespace

import torch

import optimcb
from optimcb.bench.contenders import PEERS, SLOW, Contender, find, interleave, peers
from optimcb.bench.sets import MODELS
from optimcb.bench.timing import extra_memory, floor_bytes, held, timed

__all__ = ['Bench', 'trained']


@dataclass
class Bench:
    "A benchmark of an algorithm and its peers. Results are dicts for `table` or JSON, in seconds and bytes."
    algorithm:str = 'AdamW' # One of `ALGORITHMS`, or `module:name` of a callable for parameters and `lr`
    against:list|None = None # Some of `PEERS` and 'torch_compile'; default: installed ones that start fast
    engines:tuple = () # Engines to force, each a contender; default: the algorithm's own choice
    like:str = 'AdamW' # Algorithm whose peers a `module:name` is compared with
    dtype:str = 'float32' # Dtype of parameters and gradients
    device:str = 'cpu' # 'cpu' or 'cuda'
    repeats:int = 20 # Number of measured rounds
    warmup:int = 3 # Number of warm-up rounds

    def contenders(self) -> list[Contender]:
        "Create the contenders: the algorithm on each engine, and its peers. Raises `LookupError`."
        make, own = find(self.algorithm), ':' in self.algorithm
        name = self.algorithm.partition(':')[2] if own else f'optimcb {self.algorithm}'
        against = self.against
        if against is None: against = [o for o in PEERS if o not in SLOW and find_spec(o)]
        on_engines = [Contender(f'{name} {e}', partial(make, engine=e)) for e in self.engines]
        ours = on_engines or [Contender(name, make)]
        return ours + [c for o in against for c in peers(o, self.like if own else self.algorithm)]

    def step(self,
        shapes:list # Shapes of the parameters
    ) -> dict:
        "Measure one step on parameters with given shapes."
        runs = self.contenders()
        for c in runs: c.attempt(c.start, shapes, getattr(torch, self.dtype), self.device)
        size = next((floor_bytes(c.opt, c.params) for c in runs if not c.error), 0)
        floor = Contender('floor')
        moved = torch.ones(max(1, size//8), device=self.device) # reads 4 bytes of each, and writes 4
        floor.opt = SimpleNamespace(step=partial(moved.add_, 1))
        interleave([*runs, floor], self.repeats, self.warmup)
        for c in runs:
            with suppress(Exception): c.extra = extra_memory(c.opt.step, self.device)
        n, elements = len(shapes), sum(map(prod, shapes))
        title = f'{n:,} tensor{"s"*(n > 1)}, {elements/1e6:.1f} M elements, {self.dtype}'
        return dict(algorithm=self.algorithm, title=title, tensors=n, elements=elements, dtype=self.dtype,
                    floor_bytes=size, rows=self._rows([*runs, floor], floor=floor))

    def python(self,
        counts:tuple=(110, 2000) # Numbers of tensors
    ) -> dict:
        """Measure one step on tensors of one element, which is pure overhead.

        'same' gradients are the same tensors in each step, 'new' gradients are new ones."""
        rows, (few, many) = {}, counts
        for n in counts:
            runs = self.contenders()
            for c in runs: c.attempt(c.start, [(1,)]*n, getattr(torch, self.dtype), self.device)
            for kind, before in dict(same=Contender.same_grads, new=Contender.new_grads).items():
                interleave(runs, self.repeats, self.warmup, before)
                for c in runs: rows.setdefault(c.name, {}).update(_renamed(c.row(), f'{kind} {n}'))
        for r in rows.values():
            if r.get('error'): continue
            for k in ('same', 'new'): r[f'{k} each'] = (r[f'{k} {many}'] - r[f'{k} {few}']) / (many-few)
        title = 'overhead of a step, in all and for each tensor more'
        return dict(algorithm=self.algorithm, title=title, rows=list(rows.values()))

    def groups(self,
        counts:tuple=(1, 24, 240), # Numbers of groups
        tensors:int=240 # Number of tensors, of 64 elements, that are dealt to them
    ) -> dict:
        "Measure one step on parameters in groups, each with a learning rate of its own."
        rows = {}
        for n in counts:
            runs = self.contenders()
            for c in runs: c.attempt(c.start, [(64,)]*tensors, getattr(torch, self.dtype), self.device, n)
            interleave(runs, self.repeats, self.warmup)
            for c in runs: rows.setdefault(c.name, {}).update(_renamed(c.row(), f'in {n}'))
        title = f'{tensors} tensors in groups with learning rates of their own'
        return dict(algorithm=self.algorithm, title=title, rows=list(rows.values()))

    def changing(self,
        tensors:int=1000, # Number of tensors, of 64 elements
        share:float=0.3 # How many of them have gradients in a step
    ) -> dict:
        "Measure one step when other parameters have gradients each time, as in a mixture of experts."
        runs = self.contenders()
        for c in runs: c.attempt(c.start, [(64,)]*tensors, getattr(torch, self.dtype), self.device)
        for c in runs: c.attempt(c.opt and c.opt.step)
        interleave(runs, self.repeats, max(10, self.warmup), partial(Contender.some_grads, share=share))
        title = f'{tensors:,} tensors, another {share:.0%} of them with gradients in each step'
        return dict(algorithm=self.algorithm, title=title, rows=self._rows(runs))

    def life(self,
        tensors:int=10_000 # Number of tensors, of 8 elements
    ) -> dict:
        "Measure what is done once: making the optimizer, its first step, `state_dict`."
        rows = []
        for c in self.contenders():
            for n in (1, tensors): # what is read and built only once in a process is not meant
                c.attempt(c.start, [(8,)]*n, getattr(torch, self.dtype), self.device)
            saved = c.attempt(lambda c=c: timed(c.opt.state_dict))
            once = {'once make': c.made, 'once first step': c.first, 'once state_dict': saved}
            rows.append(dict(name=c.name, error=c.error) if c.error else dict(name=c.name, **once))
        return dict(algorithm=self.algorithm, title=f'{tensors:,} tensors, what is done once', rows=rows)

    def train(self,
        arch:str='resnet18', # A model of torchvision
        size:int=64, # Side of the images in pixels
        bs:int=16 # Batch size
    ) -> dict:
        """Measure one step of fastai's `Learner`, from the batch to `zero_grad`.

        The algorithm is measured without and with `zero_in_step`, if it has that option. Optimizers that are
        not made for fastai are in its `OptimWrapper`."""
        from fastai.optimizer import OptimWrapper
        pictures = torch.randn(bs, 3, size, size, device=self.device)
        batch = pictures, torch.randint(10, (bs,), device=self.device)
        runs = [c for c in self.contenders() if c.fused or not c.name.startswith('torch ')]
        can_zero = 'zero_in_step' in inspect.signature(find(self.algorithm)).parameters
        ours = runs[:max(1, len(self.engines))] if can_zero else []
        zeroing = [Contender(f'{c.name}, zero_in_step', partial(c.make, zero_in_step=True)) for c in ours]
        runs = [*ours, *zeroing, *runs[len(ours):]]
        for c in runs:
            foreign = c.name.split()[0] in PEERS.keys() - {'fastai'}
            c.make = partial(_training, partial(OptimWrapper, opt=c.make) if foreign else c.make, arch, batch)
            c.attempt(c.start)
        interleave(runs, self.repeats, self.warmup)
        for c in runs:
            if not c.error: c.share = c.opt.shares[-len(c.times):]
        title = f'training step, {arch}, {bs} pictures of {size} pixels'
        return dict(algorithm=self.algorithm, title=title, rows=self._rows(runs))

    def backward(self,
        model:str='mlp' # One of `MODELS`
    ) -> dict:
        "Measure memory and time of training steps, as usual and with `step_in_backward`."
        # glibc would keep much of the freed memory, which would falsify the peak
        os.environ.setdefault('MALLOC_MMAP_THRESHOLD_', str(1 << 20))
        rows = []
        for name, inside in {'step after backward': False, 'step in backward': True}.items():
            # in a new process, so that memory of earlier runs doesn't count
            with multiprocessing.get_context('spawn').Pool(1) as alone:
                how = self.dtype, self.device, self.repeats, self.warmup, torch.get_num_threads()
                args = self.algorithm, model, inside, *how
                rows.append(dict(name=name, **alone.apply(trained, args)))
        title = [r.pop('title') for r in rows][0]
        return dict(algorithm=self.algorithm, title=f'training, {model}, {title}', rows=rows)

    def _rows(self, contenders, **others):
        fused = next((c for c in contenders if c.fused), None)
        return [c.row(fused=fused, **others) for c in contenders]


def _renamed(row, name) -> dict:
    "A row with nothing but its median, under another name"
    return {'name': row['name'], name: row['median']} if 'median' in row else row


def _training(opt_func, arch, batch, params, lr):
    "Create a `Learner` in the middle of an epoch, whose `step` trains on one batch"
    import torchvision
    from fastai.callback.progress import ProgressCallback
    from fastai.learner import DataLoaders, Learner
    from fastai.losses import CrossEntropyLossFlat
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(num_classes=10)
    dls = DataLoaders([batch], [batch], device=batch[0].device)
    learn = Learner(dls, model, CrossEntropyLossFlat(), opt_func, lr)
    learn.create_opt()
    learn.n_iter = 1
    learn.remove_cb(ProgressCallback)
    for event in ('before_fit', 'before_epoch', 'before_train'): learn(event)
    shares = _timed_parts(learn)
    def step():
        shares.append(0.)
        learn.one_batch(0, batch)
    return SimpleNamespace(step=step, shares=shares)


def _timed_parts(learn) -> list[float]:
    "A list to whose last number a Learner adds the seconds that its optimizer's `step` and `zero_grad` take"
    shares, opt = [], learn.opt
    def measured(f):
        def call():
            seconds = timed(f)
            if shares: shares[-1] += seconds
        return call
    learn._step, opt.zero_grad = measured(learn._step), measured(opt.zero_grad)
    return shares


def trained(
    algorithm, # As for `Bench`
    model, # One of `MODELS`
    inside, # Use `step_in_backward`?
    dtype, # Dtype of the model
    device, # 'cpu' or 'cuda'
    repeats, # Number of measured steps
    warmup, # Number of warm-up steps
    threads # Number of CPU threads
) -> dict:
    "Train in this process; measure the median time of a step and the peak memory after the first steps."
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if device == 'cuda': torch.zeros(1, device=device)
    start = held(device, reset=True)
    model, x = (o.to(device, getattr(torch, dtype)) for o in MODELS[model]())
    opt, now, most = find(algorithm)(model.parameters(), lr=1e-4), {}, 0
    def count(p):
        nonlocal most
        now[p] = p.grad.nbytes
        most = max(most, sum(n for q, n in now.items() if q.grad is not None))
    for p in model.parameters(): p.register_post_accumulate_grad_hook(count)
    if inside: opt.keep = optimcb.step_in_backward(opt)
    def step():
        model(x).square().mean().backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
    for _ in range(max(2, warmup)): step() # the first creates state
    held(device, reset=True)
    times = [timed(step) for _ in range(repeats)]
    peak, ps = held(device), list(model.parameters())
    title = f'{len(ps)} tensors, {sum(p.numel() for p in ps)/1e6:.1f} M elements, {dtype}'
    peak = None if start is None else peak - start
    return dict(title=title, median=statistics.median(times), grads=most, peak=peak)
