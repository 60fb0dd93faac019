"Steps beside those of other libraries: time, share of copy bandwidth, memory, launches."
import random
import statistics
import warnings
from functools import partial

import torch

from optimcb.bench import find, floor_bytes
from optimcb.bench.contenders import ALGORITHMS
from optimcb.bench.sets import parameters
from proof.device import shapes_of

__all__ = ['bench', 'launches', 'ours', 'sweep', 'theirs', 'zoo']

# Rounds of each set; from 110 tensors to 200 M elements
SETS = dict(resnet34=30, transformer=30, small=15, large=20, gpt2=15, huge=10)
PAIRS = [*(('AdamW', s) for s in SETS), *(('SGD', s) for s in ('resnet34', 'small', 'large', 'gpt2')),
         *(('Lamb', s) for s in ('resnet34', 'large', 'gpt2')), ('Lion', 'resnet34'), ('Lion', 'gpt2'),
         ('Momentum', 'resnet34'), ('RMSProp', 'resnet34'), ('Muon', 'matrices'), ('AdamW', 'gpt2 bfloat16'),
         ('SGD', 'gpt2 bfloat16')]
TOO_LARGE = 'huge', 'gpt2' # for torch's foreach step, which makes copies
DECOMPOSE = 'Shampoo', 'SOAP' # take seconds


def ours(
    name:str, # An algorithm
    **options # Of the algorithm
):
    "Return a function that makes one of our optimizers, from parameters."
    return lambda ps: find(name)(ps, lr=1e-3, engine='fused', **options)


def theirs(
    name:str # An algorithm
) -> dict:
    "Return functions that make other libraries' optimizers, by name; the first is the one to compare with."
    to = torch.optim
    def fused_or_foreach(cls, **options):
        return {f'torch {way}': partial(cls, lr=1e-3, **{way: True}, **options)
                for way in ('fused', 'foreach')}
    found = dict(AdamW=fused_or_foreach(to.AdamW), SGD=fused_or_foreach(to.SGD),
                 Momentum=fused_or_foreach(to.SGD, momentum=0.9),
                 RMSProp={'torch foreach': partial(to.RMSprop, lr=1e-3, foreach=True)})
    if hasattr(to, 'Muon'): found['Muon'] = {'torch': partial(to.Muon, lr=1e-3)}
    return found.get(name, {})


class Timed:
    "An optimizer with the times of its steps."
    def __init__(self, make, shapes, dtype, device):
        self.device, self.params = device, parameters(shapes, dtype, device.type)
        self.grads = [p.grad for p in self.params]
        self.opt, self.done, self.host = make(self.params), [], []
        for _ in range(4): self.opt.step()

    def restore(self):
        "Restore gradients that a step has dropped."
        for p, g in zip(self.params, self.grads): p.grad = g

    def measure(self):
        "Measure one step."
        done, host = self.device.times(self.opt.step, 1, self.restore)
        self.done.append(done)
        self.host.append(host)

    def result(self) -> dict:
        "Return medians, and the device's own time and memory."
        self.restore()
        res = dict(done=statistics.median(self.done), least=min(self.done), host=statistics.median(self.host))
        res['busy'] = self.device.busy(self.opt.step, res['host'])
        if not self.device.dry:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.opt.step()
            res['extra'] = torch.cuda.max_memory_allocated() - before
        return res


def _measured(makers, shapes, dtype, device, repeats) -> dict:
    "Measure optimizers in turns, in a new random order for each round; the first is ours"
    runs = {k: Timed(make, shapes, dtype, device) for k, make in makers.items()}
    rng = random.Random(0)
    for _ in range(repeats):
        for o in rng.sample([*runs.values()], len(runs)): o.measure()
    res = {k: o.result() for k, o in runs.items()}
    first = next(iter(runs))
    size = floor_bytes(runs[first].opt, runs[first].params)
    return res | dict(bytes=size, floor=device.copy_of(size))


def bench(
    results, # Takes a result for each pair of algorithm and set
    device, # `Device`
    options # Options of the command
):
    "Measure steps beside torch's. Ours is measured twice: how far is a measurement from itself?"
    warnings.simplefilter('ignore')
    def one(name, title):
        which, _, low = title.partition(' ')
        others = {k: o for k, o in theirs(name).items() if which not in TOO_LARGE or k != 'torch foreach'}
        makers = {'optimcb': ours(name), **others, 'optimcb again': ours(name)}
        dtype, repeats = torch.bfloat16 if low else torch.float32, 3 if device.dry else SETS.get(which, 10)
        res = _measured(makers, shapes_of(which, device.dry), dtype, device, repeats)
        if not device.dry: torch.cuda.empty_cache()
        return res
    for name, title in PAIRS[::6] if device.dry else PAIRS:
        results.attempt(f'{name} {title}', one, name, title)


def zoo(
    results, # Takes a result for each algorithm
    device, # `Device`
    options # Options of the command
):
    "Measure every algorithm on ResNet-34's parameters, and the time to move as many bytes."
    warnings.simplefilter('ignore')
    shapes, repeats = shapes_of('resnet34', device.dry), 2 if device.dry else 5
    def one(name): return _measured({'optimcb': ours(name)}, shapes, torch.float32, device, repeats)
    names = [*(o for o in ALGORITHMS if o not in DECOMPOSE), *DECOMPOSE]
    for name in names[:2] if device.dry else names: results.attempt(name, one, name)


def launches(
    results, # Takes a result for each optimizer
    device, # `Device`
    options # Options of the command
):
    "Count the kernels and copies of a step, by torch's profiler."
    warnings.simplefilter('ignore')
    def one(make, which):
        opt = make(parameters(shapes_of(which, device.dry), torch.float32, device.type))
        for _ in range(3): opt.step()
        device.sync()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CPU if device.dry else activity.CUDA]) as prof:
            opt.step()
            device.sync()
        on_gpu = [e for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [e for e in on_gpu if not e.name.startswith(('Memcpy', 'Memset'))]
        names = [e.name[:40] for e in kernels[:8]]
        return dict(kernels=len(kernels), copies=len(on_gpu) - len(kernels), names=names)
    for name in ('SGD', 'AdamW', 'Lion', 'Lamb', 'Prodigy', 'Adafactor'):
        results.attempt(f'optimcb {name}', one, ours(name), 'resnet34')
    results.attempt('optimcb Muon', one, ours('Muon'), 'matrices')
    results.attempt('optimcb AdamW, 2,000 small', one, ours('AdamW'), 'small')
    for name, which in (('AdamW', 'resnet34'), ('Muon', 'matrices')):
        for k, make in theirs(name).items(): results.attempt(f'{k} {name}', one, make, which)


def sweep(
    results, # Takes a result for each size
    device, # `Device`
    options # Options of the command
):
    "Measure other sizes of chunks and numbers of warps."
    warnings.simplefilter('ignore')
    if device.dry: return
    from optimcb.engines import triton_kernels, triton_source
    def one(name, dtype, size, warps):
        known = triton_source.CHUNKS, triton_kernels.OPTIONS
        triton_source.CHUNKS, triton_kernels.OPTIONS = (size, size), {**known[1], 'num_warps': warps}
        try: return _measured({'optimcb': ours(name)}, shapes_of('gpt2', False), dtype, device, 3)
        finally: triton_source.CHUNKS, triton_kernels.OPTIONS = known
    for size, warps in ((512, 4), (1024, 4), (1024, 8), (2048, 4), (2048, 8), (4096, 8)):
        for name in ('SGD', 'AdamW', 'Lamb'):
            for dtype in (torch.float32, torch.bfloat16):
                results.attempt(f'{name} {str(dtype)[6:]} {size}/{warps}', one, name, dtype, size, warps)
