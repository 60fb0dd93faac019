"Steppers as other people write them: they give on every engine what the eager one gives, and which become kernels is stated."
import warnings
from functools import partial

import pytest
import torch
from engines import TRACED, stepped, ulps
from helpers import params

engines = pytest.mark.parametrize('engine', TRACED)


def drawn_grads(ps, steps=4, seed=0):
    "Random gradients of each step"
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype) for p in ps] for _ in range(steps)]


def same(engine, cbs, steps=4, dtype=torch.float32, most=0, ps=None, **hypers):
    "Assert that an engine gives what eager gives, to `most` units in the last place"
    ps = params([(3, 4), (5,), ()], dtype) if ps is None else ps
    grads = drawn_grads(ps, steps)
    _, want, states = stepped('eager', ps, grads, cbs, steps, **hypers)
    opt, got, others = stepped(engine, ps, grads, cbs, steps, **hypers)
    assert all(ulps(a, b) <= most for a, b in zip(got, want)), [ulps(a, b) for a, b in zip(got, want)]
    for s, t in zip(states, others):
        assert s.keys() == t.keys()
        for k, v in s.items(): assert ulps(t[k], v) <= most if isinstance(v, torch.Tensor) else t[k] == v
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
