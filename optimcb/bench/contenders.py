"Who takes part: the library and its peers."
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

__all__ = ['find']


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


def interleave(contenders, repeats, warmup, before=Contender.same_grads):
    "Fill the contenders' `times`. The order is drawn anew for each round, so that nobody comes always after the same one."
    rng = random.Random(0)
    for c in contenders: c.times = []
    for i in range(warmup + repeats):
        for c in rng.sample(contenders, len(contenders)):
            c.attempt(before, c)
            seconds = c.attempt(lambda c=c: timed(c.opt.step))
            if i >= warmup and seconds: c.times.append(seconds)
