"Several compositions in one optimizer, steppers for some parameters only, hyper-parameters that are functions of the step."
import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from helpers import SHAPES, Rows, difference, params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import TRACED
from torch import nn

import optimcb
from optimcb import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    Lamb,
    Larc,
    MissingName,
    NAdam,
    Optimizer,
    RAdam,
    RMSProp,
    Yogi,
    apply_update,
    average_grad,
    average_sqr_grad,
    by_module,
    by_name,
    by_ndim,
    by_shape,
    cosine_decay,
    debias_grad_avg,
    grouped,
    inverse_sqrt,
    l2_reg,
    momentum_step,
    no_wd,
    norms_and_biases,
    once,
    only,
    renamed,
    renamed_all,
    route,
    scheduled,
    sgd_step,
    slow_start,
    step_in_backward,
    step_stat,
    warmup,
    weight_decay,
    yogi_sqr_grad,
)

ENGINES = ['eager', *TRACED]
ALGORITHMS = { # of many kinds: with and without momentum, counts, sums over a tensor, updates, branches, numbers among the state
    'sgd': SGD, 'momentum': partial(SGD, mom=0.9, wd=0.1), 'l2': partial(SGD, mom=0.9, wd=0.1, decouple_wd=False), 'rmsprop': RMSProp, 'adam': Adam,
    'amsgrad': AMSGrad, 'nadam': NAdam, 'lamb': Lamb, 'larc': Larc, 'radam': RAdam, 'adagrad': partial(Adagrad, lr_decay=0.1), 'yogi': Yogi.named('y'),
    'edited': Adam.replace(average_sqr_grad, yogi_sqr_grad)}
RULES = {'matrices': by_ndim(2), 'all': ~by_ndim(7), 'none': by_ndim(7), 'names': by_name('p0', 'p2'),
         'vectors or named': by_ndim(1) | by_name('*3')}
some_rule = st.sampled_from(sorted(RULES))
some_algorithm = st.sampled_from(sorted(ALGORITHMS))
gaps = st.lists(st.sets(st.integers(0, len(SHAPES) - 1), max_size=3), min_size=1, max_size=3)


def few(n): return settings(max_examples=n, deadline=None)


def named(ps): return [(f'p{i}', p) for i, p in enumerate(ps)]


def holds(rule, ps):
    test = rule.test()
    return [test(p, k) for k, p in named(ps)]


def routes(opt): return [s['route'] for g in opt._groups for s in g.states]


def run(make, ps=None, steps=6, lr=0.01, gaps=((),), start=0, **kwargs):
    "The optimizer and its parameters after some steps in float64"
    ps = params(dtype=torch.float64) if ps is None else ps
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt = make(named(ps), lr=lr, **kwargs) if callable(make) else make
        for i in range(start, start + steps):
            set_grads(ps, i, gaps[i % len(gaps)])
            opt.step()
    return opt, [p.detach() for p in ps]


def apart(a, b, rule, gaps, engine='eager'):
    "What two optimizers give, one for the parameters for which the rule holds, and one for the others"
    ps = params(dtype=torch.float64)
    mine = holds(rule, ps)
    opts = [f([p for p, m in zip(ps, mine) if m is side], lr=0.01, engine=engine)
            for f, side in ((a, True), (b, False)) if side in mine]
    for i in range(6):
        set_grads(ps, i, gaps[i % len(gaps)])
        for o in opts: o.step()
    return [p.detach() for p in ps]


# Routes

@few(16)
@given(some_algorithm, some_algorithm, some_rule, gaps, st.sampled_from(ENGINES))
def test_two_routes_are_two_optimizers(a, b, rule, gaps, engine):
    a, b, rule = ALGORITHMS[a], ALGORITHMS[b], RULES[rule]
    _, got = run(route(one=(a, rule), two=b), gaps=gaps, engine=engine)
    assert difference(got, apart(a, b, rule, gaps)) <= (0 if engine == 'eager' else 1e-12)


@few(10)
@given(some_algorithm, gaps, st.sampled_from(ENGINES), st.booleans())
def test_a_route_that_takes_all_is_the_algorithm(a, gaps, engine, first):
    plain = ALGORITHMS[a]
    routes = dict(one=(plain, RULES['all']), two=Adam) if first else dict(one=(Adam, RULES['none']), two=plain)
    opt, got = run(route(**routes), gaps=gaps, engine=engine)
    ref, expected = run(plain, gaps=gaps, engine=engine)
    assert difference(got, expected) == 0
    for p, q in zip(opt.all_params(), ref.all_params()): assert p[2].keys() - {'route'} == q[2].keys()


@few(10)
@given(some_algorithm, some_algorithm, some_rule, gaps, st.sampled_from(['fused', 'eager']), st.booleans())
def test_a_run_goes_on_from_a_checkpoint_by_name_and_by_place(a, b, rule, gaps, engine, by_name):
    make = route(one=(ALGORITHMS[a], RULES[rule]), two=ALGORITHMS[b])
    opt, expected = run(make, steps=5, gaps=gaps, engine=engine)
    sd = copy.deepcopy(opt.state_dict())
    run(opt, [p for g in opt.param_groups for p in g['params']], steps=4, gaps=gaps, start=5)
    ps = [nn.Parameter(p.clone()) for p in run(make, steps=5, gaps=gaps, engine=engine)[1]]
    order = list(reversed(named(ps))) if by_name else named(ps)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        other = make(order, lr=0.01, engine=engine)
        other.load_state_dict(sd)
    run(other, ps, steps=4, gaps=gaps, start=5)
    assert difference([p.detach() for p in ps], expected) == 0


def test_options_are_shared_where_the_routes_agree():
    both = route(hidden=(partial(SGD, mom=0.95), by_ndim(2)), rest=partial(AdamW, lr_scale=0.5))
    assert both.hypers == dict(sqr_mom=0.999, eps=1e-8, hidden_mom=0.95, hidden_wd=0., hidden_lr_scale=1.,
                               rest_mom=0.9, rest_wd=0.01, rest_lr_scale=0.5)
    assert {'decouple_wd', 'nesterov', 'dampening'} <= both.signature.parameters.keys()
    assert route(a=(Adam, by_ndim(2)), b=Adam).hypers.keys() == {*Adam.hypers, 'a_lr_scale', 'b_lr_scale'}
    assert {'a_wd', 'b_wd'} <= route(a=(Adam, by_ndim(2)), b=Adam, apart=['wd']).hypers.keys()
    ps = params()
    opt = both(named(ps), lr=0.1, hidden_mom=0.5, rest_wd=0., nesterov=True)
    assert opt.hypers[0]['hidden_mom'] == 0.5 and 'nesterov_update(mom→hidden_mom)[hidden]' in opt.composition.labels
    with pytest.raises(TypeError, match='no `mom`. Did you mean'): both(ps, lr=0.1, mom=0.9)


def test_options_are_those_of_the_routes():
    "What is given under a route's name does what it does in the algorithm alone"
    rule = RULES['matrices']
    got = run(partial(route(one=(SGD, rule), two=AdamW), one_mom=0.5, nesterov=True, two_mom=0.7,
                      two_lr_scale=0.1, one_wd=0.1), lr=0.01)[1]
    b = partial(AdamW, mom=0.7)
    expected = apart(partial(SGD, mom=0.5, nesterov=True, wd=0.1),
                     lambda ps, lr, **kw: b(ps, lr=lr*0.1, **kw), rule, [()])
    assert difference(got, expected) < 1e-15


def test_each_route_is_a_kernel_and_no_number_makes_another():
    opt, _ = run(route(one=(SGD, by_ndim(2)), two=AdamW), engine='fused', steps=3)
    assert len(opt._running.programs) == 3 # Adam's first step makes state
    opt.set_hypers(lr=0.3, two_mom=0.5) if 'two_mom' in opt.hypers[0] else opt.set_hypers(lr=0.3, mom=0.5)
    run(opt, [p for g in opt.param_groups for p in g['params']], steps=3, start=3)
    assert len(opt._running.programs) == 3


def test_a_sum_over_all_parameters_is_around_the_routes():
    def clip_norm(p, max_norm=1.):
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)
    both = route(one=(partial(SGD, mom=0.9), by_ndim(2)), two=Lamb).insert(clip_norm, before=0)
    ps = params(dtype=torch.float64)
    opts = SGD([ps[0]], lr=0.01, mom=0.9), Lamb(ps[1:], lr=0.01)
    for i in range(6):
        set_grads(ps, i)
        nn.utils.clip_grad_norm_(ps, 1.)
        for o in opts: o.step()
    for engine in ENGINES: assert difference(run(both, engine=engine)[1], [p.detach() for p in ps]) < 1e-5 # torch adds 1e-6 to the norm
    assert difference(run(both, engine='fused')[1], run(both, engine='eager')[1]) < 1e-13
    with pytest.raises(ValueError, match='Put it before or after the steppers of a route'):
        route(one=([clip_norm, sgd_step], by_ndim(2)), two=Adam)


def test_what_routes_end_with_is_there_once():
    both = route(one=(Adadelta, by_ndim(2)), two=NAdam)
    assert both.composition.labels[-1] == 'apply_update'
    def halved(p, update): return {'update': update/2}
    half = [f.insert(halved, before=apply_update) for f in (Adadelta, NAdam)]
    got = run(both.insert(halved, before=apply_update))[1]
    assert difference(got, apart(*half, by_ndim(2), [()])) == 0
    only_one = both.insert(only(halved, 'two'), before=apply_update)
    assert difference(run(only_one)[1], apart(Adadelta, half[1], by_ndim(2), [()])) == 0


def test_it_is_pickled_copied_and_named():
    both = route('SGDWithAdam', hidden=(SGD, by_ndim(2)), rest=Adam)
    assert both.__name__ == 'SGDWithAdam' and repr(both).startswith('SGDWithAdam(params, lr, *')
    assert both.__doc__ == 'SGD for by_ndim(2); Adam for the rest.'
    for f in (both, both.insert(slow_start, before=0), both.named('other')):
        again = pickle.loads(pickle.dumps(f))
        assert repr(again) == repr(f) and again.__name__ == f.__name__
        assert difference(run(again)[1], run(f)[1]) == 0
    opt = run(both)[0]
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert [s['route'] for *_, s, _ in other.all_params()] == ['hidden', 'rest', 'rest', 'rest']
        a, b = ([p for g in o.param_groups for p in g['params']] for o in (opt, other))
        opt_again = copy.deepcopy(opt)
        a = [p for g in opt_again.param_groups for p in g['params']]
        assert difference(run(opt_again, a, start=6)[1], run(other, b, start=6)[1]) == 0


def test_routes_that_cannot_be():
    with pytest.raises(ValueError, match='two routes or more'): route(one=Adam)
    with pytest.raises(ValueError, match='put it last'): route(one=Adam, two=SGD)
    with pytest.raises(TypeError, match='in a tuple'): route(one=(Adam, by_ndim(1), 2), two=SGD)
    with pytest.raises(TypeError, match='a rule is needed'): route(one=(Adam, 2), two=SGD)
    with pytest.raises(TypeError, match='a rule is needed.*by_shape'): route(one=(Adam, lambda p: p.ndim > 1), two=SGD)
    with pytest.raises(TypeError, match='routes need names'): route((Adam, by_ndim(2)), SGD)
    both = route(hidden=(Adam, by_ndim(2)), rest=partial(SGD, mom=0.5))
    with pytest.raises(TypeError, match='Did you mean `hidden_mom` or `rest_mom`'): both(params(), lr=0.1, mom=0.9)
    with pytest.raises(TypeError, match=r'but is warmup\(steps=9\).*`scheduled\(wd=…\)`'):
        Adam(params(), lr=0.1, wd=warmup(9))
    with pytest.raises(TypeError, match='must be an algorithm'): route(one=(torch.optim.Adam, by_ndim(2)), two=SGD)
    with pytest.raises(TypeError, match='Give it `lr_scale`'): route(one=(partial(Adam, lr=3), by_ndim(2)), two=SGD)
    with pytest.raises(TypeError, match='Adam has no `wda`'): route(one=(partial(Adam, wda=3), by_ndim(2)), two=SGD)
    with pytest.raises(ValueError, match='no route has a `k`'): route(one=(Adam, by_ndim(2)), two=SGD, apart=['k'])
    with pytest.raises(ValueError, match='inside of routes'):
        route(one=(route(a=(Adam, by_ndim(1)), b=SGD), by_ndim(2)), two=SGD)
    with pytest.raises(ValueError, match=r'no route takes `p1` of shape \(5,\)'):
        run(route(one=(Adam, by_ndim(2)), two=(SGD, by_ndim(4))))
    with pytest.raises(ValueError, match='There are no routes'): Optimizer(params(), [only(sgd_step, 'one')], lr=0.1)
    with pytest.raises(ValueError, match='There are one, two'):
        route(one=(Adam, by_ndim(2)), two=SGD).insert(only(sgd_step, 'three'), before=0)
    both = route(one=([weight_decay, momentum_step], by_ndim(2)), two=SGD)
    with pytest.raises(MissingName, match='`momentum_step.one.` needs `grad_avg`.*in route `one`'):
        both(params(), lr=0.1)


def test_doubts_are_those_of_a_route():
    def doubts(make, ps=None):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            make(named(params() if ps is None else ps), lr=0.1)
        return ' '.join(str(w.message) for w in found)
    assert doubts(route(one=(SGD, by_ndim(2)), two=Adam)) == ''
    assert 'is applied more than once' in doubts(route(one=([l2_reg, weight_decay, sgd_step], by_ndim(2)), two=Adam))
    assert 'more than once' in doubts(route(one=(SGD, by_ndim(2)), two=Adam).insert(sgd_step, after=-1))
    assert 'no other stepper reads' in doubts(route(one=([average_grad, sgd_step], by_ndim(2)), two=Adam))
    assert 'no parameter is in route `one`: 4 two' in doubts(route(one=(SGD, by_name('q*')), two=Adam))
    assert '`by_name(\'q*\')` holds for no parameter' in doubts(partial(Optimizer, cbs=[only(weight_decay, by_name('q*')), sgd_step], wd=0.1))


def test_who_is_where_is_shown_and_may_be_changed():
    ps = params()
    opt = route(one=(SGD, by_ndim(2)), two=Adam)(named(ps), lr=0.1)
    shown = str(opt.explain())
    assert 'route  one   1           12        p0\n' in shown and 'route  two   3           30        p1, p2, p3\n' in shown
    assert 'route one: p0\nroute two: p1, p2, p3' in repr(opt)
    assert 'formula of one' in shown and 'formula of two' in shown
    assert 'formula of one' in str(route(one=(SGD, by_ndim(2)), two=Adam).explain())
    opt.state[ps[1]]['route'] = 'one'
    set_grads(ps)
    before = [p.detach().clone() for p in ps]
    opt.step()
    assert difference([ps[1].detach()], [before[1] - 0.1*ps[1].grad]) < 1e-6
    opt.clear_state()
    assert not any(opt.state[p] for p in ps) and routes(opt) == ['one', 'one', 'two', 'two']
    opt.step()
    assert [s['route'] for *_, s, _ in opt.all_params()] == ['one', 'one', 'two', 'two']
    assert 'a 3×4' in repr(SGD.replace(weight_decay, only(weight_decay, by_ndim(2)))(params(), lr=0.1))


def test_a_group_may_say_its_route():
    ps = params([(3, 4), (2, 2), (3, 2), (5,)])
    opt = route(one=(SGD, by_ndim(2)), two=Adam)([dict(params=ps[:2], route='two'), dict(params=ps[2:])], lr=0.1)
    opt.add_param_group(dict(params=[nn.Parameter(torch.ones(2, 2))]))
    assert routes(opt) == ['two', 'two', 'one', 'two', 'one'] and 'route' not in opt.param_groups[0]
    with pytest.raises(ValueError, match="in route 'three', but there are one, two"):
        opt.add_param_group(dict(params=[nn.Parameter(torch.ones(2))], route='three'))
    assert len(opt.param_groups) == 3
    set_grads(ps)
    opt.state[ps[0]]['route'] = 'four'
    with pytest.raises(ValueError, match="in route 'four', but there are one, two"): opt.step()


def test_steppers_that_come_later_find_their_parameters():
    ps = params()
    opt = SGD(named(ps), lr=0.1, wd=0.1)
    opt.replace(weight_decay, only(weight_decay, by_ndim(2)))
    assert [s for g in opt._groups for s in g.states] == [{'by_ndim(2)': b} for b in (True, False, False, False)] and not opt.state[ps[0]]
    set_grads(ps)
    opt.step()
    assert [opt.state[p] for p in ps] == [{'by_ndim(2)': b} for b in (True, False, False, False)]
    with pytest.raises(ValueError, match='has none'): SGD(params(), lr=0.1).insert(only(l2_reg, by_name('x')), before=0)
    opt.replace(0, weight_decay)
    assert not any(opt.state[p] for p in ps)
    opt.cbs[0] = only(weight_decay, by_ndim(1)) # by hand
    set_grads(ps)
    opt.step()
    assert [opt.state[p] for p in ps] == [{'by_ndim(1)': b} for b in (False, True, False, False)]


def test_a_checkpoint_of_other_rules_leaves_ours():
    make, other = (route(one=(Adam, rule), two=SGD) for rule in (by_ndim(2), by_ndim(1)))
    sd = run(make)[0].state_dict()
    for f, expected in ((other, ['two', 'one', 'two', 'two']), (make, ['one', 'two', 'two', 'two'])):
        opt = f(named(params(dtype=torch.float64)), lr=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            opt.load_state_dict(sd)
            assert routes(opt) == expected
            opt.load_state_dict(Adam(params(dtype=torch.float64), lr=0.01).state_dict())
        assert routes(opt) == expected


def test_in_backward_and_in_low_precision():
    make = route(one=(partial(SGD, mom=0.9), by_ndim(2)), two=AdamW)
    results = []
    for inside in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
        opt = make(model.parameters(), lr=0.01)
        if inside: step_in_backward(opt)
        for _ in range(4):
            model(torch.ones(2, 4, dtype=torch.float64)).pow(2).mean().backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
        results.append([p.detach() for p in model.parameters()])
    assert difference(*results) == 0
    ps = params(dtype=torch.bfloat16)
    run(make, ps, engine='fused')
    assert all(p.isfinite().all() and p.dtype == torch.bfloat16 for p in ps)


def test_torchs_distributed_checkpoint():
    "It makes state where there is none, and flat ones hold no strings"
    dcp = pytest.importorskip('torch.distributed.checkpoint.state_dict')
    make = route(one=(partial(SGD, mom=0.9), by_ndim(2)), two=AdamW)
    for flat in (False, True):
        options = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
        models = [nn.Linear(3, 2).double() for _ in range(2)]
        opt, back = (make(m.named_parameters(), lr=0.1) for m in models)
        run(opt, list(models[0].parameters()), steps=3)
        opt.zero_grad(set_to_none=True)
        dcp.set_optimizer_state_dict(models[1], back, dcp.get_optimizer_state_dict(models[0], opt, options=options), options=options)
        models[1].load_state_dict(models[0].state_dict())
        for m, o in zip(models, (opt, back)): run(o, list(m.parameters()), steps=3, start=3)
        assert difference(*([p.detach() for p in m.parameters()] for m in models)) == 0
        assert routes(back) == ['one', 'two'] == [s['route'] for *_, s, _ in back.all_params()]


def test_other_rules_in_a_running_optimizer():
    ps = params(dtype=torch.float64)
    opt, _ = run(route(one=(SGD, by_ndim(2)), two=SGD), ps)
    other = route(uno=(SGD, by_ndim(1)), due=SGD)
    opt.edit(lambda cbs: other.cbs)
    assert routes(opt) == ['due', 'uno', 'due', 'due']
    run(opt, ps)
    assert [s['route'] for *_, s, _ in opt.all_params()] == ['due', 'uno', 'due', 'due']


@pytest.mark.parametrize('engine', ['auto', 'eager'])
def test_muon_for_hidden_matrices_and_adam_for_the_rest(engine):
    if not hasattr(torch.optim, 'Muon'): pytest.skip('torch 2.6 has no Muon')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6),
                          nn.Linear(6, 3)).double()
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    hidden = by_ndim(2) & ~by_module(ours, nn.Embedding, ours[4])
    opts = [route(muon=(partial(optimcb.Muon, pairs=False, bfloat16=True), hidden),
                  adamw=partial(AdamW, lr_scale=0.015))(ours.parameters(), lr=0.02, engine=engine)]
    matrices = [theirs[1].weight, theirs[3].weight]
    others = [p for p in theirs.parameters() if not any(p is q for q in matrices)]
    refs = [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.), torch.optim.AdamW(others, lr=0.02*0.015)]
    for i in range(6):
        for m, os in ((ours, opts), (theirs, refs)):
            set_grads(list(m.parameters()), i)
            for o in os: o.step()
    assert difference([p.detach() for p in ours.parameters()], [p.detach() for p in theirs.parameters()]) < 1e-12


# Masks

@few(14)
@given(some_rule, gaps, st.sampled_from(ENGINES), st.sampled_from(['weight_decay', 'average_grad', 'trust_ratio']))
def test_a_mask_leaves_a_stepper_out(rule, gaps, engine, name):
    cbs = dict(weight_decay=[weight_decay, sgd_step],
               average_grad=[l2_reg, average_grad, rms_free, apply_update], trust_ratio=Lamb.cbs)[name]
    hypers = {**Lamb.hypers, 'wd': 0.3} if name == 'trust_ratio' else dict(wd=0.3)
    rule, at = RULES[rule], next(i for i, f in enumerate(cbs) if getattr(f, '__name__', '') == name)
    without = partial(Optimizer, cbs=[*cbs[:at], *cbs[at+1:]], **hypers)
    _, got = run(partial(Optimizer, cbs=[*cbs[:at], only(cbs[at], rule), *cbs[at+1:]], **hypers), gaps=gaps,
                 engine=engine)
    expected = apart(partial(Optimizer, cbs=cbs, **hypers), without, rule, gaps)
    assert difference(got, expected) <= (0 if engine == 'eager' else 1e-12)


def rms_free(p, grad_avg=None): return {'update': p.grad if grad_avg is None else grad_avg}


def test_masks_of_steppers_that_are_partial_and_renamed():
    f = only(renamed(partial(average_grad, dampening=True), grad_avg='slow'), by_ndim(2))
    for g in (f, pickle.loads(pickle.dumps(f)),
              renamed(only(partial(average_grad, dampening=True), by_ndim(2)), grad_avg='slow')):
        opt, _ = run(partial(Optimizer, cbs=[g, sgd_step], mom=0.5))
        assert [s.keys() - {'by_ndim(2)'} for *_, s, _ in opt.all_params()] == [{'slow'}, set(), set(), set()]
        assert opt.composition.labels[0] == 'average_grad(dampening=True, grad_avg→slow)[by_ndim(2)]'
    with pytest.raises(TypeError, match='must be a rule'): only(sgd_step, 2)
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    assert only(average_grad, by_ndim(2))(p, **{'by_ndim(2)': False}) is None # for loops over `cbs` of one's own


def test_rules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
            self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2))
            self.head, self.pos = nn.Linear(4, 5, bias=False), nn.Parameter(torch.ones(1, 4))
            self.head.weight = self.embed.weight
        def no_weight_decay(self): return {'pos'}
    model = Model()
    def who(rule, named=True):
        test = rule.test()
        return {k for k, p in model.named_parameters() if test(p, k if named else None)}
    assert who(by_name('*.bias')) == {'norm.bias', 'body.0.bias', 'body.1.bias', 'body.2.out_proj.bias'}
    assert who(by_name('head.*', model=model), False) == {'embed.weight'} # tied: it has both names
    assert who(by_module(model, nn.Embedding), False) == {'embed.weight'}
    assert who(by_module(model, model.body[2], nn.LayerNorm)) == {'norm.weight', 'norm.bias', *(f'body.2.{k}' for k, _ in model.body[2].named_parameters())}
    assert who(by_ndim(1) & ~by_name('*bias')) == {'norm.weight', 'body.1.weight'}
    assert who(by_shape(is_square) | by_module(model, nn.BatchNorm1d)) == {'body.0.weight', 'body.1.weight', 'body.1.bias', 'body.2.out_proj.weight'}
    free = {'pos', 'norm.weight', 'norm.bias', 'body.0.bias', 'body.1.weight', 'body.1.bias',
            'body.2.in_proj_bias', 'body.2.out_proj.bias'}
    assert who(norms_and_biases(model)) == free
    assert repr(~(by_ndim(1, 2) | by_name('a*', 'b')) & by_module(model, nn.Linear, model.body)) == "~(by_ndim(1, 2) | by_name('a*', 'b')) & by_module(Model, Linear, body)"
    assert by_ndim(1) == by_ndim(1) != by_ndim(2) and pickle.loads(pickle.dumps(~by_ndim(1))) == ~by_ndim(1)
    for wrong in (lambda: by_name(), lambda: by_name(2), lambda: by_ndim(), lambda: by_ndim('2'), lambda: by_module(nn.Linear), lambda: by_module(model),
                  lambda: by_module(model, 'head'), lambda: by_ndim(1) & 2, lambda: by_ndim(1) and by_ndim(2)):
        with pytest.raises(TypeError): wrong()
    with pytest.raises(ValueError, match=r"by_name\('a', model=model\)"): who(by_name('a'), False)
    for rule in (by_name('a', model=nn.Linear(2, 2)), norms_and_biases(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match='is not in the model'): who(rule, False)
    with pytest.raises(ValueError, match='names of their own'):
        Optimizer(params(), [only(weight_decay, by_shape(lambda s: True)), only(sgd_step, by_shape(lambda s: False))], lr=0.1)


def is_square(shape): return len(shape) == 2 and shape[0] == shape[1]


def test_no_decay_of_norms_and_biases():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    ways = [lambda m: no_wd(AdamW(m.parameters(), lr=0.1, wd=0.5), m), lambda m: no_wd(AdamW(m.parameters(), lr=0.1, wd=0.5), by_ndim(1)),
            lambda m: AdamW(grouped(m, {norms_and_biases(m): dict(wd=0.)}), lr=0.1, wd=0.5),
            lambda m: AdamW.replace(weight_decay, only(weight_decay, by_ndim(2)))(m.parameters(), lr=0.1, wd=0.5),
            lambda m: torch.optim.AdamW([dict(params=[p for p in m.parameters() if p.dim() < 2], weight_decay=0.), # what users write by hand
                                         dict(params=[p for p in m.parameters() if p.dim() > 1])], lr=0.1, weight_decay=0.5)]
    results = []
    for f in ways:
        m = copy.deepcopy(model)
        opt = f(m)
        for i in range(5):
            set_grads(list(m.parameters()), i)
            opt.step()
        results.append([p.detach() for p in m.parameters()])
    for r in results[:-1]: assert difference(r, results[-1]) < 1e-13
    opt = ways[0](model)
    assert 'do_wd  False  4' in str(opt.explain())
    opt.clear_state()
    assert [opt.state[p].get('do_wd', True) for p in model.parameters()] == [True, False, False, False, True, False]
    assert [len(g['params']) for g in grouped(model, {by_ndim(3): {}, by_name('0.*'): dict(lr=1.)})] == [2, 4]
    with pytest.raises(ValueError, match='reads `do_wd`'): no_wd(Optimizer(model.parameters(), sgd_step, lr=0.1), model)
    with pytest.raises(ValueError, match='holds for no parameter'): no_wd(ways[1](model), by_ndim(5))
    with pytest.raises(TypeError, match='a rule is needed'): no_wd(ways[1](model), 1)


# Hyper-parameters that are functions of the step

def half(step): return 0.5 if step > 3 else 1.
def towards(step, mom): return min(mom, 0.5 + step/10)


@pytest.mark.parametrize('engine', ENGINES)
def test_a_hyper_parameter_is_a_function_of_the_step(engine):
    make = partial(SGD, mom=0.9, wd=0.1)
    gaps = [(), (1,), (), (0, 2)]
    ps = params(dtype=torch.float64)
    opt = SGD(named(ps), lr=0.01, mom=0.9, wd=0.1, engine=engine).wrap(scheduled(lr=half, mom=towards))
    sched = torch.optim.lr_scheduler.StepLR(opt, 4, 0.1)
    qs = params(dtype=torch.float64)
    plain = [make([q], lr=0.01) for q in qs] # one each, since each has its own step
    for i in range(12):
        set_grads(ps, i, gaps[i % 4])
        set_grads(qs, i, gaps[i % 4])
        opt.step()
        for q, o in zip(qs, plain):
            if q.grad is None: continue
            n = o.n = getattr(o, 'n', 0) + 1
            o.set_hypers(lr=0.01 * 0.1**(i//4) * half(n), mom=towards(n, 0.9))
            o.step()
        sched.step()
    assert difference([p.detach() for p in ps], [q.detach() for q in qs]) < 1e-13
    assert opt.hypers[0]['mom'] == 0.9 and {s['lr_count'] for *_, s, _ in opt.all_params()} == {12, 9}
    if engine != 'eager': assert len(opt._running.programs) == 2 # with state and without


def test_scheduled_is_pickled_and_explained():
    make = Adam.wrap(scheduled(lr=warmup(4)))
    again = pickle.loads(pickle.dumps(make))
    assert difference(run(make)[1], run(again)[1]) == 0
    opt, _ = run(again, lr=torch.tensor(0.01, dtype=torch.float64))
    assert difference(run(make, lr=0.01)[1], [p.detach() for g in opt.param_groups for p in g['params']]) < 1e-15
    assert 'schedule(of_step=warmup(steps=4), takes_value=False, hyper→lr, count→lr_count)' in repr(make)
    for wrong in (dict(), dict(lr=0.1), dict(lr=lambda a, b, c: 1)):
        with pytest.raises(TypeError): scheduled(**wrong)


def test_schedules():
    assert [warmup(4)(i) for i in (1, 2, 4, 9)] == [0.25, 0.5, 1., 1.]
    f = cosine_decay(10, end=0.1, warm=2)
    opt = SGD(params(), lr=1.)
    ref = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=8, eta_min=0.1)
    for i in range(2, 11):
        assert abs(f(i) - ref.get_last_lr()[0]) < 1e-12
        ref.step()
    assert f(1) == 0.5 and f(99) == 0.1
    assert [inverse_sqrt(4)(i) for i in (1, 4, 16)] == [0.25, 1., 0.5]
    for wrong in (lambda: warmup(0), lambda: inverse_sqrt(0), lambda: cosine_decay(4, warm=4)):
        with pytest.raises(ValueError): wrong()


# Other names

def test_all_names_of_some_steppers():
    cbs = renamed_all([partial(average_grad, dampening=True), step_stat, debias_grad_avg], grad_avg='slow',
                      mom='slow_mom', step='slow_step')
    opt, _ = run(partial(Optimizer, cbs=[*cbs, *Adam.cbs], **Adam.hypers, slow_mom=0.99))
    assert opt.state[opt.param_groups[0]['params'][0]].keys() == {'slow', 'slow_step', 'grad_avg', 'sqr_avg', 'step'}
    with pytest.raises(ValueError, match='has a `k`'): renamed_all(Adam.cbs, k='l')


def total_norm(p, power=2, **kwargs):
    total = yield p.grad.abs().pow(power).sum()
    return once(norm=total.sqrt(), size=kwargs['size'])


def by_norm(p, lr, size_hat, norm_hat): p.data.sub_(p.grad / norm_hat, alpha=lr*size_hat)


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_a_renamed_stepper_that_yields_and_takes_any_name(engine):
    cbs = [renamed(total_norm, norm='norm_hat', size='size_hat', power='order'), by_norm]
    _, got = run(partial(Optimizer, cbs=cbs, size_hat=2., order=2), engine=engine, steps=1)
    ps = params(dtype=torch.float64)
    set_grads(ps)
    norm = torch.cat([p.grad.flatten() for p in ps]).norm()
    assert difference(got, [p.detach() - 0.02*p.grad/norm for p in ps]) < 1e-13


# In fastai

def fastais(tmp_path, opt_func):
    "A learner on a few numbers"
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.torch_core import set_seed
    set_seed(0, reproducible=True)
    data = [(torch.randn(4), torch.randn(1)) for _ in range(64)]
    dls = DataLoaders.from_dsets(Rows(data), Rows(data[:16]), bs=16, num_workers=0, device='cpu')
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 1))
    learn = Learner(dls, model, loss_func=nn.functional.mse_loss, opt_func=opt_func, path=tmp_path, splitter=halves)
    learn.remove_cbs(learn.cbs.filter(lambda cb: cb.name == 'progress'))
    learn.logger = str
    return learn


def halves(model): return [list(m.parameters()) for m in model]
MatricesApart = route('MatricesApart', hidden=(partial(SGD, mom=0.9), by_ndim(2)), rest=Adam)


def test_fastai_trains_with_routes_as_with_two_optimizers(tmp_path):
    pytest.importorskip('fastai')
    import fastai.callback.schedule  # noqa: F401
    from fastai.learner import load_learner
    learn = fastais(tmp_path, MatricesApart)
    learn.freeze()
    learn.fit_one_cycle(2, slice(1e-3, 1e-2), moms=(0.95, 0.85, 0.95))
    assert [len(ps) for ps in learn.opt.param_lists] == [3, 2] and len(learn.opt.hypers) == 2
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-3, 1e-2))
    ref = fastais(tmp_path, lambda groups, **kw: TwoInOne(groups, **kw))
    ref.freeze()
    ref.fit_one_cycle(2, slice(1e-3, 1e-2), moms=(0.95, 0.85, 0.95))
    ref.unfreeze()
    ref.fit_one_cycle(1, slice(1e-3, 1e-2))
    assert difference([p.detach() for p in learn.model.parameters()], [p.detach() for p in ref.model.parameters()]) < 1e-5 # float32
    assert [s['route'] for *_, s, _ in learn.opt.all_params()] == ['hidden', 'rest', 'rest', 'hidden', 'rest']
    learn.save('m')
    learn.load('m')
    learn.fit(1)
    assert {'route', 'grad_avg'} <= learn.opt.state[learn.model[1].weight].keys()
    learn.export('e.pkl')
    assert repr(load_learner(tmp_path/'e.pkl').opt_func) == repr(MatricesApart)


class TwoInOne(Optimizer):
    "Steps by SGD and Adam, as written by hand: the reference"
    def __init__(self, groups, lr):
        super().__init__(groups, [slow_step], lr=lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01, engine='eager')


def slow_step(p, lr, mom, sqr_mom, eps, wd, do_wd=True, m=None, v=None, n=0):
    g, m, v, n = p.grad, 0. if m is None else m, 0. if v is None else v, n + 1
    if p.dim() == 2:
        m = mom*m + g
        p.data.copy_(p.data - lr*m)
    else:
        m, v = mom*m + (1-mom)*g, sqr_mom*v + (1-sqr_mom)*g*g
        p.data.copy_(p.data*(1 - lr*wd*do_wd) - lr*(m/(1 - mom**n))/((v/(1 - sqr_mom**n)).sqrt() + eps))
    return dict(m=m, v=v, n=n)


def test_a_stepper_of_all_that_one_route_needs_is_no_doubt():
    both = route(a=(partial(SGD, mom=0.9), by_ndim(2)), b=partial(AdamW, mom=0.8))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        both.insert(*scheduled(b_mom=warmup(3)), before=0)(params(), lr=0.1)
    with pytest.warns(optimcb.CompositionWarning, match='which no stepper after it reads'):
        both.insert(*scheduled(b_mom=warmup(3)), after=-1)(params(), lr=0.1)
