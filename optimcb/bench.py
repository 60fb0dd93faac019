"""How fast an optimizer's step is on this machine, next to torch's, fastai's and other libraries'.

    python -m optimcb.bench                              # AdamW, on four sets of parameters
    python -m optimcb.bench Lamb mymodule:MyAlgorithm --on resnet34 --json times.json
    python -m optimcb.bench Muon --on matrices --against torch # it is for matrices
    python -m optimcb.bench --python --train             # Python's share, and a whole training step
    python -m optimcb.bench --backward                   # memory and time of training, without and with `step_in_backward`

All take turns, on parameters and gradients of their own, in an order that is drawn anew for each round.

- median: of one step's time, from an idle device to one that has finished.
- × torch fused: the median over that of `torch.optim`'s fused step of the same algorithm, where there is one.
- × floor: the median over that of a read-modify-write of as many bytes as the algorithm must move (`floor_bytes`), in the same rounds.
- first step: the first `step()` of a new optimizer. What it compiles may come from a cache on the disk, unless `--cold` starts with
  an empty one. The first set of parameters shows it: those that follow may find in memory what that one has compiled.
- extra MiB: the most that torch's allocator holds during a later step, beyond what it held before.
- gradients MiB: the most that gradients take at one time. peak MiB: the most that training takes beyond what was there before the model: of the process's
  memory (Linux), or of torch's allocator on a GPU. Each is measured in a process of its own.
"""
import argparse
import difflib
import importlib
import inspect
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from math import prod
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

import optimcb

__all__ = ['Bench', 'SETS', 'environment', 'find', 'floor_bytes', 'main', 'table']

ALGORITHMS = {k: o for k, o in vars(optimcb).items() if isinstance(o, optimcb.Algorithm)}
ALGORITHMS |= dict(Momentum=partial(optimcb.SGD, mom=0.9), ranger=optimcb.ranger)

# Who does the same work in a step: a class, or a class and options
PEERS = {
    'torch': dict(SGD='SGD', Momentum=('SGD', dict(momentum=0.9)), RMSProp='RMSprop', Adam='AdamW', AdamW='AdamW', AMSGrad=('Adam', dict(amsgrad=True)),
                  NAdam='NAdam', Adamax='Adamax', Adagrad='Adagrad', Adadelta='Adadelta', RAdam='RAdam', Muon='Muon', Adafactor='Adafactor'),
    'fastai': dict(SGD='SGD', Momentum=('SGD', dict(mom=0.9)), RMSProp='RMSProp', Adam='Adam', AdamW='Adam', RAdam='RAdam', QHAdam='QHAdam', Larc='Larc',
                   Lamb='Lamb', ranger='ranger'),
    'optimi': dict(SGD='SGD', Momentum=('SGD', dict(momentum=0.9)), Adam='AdamW', AdamW='AdamW', RAdam='RAdam', ranger=('Ranger', dict(weight_decay=0.01))),
    'pytorch_optimizer': dict(Yogi='Yogi', RAdam='RAdam', QHAdam=('QHAdam', dict(nus=(0.7, 1.))), Larc='LARS', Lamb='Lamb', Shampoo='Shampoo', SOAP='SOAP',
                              SM3=('SM3', dict(momentum=0.9)),
                              ranger=('Ranger', dict(use_gc=False, weight_decay=0.01))),
    'heavyball': {k: ('AdamW', dict(weight_decay=0.01, consume_grad=False)) for k in ('Adam', 'AdamW')}}
MODULES = dict(torch='torch.optim', fastai='fastai.optimizer') # where they are, if not in a module of that name
WAYS = dict(fused=dict(fused=True), foreach=dict(foreach=True), loop=dict(foreach=False)) # of torch's
SLOW = 'heavyball', 'torch_compile' # these compile for half a minute and more, for each set: only if asked for


# The parameters

def resnet34() -> list[tuple]:
    "Shapes of ResNet-34's parameters, with 10 classes: 110 tensors, 21 M elements."
    shapes, before = [(64, 3, 7, 7), (64,), (64,)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            shapes += [(width, before, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if before != width: shapes += [(width, before, 1, 1), (width,), (width,)]
            before = width
    return [*shapes, (10, 512), (10,)]


def transformer() -> list[tuple]:
    "Shapes of a small GPT's parameters: 148 tensors, 25 M elements."
    w, norm = 384, [(384,), (384,)]
    def linear(n_in, n_out): return [(n_out, n_in), (n_out,)]
    block = [*norm, *linear(w, 3*w), *linear(w, w), *norm, *linear(w, 4*w), *linear(4*w, w)]
    return [(8192, w), (1024, w), *block*12, *norm]


def matrices() -> list[tuple]:
    "Shapes of the matrices in that GPT's blocks, without its embeddings: 48 tensors, 21 M elements."
    return [s for s in transformer()[2:] if len(s) == 2]


SETS = dict(resnet34=resnet34(), transformer=transformer(), small=[(64 + i*37 % 448,) for i in range(2000)], large=[(50_000_000,)], matrices=matrices())
USUAL = 'resnet34', 'transformer', 'small', 'large'


def parameters(shapes, dtype, device) -> list[Tensor]:
    "Parameters with gradients, the same ones each time."
    rng = torch.Generator(device).manual_seed(0)
    def randn(shape, scale): return torch.randn(shape, generator=rng, device=device).mul_(scale).to(dtype)
    params = [randn(s, 0.1).requires_grad_() for s in shapes]
    for p in params: p.grad = randn(p.shape, 0.01)
    return params


# Who takes part

class Contender:
    "What has steps to measure. What goes wrong is kept in `error`, and from then on it does nothing."
    def __init__(self, name, make=None, fused=False):
        self.name, self.make, self.fused = name, make, fused
        self.opt = self.error = self.first = self.extra = None
        self.params, self.grads, self.times = [], [], []

    def attempt(self, f, *args):
        if self.error: return None
        try: return f(*args)
        except Exception as e:
            self.error = ' '.join(f'{type(e).__name__}: {e}'.split())[:160]
            self.opt, self.params, self.grads = None, [], [] # others need the memory

    def start(self, shapes=(), dtype=torch.float32, device='cpu'):
        "Make the optimizer, and take its first step"
        self.params = parameters(shapes, dtype, device)
        self.grads = [p.grad for p in self.params]
        self.opt = self.make(self.params, lr=1e-3)
        self.first = timed(self.opt.step)
        self.same_grads()

    def same_grads(self):
        "Give back gradients that a step has dropped"
        for p, g in zip(self.params, self.grads): p.grad = g

    def new_grads(self):
        "The same numbers in other tensors"
        for p in self.params: p.grad = p.grad.clone()

    def row(self, **others):
        "What is known, with ratios to others"
        if self.error or not self.times: return dict(name=self.name, error=self.error)
        median = statistics.median(self.times)
        quartiles = statistics.quantiles(self.times, n=4)[::2] if len(self.times) > 1 else self.times*2
        ratios = {f'over_{k}': median / statistics.median(o.times) for k, o in others.items() if o and o.times}
        return dict(name=self.name, median=median, **ratios, min=min(self.times), quartiles=quartiles, first=self.first, extra=self.extra)


def find(
    name:str # One of `ALGORITHMS`, or `module:name`
):
    "What makes the optimizer of that name. Raises `LookupError`."
    module, _, attr = name.partition(':')
    if attr:
        try: return getattr(importlib.import_module(module), attr)
        except Exception as e: raise LookupError(f"can't import '{name}' ({type(e).__name__}: {e}).") from None
    if name in ALGORITHMS: return ALGORITHMS[name]
    lower = {k.lower(): k for k in ALGORITHMS}
    meant = ''.join(f' Did you mean {lower[o]}?' for o in difflib.get_close_matches(name.lower(), lower, n=1))
    raise LookupError(f"there is no algorithm '{name}'.{meant} There are {', '.join(ALGORITHMS)}, and 'module:name' for one of your own.")


def _peer(module, cls, options, params, lr): return getattr(importlib.import_module(module), cls)(params, lr=lr, **options)


def _compiled(make, params, lr):
    opt = make(params, lr=lr)
    opt.step = torch.compile(opt.step)
    return opt


def peers(library, algorithm) -> list[Contender]:
    "What `library` has for `algorithm`: nothing, one optimizer, or torch's fused, foreach and for-loop."
    compiled = library == 'torch_compile'
    if compiled: library = 'torch'
    found = PEERS[library].get(algorithm)
    if found is None: return []
    cls, options = (found, {}) if isinstance(found, str) else found
    def make(**more): return partial(_peer, MODULES.get(library, library), cls, {**options, **more})
    if compiled: return [Contender(f'torch {cls} compiled', partial(_compiled, make(foreach=True)))]
    if library != 'torch': return [Contender(f'{library} {cls}', make())]
    if not hasattr(torch.optim, cls): return [] # it came with a later torch
    known = inspect.signature(getattr(torch.optim, cls)).parameters
    if not any(o.keys() <= known.keys() for o in WAYS.values()): return [Contender(f'torch {cls}', make())]
    return [Contender(f'torch {cls} {way}', make(**o), way == 'fused') for way, o in WAYS.items() if o.keys() <= known.keys()]


# What is measured

def timed(step) -> float:
    "Seconds that `step` takes, from an idle device to one that has finished."
    sync = torch.cuda.synchronize if torch.cuda.is_available() else int
    sync()
    start = time.perf_counter()
    step()
    sync()
    return time.perf_counter() - start


def interleave(contenders, repeats, warmup, before=Contender.same_grads):
    "Fill the contenders' `times`. The order is drawn anew for each round, so that nobody comes always after the same one."
    rng = random.Random(0)
    for c in contenders: c.times = []
    for i in range(warmup + repeats):
        for c in rng.sample(contenders, len(contenders)):
            c.attempt(before, c)
            seconds = c.attempt(lambda c=c: timed(c.opt.step))
            if i >= warmup and seconds: c.times.append(seconds)


def extra_memory(step, device) -> int:
    "Bytes that `step` holds at its peak, beyond what was there before."
    os.environ.setdefault('KINETO_LOG_LEVEL', '99') # torch's profiler is chatty
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        step() # what it allocates in place of older states is known to the profiler when the next step frees it
        with torch.profiler.record_function('measured'): step()
    events = sorted(prof.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    start = next(i for i, e in enumerate(events) if e.name() == 'measured')
    return max(accumulate((e.nbytes() for e in events[start:] if e.name() == '[memory]'), initial=0))


def floor_bytes(
    opt, # Optimizer that has done a step
    params:list # Its parameters
) -> int:
    """Bytes that a step must move: parameters and states are read and written, gradients are read.

    Of optimizers that can be explained it is what their kernel moves: those that need a norm first read more. Of others, states are the tensors of
    a parameter's shape in `opt.state`."""
    moved = opt.explain().moved_bytes if isinstance(opt, optimcb.Optimizer) else None
    if moved is not None: return moved
    states = [[v for v in getattr(opt, 'state', {}).get(p, {}).values() if isinstance(v, Tensor) and v.shape == p.shape] for p in params]
    return sum(2*p.nbytes + p.grad.nbytes + 2*sum(v.nbytes for v in s) for p, s in zip(params, states))


@dataclass
class Bench:
    "An algorithm, its peers, and how they are measured. Results are dicts for `table` or JSON, in seconds and bytes."
    algorithm:str = 'AdamW' # One of `ALGORITHMS`, or `module:name` of a callable that takes parameters and `lr`
    against:list|None = None # Libraries, of `PEERS`, and 'torch_compile'; default: those that are installed and not slow to start
    engines:tuple = () # Engines to force, a contender each; default: the algorithm as it comes
    like:str = 'AdamW' # Whose peers a `module:name` is compared with
    dtype:str = 'float32' # Of parameters and gradients
    device:str = 'cpu' # 'cpu' or 'cuda'
    repeats:int = 20 # Rounds that are measured
    warmup:int = 3 # Rounds before them

    def contenders(self) -> list[Contender]:
        "The algorithm, on each engine, and its peers. Raises `LookupError`."
        make, own = find(self.algorithm), ':' in self.algorithm
        name = self.algorithm.partition(':')[2] if own else f'optimcb {self.algorithm}'
        against = [o for o in PEERS if o not in SLOW and find_spec(o)] if self.against is None else self.against
        ours = [Contender(f'{name} {e}', partial(make, engine=e)) for e in self.engines] or [Contender(name, make)]
        return ours + [c for o in against for c in peers(o, self.like if own else self.algorithm)]

    def step(self,
        shapes:list # Of the parameters
    ) -> dict:
        "One step on such parameters."
        runs = self.contenders()
        for c in runs: c.attempt(c.start, shapes, getattr(torch, self.dtype), self.device)
        size = next((floor_bytes(c.opt, c.params) for c in runs if not c.error), 0)
        floor = Contender('floor')
        floor.opt = SimpleNamespace(step=partial(torch.ones(max(1, size//8), device=self.device).add_, 1)) # 4 bytes read and 4 written
        interleave([*runs, floor], self.repeats, self.warmup)
        for c in runs:
            with suppress(Exception): c.extra = extra_memory(c.opt.step, self.device)
        n, elements = len(shapes), sum(map(prod, shapes))
        title = f'{n:,} tensor{"s"*(n > 1)}, {elements/1e6:.1f} M elements, {self.dtype}'
        return dict(algorithm=self.algorithm, title=title, tensors=n, elements=elements, dtype=self.dtype, floor_bytes=size,
                    rows=self._rows([*runs, floor], floor=floor))

    def python(self,
        counts:tuple=(110, 2000) # Numbers of tensors
    ) -> dict:
        "One step on tensors of one element, all of it overhead; 'same' gradients are the same tensors each time, 'new' ones are not."
        rows, (few, many) = {}, counts
        for n in counts:
            runs = self.contenders()
            for c in runs: c.attempt(c.start, [(1,)]*n, getattr(torch, self.dtype), self.device)
            for kind, before in dict(same=Contender.same_grads, new=Contender.new_grads).items():
                interleave(runs, self.repeats, self.warmup, before)
                for c in runs:
                    known = c.row()
                    rows.setdefault(c.name, {}).update({'name': c.name, f'{kind} {n}': known['median']} if 'median' in known else known)
        for r in rows.values():
            if not r.get('error'): r.update({f'{k} each': (r[f'{k} {many}'] - r[f'{k} {few}']) / (many-few) for k in ('same', 'new')})
        return dict(algorithm=self.algorithm, title='overhead of a step, in all and for each tensor more', rows=list(rows.values()))

    def train(self,
        arch:str='resnet18', # Of torchvision's models
        size:int=64, # Side of the pictures in pixels
        bs:int=16 # How many there are in a batch
    ) -> dict:
        "One step of fastai's `Learner`, from the batch to `zero_grad`. Optimizers that are not made for fastai are in its `OptimWrapper`."
        from fastai.optimizer import OptimWrapper
        batch = torch.randn(bs, 3, size, size, device=self.device), torch.randint(10, (bs,), device=self.device)
        runs = [c for c in self.contenders() if c.fused or not c.name.startswith('torch ')]
        for c in runs:
            foreign = c.name.split()[0] in PEERS.keys() - {'fastai'}
            c.make = partial(_training, partial(OptimWrapper, opt=c.make) if foreign else c.make, arch, batch)
            c.attempt(c.start)
        interleave(runs, self.repeats, self.warmup)
        return dict(algorithm=self.algorithm, title=f'training step, {arch}, {bs} pictures of {size} pixels', rows=self._rows(runs))

    def backward(self,
        model:str='mlp' # Of `MODELS`
    ) -> dict:
        "Training steps as usual, and with `step_in_backward`: their memory, and the median of their times from the batch to `zero_grad`."
        os.environ.setdefault('MALLOC_MMAP_THRESHOLD_', str(1 << 20)) # glibc would keep much of what is freed, and the peak would tell nothing
        rows = []
        for name, inside in {'step after backward': False, 'step in backward': True}.items():
            with multiprocessing.get_context('spawn').Pool(1) as alone: # what another one has taken must not be counted
                args = self.algorithm, model, inside, self.dtype, self.device, self.repeats, self.warmup, torch.get_num_threads()
                rows.append(dict(name=name, **alone.apply(trained, args)))
        title = [r.pop('title') for r in rows][0]
        return dict(algorithm=self.algorithm, title=f'training, {model}, {title}', rows=rows)

    def _rows(self, contenders, **others):
        fused = next((c for c in contenders if c.fused), None)
        return [c.row(fused=fused, **others) for c in contenders]


def _training(opt_func, arch, batch, params, lr):
    "A `Learner` in the middle of an epoch, behind a `step`"
    import torchvision
    from fastai.callback.progress import ProgressCallback
    from fastai.learner import DataLoaders, Learner
    from fastai.losses import CrossEntropyLossFlat
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(num_classes=10)
    learn = Learner(DataLoaders([batch], [batch], device=batch[0].device), model, CrossEntropyLossFlat(), opt_func, lr)
    learn.create_opt()
    learn.n_iter = 1
    learn.remove_cb(ProgressCallback)
    for event in ('before_fit', 'before_epoch', 'before_train'): learn(event)
    return SimpleNamespace(step=partial(learn.one_batch, 0, batch))


# Training with and without gradients that stay

def mlp() -> tuple:
    "32 layers of 1024 on 16 inputs: little but parameters."
    return torch.nn.Sequential(*(o for _ in range(32) for o in (torch.nn.Linear(1024, 1024), torch.nn.ReLU()))), torch.randn(16, 1024)


def resnet() -> tuple:
    "torchvision's ResNet-34 on 4 pictures of 64 pixels."
    import torchvision
    return torchvision.models.resnet34(num_classes=10), torch.randn(4, 3, 64, 64)


MODELS = dict(mlp=mlp, resnet34=resnet)


def held(device, reset=False) -> int|None:
    "Bytes that are held, or with the peak forgotten from now on. On the CPU those of the process, on Linux; else None."
    if device == 'cuda':
        torch.cuda.synchronize()
        if reset: torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    try:
        if reset: Path('/proc/self/clear_refs').write_text('5')
        lines = dict(o.split(':', 1) for o in Path('/proc/self/status').read_text().splitlines())
    except OSError: return None
    return int(lines['VmRSS' if reset else 'VmHWM'].split()[0])*1024


def trained(algorithm, model, inside, dtype, device, repeats, warmup, threads) -> dict:
    "Train in this process: the median time of a step, and the most memory, after the first steps."
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
    for _ in range(max(2, warmup)): step() # state is made in the first one
    held(device, reset=True)
    times = [timed(step) for _ in range(repeats)]
    peak, ps = held(device), list(model.parameters())
    return dict(title=f'{len(ps)} tensors, {sum(p.numel() for p in ps)/1e6:.1f} M elements, {dtype}', median=statistics.median(times), grads=most,
                peak=None if start is None else peak - start)


# What is shown

COLUMNS = dict(median=('median ms', 1e3, '.3f'), over_fused=('× torch fused', 1, '.2f'), over_floor=('× floor', 1, '.2f'),
               first=('first step s', 1, '.3f'), extra=('extra MiB', 2**-20, '.1f'), grads=('gradients MiB', 2**-20, '.1f'),
               peak=('peak MiB', 2**-20, '.1f')) # header, factor, format


def table(
    result:dict, # From `Bench`
    markdown:bool=False # As Markdown, instead of aligned?
) -> str:
    "A line for each contender. One that failed has its error."
    rows = [r for r in result['rows'] if not r.get('error')]
    failed = [(r['name'], r['error']) for r in result['rows'] if r.get('error')]
    known = {k: None for r in rows for k, v in r.items() if v is not None}
    columns = {k: o for k, o in COLUMNS.items() if k in known} | {k: (f'{k} µs', 1e6, '.1f') for k in known if k.startswith(('same ', 'new '))}
    def cell(value, factor, form): return '–' if value is None else format(value*factor, form)
    lines = [('', *(o[0] for o in columns.values())), *((r['name'], *(cell(r.get(k), *o[1:]) for k, o in columns.items())) for r in rows)]
    if markdown: return '\n'.join(f"| {' | '.join(o)} |" for o in [lines[0], ['---'] + ['--:']*len(columns), *lines[1:], *failed])
    widths = [max(map(len, o)) for o in zip(*lines)]
    widths[0] = max(widths[0], *(len(name) for name, _ in failed), 0)
    aligned = [[o[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(o[1:], widths[1:]))] for o in lines]
    return '\n'.join('  '.join(o) for o in [*aligned, *((name.ljust(widths[0]), error) for name, error in failed)])


def environment(
    device:str='cpu' # 'cpu' or 'cuda'
) -> dict:
    "What times depend on."
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((o.partition(': ')[2] for o in lines if o.startswith('model name')), platform.machine())
    return dict(optimcb=optimcb.__version__, torch=torch.__version__, python=platform.python_version(), cpu=cpu, threads=torch.get_num_threads(),
                **(dict(gpu=torch.cuda.get_device_name()) if device == 'cuda' else {}))


# The command

def _arguments(argv):
    p = argparse.ArgumentParser('python -m optimcb.bench', description=__doc__.split('\n')[0])
    p.add_argument('algorithms', nargs='*', metavar='ALGORITHM', help=f"of {', '.join(ALGORITHMS)}; or 'module:name' for one of your own (default: AdamW)")
    p.add_argument('--on', nargs='+', choices=SETS, default=list(USUAL), metavar='SET',
                   help=f"parameters, of {', '.join(SETS)} (default: {', '.join(USUAL)})")
    p.add_argument('--against', nargs='+', choices=[*PEERS, 'torch_compile'], metavar='LIBRARY',
                   help=f"of {', '.join(PEERS)} and torch_compile (default: what is installed, but not {' or '.join(SLOW)})")
    p.add_argument('--like', choices=ALGORITHMS, default='AdamW', metavar='ALGORITHM', help='whose peers your own is compared with (default: AdamW)')
    p.add_argument('--engines', nargs='+', default=[], metavar='ENGINE', help="engines to force, such as eager foreach (default: the algorithm's own choice)")
    p.add_argument('--dtype', choices=('float32', 'float64', 'bfloat16', 'float16'), default='float32', help='of parameters and gradients (default: float32)')
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    p.add_argument('--threads', type=int, help="of the CPU (default: torch's choice)")
    p.add_argument('--repeats', type=int, default=20, help='rounds that are measured (default: 20)')
    p.add_argument('--warmup', type=int, default=3, help='rounds before them (default: 3)')
    p.add_argument('--python', action='store_true', help="measure Python's share, on tensors of one element, instead of the sets")
    p.add_argument('--train', action='store_true', help='measure a training step of fastai, instead of the sets')
    p.add_argument('--backward', nargs='*', choices=MODELS, metavar='MODEL',
                   help=f"measure the memory of training {' or '.join(MODELS)} (default: mlp), without and with `step_in_backward`, instead of the sets")
    p.add_argument('--cold', action='store_true', help='start with an empty cache of compiled kernels')
    p.add_argument('--markdown', action='store_true', help='print tables in Markdown')
    p.add_argument('--json', metavar='FILE', help='write all numbers there, or with - to the standard output in place of the tables')
    a = p.parse_args(argv)
    if a.device == 'cuda' and not torch.cuda.is_available(): p.error('torch finds no CUDA device.')
    if a.repeats < 1 or a.warmup < 0 or a.threads is not None and a.threads < 1: p.error('--repeats and --threads must be 1 or more, --warmup 0 or more.')
    if a.json and not Path(a.json).parent.is_dir(): p.error(f"there is no folder '{Path(a.json).parent}' for the numbers.")
    if a.train and not find_spec('fastai'): p.error("--train needs fastai: pip install 'optimcb[fastai]'.")
    a.algorithms = a.algorithms or ['AdamW']
    try:
        for name in a.algorithms: find(name)
    except LookupError as e: p.error(str(e))
    return a


def _results(a):
    for name in a.algorithms:
        b = Bench(name, a.against, a.engines, a.like, a.dtype, a.device, a.repeats, a.warmup)
        if a.python: yield b.python()
        if a.train: yield b.train()
        for o in a.backward if a.backward else ['mlp'] if a.backward == [] else []: yield b.backward(o)
        for o in [] if a.python or a.train or a.backward is not None else a.on: yield {'set': o, **b.step(SETS[o])}


def main(
    argv:list|None=None # Default: the command line
) -> None:
    "Measure, and show each result as soon as it is there."
    a = _arguments(argv)
    if a.threads: torch.set_num_threads(a.threads)
    where, results = environment(a.device), []
    def show(text): print(text + '\n', flush=True) if a.json != '-' else None
    show(', '.join(f'{k} {v}' for k, v in where.items()))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if a.cold: os.environ['OPTIMCB_CACHE_DIR'] = folder
        for r in _results(a):
            results.append(r)
            show(' on '.join(o for o in (r['algorithm'], r.get('set')) if o) + f": {r['title']}\n\n{table(r, a.markdown)}")
    numbers = json.dumps(dict(environment=where, results=results), indent=1)
    if a.json == '-': print(numbers)
    elif a.json: Path(a.json).write_text(numbers)


if __name__ == '__main__': main()
