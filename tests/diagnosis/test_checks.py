"What is said of a composition when an optimizer is made of it, and that nothing is said of one that is right."
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from cases import CASES
from helpers import params, set_grads

import optimcb as oc
from optimcb import (
    Adam,
    CompositionWarning,
    MissingName,
    Optimizer,
    adam_step,
    apply_update,
    average_grad,
    average_sqr_grad,
    debias_grad_avg,
    l2_reg,
    momentum_step,
    once,
    rms_update,
    sgd_step,
    step_stat,
    trust_ratio,
    weight_decay,
)

mean_grad = partial(average_grad, dampening=True)


def clip(p, max_norm=1.):
    total = yield p.grad.square().sum()
    p.grad = p.grad * (max_norm/total.sqrt()).clamp(max=1)


def misspelt(p, lr, grad_av): p.data.add_(grad_av, alpha=-lr)
def own_name(p, lr, my_mean): p.data.add_(my_mean, alpha=-lr)


@pytest.mark.parametrize('cbs, hypers, said', [
    ([adam_step], {}, r"`adam_step` needs `step`.*It lacks `grad_avg`, `sqr_avg`, `mom`, `sqr_mom`, too. Put `step_stat`, `average_grad` and `average_sqr_grad` before `adam_step`"),
    ([average_grad, average_sqr_grad, adam_step], {}, r"`adam_step` needs `step`, which is no hyper-parameter.* Put `step_stat` before `adam_step` in `cbs`"),
    ([momentum_step], {}, r"`momentum_step` needs `grad_avg`.* Put `average_grad` or `(lazy_average_grad|start_avgs)` before `momentum_step` in `cbs`"),
    ([apply_update], {}, r"`apply_update` needs `update`.* Put `grad_update` or `avg_update` before `apply_update` in `cbs`"),
    ([average_grad, apply_update, average_sqr_grad, rms_update], {}, r"`apply_update` needs `update`.* Put `rms_update` before `apply_update`, not after it"),
    ([average_grad, misspelt], {}, r"`misspelt` needs `grad_av`.* Did you mean `grad_avg`\?"),
    ([misspelt], {}, r"`misspelt` needs `grad_av`.* Did you mean `grad_avg`\? Put `average_grad`"),
    ([own_name], {}, r"`own_name` needs `my_mean`.* Pass it as a hyper-parameter, `Optimizer\(…, my_mean=…\)`, or put a stepper that returns it"),
    ([sgd_step], {'lr': None}, r"`sgd_step` needs `lr`.* Pass it as a hyper-parameter, `Optimizer\(…, lr=…\)`"),
    ([mean_grad, debias_grad_avg, momentum_step], {}, r"`debias_grad_avg` needs `step`.* Put `step_stat` before `debias_grad_avg`"),
    ([trust_ratio, sgd_step], {}, r"`trust_ratio` needs `update`"),
    ([lambda p, sqr_avg: print('never')], {}, None),
    ([lambda p, lr: p.data.sub_(p.grad, alpha=lr), lambda lr, p: None], {}, r"`<lambda>` needs `p`.* The first argument of a stepper is the parameter"),
    ([lambda p: {'updates': p.grad*2}, apply_update], {}, r"`apply_update` needs `update`.* `<lambda>` makes `updates`. Did you mean that\?"),
    ([lambda p, lr, **kw: p.data.sub_(kw['grad_avg'], alpha=lr)], {}, r"`<lambda>` needs `grad_avg`"),
    ([lambda p, momentun, lr: p.data.mul_(momentun)], {}, r"Did you mean `mom`\?"),
    ([lambda p: {'a': p.grad.abs().max().item()}, lambda p, a, lr, b: p.data.mul_(a*lr)], {}, r"`<lambda>` needs `b`"), # can't be traced, is tried
], ids=lambda o: None)
def test_what_is_missing_is_an_error_that_says_what_to_do(cbs, hypers, said, capsys):
    hypers = {k: v for k, v in {'lr': 0.1, **hypers}.items() if v is not None}
    if said:
        with pytest.raises(MissingName, match=said): Optimizer(params(), cbs, **hypers)
    opt = Optimizer(ps := params(), cbs, check=False, **hypers)
    set_grads(ps)
    before = [p.detach().clone() for p in ps]
    with warnings.catch_warnings(), pytest.raises(MissingName):
        warnings.simplefilter('ignore')
        opt.step()
    assert all(map(torch.equal, ps, before)) and 'never' not in capsys.readouterr().out


@pytest.mark.parametrize('cbs, said', [
    ([weight_decay, l2_reg, sgd_step], "`wd` is applied more than once, by `weight_decay` and `l2_reg`"),
    ([weight_decay, weight_decay, sgd_step], "`wd` is applied more than once, by `weight_decay` and `weight_decay`"),
    ([weight_decay, lambda p, lr, wd: p.data.sub_(p.grad + wd*p.data, alpha=lr)], "`wd` is applied more than once, by `weight_decay` and `<lambda>`"),
    ([average_sqr_grad, rms_update], "`rms_update` makes `update`, but no stepper after it applies it, so nothing is trained. Put `apply_update` after it"),
    ([average_grad], "no stepper changes the parameters. Put a step last, such as `momentum_step`"),
    ([mean_grad, average_sqr_grad, step_stat], "no stepper changes the parameters. Put a step last, such as `adam_step`"),
    ([mean_grad, average_sqr_grad, step_stat, adam_step, sgd_step], "moved along their gradients more than once in a step, by `adam_step` and `sgd_step`"),
    ([sgd_step, sgd_step], "moved along their gradients more than once in a step, by `sgd_step` and `sgd_step`"),
    ([average_sqr_grad, sgd_step], "`average_sqr_grad` makes `sqr_avg`, which no other stepper reads"),
    ([weight_decay, average_grad], "`average_grad` makes `grad_avg`, which no other stepper reads"),
    ([average_grad, l2_reg, momentum_step], "`l2_reg` changes the gradient, but no stepper after it reads it. Put it before `average_grad`"),
    ([sgd_step, clip], "`clip` changes the gradient, but no stepper after it reads it. Put it before `sgd_step`"),
    ([step_stat, *Adam.cbs], "`step` is made more than once in a step, by `step_stat` and `step_stat`"),
    ([lambda p, lr: {'p': p - lr*p.grad}], "returns `p`, which becomes state of that name and changes nothing. Change the parameter in place"),
    ([step_stat, lambda p, lr, step: {'lr': lr/step}, sgd_step], "returns `lr`, but a hyper-parameter comes before state of its name. For a value of this step, return `once(lr=…)`"),
    ([step_stat, sgd_step, oc.decay_lr], "`decay_lr` makes `lr`, which no stepper after it reads"),
    ([average_grad, momentum_step, lambda p, lr: once(lr=p.grad.norm())], "`<lambda>` makes `lr`, which no stepper after it reads"),
], ids=lambda o: None)
def test_what_can_hardly_be_meant_is_a_warning(cbs, said):
    hypers = dict(lr=0.1, **({'wd': 0.} if 'wd' in oc.Composition(cbs).reads else {}))
    with pytest.warns(CompositionWarning) as seen: Optimizer(params(), cbs, **hypers)
    found = [str(w.message) for w in seen]
    assert any(said in m for m in found), found
    assert all(w.filename == __file__ for w in seen)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(params(), cbs, check=False, **hypers)
        warnings.simplefilter('ignore', CompositionWarning)
        Optimizer(params(), cbs, **hypers)


def fastais(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr)
def accumulate(p, total=None, count=0, every=50):
    total = torch.zeros_like(p.grad) if total is None else total
    total.add_(p.grad)
    if (count + 1) % every == 0:
        p.data.sub_(total, alpha=0.1)
        total.zero_()
    return {'total': total, 'count': count + 1}


def ema(p, ema_avg=None):
    ema_avg = p.data.clone() if ema_avg is None else ema_avg.lerp_(p.data, 0.1)
    return {'ema_avg': ema_avg}


def use_ema(p, ema_avg, count=0):
    if count % 2: p.data.copy_(ema_avg)
    return {'count': count + 1}


def late(p, lr, step):
    if step > 500: p.data.sub_(p.grad, alpha=lr)


def by_shape(p, lr):
    if p.ndim > 1: p.data.sub_(p.grad, alpha=lr)


def lion(p, lr, mom=0.9, sqr_mom=0.99, grad_avg=None):
    if grad_avg is None: grad_avg = torch.zeros_like(p.grad)
    p.data.sub_(torch.lerp(p.grad, grad_avg, mom).sign(), alpha=lr)
    return {'grad_avg': grad_avg.lerp_(p.grad, 1-sqr_mom)}


class Counts:
    def __init__(self): self.n = 0
    def __call__(self, p, lr):
        self.n += 1
        p.data.sub_(p.grad, alpha=lr)


@pytest.mark.parametrize('cbs', [
    [fastais], [accumulate], [step_stat, late], [by_shape], [sgd_step, ema], [lambda p, lr: once(lr=torch.where(torch.isfinite(p.grad).all(), lr, 0.)), *Adam.cbs[1:]],
    [lambda p, lr: p.data.sub_(p.grad, alpha=lr*float(torch.bernoulli(torch.tensor(0.5))))], [ema, use_ema, sgd_step], [lion], [clip, sgd_step], [Counts()], [step_stat, sgd_step], [sgd_step, lambda p: {'size': p.data.norm()}],
    [lambda p, lr: print('hello') or sgd_step(p, lr)], [lambda p, lr: p.data.sub_(torch.randn_like(p), alpha=lr)], [lambda p, lr: p.data.sub_(p.grad @ p.grad.T @ p.grad, alpha=lr)],
    [oc.tap(size=lambda p: p.grad.norm()), sgd_step], [lambda p, mask=None: None if mask is None else p.data.mul_(mask), sgd_step],
    [oc.renamed(average_grad, grad_avg='slow'), average_grad, lambda p, lr, slow, grad_avg: p.data.sub_(slow + grad_avg, alpha=lr)]], ids=lambda o: None)
def test_nothing_is_said_of_what_is_right(cbs, capsys):
    "And nothing has happened: no output, no random number drawn, nothing counted"
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Optimizer(ps := params(), cbs, lr=0.1, **{k: v for k, v in Adam.hypers.items() if k in oc.Composition(cbs).reads - oc.Composition(cbs).defaults.keys()})
    assert capsys.readouterr().out == '' and not any(getattr(f, 'n', 0) for f in cbs)
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == np.random.get_state()[1].tolist()
    assert all(map(torch.equal, ps, params())) and all(p.grad is None for p in ps)


@pytest.mark.parametrize('ours', [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_nothing_is_said_of_the_librarys_algorithms(ours):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ours(params(), lr=0.1)


def test_nothing_is_said_of_fastais_algorithms():
    fastai = pytest.importorskip('fastai.optimizer')
    for make in (fastai.SGD, partial(fastai.SGD, mom=0.9), fastai.RMSProp, partial(fastai.RMSProp, mom=0.9),
                 fastai.Adam, fastai.RAdam, fastai.QHAdam, fastai.Larc, fastai.Lamb):
        theirs = make(params(), lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            Optimizer(params(), theirs.cbs, **dict(theirs.hypers[0]))


def test_parameters_of_any_kind_are_checked_or_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for p in (torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)), torch.nn.Parameter(torch.empty(0)), torch.nn.Parameter(torch.tensor(1.)),
                  torch.nn.Parameter(torch.ones(2).half()), torch.nn.UninitializedParameter(), torch.nn.Parameter(torch.ones(2), requires_grad=False)):
            Adam([p], lr=0.1)
        Optimizer([1, 2, 3], sgd_step) # as in fastai's documentation


def test_each_group_is_checked():
    ps = params()
    with pytest.raises(MissingName, match='`nu`'):
        Optimizer([{'params': ps[:2], 'nu': 1.}, {'params': ps[2:]}],
                  lambda p, nu, lr: p.data.sub_(p.grad, alpha=lr*nu), lr=0.1)


def test_algorithms_take_check_too():
    odd = Adam.insert(sgd_step, after=-1)
    with pytest.warns(CompositionWarning, match='more than once'): odd(params(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        odd(params(), lr=0.1, check=False)


def test_pieces_of_parameters_cant_be_summed():
    "torch's first FSDP marks its parameters"
    p = torch.nn.Parameter(torch.ones(7))
    p._fsdp_flattened = True
    oc.Adam([p], lr=0.1)
    for cbs in (oc.Lamb.cbs, [clip, *oc.Adam.cbs]):
        with pytest.raises(ValueError, match='fully_shard'):
            Optimizer([torch.nn.Parameter(torch.ones(7)), p], cbs, lr=0.1)
