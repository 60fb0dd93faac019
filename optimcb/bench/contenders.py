"The contenders: the library's algorithms, and equivalent optimizers of other libraries."
import difflib
import importlib
import inspect
import random
import statistics
from functools import partial

import torch

import optimcb
from optimcb.bench.sets import parameters
from optimcb.bench.timing import timed

__all__ = ['ALGORITHMS', 'MODULES', 'PEERS', 'SLOW', 'WAYS', 'Contender', 'find', 'interleave', 'peers']


ALGORITHMS = {k: o for k, o in vars(optimcb).items() if isinstance(o, optimcb.Algorithm)}
ALGORITHMS |= dict(Momentum=partial(optimcb.SGD, mom=0.9), ranger=optimcb.ranger)

# By library, the equivalent of each algorithm: a class, or a class and options
PEERS = {
    'torch': dict(SGD='SGD', Momentum=('SGD', dict(momentum=0.9)), RMSProp='RMSprop', Adam='AdamW',
                  AdamW='AdamW', AMSGrad=('Adam', dict(amsgrad=True)), NAdam='NAdam', Adamax='Adamax',
                  Adagrad='Adagrad', Adadelta='Adadelta', RAdam='RAdam', Muon='Muon', Adafactor='Adafactor'),
    'fastai': dict(SGD='SGD', Momentum=('SGD', dict(mom=0.9)), RMSProp='RMSProp', Adam='Adam', AdamW='Adam',
                   RAdam='RAdam', QHAdam='QHAdam', Larc='Larc', Lamb='Lamb', ranger='ranger'),
    'optimi': dict(SGD='SGD', Momentum=('SGD', dict(momentum=0.9)), Adam='AdamW', AdamW='AdamW',
                   RAdam='RAdam', ranger=('Ranger', dict(weight_decay=0.01))),
    'pytorch_optimizer': dict(Yogi='Yogi', RAdam='RAdam', QHAdam=('QHAdam', dict(nus=(0.7, 1.))), Larc='LARS',
                              Lamb='Lamb', Shampoo='Shampoo', SOAP='SOAP', SM3=('SM3', dict(momentum=0.9)),
                              ranger=('Ranger', dict(use_gc=False, weight_decay=0.01))),
    'heavyball': {k: ('AdamW', dict(weight_decay=0.01, consume_grad=False)) for k in ('Adam', 'AdamW')}}
MODULES = dict(torch='torch.optim', fastai='fastai.optimizer') # modules of classes, if not the library
WAYS = dict(fused=dict(fused=True), foreach=dict(foreach=True), loop=dict(foreach=False)) # of torch's
SLOW = 'heavyball', 'torch_compile' # only on request, as they compile for at least half a minute per set

class Contender:
    """An optimizer to measure.

    After an error, which is kept in `error`, it takes no further part."""
    def __init__(self,
        name, # Name in tables
        make=None, # Creates the optimizer, as `make(params, lr=…)`
        fused=False # Is it torch's fused step, the reference for ratios?
    ):
        self.name, self.make, self.fused = name, make, fused
        self.opt = self.error = self.made = self.first = self.extra = self.share = None
        self.params, self.grads, self.times = [], [], []

    def attempt(self, f, *args):
        "Call `f` unless there was an error before; keep its error, if any."
        if self.error: return None
        try: return f(*args)
        except Exception as e:
            self.error = ' '.join(f'{type(e).__name__}: {e}'.split())[:160]
            self.opt, self.params, self.grads = None, [], [] # free the memory for others

    def start(self, shapes=(), dtype=torch.float32, device='cpu', groups=1):
        "Make the optimizer, with parameters in groups of other learning rates, and take its first step."
        self.params = parameters(shapes, dtype, device)
        self.grads = [p.grad for p in self.params]
        dealt = [dict(params=self.params[i::groups], lr=1e-3*(i+1)/groups) for i in range(groups)]
        def make(): self.opt = self.make(dealt if groups > 1 else self.params, lr=1e-3)
        self.made = timed(make)
        self.first = timed(self.opt.step)
        self.same_grads()

    def same_grads(self):
        "Restore gradients that a step has dropped."
        for p, g in zip(self.params, self.grads): p.grad = g

    def new_grads(self):
        "Copy the gradients to new tensors."
        for p in self.params: p.grad = p.grad.clone()

    def some_grads(self, share=0.3):
        "Leave gradients to another `share` of the parameters in each step, the same ones for everyone."
        self.rng = getattr(self, 'rng', None) or random.Random(0)
        for p, g in zip(self.params, self.grads): p.grad = g if self.rng.random() < share else None

    def row(self, **others):
        "Return a table row: median and quartiles of the times in seconds, and ratios to other contenders."
        if self.error or not self.times: return dict(name=self.name, error=self.error)
        median = statistics.median(self.times)
        quartiles = statistics.quantiles(self.times, n=4)[::2] if len(self.times) > 1 else self.times*2
        measured = {k: o for k, o in others.items() if o and o.times}
        ratios = {f'over_{k}': median / statistics.median(o.times) for k, o in measured.items()}
        return dict(name=self.name, median=median, **ratios, min=min(self.times), quartiles=quartiles,
                    share=self.share and min(self.share), first=self.first, extra=self.extra)


def find(
    name:str # One of `ALGORITHMS`, or `module:name`
):
    "Find the algorithm of a name. Raises `LookupError`."
    module, _, attr = name.partition(':')
    if attr:
        try: return getattr(importlib.import_module(module), attr)
        except Exception as e:
            raise LookupError(f"can't import '{name}' ({type(e).__name__}: {e}).") from None
    if name in ALGORITHMS: return ALGORITHMS[name]
    lower = {k.lower(): k for k in ALGORITHMS}
    meant = ''.join(f' Did you mean {lower[o]}?' for o in difflib.get_close_matches(name.lower(), lower, n=1))
    raise LookupError(f"there is no algorithm '{name}'.{meant} There are {', '.join(ALGORITHMS)}, "
                      "and 'module:name' for one of your own.")


def _peer(module, cls, options, params, lr):
    return getattr(importlib.import_module(module), cls)(params, lr=lr, **options)


def _compiled(make, params, lr):
    opt = make(params, lr=lr)
    opt.step = torch.compile(opt.step)
    return opt


def peers(
    library, # One of `PEERS`, or 'torch_compile'
    algorithm # One of `ALGORITHMS`
) -> list[Contender]:
    "List a library's equivalents of an algorithm: none, one, or torch's fused, foreach and for-loop."
    compiled = library == 'torch_compile'
    if compiled: library = 'torch'
    found = PEERS[library].get(algorithm)
    if found is None: return []
    cls, options = (found, {}) if isinstance(found, str) else found
    def make(**more): return partial(_peer, MODULES.get(library, library), cls, {**options, **more})
    if compiled: return [Contender(f'torch {cls} compiled', partial(_compiled, make(foreach=True)))]
    if library != 'torch': return [Contender(f'{library} {cls}', make())]
    if not hasattr(torch.optim, cls): return [] # this torch is older than the class
    known = inspect.signature(getattr(torch.optim, cls)).parameters
    ways = {way: o for way, o in WAYS.items() if o.keys() <= known.keys()}
    if not ways: return [Contender(f'torch {cls}', make())]
    return [Contender(f'torch {cls} {way}', make(**o), way == 'fused') for way, o in ways.items()]


def interleave(
    contenders, # Contenders that have started
    repeats, # Number of measured rounds
    warmup, # Number of warm-up rounds
    before=Contender.same_grads # Called with a contender before each step, outside the measurement
):
    """Measure the contenders in turns, and store their `times`.

    Each round has a new random order, so that no step always follows the same other one."""
    rng = random.Random(0)
    for c in contenders: c.times = []
    for i in range(warmup + repeats):
        for c in rng.sample(contenders, len(contenders)):
            c.attempt(before, c)
            seconds = c.attempt(lambda c=c: timed(c.opt.step))
            if i >= warmup and seconds: c.times.append(seconds)
