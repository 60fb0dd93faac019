"State dicts: torch's shape, copies, every dtype kept, and going on from them bit for bit."
import io
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step
from optimcb.algorithms import Algorithm

ALGORITHMS = [o for o in vars(oc).values() if isinstance(o, Algorithm)] + [oc.ranger]


def advance(opt, ps, start, n):
    for i in range(start, start+n):
        set_grads(ps, i)
        opt.step()


def through_a_file(sd):
    f = io.BytesIO()
    torch.save(sd, f)
    f.seek(0)
    return torch.load(f, weights_only=True)


def copies(ps): return [nn.Parameter(p.detach().clone()) for p in ps]


@pytest.mark.parametrize('algo', ALGORITHMS, ids=lambda o: o.__name__)
@given(n=st.integers(0, 9), dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), groups=st.booleans())
@settings(max_examples=8, deadline=None)
def test_resuming_goes_on_bit_for_bit(algo, n, dtype, groups):
    ps = params(dtype=dtype)
    split = lambda ps: [ps[:1], ps[1:]] if groups else ps # noqa: E731
    opt = algo(split(ps), lr=slice(1e-3, 1e-2) if groups else np.float64(1e-2))
    opt.state[ps[0]]['do_wd'] = False
    advance(opt, ps, 0, n)
    opt.set_hyper('mom', np.float64(0.7))
    sd = through_a_file(opt.state_dict())
    others = copies(ps)
    other = algo(split(others), lr=5.)
    other.load_state_dict(sd)
    advance(opt, ps, n, 7)
    advance(other, others, n, 7)
    assert all(torch.equal(a, b) for a, b in zip(ps, others))
    assert [dict(h) for h in opt.hypers] == [dict(h) for h in other.hypers] and other.state[others[0]]['do_wd'] is False


def test_has_torchs_shape_and_fastais_keys():
    ps = params([(2,), (3,), ()])
    opt = oc.Adam([[('a', ps[0])], [('b', ps[1]), ('c', ps[2])]], lr=0.1)
    assert opt.state_dict()['state'] == [{}, {}, {}] and [{}, {}, {}] == opt.state_dict()['state'] != [{}]
    advance(opt, ps, 0, 1)
    sd = opt.state_dict()
    assert [g['params'] for g in sd['param_groups']] == [[0], [1, 2]] and [g['param_names'] for g in sd['param_groups']] == [['a'], ['b', 'c']]
    assert set(sd['state']) == {0, 1, 2} and set(sd['state'][0]) == {'grad_avg', 'sqr_avg', 'step'}
    assert sd['hypers'] == [dict(h) for h in opt.hypers]
    assert sd['steppers'] == ['weight_decay', 'average_grad(dampening=True)', 'average_sqr_grad', 'step_stat', 'adam_step']
    assert sd['shapes'] == [[2], [3], []]
    assert type(through_a_file(sd)['state']) is not dict and isinstance(through_a_file(sd)['state'], dict)


def test_is_a_copy_both_ways():
    ps = params()
    opt = oc.Adam(ps, lr=0.1)
    advance(opt, ps, 0, 1)
    sd = opt.state_dict()
    kept = through_a_file(sd)
    advance(opt, ps, 1, 1)
    opt.set_hyper('lr', 3.)
    opt.load_state_dict(sd)
    advance(opt, ps, 1, 1)
    assert sd['param_groups'] == kept['param_groups'] and sd['hypers'] == kept['hypers'] and sd['hypers'][0]['lr'] == 0.1
    assert all(torch.equal(sd['state'][i][k], kept['state'][i][k]) for i in range(len(ps)) for k in ('grad_avg', 'sqr_avg'))
    sd['param_groups'][0]['lr'] = 7.
    sd['state'][0]['grad_avg'].fill_(9)
    assert opt.hypers[0]['lr'] == 0.1 and not (opt.state[ps[0]]['grad_avg'] == 9).any()


def test_each_state_keeps_its_dtype_and_layout():
    def precise_avg(p, grad_avg=None, seen=None):
        if grad_avg is None: grad_avg = torch.zeros(p.shape, dtype=torch.float64)
        return {'grad_avg': grad_avg + p.grad, 'seen': p.grad > 0, 'parts': [p.grad.half(), (1, 'a')]}
    p = nn.Parameter(torch.randn(2, 3, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last))
    opt = Optimizer([p], precise_avg)
    set_grads([p])
    opt.step()
    q = nn.Parameter(p.detach().clone())
    other = Optimizer([q], precise_avg)
    other.load_state_dict(through_a_file(opt.state_dict()))
    a, b = opt.state[p], other.state[q]
    assert b['grad_avg'].dtype == torch.float64 and b['seen'].dtype == torch.bool and b['parts'][0].dtype == torch.float16 and b['parts'][1] == (1, 'a')
    assert torch.equal(a['grad_avg'], b['grad_avg']) and b['seen'].stride() == a['seen'].stride()
    adam = oc.Adam([p], lr=0.1)
    p.grad = p.detach().clone()
    adam.step()
    other = oc.Adam([q], lr=0.1)
    other.load_state_dict(through_a_file(adam.state_dict()))
    assert other.state[q]['sqr_avg'].is_contiguous(memory_format=torch.channels_last)


def test_takes_what_fastai_saved():
    fo = pytest.importorskip('fastai.optimizer')
    for make in (lambda m, ps, lr: m.Adam([ps[:1], ps[1:]], lr=lr), lambda m, ps, lr: m.SGD(ps, lr=lr, mom=0.9),
                 lambda m, ps, lr: m.Lookahead(m.Adam(ps, lr=lr), k=2)):
        ps = params()
        theirs = make(fo, ps, 0.1)
        advance(theirs, ps, 0, 3)
        sd, others = theirs.state_dict(), copies(ps)
        keys = set(sd)
        ours = make(oc, others, 0.5)
        ours.engine = 'eager'
        ours.load_state_dict(sd)
        assert set(sd) == keys
        advance(theirs, ps, 3, 4)
        advance(ours, others, 3, 4)
        assert all(torch.equal(a, b) for a, b in zip(ps, others))


def test_of_another_model_is_refused_and_changes_nothing():
    ps = params([(2,), (3, 4)])
    opt = oc.Adam(ps, lr=0.1)
    advance(opt, ps, 0, 2)
    before = opt.state_dict()
    good = opt.state_dict()
    def of(shapes, split=None):
        qs = params(shapes)
        other = oc.Adam(split(qs) if split else qs, lr=0.2)
        advance(other, qs, 0, 1)
        return other.state_dict()
    without_shapes = {k: v for k, v in of([(2,), (4, 3)]).items() if k != 'shapes'}
    bad_value = {**good, 'param_groups': [{**good['param_groups'][0], 'lr': float('nan')}]}
    for sd, message in [(of([(2,)]), '1 parameters in group 0, but the optimizer has 2'), (of([(2,), (4, 3)]), r'shape \[4, 3\] for parameter 1'),
                        (without_shapes, r'shape \[4, 3\] for parameter 1'), (of([(2,), (3, 4)], lambda qs: [qs[:1], qs[1:]]), '2 parameter groups'),
                        ({}, "not an optimizer's state dict"), ({'model': 1, 'opt': 2}, r"it has \['model', 'opt'\]"), (bad_value, '`lr` is NaN'),
                        ({'state': [{}]*3, 'hypers': [{}]}, 'state for 3 parameters'),
                        ({'state': {7: {}}, 'param_groups': good['param_groups']}, 'state for 1 parameters')]:
        with pytest.raises(ValueError, match=message): opt.load_state_dict(sd)
        after = opt.state_dict()
        assert after['hypers'] == before['hypers']
        assert all(torch.equal(after['state'][i][k], before['state'][i][k]) for i in range(2) for k in ('grad_avg', 'sqr_avg'))


def test_of_other_steppers_gives_what_fits_and_says_so():
    ps = params()
    adam = oc.Adam(ps, lr=0.1)
    adam.state[ps[0]]['do_wd'] = False
    advance(adam, ps, 0, 2)
    ours = Optimizer(copies(ps), [partial(average_grad, dampening=True), oc.max_abs_grad, momentum_step], lr=0.5, sqr_mom=0.9)
    with pytest.warns(UserWarning, match='Taken: do_wd, grad_avg; left: sqr_avg, step; not there, and started afresh: grad_max'):
        ours.load_state_dict(adam.state_dict())
    state = ours.state[ours.param_lists[0][0]]
    assert set(state) == {'grad_avg', 'do_wd'} and torch.equal(state['grad_avg'], adam.state[ps[0]]['grad_avg']) and ours.hypers[0]['lr'] == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        oc.Adam(copies(ps), lr=0.1).load_state_dict(adam.state_dict())


def test_of_torchs_own_optimizer_is_refused_not_misread():
    ps = params()
    for theirs, ours in ((torch.optim.AdamW(ps, lr=0.1), oc.AdamW), (torch.optim.SGD(ps, lr=0.1, momentum=0.9), partial(oc.SGD, mom=0.9))):
        advance(theirs, ps, 0, 2)
        opt = ours(ps, lr=0.5)
        with pytest.raises(ValueError, match='of another optimizer, with state .*exp_avg|momentum_buffer'): opt.load_state_dict(theirs.state_dict())
        assert opt.hypers[0]['lr'] == 0.5 and not any(opt.state.values())


def test_only_torchs_keys_and_entries_of_ones_own():
    ps = params()
    opt = oc.SGD(ps, lr=0.1, mom=0.9)
    advance(opt, ps, 0, 1)
    opt.state[ps[0]]['tag'] = 1
    other = oc.SGD(copies(ps), lr=0.5, mom=0.9)
    other.load_state_dict({k: v for k, v in opt.state_dict().items() if k in ('state', 'param_groups')})
    assert other.state[other.param_lists[0][0]]['tag'] == 1 and other.hypers[0]['lr'] == 0.1


def test_a_wrapped_optimizers_state_loads_into_the_plain_one():
    ps = params()
    opt = oc.Lookahead(oc.RMSProp(ps, lr=0.1))
    advance(opt, ps, 0, 1)
    other = oc.RMSProp(copies(ps), lr=0.5)
    with pytest.warns(UserWarning, match='Taken: sqr_avg; left: count, slow_avg'): other.load_state_dict(opt.state_dict())


@pytest.mark.parametrize('sd', [None, {'state': {}, 'param_groups': [{'lr': 1}]}, {'state': {0: 5}, 'param_groups': [{'params': [0, 1, 2, 3]}]}], ids=str)
def test_a_damaged_state_dict_is_refused(sd):
    with pytest.raises(ValueError): oc.SGD(params(), lr=0.1).load_state_dict(sd)


def test_labels_are_the_same_in_every_process():
    cb = partial(average_grad, dampening=True, f=lambda x: x, t=torch.ones(2))
    assert oc.Composition([cb]).labels == ['average_grad(dampening=True, f=<lambda>, t=Tensor)']


def test_copies_even_what_it_does_not_know():
    ps = params([(2,)])
    opt = Optimizer(ps, lambda p, seen=None: {'seen': np.ones(2), 'set': {1}})
    advance(opt, ps, 0, 1)
    sd = opt.state_dict()
    opt.state[ps[0]]['seen'][0] = 5
    opt.state[ps[0]]['set'].add(2)
    assert sd['state'][0]['seen'][0] == 1 and sd['state'][0]['set'] == {1}


def test_schedulers_resume():
    ps = params()
    opt = oc.SGD(ps, lr=0.1)
    sched = torch.optim.lr_scheduler.StepLR(opt, 2, gamma=0.1)
    for i in range(3): advance(opt, ps, i, 1); sched.step() # noqa: E702
    other = oc.SGD(copies(ps), lr=0.1)
    other.load_state_dict(through_a_file(opt.state_dict()))
    again = torch.optim.lr_scheduler.StepLR(other, 2, gamma=0.1, last_epoch=2)
    again.load_state_dict(sched.state_dict())
    sched.step(); again.step() # noqa: E702
    assert opt.hypers[0]['lr'] == other.hypers[0]['lr'] == pytest.approx(1e-3) and 'initial_lr' not in other.hypers[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_state_goes_to_the_device_of_its_parameter():
    ps = params()
    opt = oc.Adam(ps, lr=0.1)
    advance(opt, ps, 0, 1)
    other = oc.Adam([nn.Parameter(p.detach().cuda()) for p in ps], lr=0.1)
    other.load_state_dict(opt.state_dict())
    assert all(s['grad_avg'].is_cuda for s in other.state.values())
