"""Every operation gives on every engine what torch gives.

`python -m pytest tests/tracing/test_operations.py -k xlogy` tries one of them.
"""
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from on_engines import SPECIAL, TRACED, stepped, ulps

from optimcb import Optimizer
from optimcb.diagnosis import expressions
from optimcb.diagnosis.operations import applied
from optimcb.engines import triton_source
from optimcb.tracing import program
from optimcb.tracing.ops import OPS, REDUCTIONS, Reduction, of_nothing
from optimcb.tracing.reductions import of_row
from optimcb.tracing.tracer import FUNCTIONS, Tracer

engines = pytest.mark.parametrize('engine', TRACED)
# added in another order
REDUCED = {'sum', 'mean', 'std', 'var', 'norm', 'dist', 'norm 1', 'norm 3', 'vector_norm', 'standardized',
           'sum in float64', 'dot'}
DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
LEAVES_16_BITS = ('hypot of two', 'logit', 'number first', 'dot', 'share', 'div, trunc', 'power 0.5', 'power -0.5')


def named(name):
    f = getattr(torch, name, None)
    return (lambda *xs: f(*xs)) if callable(f) else (lambda x, *xs: getattr(x, name)(*xs))


ONE = """neg abs sign sqrt rsqrt reciprocal square exp exp2 expm1 log log2 log10 log1p sigmoid tanh erf erfc sin
    cos tan sinh cosh asin acos atan arcsinh arccosh arctanh floor ceil round trunc frac isnan isfinite
    isinf isposinf isneginf logical_not relu nan_to_num signbit logit clone absolute negative sgn fix sum
    mean norm max min amax amin any all std var count_nonzero zeros_like ones_like numel""".split()
TWO = """add sub mul div maximum minimum fmax fmin hypot copysign atan2 pow eq ne lt le gt ge logical_and
    logical_or logical_xor dist rsub true_divide subtract max min xlogy""".split()
def of_one(name):
    f = named(name)
    return lambda p, g: f(p)


def of_two(name):
    f = named(name)
    return lambda p, g: f(p, g)


def of_power(exponent): return lambda p, g: p**exponent


EXPRESSIONS = {
    **{k: of_one(k) for k in ONE}, **{f'{k} of two': of_two(k) for k in TWO},
    'addcmul': lambda p, g: torch.addcmul(p, g, g, value=0.3),
    'addcdiv': lambda p, g: p.addcdiv(g, g*g + 1, value=-0.3), 'lerp': lambda p, g: p.lerp(g, 0.3),
    'lerp back': lambda p, g: torch.lerp(p, g, 0.7), 'lerp by tensor': lambda p, g: torch.lerp(p, g, g),
    'clamp': lambda p, g: p.clamp(-0.5, 0.7), 'clamp by tensor': lambda p, g: torch.clamp(p, min=g),
    'clamp max': lambda p, g: p.clip(max=0.1), 'where': lambda p, g: torch.where(p > g, p, g),
    'where of numbers': lambda p, g: torch.where(p > 0, 1., 0.)*p, 'softplus': lambda p, g: F.softplus(p),
    'softplus, sharp': lambda p, g: F.softplus(p, 50.), 'relu': lambda p, g: F.relu(p),
    'silu': lambda p, g: F.silu(p), 'leaky': lambda p, g: F.leaky_relu(p),
    'hardtanh': lambda p, g: F.hardtanh(p), 'softshrink': lambda p, g: F.softshrink(p),
    'hardshrink': lambda p, g: F.hardshrink(p),
    **{f'power {e}': of_power(e) for e in (2, 3, 0.5, -0.5, -1, -2, 1.5, 0)},
    'cube_root': of_power(1/3), 'power of number': lambda p, g: 2.**p, 'number first': lambda p, g: 1/p - (1 - p),
    'masked': lambda p, g: p*(p*g > 0), 'share': lambda p, g: (p > 0).float().mean()*p,
    'and': lambda p, g: ((p > 0) & (g > 0)).to(p.dtype), 'xor': lambda p, g: ((p > 0) ^ (g > 0)).to(p.dtype),
    'not': lambda p, g: (~(p > 0)).float(), 'count': lambda p, g: (p > 0).sum()*p,
    'over count': lambda p, g: p/(g > 0).sum(), 'norm 1': lambda p, g: p.norm(1) + g,
    'norm inf': lambda p, g: torch.norm(p, float('inf')), 'norm 0': lambda p, g: p.norm(0),
    'norm 3': lambda p, g: torch.linalg.vector_norm(p, 3),
    'vector_norm': lambda p, g: torch.linalg.vector_norm(g)*p,
    'heaviside': lambda p, g: torch.heaviside(p, g), 'add alpha': lambda p, g: p.add(g, alpha=-0.37),
    'sub alpha': lambda p, g: torch.sub(p, g, alpha=0.37),
    'div, trunc': lambda p, g: torch.div(p, g, rounding_mode='trunc'),
    'rounded to half': lambda p, g: p.half().to(p.dtype) + g,
    'rounded to bfloat16': lambda p, g: p.to(torch.bfloat16).to(p.dtype) + g,
    'to integers': lambda p, g: (p.clamp(-5, 5).nan_to_num().long()*3).to(p.dtype),
    'masked_fill': lambda p, g: p.masked_fill(p > 0, 0.),
    'full_like': lambda p, g: torch.full_like(p, 0.1)*g,
    'nan_to_num': lambda p, g: torch.nan_to_num(p, 1., 2., 3.),
    'new_zeros': lambda p, g: p.new_zeros(p.shape) + g,
    'standardized': lambda p, g: (p - p.mean())/(p.std() + 1e-3),
    'sum in float64': lambda p, g: p.sum(dtype=torch.float64)*p, 'type_as': lambda p, g: (p > 0).type_as(p),
    'sizes': lambda p, g: p*(p.numel() + p.ndim + p.shape[0] + len(p) + p.size(0)),
    'dot': lambda p, g: (p*g).sum(), 'larger than the largest half': lambda p, g: p.abs().max()/g,
    'truths': lambda p, g: ((p > 0) + (g > 0)).to(p.dtype) + ((p > 0)*(g > 0)).to(p.dtype),
    'methods': lambda p, g: p.maximum(g) + p.clamp_min(g) - p.fmin(g),
    'detached': lambda p, g: p.detach().contiguous()*2}
EXPRESSIONS = MappingProxyType(EXPRESSIONS)


def values(dtype, special):
    a = torch.tensor(SPECIAL, dtype=torch.float64)
    r = torch.Generator().manual_seed(0)
    pairs = a.repeat(len(a)), a.repeat_interleave(len(a))
    p, g = (torch.cat([o, 3*torch.randn(1000, dtype=torch.float64, generator=r)]) for o in pairs)
    return [(o if special else o[len(a)**2:]).to(dtype) for o in (p, g)]


def check(name, dtype, special, engine):
    """To 2 units in the last place; another order of adding may cost more. In 16 bits a kernel computes in float32, so that
    its reference is eager's float32, rounded at the end."""
    (p, g), f = values(dtype, special), EXPRESSIONS[name]
    wide = engine == 'fused' and dtype in (torch.float16, torch.bfloat16)
    if wide and special and name in LEAVES_16_BITS: return # float32 goes beyond 16 bits on the way
    def out(p): return {'out': f(p.data, p.grad)}
    def of(engine, p, g): return stepped(engine, [p], [[g]], [out])[2][0]['out']
    want, got = of('eager', p.float(), g.float()) if wide else of('eager', p, g), of(engine, p, g)
    if not isinstance(want, torch.Tensor):
        assert got == want
        return
    if wide: want = want.to(got.dtype)
    if name in REDUCED and want.isfinite().all():
        rtol = 1e-5 if dtype == torch.float32 else 2e-2 if wide or dtype.itemsize == 2 else 1e-12
        assert torch.allclose(got, want, rtol=rtol), (dtype, special)
    else: assert ulps(got, want) <= (4 if name in REDUCED else 2), (dtype, special, ulps(got, want))


@engines
@pytest.mark.parametrize('name', EXPRESSIONS)
def test_every_operation_gives_what_torch_gives(name, engine):
    for dtype in DTYPES:
        for special in (False, True): check(name, dtype, special, engine)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_every_operation_without_vectors_of_functions(dtype, cache, monkeypatch):
    "As where the compiler can't make them of the C library's exponentials, logarithms, …"
    monkeypatch.setenv('CC', 'cc -D__clang__')
    for name in EXPRESSIONS: check(name, dtype, True, 'fused')


def untried() -> set[str]:
    "Operations and reductions of the tables that no expression tries."
    spelled = ' '.join([*EXPRESSIONS, 'cast', 'clamp_min', 'clamp_max', 'cube', 'add_alpha', 'sub_alpha'])
    return {o for o in (*OPS, *REDUCTIONS) if o not in spelled and o.replace('arc', 'a') not in spelled}


def test_every_operation_of_the_table_is_tried():
    assert not untried(), f'add {", ".join(untried())} to `EXPRESSIONS`, `ONE` or `TWO`: see `python -m tests.checklist`'


def test_names_are_torchs():
    def is_torchs(k): return any(hasattr(o, k) for o in (torch, torch.Tensor, F)) or k.startswith(('linalg', 'special'))
    assert all(map(is_torchs, FUNCTIONS))


def test_rows_register_themselves():
    "A row with its aliases, as function, method and in place"
    missing = {k for o in OPS.values() if hasattr(torch, o.name) for k in (o.name, *o.aliases) if k not in FUNCTIONS}
    assert not missing
    assert {'xlogy', 'xlogy_', 'special_xlogy'} <= FUNCTIONS.keys()


@engines
def test_aliases(engine):
    p, g = values(torch.float32, False)
    def step(p):
        return {'out': torch.special.xlogy(p.grad, p.data) + p.grad.xlogy(p.data),
                'same': p.data.clone().xlogy_(p.grad)}
    _, _, (state,) = stepped(engine, [p.abs()], [[g]], [step])
    assert torch.allclose(state['out'], 2*torch.xlogy(g, p.abs())) and torch.equal(state['same'].isnan(), g < 0)


@pytest.mark.parametrize('op', [o for o in OPS.values() if o.formula], ids=lambda o: o.name)
def test_formulas(op):
    "A row's formula is what it computes"
    xs = [torch.rand(5, dtype=torch.float64) + 0.5 for _ in range(op.arity)]
    if op.name in ('add_alpha', 'sub_alpha', 'addcmul', 'addcdiv'): xs[-1] = 0.3 # torch takes a number
    names = {'maximum': torch.maximum, 'minimum': torch.minimum} | {f'x{i}': x for i, x in enumerate(xs)}
    written = eval(op.formula.format(*(f'x{i}' for i in range(op.arity))), names)
    assert torch.allclose(op.run(*xs), written, rtol=1e-12)


@pytest.mark.parametrize('r', REDUCTIONS.values(), ids=lambda r: r.name)
def test_formulas_of_reductions(r):
    "A row's formula is what it computes of elements that are all the same"
    written = eval(r.formula.format('x'), {'numel': lambda: 7, 'x': 0.3})
    assert r.run(torch.full((7,), 0.3, dtype=torch.float64)).item() == pytest.approx(written)


PROD = Reduction('prod', 1, torch.prod, '{0} * {1}', '*', '{0} * {1}', 'tl.reduce({0}, 0, times)', 'PRODUCT',
                 '{0}**numel()')


@pytest.fixture
def prod(monkeypatch):
    "The row of another reduction, and what modules make of the rows when they are imported"
    monkeypatch.setitem(REDUCTIONS, 'prod', PROD)
    monkeypatch.setitem(FUNCTIONS, 'prod', of_row('prod'))
    monkeypatch.setattr(Tracer, 'prod', FUNCTIONS['prod'], raising=False)
    for module in (program, triton_source): monkeypatch.setattr(module, 'KNOWN', program.KNOWN | {'prod'})
    monkeypatch.setattr(expressions, 'OVER_ALL', expressions.OVER_ALL | {'prod'})


@engines
def test_a_row_is_all_that_a_reduction_needs(prod, engine):
    def step(p): return {'out': p.grad.prod(), 'scaled': p.data / p.grad.prod()}
    ps = [torch.rand(s, generator=torch.Generator().manual_seed(0)) for s in ((5,), (0,), (3, 4), (300, 200))]
    grads = [2**(3*p - 1.5).round() for p in ps] # products of these are exact
    for g in grads: g.view(-1)[60:] = 1
    _, _, states = stepped(engine, ps, [grads], [step])
    for s, p, g in zip(states, ps, grads):
        assert torch.equal(s['out'], g.prod()) and torch.equal(s['scaled'], p / g.prod())
    assert len({g.prod().item() for g in grads}) > 2


def test_a_row_is_all_that_a_reduction_is_written_with(prod):
    def scale(p): p.data.mul_(p.grad.prod())
    opt = Optimizer([torch.nn.Parameter(torch.rand(5))], [scale], lr=0.1)
    assert 'prod(grad)' in str(opt.formula) and 'reduction(*:x' in opt.kernel('cpu') and 'tl.reduce(x' in opt.kernel('cuda')
    two = expressions.number(2)
    assert applied('prod', [two]) == applied('pow', [two, expressions.call('numel')]) and of_nothing('prod', torch.int64) == 1
