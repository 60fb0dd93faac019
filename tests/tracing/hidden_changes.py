"More of `hidden`: something outside is changed, by whatever name, or moves on by itself."
import array
import collections
import contextvars
import decimal
import functools
import inspect
import io
import itertools
import operator
import os
import random
import statistics
import threading
import time
import types

import numpy as np
import torch
from hidden import PROBES, by, probe, tick


def lines(*sources, make):
    "Note bodies of functions of something outside, `o`, which is made anew. The last line gives a factor"
    for source in sources:
        *body, last = source.split('; ')
        def stepper(body=body, last=last):
            known = {'torch': torch, 'np': np, 'operator': operator, 'o': make()}
            exec('\n    '.join(['def draw():', *body, f'return {last}']), known)
            return by(known['draw'])
        PROBES[f'{source} # {type(make()).__name__}'] = stepper


def module():
    made = types.ModuleType('changed562')
    made.n = 0
    return made


# Containers and objects

lines('o[0] += 1; o[0]', 'x = o; x += [1]; len(o)', 'x = o if o else []; x += [1]; len(o)', 'x = o or []; x += [1]; len(o)', 'o.append(1); len(o)', 'x = o.append; x(1); len(o)',
      'list.append(o, 1); len(o)', 'getattr(o, "app" + "end")(1); len(o)', 'o[:] = [o[0] + 1]; o[0]', 'o[len(o):] = [1]; len(o)', 'operator.iadd(o, [1]); len(o)',
      'x = (lambda: o)(); x += [1]; len(o)', make=lambda: [1])
lines('del o[-1]; o[-1]', make=lambda: list(range(100, 0, -1)))
lines('o["a"][0] += 1; o["a"][0]', 'x = o["a"]; x += [1]; len(o["a"])', 'x, y = o["a"], 2; x += [1]; len(o["a"])', 'o["n"] = o.get("n", 0) + 1; o["n"]', make=lambda: {'a': [1]})
lines('x, y = o; x += [1]; len(o[0])', make=lambda: [[1], 2])
lines('o.add(len(o)); len(o)', 'x = o; x |= {len(o)}; len(o)', make=set)
lines('o["n"] += 1; o["n"]', 'o.update("n"); o["n"]', make=collections.Counter)
lines('o[len(o)]; len(o)', make=lambda: collections.defaultdict(int))
lines('o.append(o.popleft()); o[0]', make=lambda: collections.deque([1., 2., 3.]))
lines('o[0] += 1; o[0]', make=lambda: bytearray(1))
lines('o[0] += 1; o[0]', make=lambda: array.array('d', [0.]))
lines('o[0] += 1; o[0]', make=lambda: memoryview(bytearray(1)))
lines('o.xs += [1]; len(o.xs)', 'x = o.xs; x += [1]; len(o.xs)', 'o.n += 1; o.n', 'q = o; q.data = q.data + 1; q.data', 'q = o; q.grad = getattr(q, "grad", 0) + 1; q.grad',
      'object.__setattr__(o, "n", o.n + 1); o.n', 'o.__setattr__("n", o.n + 1); o.n', make=lambda: types.SimpleNamespace(xs=[1], n=0, data=0))
lines('o.n += 1; o.n', make=module)
lines('o.__dict__["n"] = o.__dict__.get("n", 0) + 1; o.n', make=lambda: lambda: 0)


class Adds:
    def __init__(self): self.n = 0
    def __iadd__(self, x):
        self.n += x
        return self
class Again:
    def __init__(self): self.n = getattr(self, 'n', 0) + 1
class Hands:
    def __init__(self): self.xs = [1]
    def get(self): return self.xs
class OwnClass:
    def __init__(self): type(self).n = 0
    @classmethod
    def up(cls):
        cls.n += 1
        return cls.n
    def other(self):
        Other.n += 1
        return Other.n
class Other:
    n = 0
class Shares:
    def __init__(self): type(self).seen = []
    def up(self):
        self.seen.append(1)
        return len(self.seen)

lines('q = o; q += 1; q.n', make=Adds)
lines('o.__init__(); o.n', make=Again)
lines('x = o.get(); x += [1]; len(o.xs)', make=Hands)
lines('o.up()', make=OwnClass)
lines('o.up()', make=Shares)
lines('o.n += 1; o.n', make=lambda: type('Fresh', (), {'n': 0}))

@probe
def another_class():
    Other.n = 0
    return by(OwnClass().other)
@probe
def in_a_loop():
    nested = {'a': [1]}
    def draw():
        for x in nested.values(): x += [1] # noqa: PLW2901
        return len(nested['a'])
    return by(draw)
@probe
def target_of_a_loop():
    xs = [0]
    def draw():
        for xs[0] in range(xs[0] + 2): pass # noqa: B020
        return xs[0]
    return by(draw)
@probe
def dict_view():
    d = {'a': 0}
    items = d.items()
    def draw():
        d['a'] += 1
        return list(items)[0][1]
    return by(draw)
@probe
def default_argument():
    def draw(x=[0]): # noqa: B006
        x[0] += 1
        return x[0]
    return by(draw)
@probe
def attribute_of_a_function():
    def draw():
        draw.n = getattr(draw, 'n', 0) + 1
        return draw.n
    return by(draw)
@probe
def attribute_of_a_method():
    class Counting:
        def __init__(self, f): self.f, self.n = f, 0
        def __call__(self):
            self.n += 1
            return self.n
    @Counting
    def draw(): return 0
    return by(lambda: draw())
@probe
def closure():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    return by(up)
@probe
def cell():
    n = 0
    def get(): return n
    def draw():
        get.__closure__[0].cell_contents += 1
        return get()
    return by(draw)
@probe
def keyword_defaults():
    def get(*, n=0): return n
    def draw():
        get.__kwdefaults__['n'] += 1
        return get()
    return by(draw)

LEVEL = 0
def get_level(): return LEVEL

@probe
def globals_of_a_function():
    global LEVEL
    LEVEL = 0
    def draw():
        get_level.__globals__['LEVEL'] += 1
        return LEVEL
    return by(draw)
@probe
def globals_of_a_frame():
    global LEVEL
    LEVEL = 0
    def draw():
        inspect.currentframe().f_globals['LEVEL'] += 1
        return LEVEL
    return by(draw)


# Tensors and arrays

lines('torch.add(o, 1, out=o); o[0].item()', 'o.numpy()[...] += 1; o[0].item()', 'torch._foreach_add_([o], 1); o[0].item()', 'o.data = o + 1; o[0].item()', 'q = o; q.data = o + 1; o[0].item()',
      'torch.nn.init.constant_(o, o[0].item() + 1); o[0].item()', 'o.view(-1).add_(1); o[0].item()', 'o[0].add_(1); o[0].item()', 'o[0] = o[0] + 1; o[0].item()', 'o[0] += 1; o[0].item()',
      'x = o[0]; x += 1; o[0].item()', 'getattr(o, "ad" + "d_")(1); o[0].item()', 'torch.Tensor.add_(o, 1); o[0].item()', 'x = o.detach(); x.mul_(2).add_(1); o[0].item()', make=lambda: torch.zeros(2))
lines('o[0].add_(1); o[0].item()', 'x = o[0]; x += 1; o[0].item()', make=lambda: [torch.zeros(())])
lines('np.add(o, 1, out=o); float(o[0])', 'np.add(o, 1, o); float(o[0])', 'np.add.at(o, [0], 1); float(o[0])', 'v = o[:]; v += 1; float(o[0])', 'np.ravel(o)[...] += 1; float(o[0])',
      'torch.from_numpy(o).add_(1); float(o[0])', 'np.clip(o + 1, 0, 100, o); float(o[0])', 'o.flat[0] += 1; float(o[0])', 'o[:] = o[::-1] + 1; float(o[0])', 'o.fill(o[0] + 1); float(o[0])', make=lambda: np.zeros(1))

@probe
def tensor_in_a_function():
    t = torch.zeros(())
    def draw():
        x = t
        def up(): x.add_(1)
        up()
        return t.item()
    return by(draw)
@probe
def backward():
    w = torch.ones((), requires_grad=True)
    def draw():
        with torch.enable_grad(): (w*1).backward()
        return w.grad.item()
    return by(draw)
@probe
def batch_norm():
    layer = torch.nn.BatchNorm1d(1)
    def draw():
        layer(torch.ones(2, 1))
        return layer.num_batches_tracked.item()
    return by(draw)


# What moves on by itself

def kept(name, make, draw):
    "Note a stepper that keeps something, of which each look is another"
    def stepper():
        o = make()
        return by(lambda: draw(o))
    PROBES[f'kept {name}'] = stepper

def numbers():
    n = 0
    while True: yield (n := n + 1)

@functools.lru_cache
def cached(n): return n
@functools.lru_cache
def cached_tick(n): return tick()
@functools.lru_cache(maxsize=1)
def cached_one(n): return tick()
class CachedMethod:
    @functools.lru_cache # noqa: B019
    def m(self, k): return tick()

def emptied(f):
    f.cache_clear()
    return f

def hits(f):
    f(1)
    return f.cache_info().hits + 1

def two(f):
    f(1)
    return f(2)

kept('generator', numbers, lambda o: next(o))
kept('generator sent', numbers, lambda o: o.send(None))
kept('zip', lambda: zip(range(1, 100), range(1, 100)), lambda o: next(o)[0])
kept('map', lambda: map(float, range(1, 100)), lambda o: next(o))
kept('yield from', lambda: iter(range(1, 100)), lambda o: list(_some(o))[0])
kept('count', lambda: itertools.count(1), lambda o: next(o))
kept('file in memory', lambda: io.StringIO('1\n2\n'*50), lambda o: float(o.readline()))
kept('random', lambda: random.Random(0), lambda o: o.random())
kept('samples', lambda: random.seed(0) or statistics.NormalDist(), lambda o: o.samples(1)[0])
kept('random state', lambda: np.random.RandomState(0), lambda o: o.rand())
kept('legacy NumPy', lambda: np.random.seed(0), lambda o: np.random.standard_normal())
kept('shuffled', lambda: np.random.seed(0) or np.arange(5.), lambda o: np.random.shuffle(o) or float(o[0]) + 1)
kept('torch generator', lambda: torch.Generator().manual_seed(0), lambda o: torch.rand((), generator=o).item())
kept('cache', lambda: emptied(cached), hits)
kept('cache of an object', lambda: emptied(cached_tick), lambda o: o(object()))
kept('cache of one', lambda: emptied(cached_one), two)
kept('cache of a method', CachedMethod, lambda o: o.m(object()))
kept('context variable', lambda: contextvars.ContextVar('v', default=0), lambda o: o.set(o.get() + 1) and o.get())
kept('environment', lambda: os.environ.update(OPTIMCB_HIDDEN='0'), lambda o: _up_environ())

def _some(o): yield from itertools.islice(o, 1)

def _up_environ():
    os.environ['OPTIMCB_HIDDEN'] = str(int(os.environ['OPTIMCB_HIDDEN']) + 1)
    return float(os.environ['OPTIMCB_HIDDEN'])

@probe
def thread_local():
    local = threading.local()
    local.n = 0
    def draw():
        local.n += 1
        return local.n
    return by(draw)
@probe
def thread_local_dict():
    local = threading.local()
    def draw():
        local.__dict__['n'] = local.__dict__.get('n', 0) + 1
        return local.n
    return by(draw)
@probe
def decimal_context():
    decimal.getcontext().prec = 28
    def draw():
        decimal.getcontext().prec += 1
        return decimal.getcontext().prec - 28
    return by(draw)
@probe
def default_dtype():
    torch.set_default_dtype(torch.float32)
    def draw():
        torch.set_default_dtype(torch.float64 if torch.get_default_dtype() is torch.float32 else torch.float32)
        return torch.finfo(torch.get_default_dtype()).bits
    return by(draw)


# Not the same in two runs, either
VARYING = {'time': lambda: by(lambda: time.perf_counter_ns() % 1000), 'environ': lambda: by(lambda: len(os.environ)),
           'hash': lambda: by(lambda: hash(object()) % 97), 'hash of a class': lambda: by(lambda: hash(type('A', (), {})) % 97)}
