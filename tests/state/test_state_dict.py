"State dicts: torch's shape, copies, every dtype kept, and going on from them bit for bit."
import io
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import copies, params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step
from optimcb.algorithm import Algorithm

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
    assert sd['steppers'] == ['weight_decay', 'average_grad(dampening=True)', 'average_sqr_grad', 'step_stat',
                              'adam_step']
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
    assert all(torch.equal(sd['state'][i][k], kept['state'][i][k]) for i in range(len(ps))
               for k in ('grad_avg', 'sqr_avg'))
    sd['param_groups'][0]['lr'] = 7.
    sd['state'][0]['grad_avg'].fill_(9)
    assert opt.hypers[0]['lr'] == 0.1 and not (opt.state[ps[0]]['grad_avg'] == 9).any()


def test_a_save_copies_at_once_to_where_it_goes():
    ps = params()
    opt = oc.Adam(ps, lr=torch.tensor(0.1))
    advance(opt, ps, 0, 1)
    sd = opt._state_dict_on('meta')
    assert all(v.is_meta for s in sd['state'].values()
               for v in s.values() if isinstance(v, torch.Tensor)) and sd['hypers'][0]['lr'].is_meta


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


FASTAIS = {
    'Adam': lambda m, ps, lr: m.Adam(ps, lr=lr), 'Adam, l2': lambda m, ps, lr: m.Adam(ps, lr=lr, wd=0.1, decouple_wd=False),
    'SGD': lambda m, ps, lr: m.SGD(ps, lr=lr, wd=0.1), 'momentum': lambda m, ps, lr: m.SGD(ps, lr=lr, mom=0.9),
    'RMSProp': lambda m, ps, lr: m.RMSProp(ps, lr=lr), 'RMSProp, momentum': lambda m, ps, lr: m.RMSProp(ps, lr=lr, mom=0.9),
    'RAdam': lambda m, ps, lr: m.RAdam(ps, lr=lr), 'QHAdam': lambda m, ps, lr: m.QHAdam(ps, lr=lr),
    'Larc': lambda m, ps, lr: m.Larc(ps, lr=lr, wd=0.1), 'Lars': lambda m, ps, lr: m.Larc(ps, lr=lr, clip=False), 'Lamb': lambda m, ps, lr: m.Lamb(ps, lr=lr),
    'Lookahead': lambda m, ps, lr: m.Lookahead(m.Adam(ps, lr=lr), k=2), 'ranger': lambda m, ps, lr: m.ranger(ps, lr=lr)}


@pytest.mark.parametrize('steps', [0, 3])
@pytest.mark.parametrize('make', FASTAIS.values(), ids=FASTAIS)
def test_takes_what_fastai_saved(make, steps):
    fo = pytest.importorskip('fastai.optimizer')
    ps, split = params(), lambda ps: [ps[:1], ps[1:]]
    theirs = make(fo, split(ps), 0.1)
    theirs.set_hyper('lr', slice(0.01, 0.02))
    advance(theirs, ps, 0, steps)
    sd, others = theirs.state_dict(), copies(ps)
    keys = set(sd)
    ours = make(oc, split(others), 0.5)
    ours.engine = 'eager'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ours.load_state_dict(sd)
    assert set(sd) == keys
    advance(theirs, ps, steps, 8)
    advance(ours, others, steps, 8)
    assert all(torch.equal(a, b) for a, b in zip(ps, others))


NAMES = 'abcd'
def named(ps, names=NAMES): return list(zip(names, ps))


def start(ps, n=3):
    "An optimizer of named parameters that has gone some steps"
    opt = oc.Adam(named(ps), lr=0.1, engine='eager')
    advance(opt, ps, 0, n)
    return opt


def go_on(opt, ps, other, qs):
    "The same steps with both"
    advance(opt, ps, 3, 5)
    advance(other, qs, 3, 5)
    return all(torch.equal(a, b) for a, b in zip(ps, qs))


@pytest.mark.parametrize('split', [lambda o: o[::-1], lambda o: [o[2:], o[:2]], lambda o: [o[:1], [o[3], o[1]], [o[2]]]], ids=['order', 'groups', 'both'])
@pytest.mark.parametrize('names', [NAMES, [f'module.{k}' for k in NAMES], [f'_orig_mod.{k}' for k in NAMES]], ids=lambda o: o[0])
def test_names_decide_not_the_order(split, names):
    ps = params()
    opt = start(ps)
    qs = copies(ps)
    other = oc.Adam(split(named(qs, names)), lr=0.5, engine='eager')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        other.load_state_dict(through_a_file(opt.state_dict()))
    assert other.state[qs[0]]['step'] == 3 and set(other.hypers.itemgot('lr')) == {0.1}
    assert {k: id(p) for g in other.param_groups for k, p in zip(g['param_names'], g['params'])} == {k: id(q) for k, q in named(qs, names)}
    assert go_on(opt, ps, other, qs)


def test_groups_are_joined_by_name():
    ps = params()
    opt = oc.Adam([named(ps)[:2], named(ps)[2:]], lr=[0.1, 0.2], engine='eager')
    advance(opt, ps, 0, 3)
    qs = copies(ps)
    other = oc.Adam(named(qs), lr=0.5, engine='eager')
    with pytest.warns(UserWarning, match="Group 0 is of several groups there, and has the hyper-parameters of the first parameter's"):
        other.load_state_dict(opt.state_dict())
    assert other.hypers[0]['lr'] == 0.1 and torch.equal(other.state[qs[3]]['sqr_avg'], opt.state[ps[3]]['sqr_avg'])
    again = oc.Adam([named(ps)[3:], named(ps)[:1], named(ps)[1:3]], lr=0.5, engine='eager')
    with pytest.warns(UserWarning, match='Group 2 is of several'): again.load_state_dict(opt.state_dict())
    assert list(again.hypers.itemgot('lr')) == [0.2, 0.1, 0.1]


def test_what_is_on_one_side_only_is_said_once():
    ps = params()
    opt = start(ps)
    qs = [*copies(ps)[:2], *params([(7,), (2, 2)])]
    other = oc.Adam([named(qs, 'abxc')[:2], named(qs, 'abxy')[2:]], lr=0.5, engine='eager')
    with pytest.warns(UserWarning) as said: other.load_state_dict(opt.state_dict())
    assert [str(w.message) for w in said] == ["the state dict is loaded by the parameters' names. Not there, and started afresh: x, y. Left: c, d."]
    assert said[0].filename == __file__ and not other.state.get(qs[2]) and other.state[qs[1]]['step'] == 3
    assert list(other.hypers.itemgot('lr')) == [0.1, 0.5]
    advance(other, qs, 3, 2)
    assert other.state[qs[1]]['step'] == 5 and other.state[qs[2]]['step'] == 2


def test_names_are_not_shapes():
    ps = params()
    opt = start(ps)
    other = oc.Adam(named(params([(4, 3), (5,)]), 'ab'), lr=0.5)
    advance(other, other.param_lists[0], 0, 1)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r'shape \[3, 4\] for parameter a'):
        other.load_state_dict(opt.state_dict())
    assert other.hypers[0]['lr'] == 0.5 and all(s['step'] == 1 for s in other.state.values())
    strange = oc.Adam(named(params(), 'wxyz'), lr=0.5)
    with pytest.warns(UserWarning, match="as `a` and `w`: it goes by the order"):
        strange.load_state_dict(opt.state_dict())
    assert [k['step'] for k in strange.state.values()] == [3]*4


def test_without_names_on_both_sides_it_is_the_order():
    ps = params()
    opt, qs = start(ps), copies(ps)
    other = oc.Adam(qs, lr=0.5, engine='eager')
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]['param_names'] == list(NAMES) and go_on(opt, ps, other, qs)
    twice = oc.Adam(named(ps, 'aabb'), lr=0.5)
    with pytest.warns(UserWarning, match='same name: the state dict goes by the order'):
        twice.load_state_dict(opt.state_dict())
    assert twice.state[ps[1]]['step'] == 8


def test_torchs_state_goes_by_name_too():
    ps = params()
    theirs = torch.optim.AdamW(named(ps), lr=0.1)
    advance(theirs, ps, 0, 3)
    qs = copies(ps)
    ours = oc.AdamW(named(qs)[::-1], lr=0.5, engine='eager')
    ours.load_state_dict(theirs.state_dict())
    advance(theirs, ps, 3, 5)
    advance(ours, qs, 3, 5)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(ps, qs)) and ours.hypers[0]['lr'] == 0.1


def test_state_by_name():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    opt = oc.Adam(model.parameters(), lr=0.1)
    advance(opt, list(model.parameters()), 0, 1)
    with pytest.raises(ValueError, match='no names'): oc.named_state(opt)
    state = oc.named_state(opt, model)
    assert list(state) == [k for k, _ in model.named_parameters()] and torch.equal(state['1.bias']['grad_avg'], opt.state[model[1].bias]['grad_avg'])
    state['1.bias']['grad_avg'].fill_(9)
    assert not (opt.state[model[1].bias]['grad_avg'] == 9).any()
    with pytest.raises(ValueError, match=r'parameter 2 .* of shape \[1, 3\], is not in the model'):
        oc.named_state(opt, model[0])
    assert list(oc.named_state(oc.Adam(model.named_parameters(), lr=0.1))) == list(state)
    with pytest.raises(ValueError, match='the same name'):
        oc.named_state(oc.Adam([('w', p) for p in model.parameters()], lr=0.1))


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
        assert all(torch.equal(after['state'][i][k], before['state'][i][k]) for i in range(2)
                   for k in ('grad_avg', 'sqr_avg'))


def test_of_other_steppers_gives_what_fits_and_says_so():
    ps = params()
    adam = oc.Adam(ps, lr=0.1)
    adam.state[ps[0]]['do_wd'] = False
    advance(adam, ps, 0, 2)
    ours = Optimizer(copies(ps), [partial(average_grad, dampening=True), oc.max_abs_grad, momentum_step],
                     lr=0.5, sqr_mom=0.9)
    with pytest.warns(UserWarning, match='Taken: do_wd, grad_avg; left: sqr_avg, step; not there, and started afresh: grad_max'):
        ours.load_state_dict(adam.state_dict())
    state = ours.state[ours.param_lists[0][0]]
    assert set(state) == {'grad_avg', 'do_wd'} and torch.equal(state['grad_avg'], adam.state[ps[0]]['grad_avg']) and ours.hypers[0]['lr'] == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        oc.Adam(copies(ps), lr=0.1).load_state_dict(adam.state_dict())


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
    with pytest.warns(UserWarning, match='Taken: sqr_avg; left: count, slow_avg'):
        other.load_state_dict(opt.state_dict())


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


def test_marks_stay_where_the_state_dict_says_nothing():
    ps, qs = params(), params()
    opt = start(ps[:3])
    other = oc.Adam(named(qs), lr=0.5)
    for i, mark in ((0, 'do_wd'), (3, 'do_wd'), (3, 'force_train')): other.state[qs[i]][mark] = False
    with pytest.warns(UserWarning, match='afresh: d'): other.load_state_dict(opt.state_dict())
    assert other.state[qs[3]] == {'do_wd': False, 'force_train': False} # a new head
    assert other.state[qs[0]]['step'] == 3 and 'do_wd' not in other.state[qs[0]] # it is said that it has none


def test_marks_stay_where_the_state_dict_is_torchs():
    ps, qs = params(), params()
    theirs = torch.optim.AdamW([{'params': ps[:2]}, {'params': ps[2:]}], lr=0.1)
    opt = oc.AdamW([qs[:2], qs[2:]], lr=0.5)
    opt.state[qs[0]]['force_train'], opt.state[qs[2]]['do_wd'] = True, False
    for steps in (0, 2):
        advance(theirs, ps, 0, steps)
        opt.load_state_dict(theirs.state_dict())
        assert opt.state[qs[0]]['force_train'] is True and opt.state[qs[2]]['do_wd'] is False and ('grad_avg' in opt.state[qs[0]]) == bool(steps)
    opt.freeze()
    assert [q.requires_grad for q in qs] == [True, False, True, True]


def test_a_group_that_is_split_off_keeps_its_own_hypers():
    ps = params()
    opt = oc.AdamW(named(ps), lr=0.1, wd=0.05)
    advance(opt, ps, 0, 2)
    qs = named(copies(ps))
    other = oc.AdamW([{'params': qs[:2]}, {'params': qs[2:], 'wd': 0.}], lr=0.5, wd=0.01)
    with pytest.warns(UserWarning, match='Group 1 is a part of one there, and keeps its own wd') as said:
        other.load_state_dict(opt.state_dict())
    assert len(said) == 1 and list(other.hypers.itemgot('wd')) == [0.05, 0.] and list(other.hypers.itemgot('lr')) == [0.1, 0.1]
    other.set_hyper('wd', 0.3)
    back = oc.AdamW([{'params': qs[2:][::-1], 'wd': 0.7}, {'params': qs[:2]}], lr=0.5, wd=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        back.load_state_dict(other.state_dict()) # the same groups, in another order
    assert list(back.hypers.itemgot('wd')) == [0.3, 0.3]


def test_names_that_only_a_state_dict_has_given_are_no_bother():
    ps, qs, new = params(), params(), params([(2,), (2,)])
    opt, other = start(ps), oc.Adam(qs, lr=0.5)
    other.load_state_dict(opt.state_dict())
    other.add_param_group({'params': new[:1]})
    assert not any('param_names' in g for g in other.param_groups) and other.state[qs[0]]['step'] == 3
    with pytest.raises(ValueError, match='some parameters have names'): opt.add_param_group({'params': new[1:]})
    other = oc.Adam(qs, lr=0.5)
    other.load_state_dict(opt.state_dict())
    other.add_param_group({'params': [('new', new[0])]})
    assert [g['param_names'] for g in other.param_groups] == [list(NAMES), ['new']]
