"What the library reads off CPython, bytecode, frames and counts of references: the same on every Python."
import gc
import inspect
import threading
import warnings
from functools import partial

import pytest
import torch

import optimcb as oc
from optimcb import CompositionWarning, Optimizer, once
from optimcb._compat.bytecode import branches_on_values, catches_errors, discarded, exits, instructions
from optimcb._compat.cpython import (
    caller_outside,
    ends_by_raise,
    frame_above,
    frames_above,
    module_of,
    place_of,
    references,
    stacklevel_outside,
    without_collection,
)
from optimcb._compat.operands import Operands, is_call
from optimcb.composition.stepper import Stepper
from optimcb.engines.arena import Arena
from optimcb.engines.runner import CantRun

counter, log, config = [0], [], type('Config', (), dict(self_weight=0.5, table={}))()


def step_of(f, **hypers):
    "A step of `f` on the engine that records it once for all parameters"
    ps = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3)]
    for p in ps: p.grad = torch.ones_like(p)
    opt = Optimizer(ps, [f], lr=0.1, engine='foreach', check=False, **hypers)
    opt.step()
    return opt, ps


# Bytecode: does a function catch errors?

def tries(x):
    try: return 1/x
    except ZeroDivisionError: return 0.
def tries_all(x):
    try: return 1/x
    except: return 0. # noqa: E722
def gives_up(x):
    try: return 1/x
    finally: return 0. # noqa: B012
def enters(x):
    with x: return 1.
def only_asks(x): return [i for i in (x, x+1) if i] + list(i for i in range(3) if x) # noqa: C400
def only_raises(x):
    for i in range(3):
        if x > i: raise ValueError(x)
    assert x, 'none'
def only_yields(x): yield x


def test_catches_errors():
    assert all(map(catches_errors, [f.__code__ for f in (tries, tries_all, gives_up, enters)]))
    assert not any(map(catches_errors, [f.__code__ for f in (only_asks, only_raises, only_yields)]))


# Bytecode: what a stepper does to what lies outside of it

def counts(p):
    global total
    total = 1

def appends(p): log.append(1)
def appends_twice(p, x=1): log.append((p, x))
def appends_in_a_comprehension(p): [log.append(i) for i in range(2)]
def appends_in_a_function(p): (lambda: log.append(1))()
def sets_an_item(p): counter[0] += 1
def sets_an_attribute(p): config.seen = True
def deletes_an_item(p): del log[:0]
def prints(p): print(end='')

def nonlocal_counter():
    n = 0
    def counts_in_a_closure(p):
        nonlocal n
        n += 1
    return counts_in_a_closure

class Counter:
    n = 0
    def __call__(self, p): self.n += 1
    def method(self, p): self.n += 1


OUTSIDE = [counts, appends, appends_twice, appends_in_a_comprehension, appends_in_a_function, sets_an_item,
           sets_an_attribute, deletes_an_item, prints, nonlocal_counter(), Counter(), Counter().method,
           partial(appends_twice, x=2)]


@pytest.mark.parametrize('f', OUTSIDE, ids=lambda f: Stepper(f).label)
def test_what_reaches_outside_is_not_recorded(f):
    with pytest.raises(CantRun): step_of(f)


def is_none(p, lr, a=None): return {'a': torch.zeros_like(p) if a is None else a + 1}
def is_not_none(p, lr, a=None): return {'a': a + 1 if a is not None else torch.zeros_like(p)}
def reads_an_attribute(p, lr): p.data.sub_(lr*config.self_weight*p.grad)
def makes_a_list(p, lr): p.data.sub_(lr*sum([p.grad for _ in range(3)]))
def unpacks(p, lr):
    a, b = p.data, p.grad
    a.sub_(lr*b)

def loops(p, lr):
    for i in range(2): p.data.sub_(lr*i*p.grad)

def closes_over(weight):
    def scaled(p, lr): p.data.sub_(lr*weight*p.grad)
    return scaled


INSIDE = [is_none, is_not_none, reads_an_attribute, makes_a_list, unpacks, loops, closes_over(0.5)]


@pytest.mark.parametrize('f', INSIDE, ids=lambda f: f.__name__)
def test_what_stays_inside_is_recorded(f):
    opt, ps = step_of(f)
    eager = [torch.nn.Parameter(torch.ones_like(p)) for p in ps]
    for p in eager: p.grad = torch.ones_like(p)
    Optimizer(eager, [f], lr=0.1, engine='eager', check=False).step()
    assert all(torch.equal(p, q) for p, q in zip(ps, eager)) and opt.kernel()


# Bytecode: names and branches

def unused(p, **kwargs): return None
def handed_on(p, **kwargs): return dict(**kwargs)
def indexed(p, **kwargs): return kwargs['step']
def loaded_with_another(p, **kwargs): return dict(p=p, k=kwargs) and (p, kwargs)
def enclosed(p, **kwargs): return (lambda: kwargs)()
def in_a_comprehension(p, **kwargs): return [k.upper() for k in kwargs]
def after_others(p, *args, lr=0.1, **kwargs): return kwargs


USES = [handed_on, indexed, loaded_with_another, enclosed, in_a_comprehension, after_others]


@pytest.mark.parametrize('f', [unused, *USES], ids=lambda f: f.__name__)
def test_whether_kwargs_are_used(f): assert Stepper(f).reads_all is (f is not unused)


def mentions_keys(p, a, b): return {'new_a': a, 'new_b': b}
def mentions_one(p, a): return {'new_a': a}
def mentions_keywords(p, a, b): return dict(new_a=a, new_b=b)
def mentions_once(p, a, b): return once(new_a=a, new_b=b)
def mentions_inside(p, a, b): return (lambda: {'new_a': a, 'new_b': b})()
def mentions_items(p, a, b):
    res = {}
    res['new_a'], res['new_b'] = a, b
    return res


MENTIONS = [mentions_keys, mentions_keywords, mentions_once, mentions_inside, mentions_items]


@pytest.mark.parametrize('f', MENTIONS, ids=lambda f: f.__name__)
def test_names_that_are_mentioned(f):
    assert {'new_a', 'new_b'} <= Stepper(f).mentions and 'new_b' not in Stepper(mentions_one).mentions


def branch_if(p, step):
    if step > 3: return {'a': 1}
    return {'a': 0}

def branch_expression(p, step): return {'a': 1 if step else 0}
def branch_and(p, step): return {'a': step and p}
def branch_or(p, step): return {'a': step or p}
def branch_while(p, step):
    while step > 3: step -= 1

def none_if(p, step):
    if step is None: return {'a': 1}
    return {'a': 0}

def none_expression(p, step): return {'a': 1 if step is not None else 0}
def straight(p, step): return {'a': step}


BRANCHES = [branch_if, branch_expression, branch_and, branch_or, branch_while]


@pytest.mark.parametrize('f', [*BRANCHES, none_if, none_expression, straight], ids=lambda f: f.__name__)
def test_branches(f): assert branches_on_values(f.__code__) is (f in BRANCHES)


def sums(p):
    total = yield p.grad.sum()
    p.grad = p.grad / total


@pytest.mark.parametrize('f', [sums, partial(sums)], ids=['function', 'partial'])
def test_generators_sum_over_all(f): assert Stepper(f).sums_over_all and inspect.isgeneratorfunction(sums)


# Frames

def test_a_warning_is_at_the_users_line():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        here = inspect.currentframe().f_lineno + 1
        Optimizer([torch.nn.Parameter(torch.ones(2))], [lambda p, lr: None], lr=0.1)
    places = {(w.filename, w.lineno) for w in said if w.category is CompositionWarning}
    assert places == {(__file__, here)}


def test_an_error_names_the_stepper_and_its_line():
    def branches(p, lr):
        if p.sum() > 0: p.data.sub_(lr)
    line = branches.__code__.co_firstlineno + 1
    with pytest.raises(CantRun, match=f'stepper `branches` at test_cpython.py:{line}'): step_of(branches)
    def catches(p, lr):
        try: float(p.sum())
        except Exception: pass
    with pytest.raises(CantRun, match='stepper `catches`'): step_of(catches)


def test_only_gradscaler_is_told_that_steps_unscale():
    opt = oc.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    def asked_by(module): return eval('opt._step_supports_amp_scaling', dict(opt=opt, __name__=module))
    assert asked_by(torch.amp.GradScaler.__module__) and not asked_by('lightning')
    assert not opt._step_supports_amp_scaling


def test_parameters_may_be_missing_only_where_zero_deals_them_out():
    with pytest.raises(ValueError, match='empty'): oc.SGD([], lr=0.1)


# Counts of references

def test_a_parameter_that_is_kept_is_noticed():
    kept = []
    def keeps(p, lr, kept=kept): kept += [p]
    def keeps_in_a_closure(p, lr): return {'f': lambda: p}
    for f in (keeps, keeps_in_a_closure):
        with pytest.raises(CantRun): step_of(f)
    def holds_for_a_while(p, lr):
        a = [p, (p, p)]
        def inside(): return p.grad
        a[0].data.sub_(lr*inside())
    step_of(holds_for_a_while)


def test_storages_of_an_arena_are_counted():
    arena, like = Arena(1 << 12), torch.ones(8)
    tensors = [arena.tensor(like, torch.float32) for _ in range(3)]
    assert arena.storages == 3
    view = tensors[0][:2]
    assert arena.storages == 3, 'a view has no storage of its own'
    del tensors[1:]
    gc.collect()
    assert arena.storages == 1
    del view, tensors
    gc.collect()
    assert arena.pages() is None, 'freed with the last of them'


# Functions of older torch, which refuse a tracer where they expect a number

def test_a_number_of_a_parameter_is_taken_by_methods_and_functions():
    def by_method(p, lr, scale=1.): p.data.addcmul_(p.grad, p.grad, value=-lr*p.grad.sum())
    def by_function(p, lr): p.data.copy_(torch.addcmul(p.data, p.grad, p.grad, value=-lr*p.grad.sum()))
    _, ps = step_of(by_method)
    assert [p[0].item() for p in ps] == pytest.approx([0.8, 0.7])
    try: _, qs = step_of(by_function)
    except CantRun as e:
        assert 'as a method: `x.addcmul(a, b, value=c)`' in str(e) and torch.__version__ < '2.11'
    else: assert all(torch.equal(p, q) for p, q in zip(ps, qs))


# Frames and references

def test_references_are_counted():
    o = object()
    one = references(lambda: o)
    other = o
    assert references(lambda: o) == one + 1 and other is o


def asked(ask): return ask() # a function that asks, for what is above it
def two_above(ask): return asked(ask)


def test_a_frame_above_is_so_many_calls_up():
    def ask(calls): return frame_above(calls).f_code.co_name
    assert two_above(lambda: ask(1)) == '<lambda>' and two_above(lambda: ask(2)) == 'asked'
    assert two_above(lambda: ask(4)) == 'test_a_frame_above_is_so_many_calls_up'
    with pytest.raises(ValueError): frame_above(10**6)


ABOVE = ['asked', 'two_above', 'test_the_frames_above_are_innermost_first']
WALKS = {
    'as they come': lambda: frames_above(),
    'all at once': lambda: list(frames_above()),
    'in a list': lambda: [o for o in frames_above() if o],
    'in a generator': lambda: (o for o in frames_above()),
}


@pytest.mark.parametrize('walk', WALKS.values(), ids=WALKS)
def test_the_frames_above_are_innermost_first(walk):
    "However they are walked, also later on, they are those above the function that asked"
    names = [o.f_code.co_name for o in two_above(walk)]
    assert names[:3] == ABOVE and len(names) > 3


def test_the_frames_above_end_with_the_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(module_of(o) for o in frames_above()))
    thread.start()
    thread.join()
    assert set(found) == {'threading'}


def test_the_caller_outside_of_folders_is_found():
    here = inspect.currentframe()
    library = oc.__path__[0]
    assert caller_outside((library,)) is here and caller_outside((library, __file__)) is not here
    assert caller_outside(('',)) is None, 'none is outside of all folders'


@pytest.mark.parametrize('inside', [{'says'}, {'says', 'between'}])
def test_a_stacklevel_is_that_of_the_caller_outside(inside):
    def says(): warnings.warn('so', stacklevel=stacklevel_outside(lambda o: o.f_code.co_name in inside))
    def between(): says()
    with pytest.warns(UserWarning, match='so') as said: between()
    own = inspect.currentframe().f_lineno - 1
    line = between.__code__.co_firstlineno if inside == {'says'} else own
    assert (said[0].filename, said[0].lineno) == (__file__, line)


def test_a_stacklevel_where_all_are_inside_is_the_outermost():
    depth = len([*frames_above()]) + 1
    assert stacklevel_outside(lambda o: True) == depth


def test_the_module_of_a_frame():
    assert module_of(inspect.currentframe()) == __name__
    known = {'module_of': module_of, 'here': inspect.currentframe}
    def module_in(globals): return eval('module_of(here())', {**known, **globals})
    assert module_in({'__name__': 'somewhere'}) == 'somewhere'
    assert module_in({}) == module_in({'__name__': None}) == ''


def raises(): raise KeyError('key')
def raises_anew():
    try: {}['key']
    except KeyError as e: raise ValueError('no key') from e

def looks_up(): return {}['key']
def calls_what_raises(): raises()


@pytest.mark.parametrize('f', [raises, raises_anew, looks_up, calls_what_raises], ids=lambda f: f.__name__)
def test_whether_a_frame_ends_by_raise(f):
    with pytest.raises((KeyError, ValueError)) as error: f()
    assert ends_by_raise(error.tb.tb_next) is (f in (raises, raises_anew))


def test_the_place_of_an_instruction():
    (first, _), (last, _) = place_of(inspect.currentframe())
    assert first == last == inspect.currentframe().f_lineno - 1


# Bytecode: what is discarded

def discards(p, v, lr):
    if v is None: return {'v': p}
    lr*v + p # noqa: B018
    v.add_(p)
    v += p
    p[0] # noqa: B018
    -v # noqa: B018
    return {'v': lr*v}

def ends_with_a_store(p, v, lr):
    with lr:
        if v: v = v*lr
        else: return p

def ends_in_two_ways(p, v, lr):
    if v: v = p
    else: p = v


def test_results_that_are_discarded():
    first = discards.__code__.co_firstlineno
    assert [(d.line - first, d.exit) for d in discarded(discards.__code__)] == [(n, None) for n in (2, 3, 5, 6)]
    stored = [(d.name, d.line) for d in discarded(ends_with_a_store.__code__) if d.name]
    assert stored == [('v', ends_with_a_store.__code__.co_firstlineno + 2)]
    assert {d.name for d in discarded(ends_in_two_ways.__code__)} == {'v', 'p'}


def test_where_a_function_returns_none():
    assert exits(discards.__code__) == set() and exits(ends_with_a_store.__code__) and exits(ends_in_two_ways.__code__)


# Bytecode: where operands come from

def calls(f, o, x, c, key):
    f(o.a, x*2)
    o.method(x, key=c)
    f(f(x), key=o[c], other=x)


def test_what_is_called_and_with_what():
    operands = Operands(calls.__code__)
    found = [operands.call(i) for i in operands.every if is_call(i)]
    def said(i): return i and (i.argval if isinstance(i.argval, str) else i.opname[:6])
    assert said(found[1][0]) == 'method'
    assert [(len(args), keywords) for _, args, keywords in found] == [(2, ()), (2, ('key',)), (1, ()), (3, ('key', 'other'))]


def adds(a, b, c, d):
    return a + b[c] if c else d.e

def stores(a, b):
    x, y = a[0], b
    return y, x


def test_which_instructions_push_operands():
    every = instructions(adds.__code__)
    operands = Operands(adds.__code__)
    add = next(i for i in every if i.argrepr == '+' or i.opname == 'BINARY_ADD')
    second, first = operands.of(add)
    assert 'SUBSCR' in second.opname and first.argval in ('a', ('a', 'b'))
    operands = Operands(stores.__code__)
    store = next(i for i in operands.every if i.opname.startswith('STORE_FAST'))
    loaded = {str(o.argval) for span in operands.spans(store, 3) for o in span}
    assert {'a', 'b'} <= loaded | set(''.join(loaded))


@pytest.mark.parametrize('is_on', [True, False])
def test_without_collection(is_on):
    "Collection is off in the block, and as before after it, also if that fails"
    before = gc.isenabled()
    try:
        gc.enable() if is_on else gc.disable()
        with without_collection(): assert not gc.isenabled()
        assert gc.isenabled() == is_on
        with pytest.raises(KeyError), without_collection(): raise KeyError
        assert gc.isenabled() == is_on
    finally: gc.enable() if before else gc.disable()
