"State of `torch.optim`'s optimizers, taken over and given back: both go on alike."
import inspect
import warnings
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.optim as to
from cases import CASES
from helpers import difference, params, set_grads

import optimcb as oc
from optimcb import Optimizer
from optimcb.state.to_torch import to_torch
from optimcb.state.torch_optim import COUNTERPARTS

radam, sparse_adam = (a.insert(oc.debias_eps, before=f)
                      for a, f in ((oc.RAdam, oc.radam_step), (oc.Adam, oc.adam_step)))
SAYS_DECAY = 'decoupled_weight_decay' in inspect.signature(to.Adam).parameters # since then AdamW is Adam with it
torchs = {o for o in vars(to).values() if isinstance(o, type)}
PAIRS = [(name, ours, theirs) for name, ours, theirs in CASES if getattr(theirs, 'func', theirs) in torchs] + [
    ('averaged momentum', partial(oc.SGD, mom=0.8, dampening=True), partial(to.SGD, momentum=0.8, dampening=0.8)),
    ('momentum that is 0', partial(oc.SGD, mom=0.9), to.SGD),
    ('no momentum, divide first', partial(oc.RMSProp, mom=0.9, divide_first=True), to.RMSprop),
    ('radam', partial(radam, decouple_wd=False), partial(to.RAdam, weight_decay=0.1, eps=1e-3)),
    ('radam, decoupled', radam, partial(to.RAdam, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3, decoupled_weight_decay=True)),
    ('adamw, another decay that is 0', oc.Adam, partial(to.Adam, eps=1e-3)),
    ('adam in parts', partial(Optimizer, cbs=[partial(oc.average_grad, dampening=True), oc.average_sqr_grad, oc.step_stat, oc.debias_grad_avg,
                                              oc.debias_sqr_avg, oc.rms_update, oc.apply_update], sqr_mom=0.9, eps=1.), to.Adam),
]


@pytest.fixture(autouse=True)
def exact():
    "torch keeps counts and products in the default dtype"
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def advance(opts, lists, steps, skip=lambda i: ()):
    for i in steps:
        for opt, ps in zip(opts, lists):
            set_grads(ps, i, skip(i))
            opt.step()


def two(): return params(dtype=torch.float64), params(dtype=torch.float64)
def copy_(ps, qs): [p.data.copy_(q.data) for p, q in zip(ps, qs)]
def late(i): return (2,) if i < 9 else () # this parameter begins after the state has changed hands


def same_groups(a, b):
    "Equal options; which decay it is doesn't matter where there is none, or where torch doesn't say it"
    def options(g, other):
        matters = g['weight_decay'] and 'decoupled_weight_decay' in other
        return {k: v for k, v in g.items() if k != 'decoupled_weight_decay' or matters}
    pairs = list(zip(a['param_groups'], b['param_groups'], strict=True))
    return all(options(g, h) == options(h, g) for g, h in pairs)


@pytest.mark.parametrize('engine', ['eager', 'auto'])
@pytest.mark.parametrize('ours, theirs', [o[1:] for o in PAIRS], ids=[o[0] for o in PAIRS])
def test_from_torch_and_back(ours, theirs, engine):
    ps, qs = two()
    split = lambda ps: [{'params': ps[:1], 'lr': 0.02}, {'params': ps[1:], 'note': 'a'}] # noqa: E731
    a, b = theirs(split(ps), lr=0.01), ours(split(qs), lr=5., engine=engine)
    skip = (lambda i: ()) if 'dampening' in getattr(theirs, 'keywords', ()) else late
    advance([a], [ps], range(7), skip)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        b.load_state_dict(a.state_dict())
        copy_(qs, ps)
    advance([a, b], [ps, qs], range(7, 27), skip)
    assert difference(qs, ps) < 1e-12 and all(b.state[q].get('step', 0) == a.state[p].get('step', 0)
                                              for p, q in zip(ps, qs) if 'step' in b.state[q])
    sd, rs = to_torch(b), params(dtype=torch.float64)
    assert same_groups(sd, a.state_dict())
    copy_(rs, qs)
    c = getattr(theirs, 'func', theirs)(split(rs), lr=7.)
    c.load_state_dict(sd)
    advance([b, c], [qs, rs], range(27, 47))
    assert difference(rs, qs) < 1e-12
    assert set(c.state[rs[0]]) == set(a.state[ps[0]]) or not a.state[ps[0]] or not a.param_groups[0]['momentum']


@pytest.mark.parametrize('ours, theirs', [o[1:] for o in PAIRS], ids=[o[0] for o in PAIRS])
def test_before_the_first_step(ours, theirs):
    (ps, qs), rs = two(), params(dtype=torch.float64)
    b, optim = ours(qs, lr=0.01, engine='eager'), getattr(theirs, 'func', theirs)
    if ours is oc.Adam and not SAYS_DECAY: optim = to.AdamW # which alone decays as ours does
    a = optim(rs, lr=7.)
    a.load_state_dict(to_torch(b))
    advance([a, b], [rs, qs], range(9))
    assert difference(rs, qs) < 1e-12
    a, b = theirs(ps, lr=0.01), ours(rs, lr=5., engine='eager')
    b.load_state_dict(a.state_dict())
    copy_(rs, ps)
    advance([a, b], [ps, rs], range(9))
    assert difference(rs, ps) < 1e-12


@pytest.mark.parametrize('engine', ['eager', 'auto'])
def test_sparse_adam(engine):
    ps, qs, rs = ([p] for p in params([(6, 3)]*3, dtype=torch.float64))
    a, b, c = to.SparseAdam(ps, lr=0.01, eps=1e-3), sparse_adam(qs, lr=5., engine=engine), to.SparseAdam(rs, lr=7.)
    def go(steps, *opts):
        for i in steps:
            for opt in opts:
                p, = opt.param_groups[0]['params']
                set_grads([p], i)
                p.grad = torch.sparse_coo_tensor([[i % 6, (i+2) % 6]], p.grad[:2], p.shape)
                opt.step()
    go(range(7), a)
    b.load_state_dict(a.state_dict())
    copy_(qs, ps)
    go(range(7, 27), a, b)
    assert difference(qs, ps) < 1e-12 and b.state[qs[0]]['step'] == 27 and type(b.state[qs[0]]['step']) is int
    c.load_state_dict(to_torch(b))
    copy_(rs, qs)
    go(range(27, 47), b, c)
    assert difference(rs, qs) < 1e-12


@pytest.mark.parametrize('counterpart', COUNTERPARTS, ids=lambda c: c.optim.__name__)
def test_the_table_has_the_options_and_the_state_of_torch(counterpart):
    p = torch.nn.Parameter(torch.ones(2))
    known = inspect.signature(counterpart.optim).parameters.keys()
    opt = counterpart.optim([p], **{k: v[-1] for k, v in counterpart.flags.items() if k in known and k != 'dampening'})
    later = set() if SAYS_DECAY else set(counterpart.flags) - known
    assert {k for k in opt.param_groups[0] if k != 'params'} | later == set(counterpart.defaults)
    p.grad = torch.ones(2).to_sparse() if counterpart.optim is to.SparseAdam else torch.ones(2)
    opt.step()
    assert set(opt.state[p]) <= set(counterpart.state)
    assert counterpart.optim is to.RMSprop or set(counterpart.state) - {'max_exp_avg_sq'} <= set(opt.state[p])


OTHER = [
    (to.Adam, dict(weight_decay=0.1), oc.Adam, 'torch.optim.Adam: theirs alone: l2_reg; ours alone: weight_decay; to have `l2_reg`: `decouple_wd=False`.* left: nothing'),
    (to.AdamW, dict(weight_decay=0.1), partial(oc.Adam, decouple_wd=False), 'theirs alone: weight_decay; ours alone: l2_reg; to have `weight_decay`: `decouple_wd=True`'),
    (to.Adam, {}, oc.AMSGrad, 'Taken: grad_avg, sqr_avg, step; .* started afresh: sqr_max'),
    (to.SGD, dict(momentum=0.9, nesterov=True), partial(oc.Optimizer, cbs=oc.SGD.recipe(mom=0.9), mom=0.9), 'nesterov_update'),
    (to.SGD, dict(momentum=0.9), partial(oc.SGD, mom=0.9, dampening=True), r'theirs alone: average_grad; ours alone: average_grad\(dampening=True\)'),
    (to.SGD, dict(weight_decay=0.1), oc.SGD, 'l2_reg'),
    (to.RAdam, {}, oc.RAdam, r'theirs alone: debias_eps; to have `debias_eps`: `insert` it before `adam_step` or `radam_step`\)'),
    (to.RMSprop, dict(momentum=0.9), partial(oc.RMSProp, mom=0.9), 'left: update_avg.*afresh: grad_avg'),
    (to.Adam, {}, oc.Lamb, 'adam_step'),
    (to.Adam, {}, lambda ps, lr: oc.Lookahead(oc.AdamW(ps, lr)), 'afresh: count, slow_avg'),
]


@pytest.mark.parametrize('theirs, options, ours, message', OTHER, ids=[f'{t.__name__} {o}' for t, o, *_ in OTHER])
def test_another_trajectory_is_said(theirs, options, ours, message):
    if '`decouple_wd=' in message and not SAYS_DECAY: pytest.skip("torch 2.6 doesn't say which decay it is")
    ps, qs = two()
    a, b = theirs(ps, lr=0.01, **options), ours(qs, lr=0.5)
    advance([a], [ps], range(2))
    with pytest.warns(UserWarning, match=message) as said: b.load_state_dict(a.state_dict())
    assert len(said) == 1 and said[0].filename == __file__ and b.hypers[0]['lr'] == 0.01


l2 = dict(decouple_wd=False)
CHOSEN = [ # options that choose steppers, and algorithms that do without them by default
    (to.SGD, dict(momentum=0.9), oc.SGD), (to.SGD, dict(momentum=0.9, nesterov=True), oc.SGD), (to.SGD, dict(momentum=0.9, dampening=0.3), oc.SGD),
    (to.SGD, dict(momentum=0.9, weight_decay=0.1, maximize=True), partial(oc.SGD, **l2)), (to.SGD, dict(momentum=0.9, nesterov=True), partial(oc.SGD, mom=0.7)),
    (to.SGD, dict(momentum=0.9), partial(oc.SGD, mom=0.7, nesterov=True)),
    (to.SGD, dict(momentum=0.9), partial(oc.SGD, mom=0.7, dampening=0.5)), (to.SGD, {}, partial(oc.SGD, maximize=True)),
    (to.Adam, dict(amsgrad=True), oc.AdamW), (to.AdamW, dict(amsgrad=True, maximize=True), oc.Adam), (to.Adam, {}, partial(oc.Adam, amsgrad=True)),
    (to.RMSprop, dict(centered=True), oc.RMSProp), (to.RMSprop, dict(momentum=0.9, centered=True), partial(oc.RMSProp, divide_first=True)),
    (to.RMSprop, {}, partial(oc.RMSProp, centered=True)), (to.NAdam, dict(maximize=True, weight_decay=0.1), partial(oc.NAdam, **l2))]


@pytest.mark.parametrize('theirs, options, ours', CHOSEN, ids=[f'{t.__name__} {o} {i}' for i, (t, o, *_) in enumerate(CHOSEN)])
@pytest.mark.parametrize('engine', ['eager', 'auto'])
def test_options_that_choose_steppers_come_with_torchs_state(theirs, options, ours, engine):
    ps, qs = two()
    groups = lambda ps: [{'params': ps[:2]}, {'params': ps[2:]}] # noqa: E731
    a, b = theirs(groups(ps), lr=0.01, **options), ours(groups(qs), lr=0.5, engine=engine)
    advance([a], [ps], range(7))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        b.load_state_dict(a.state_dict())
    copy_(qs, ps)
    advance([a, b], [ps, qs], range(7, 20))
    assert difference(qs, ps) < 1e-12
    sd = to_torch(b)
    assert same_groups(sd, a.state_dict())
    rs = params(dtype=torch.float64)
    copy_(rs, qs)
    c = theirs(groups(rs), lr=7.)
    c.load_state_dict(sd)
    advance([b, c], [qs, rs], range(20, 30))
    assert difference(rs, qs) < 1e-12


@pytest.mark.parametrize('theirs, options, message', [(to.ASGD, {}, 'another optimizer'), (to.Rprop, {}, 'another optimizer'),
                                                      (to.SGD, dict(maximize=True), 'put `maximize` before')], ids='ASGD Rprop maximize'.split())
def test_what_nothing_does_is_refused(theirs, options, message):
    ps, qs = two()
    make = partial(oc.Optimizer, cbs=oc.SGD.recipe(mom=0.7)) if options else oc.SGD
    a, b = theirs(ps, lr=0.01, **options), make(qs, lr=0.5, mom=0.7)
    advance([a], [ps], range(2))
    advance([b], [qs], range(2))
    before = b.state_dict()
    with pytest.raises(ValueError, match=message): b.load_state_dict(a.state_dict())
    assert b.state_dict()['hypers'] == before['hypers'] and all(torch.equal(b.state[q]['grad_avg'], before['state'][i]['grad_avg']) for i, q in enumerate(qs))


def test_hypers_are_ours_and_notes_stay_notes():
    ps, qs = two()
    a = to.AdamW([{'params': ps, 'initial_lr': 3.}], lr=torch.tensor(0.01), betas=(0.8, 0.95), foreach=False)
    advance([a], [ps], range(1))
    b = oc.RAdam.insert(oc.debias_eps, before=oc.radam_step)(qs, lr=0.5, beta=50.)
    with pytest.warns(UserWarning, match='radam_step|adam_step'): b.load_state_dict(a.state_dict())
    assert b.hypers[0] == dict(lr=0.01, mom=0.8, sqr_mom=0.95, eps=1e-8, wd=0.01, beta=50.)
    assert b.param_groups[0]['initial_lr'] == 3. and not {'betas', 'foreach', 'amsgrad',
                                                          'maximize'} & set(b.param_groups[0])
    radam = to.RAdam(ps, lr=0.01)
    b.load_state_dict(radam.state_dict())
    assert b.hypers[0]['beta'] == 0 # which torch's doesn't have


def test_adamw_of_older_torch_doesnt_say_how_it_decays():
    ps, qs = two()
    a, b = to.AdamW(ps, lr=0.01), oc.AdamW(qs, lr=0.5, engine='eager')
    advance([a], [ps], range(2))
    sd = a.state_dict()
    for g in sd['param_groups']: g.pop('decoupled_weight_decay', None)
    b.load_state_dict(sd)
    copy_(qs, ps)
    advance([a, b], [ps, qs], range(2, 9))
    assert difference(qs, ps) < 1e-12


@pytest.mark.parametrize('decoupled', [True, False])
def test_a_later_torch_says_how_it_decays(decoupled):
    "An older one takes its state, and is told by it which steppers it is of"
    ps, qs = two()
    a, b = (to.AdamW if decoupled else to.Adam)(ps, lr=0.01, weight_decay=0.1), oc.Adam(qs, lr=0.5, engine='eager', decouple_wd=decoupled)
    advance([a], [ps], range(2))
    sd = a.state_dict()
    for g in sd['param_groups']: g['decoupled_weight_decay'] = decoupled
    b.load_state_dict(sd)
    copy_(qs, ps)
    advance([a, b], [ps, qs], range(2, 9))
    assert difference(qs, ps) < 1e-12 and b.hypers[0]['wd'] == 0.1
    with pytest.warns(UserWarning, match='theirs alone'):
        oc.Adam(qs, lr=0.5, decouple_wd=not decoupled).load_state_dict(sd)


def test_nesterov_whose_momentum_is_0_just_now():
    ps, qs = two()
    a = to.SGD(ps, lr=0.01, momentum=0.9, nesterov=True)
    b = oc.SGD(qs, lr=0.5, mom=0.9, nesterov=True)
    a.param_groups[0]['momentum'] = 0
    b.load_state_dict(a.state_dict())
    copy_(qs, ps)
    advance([a, b], [ps, qs], range(5))
    assert difference(qs, ps) < 1e-12 and to_torch(b)['param_groups'] == a.state_dict()['param_groups']


def test_to_torch_keeps_the_kind_of_decay_where_it_is_0():
    assert [to_torch(oc.Adam(params(), lr=0.1, wd=0., decouple_wd=d))['param_groups'][0]['decoupled_weight_decay'] for d in (True, False)] == [True, False]


def test_state_of_others_with_torchs_names_is_not_taken_for_torchs():
    ps = params()
    for options in (dict(betas=(0.9, 0.99), eps=1e-6, weight_decay=0., correct_bias=True), dict(momentum=0.9, nesterov=True, ns_steps=5)): # transformers, Muon
        sd = dict(state={0: {'exp_avg': torch.zeros(3, 4), 'exp_avg_sq': torch.zeros(3, 4)}},
                  param_groups=[{**options, 'lr': 0.1, 'params': list(range(4))}])
        with pytest.raises(ValueError, match='another optimizer'): oc.Adam(ps, lr=0.1).load_state_dict(sd)


@pytest.mark.parametrize('ours, message', [
    (oc.Lamb, 'trust_ratio'), (oc.RAdam, 'radam_step'), (partial(oc.SGD, mom=0.9, wd=0.1), 'does what these steppers do: weight_decay'),
    (partial(radam, beta=50.), 'no `beta`'), (lambda ps, lr: oc.Lookahead(oc.AdamW(ps, lr)), 'lookahead_step'),
    (lambda ps, lr: Optimizer(ps, [lambda p, lr: None], lr=lr), '<lambda>')], ids='lamb radam sgd sadam lookahead own'.split())
def test_without_a_counterpart_it_is_not_given_to_torch(ours, message):
    with pytest.raises(ValueError, match=message): to_torch(ours(params(), lr=0.1))


def test_parameters_that_are_not_decayed_are_not_given_to_torch():
    ps = params()
    opt = oc.AdamW(ps, lr=0.1)
    opt.state[ps[0]]['do_wd'] = False
    with pytest.raises(ValueError, match='do_wd.*wd_bn_bias=True'): to_torch(opt)
    opt.set_hyper('wd', 0.)
    assert to_torch(opt)['param_groups'][0]['weight_decay'] == 0


def test_what_torch_is_given_is_a_copy_with_names_and_without_taps():
    model = torch.nn.Linear(2, 3)
    opt = oc.AdamW.insert(oc.tap(size=lambda p: p.grad.norm()), before=oc.adam_step)(model.named_parameters(), lr=0.1)
    advance([opt], [list(model.parameters())], range(2))
    sd = to_torch(opt)
    assert sd['param_groups'][0]['param_names'] == ['weight', 'bias'] and set(sd['state'][0]) == {'step', 'exp_avg', 'exp_avg_sq'}
    sd['state'][0]['exp_avg'].fill_(9)
    assert not (opt.state[model.weight]['grad_avg'] == 9).any()
    theirs = to.AdamW(model.parameters(), lr=1.)
    theirs.load_state_dict(to_torch(opt))
    assert theirs.state[model.weight]['step'] == 2 and theirs.param_groups[0]['lr'] == 0.1


@pytest.mark.parametrize('theirs', [to.ASGD, to.Rprop, to.Adafactor], ids=lambda o: o.__name__)
def test_another_optimizer_is_refused_before_its_first_step_too(theirs):
    ps, qs = two()
    with pytest.raises(ValueError, match='of another optimizer of torch, with options .*no steppers do'):
        oc.AdamW(qs, lr=0.5).load_state_dict(theirs(ps, lr=0.1).state_dict())
    a = theirs(ps, lr=0.1)
    advance([a], [ps], range(2))
    with pytest.raises(ValueError, match='of another optimizer, with state'):
        oc.AdamW(qs, lr=0.5).load_state_dict(a.state_dict())


def test_decay_that_is_zero_is_no_difference():
    ps, qs = two()
    a, b = oc.Adam(ps, lr=0.1, wd=0., decouple_wd=False), oc.Adam(qs, lr=0.5, wd=0.)
    advance([a], [ps], range(2))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        b.load_state_dict(a.state_dict())
    a.set_hyper('wd', 0.1)
    with pytest.warns(UserWarning, match='theirs alone: l2_reg'): b.load_state_dict(a.state_dict())


def test_what_is_lacking_is_looked_for_in_each_parameter():
    ps, qs = two()
    a, b = oc.AMSGrad(ps, lr=0.1), oc.AMSGrad(qs, lr=0.1)
    advance([a], [ps], range(2))
    sd = a.state_dict()
    sd['steppers'] = [*sd['steppers'], 'another']
    del sd['state'][2]['sqr_max']
    with pytest.warns(UserWarning, match='theirs alone: another.* afresh: sqr_max'): b.load_state_dict(sd)


@pytest.mark.parametrize('lr', [torch.tensor(0.1), np.float64(0.1)], ids=['tensor', 'numpy'])
def test_what_torch_is_given_goes_through_a_file(lr, tmp_path):
    ps, qs = two()
    opt = oc.AdamW(ps, lr=0.5)
    opt.param_groups[0]['lr'] = lr # as schedulers do
    advance([opt], [ps], range(2))
    sd = to_torch(opt)
    assert sd['param_groups'][0]['lr'] is not lr and sd['param_groups'][0]['lr'] == 0.1
    torch.save(sd, tmp_path/'a.pt')
    theirs = to.AdamW(qs, lr=1.)
    theirs.load_state_dict(torch.load(tmp_path/'a.pt', weights_only=True))
    copy_(qs, ps)
    advance([opt, theirs], [ps, qs], range(2, 9))
    assert difference(ps, qs) < 1e-7


def test_only_an_optimizer_with_steppers_is_given_to_torch():
    opt = to.AdamW(params(), lr=0.1)
    for f in (to_torch, oc.named_state):
        with pytest.raises(TypeError, match='AdamW is no optimcb `Optimizer`.*opt.optimizer'): f(opt)


RECIPES = dict(
    SGD=lambda momentum, nesterov, dampening: oc.SGD.recipe(momentum, decouple_wd=False, nesterov=nesterov, dampening=dampening == momentum != 0),
    Adam=lambda amsgrad, decoupled_weight_decay: oc.Adam.recipe(decouple_wd=decoupled_weight_decay, amsgrad=amsgrad),
    NAdam=lambda decoupled_weight_decay: oc.NAdam.recipe(decouple_wd=decoupled_weight_decay),
    Adamax=lambda: oc.Adamax.recipe(decouple_wd=False), Adagrad=lambda: oc.Adagrad.recipe(decouple_wd=False),
    Adadelta=lambda: oc.Adadelta.recipe(decouple_wd=False),
    RMSprop=lambda momentum, centered: oc.RMSProp.recipe(momentum, decouple_wd=False, centered=centered, divide_first=True))


@pytest.mark.parametrize('name', RECIPES)
def test_counterparts_are_what_recipes_list(name):
    counterpart = next(c for c in COUNTERPARTS if c.optim.__name__ == name)
    for values in product(*counterpart.flags.values()):
        flags = dict(zip(counterpart.flags, values))
        try: listed = RECIPES[name](**flags)
        except ValueError:
            with pytest.raises(ValueError): counterpart.recipe(**flags)
            continue
        assert oc.Composition(counterpart.recipe(**flags)).labels == oc.Composition(listed).labels
