"Steppers as other people write them: they give on every engine what the eager one gives, and which become kernels is stated."

import linecache
import math
import re

import pytest
import torch
from helpers import params
from on_engines import TRACED, stepped, ulps
from wild import WILD

from optimcb.engines.runner import CantRun

engines = pytest.mark.parametrize('engine', TRACED)


def drawn_grads(ps, steps=4, seed=0):
    "Random gradients of each step"
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype) for p in ps] for _ in range(steps)]


def close(a, b, most, rtol):
    "Are these the same, to `most` units in the last place, or relative to the largest element?"
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(v, b[k], most, rtol) for k, v in a.items())
    if not isinstance(a, torch.Tensor): return a == b
    return ulps(a, b) <= most or bool((a - b).abs().max() <= rtol*a.abs().max())


def same(engine, cbs, steps=4, dtype=torch.float32, most=0, rtol=0, ps=None, **hypers):
    "Assert that an engine gives what eager gives"
    ps = params([(3, 4), (5,), ()], dtype) if ps is None else ps
    grads = drawn_grads(ps, steps)
    _, want, states = stepped('eager', ps, grads, cbs, steps, **hypers)
    opt, got, others = stepped(engine, ps, grads, cbs, steps, **hypers)
    expected, found = [*want, *states], [*got, *others]
    assert all(close(a, b, most, rtol) for a, b in zip(expected, found)), list(map(ulps, got, want))
    assert any(not torch.equal(a, p.detach()) for a, p in zip(want, ps)), 'it trains nothing'
    return opt


# As torch was spelled before 1.5: the scale comes before the tensors

OLD = {
    'add_': lambda p, lr: p.data.add_(-lr, p.grad),
    'add_ other': lambda p, lr: p.data.add_(-lr, other=p.grad),
    'add_ grad.data': lambda p, lr: p.data.add_(-lr, p.grad.data),
    'add_ by a norm': lambda p, lr: p.data.add_(-lr*p.grad.norm(), p.grad),
    'add': lambda p, lr: p.data.copy_(p.data.add(-lr, p.grad)),
    'torch.add': lambda p, lr: p.data.copy_(torch.add(p.data, -lr, p.grad)),
    'torch.add of numbers': lambda p, lr: p.data.copy_(torch.add(.1, lr, p.grad)),
    'number first': lambda p, lr: p.data.copy_(torch.add(lr, p.grad)),
    'sub_': lambda p, lr: p.data.sub_(lr, p.grad),
    'torch.sub': lambda p, lr: p.data.copy_(torch.sub(p.data, lr, p.grad)),
    'addcmul_': lambda p, lr: p.data.addcmul_(-lr, p.grad, p.grad),
    'addcmul_ by name': lambda p, lr: p.data.addcmul_(-lr, tensor1=p.grad, tensor2=p.grad),
    'addcmul': lambda p, lr: p.data.copy_(p.data.addcmul(lr, p.grad, p.grad)),
    'torch.addcmul': lambda p, lr: p.data.copy_(torch.addcmul(p.data, lr, p.grad, p.grad)),
    'addcdiv_': lambda p, lr: p.data.addcdiv_(-lr, p.grad, p.grad.abs() + 1),
    'torch.addcdiv': lambda p, lr: p.data.copy_(torch.addcdiv(p.data, -lr, p.grad, p.grad.abs() + 1)),
    'names': lambda p, lr: p.data.addcdiv_(value=-lr, tensor1=p.grad, tensor2=p.grad.abs() + 1),
    'out': lambda p, lr: torch.max(p.data, p.grad, out=p.data),
    'out of add': lambda p, lr: torch.add(p.data, p.grad, alpha=-lr, out=p.data),
    'new': lambda p, lr: p.data.add_(-lr, p.data.new(p.size()).zero_().add_(p.grad)),
}

@engines
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('name', OLD)
def test_old_spellings_are_traced(name, dtype, engine):
    def old(p, lr): OLD[name](p, lr)
    same(engine, [old], dtype=dtype, lr=0.1, most=4 if 'norm' in name else 0)

REFUSED = {
    'subtract_ is no old name': lambda p, lr: p.data.subtract_(lr, p.grad),
    'scale last': lambda p, lr: p.data.add_(p.grad, lr),
    'scale is a tensor': lambda p, lr: p.data.add_(p.grad, alpha=p.grad),
    'scale is a tensor, old': lambda p, lr: p.data.addcmul_(p.grad, p.grad, p.grad),
    'scale twice': lambda p, lr: p.data.add_(-lr, p.grad, alpha=2),
}

@pytest.mark.parametrize('name', REFUSED)
def test_what_torch_refuses_is_refused_on_every_engine(name):
    def odd(p, lr): REFUSED[name](p, lr)
    ps = params([(3, 4), (5,)])
    for engine in ('eager', 'auto'):
        with pytest.raises(TypeError): stepped(engine, ps, drawn_grads(ps), [odd], lr=0.1)

def test_out_of_another_shape_is_left_to_eager():
    def resized(p, lr, seen=None):
        if seen is None: seen = torch.zeros_like(p)
        torch.mul(p.grad.sum(), 2., out=seen)
        p.data.sub_(seen, alpha=lr)
        return {'seen': seen}
    same('auto', [resized], lr=0.1)


# What a stepper asks a tensor: it is answered from what parameters are told apart by

ASKED = """p.dtype is torch.float16 | p.dtype is torch.float32 | torch.float64 is p.dtype | p.dtype is not p.grad.dtype | p.dtype == torch.float32
    p.dtype in (torch.float16, torch.bfloat16) | p.grad.dtype is p.dtype | torch.get_default_dtype() is p.dtype | p.dtype.is_floating_point
    torch.promote_types(p.dtype, torch.float16) is torch.float32 | torch.finfo(p.dtype).eps > 1e-5 | (p.grad*2).dtype is torch.bfloat16
    isinstance(p, torch.Tensor) | isinstance(p, nn.Parameter) | isinstance(p.data, nn.Parameter) | isinstance(p.grad, nn.Parameter)
    isinstance(p.grad*2, torch.Tensor) | isinstance(p.grad.sum(), torch.Tensor) | isinstance(torch.zeros_like(p), nn.Parameter)
    isinstance(p.clone(), nn.Parameter) | isinstance(lr, float) | isinstance(p, (float, torch.Tensor)) | torch.is_tensor(p) | torch.is_tensor(p.grad + 1)
    torch.is_tensor(lr) | type(p) == nn.Parameter | type(p) == torch.Tensor | type(p.data) == torch.Tensor | type(p.data) == nn.Parameter
    type(p) in (nn.Parameter,) | type(p.grad) != torch.Tensor | type(lr) is float | type(lr) is not int | type(p).__name__ == 'Parameter'
    isinstance(p.data, type(p)) | isinstance(p.data, type(p.grad)) | p.__class__ is nn.Parameter | type(lr).__name__ == 'float'
    p.grad is None | p.grad is not None | p is None | lr is None | p.data is not None | p.data.grad is None | p.ndim > 1 | p.dim() == 1 | p.ndimension() == 1
    len(p.shape) > 1 | len(p.size()) > 1 | p.numel() > 4 | p.nelement() > 4 | p.shape == p.grad.shape | torch.is_same_size(p, p.grad) | p.is_same_size(p.grad)
    p.nbytes > 20 | p.itemsize == 4 | p.element_size() == 4 | p.is_cuda | p.is_cpu | p.is_mps | p.is_xpu | p.is_meta | p.device.type == 'cuda'
    p.device == torch.device('cpu') | str(p.device) == 'cpu' | p.get_device() == -1 | p.device.index is None | p.requires_grad | p.data.requires_grad
    p.grad.requires_grad | p.is_leaf | p.data.is_leaf | p.is_sparse | p.grad.is_sparse | p.layout is torch.strided | p.grad.layout is torch.sparse_coo
    p.layout == torch.sparse_csr | p.is_complex() | torch.is_complex(p) | p.is_floating_point() | p.is_signed() | p.is_quantized | p.is_nested | p.is_conj() | p.is_neg()
    p.is_contiguous() | p.data.is_contiguous() | p.is_contiguous(memory_format=torch.channels_last) | len(p.stride()) > 1 | p.stride() == (1, 3)
    p.type() == 'torch.FloatTensor' | p.grad.type(torch.float32).dtype is p.dtype | hasattr(p, 'is_expert') | getattr(p, 'is_expert', False)"""
ASKED = [o.strip() for line in ASKED.splitlines() for o in line.split('|')]

def asking(condition, by_helper):
    "A stepper that asks, by itself or by a helper, and one whose state tells what it asked"
    names = {'torch': torch, 'nn': torch.nn}
    rest = "    p.data.sub_(p.grad, alpha=lr*(1 + yes))\n    return {'yes': yes}\n"
    exec(f"def ask(p, lr): return bool({condition})\n"
         f"def by_itself(p, lr):\n    yes = 1. if {condition} else 0.\n{rest}"
         f"def by_helper(p, lr):\n    yes = 1. if ask(p, lr) else 0.\n{rest}", names)
    return names['by_helper' if by_helper else 'by_itself']

@pytest.mark.parametrize('by_helper', [False, True], ids=['itself', 'helper'])
@pytest.mark.parametrize('condition', ASKED)
def test_what_is_asked_is_answered(condition, by_helper):
    types = torch.float32, torch.bfloat16, torch.float64
    ps = [p for dtype in types for p in params([(3, 4), (5,), ()], dtype)]
    by_columns = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).t().contiguous().t()
    ps += [torch.nn.Parameter(by_columns), *params([(2, 3, 4, 4)])]
    grads = [[torch.ones_like(p) for p in ps]]
    f = asking(condition, by_helper)
    _, want, states = stepped('eager', ps, grads, f, lr=0.5)
    for engine in TRACED:
        _, got, others = stepped(engine, ps, grads, f, lr=0.5)
        assert others == states and all(map(torch.equal, got, want))

@pytest.mark.parametrize('condition, instead', [
    ('type(p) is nn.Parameter', 'isinstance'), ('nn.Parameter is type(p)', 'isinstance'), ('issubclass(type(p), torch.Tensor)', 'isinstance'),
    ('isinstance(p, torch.FloatTensor)', 'p.dtype'), ('p.grad.is_contiguous()', 'Ask the parameter'), ('p is p.data', 'that object'),
    ('type(p) is type(p.data)', 'that object'), ('{nn.Parameter: 1}.get(type(p))', 'look a type up'), ('type(p) in {nn.Parameter}', 'look a type up'), ('p.data_ptr() > 0', 'data_ptr'), ('id(p) > 0', 'which object')])
def test_what_cannot_be_answered_is_left_to_eager_with_what_to_ask(condition, instead):
    ps = params([(3, 4), (5,)])
    with pytest.raises(CantRun, match=instead):
        stepped('fused', ps, drawn_grads(ps), asking(condition, False), lr=0.5)
    same('auto', asking(condition, False), lr=0.5)

@engines
def test_steppers_that_ask_may_do_all_that_others_may(engine):
    def asks(p, lr, mom=0.9, avg=None):
        if not isinstance(avg, torch.Tensor): avg = torch.zeros_like(p)
        avg.mul_(mom).add_(p.grad)
        p.data -= lr*avg
        p.data = p.data.sub_(torch.relu_(avg.clone()), alpha=lr)
        half = p.data.mul(0.5)
        assert isinstance(half, torch.Tensor) and not half.requires_grad and p.requires_grad and not p.data.requires_grad
        p.data.copy_(half).mul_(2)
        return {'avg': avg}
    same(engine, asks, lr=0.1, most=1)
    def keeps(p, lr, seen=None):
        if isinstance(seen, torch.Tensor): p.data.sub_(seen, alpha=lr)
        p.data.add_(p.grad, alpha=lr)
        return {'seen': p.data}
    with pytest.raises(CantRun, match='has another name already'): same(engine, keeps, lr=0.1)
    same('auto', keeps, lr=0.1)


# Branches on a tensor's value: the message says the line to write, which does the same on every engine

BRANCHES = { # what is there, what comes after it, and the line that is said
    'min of a ratio': ("q = min(r1/r2, 10)", "q = (r1 / r2).clamp(max=10)"),
    'min, the number first': ("q = min(10., r1/r2)", "q = (r1 / r2).clamp(max=10.0)"),
    'max of a hyper-parameter': ("q = 1/max(r2, lr)", "q = 1 / r2.clamp(min=lr)"),
    'max of two and a number': ("q = max(r1, r2, 1e-3)", "q = torch.maximum(r1, r2).clamp(min=0.001)"),
    'no norm, no ratio': ("if r1 == 0 or r2 == 0: q = 1.\nelse: q = r1/r2", "q = torch.where((r1 == 0) | (r2 == 0), 1.0, r1 / r2)"),
    'no norm, and a largest ratio': ("if r1 == 0 or r2 == 0: q = 1.\nelse: q = min(r1/r2, 10)",
                                     "q = torch.where((r1 == 0) | (r2 == 0), 1.0, (r1 / r2).clamp(max=10))"),
    'both norms': ("if r1 > 0 and r2 > 0:\n    q = r1/r2\nelse:\n    q = 1.", "q = torch.where((r1 > 0) & (r2 > 0), r1 / r2, 1.0)"),
    'as an expression': ("q = r1/r2 if r1 != 0. and r2 != 0. else 1.", "q = torch.where((r1 != 0.0) & (r2 != 0.0), r1 / r2, 1.0)"),
    'over several lines': ("q = (r1/r2\n     if r2 > 0 else\n     1.)", "q = torch.where(r2 > 0, r1 / r2, 1.0)"),
    'truth of a tensor': ("q = r1/r2 if r2 else 1.", "q = torch.where(r2 != 0, r1 / r2, 1.0)"),
    'not': ("q = 1. if not r1 > 3 else 2.", "q = torch.where(~(r1 > 3), 1.0, 2.0)"),
    'chain': ("q = 1. if 0.5 < r1 < 3 else 2.", "q = torch.where((0.5 < r1) & (r1 < 3), 1.0, 2.0)"),
    'a number and a tensor': ("q = 1. if lr and r1 > 3 else 2.", "q = torch.where(bool(lr) & (r1 > 3), 1.0, 2.0)"),
    'three ways': ("if r1 > 4: q = 1.\nelif r1 > 2: q = 2.\nelse: q = 3.", "q = torch.where(r1 > 4, 1.0, torch.where(r1 > 2, 2.0, 3.0))"),
    'no else': ("q = 1.\nif r1 > 3: q = r1/3", "q = torch.where(r1 > 3, r1 / 3, q)"),
    'in place': ("q = 1.\nif r2 > 1.5: p.grad.mul_(1.5/r2)", "p.grad.mul_(torch.where(r2 > 1.5, 1.5 / r2, 1.0))"),
    'divided in place': ("q = 1.\nif r2 > 1.5: p.grad.div_(r2/1.5)", "p.grad.div_(torch.where(r2 > 1.5, r2 / 1.5, 1.0))"),
    'decay': ("q = 1.\nif r1 > 3: p.data.sub_(p.data, alpha=lr)", "p.data.sub_(torch.where(r1 > 3, p.data, 0.0), alpha=lr)"),
    'by an operator': ("q = 1.\nif r1 > 3: p.data *= 1 - lr", "p.data *= torch.where(r1 > 3, 1 - lr, 1.0)"),
    'skipped where there is NaN': ("q = 1.\nif torch.isnan(p.grad).any(): p.grad.zero_()", "p.grad.masked_fill_(torch.isnan(p.grad).any(), 0.0)"),
    'float': ("q = 1/float(r2)", "q = 1 / r2"),
    'item': ("q = r1.item()", "q = r1"),
    'math': ("q = math.sqrt(r1)", "q = torch.sqrt(r1)"),
}

def written(lines, name='f'):
    "A stepper of these lines, as if they were in a file"
    body = ['r1, r2 = p.data.norm(), p.grad.norm()', *lines, 'p.data.sub_(p.grad*q, alpha=lr)']
    text, file = '\n    '.join([f'def {name}(p, lr):', *body]) + '\n', f'<written {hash(tuple(lines))}>'
    linecache.cache[file] = len(text), None, text.splitlines(True), file
    names = {'torch': torch, 'math': math}
    exec(compile(text, file, 'exec'), names)
    return names[name]

@pytest.mark.parametrize('name', BRANCHES)
def test_the_line_to_write_instead_of_a_branch(name):
    there, line = BRANCHES[name]
    f = written(there.split('\n'))
    ps = params([(3, 4), (5,), (2, 2)])
    grads = drawn_grads(ps)
    if 'NaN' in name: grads[0][1][2] = float('nan')
    with pytest.raises(CantRun) as e: stepped('fused', ps, grads, f, lr=0.1)
    said = re.search(r'(?:Write|Choose with `torch.where`:|Keep it a tensor:) `(.*)`\. `engine', str(e.value))
    assert said and said[1] == line, str(e.value)
    first = there.split('\n')[0] # what comes before the branch
    g = written([first, line] if first == 'q = 1.' else [line])
    _, want, _ = stepped('eager', ps, grads, f, 4, lr=0.1)
    for engine in ('eager', *TRACED):
        _, got, _ = stepped(engine, ps, grads, g, 4, lr=0.1)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(got, want)), engine
    _, got, _ = stepped('auto', ps, grads, f, 4, lr=0.1)
    assert all(map(torch.equal, got, want))

@pytest.mark.parametrize('there, said', [
    ("q = 1.\nwhile r1 > 3: r1 = r1/2", "torch.where(r1 > 3, a, b)"), ("q = 1.\nif r1 > 3: return", "torch.where(r1 > 3, a, b)"),
    ("q = 1.\nif r1 > 3:\n    a = 2.\n    q = a", "torch.where(r1 > 3, a, b)"), ("q = 1.\nassert r1 < 100", "torch.where(r1 < 100, a, b)"),
    ("q = r1 and 1.", "torch.where(condition, a, b)"), ("q = sorted([r1, r2])[0]", "torch.where(condition, a, b)"),
    ("q = sum(r1.tolist() for _ in range(1))", "keep numbers as tensors")])
def test_where_no_line_does_it_the_condition_is_said(there, said):
    ps = params([(3, 4), (5,)])
    f = written(there.split('\n'))
    with pytest.raises(CantRun) as e: stepped('fused', ps, drawn_grads(ps), f, lr=0.1)
    assert said in str(e.value)

def test_without_a_source_the_message_is_general():
    names = {}
    exec("def f(p, lr):\n    if p.grad.norm() > 1: p.data.sub_(p.grad, alpha=lr)\n", names)
    ps = params([(3, 4)])
    with pytest.raises(CantRun, match=r'Choose with `torch.where\(condition, a, b\)`'):
        stepped('fused', ps, drawn_grads(ps), names['f'], lr=0.1)


# Whole optimizers: those that become kernels, and those that the eager engine runs, with what it says

@pytest.mark.parametrize('name', WILD)
def test_optimizers_in_the_wild(name):
    cbs, hypers, why = WILD[name]
    if why is None:
        for engine in TRACED: same(engine, cbs, steps=8, rtol=1e-5, **hypers) # sums are added in another order
        return
    same('auto', cbs, steps=8, **hypers)
    ps = params([(3, 4), (5,), ()])
    for engine in TRACED:
        with pytest.raises(CantRun, match=why): stepped(engine, ps, drawn_grads(ps), cbs, **hypers)
    assert all(map(torch.equal, ps, params([(3, 4), (5,), ()])))

@pytest.mark.parametrize('name', ['LAMB', 'LARC', 'course of 2019, LAMB'])
def test_the_line_that_is_said_changes_no_number(name):
    ps = params([(3, 4), (5,), ()])
    ps[1].data.zero_() # a norm of nothing
    grads = drawn_grads(ps, 8)
    results = [stepped('eager', ps, grads, WILD[k][0], 8, **WILD[k][1])[1] for k in (name, f'{name}, mended')]
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(*results))


@engines
def test_a_scale_that_is_state_of_a_parameter_without_dimensions(engine):
    "State of one number is as large as such a parameter; torch takes it for a number all the same"
    def grow(p, rate=None): return {'rate': p.data.new_full((), 0.5) if rate is None else rate*1.5}
    def step(p, rate): p.data.add_(p.grad, alpha=-rate)
    same(engine, [grow, step], dtype=torch.float64, most=1)
