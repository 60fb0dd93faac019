"""Steppers whose factor is another one for each parameter, by something that their own code doesn't show.

`PROBES` has functions that make such a stepper anew, from the start on. Here are the ways by which code is
run that isn't named: special methods, classes of classes, modules, names that are worked out. `hidden_changes`
has ways to change something outside."""
import abc
import asyncio
import bisect
import collections
import contextlib
import copy
import dataclasses
import enum
import fractions
import functools
import heapq
import importlib
import inspect
import itertools
import math
import operator
import string
import sys
import types
import typing
import weakref
from functools import partial

import numpy as np
import torch

from optimcb import average_grad, momentum_step, sgd_step


class Count:
    n = 0


def tick():
    Count.n += 1
    return Count.n


def by(draw):
    "A stepper that goes as far as `draw` says"
    def noisy(p, lr, step=0):
        p.data.sub_(p.grad*(lr*draw() + step))
        return {'step': step + 1}
    return noisy


PROBES = {} # functions that make a stepper, by name


def probe(make):
    "Note a function that makes a stepper"
    PROBES[make.__name__] = make
    return make


def factor(draw):
    "Note a function that gives a factor"
    PROBES[draw.__name__] = lambda: by(draw)
    return draw


def factors(kind, **draws):
    "Note functions that give a factor, under names with the kind before"
    for k, draw in draws.items(): PROBES[f'{kind} {k}'] = lambda draw=draw: by(draw)


def counted(f, *args, **kwargs):
    "Call a function that ticks, however it does so. Returns the count"
    f(*args, **kwargs)
    return Count.n


# Classes of classes

class Meta(type):
    prop = property(lambda cls: tick())
    def __getattr__(cls, name):
        if name[0] == '_': raise AttributeError(name)
        return tick()
    def __getitem__(cls, i): return tick()
    def __call__(cls): return tick()
    def __len__(cls): return tick()
    def __iter__(cls): return iter([tick()])
    def __mul__(cls, x): return tick()*x
    def __rmul__(cls, x): return tick()*x
    def __contains__(cls, x): return tick() % 2
    def __bool__(cls): return tick() % 2 == 0
    def __eq__(cls, x): return tick() % 2 == 0
    def __hash__(cls): return tick()
    def __instancecheck__(cls, x): return tick() % 2 == 0
    def __subclasscheck__(cls, x): return tick() % 2 == 0
    def __lt__(cls, x): return tick() % 2 == 0
    def __or__(cls, x): return tick()
    def __str__(cls): return str(tick())
    def meth(cls): return tick()

class Counted(metaclass=Meta): pass
class Derived(Counted): pass
instance = object.__new__(Counted)

factors('metaclass', property=lambda: Counted.prop, any=lambda: Counted.any, item=lambda: Counted[0], call=lambda: Counted(), len=lambda: len(Counted),
    iter=lambda: list(Counted)[0], mul=lambda: Counted*2, rmul=lambda: 2*Counted, contains=lambda: 1 + (3 in Counted), bool=lambda: 1 if Counted else 2,
    eq=lambda: 1 if Counted == 3 else 2, hash=lambda: hash(Counted), instance=lambda: 1 if isinstance(3, Counted) else 2, lt=lambda: 1 if Counted < 3 else 2,
    union=lambda: Counted|1, str=lambda: float(str(Counted)), format=lambda: float(f'{Counted}'), method=lambda: Counted.meth(), derived=lambda: Derived.prop,
    of_type=lambda: type(instance).prop, of_class=lambda: instance.__class__.prop, by_itself=lambda: Meta.meth(Counted),
    instance_of_some=lambda: 1 if isinstance(3, (int, Counted)) and isinstance('', (Counted,)) else 2, hasattr=lambda: hasattr(Counted, 'prop') + Count.n) # noqa: E721

class Getting:
    def __class_getitem__(cls, i): return tick()
class Subclassed:
    def __init_subclass__(cls, **kwargs): tick()
class Named:
    def __set_name__(self, owner, name): tick()
class Hooked(abc.ABC): # noqa: B024
    @classmethod
    def __subclasshook__(cls, c): return bool(tick() % 2)

def subclasses():
    class X(Subclassed): pass
def names():
    class X: a = Named()

factors('class', item=lambda: Getting[0], subclass=lambda: counted(subclasses), subclass_by_type=lambda: counted(type, 'X', (Subclassed,), {}),
    named=lambda: counted(names), subclass_hook=lambda: 1 if isinstance(Count, Hooked) else 2)


# Modules

def module(name, **attributes):
    "A module that can be imported"
    made = sys.modules[name] = types.ModuleType(name)
    vars(made).update(attributes)
    return made

def any_name(name):
    if name.startswith('__'): raise AttributeError(name)
    return tick()

class OwnModule(types.ModuleType):
    prop = property(lambda self: tick())
    def __getattr__(self, name): return any_name(name)
    def __call__(self): return tick()

noise562 = module('noise562', __getattr__=any_name)
own_module = OwnModule('own_module')
package = module('package562', sub=noise562)
box = types.SimpleNamespace(module=noise562)

@factor
def module_from():
    from noise562 import draw
    return draw
@factor
def module_import():
    import noise562 as z
    return z.draw

factors('module', attribute=lambda: noise562.draw, getattr=lambda: getattr(noise562, 'draw'), alias=lambda m=noise562: m.draw, in_namespace=lambda: box.module.draw, # noqa: B009
    in_package=lambda: package.sub.draw, own_property=lambda: own_module.prop, own_any=lambda: own_module.any, own_call=lambda: own_module(),
    by_name=lambda: sys.modules['hidden'].tick(), import_module=lambda: importlib.import_module('hidden').tick())


# Special methods

class Any:
    def __bool__(self): return tick() % 2 == 0
    def __eq__(self, o): return tick() % 2 == 0
    def __hash__(self): return tick()
    def __contains__(self, o): return tick() % 2 == 0
    def __format__(self, f): return str(tick())
    def __index__(self): return tick()
    def __round__(self, n=None): return tick()
    def __matmul__(self, o): return tick()
    def __divmod__(self, o): return tick(), 1
    def __neg__(self): return tick()
    def __abs__(self): return tick()
    def __rpow__(self, o): return tick()
    def __floor__(self): return tick()
    def __lt__(self, o): return tick() % 2 == 0
    def __reversed__(self): return iter([tick()])
    def __iter__(self): return iter([tick(), 0])
    def __array__(self, *args, **kwargs): return np.array(float(tick()))
    def __complex__(self): return complex(tick())
    def __dir__(self): return ['a']*tick()
    def __copy__(self): return tick()
    def __deepcopy__(self, memo): return tick()
    def __getitem__(self, i): return tick()
    def as_integer_ratio(self): return tick(), 1

a, other, LIST = Any(), Any(), [float(i) for i in range(1000)]

@factor
def unpacked():
    x, y = a
    return x
@factor
def unpacked_star():
    x, *y = a
    return x
@factor
def fraction(): # before Python 3.12, it takes rationals only
    try: return float(fractions.Fraction(a))
    except TypeError: return tick()

factors('special', bool=lambda: 1 if a else 2, no=lambda: 2 + (not a), condition=lambda: 2 if a and other else 3, all=lambda: 1 + all([a]), eq=lambda: 1 if a == 3 else 2, hash=lambda: hash(a),
    contains=lambda: 1 + (2 in a), in_list=lambda: counted(lambda: a in [1, 2]), list_index=lambda: counted([1, 2, a].index, a), list_count=lambda: counted([1, 2].count, a),
    dict_key=lambda: counted(lambda: {a: 1}), dict_lookup=lambda: counted({1: 1}.get, a), set=lambda: counted(lambda: {a, 1}), format=lambda: float(f'{a:x}'),
    index=lambda: LIST[a], slice=lambda: LIST[a:][0], bin=lambda: len(bin(a)) + Count.n, range=lambda: len(range(a)), operator_index=lambda: operator.index(a), round=lambda: round(a),
    matmul=lambda: a@2, divmod=lambda: divmod(a, 2)[0], neg=lambda: -a, abs=lambda: abs(a), rpow=lambda: 2**a, floor=lambda: math.floor(a), complex=lambda: complex(a).real,
    sorted=lambda: counted(sorted, [a, other]), max=lambda: counted(max, a, other), heap=lambda: counted(heapq.nsmallest, 1, [a, other]), bisect=lambda: counted(bisect.bisect, [a], other),
    reversed=lambda: list(reversed(a))[0], iter=lambda: next(iter(a)), star=lambda: [*a][0], star_args=lambda: max(*a), sum=lambda: sum(a), enumerate=lambda: next(enumerate(a))[1],
    zip=lambda: list(zip(*[a]))[0][0], array=lambda: float(np.sqrt(a)), dir=lambda: len(dir(a)), copy=lambda: copy.copy(a), deepcopy=lambda: copy.deepcopy(a), getitem=lambda: operator.itemgetter(0)(a))

class Shown:
    def __str__(self): return str(tick())
    def __repr__(self): return str(tick())

shown, TEMPLATE, TEMPLATES, FORMAT = Shown(), '%s', {'a': '%s'}, '{0}'

@factor
def shown_in_an_error():
    try: raise ValueError(shown)
    except ValueError as e: return float(str(e))

factors('shown', str=lambda: float(str(shown)), f_string=lambda: float(f'{shown}'), percent='%s'.__mod__ and (lambda: float('%s' % shown)), format=lambda: float('{}'.format(shown)), # noqa: UP030, UP031, UP032
    format_outside=lambda: float(FORMAT.format(shown)), builtin=lambda: float(format(shown)), repr=lambda: float(repr(shown)), f_string_repr=lambda: float(f'{shown!r}'),
    in_list=lambda: float(str([shown])[1:-1]), join=lambda: float(' '.join(map(str, [shown]))), percent_r=lambda: float('%r' % (shown,)), percent_outside=lambda: float(TEMPLATE % shown), # noqa: UP031
    percent_in_dict=lambda: float(TEMPLATES['a'] % shown), template=lambda: float(string.Template('$x').substitute(x=shown)))


# Attributes

class Hidden:
    __match_args__ = ('zig',)
    zig = property(lambda self: tick())
    zag = property(lambda self: tick())
    def amount(self): return tick()
class Describes:
    def __get__(self, o, cls=None): return tick()
class Described: x = Describes()
class Inherits(Hidden):
    def up(self): return super().zig
class GetsAny:
    def __getattribute__(self, name): return tick()
class Slots:
    __slots__ = ('f',)
class ClassOf:
    @property
    def __class__(self): return int if tick() % 2 else str
class Partials:
    def _t(self, k): return tick()
    t = functools.partialmethod(_t, 1)
    @functools.singledispatchmethod
    def dispatched(self, x): return tick()
    @functools.cached_property
    def cached(self): return tick()
class Pair(typing.NamedTuple):
    a: float
    b = property(lambda self: tick())

g, pair, inherits, described, partials, class_of, gets_any, slots = Hidden(), Pair(1.), Inherits(), Described(), Partials(), ClassOf(), GetsAny(), Slots()
slots.f = tick
AMOUNT, NAMES = 'amount', ['amount']
weak, weak_values, chain = weakref.ref(g), weakref.WeakValueDictionary(a=g), collections.ChainMap({'a': g})

@factor
def getattr_worked_out():
    k = 'am'
    return getattr(g, k + 'ount')()
@factor
def getattr_alias():
    look_up = getattr
    return look_up(g, AMOUNT)()
@factor
def match_keyword():
    match g:
        case Hidden(zag=x): return x
@factor
def match_position():
    match g:
        case Hidden(x): return x

factors('attribute', descriptor_of_class=lambda: Described.x, descriptor=lambda: described.x, descriptor_getattr=lambda: getattr(described, 'x'), inherited=lambda: inherits.up(), # noqa: B009
    any=lambda: gets_any.x, slot=lambda: slots.f(), named_tuple=lambda: pair.b, partialmethod=lambda: partials.t(), singledispatch=lambda: partials.dispatched(1), cached_anew=lambda: Partials().cached,
    class_property=lambda: 1 if isinstance(class_of, int) else 2, getter=lambda: Hidden.zig.fget(g), get=lambda: Hidden.zig.__get__(g), mro=lambda: type(g).__mro__[0].amount(g), dict=lambda: vars(Hidden)['amount'](g))
factors('name', outside=lambda: getattr(g, AMOUNT)(), in_dict=lambda: getattr(g, {'x': 'amount'}['x'])(), in_list=lambda: getattr(g, NAMES[0])(), attrgetter=lambda: operator.attrgetter(AMOUNT)(g)(),
    map_getattr=lambda: next(iter(map(getattr, [g], NAMES)))(), object_getattribute=lambda: object.__getattribute__(g, AMOUNT)(), getattribute=lambda: g.__getattribute__(AMOUNT)(),
    class_dict=lambda: type(g).__dict__['amount'](g), methodcaller=lambda: next(map(operator.methodcaller('amount'), [g])), attrgetter_mapped=lambda: list(map(operator.attrgetter('zig'), [g]))[0],
    methodcaller_outside=lambda f=operator.methodcaller('amount'): f(g), attrgetter_outside=lambda f=operator.attrgetter('zig'): f(g), partial=lambda f=partial(getattr, g): f('zig'), # noqa: B008
    format=lambda: float('{0.zig}'.format(g)), format_named=lambda: float('{o.zag}'.format(o=g)), format_map=lambda: float('{o.zag}'.format_map({'o': g})), # noqa: UP030, UP032
    getmembers=lambda: dict(inspect.getmembers(g, lambda v: v is not tick and not callable(v)))['zig'], globals=lambda: globals()['tick'](), exec=lambda: counted(exec, 'tick()', {'tick': tick}),
    eval=lambda run=eval: run('tick()', {'tick': tick}))
factors('held', weakref=lambda: weak().amount(), weak_dict=lambda: weak_values['a'].amount(), user_list=lambda o=collections.UserList([g]): o[0].amount(), chain_map=lambda: chain['a'].amount(), # noqa: B008
    ordered_dict=lambda o=collections.OrderedDict(a=g): o['a'].amount(), object_array=lambda o=np.array([lambda: tick()], dtype=object): o[0]()) # noqa: B008


# Classes of Python's library, which call methods

class Missing(dict):
    def __missing__(self, k): return tick()
class UserMissing(collections.UserDict):
    def __missing__(self, k): return tick()
class OwnGet(dict):
    def get(self, k, default=None): return tick()
class OwnLen(list):
    def __len__(self): return tick()
class OwnUpper(str):
    def upper(self): return tick()
class OwnAdd(int):
    def __add__(self, o): return tick()
class OwnNow(float):
    now = property(lambda self: tick())
class Mapping(collections.abc.Mapping):
    def __getitem__(self, k): return 1
    def __iter__(self): return iter('a')
    def __len__(self): return 1
    def get(self, k, default=None): return tick()
class Keys:
    def keys(self): return ['a']*(tick() and 1)
    def __getitem__(self, k): return Count.n
mapping, keys = Mapping(), Keys()

@factor
def match_mapping():
    match mapping:
        case {'a': x}: return x

factors('container', missing=lambda o=Missing(): o['a'], user_missing=lambda o=UserMissing(): o[1], get=lambda o=OwnGet(): o.get('a'), len=lambda o=OwnLen(): len(o), upper=lambda o=OwnUpper('a'): o.upper(), # noqa: B008
    add=lambda o=OwnAdd(1): o + 0, now=lambda o=OwnNow(1.): o.now, default=lambda o=collections.defaultdict(tick): o[len(o)], star_star=lambda: dict(**keys)['a'], dict=lambda: dict(keys)['a']) # noqa: B008

class Kind(enum.Enum):
    A = 1
    v = property(lambda self: tick())
    def m(self): return tick()
    def __call__(self): return tick()
    @classmethod
    def _missing_(cls, value): return cls.A if tick() else None

factors('enum', property=lambda: Kind.A.v, method=lambda: Kind.A.m(), call=lambda e=Kind.A: e(), of_list=lambda: list(Kind)[0].m(), missing=lambda: counted(Kind, 7))

@dataclasses.dataclass
class Made:
    x: float = dataclasses.field(default_factory=tick)
@dataclasses.dataclass
class Post:
    x: float = 1.
    def __post_init__(self): tick()
@dataclasses.dataclass
class Deep:
    x: object
class Finalized:
    def __del__(self): tick()
class Raised(Exception):
    def __init__(self): tick()
post, deep = Post(), Deep([a])

@factor
def raised():
    try: raise Raised
    except Raised: return Count.n

factors('made', default_factory=lambda: Made().x, replace=lambda: counted(dataclasses.replace, post, x=2.), type=lambda: counted(type(post)), of_class=lambda: counted(post.__class__),
    as_dict=lambda: counted(dataclasses.asdict, deep), deleted=lambda: counted(Finalized), weakref_callback=lambda: counted(weakref.ref, Finalized(), lambda _: tick()))

class Protocol(typing.Protocol):
    def m(self): ...
class Generic(typing.Generic[typing.TypeVar('T')]):
    def m(self): return tick()
class Enters:
    def __enter__(self): return tick()
    def __exit__(self, *args): pass
class Exits:
    def __enter__(self): return self
    def __exit__(self, *args): tick()
class Iterates:
    def __iter__(self): return self
    def __next__(self): return tick()
@functools.total_ordering
class Ordered:
    def __lt__(self, o): return bool(tick())
    def __eq__(self, o): return False
iterates, ordered = Iterates(), Ordered()
@functools.singledispatch
def dispatched(x): return tick()
@functools.wraps(math.sqrt)
def passes_for_sqrt(x): return tick()
@contextlib.contextmanager
def manager(): yield tick()

@factor
def contextmanager():
    with manager() as x: return x
@factor
def entered(c=Enters()): # noqa: B008
    with c as x: return x
@factor
def exited(c=Exits()): # noqa: B008
    with c: pass
    return Count.n
@factor
def nullcontext(c=contextlib.nullcontext(g)): # noqa: B008
    with c as x: return x.amount()
@factor
def exit_stack():
    with contextlib.ExitStack() as stack: stack.callback(tick)
    return Count.n
@factor
def suppressed():
    with contextlib.suppress(ValueError): raise ValueError(tick())
    return Count.n
@factor
def awaited():
    async def up(): return tick()
    return asyncio.run(up())
@factor
def coroutine():
    async def up(): return tick()
    try: up().send(None)
    except StopIteration as e: return e.value
@factor
def walrus(): return (n := tick()) # noqa: F841

factors('library', generic=lambda o=Generic(): o.m(), generic_alias=lambda c=Generic[int]: c().m(), protocol=lambda: (isinstance(g, type(Protocol)), tick())[1], dispatch=lambda: dispatched(1), wraps=lambda: passes_for_sqrt(1), # noqa: B008
    next=lambda: next(iterates), next_iter=lambda: next(iter(iterates)), zip=lambda: [*zip([1], iterates)][0][1], ordered=lambda: (ordered >= 1) + Count.n,
    key=lambda: counted(sorted, [1], key=lambda x: tick()), compare=lambda: counted(sorted, [2, 1], key=functools.cmp_to_key(lambda a, b: tick())), reduce=lambda: functools.reduce(lambda a, b: tick(), [1, 2]),
    map=lambda: max(map(lambda x: tick(), [1])), filter=lambda: sum(filter(lambda x: tick() > 0, [1])) + Count.n, list=lambda: [tick() for _ in range(1)][0], dict=lambda: {k: tick() for k in 'a'}['a'], # noqa: C417
    generator=lambda: next(tick() for _ in range(1)), repeat=lambda: list(itertools.starmap(tick, [()]))[0])


# Torch and NumPy

class OwnTensor(torch.Tensor):
    v = property(lambda self: tick())
    def m(self): return tick()
class OwnFunction(torch.Tensor):
    @classmethod
    def __torch_function__(cls, f, kinds, args=(), kwargs=None):
        tick()
        return super().__torch_function__(f, kinds, args, kwargs or {})
class OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        tick()
        return x.clone()

own_tensor, own_function = torch.tensor(1.).as_subclass(OwnTensor), torch.tensor(1.).as_subclass(OwnFunction)
hooked, carries = torch.ones((), requires_grad=True), torch.tensor(1.)
hooked.register_hook(lambda grad: grad*tick())
carries.hook = tick
layer = torch.nn.Linear(1, 1)
layer.register_forward_hook(lambda *args: tick() and None)

@factor
def gradient_of_hooked():
    with torch.enable_grad(): torch.autograd.grad(hooked*2, hooked)
    return Count.n

factors('torch', property=lambda: own_tensor.v, method=lambda: own_tensor.m(), attribute=lambda: carries.hook(), function=lambda: counted(lambda: own_function + 1),
    autograd=lambda: counted(OwnGradient.apply, torch.ones(())), module=lambda: counted(layer, torch.ones(1)))
factors('numpy', frompyfunc=lambda f=np.frompyfunc(lambda x: x + tick(), 1, 1): float(f(0.)), vectorize=lambda: float(np.vectorize(lambda x: tick())(0.))) # noqa: B008


# What passes for a stepper of the library

@functools.wraps(average_grad)
def like_average_grad(p, mom, dampening=False, grad_avg=None, **kwargs):
    return average_grad(p, mom=mom/tick(), dampening=dampening, grad_avg=grad_avg)
@functools.wraps(sgd_step)
def like_sgd_step(p, lr, **kwargs): return sgd_step(p, lr/tick())

PROBES['wraps average_grad'] = lambda: [partial(like_average_grad, mom=.9), momentum_step]
PROBES['wraps sgd_step'] = lambda: like_sgd_step
