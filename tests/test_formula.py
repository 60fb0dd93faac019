"""The formula of a composition is what a step does: run as Python, in float64, it gives what the eager engine gives.

So it is right for every algorithm, for steppers of one's own, and for compositions that hypothesis draws.
"""
import math
import os
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from helpers import params, set_grads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engines import drawn_stepper, instruction

import optimcb as oc
from optimcb import Adam, Optimizer, once, sgd_step, step_stat
from optimcb.expression import ONE, Sym, add, call, div, latex, mul, neg, number, power, sub, text
from optimcb.formula import Formula, formulas, look
from optimcb.rehearsal import Rehearsal


def of_tensors(f): return lambda *xs: f(*(torch.as_tensor(x, dtype=None if isinstance(x, torch.Tensor) else torch.float64) for x in xs))


NAMES = {k: of_tensors(getattr(torch, k)) for k in 'sqrt exp abs maximum minimum sign where isnan trunc amax amin logical_not'.split()}
NAMES |= {k: of_tensors(f) for k, f in dict(norm=torch.linalg.vector_norm, rms=lambda x: x.square().mean().sqrt(), softplus=lambda x, beta: F.softplus(x, beta.item()),
                                            sum=lambda x: x.double().sum(), mean=lambda x: x.double().mean()).items()}
NAMES |= dict(numel=lambda: 12, float=lambda x: torch.as_tensor(x).double(), total=lambda x: x, nan=math.nan, inf=math.inf)


def follow(opt, p, steps, close=1e-12):
    "Run the formula of each step beside the step itself"
    for i in range(steps):
        set_grads([p], i)
        formula = Formula(look(Rehearsal(opt.composition, opt.hypers[0], p, opt.state[p])))
        known = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in opt.state[p].items()}
        names = {**NAMES, **opt.hypers[0], **known, 'p': p.data.clone(), 'grad': p.grad.clone()}
        exec(formula.text, names)
        opt.step()
        for k, want in {'p': p.data, **opt.state[p]}.items():
            want = torch.as_tensor(want, dtype=torch.float64)
            got = torch.as_tensor(names[k], dtype=torch.float64).broadcast_to(want.shape)
            assert torch.allclose(got, want, rtol=close, atol=close, equal_nan=True), (i, k, formula)


@pytest.mark.parametrize('name, ours', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_formulas_of_algorithms_give_their_steps(name, ours):
    p, = params([(3, 4)], torch.float64)
    opt = ours([p], lr=0.01)
    opt.engine = 'eager'
    follow(opt, p, 8)


@settings(max_examples=int(os.environ.get('OPTIMCB_CASES', 300)), deadline=None, suppress_health_check=list(HealthCheck))
@given(instructions=st.lists(instruction, min_size=1, max_size=6).map(tuple), lr=st.sampled_from([0.1, 3e-4]))
def test_formulas_of_drawn_compositions_give_their_steps(instructions, lr):
    p, = params([(3, 4)], torch.float64)
    follow(Optimizer([p], partial(drawn_stepper, instructions=instructions), lr=lr, engine='eager', check=False), p, 3, close=1e-6)


def swap(p, a=None, b=None):
    if a is None: return {'a': p.grad.clone(), 'b': p.data.clone()}
    return {'a': b.clone(), 'b': a.clone()}


def sharp(p, lr, step, power=0.5, floor=1e-3):
    scale = max(floor, math.sqrt(step)**-power) * math.exp(-step/10)
    p.data.sub_(p.grad, alpha=lr*scale)


def behind(p, lr, last=None):
    if last is None: last = torch.zeros_like(p.grad)
    p.data.sub_(last, alpha=lr)
    return {'last': p.grad.clone()}


def every_other(p, lr, step):
    if step % 2: p.data.sub_(p.grad, alpha=lr)


def clip(p, max_norm=0.1):
    total = yield (p.grad**2).sum()
    p.grad = p.grad * (max_norm/(total.sqrt() + 1e-6)).clamp(max=1.)


@pytest.mark.parametrize('cbs', [[swap, sgd_step], [step_stat, sharp], [behind], [step_stat, every_other], [clip, sgd_step],
                                 [oc.slow_start, sgd_step, oc.lookahead_step], [lambda p: once(before=p.data.clone()), sgd_step, lambda p, before: p.data.add_(p.data - before)],
                                 [lambda p, lr: once(lr=lr/2), lambda p, lr: once(lr=lr/3), sgd_step], [lambda p: once(eps=0.), lambda p, eps, lr: p.data.sub_(p.grad/(p.grad.abs() + eps + 1), alpha=lr)]],
                         ids=lambda cbs: oc.Composition(cbs).labels[-1])
def test_formulas_of_ones_own_steppers_give_their_steps(cbs):
    p, = params([(3, 4)], torch.float64)
    opt = Optimizer([p], cbs, lr=0.1, engine='eager')
    if cbs[0] is clip: opt.engine = 'auto'
    follow(opt, p, 8)


def test_adam_reads_as_in_the_paper():
    f = Adam.formula
    assert f.text.splitlines() == [
        'p = (1 - lr*wd)*p', 'grad_avg = mom*grad_avg + (1 - mom)*grad', 'sqr_avg = sqr_mom*sqr_avg + (1 - sqr_mom)*grad**2', 'step = step + 1',
        'p = p - lr/(1 - mom**step)*grad_avg/(sqrt(sqr_avg/(1 - sqr_mom**step)) + eps)']
    assert r'm &\leftarrow \beta_1 \, m + \left(1 - \beta_1\right) \, g \\' in f.latex
    assert r'\theta - \frac{\eta}{1 - \beta_1^{t}} \, \frac{m}{\sqrt{\frac{v}{1 - \beta_2^{t}}} + \epsilon}' in f.latex
    assert f._repr_latex_().startswith('$$') and str(f) == repr(f) == f.text


def test_latex_is_well_formed():
    "What opens closes, for every algorithm"
    for name, ours, _ in CASES:
        s = ours(params([(3, 4)]), lr=0.1).formula.latex
        assert s.count('{') == s.count('}') and s.count(r'\left') - s.count(r'\leftarrow') == s.count(r'\right'), name
        assert 'None' not in s and s.count(r'\begin') == s.count(r'\end')


def test_kinds_of_steps_have_formulas_of_their_own():
    h = {**oc.RAdam.hypers, 'lr': 0.1}
    later, early = formulas(Rehearsal(oc.RAdam.composition, h))
    assert (later.when, early.when) == ('from step 6 on', 'in steps 1 to 5') and 'sqrt' in later.text and 'sqrt' not in early.text
    look = oc.Composition([oc.slow_start, sgd_step, oc.lookahead_step])
    assert [f.when for f in formulas(Rehearsal(look, {**look.defaults, 'lr': 0.1}))] == ['in most steps', 'in every 6th step', 'in step 1']
    assert [f.when for f in formulas(Rehearsal(Adam.composition, {**Adam.hypers, 'lr': 0.1}))] == ['']


@pytest.mark.parametrize('scale, text', [
    (lambda lr, step: lr/float(step), 'p - f(step)*lr*grad'), (lambda lr, step: lr*min(1, step/5), 'p - f(lr, step)*grad'), (lambda lr, step: lr*min(1, step/500), 'p - lr*step/500*grad'),
    (lambda lr, step: lr*max(0, step-5), 'p + f(lr, step)*grad'), (lambda lr, step: lr if step < 3 else 2*lr, 'p - f(lr, step)*grad'),
    (lambda lr, step: lr*math.sqrt(1 - 0.9**step), 'p - lr*sqrt(1 - 0.9**step)*grad'), (lambda lr, step: lr*(step//10 + 1), 'p - lr*(floor(step/10) + 1)*grad'),
    (lambda lr, step: +lr*(1 + step % 10), 'p - lr*(1 + mod(step, 10))*grad'), (lambda lr, step: sum([lr for _ in range(step)]), 'p - f(step)*lr*grad'),
    (lambda lr, step: [lr, lr/2][step % 2], 'p - f(lr, step)*grad')], ids=range(10))
def test_what_python_works_out_in_another_way_from_step_to_step_is_no_constant(scale, text):
    opt = Optimizer(params(), [step_stat, lambda p, lr, step: p.data.sub_(p.grad, alpha=scale(lr, step))], lr=0.1)
    assert opt.formula.text == f'step = step + 1\np = {text}'


def test_a_learning_rate_on_a_device_has_its_name():
    assert Optimizer(params(), sgd_step, lr=torch.tensor(0.1)).formula.text == 'p = p - lr*grad'


def test_math_is_left_as_it_was():
    before = math.sqrt
    assert Adam.formula and math.sqrt is before
    with pytest.raises(oc.MissingName): look(Rehearsal(oc.Composition([oc.adam_step]), {'lr': 0.1}))
    assert math.sqrt is before and math.sqrt(2) == 2**0.5


a, b, n = Sym('a'), Sym('b'), number
x, y = Sym('x', False), Sym('y', False)


@pytest.mark.parametrize('e, python, tex', [
    (sub(ONE, a), '1 - a', '1 - a'), (neg(sub(a, b)), '-(a - b)', r'-\left(a - b\right)'), (add(x, x), '2*x', r'2 \, x'), (sub(x, x), '0', '0'),
    (mul(x, a, n(2.)), '2*a*x', r'2 \, a \, x'), (div(mul(a, x), mul(b, y)), 'a/b*x/y', r'\frac{a}{b} \, \frac{x}{y}'), (div(mul(sub(ONE, a), x), sub(ONE, a)), 'x', 'x'),
    (mul(a, power(a, n(-1))), '1', '1'), (power(power(x, n(2)), n(-1)), '1/x**2', r'\frac{1}{x^{2}}'), (power(neg(x), n(2)), 'x**2', 'x^{2}'), (power(add(x, a), n(2)), '(x + a)**2', r'\left(x + a\right)^{2}'),
    (power(a, add(b, ONE)), 'a**(b + 1)', 'a^{b + 1}'), (div(x, div(a, b)), '1/a*b*x', r'\frac{b}{a} \, x'), (n(1e-5), '1e-05', r'1 \cdot 10^{-5}'),
    (call('where', call('gt', x, a), x, neg(x)), 'where(x > a, x, -x)', r'\begin{cases} x & \text{if } x > a \\ -x & \text{else} \end{cases}'),
    (mul(call('gt', x, a), x), '(x > a)*x', r'\left(x > a\right) \, x'), (mul(call('sum', mul(x, y)), power(call('numel'), n(-1))), 'mean(x*y)', r'\overline{x \, y}'),
    (power(call('sum', power(x, n(2))), n(0.5)), None, None)])
def test_expressions_are_simplified(e, python, tex):
    if python is None: return
    values = dict(a=0.3, b=1.7, x=torch.tensor([0.5, -2.]), y=torch.tensor([3., 0.1]))
    got, want = eval(text(e), {**NAMES, **values}), eval(python, {**NAMES, **values})
    assert torch.allclose(torch.as_tensor(got), torch.as_tensor(want))
    assert latex(e) == tex
