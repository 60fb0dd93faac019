"""The formula of a composition is what a step does: run as Python, in float64, it gives what the eager engine gives.

So it is right for every algorithm, for steppers of one's own, and for compositions that hypothesis draws.
"""
import math
import os
import re
from functools import partial

import formula_interpreter
import pytest
import torch
from cases import CASES
from formula_interpreter import FUNCTIONS
from helpers import params, set_grads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engines import drawn_stepper, instruction
from test_wrapping import PARTS

import optimcb as oc
from optimcb import SGD, Adam, Optimizer, once, sgd_step, step_stat
from optimcb.diagnosis.algebra import ONE, Sym, add, call, div, mul, neg, number, power, sub
from optimcb.diagnosis.formula import Formula, formulas
from optimcb.diagnosis.latex import latex
from optimcb.diagnosis.reading import look
from optimcb.diagnosis.rendering import text
from optimcb.tracing.rehearsal import Rehearsal

NAMES = {**FUNCTIONS, 'numel': lambda: 12}


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


def assert_well_formed(tex):
    "What opens closes"
    assert tex.count('{') == tex.count('}') and tex.count(r'\left') - tex.count(r'\leftarrow') == tex.count(r'\right')
    assert 'None' not in tex and tex.count(r'\begin') == tex.count(r'\end')


def follow_whole(make, steps, close=1e-12, shape=(3, 4), **hypers):
    "Run the one formula of an optimizer beside it, from before the first step, by its text alone"
    p, = params([shape], torch.float64)
    opt = make([p], lr=0.01, **hypers)
    opt.engine = 'eager'
    formula = opt.formula
    text = formula.text
    assert_well_formed(formula.latex)
    assert not re.search(r'\b[fF]\(', text), text
    f, q = formula_interpreter.Formula(text, opt.hypers[0]), p.data.clone()
    for i in range(steps):
        set_grads([p], i)
        q = f.step(q, p.grad)
        opt.step()
        assert torch.allclose(q, p.data, rtol=close, atol=close), (i, text)
        for k, got in f.state.items():
            want = opt.state[p].get(k)
            if got is None or want is None or k.endswith('_old'): continue
            want = torch.as_tensor(want, dtype=torch.float64)
            got = torch.as_tensor(got, dtype=torch.float64).broadcast_to(want.shape)
            assert torch.allclose(got, want, rtol=1e3*close, atol=1e3*close), (i, k, text)


ALGORITHMS = {k: a for k, a in vars(oc).items() if isinstance(a, oc.Algorithm)}
BY_MATRICES = {'SOAP', 'Shampoo', 'Muon'} # decompositions: rounding grows
SCHEDULES = dict(warmup=oc.warmup(5), long_warmup=oc.warmup(100), cosine=oc.cosine_decay(50, end=0.1, warm=7), inverse_sqrt=oc.inverse_sqrt(9))


BY_SHAPE = {'SOAP', 'Shampoo', 'Muon', 'Adafactor', 'SM3'} # they have a formula of their own for vectors
SHAPES = [pytest.param(name, shape, marks=() if shape == (3, 4) or name in BY_SHAPE else pytest.mark.slow, id=f'{name}-{shape}')
          for name in ALGORITHMS for shape in ((3, 4), (5,))]


@pytest.mark.parametrize('name, shape', SHAPES)
def test_the_formula_of_an_algorithm_is_what_it_does(name, shape):
    "In all steps, from the first one on"
    follow_whole(ALGORITHMS[name], 40, 1e-9 if name in BY_MATRICES else 1e-12, shape)


@pytest.mark.parametrize('name, ours', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_the_formula_of_an_algorithm_with_options_is_what_it_does(name, ours): follow_whole(ours, 20)


@pytest.mark.parametrize('start', [0., 1.])
def test_state_may_be_a_number_before_the_first_step_and_a_tensor_after_it(start):
    def mean_grad(p, mom=0.9, m=start): return {'m': mom*m + (1-mom)*p.grad}
    def step(p, lr, m): p.data.sub_(lr * m)

    follow_whole(partial(Optimizer, cbs=[mean_grad, step]), 5)
    formula = Optimizer(params([(3, 4)]), [mean_grad, step], lr=0.01).formula
    assert 'm = mom*m + (1 - mom)*grad' in formula.text.splitlines()


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('name', ['Adam', 'SGD', 'RAdam'])
def test_the_formula_of_a_schedule_holds_before_and_after_its_limits(name, schedule):
    follow_whole(ALGORITHMS[name].wrap(oc.scheduled(lr=SCHEDULES[schedule])), 120)


def test_the_formula_of_a_learning_rate_that_falls_with_the_steps():
    "Adafactor's is at most one over the root of the number of steps, from step 5 on for this one"
    follow_whole(lambda ps, lr: oc.Adafactor(ps, lr=0.5), 40)
    assert 'lr_hat = min(1/sqrt(step), lr)' in oc.Adafactor.formula.text


@pytest.mark.parametrize('options', [dict(slow_mom_warmup=9, slow_weight_warmup=20), dict(slow_mom_warmup=0)], ids=str)
def test_the_formula_of_options_that_are_reached_later(options): follow_whole(partial(oc.AdEMAMix, **options), 40)


WHOLE = {k: f for k, f in PARTS.items() if k != 'noise'} | dict(
    swa=partial(oc.swa_weights, swa_start=5, swa_every=3), ema=partial(oc.ema_weights, ema_start=40, ema_every=2),
    schedule_free=oc.schedule_free(), warm_up=oc.scheduled(lr=oc.warmup(5)))


WITH_BRANCHES = {'accumulate', 'swa', 'schedule_free', 'lookahead'} # parts whose branches meet those of RAdam
AROUND = [pytest.param(name, part, marks=() if name == 'Adam' or part in WITH_BRANCHES else pytest.mark.slow, id=f'{name}-{part}')
          for name in (ALGORITHMS if os.environ.get('OPTIMCB_CASES') else ['Adam', 'RAdam']) for part in WHOLE]


@pytest.mark.parametrize('name, part', AROUND)
def test_the_formula_of_a_part_around_a_rule_is_what_it_does(name, part):
    try: made = ALGORITHMS[name].wrap(WHOLE[part])
    except ValueError: return # it doesn't go with this rule
    follow_whole(made, 50 if part == 'ema' else 25, 1e-9 if name in BY_MATRICES else 1e-12)


# Drawn steppers: numbers with limits, branches, and names that are written again

def drawn_number(draw, names, depth):
    "Source of a number, from names"
    if depth == 0 or draw(st.integers(0, 3)) == 0: return draw(st.sampled_from([*names, '1', '2.5', '0.3']))
    x, y = (drawn_number(draw, names, depth - 1) for _ in range(2))
    return draw(st.sampled_from([f'min({x}, {y})', f'max({x}, {y})', f'({x} + {y})', f'({x} - {y})', f'({x} * {y})', f'({x} / 7)', f'math.sqrt(abs({x}))',
                                 f'({x} if {drawn_condition(draw, names)} else {y})']))


def drawn_condition(draw, names):
    k = draw(st.sampled_from([2, 5, 13, 40]))
    return draw(st.sampled_from([f'n < {k}', f'n >= {k}', f'n == {k}', f'n % {k} == 0', f'{draw(st.sampled_from(names))} > 0.7', 'other < lr*n']))


@st.composite
def drawn_source(draw):
    "Source of a stepper that keeps a count and another number, writes names again, and steps in one way or the other"
    lines, names = ['n = n + 1'], ['n', 'lr', 'other', 'mom']
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(['other', 'x', 'y']))
        line = f'{name} = {drawn_number(draw, names, 2)}'
        if draw(st.booleans()) and name in names: line = f'if {drawn_condition(draw, names)}: {line}'
        lines.append(line)
        names = list(dict.fromkeys([*names, name]))
    lines += ['other = min(other, 3.)', f'scale = {drawn_number(draw, names, 2)}', 'if avg is None: avg = torch.zeros_like(p.grad)']
    average = 'avg.mul_(mom).add_(p.grad, alpha=1 - mom)'
    lines.append(draw(st.sampled_from([average, f'if {drawn_condition(draw, names)}: {average}'])))
    step = 'p.data.add_({}, alpha=-lr*min(max(scale, -2.), 2.))'
    lines.append(f"if {drawn_condition(draw, names)}: {step.format('avg')}")
    lines.append(f"else: {step.format(draw(st.sampled_from(['p.grad', 'p.grad.sign()', 'avg'])))}")
    return '\n    '.join(['def drawn(p, lr, mom=0.9, n=0, other=0.5, avg=None):', *lines, "return {'n': n, 'other': other, 'avg': avg}"])


def drawn(few, many):
    "A test of `few` drawn cases by default, and of `many` among the slow ones; `OPTIMCB_CASES` sets how many"
    counts = [few, pytest.param(many, marks=pytest.mark.slow)]
    def decorated(test):
        def run(n_examples):
            n = int(os.environ.get('OPTIMCB_CASES', n_examples))
            settings(max_examples=n, deadline=None, suppress_health_check=list(HealthCheck))(test)()
        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize('n_examples', counts)(run)
    return decorated


@drawn(6, 25)
@given(source=drawn_source())
def test_formulas_of_drawn_steppers_hold_in_all_steps(source):
    "Or they say that they don't know"
    names = dict(math=math, torch=torch)
    exec(source, names)
    opt = Optimizer(params([(3, 4)], torch.float64), names['drawn'], lr=0.1, engine='eager', check=False)
    if re.search('it has .*(branches|cases)', opt.formula.text): return
    follow_whole(partial(Optimizer, cbs=[names['drawn']], check=False), 60, close=1e-10)


def test_state_starts_where_the_formula_says():
    assert oc.NAdam.formula.starts['mom_prod'] == number(1) and '# before the first step: mom_prod = 1' in oc.NAdam.formula.text
    assert oc.Yogi.formula.starts['grad_avg'] == Sym('init_avg') and oc.AMSGrad.formula.starts['sqr_max'] is None
    assert Adam.formula.starts['grad_avg'] == Adam.formula.starts['step'] == number(0)


def test_latex_says_what_the_text_says():
    "Each line, each condition, and what holds for all of them"
    for make in (Adam.wrap(oc.scheduled(lr=oc.cosine_decay(50, warm=7))), oc.RAdam, SGD.wrap(oc.schedule_free()), oc.SOAP, SGD.wrap(oc.accumulate)):
        f = make.formula
        tex = f.latex
        for name, e, _ in f.lines: assert latex(e) in tex, name
        assert tex.count(r'\leftarrow') == len(f.lines) and tex.count(r'\text{if } ') >= f.text.count('if ') - f.text.count(' if ')
        assert tex.count('before the first step') == f.text.count('before the first step') and tex.count(r'\text{while } ') == len(f.assumed)


@pytest.mark.parametrize('name, ours', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_formulas_of_algorithms_give_their_steps(name, ours):
    p, = params([(3, 4)], torch.float64)
    opt = ours([p], lr=0.01)
    opt.engine = 'eager'
    follow(opt, p, 8)


@drawn(60, 300)
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


def test_kinds_of_steps_are_branches_of_one_formula():
    "With the steps in which each is taken"
    f, = formulas(Rehearsal(oc.RAdam.composition, {**oc.RAdam.hypers, 'lr': 0.1}))
    early, later = f.items[-1].no, f.items[-1].yes
    assert f.items[-1].when == ('from step 6 on', 'in steps 1 to 5') and f.when == ''
    assert any('sqrt_avg' in str(o) or 'sqr_avg' in str(o) for o in later) and not any('sqr_avg' in str(o) for o in early)
    composition = oc.Composition([oc.slow_start, sgd_step, oc.lookahead_step])
    f, = formulas(Rehearsal(composition, {**composition.defaults, 'lr': 0.1}))
    assert [line.partition('#')[2] for line in f.text.splitlines() if line.startswith('if')] == [' in step 1', ' in every 6th step']
    assert [f.when for f in formulas(Rehearsal(Adam.composition, {**Adam.hypers, 'lr': 0.1}))] == ['']


def scaled_by(scale):
    def scaled(p, lr, step): p.data.sub_(p.grad, alpha=scale(lr, step))
    return [step_stat, scaled]


@pytest.mark.parametrize('scale, text', [
    (lambda lr, step: lr*min(1, step/5), 'p - lr*min(1, step/5)*grad'),
    (lambda lr, step: lr*min(1, step/500), 'p - lr*min(1, step/500)*grad'),
    (lambda lr, step: lr*max(0, step-5), 'p - lr*max(0, step - 5)*grad'),
    (lambda lr, step: lr*max(0, 1 - step/50), 'p - lr*max(0, 1 - step/50)*grad'),
    (lambda lr, step: lr if step < 3 else 2*lr, 'p - lr*(1 if step < 3 else 2)*grad'),
    (lambda lr, step: lr if step < 300 else lr*0.1, 'p - lr*(1 if step < 300 else 0.1)*grad'),
    (lambda lr, step: lr*0.1**(step >= 20), 'p - lr*(0.1 if step >= 20 else 1)*grad'),
    (lambda lr, step: lr if step < 5 else lr/2 if step < 40 else lr/3, 'p - lr*(1 if step < 5 else 1/2 if step < 40 else 1/3)*grad'),
    (lambda lr, step: lr*(step == 3), 'p - lr*(1 if step == 3 else 0)*grad'),
    (lambda lr, step: lr*math.sqrt(1 - 0.9**step), 'p - lr*sqrt(1 - 0.9**step)*grad'),
    (lambda lr, step: lr*(step//10 + 1), 'p - lr*(floor(step/10) + 1)*grad'),
    (lambda lr, step: lr*math.floor(step/3), 'p - lr*floor(step/3)*grad'),
    (lambda lr, step: +lr*(1 + step % 10), 'p - lr*(1 + mod(step, 10))*grad'),
    (lambda lr, step: lr if step % 2 else lr/2, 'p - lr*(1/2 if mod(step, 2) == 0 else 1)*grad')], ids=range(14))
def test_what_python_decides_by_a_number_is_a_case(scale, text):
    "Also where it is decided otherwise long after the steps that are rehearsed"
    opt = Optimizer(params(), scaled_by(scale), lr=0.1)
    assert opt.formula.text == f'step = step + 1\np = {text}'
    follow_whole(partial(Optimizer, cbs=scaled_by(scale)), 60)


@pytest.mark.parametrize('scale, text', [
    (lambda lr, step: lr/float(step), 'f(step)'), (lambda lr, step: sum([lr for _ in range(step)]), 'f(step)'),
    (lambda lr, step: lr*int(step/3), 'f(step)'), (lambda lr, step: [lr, lr/2][step % 2], 'f(step)'),
    (lambda lr, step: lr*math.gamma(step), 'f(step)')], ids=range(5))
def test_what_cant_be_read_off_is_said_to_be_so(scale, text):
    "With whose it is, and why"
    f = Optimizer(params(), scaled_by(scale), lr=0.1).formula
    line, note = f.text.splitlines()[1:]
    assert line.startswith('p = p ') and text in line and note.startswith(f'# {text} is what') and 'stepper `scaled` works out, which can\'t be said' in note
    assert 'scaled' in f.latex


def test_what_only_holds_for_a_hyper_parameter_says_so():
    "Whether it is asked for or taken out of its name"
    def taken(p, lr): p.data.sub_(p.grad, alpha=2*float(lr))
    def looped(p, lr, times=3):
        for _ in range(times): p.data.sub_(p.grad, alpha=lr)
    def asked(p, lr, kind=2.): p.data.sub_(p.grad if kind == 2. else p.grad.sign(), alpha=lr)
    def said(f): return Optimizer(params(), f, lr=0.1).formula.text.splitlines()
    assert said(taken) == ['# while lr == 0.1', 'p = p - 0.2*grad']
    assert said(looped)[0] == '# while times == 3' and said(asked) == ['# while kind == 2', 'p = p - lr*grad']


def test_more_branches_than_are_looked_at_are_said_to_be_there():
    def stairs(p, lr, step):
        k = 1
        while step >= 2*k: k += 1
        p.data.sub_(p.grad, alpha=lr/k)
    f = Optimizer(params(), [step_stat, stairs], lr=0.1).formula
    assert re.search(r'f\((lr, )?step\)', f.text) and '`stairs` works out, which can\'t be said: it has' in f.text


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
