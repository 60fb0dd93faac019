"""A result that a stepper works out in one branch, and loses, is a warning with the line; a stepper that is right is silent.

Lines where something is lost end in `# lost`."""
import inspect
import os
import re
import warnings

import pytest
import torch

from optimcb import CompositionWarning, Optimizer, once
from optimcb.composition.errors import WrongReturn


def helper(v, g, mom): return mom*v + g
def write(p, g, lr): p.data.sub_(g, alpha=lr)
def note(*things): SEEN.extend(things)
SEEN = []

LOST, RIGHT = [], []
def lost(f):
    LOST.append(f)
    return f
def right(f):
    RIGHT.append(f)
    return f


# Steppers that make `v`, and lose it in one branch

@lost
def statement(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    mom*v + p.grad # lost
@lost
def rebound(p, step=0, mom=.9, v=None):
    step += 1
    if step > 1: v = mom*v + p.grad # lost
    else: return {'v': p.grad.clone(), 'step': step}
@lost
def methods(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    v.mul(mom).add(p.grad) # lost
@lost
def function_of_torch(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    v = torch.add(p.grad, v, alpha=mom) # lost
@lost
def call(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    helper(v, p.grad, mom) # lost
@lost
def dict_display(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    {'v': mom*v + p.grad} # lost
@lost
def in_a_with(p, mom=.9, v=None):
    with torch.no_grad():
        if v is None: return {'v': p.grad.clone()}
        v = helper(v, p.grad, mom) # lost
@lost
def dict_call(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    dict(v=mom*v + p.grad) # lost
@lost
def in_a_late_branch(p, mom=.9, v=None, step=0):
    if v is None: return {'v': p.grad.clone(), 'step': 1}
    if step > 100: v = mom*v + p.grad # lost
    else: return {'v': mom*v + p.grad, 'step': step + 1}
@lost
def once_call(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    once(v=mom*v + p.grad) # lost
@lost
def negated(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    -v # noqa: B018 # lost
@lost
def square_root(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    torch.sqrt(v) # lost
@lost
def in_else(p, mom=.9, v=None, step=0):
    if step < 50: return {'v': p.grad.clone() if v is None else mom*v + p.grad, 'step': step + 1}
    else: v.clamp(min=0) # lost
@lost
def in_a_nested_branch(p, mom=.9, v=None, step=0):
    if v is None: return {'v': p.grad.clone(), 'step': 1}
    if step > 2:
        if mom > 0.5:
            v = v*mom # lost
        else:
            return {'v': v}
    else:
        return {'v': v + p.grad, 'step': step + 1}
@lost
def two_lines(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    g = p.grad*2
    v = mom*v + g # lost
@lost
def with_a_return(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    v = mom*v + p.grad # lost
    return None
@lost
def with_a_bare_return(p, mom=.9, v=None, step=0):
    if step > 3:
        v = mom*v + p.grad # lost
        return
    return {'v': p.grad.clone() if v is None else mom*v + p.grad, 'step': step + 1}
@lost
def parameter_rebound(p, lr=.1, v=None, step=0):
    if step > 3:
        p = p - lr*v # lost
        return
    return {'v': p.grad.clone(), 'step': step + 1}
@lost
def over_lines(p, mom=.9, v=None):
    if v is None: return {'v': p.grad.clone()}
    v = torch.where(p.grad > 0, v*mom, v).add(p.grad) # lost


def use(p, lr, v): p.data.sub_(lr*v)
def count(p, step=0): return {'step': step + 1}


def said(cbs, **hypers):
    "Warnings when an optimizer is made"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        Optimizer([torch.nn.Parameter(torch.ones(2, 2))], cbs, lr=.1, **hypers)
    return [str(w.message) for w in found if issubclass(w.category, CompositionWarning)]


def marked(f):
    "The numbers of lines with a mark"
    lines, first = inspect.getsourcelines(f)
    return [first + i for i, line in enumerate(lines) if line.rstrip().endswith('# lost')]


@pytest.mark.parametrize('f', LOST, ids=lambda f: f.__name__)
def test_what_is_lost_in_one_branch_is_said(f):
    found = [w for w in said([f, use]) if 'loses' in w]
    assert len(found) == 1 and f'stepper `{f.__name__}` loses' in found[0], found
    where = re.search(r'at ([\w.]+):([\d and]+):', found[0])
    assert where[1] == os.path.basename(__file__) and [int(n) for n in re.findall(r'\d+', where[2])] == marked(f)
    hint = '`p = …` makes another tensor' if f is parameter_rebound else "Did you forget `return {'v': …}`?"
    assert hint in found[0], found


# Steppers that are right

@right
def makes_and_moves(p, mom=.9, v=None, lr=.1):
    v = p.grad.clone() if v is None else mom*v + p.grad
    p.data.sub_(lr*v)
    return {'v': v}
@right
def counts(p, lr, n=0, k=3):
    n += 1
    if n % k: return {'n': n}
    p.data.sub_(p.grad, alpha=lr)
    return {'n': n}
@right
def returns_early(p, lr, step, k=3):
    if step % k: return None
    p.data.sub_(p.grad, alpha=lr)
@right
def computes_before_it_returns(p, lr, step, k=3):
    n = p.grad.norm()
    if step % k: return
    write(p, p.grad/n, lr)
@right
def writes_in_a_branch(p, lr, step, k=3):
    n = p.grad.norm()
    if step % k == 0: write(p, p.grad/n, lr)
@right
def in_place(p, lr, v=None):
    if v is None: return {'v': torch.zeros_like(p)}
    v *= .9
    v += p.grad
    write(p, v, lr)
@right
def in_place_at_the_end(p, lr, v=None):
    p.data.sub_(p.grad, alpha=lr)
    if v is None: return {'v': torch.zeros_like(p)}
    v += p.grad
@right
def in_a_with_that_returns(p, lr):
    if p.ndim > 3: return
    with torch.no_grad(): p.data.sub_(p.grad, alpha=lr)
@right
def loop(p, lr):
    g = p.grad
    for _ in range(3): g = g*.5
    p.data.add_(g, alpha=-lr)
@right
def condition(p, lr, step):
    if 0 < step < 5 and lr*2 > 0: p.data.sub_(p.grad, alpha=lr)
@right
def asserts(p, lr):
    assert p.grad.shape == p.shape, 'shapes'
    p.data.sub_(p.grad, alpha=lr)
    assert lr > 0
@right
def deletes(p, lr):
    g = p.grad*2
    p.data.sub_(g, alpha=lr)
    del g
@right
def swaps(p, lr):
    a, b = p.grad, lr
    a, b = b, a
    p.data.sub_(b, alpha=a)
@right
def underscore(p, lr):
    _, g = p.numel(), p.grad
    p.data.sub_(g, alpha=lr)
    _ = lr*2
@right
def raises(p, lr):
    if lr < 0: raise ValueError(f'{lr*2}')
    p.data.sub_(p.grad, alpha=lr)
@right
def tries(p, lr):
    try: p.data.sub_(p.grad, alpha=lr)
    except ValueError: raise
@right
def writes_by_helper_at_the_end(p, lr, v=None):
    if v is None: return {'v': p.grad.clone()}
    write(p, v, lr)
@right
def method_in_place_at_the_end(p, lr, v=None):
    if v is None: return {'v': p.grad.clone()}
    v.mul_(.9).add_(p.grad)
    p.data.sub_(v, alpha=lr)
@right
def sets_the_gradient(p, lr, v=None):
    p.grad = p.grad.clamp(-1, 1)
    p.data.sub_(p.grad, alpha=lr)
@right
def out_of_torch(p, lr):
    torch.add(p.data, p.grad, alpha=-lr, out=p.data)
@right
def copies(p, lr, step):
    if step > 2: p.data.copy_(p.data - lr*p.grad)
    else: p.data.sub_(p.grad, alpha=lr)
@right
def while_loop(p, lr):
    n = 3
    while n > 0:
        p.data.sub_(p.grad, alpha=lr/3)
        n -= 1
@right
def comprehension(p, lr):
    [p.data.sub_(p.grad, alpha=lr/2) for _ in range(2)]
@right
def dict_that_is_filled(p, lr):
    res = {}
    res['w'] = p.grad*2
    p.data.sub_(res['w'], alpha=lr)
    return res
@right
def ternary_return(p, lr, step, v=None):
    v = p.grad.clone() if v is None else v
    p.data.sub_(v, alpha=lr)
    return None if step > 1 else {'v': v}
@right
def list_method(p, lr):
    shares = []
    for x in (.5, .5): shares.append(x)
    p.data.sub_(p.grad, alpha=lr*sum(shares))
@right
def element(p, lr): p.data[...] -= lr*p.grad
@right
def both_branches(p, lr, step):
    if step == 1:
        g = p.grad
    else:
        g = p.grad*2
    p.data.sub_(g, alpha=lr)
@right
def docstring(p, lr):
    "Only words"
    'more words' # noqa: B018
    p.data.sub_(p.grad, alpha=lr)


@pytest.mark.parametrize('f', RIGHT, ids=lambda f: f.__name__)
def test_a_stepper_that_is_right_is_silent(f): assert said([count, f], check=True) == []


def test_logging_is_silent():
    def logs(p, lr):
        n = p.grad.norm()
        note(lr, n)
        p.data.sub_(p.grad, alpha=lr)
    assert said([count, logs]) == []


def test_what_the_library_has_loses_nothing():
    import optimcb.parts
    import optimcb.steppers
    from optimcb._compat.bytecode import discarded
    from optimcb._compat.operands import Operands
    from optimcb.composition.stepper import code_of
    from optimcb.diagnosis.lost import _is_value
    codes = [code_of(getattr(m, k)) for m in (optimcb.parts, optimcb.steppers) for k in m.__all__]
    codes = [c for c in codes if c is not None]
    assert len(codes) > 100 and not [c for c in codes for d in discarded(c) if _is_value(Operands(c), d.made)]


# What is no dict

def yields(p, mom=.9, v=0.): yield {'v': mom*v + p.grad}
def yields_nothing(p): yield
def returns_a_number(p, mom=.9, v=0.): return mom
def returns_the_rate(p, lr): return lr*2
def returns_a_word(p, v=0.): return 'v'
def returns_a_pair(p, v=0.): return p, v


@pytest.mark.parametrize('f, words', [
    (yields, r"`yields` yields a value of type `dict`\. `return` the dict .*`return \{'v': …\}`, or `yield` its parameter's share"),
    (yields_nothing, '`yields_nothing` yields nothing'), (returns_a_number, '`returns_a_number` returns a value of type `float`'),
    (returns_the_rate, '`returns_the_rate` returns'), (returns_a_word, '`returns_a_word` returns a value of type `str`'), (returns_a_pair, '`returns_a_pair` returns')])
@pytest.mark.parametrize('engine', ['auto', 'eager'])
def test_what_is_no_dict_is_an_error_when_the_optimizer_is_made(f, words, engine):
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(WrongReturn, match=words): Optimizer([p], [f, use], lr=.1, v=1., engine=engine)


def test_what_in_place_operations_return_is_none_of_it():
    def own(p, lr):
        p.data.sub_(p.grad, alpha=lr)
        return p
    assert said([own]) == []
    def all_together(p, lr):
        total = yield p.grad.square().sum()
        p.data.sub_(p.grad/total.sqrt(), alpha=lr)
        return p
    assert said([all_together]) == []
