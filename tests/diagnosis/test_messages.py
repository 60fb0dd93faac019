"Mistakes, as one makes them in a notebook: each is said once, where it was made, with what to write."
import contextlib
import io
import math
import traceback
import warnings
from functools import partial

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb import Adam, CompositionWarning, Optimizer, average_grad, momentum_step, sgd_step, tap
from optimcb._compat.boundary import entry
from optimcb.composition.errors import WrongReturn
from optimcb.diagnosis.partials import show_partials

ENGINES = 'auto', 'eager', 'foreach', 'fused'

# Mistakes in a notebook

FIRST = '''
from functools import partial
import torch
from torch import nn
from optimcb import *
p = nn.Parameter(torch.ones(2))
p.grad = torch.ones(2)
def average(p, mom=.9, v=None): return {'v': p.grad if v is None else mom*v + p.grad}
def step(p, lr, v): p.data.sub_(lr*v)
'''

LEARNER = '''
from fastai.basics import *
from fastai.callback.schedule import ParamScheduler, SchedLin
import optimcb as oc
ds = [(torch.ones(2), torch.ones(1))]*4
dls = DataLoaders(DataLoader(ds, bs=2), DataLoader(ds, bs=2))
def fit(opt_func, cbs=(), **kwargs):
    learn = Learner(dls, nn.Linear(2, 1), loss_func=nn.MSELoss(), opt_func=opt_func, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=cbs)
'''

WARNINGS = {
    'no return': ('''
def average(p, mom=.9, v=0.): mom*v + p.grad
Optimizer([p], [average, step], lr=.1)''', "`average` has no effect: it returns nothing.* Did you forget `return {'v': …}`?"),
    'rebound': ('''
def up(p): return {'update': p.grad}
def double(p, update): update = update*2
Optimizer([p], [up, double, apply_update], lr=.1)''', "`double` has no effect.* Did you forget `return {'update': …}`?"),
    'rebound p': ('''
def down(p, lr): p = p - lr*p.grad
Optimizer([p], [down, sgd_step], lr=.1)''', r"`down` has no effect.* `p = …` makes another tensor: write `p.data.copy_\(…\)`"),
    'out of place': ('''
def down(p, lr): p.data - lr*p.grad
Optimizer([p], [down, sgd_step], lr=.1)''', "`down` has no effect.* Did you forget to change `p.data` in place"),
    'set_hyper': ("Adam([p], .1).set_hyper('epss', 1.)", "no stepper reads `epss`: .* Did you mean `eps`?"),
    'set_hypers': ("Adam([p], .1).set_hypers(lr=.2, epss=1.)", "no stepper reads `epss`: .* Did you mean `eps`?"),
    'hypers': ("Adam([p], .1).hypers[0]['lrr'] = 3", "no stepper reads `lrr`: .* Did you mean `lr`?"),
    'hypers of one group': ("Adam([[p], [nn.Parameter(torch.ones(1))]], .1).hypers[1].update(lrr=3)", "no stepper reads `lrr`"),
    'a group': ("Adam([dict(params=[p], epss=1)], .1)", "no stepper reads `epss`: .* Did you mean `eps`?"),
    'written in a group': ("opt = Adam([p], .1)\nopt.param_groups[0]['weigth_decay'] = .5", "no stepper reads `weigth_decay`: .* Did you mean `wd`?"),
    'updated in a group': ("opt = Adam([p], .1)\nopt.param_groups[0].update(lrr=3)", "no stepper reads `lrr`: .* Did you mean `lr`?"),
    'averages in vain': ("opt = Adam.wrap(ema_weights, swa_weights)([p], .1)\nopt.step()\nopt.eval()", "`ema_weights` keeps averages, too, but those of `swa_weights`"),
    'constructor': ("Optimizer([p], sgd_step, lr=.1, wd=.1)", "no stepper reads `wd`: sgd_step doesn't. Put `weight_decay` before"),
    'several': ("Optimizer([p], [average, step], lr=.1, beta1=.9)", "no stepper reads `beta1`: average, step don't. Did you mean `mom`?"),
    'partial': ("Optimizer([p], [partial(average_grad, momm=.5), momentum_step], lr=.1)",
                "a `partial` gives `momm` to stepper `average_grad`, which doesn't read it. Did you mean `mom`?"),
    'no steppers': ("Optimizer([p], [], lr=.1)", "there are no steppers, so a step changes nothing. Pass some in `cbs`"),
    'none left': ("Optimizer([p], [sgd_step], lr=.1).remove(sgd_step)", "there are no steppers"),
    'ParamScheduler': (LEARNER + "fit(oc.Adam, ParamScheduler({'epss': SchedLin(1., 2.)}))", "no stepper reads `epss`: .* Did you mean `eps`?"),
    'Learner with decay': (LEARNER + "fit(partial(oc.Optimizer, cbs=sgd_step), wd=.1)", "no stepper reads `wd`: sgd_step doesn't. Put `weight_decay`"),
    'schedule-free': (LEARNER + "fit(ScheduleFreeSGD)", r"a schedule-free optimizer trains other weights .* Add `AveragedWeights\(\)`")}

ERRORS = {
    'tensor': ('''
def average(p, mom=.9, v=0.): return mom*v + p.grad
Optimizer([p], [average, step], lr=.1)''', WrongReturn, "`average` returns a tensor, which would be lost.* `return {'v': …}`"),
    'tuple': ('''
def average(p, mom=.9, v=0.): return mom*v + p.grad, mom
Optimizer([p], [average, step], lr=.1)''', WrongReturn, "`average` returns a value of type `tuple`.* `return {'v': …}`"),
    'update': ('''
def up(p): return {'update': p.grad}
def double(p, update): return update*2
Optimizer([p], [up, double, apply_update], lr=.1)''', WrongReturn, "`double` returns a tensor.* `return {'update': …}`"),
    'kept to itself': ('''
def average(p, mom=.9, v=None):
    if v is None: v = torch.zeros_like(p)
    v = mom*v + p.grad
Optimizer([p], [average, step], lr=.1)''', oc.MissingName, "`average` takes `v`, but doesn't return it. Did you forget `return {'v': …}`?"),
    'at the step': ('''
def average(p, mom=.9, v=0.): return mom*v + p.grad
Optimizer([p], [average, step], lr=.1, check=False).step()''', WrongReturn, "`average` returns a tensor"),
    'grad': ('''
def down(p, grad, lr): p.data.sub_(lr*grad)
Optimizer([p], down, lr=.1)''', oc.MissingName, r"needs `grad`.* take `p.grad` in its place"),
    'state': ('''
def down(q, state, lr): q.data.sub_(lr*state['v'])
Optimizer([p], down, lr=.1)''', oc.MissingName, r"needs `state`.* by the names that it has in it: `def f\(q, grad_avg=None\): …`"),
    'gradient': ("""
def down(q, gradient, lr): q.data.sub_(lr*gradient)
Optimizer([p], down, lr=.1)""", oc.MissingName, r"needs `gradient`.* take `q.grad` in its place.$"),
    'd_p': ("""
def down(p, d_p, lr): p.data.sub_(lr*d_p)
Optimizer([p], down, lr=.1)""", oc.MissingName, r"needs `d_p`.* take `p.grad` in its place.$"),
    'g': ("""
def down(p, g, lr): p.data.sub_(lr*g)
Optimizer([p], down, lr=.1)""", oc.MissingName, r"needs `g`.* If the gradient is meant, take `p.grad` in its place. Pass it as a hyper-parameter, `Optimizer\(…, g=…\)`"),
    'weights': ("""
def down(p, weights, lr): weights.sub_(lr*p.grad)
Optimizer([p], down, lr=.1)""", oc.MissingName, r"needs `weights`.* take `p.data` in their place.$"),
    'nothing near': ("""
def down(p, extra, lr): p.data.sub_(lr*extra*p.grad)
Optimizer([p], down, lr=.1)""", oc.MissingName, r"before it made it. Pass it as a hyper-parameter, `Optimizer\(…, extra=…\)`"),
    'edit that lacks a name': ("""
def down(p, lr): p.data.sub_(lr*p.grad)
opt = Optimizer([p], down, lr=.1)
def down(p, lr, foo): p.data.sub_(lr*foo*p.grad)
opt.replace(down, down)""", oc.MissingName, r"needs `foo`.* `opt.set_hyper\('foo', …\)`"),
    'lambda': ("Optimizer([p], [lambda p, lr: p.data.sub_(lr*p.grad)], lr=.1).replace(lambda p: None, sgd_step)", ValueError,
               r"a lambda has no name .* by its place, as in `replace\(0, …\)`: 0: <lambda>"),
    'SAM of an algorithm': ("SAM(Adam)", TypeError, r"SAM wraps an optimizer, but Adam makes one. Call it first: `SAM\(Adam\(model.parameters\(\), lr=…\)\)`"),
    'Lookahead of an algorithm': ("Lookahead(Adam)", TypeError, r"`Lookahead\(Adam\("),
    'Lookahead of a class': ("Lookahead(torch.optim.Adam)", TypeError, r"`Lookahead\(Adam\("),
    'SAM of a partial': ("SAM(partial(Optimizer, cbs=sgd_step))", TypeError, r"`SAM\(Optimizer\("),
    'in backward of an algorithm': ("step_in_backward(Adam)", TypeError, r"`step_in_backward\(Adam\("),
    'SAM of a model': ("SAM(nn.Linear(1, 1).state_dict())", TypeError, "SAM wraps an optimizer, but is given OrderedDict"),
    'algorithm': ("algorithm('Mine', [average_grad, momentum_step], moom=.9)", TypeError, "no stepper of Mine reads `moom`"),
    'algorithm of an algorithm': ("algorithm('Mine', Adam)", TypeError, "Adam is an optimizer, not a stepper"),
    'by name': ("create_optimizer('adamz', nn.Linear(1, 1), lr=.1)", ValueError, "Did you mean 'adam'?"),
    'by name without lr': ("create_optimizer('adamw', nn.Linear(1, 1))", TypeError, "missing a required argument: 'lr'"),
    'rule': ("by_ndim('2')", TypeError, "by_ndim needs numbers of dimensions"),
    'schedule': ("cosine_decay(3, warm=5)", ValueError, "`warm` must be at least 0"),
    'fit': (LEARNER + "compare(lambda f: Learner(dls, nn.Linear(2, 1), loss_func=nn.MSELoss(), opt_func=f), [SGD], lr=.1)", TypeError,
            "`fit_one_cycle` has no `lr`. Did you mean `lr_max`?"),
    'fit after dynamo': (LEARNER + """
import torch._dynamo
compare(lambda f: Learner(dls, nn.Linear(2, 1), loss_func=nn.MSELoss(), opt_func=f), [SGD], fit='fit', lr_max=.1)""", TypeError, "`fit` has no `lr_max`. Did you mean `lr`?"),
    'written in a group': ("Adam([p], .1).param_groups[0]['lr'] = float('nan')", ValueError, "`lr` is NaN"),
    'updated in a group': ("Adam([p], .1).param_groups[0].update(mom=2.)", ValueError, "`mom` must be at least 0"),
    'class': ('''
class Down:
    def __call__(self, p, lr): p.data.sub_(lr*p.grad)
Optimizer([p], [Down], lr=.1)''', TypeError, r"stepper `Down` is a class. Pass an object of it, `Down\(\)`"),
    'called': ("Optimizer([p], [average_grad(0.9), momentum_step], lr=.1)", TypeError,
               r"`average_grad` has been called, but an optimizer calls it in each step, with a parameter. Give it options by `partial\(average_grad, mom=0.9\)`"),
    'called by name': ("Optimizer([p], [average_grad(mom=0.9), momentum_step], lr=.1)", TypeError, r"`partial\(average_grad, mom=0.9\)`"),
    'called without': ("Optimizer([p], [momentum_step()], lr=.1)", TypeError, "Pass it as it is: `momentum_step`"),
    'no argument': ("Optimizer([p], [lambda: 1], lr=.1)", TypeError, r"stepper `<lambda>` takes no parameter.* write `def f\(p, …\)`"),
    'params not called': ("Adam(nn.Linear(1, 1).parameters, .1)", TypeError, r"`params` is a function. Call it: `model.parameters\(\)`"),
    'part called': ("Adam.wrap(clip_norm(1.))", TypeError, r"`clip_norm` has been called, .* `partial\(clip_norm, max_norm=1.0\)`"),
    'partial': ("Optimizer([p], [partial(average, momm=.5), step], lr=.1)", TypeError,
                "a `partial` gives `momm` to stepper `average`, which has no such argument. Did you mean `mom`?"),
    'make takes nothing': ('''
def make(): pass
compare(make, [SGD])''', TypeError, r"`make_learner` is called with an `opt_func`.* `make\(\)` can't be"),
    'a Learner for make': ("compare(3, [SGD])", TypeError, "`make_learner` must be a function .* but is a int"),
    'no lr to plot': ("plot_paths({'mine': partial(Optimizer, cbs=[average, step])})", TypeError, "'mine' makes no optimizer without a learning rate"),
    'no lr to plot SGD': ("plot_paths([SGD])", TypeError, r"'SGD' makes no optimizer without a learning rate. Pass `partial\(SGD, lr=0.1\)`"),
    'option': ("Adam([p], .1, lrr=3)", TypeError, "Adam has no `lrr`. Did you mean `lr`?"),
    'range': ("Adam([p], .1, mom=3)", ValueError, "`mom` must be at least 0"),
    'range later': ("Adam([p], .1).set_hyper('mom', 3)", ValueError, "`mom` must be at least 0"),
    'model': ("Adam(nn.Linear(1, 1), .1)", TypeError, "`params` is a model"),
    'missing': ("Optimizer([p], adam_step, lr=.1)", oc.MissingName, "stepper `adam_step` needs"),
    'edit': ("Adam.replace('adm_step', sgd_step)", ValueError, "Did you mean `adam_step`?"),
    'edit an optimizer': ("Adam([p], .1).insert(sgd_step, before='adm_step')", ValueError, "Did you mean `adam_step`?"),
    'wrap': ("Adam([p], .1).wrap(cautious, cautious)", ValueError, "`cautious` is there already"),
    'load': ("Adam([p], .1).load_state_dict({'a': 1})", ValueError, "not an optimizer's state dict"),
    'formula': ('''
def down(p, lr):
    if p.grad.norm() > 1: p.data.sub_(lr*p.grad)
Optimizer([p], down, lr=.1).formula''', Exception, "it branches on a tensor's value"),
    'engine': ('''
def down(p, lr):
    if p.grad.norm() > 1: p.data.sub_(lr*p.grad)
Optimizer([p], down, lr=.1, engine='fused').step()''', RuntimeError, "engine='fused' can't run this")}


@pytest.fixture(scope='module')
def shell():
    pytest.importorskip('IPython')
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config
    there = InteractiveShell.initialized()
    shell = InteractiveShell.instance(config=Config(HistoryManager=dict(enabled=False)), colors='nocolor')
    yield shell
    if not there: InteractiveShell.clear_instance()


def run(shell, cell):
    "What a notebook shows of a cell: the error, the text, and the warnings"
    shell.reset(new_session=False)
    assert shell.run_cell(FIRST).success
    with contextlib.redirect_stdout(io.StringIO()) as shown, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        res = shell.run_cell(cell)
    return res.error_before_exec or res.error_in_exec, shown.getvalue(), [w for w in seen if 'optimcb' in str(w.category) or 'stepper' in str(w.message)]


@pytest.mark.parametrize('name', ERRORS)
def test_an_error_in_a_notebook_is_short(shell, name):
    cell, kind, said = ERRORS[name]
    if 'plot' in cell: pytest.importorskip('matplotlib')
    if 'compare' in cell or LEARNER in cell: pytest.importorskip('fastai')
    error, shown, _ = run(shell, cell)
    assert isinstance(error, kind)
    with pytest.raises(type(error), match=f'(?s){said}'): raise error
    assert shown.count('Traceback (most recent call last)') == 1, shown
    frames = [f for f in traceback.extract_tb(error.__traceback__) if 'IPython' not in f.filename and f.filename != __file__]
    assert 1 <= len(frames) <= (4 if '.step()' in cell else 2), frames
    assert frames[0].filename.startswith('<ipython') and len(shown.splitlines()) < 60


@pytest.mark.parametrize('name', WARNINGS)
def test_a_warning_in_a_notebook_is_at_its_cell(shell, name):
    cell, said = WARNINGS[name]
    if LEARNER in cell: pytest.importorskip('fastai')
    error, shown, seen = run(shell, cell)
    assert error is None, shown
    with pytest.warns(UserWarning, match=said):
        for w in seen: warnings.warn(w.message, stacklevel=1)
    assert len({str(w.message) for w in seen}) == len(seen) and all(w.filename.startswith('<ipython') for w in seen)


RIGHT = {
    'what fastai sets by itself': LEARNER + '''
from fastai.callback.schedule import *
fit(partial(oc.Optimizer, cbs=sgd_step))
learn = Learner(dls, nn.Linear(2, 1), loss_func=nn.MSELoss(), opt_func=partial(oc.Optimizer, cbs=[average, step]))
with learn.no_bar(), learn.no_logging():
    learn.fit_one_cycle(1, 1e-3)
    learn.lr_find(show_plot=False, num_it=2, suggest_funcs=None)''',
    'averages': LEARNER + "from optimcb.learner import AveragedWeights\nfit(ScheduleFreeSGD, cbs=AveragedWeights())",
    'options': "Adam([p], .1).set_hyper('decouple_wd', False)",
    'set after it was asked for': '''
opt = Adam([p], .1)
try: opt.insert(lambda p, foo: p.data.mul_(foo), before=0)
except MissingName: opt.set_hyper('foo', 1.)
opt.insert(lambda p, foo: p.data.mul_(foo), before=0)''',
    'one average and slow weights': '''
opt = Lookahead(Adam([p], .1)).wrap(ema_weights)
opt.step()
opt.eval()''',
    'notes of schedulers': '''
opt = SGD([p], .1, mom=.9)
torch.optim.lr_scheduler.OneCycleLR(opt, .1, total_steps=5)
opt.param_groups[0]['epss'] = 1''',
    'names that are read': '''
opt = Adam([p], .1)
opt.set_hypers(lr=.2, mom=.8, wd=.1, eps=1e-3, momentum=.5, weight_decay=.2, betas=(.9, .99))
opt.hypers[0]['sqr_mom'] = .9''',
    'any name is read': '''
def decay(p, **kwargs): p.data.mul_(1 - kwargs['nu'])
Optimizer([p], [partial(decay, nu=.1), sgd_step], lr=.1)
Optimizer([p], [lambda p, **kwargs: average(p, **kwargs), step], lr=.1).set_hyper('mom', .5)''',
    'branches': '''
def late(p, update, step):
    if step > 500: return {'update': update/2}
def off(p, update, clip=None):
    if clip is not None: update.clamp_(-clip, clip)
def up(p): return {'update': p.grad.clone()}
Optimizer([p], [step_stat, up, late, off, apply_update], lr=.1)''',
    'in place': '''
Optimizer([p], [lambda p, wd=.1: p.data.mul_(1-wd), lambda p: p.grad.neg_(), lambda p, lr: p.data.add_(p.grad, alpha=lr)], lr=.1).step()''',
    'SAM': "SAM(Adam([p], .1))",
    'Lookahead': "Lookahead(Adam([p], .1)).k = 3"}


@pytest.mark.parametrize('name', RIGHT)
def test_nothing_is_said_of_what_is_right(shell, name):
    if LEARNER in RIGHT[name]: pytest.importorskip('fastai')
    error, shown, seen = run(shell, RIGHT[name])
    assert error is None, shown
    assert [str(w.message) for w in seen] == []


def test_a_hyper_parameter_that_nobody_reads_is_said_once():
    opt = Adam(params(), lr=0.1)
    with pytest.warns(UserWarning, match='epss'): opt.set_hyper('epss', 1.)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for i in range(3): opt.set_hyper('epss', i)
    assert opt.hypers[0]['epss'] == 2


# What steppers return

def good(p, v=None): return {'v': p.grad.clone() if v is None else 0.9*v + p.grad}
LOST = dict(tensor=lambda p, v: 2*v, tuple=lambda p, v: (v*2,), number=lambda p, v: 3, text=lambda p, v: 'v',
            new=lambda p, v: torch.zeros_like(p))
def down(p, lr, v): p.data.sub_(v, alpha=lr)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('check', [True, False])
@pytest.mark.parametrize('what', LOST)
def test_what_would_be_lost_is_an_error_before_anything_changes(what, check, engine):
    def lossy(p, v): return LOST[what](p, v)
    ps = params()
    set_grads(ps)
    before = [p.detach().clone() for p in ps]
    with pytest.raises(WrongReturn, match=r"stepper `lossy` returns .*`return {'v': …}`"):
        opt = Optimizer(ps, [good, lossy, down], lr=0.1, engine=engine, check=check)
        assert not check
        try: opt.step()
        finally: assert not any(opt.state.values())
    assert all(map(torch.equal, ps, before))


@pytest.mark.parametrize('engine', ENGINES)
def test_what_is_lost_later_on_is_an_error_then(engine):
    def later(p, count=0):
        if count == 2: return 2*p.grad
        return {'count': count + 1}
    opt = Optimizer(ps := params(), [later, sgd_step], lr=0.1, engine=engine)
    for _ in range(2):
        set_grads(ps)
        opt.step()
    with pytest.raises(WrongReturn, match='`later` returns a tensor'): opt.step()


@pytest.mark.parametrize('engine', ENGINES)
def test_a_stepper_may_return_what_it_was_given(engine):
    "As fastai's `adam_step` does, and lambdas of operations in place"
    steps = dict(
        p=lambda p, lr, v: p.data.sub_(v, alpha=lr) is None or p, data=lambda p, lr, v: p.data.sub_(v, alpha=lr),
        state=lambda p, lr, v: p.data.sub_(v, alpha=lr) is None or v, grad=lambda p, lr, v: p.data.sub_(v, alpha=lr) is None or p.grad)
    res = []
    for f in (down, *steps.values()):
        opt = Optimizer(ps := params(), [good, f], lr=0.1, engine='auto' if engine == 'fused' else engine)
        for i in range(3):
            set_grads(ps, i)
            opt.step()
        res.append(ps)
    assert all(torch.equal(a, b) for ps in res for a, b in zip(ps, res[0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.data())
def test_the_stepper_that_has_no_effect_is_named(in_place, data):
    "Of drawn compositions that work, one stepper is replaced by one that forgets what it makes"
    def scales(p, update): update.mul_(2)
    def doubles(p, update): return {'update': update*2}
    def forgets(p, update): update = update*2 # noqa: F841
    def up(p): return {'update': p.grad.clone()}
    cbs = [scales if o else doubles for o in in_place]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(params(), [up, *cbs, oc.apply_update], lr=0.1)
    cbs[data.draw(st.integers(0, len(cbs)-1))] = forgets
    with pytest.warns(CompositionWarning) as seen: Optimizer(params(), [up, *cbs, oc.apply_update], lr=0.1)
    assert [str(w.message).split(':')[0] for w in seen] == ['stepper `forgets` has no effect']


# Tracebacks

def frames(error): return [f.filename.rsplit('/')[-1] for f in traceback.extract_tb(error.__traceback__)]


def test_an_error_in_a_stepper_is_shown_where_it_is():
    def bad(p, lr): raise ZeroDivisionError('mine')
    opt = Optimizer(ps := params(), bad, lr=0.1, engine='eager')
    set_grads(ps)
    with pytest.raises(ZeroDivisionError, match='mine') as e: opt.step()
    assert frames(e.value) == ['test_messages.py', 'optimizer.py', 'boundary.py', 'test_messages.py']
    assert traceback.extract_tb(e.value.__traceback__)[-1].name == 'bad'


def test_what_torch_says_in_a_stepper_is_shown_with_the_stepper():
    def bad(p): torch.nn.functional.linear(p.grad[:0].new_ones(2, 3), p.grad.new_ones(2, 2))
    opt = Optimizer(ps := params([(4,)]), bad, engine='eager', check=False)
    set_grads(ps)
    with pytest.raises(RuntimeError) as e: opt.step()
    assert traceback.extract_tb(e.value.__traceback__)[-1].name == 'bad'


def by_lr(p, lr, horizon): p.data.sub_(p.grad*(lr/horizon))
def by_root(p, lr, horizon): p.data.sub_(p.grad*(lr*math.sqrt(horizon)))
def by_power(p, lr, horizon): p.data.sub_(p.grad*lr*10.**horizon)
def by_hand(p, lr, horizon): raise ValueError('my own')

@pytest.mark.parametrize('engine', ['auto', 'eager'])
@pytest.mark.parametrize('f, value, kind, said', [
    (by_lr, 0, ZeroDivisionError, r"division by zero, in stepper `by_lr` with lr=0.1, horizon=0$"), (by_lr, None, TypeError, r"'NoneType', in stepper `by_lr` with lr=0.1, horizon=None$"),
    (by_lr, 'a', TypeError, r"with lr=0.1, horizon='a'$"), (by_root, -1., ValueError, r", in stepper `by_root` with lr=0.1, horizon=-1.0$"),
    (by_power, 1e3, OverflowError, r", in stepper `by_power` with lr=0.1, horizon=1000.0$"), (by_hand, 1, ValueError, '^my own$')])
@pytest.mark.filterwarnings('ignore:the eager engine runs')
def test_an_error_from_numbers_says_from_which(f, value, kind, said, engine):
    ps = params()
    opt = Optimizer(ps, f, lr=0.1, horizon=value, engine=engine, check=False)
    set_grads(ps)
    with pytest.raises(kind, match=said): opt.step()


SHOWN = {'partial(Optimizer, cbs=[average, partial(step, lr=.1)])': 'partial(Optimizer, cbs=[average, step(lr=0.1)])',
         'partial(Optimizer, cbs=sgd_step, lr=.1)': 'partial(Optimizer, cbs=sgd_step, lr=0.1)', 'partial(max, 1)': 'functools.partial(<built-in function max>, 1)',
         'partial(Adam, lr=.1)': 'partial(Adam, lr=0.1)'}

@pytest.mark.parametrize('code', SHOWN)
def test_a_partial_is_shown_by_the_names_of_its_steppers(shell, code):
    show_partials(oc.Optimizer)
    error, shown, _ = run(shell, code)
    assert error is None and SHOWN[code] in shown


def test_an_optimizer_says_of_which_algorithm_it_is():
    mine = oc.algorithm('Mine', [average_grad, momentum_step])
    made = [Adam(params(), 0.1), mine(params(), 0.1), oc.SAM(Adam(params(), 0.1)),
            Adam(params(), 0.1).remove('weight_decay'), Optimizer(params(), sgd_step, lr=0.1)]
    said = [repr(o).splitlines()[0].partition('average')[0] for o in made]
    assert said == ['Adam: weight_decay, ', 'Mine: ', 'SAM of Adam: weight_decay, ', 'Adam, edited: ', 'sgd_step']


def test_a_fault_of_the_library_is_shown_whole(monkeypatch):
    monkeypatch.setattr('optimcb.optimizer.per_group', None)
    with pytest.raises(TypeError, match='NoneType') as e: Optimizer(params(), sgd_step, lr=0.1)
    assert traceback.extract_tb(e.value.__traceback__)[-1].filename.endswith('optimizer.py')


def test_a_fault_below_the_library_is_shown_whole(monkeypatch):
    def build(*args): return torch.nn.functional.linear(torch.ones(2), torch.ones(3, 3))
    monkeypatch.setattr('optimcb.optimizer.per_group', build)
    with pytest.raises(RuntimeError) as e: Optimizer(params(), sgd_step, lr=0.1)
    assert traceback.extract_tb(e.value.__traceback__)[-1].name == 'build'


def test_the_whole_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv('OPTIMCB_FULL_TRACEBACK', '1')
    with pytest.raises(ValueError) as e: Adam(params(), lr=-1)
    assert 'values.py' in frames(e.value)
    monkeypatch.delenv('OPTIMCB_FULL_TRACEBACK')
    with pytest.raises(ValueError) as e: Adam(params(), lr=-1)
    assert frames(e.value) == ['test_messages.py', 'boundary.py']


def test_the_context_of_an_error_of_the_users_stays():
    @entry
    def call(f): return f()
    def mine():
        try: {}['a']
        except KeyError: raise ValueError('mine') # noqa: B904
    with pytest.raises(ValueError, match='mine') as e: call(mine)
    assert isinstance(e.value.__context__, KeyError) and not e.value.__suppress_context__


def test_a_partial_that_gives_a_name_in_vain():
    "On every level of partials, and under another name, too"
    def f(p, lr, size=1.): p.data.sub_(p.grad, alpha=lr*size)
    for wrong in (lambda: partial(f, sise=2.), lambda: partial(partial(f, size=2.), sise=3.),
                  lambda: oc.only(partial(f, sise=2.), oc.by_ndim(2))):
        with pytest.raises(TypeError, match='`sise` to stepper `f.*, which has no such argument. Did you mean `size`?'):
            Optimizer(params(), wrong(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(params(), partial(oc.renamed(f, size='length'), length=2.), lr=0.1)
        Optimizer(params(), [tap(norm=lambda p: p.data.norm()), partial(f, size=2.)], lr=0.1)
    renamed = partial(oc.renamed(average_grad, mom='m'), mm=0.5)
    with pytest.warns(CompositionWarning, match="gives `mm` to stepper `average_grad`.* Did you mean `m`?"):
        Optimizer(params(), [renamed, momentum_step], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(params(), [renamed, momentum_step], lr=0.1, check=False)


@pytest.mark.parametrize('name', [k for k in oc.steppers.__all__ if k not in oc.steppers.FORMULAS])
def test_every_stepper_is_what_its_module_has_under_its_name(name):
    "And helps who calls it, or leaves that to the optimizer"
    import importlib
    f = getattr(oc.steppers, name)
    assert getattr(importlib.import_module(f.__module__), name) is f is getattr(oc, name) and f.in_steps.__name__ == name
    assert all(o is getattr(oc.steppers, o.__name__) for o in f.traits.unfused)
    with pytest.raises(TypeError, match='has been called|must be callable'):
        made = f(0.9)
        if made is None: raise TypeError(f'{name} has been called, and does nothing')
        Optimizer(params(), made, lr=0.1)
