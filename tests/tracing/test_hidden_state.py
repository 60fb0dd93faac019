"""A recording is made once for many parameters.

What draws, counts or keeps behind a method is called for each parameter; what does nothing of the kind
becomes a kernel."""
import abc
import collections
import functools
import itertools
import math
import operator
import queue
import random
import tempfile
import types
import warnings
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import params, set_grads
from on_engines import TRACED, stepped, ulps
from test_others import drawn_grads

from optimcb import Optimizer, scheduled
from optimcb.composition.stepper import Stepper
from optimcb.engines.runner import CantRun
from optimcb.tracing.purity import impurity
from optimcb.tracing.rng import RngSnapshot

# Each of these makes a stepper with hidden state, from the start on each time

def step(p, lr): p.data.sub_(p.grad, alpha=lr)


class Noise:
    def __init__(self, rng=None): self.rng = rng or random.Random(0)
    def __call__(self): return self.rng.random()
    def amount(self): return self.rng.gauss(0, 1)
    @property
    def now(self): return self.rng.random()
    def __getattr__(self, name):
        if name.startswith('_'): raise AttributeError(name)
        return self.rng.random()
    def __getitem__(self, i): return self.rng.random()
    def __add__(self, x): return x + self.rng.random()
    def __radd__(self, x): return x + self.rng.random()
    def __float__(self): return self.rng.random()
    def __bool__(self): return self.rng.random() > 0.5
    def __len__(self): return int(self.rng.random()*10)
    def __iter__(self): yield self.rng.random()
    def __enter__(self): return self.rng.random()
    def __exit__(self, *args): pass
    def __eq__(self, o): return self.rng.random() > 0.5
    __hash__ = object.__hash__

class Draw:
    def __init__(self): self.rng = random.Random(0)
    def __call__(self): return self.amount()
    def amount(self): return self.rng.gauss(0, 1)

class Counter:
    def __init__(self): self.n = 0
    def tick(self):
        self.n += 1
        return self.n

class Setter:
    n = 0
    @property
    def count(self): return self.n
    @count.setter
    def count(self, v): self.n = v

class Base:
    def __init__(self): self.rng = np.random.default_rng(0)
    def scale(self): return self.rng.standard_exponential()
class Derived(Base):
    def scale(self): return super().scale() + 1

class Slots:
    __slots__ = ('rng',)
    def __init__(self): self.rng = random.Random(0)
    def draw(self): return self.rng.betavariate(1, 2)

class Generating(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gen = torch.Generator().manual_seed(0)
    def forward(self): return torch.empty(()).exponential_(generator=self.gen).item()

class Stateful:
    def __init__(self): self.noise = Noise()
    def __call__(self, p, lr): p.data.add_(p.grad, alpha=lr*self.noise())

class Logged:
    def __init__(self): self.norms = []
    def record(self, x): self.norms += [x]
    def __call__(self, p, lr):
        self.record(lr)
        p.data.sub_(p.grad, alpha=lr*len(self.norms))

class StaticCount:
    counter = itertools.count(1)
    @staticmethod
    def up(): return next(StaticCount.counter)
    @classmethod
    def also_up(cls): return cls.up()

MAKES = {}
def make(f):
    MAKES[f.__name__] = f
    return f

def by(draw):
    "A stepper that goes as far as `draw` says, which knows how far it is"
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*draw())
    return noisy

@make
def callable_object(): return by(Noise())
@make
def method_of_an_object():
    noise = Noise()
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*noise.amount())
    return noisy
@make
def bound_method(): return by(Noise().amount)
@make
def bound_method_in_c(): return by(random.Random(0).random)
@make
def alias_of_an_object():
    noise = Noise()
    def noisy(p, lr):
        n = noise
        p.data.add_(p.grad, alpha=lr*n.amount())
    return noisy
@make
def object_in_a_list():
    tools = [0, {'noise': (Noise(),)}]
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*tools[1]['noise'][0].amount())
    return noisy
@make
def object_in_an_object():
    box = types.SimpleNamespace(inner=types.SimpleNamespace(noise=Noise()))
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*box.inner.noise())
    return noisy
for name, use in {'property': lambda n: n.now, 'missing attribute': lambda n: n.whatever, 'item': lambda n: n[0], 'sum': lambda n: n + 1, 'sum on the right': lambda n: 1 + n,
                  'number': float, 'truth': lambda n: 1. if n else 2., 'length': len, 'loop': lambda n: sum(n), 'equal': lambda n: 1. if n == 3 else 2.,
                  'getattr': lambda n: n.amount(), 'operator': lambda n: operator.methodcaller('amount')(n), 'in a comprehension': lambda n: sum(n() for _ in range(2)),
                  'by map': lambda n: sum(map(lambda _: n(), [1, 2])), 'unpacked': lambda n: [*n][0]}.items(): # noqa: B009, C417
    MAKES[f'noise as {name}'] = lambda use=use: by(partial(use, Noise()))
@make
def with_statement():
    noise = Noise()
    def noisy(p, lr):
        with noise as x: p.data.add_(p.grad, alpha=lr*x)
    return noisy
@make
def counter():
    c = Counter()
    def counting(p, lr): p.data.add_(p.grad, alpha=lr/c.tick())
    return counting
@make
def property_that_is_set():
    s = Setter()
    def counting(p, lr):
        s.count += 1
        p.data.add_(p.grad, alpha=lr/s.count)
    return counting
@make
def nonlocal_in_a_helper():
    n = 0
    def count():
        nonlocal n
        n += 1
        return n
    def counting(p, lr): p.data.add_(p.grad, alpha=lr/count())
    return counting
@make
def decorated():
    calls = []
    def every_other(f):
        @functools.wraps(f)
        def g(p, lr):
            calls.append(1)
            return f(p, lr*len(calls))
        return g
    return every_other(step)
@make
def derived(): return by(Derived().scale)
@make
def slots(): return by(Slots().draw)
@make
def torch_generator(): return by(lambda gen=torch.Generator().manual_seed(0): torch.empty(()).exponential_(generator=gen).item()) # noqa: B008
@make
def module_with_a_generator(): return by(Generating())
@make
def numpy_generator(): return by(partial(np.random.default_rng(0).standard_gamma, 2.))
@make
def numpy_state(): return by(partial(np.random.RandomState(0).standard_t, 5.))
@make
def stepper_object(): return Stateful()
@make
def stepper_method():
    s = Stateful()
    return s.__call__
@make
def list_that_grows(): return Logged()
@make
def list_in_a_helper():
    seen = []
    def note(xs, x):
        xs += [x]
        return len(xs)
    def counting(p, lr): p.data.add_(p.grad, alpha=lr/note(seen, 1))
    return counting
@make
def list_under_another_name():
    seen = []
    def counting(p, lr):
        s = seen
        s += [1]
        p.data.add_(p.grad, alpha=lr/len(seen))
    return counting
@make
def list_by_its_method():
    seen = []
    push = seen.append
    def counting(p, lr):
        push(1)
        p.data.add_(p.grad, alpha=lr/len(seen))
    return counting
@make
def list_by_its_class():
    seen = []
    def counting(p, lr):
        list.append(seen, 1)
        p.data.add_(p.grad, alpha=lr/len(seen))
    return counting
@make
def dict_that_changes():
    seen = {'n': 0}
    def counting(p, lr):
        seen['n'] += 1
        p.data.add_(p.grad, alpha=lr/seen['n'])
    return counting
@make
def dict_by_operator():
    seen = {'n': 0}
    def counting(p, lr):
        operator.setitem(seen, 'n', seen['n'] + 1)
        p.data.add_(p.grad, alpha=lr/seen['n'])
    return counting
@make
def default_dict():
    ids = collections.defaultdict(itertools.count(1).__next__)
    def numbered(p, lr): p.data.add_(p.grad, alpha=lr/ids[p.ndim])
    return numbered
@make
def array_that_changes():
    seen = np.zeros(1)
    def up(a): a += 1
    def counting(p, lr):
        up(seen)
        p.data.add_(p.grad, alpha=lr/float(seen[0]))
    return counting
@make
def tensor_that_changes():
    seen = torch.zeros(())
    def up(t): t.add_(1)
    def counting(p, lr):
        up(seen)
        p.data.add_(p.grad, alpha=lr/seen.item())
    return counting
@make
def tensor_by_its_data():
    seen = torch.zeros(())
    def up(t): t.data.add_(1)
    def counting(p, lr):
        up(seen)
        p.data.add_(p.grad, alpha=lr/seen.item())
    return counting
@make
def iterator():
    it = iter([0.5, 0.25, 0.125]*100)
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*next(it))
    return noisy
@make
def generator():
    def numbers():
        n = 0
        while True: yield (n := n + 1)
    g = numbers()
    def noisy(p, lr):
        for n in g: break # noqa: B007
        p.data.add_(p.grad, alpha=lr/n)
    return noisy
@make
def generator_sent(): return by(partial((float(i) for i in range(1000)).send, None))
@make
def cycle(): return by(itertools.cycle([1., 2.]).__next__)
@make
def static_count():
    StaticCount.counter = itertools.count(1)
    return by(StaticCount.also_up)
@make
def queue_of_numbers():
    q = queue.Queue()
    for i in range(1000): q.put(i)
    return by(q.get_nowait)
@make
def simple_queue():
    q = queue.SimpleQueue()
    for i in range(1000): q.put(i)
    return by(lambda: q.get())
@make
def file():
    f = tempfile.TemporaryFile('w+')
    f.write('1\n2\n'*500)
    f.seek(0)
    return by(lambda: float(f.readline()))
@make
def deque_rotated():
    d = collections.deque([1., 2., 3.])
    def noisy(p, lr):
        d.rotate(1)
        p.data.add_(p.grad, alpha=lr*d[0])
    return noisy
@make
def cached_count():
    c = Counter()
    @functools.cache
    def scale(n): return c.tick()
    def counting(p, lr): p.data.add_(p.grad, alpha=lr/scale(p.ndim))
    return counting
@make
def partial_of_an_object():
    def noisy(p, lr, noise): p.data.add_(p.grad, alpha=lr*noise.amount())
    return partial(noisy, noise=Noise())
@make
def default_is_an_object():
    def noisy(p, lr, *, _noise=Noise()): p.data.add_(p.grad, alpha=lr*_noise()) # noqa: B008
    return noisy
@make
def library_stepper_with_a_function(): return [*scheduled(lr=lambda step, noise=Noise(): 1 + noise()), step] # noqa: B008
@make
def sampled(): return by(lambda r=random.Random(0): r.sample([1., 2., 3.], 1)[0]) # noqa: B008
@make
def imported_inside():
    random.seed(0)
    def noisy(p, lr):
        import random as r
        p.data.add_(p.grad, alpha=lr*r.betavariate(1, 2))
    return noisy
@make
def name_from_a_module():
    random.seed(0)
    def noisy(p, lr):
        from random import triangular as f
        p.data.add_(p.grad, alpha=lr*f())
    return noisy
@make
def seeds_and_draws():
    def noisy(p, lr):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            p.data.add_(p.grad*torch.empty_like(p).exponential_(), alpha=lr)
    return noisy


def all_alike(): return params([(3,), (3,), (3,), (2, 2)])


@pytest.mark.parametrize('name', MAKES)
def test_hidden_state_is_called_for_each_parameter(name):
    ps = all_alike()
    grads = drawn_grads(ps, 3)
    _, want, _ = stepped('eager', ps, grads, MAKES[name](), 3, lr=0.1)
    opt, got, _ = stepped('auto', ps, grads, MAKES[name](), 3, lr=0.1)
    assert all(map(torch.equal, got, want)), (got, want)
    assert any(impurity(s) for s in Optimizer(ps, MAKES[name](), lr=0.1).composition.steppers)
    for engine in TRACED:
        with pytest.raises(CantRun, match='must be called for each parameter|can.t run this'):
            stepped(engine, ps, grads, MAKES[name](), lr=0.1)

HIDING = [Draw, lambda: Draw().amount, lambda: random.Random(0).random, lambda: {'noise': (Draw(),)},
          lambda: (Draw(),)]

@pytest.mark.parametrize('make', HIDING)
def test_hyper_parameters_that_hide_something(make):
    def noisy(p, lr, noise):
        if isinstance(noise, dict): noise = noise['noise']
        p.data.add_(p.grad, alpha=lr*(noise() if callable(noise) else noise[0]()))
    ps = all_alike()
    grads = drawn_grads(ps, 3)
    _, want, _ = stepped('eager', ps, grads, noisy, 3, lr=0.1, noise=make())
    _, got, _ = stepped('auto', ps, grads, noisy, 3, lr=0.1, noise=make())
    assert all(map(torch.equal, got, want))
    with pytest.raises(CantRun, match='`noisy` must be called for each parameter.*`noise`'):
        stepped('fused', ps, grads, noisy, lr=0.1, noise=make())
    def plain(p, lr): p.data.sub_(p.grad, alpha=lr)
    stepped('fused', ps, grads, plain, 3, lr=0.1, noise=make()) # nobody reads it

def test_attributes_of_parameters_that_hide_something():
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*p.noise())
    res = []
    for engine in ('eager', 'auto'):
        ps, noise = all_alike(), Noise()
        for p in ps: p.noise = noise
        opt = Optimizer(ps, noisy, lr=0.1, engine=engine)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for gs in drawn_grads(ps, 3):
                for p, g in zip(ps, gs): p.grad = g
                opt.step()
        res.append(ps)
    assert all(map(torch.equal, *res))


# What is as plain as it looks stays a kernel

@dataclass(frozen=True)
class Config:
    scale: float = 0.5
    betas: tuple = (0.9, 0.99)
    table: dict = field(default_factory=lambda: {1: 0.5, 2: 2.})
    @property
    def half(self): return self.scale/2

class Pair(NamedTuple):
    a: float
    b: float

class Kind(Enum):
    SLOW, FAST = 0.1, 1.

class Warm:
    "A schedule, with other methods that act"
    def __init__(self, steps): self.steps, self.seen = steps, []
    def __call__(self, step): return min(1., step/self.steps)
    def factor(self, step): return self(step)
    def record(self, x): self.seen.append(x)
    @cached_property
    def inverse(self): return 1/self.steps

class Scaled:
    def __init__(self, scale): self.scale, self.calls = scale, {}
    def factor(self, p): return self.scale if p.ndim > 1 else 1.
    def __call__(self, p, lr): p.data.sub_(p.grad, alpha=lr*self.factor(p))

CONFIG, WARM, PAIR, TABLE, LAYERS = Config(), Warm(10), Pair(0.5, 2.), {1: 0.5, 2: 2.}, [1., 0.5]
SCALE = torch.tensor(0.5)

FUNCTIONS = {'tanh': 'sqrt', 'neg': 'exp'}

def doubled(p):
    g = p.grad
    g = g*2
    g *= 0.5
    return g
def helper(p, x, *, how=math.sqrt): return p.grad*how(x)
@lru_cache
def cached(n): return math.exp(-n)
def debiased(mom, step): return 1 - mom**step

PURE = []
def pure(f):
    PURE.append(f)
    return f

@pure
def config(p, lr): p.data.sub_(p.grad, alpha=lr*CONFIG.scale*CONFIG.betas[0]*CONFIG.half)
@pure
def table(p, lr): p.data.sub_(p.grad, alpha=lr*TABLE.get(p.ndim, 1.)*CONFIG.table[1])
@pure
def named_tuple(p, lr): p.data.sub_(p.grad, alpha=lr*PAIR.a*PAIR.b)
@pure
def enumerated(p, lr, kind=Kind.SLOW): p.data.sub_(p.grad, alpha=lr*kind.value)
@pure
def schedule(p, lr, step=0):
    step += 1
    p.data.sub_(p.grad, alpha=lr*WARM(step)*WARM.factor(step)*WARM.inverse)
    return {'step': step}
@pure
def helpers(p, lr): p.data.sub_(helper(p, lr) + helper(p, lr, how=math.exp))
def moved(p, u, lr): p.data.add_(u, alpha=-lr)
@pure
def helper_that_writes(p, lr): moved(p, p.grad, lr*TABLE[2])
@pure
def memo(p, lr): p.data.sub_(p.grad, alpha=lr*cached(p.ndim))
@pure
def loops(p, lr):
    total = 0.
    for i, w in enumerate(LAYERS): total += w*i
    scales = [w*2 for w in LAYERS]
    p.data.sub_(p.grad, alpha=lr*(total + sum(scales) + next(s for s in scales if s)))
@pure
def number_of_torch(p, lr): p.data.sub_(p.grad*SCALE, alpha=lr)
@pure
def of_numpy(p, lr): p.data.sub_(p.grad, alpha=lr*float(np.sqrt(2.))*np.exp(-1.)*np.pi)
@pure
def with_kwargs(p, lr, grad_avg=None, **kwargs):
    state = {'grad_avg': torch.zeros_like(p) if grad_avg is None else grad_avg}
    state['grad_avg'].mul_(0.9).add_(p.grad)
    p.data.sub_(state['grad_avg'], alpha=lr)
    state.update(n=1)
    return state
@pure
def imports(p, lr):
    import math as m
    from functools import reduce
    p.data.sub_(p.grad, alpha=lr*m.sqrt(reduce(operator.add, [1., 2.])))
@pure
def matched(p, lr):
    match p.ndim:
        case 0: s = 1.
        case 1: s = 2.
        case _: s = 3.
    p.data.sub_(p.grad, alpha=lr*s)
@pure
def worked_out_names(p, lr):
    for k in FUNCTIONS: p.data.sub_(getattr(torch, k)(p.grad), alpha=lr*getattr(math, FUNCTIONS[k])(2.))
@pure
def in_place_in_a_helper(p, lr): moved(p, doubled(p)*TABLE[1], lr*LAYERS[0])
@pure
def own_numbers_in_place(p, lr):
    s = TABLE[2]
    s *= CONFIG.half
    n = len(LAYERS)
    n += WARM(3)
    g = p.grad*SCALE
    g.mul_(2).add_(p.data, alpha=0.1)
    p.data -= lr*s*n*g
@pure
def wrapped(p, lr): p.data.sub_(p.grad.clamp(-1, 1), alpha=lr)
def passing_on(f):
    @functools.wraps(f)
    def g(p, lr): return f(p, lr*0.5)
    return g
PURE += [passing_on(step), Scaled(0.3), Scaled(0.3).__call__, partial(config), partial(lambda p, lr, how: p.data.sub_(p.grad, alpha=how(lr)), how=math.tanh),
         partial(lambda p, lr, warm: p.data.sub_(p.grad, alpha=lr*warm(3)), warm=WARM)]

@pytest.mark.parametrize('cb', PURE, ids=lambda f: getattr(f, '__name__', type(f).__name__))
@pytest.mark.parametrize('engine', TRACED)
def test_what_is_plain_becomes_a_kernel(cb, engine):
    ps = params([(3, 4), (5,), ()])
    grads = drawn_grads(ps, 3)
    assert impurity(Stepper(cb)) is None
    _, want, _ = stepped('eager', ps, grads, cb, 3, lr=0.1)
    _, got, _ = stepped(engine, ps, grads, cb, 3, lr=0.1)
    assert all(ulps(a, b) <= 1 for a, b in zip(got, want))

@pytest.mark.parametrize('value', [lambda x: x*2, Warm(3), {'a': [1, (2., None)]}, Config(), partial(max, 0.)], ids=lambda o: type(o).__name__)
def test_hyper_parameters_that_are_plain(value):
    def uses(p, lr, how): p.data.sub_(p.grad, alpha=lr*(how(lr) if callable(how) else 1.))
    ps = params([(3, 4), (5,)])
    grads = drawn_grads(ps, 3)
    _, want, _ = stepped('eager', ps, grads, uses, 3, lr=0.1, how=value)
    _, got, _ = stepped('fused', ps, grads, uses, 3, lr=0.1, how=value)
    assert all(map(torch.equal, got, want))

def test_all_that_the_library_has_is_plain_or_says_so():
    import optimcb
    from optimcb import steppers
    assert [k for k in steppers.__all__ if impurity(Stepper(getattr(steppers, k)))] == []
    found = {k: o.cbs for k, o in vars(optimcb).items() if isinstance(getattr(o, 'cbs', None), list | tuple)}
    reasons = {k: [impurity(Stepper(cb)) for cb in cbs if cb] for k, cbs in found.items()}
    assert len(found) > 30 and not {k: whys for k, whys in reasons.items() if any(whys)}


# Global generators

def test_a_generator_on_a_device_is_watched(monkeypatch):
    state = [torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8)] # of two devices
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(torch.cuda, 'get_rng_state_all', lambda: [s.clone() for s in state])
    monkeypatch.setattr(torch.cuda, 'set_rng_state_all', lambda new: [s.copy_(n) for s, n in zip(state, new)])
    before = RngSnapshot()
    assert not before.restore_if_moved()
    state[1] += 1
    assert before.restore_if_moved() and state[1].sum() == 0 and not before.restore_if_moved()
    def draw():
        state[1] += 1
        return state[1].sum().item()
    monkeypatch.setattr(torch, 'drawn_on_a_device', draw, raising=False) # what torch has is not read
    draw.__module__ = 'torch'
    def noisy(p, lr): p.data.add_(p.grad, alpha=lr*torch.drawn_on_a_device())
    ps = all_alike()
    grads = drawn_grads(ps, 3)
    res = []
    for engine in ('eager', 'auto'):
        state[1].zero_()
        res.append(stepped(engine, ps, grads, noisy, 3, lr=0.1)[1])
        assert state[1].sum() == 3*3*len(ps)
    assert all(map(torch.equal, *res))

def test_a_graph_that_is_captured_is_not_asked_for_its_generator(monkeypatch):
    def refuse(): raise RuntimeError("capturing")
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state_all', refuse)
    assert not RngSnapshot().restore_if_moved()


def test_an_endless_iterator_is_one_hyper_parameter():
    "It is not one value for each group; and each parameter takes its own from it"
    def drawn(p, lr, noise): p.data.fill_(next(noise))
    ps = params([(2,), (3,)])
    opt = Optimizer(ps, drawn, lr=0.1, noise=itertools.count(1), check=False, engine='eager')
    set_grads(ps)
    opt.step()
    assert [p[0].item() for p in ps] == [1., 2.]


# Classes of classes, and modules with code for their attributes

class Counts(type):
    n = 0
    def count(cls):
        Counts.n += 1
        return Counts.n
    prop = property(count)
    def __getattr__(cls, name): return cls.count()
    def __getitem__(cls, i): return cls.count()
    def __call__(cls): return cls.count()
    def __len__(cls): return cls.count()
    def __iter__(cls): return iter([cls.count()])
    def __mul__(cls, x): return cls.count()*x


class Counted(metaclass=Counts): pass


def _noise():
    module = types.ModuleType('noise562')
    exec("n = 0\ndef __getattr__(name):\n    global n\n    n += 1\n    return n", vars(module))
    return module


noise562 = _noise()
BEHIND = dict(
    prop=lambda p, lr: p.data.sub_(p.grad, alpha=lr*Counted.prop), any_name=lambda p, lr: p.data.sub_(p.grad, alpha=lr*Counted.other),
    item=lambda p, lr: p.data.sub_(p.grad, alpha=lr*Counted[0]), call=lambda p, lr: p.data.sub_(p.grad, alpha=lr*Counted()),
    length=lambda p, lr: p.data.sub_(p.grad, alpha=lr*len(Counted)), loop=lambda p, lr: p.data.sub_(p.grad, alpha=lr*sum(Counted)),
    times=lambda p, lr: p.data.sub_(p.grad, alpha=Counted*lr), method=lambda p, lr: p.data.sub_(p.grad, alpha=lr*Counted.count()),
    module=lambda p, lr: p.data.sub_(p.grad, alpha=lr*noise562.level))


@pytest.mark.parametrize('name', BEHIND)
def test_state_of_a_metaclass_or_a_module(name):
    def run(engine):
        Counts.n = noise562.n = 0
        ps = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        for p in ps: p.grad = torch.ones(2)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            opt = Optimizer(ps, BEHIND[name], lr=0.1, engine=engine)
            Counts.n = noise562.n = 0
            opt.step()
        return [p.detach().tolist() for p in ps]
    assert run('auto') == run('eager') and len({tuple(p) for p in run('auto')}) == 3


class Plain(Enum):
    HALF = 0.5


class Abstract(abc.ABC): # noqa: B024
    scale = 2.


def test_metaclasses_of_python_are_read():
    def f(p, lr): p.data.sub_(p.grad, alpha=lr*Plain.HALF.value*Abstract.scale)
    ps = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    for p in ps: p.grad = torch.ones(2)
    Optimizer(ps, f, lr=0.1, engine='fused').step()
    assert torch.allclose(ps[1], torch.tensor(0.9))
