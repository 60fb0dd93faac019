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
from optimcb.diagnosis.algebra import add, div, mul, neg, power, sub
from optimcb.diagnosis.expressions import ONE, Sym, call, number
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
            if isinstance(want, str):
                assert got == want
                continue
            want = torch.as_tensor(want, dtype=torch.float64)
            got = torch.as_tensor(got, dtype=torch.float64).broadcast_to(want.shape)
            assert torch.allclose(got, want, rtol=1e3*close, atol=1e3*close), (i, k, text)


ALGORITHMS = {k: a for k, a in vars(oc).items() if isinstance(a, oc.Algorithm)}
BY_MATRICES = {'SOAP', 'Shampoo', 'Muon'} # decompositions: rounding grows
SCHEDULES = dict(warmup=oc.warmup(5), long_warmup=oc.warmup(100), cosine=oc.cosine_decay(50, end=0.1, warm=7),
                 inverse_sqrt=oc.inverse_sqrt(9))


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
    return draw(st.sampled_from([f'n < {k}', f'n >= {k}', f'n == {k}', f'n % {k} == 0',
                                 f'{draw(st.sampled_from(names))} > 0.7', 'other < lr*n']))


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
    lines += ['other = min(other, 3.)', f'scale = {drawn_number(draw, names, 2)}',
              'if avg is None: avg = torch.zeros_like(p.grad)']
    average = 'avg.mul_(mom).add_(p.grad, alpha=1 - mom)'
    lines.append(draw(st.sampled_from([average, f'if {drawn_condition(draw, names)}: {average}'])))
    step = 'p.data.add_({}, alpha=-lr*min(max(scale, -2.), 2.))'
    lines.append(f"if {drawn_condition(draw, names)}: {step.format('avg')}")
    lines.append(f"else: {step.format(draw(st.sampled_from(['p.grad', 'p.grad.sign()', 'avg'])))}")
    return '\n    '.join(['def drawn(p, lr, mom=0.9, n=0, other=0.5, avg=None):', *lines,
                          "return {'n': n, 'other': other, 'avg': avg}"])


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


# Parameters of several shapes

MANY = (16, 8), (8, 16), (5,), (3, 4, 2), (2, 3, 3, 2)


def follow_shapes(make, text=None, steps=12, close=1e-12, shapes=MANY, lr=0.01):
    "Run one formula beside each of an optimizer's parameters: the optimizer's, or that of an algorithm without any"
    ps = params(shapes, torch.float64)
    opt = make(ps, lr=lr)
    opt.engine = 'eager'
    text = text or opt.formula.text
    assert not re.search(r'\b[fF]\(', text), text
    runs, qs = [formula_interpreter.Formula(text, opt.hypers[0]) for _ in ps], [p.data.clone() for p in ps]
    for i in range(steps):
        set_grads(ps, i)
        qs = [f.step(q, p.grad) for f, q, p in zip(runs, qs, ps)]
        opt.step()
        for q, p in zip(qs, ps): assert torch.allclose(q, p.data, rtol=close, atol=close), (i, tuple(p.shape), text)


BY_ALL = {'Prodigy', 'DAdaptAdam', 'DAdaptSGD'} # they sum over all parameters, which a formula of one can't
BY_SHAPES = sorted(BY_SHAPE)
EACH = [pytest.param(k, marks=() if k in BY_SHAPE else pytest.mark.slow) for k in ALGORITHMS if k not in BY_ALL]


@pytest.mark.parametrize('name', EACH)
def test_one_formula_holds_for_parameters_of_all_shapes(name):
    "That of an optimizer, and that of its algorithm, which knows of no parameters"
    make, close = ALGORITHMS[name], 1e-7 if name in BY_MATRICES else 1e-12
    follow_shapes(make, close=close)
    follow_shapes(make, make.formula.text, close=close)


MATRIX_OPTIONS = dict(match_rms=partial(oc.Muon, match_rms=True), stacks=partial(oc.Muon, kernel_ndim=5), plain=partial(oc.Muon, nesterov=False),
                      no_momentum=partial(oc.Adafactor, scale_parameter=False), agc=SGD.wrap(PARTS['agc']), soap=partial(oc.SOAP, refresh_steps=3))


@pytest.mark.parametrize('make', MATRIX_OPTIONS.values(), ids=MATRIX_OPTIONS)
def test_formulas_of_options_for_matrices_hold_for_all_shapes(make): follow_shapes(make, close=1e-7)


def test_the_formula_of_muon_says_rows_and_columns():
    assert 'sqrt(max(1, p.shape[0]/prod(p.shape[1:])))' in oc.Muon.formula.text and 'if p.ndim >= 2:' in oc.Muon.formula.text
    tex = oc.Muon.formula.latex
    assert r'\sqrt{\max\left(1, \frac{n_{0}}{\prod n_{1:}}\right)}' in tex
    assert_well_formed(tex)


def by_shape(scale):
    def stepped(p, lr): p.data.sub_(p.grad, alpha=lr*scale(p))
    return stepped


def rect(p):
    if p.shape[0] > p.shape[-1]: return 2
    return 1


def rows_over_columns(p): return p.size(0)/p.size(-1)
def by_dims(p): return 0.5 if p.ndim == 1 else 3. if p.dim() >= 4 else 1.
def in_table(p): return {1: 0.5, 2: 1., 3: 2., 4: 3.}[p.ndim]
def squares(p): return 1. if p.ndim >= 2 and p.shape[0] == p.shape[1] else 0.5
def by_len(p): return 0.5 if len(p.shape) < 3 else 1.
def of_grad(p): return 1/p.grad.shape[0] + 1/p.grad.numel()


OF_SHAPE = dict(
    fan=(lambda p: 1/p.shape[-1], 'p - lr/p.shape[-1]*grad'), numel=(lambda p: 1/math.sqrt(p.numel()), 'p - lr/sqrt(p.numel())*grad'),
    rect=(rect, 'p - lr*(2 if p.shape[-1] < p.shape[0] else 1)*grad'), sizes=(rows_over_columns, 'p - lr*p.shape[0]/p.shape[-1]*grad'),
    half=(lambda p: 0.5/p.size(0), 'p - 0.5*lr/p.shape[0]*grad'), fan_in=(lambda p: 1/max(1, math.prod(p.shape[1:])), 'p - lr/prod(p.shape[1:])*grad'),
    last_two=(lambda p: 1/sum(p.shape[-2:]), None), sum=(lambda p: 1/sum(p.shape), None), largest=(lambda p: 1/max(p.shape), None),
    mean=(lambda p: 1/(sum(p.shape)/p.ndim), None), large=(lambda p: 0.1 if p.numel() > 10**6 else 1., None), rect_or_1=(lambda p: max(1, p.shape[0]/p.shape[-1])**0.5, None),
    in_table=(in_table, None), dims_in=(lambda p: 2. if p.ndim in (2, 4) else 1., None), squares=(squares, None), halves=(lambda p: (p.shape[0]//2 + 1)/(p.shape[0] % 3 + 1), None),
    power=(lambda p: 0.5**p.ndim, None), by_dims=(by_dims, None), by_len=(by_len, None), of_grad=(of_grad, None), ones=(lambda p: 1. if p.shape[0] > 1 else 0., None), inverse=(lambda p: p.numel()**-0.5, None))


@pytest.mark.parametrize('scale, said', OF_SHAPE.values(), ids=OF_SHAPE)
def test_what_a_stepper_takes_of_the_shape_has_a_name(scale, said):
    "Whoever's shape it is: of an algorithm without parameters, and of one with several"
    algorithm = oc.algorithm('Mine', [by_shape(scale)])
    text = algorithm.formula.text
    if said: assert text == f'p = {said}'
    follow_shapes(algorithm, text)
    follow_shapes(algorithm, shapes=((4, 10), (4, 20), (9, 3)))
    follow_shapes(algorithm)


def kept(p, lr, avg=None, n=0):
    if avg is None: avg = torch.zeros_like(p.grad)
    avg = avg*0.9 + p.grad
    if p.ndim < 2: n = n + 1
    p.data.sub_(avg if p.ndim >= 2 else avg.sign(), alpha=lr/(1 + n)/p.shape[-1])
    return {'avg': avg, 'n': n}


def only_vectors_keep(p, lr, step, avg=None):
    if p.ndim > 1:
        p.data.sub_(p.grad, alpha=lr*min(1, step/5))
        return None
    avg = p.grad.clone() if avg is None else avg*0.9 + p.grad
    p.data.sub_(avg, alpha=lr)
    return {'avg': avg}


@pytest.mark.parametrize('cbs', [[kept], [step_stat, only_vectors_keep]], ids=['kept', 'only_vectors_keep'])
def test_state_may_be_of_some_shapes_only(cbs):
    follow_shapes(oc.algorithm('Mine', cbs))
    follow_shapes(oc.algorithm('Mine', cbs), oc.algorithm('Mine', cbs).formula.text)


@pytest.mark.parametrize('scale', [lambda p: 1/len(p), lambda p: float(p.shape[0]), lambda p: 1/p.stride()[0], lambda p: math.gamma(p.shape[-1]/9)], ids=range(4))
def test_what_is_taken_out_of_the_shape_is_said_to_depend_on_it(scale):
    for f in (oc.algorithm('Mine', [by_shape(scale)]).formula,
              Optimizer(params([(4, 10), (4, 20)]), by_shape(scale), lr=0.1).formula):
        assert 'f(p.shape' in f.text and "can't be written as a formula: it depends on the shape" in f.text and 'shape' in f.latex


def test_a_formula_says_for_which_dimensions_it_holds():
    f = Optimizer(params([(4, 10), (3, 3)]), by_shape(by_dims), lr=0.1).formula
    assert f.text.splitlines() == ['# while p.ndim == 2', 'p = p - lr*grad'] and r'\dim \theta' in f.latex
    assert oc.algorithm('Mine', [by_shape(by_len)]).formula.text.startswith('# while p.ndim <= 4')
    def of_matrices(p, lr):
        rows, columns = p.shape
        p.data.sub_(p.grad, alpha=lr*rows/columns)
    follow_shapes(oc.algorithm('Mine', [of_matrices]), shapes=((4, 10), (10, 4)))
    assert oc.algorithm('Mine', [of_matrices]).formula.text == 'p = p - lr*p.shape[0]/p.shape[1]*grad'


def test_explained_formulas_hold_for_all_parameters_that_they_are_of():
    ps = params(MANY, torch.float64)
    for f in oc.Muon(ps, lr=0.1).explain().formulas: assert 'p.shape' in f.text or 'p.ndim < 2' in f.text
    dims = [f.text.splitlines()[0] for f in Optimizer(ps, by_shape(by_dims), lr=0.1).explain().formulas]
    assert sorted(dims) == [f'# while p.ndim == {n}' for n in (1, 2, 3, 4)]
    f, = Optimizer(ps, by_shape(rows_over_columns), lr=0.1).explain().formulas
    assert f.when == '' and f.text == 'p = p - lr*p.shape[0]/p.shape[-1]*grad'


def drawn_of_shape(draw, depth):
    "Source of a number, from a shape"
    atoms = ['p.shape[0]', 'p.shape[-1]', 'p.size(0)', 'p.numel()', 'p.ndim', 'len(p.shape)',
             'math.prod(p.shape[1:])', 'max(p.shape)', '2', '0.5']
    if depth == 0 or draw(st.integers(0, 3)) == 0: return draw(st.sampled_from(atoms))
    x, y, a, b = (drawn_of_shape(draw, depth - 1) for _ in range(4))
    return draw(st.sampled_from([f'({x} + {y})', f'({x} * {y})', f'({x} / {y})', f'min({x}, {y})',
                                 f'max({x}, {y})', f'math.sqrt({x})', f'({x} if {a} > {b} else {y})']))


@st.composite
def drawn_source_of_shape(draw):
    return f'def drawn(p, lr): p.data.sub_(p.grad, alpha=lr*({drawn_of_shape(draw, 2)})/100)'


@drawn(8, 60)
@given(source=drawn_source_of_shape())
def test_formulas_of_drawn_numbers_of_the_shape_hold(source):
    names = dict(math=math)
    exec(source, names)
    opt = Optimizer(params(MANY, torch.float64), names['drawn'], lr=0.1, check=False)
    if re.search(r'it has .*(branches|cases)', opt.formula.text): return
    follow_shapes(partial(Optimizer, cbs=[names['drawn']], check=False), steps=2, close=1e-9)


# An unknown number keeps its sign

def rounded(step): return round(step/3)
def rest(step): return divmod(step, 3)[1]
def pole(step):
    try: return 1/(step - 2)
    except ZeroDivisionError: return 0.


@pytest.mark.parametrize('f', [rounded, rest, pole])
def test_what_cant_be_said_is_taken_off_where_the_stepper_takes_it_off(f):
    "Executed with the function in its place"
    for way, sign in (('sub_', '-'), ('add_', '+')):
        def scaled(p, lr, step, way=way): getattr(p.data, way)(p.grad, alpha=lr*f(step))
        p, = params([(3, 4)], torch.float64)
        opt = Optimizer([p], [step_stat, scaled], lr=0.1, engine='eager')
        text = opt.formula.text
        assert f'p = p {sign} lr*f(step)*grad' in text
        run, q = formula_interpreter.Formula(text, opt.hypers[0]), p.data.clone()
        run.functions['f'] = f
        for i in range(8):
            set_grads([p], i)
            q = run.step(q, p.grad)
            opt.step()
            assert torch.allclose(q, p.data)


# State that is true, false or a word

def every_second(p, lr, on=True):
    p.data.sub_(p.grad, alpha=lr if on else 0.)
    return {'on': not on}


def asks_is(p, lr, on=False):
    p.data.sub_(p.grad, alpha=lr if on is True else lr/3)
    return {'on': not on}


def in_turn(p, lr, mode='plain'):
    p.data.sub_(p.grad if mode == 'plain' else p.grad.sign() if mode == 'sign' else p.grad**3, alpha=lr)
    return {'mode': dict(plain='sign', sign='cube', cube='plain')[mode]}


def late(p, lr, step, done=False):
    p.data.sub_(p.grad, alpha=lr/2 if done else lr)
    return {'done': done or step > 40}


def without_a_start(p, lr, on=None):
    if on is None: on = True
    p.data.sub_(p.grad, alpha=lr if on else lr/3)
    return {'on': not on}


def is_odd(p, step): return once(odd=step % 2 == 1)
def asks_odd(p, lr, odd): p.data.sub_(p.grad, alpha=lr if odd else lr/3)


WORDS = dict(every_second=[every_second], asks_is=[asks_is], in_turn=[in_turn], late=[step_stat, late], without_a_start=[without_a_start],
             of_a_step=[step_stat, is_odd, asks_odd])


@pytest.mark.parametrize('cbs', WORDS.values(), ids=WORDS)
def test_state_may_be_true_false_or_a_word(cbs): follow_whole(partial(Optimizer, cbs=cbs), 60)


def test_a_truth_starts_from_its_value_in_the_signature():
    f = Optimizer(params(), every_second, lr=0.1).formula
    assert f.text.splitlines() == ['# before the first step: on = True',
                                   'p = p - lr*(1 if on == True else 0)*grad', 'on = on != True']
    def never(p, lr, odd=False):
        p.data.sub_(p.grad, alpha=lr if odd else lr/10)
        return {'odd': False}
    assert '# while odd == False' in Optimizer(params(), never, lr=0.1).formula.text


def test_state_starts_where_the_formula_says():
    assert oc.NAdam.formula.starts['mom_prod'] == number(1) and '# before the first step: mom_prod = 1' in oc.NAdam.formula.text
    assert oc.Yogi.formula.starts['grad_avg'] == Sym('init_avg') and oc.AMSGrad.formula.starts['sqr_max'] is None
    assert Adam.formula.starts['grad_avg'] == Adam.formula.starts['step'] == number(0)


def test_latex_says_what_the_text_says():
    "Each line, each condition, and what holds for all of them"
    for make in (Adam.wrap(oc.scheduled(lr=oc.cosine_decay(50, warm=7))), oc.RAdam,
                 SGD.wrap(oc.schedule_free()), oc.SOAP, SGD.wrap(oc.accumulate)):
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
    follow(Optimizer([p], partial(drawn_stepper, instructions=instructions), lr=lr, engine='eager',
                     check=False), p, 3, close=1e-6)


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
    assert any('sqrt_avg' in str(o) or 'sqr_avg' in str(o) for o in later) and not any('sqr_avg' in str(o)
                                                                                       for o in early)
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
    assert line.startswith('p = p ') and text in line and note.startswith(f'# {text} is computed by') and 'stepper `scaled` and can\'t be written as a formula' in note
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
    assert re.search(r'f\((lr, )?step\)', f.text) and '`stairs` and can\'t be written as a formula: it has' in f.text


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
