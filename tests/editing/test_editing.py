"Composing by hand: algorithms that are edited are other algorithms, optimizers that are edited go on from where they were."
import copy
import inspect
import pickle
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb import (
    SGD,
    Adam,
    AdamW,
    Composition,
    MissingName,
    Optimizer,
    RAdam,
    adam_step,
    average_grad,
    average_sqr_grad,
    l2_reg,
    renamed,
    sgd_step,
    step_stat,
    weight_decay,
    yogi_sqr_grad,
)


def labels(o): return Composition(o.cbs).labels
def own(p, lr, scale=2.): return oc.once(lr=lr*scale)


def test_algorithms_are_edited_into_others():
    before = labels(Adam)
    yogi = Adam.replace(average_sqr_grad, yogi_sqr_grad)
    assert labels(yogi) == ['weight_decay', 'average_grad(dampening=True)', 'yogi_sqr_grad', 'step_stat', 'adam_step']
    assert labels(Adam.insert(own, before=adam_step)) == [*before[:-1], 'own', 'adam_step']
    assert labels(Adam.insert(own, sgd_step, after='step_stat')) == [*before[:4], 'own', 'sgd_step', 'adam_step']
    assert labels(Adam.insert(own, before=0)) == ['own', *before] and labels(Adam.insert(own, after=-1)) == [*before, 'own']
    assert labels(Adam.remove(weight_decay)) == before[1:] and labels(Adam.remove('weight_decay', -1)) == before[1:-1]
    assert labels(Adam.replace(adam_step, own, sgd_step)) == [*before[:-1], 'own', 'sgd_step']
    assert labels(Adam.edit(lambda cbs: cbs[::-1])) == before[::-1]
    assert labels(Adam) == before and isinstance(yogi, partial) and yogi.__doc__ == Adam.__doc__
    assert labels(yogi.remove(weight_decay).insert(l2_reg, before=0)) == ['l2_reg', *labels(yogi)[1:]]


def test_edited_algorithms_do_what_a_list_by_hand_does():
    edited = AdamW.replace(average_sqr_grad, yogi_sqr_grad).insert(own, before=adam_step)
    by_hand = partial(Optimizer, cbs=[weight_decay, partial(average_grad, dampening=True), yogi_sqr_grad, step_stat, own, adam_step], eps=1e-8, wd=0.01, scale=3.)
    results = []
    for make in (partial(edited, scale=3.), by_hand):
        ps = params()
        opt = make(ps, lr=0.1)
        for i in range(5):
            set_grads(ps, i)
            opt.step()
        results.append((ps, dict(opt.hypers[0])))
    assert all(map(torch.equal, *(r[0] for r in results))) and results[0][1] == results[1][1]


def test_edited_algorithms_keep_options_and_gain_new_ones():
    edited = Adam.insert(own, after=0)
    assert 'scale' in inspect.signature(edited).parameters and inspect.signature(edited).parameters['mom'].default == 0.9
    opt = edited(params(), lr=0.1, decouple_wd=False, scale=4., betas=(0.8, 0.9))
    assert labels(opt)[:2] == ['l2_reg', 'own'] and (opt.hypers[0]['scale'], opt.hypers[0]['mom']) == (4., 0.8)
    with pytest.raises(TypeError, match='has no `scal`.* Did you mean `scale`'): edited(params(), lr=0.1, scal=1)
    slow = SGD.replace(sgd_step, own, sgd_step)
    with pytest.raises(ValueError, match='no stepper `sgd_step`'): slow(params(), lr=0.1, mom=0.9) # with momentum there is none


@pytest.mark.parametrize('edit, said', [
    (lambda a: a.remove(sgd_step), 'no stepper `sgd_step`.* There are 0: weight_decay, 1: average_grad'), (lambda a: a.remove('adm_step'), 'Did you mean `adam_step`'),
    (lambda a: a.replace(7, own), 'no stepper 7'), (lambda a: a.insert(own), 'say where'), (lambda a: a.insert(own, before=0, after=1), 'say where'),
    (lambda a: a.insert(average_grad, before=0).remove('average_grad(dampening=True)').insert(average_grad, before=0).remove('average_grad'), 'is there 2 times'),
    (lambda a: a.rename(step_stat, stp='n'), '`step_stat` has no `stp`')], ids=range(7))
def test_what_cannot_be_edited_is_said(edit, said):
    for make in (lambda: Adam, lambda: Adam(params(), lr=0.1)):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=said):
            warnings.simplefilter('ignore')
            edit(make())
    with pytest.raises(TypeError, match='must be callable'): Adam.insert('own', before=0)
    with pytest.raises(TypeError, match='is an optimizer, not a stepper'): Adam.insert(SGD, before=0)


def test_edited_algorithms_are_pickled_copied_and_printed():
    edited = Adam.replace(average_sqr_grad, yogi_sqr_grad).rename(step_stat, step='n').replace(adam_step, renamed(adam_step, step='n')).insert(own, after=-1)
    for again in (pickle.loads(pickle.dumps(edited)), copy.deepcopy(edited), copy.copy(edited)):
        assert repr(again) == repr(edited) and again.hypers == edited.hypers
    assert pickle.loads(pickle.dumps(Adam)) is Adam
    opt = partial(pickle.loads(pickle.dumps(edited)), mom=0.5)(params(), lr=0.1)
    assert opt.hypers[0]['mom'] == 0.5


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_a_running_optimizer_goes_on_from_what_fits(engine):
    "As one does that is made of the new steppers and is given the state that they read"
    def run(opt, ps, steps):
        for i in steps:
            set_grads(ps, i)
            opt.step()
    ps, qs = params(), params()
    opt = Adam(ps, lr=0.1, engine=engine)
    run(opt, ps, range(4))
    assert opt.edit(lambda cbs: [*cbs[:2], oc.momentum_step]) is opt
    assert all(s.keys() == {'grad_avg'} for s in opt.state.values())
    run(opt, ps, range(4, 8))

    first = Adam(qs, lr=0.1, engine=engine)
    run(first, qs, range(4))
    second = Optimizer(qs, [weight_decay, partial(average_grad, dampening=True), oc.momentum_step], lr=0.1,
                       mom=0.9, wd=0.01, engine=engine)
    for q in qs: second.state[q]['grad_avg'] = first.state[q]['grad_avg']
    run(second, qs, range(4, 8))
    assert all(map(torch.equal, ps, qs))


def test_an_edit_brings_its_hyper_parameters_and_keeps_those_that_are_set():
    opt = Adam(ps := params(), lr=0.1, mom=0.5)
    opt.insert(own, after=0)
    assert opt.hypers[0]['scale'] == 2. and opt.hypers[0]['mom'] == 0.5
    opt.set_hyper('scale', 3.)
    set_grads(ps)
    opt.step()
    assert opt.explain().title == 'Adam, edited' and opt.remove(own).composition.labels == labels(Adam)


def test_an_edit_that_cannot_be_changes_nothing():
    opt = Adam(ps := params(), lr=0.1)
    set_grads(ps)
    opt.step()
    before, state, composition = list(opt.cbs), {p: dict(s) for p, s in opt.state.items()}, opt.composition
    with pytest.raises(MissingName, match='`adam_step` needs `step`'): opt.remove(step_stat)
    with pytest.raises(ValueError): opt.remove('nobody')
    assert list(opt.cbs) == before and opt.composition is composition and all(opt.state[p].keys() == s.keys()
                                                                              for p, s in state.items())
    opt.step()


def test_state_that_nobody_makes_any_more_is_missing_but_not_the_users_own():
    def masked(p, mask): p.data.mul_(mask)
    opt = Optimizer(ps := params(), [average_grad, oc.momentum_step], lr=0.1)
    set_grads(ps)
    opt.step()
    with pytest.raises(MissingName, match='`momentum_step` needs `grad_avg`'): opt.remove(average_grad)
    for p in ps: opt.state[p]['mask'] = torch.zeros_like(p)
    opt.insert(masked, after=-1)
    opt.step()
    assert not any(p.any() for p in ps)


# Other names

def adamix(p, lr, grad_avg, slow_avg, alpha=2.): p.data.sub_(grad_avg + alpha*slow_avg, alpha=lr)


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_two_of_a_kind_are_side_by_side_under_other_names(engine):
    slow = renamed(partial(average_grad, dampening=True), grad_avg='slow_avg', mom='slow_mom')
    assert Composition([slow]).labels == ['average_grad(dampening=True, grad_avg→slow_avg, mom→slow_mom)']
    opt = Optimizer(ps := params(), [average_grad, slow, adamix], lr=0.1, mom=0.9, slow_mom=0.5, engine=engine)
    m, s, p0 = 0., 0., ps[0].detach().clone()
    for i in range(4):
        set_grads(ps, i)
        m, s = 0.9*m + ps[0].grad, 0.5*s + 0.5*ps[0].grad
        p0 -= 0.1*(m + 2*s)
        opt.step()
    assert torch.allclose(ps[0], p0) and torch.allclose(opt.state[ps[0]]['slow_avg'], s) and opt.composition.reads >= {'slow_mom', 'slow_avg'}


def test_renamed_is_a_stepper_like_any_other():
    def clip(p, max_norm=1.):
        total = yield (p.grad**2).sum()
        p.grad = p.grad*(max_norm/total.sqrt()).clamp(max=1)
    def loose(p, lr, **kwargs): return {'seen': lr, 'more': sorted(kwargs)}
    generator = renamed(clip, max_norm='limit')
    opt = Optimizer(ps := params(), [generator, sgd_step], lr=0.1, limit=0.)
    set_grads(ps)
    opt.step()
    assert all(map(torch.equal, ps, params())) # everything was clipped away
    opt = Optimizer(ps, [renamed(loose, lr='eta', seen='kept'), sgd_step], lr=0.1, eta=3, engine='eager')
    opt.step()
    assert opt.state[ps[0]]['kept'] == 3 and opt.state[ps[0]]['more'] == []
    twice = renamed(renamed(average_grad, grad_avg='a'), a='b')
    assert Composition([twice]).reads >= {'b', 'mom'} and not {'a', 'grad_avg'} & set(Composition([twice]).steppers[0].names)
    assert Composition([pickle.loads(pickle.dumps(twice))]).labels == Composition([twice]).labels
    with pytest.raises(ValueError, match='`average_grad` has no `grad_av`'): renamed(average_grad, grad_av='a')


def test_fastais_defaults_are_renamed():
    def f(p, beta): p.data.mul_(beta)
    f.defaults = dict(beta=0.5)
    opt = Optimizer(ps := params(), renamed(f, beta='gamma'), lr=0.1)
    assert opt.hypers[0]['gamma'] == 0.5
    set_grads(ps)
    opt.step()
    assert torch.equal(ps[0], params()[0]*0.5)


def test_checkpoints_after_an_edit_say_what_they_are_of():
    opt = Adam(ps := params(), lr=0.1).replace(adam_step, oc.radam_step)
    set_grads(ps)
    opt.step()
    again = RAdam(params(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        again.load_state_dict(opt.state_dict())


def test_nothing_is_lost_that_was_not_left_out():
    "State that a stepper keeps under names that its code doesn't have, or that the user put there"
    def whole_adam(p, **kwargs):
        for f in (average_grad, average_sqr_grad, step_stat): kwargs.update(f(p, **kwargs))
        adam_step(p, **kwargs)
        return {k: kwargs[k] for k in ('grad_avg', 'sqr_avg', 'step')}
    def named(p, **kwargs): return {f'buf{i}': p.grad.clone() for i in range(2)}
    opt = Optimizer(ps := params(), [whole_adam, named], lr=0.1, mom=0.9, sqr_mom=0.99, check=False)
    set_grads(ps)
    opt.state[ps[0]]['mine'] = torch.ones(1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt.step()
        before = set(opt.state[ps[0]])
        opt.insert(own, before=0).remove(own)
        oc.OptStats(opt).stop()
    assert set(opt.state[ps[0]]) == before >= {'grad_avg', 'buf1', 'mine'}


@pytest.mark.parametrize('cbs', [[average_grad, lambda p, lr, grad_avg: p.data.sub_(grad_avg/grad_avg.norm().item(), alpha=lr)],
                                 [lambda p, past=None: {'past': [*(past or [])[-2:], p.grad.clone()]}, sgd_step], [lambda p, memo=None: {'memo': {'n': (memo or {'n': 0})['n'] + 1}}, sgd_step]])
def test_an_edit_of_what_cannot_be_rehearsed_leaves_state_as_it_is(cbs):
    opt = Optimizer(ps := params(), cbs, lr=0.1, engine='eager', check=False)
    for i in range(3):
        set_grads(ps, i)
        opt.step()
    before = copy.deepcopy([opt.state[p] for p in ps])
    opt.insert(lambda p: None, before=0)
    str(opt.explain())
    for p, want in zip(ps, before): assert str(opt.state[p]) == str(want)
    opt.step()


def test_an_average_that_starts_late_is_said():
    opt = Optimizer(ps := params(), [step_stat, partial(average_grad, dampening=True), oc.debias_grad_avg, oc.momentum_step], lr=0.1)
    set_grads(ps)
    opt.step()
    with pytest.warns(oc.CompositionWarning, match='`sqr_avg` starts now, but `step` goes on from 1, by which `adam_step` corrects its bias'):
        opt.edit(lambda cbs: [cbs[1], average_sqr_grad, step_stat, adam_step])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Adam(params(), lr=0.1).replace(average_sqr_grad, yogi_sqr_grad)
        opt.step()
        opt.replace(average_sqr_grad, yogi_sqr_grad)


def test_options_of_what_was_left_out_are_gone():
    plain = Adam.remove(weight_decay)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        opt = plain(params(), lr=0.1)
    assert 'wd' not in opt.hypers[0] and 'wd' not in plain.hypers and 'wd' not in inspect.signature(plain).parameters
    with pytest.raises(ValueError, match='with these options Adam can.t be edited like that: there is no stepper `weight_decay`'):
        Adam.replace(weight_decay, l2_reg)(params(), lr=0.1, decouple_wd=False)


def test_groups_that_are_added_after_an_edit_have_its_hyper_parameters():
    opt = SGD(params(), lr=0.1).insert(own, before=0)
    opt.add_param_group({'params': params()})
    assert [h['scale'] for h in opt.hypers] == [2., 2.]


def test_algorithms_get_names():
    mine = Adam.remove(weight_decay).named('Mine')
    assert repr(mine).startswith('Mine(params') and mine.explain().title == 'Mine' and mine(params(), lr=0.1).explain().title == 'Mine'
    assert pickle.loads(pickle.dumps(mine)).insert(own, before=0).__name__ == 'Mine' and Adam.remove(weight_decay).explain().title == 'Adam, edited'


def test_one_step_values_are_so_under_other_names():
    other = [average_sqr_grad, renamed(oc.rms_update, update='u'), renamed(oc.apply_update, update='u')]
    opt = Optimizer(ps := params(), other, lr=0.1)
    set_grads(ps)
    opt.step()
    assert opt.state[ps[0]].keys() == {'sqr_avg'}
    with pytest.raises(ValueError, match="can't be `update`, which lives for one step"):
        renamed(average_grad, grad_avg='update')
    with pytest.raises(ValueError, match='would have two names `sqr_avg`'): renamed(adam_step, grad_avg='sqr_avg')


def test_an_edited_algorithm_takes_what_its_steppers_require():
    def pushed(p, update, push): return {'update': update + push}
    algo = oc.AdaBelief.insert(pushed, before=oc.apply_update)
    assert algo(params(), lr=0.1, push=0.5).hypers[0]['push'] == 0.5
    with pytest.raises(oc.MissingName, match='push'): algo(params(), lr=0.1)
    with pytest.raises(TypeError, match='Did you mean `push`'): algo(params(), lr=0.1, pusch=0.5)


# Steppers that are defined again, as in a notebook's cell

def defined(source, **names):
    "What a cell defines"
    cell = {'torch': torch, 'once': oc.once, 'part': oc.part, '__name__': '__main__', **names}
    exec(source, cell)
    return cell['mine']


FIRST = 'def mine(p, m=None): return {"m": p.grad.clone() if m is None else 0.9*m + p.grad}'
AGAIN = 'def mine(p, m=None): return {"m": p.grad.clone() if m is None else 0.5*m + p.grad}'
def along(p, lr, m): p.data.sub_(lr*m)


def stepped(opt, n=1, first=0):
    for i in range(first, first + n):
        set_grads([p for g in opt.param_groups for p in g['params']], i)
        opt.step()
    return opt


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_a_stepper_that_is_defined_again_takes_the_place_of_the_old_one(engine):
    "And goes on from the state that both speak of"
    old, new = defined(FIRST), defined(AGAIN)
    opt = stepped(Optimizer(ps := params(), [old, along], lr=0.1, engine=engine), 2)
    expected = [0.9*0. + opt.state[p]['m'].clone() for p in ps]
    assert opt.replace(new, new) is opt and list(opt.cbs) == [new, along]
    assert all(torch.equal(opt.state[p]['m'], m) for p, m in zip(ps, expected))
    stepped(opt, first=2)
    assert all(torch.allclose(opt.state[p]['m'], 0.5*m + p.grad) for p, m in zip(ps, expected))


@pytest.mark.parametrize('kind', [lambda f: f, lambda f: partial(f, k=2.), lambda f: renamed(f, m='n'), lambda f: oc.only(f, oc.by_ndim(2))],
                         ids=['plain', 'partial', 'renamed', 'only'])
@pytest.mark.parametrize('of', [lambda o: o, lambda o: o(params(), lr=0.1)], ids=['algorithm', 'optimizer'])
def test_every_edit_finds_it_by_its_name(of, kind):
    source = 'def mine(p, k=1., m=0.): return {"m": k}'
    old, new = defined(source), defined(source)
    def made(): return of(SGD.insert(kind(old), before=0))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', oc.CompositionWarning)
        for which in (new, kind(new)):
            assert made().replace(which, sgd_step).cbs[0] is sgd_step and made().remove(which).cbs[0] is weight_decay
            assert made().insert(own, before=which).cbs[0] is own and made().insert(own, after=which).cbs[1] is own
            assert 'kk' in made().rename(which, k='kk').composition.reads
        assert made().replace(new, oc.only(new, oc.by_ndim(1))).cbs[0].func is new


def test_what_its_name_does_not_tell_is_said():
    new = defined(FIRST)
    both = Optimizer(params(), [partial(defined(FIRST), m=0.), renamed(defined(FIRST), m='n'), along], lr=0.1,
                     check=False)
    with pytest.raises(ValueError, match=r'`mine` is there 2 times, at \[0, 1\]. Say which by its place'):
        both.replace(new, new)
    assert both.replace(renamed(new, m='n'), new).cbs[1] is new # which of them is told by the label
    nameless = Optimizer(params(), [lambda p: None, sgd_step], lr=0.1)
    with pytest.raises(ValueError, match='a lambda has no name .* by its place, .*: 0: <lambda>'):
        nameless.remove(lambda p: None)
    fastai = pytest.importorskip('fastai.optimizer')
    assert Adam.remove(fastai.weight_decay).cbs == Adam.cbs[1:]


def test_averages_are_put_in_by_a_stepper_that_was_defined_again():
    source = ('from optimcb.stepper import weights_by\n@weights_by(lambda p, avg: avg)\n'
              'def mine(p, avg=None): return {"avg": p.data.clone() if avg is None else avg.lerp(p.data, 0.5)}')
    opt = stepped(Optimizer(ps := params(), [sgd_step, defined(source)], lr=0.1), 3)
    with opt.averaged(defined(source)): assert all(torch.equal(p, opt.state[p]['avg']) for p in ps)


def test_a_part_that_was_defined_again_is_not_put_in_twice():
    source = '@part("gradient")\ndef mine(p, k=2.): p.grad = p.grad*k'
    old, new = defined(source), defined(source)
    for o in (SGD.wrap(old), SGD(params(), lr=0.1).wrap(old)):
        with pytest.raises(ValueError, match=r'`mine` is there already, as it was before. `replace\(mine, mine\)`'):
            o.wrap(new)
        assert [f.__name__ for f in o.wrap(renamed(new, k='l')).cbs if hasattr(f, '__name__')].count('mine') == 1 # beside it
    def made(k):
        @oc.part('gradient')
        def scaled(p): p.grad = p.grad*k
        return scaled
    assert len(SGD.wrap(made(2.), made(3.)).cbs) == 4 # two functions, not one that was defined twice


def test_a_cell_that_inserts_and_is_run_again_is_said():
    source = 'def mine(p): p.grad = p.grad*2'
    old, new = defined(source), defined(source)
    opt = SGD(params(), lr=0.1).insert(old, before=sgd_step)
    with pytest.warns(oc.CompositionWarning, match=r'`mine` is there twice: as it was, and defined again. .*`replace\(mine, mine\)`'):
        opt.insert(new, before=sgd_step)
    def made(k):
        def scaled(p): p.grad = p.grad*k
        return scaled
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        SGD.insert(old, before=sgd_step).replace(new, new)(params(), lr=0.1)
        SGD.insert(made(2.), made(3.), old, old, before=sgd_step)(params(), lr=0.1) # on purpose
        oc.route(a=([old, sgd_step], oc.by_ndim(2)), b=[new, sgd_step])(params(), lr=0.1) # none has both


def test_a_new_default_counts_where_nobody_has_set_the_number():
    def source(k): return f'def mine(p, lr, k={k}): p.data.sub_(lr*k*p.grad)'
    old, new = defined(source(2.)), defined(source(3.))
    def values(opt): return [h['k'] for h in opt.replace(new, new).hypers]
    two = [{'params': params()[:2]}, {'params': params()[2:], 'k': 5.}]
    assert values(Optimizer(params(), old, lr=0.1)) == [3.] and values(Optimizer(two, old, lr=0.1)) == [3., 5.]
    assert values(oc.algorithm('Mine', [old])(params(), lr=0.1)) == [3.] and values(oc.algorithm('Mine', [old], k=2.)(params(), lr=0.1)) == [2.]
    assert values(Optimizer(params(), old, lr=0.1, k=2.)) == [2.] # that was said
    opt = Optimizer(params(), old, lr=0.1)
    opt.set_hyper('k', 4.)
    assert values(opt) == [4.]
    opt = Adam(params(), lr=0.1).replace(average_sqr_grad,
                                         lambda p, sqr_mom=0.5, sqr_avg=0.: {'sqr_avg': sqr_mom*sqr_avg + (1-sqr_mom)*p.grad**2})
    assert opt.hypers[0]['sqr_mom'] == 0.99 # Adam says so, also where another stepper is put in before


# Algorithms that are named

def heavy(p, mom=0.9, v=0.): return {'v': mom*v + p.grad}
def along_v(p, lr, v): p.data.sub_(lr*v)
Momentum = oc.algorithm('Momentum', [heavy, along_v], mom=0.95)


def ends(make, **kwargs):
    return [p.data for g in stepped(make(params(), lr=0.1, **kwargs), 4).param_groups for p in g['params']]


@given(mom=st.floats(0, 0.99), given_mom=st.none() | st.floats(0, 0.99), engine=st.sampled_from(['eager', 'foreach', 'fused']))
@settings(max_examples=20, deadline=None)
def test_a_named_list_of_steppers_is_that_list(mom, given_mom, engine):
    kwargs = {} if given_mom is None else {'mom': given_mom}
    ours = ends(oc.algorithm('Mine', [heavy, along_v], mom=mom), engine=engine, **kwargs)
    theirs = ends(partial(Optimizer, cbs=[heavy, along_v], mom=mom), engine=engine, **kwargs)
    assert all(map(torch.equal, ours, theirs))


def test_it_has_what_an_algorithm_of_the_library_has():
    assert isinstance(Momentum, oc.Algorithm) and isinstance(Momentum, partial) and Momentum.keywords['mom'] == 0.95
    assert repr(Momentum) == "Momentum(params, lr, mom=0.95, *, engine='auto', check=True, zero_in_step=False): heavy, along_v" and Momentum.__doc__ == 'heavy → along_v.'
    assert Momentum.formula.text == 'v = mom*v + grad\np = p - lr*v' and 'fused' in str(Momentum.explain()) and 'for (' in Momentum.kernel('cpu')
    again = pickle.loads(pickle.dumps(Momentum))
    assert repr(again) == repr(copy.deepcopy(Momentum)) == repr(Momentum) and again.cbs == Momentum.cbs
    for o in (again, copy.copy(Momentum)): assert all(map(torch.equal, ends(o), ends(Momentum)))
    opt = Momentum(params(), 0.1, 0.5)
    assert opt.explain().title == 'Momentum' and dict(opt.hypers[0]) == dict(lr=0.1, mom=0.5) == dict(Momentum(params(), 0.1, momentum=0.5).hypers[0])
    wrapped = Momentum.wrap(oc.clip_norm, oc.ema_weights)
    assert wrapped(params(), lr=0.1, max_norm=0.5).explain().title == 'Momentum, edited' and repr(pickle.loads(pickle.dumps(wrapped))) == repr(wrapped)
    assert partial(Momentum, mom=0.3)(params(), lr=0.1).hypers[0]['mom'] == 0.3 and Momentum.named('Heavy').__name__ == 'Heavy'
    routed = oc.route(matrices=(Momentum, oc.by_ndim(2)), rest=partial(Momentum, mom=0.5))
    assert routed(params(), lr=0.1).hypers[0]['matrices_mom'] == 0.95 and 'Momentum for by_ndim(2)' in routed.__doc__
    assert len(oc.SAM(Momentum(params(), lr=0.1)).hypers[0]) == 4


def test_it_is_made_of_all_that_a_list_may_be():
    required = oc.algorithm('Powered', [heavy, lambda p, lr, v, power, mask=None: p.data.sub_(lr*v.abs().pow(power)*v.sign())])
    assert required(params(), lr=0.1, power=1., mask=2.).hypers[0]['power'] == 1.
    with pytest.raises(oc.MissingName, match='power'): required(params(), lr=0.1)
    with pytest.raises(TypeError, match='Powered has no `pover`. Did you mean `power`'):
        required(params(), lr=0.1, pover=1.)
    with_lr = oc.algorithm('Mine', sgd_step, lr=0.3)
    assert with_lr(params()).hypers[0]['lr'] == 0.3 and with_lr(params(), 0.1).hypers[0]['lr'] == 0.1 and with_lr.keywords['lr'] == 0.3
    assert oc.algorithm('Mine', cbs=[weight_decay, sgd_step], weight_decay=0.1).hypers['wd'] == 0.1
    any_name = oc.algorithm('Any', [lambda p, **kwargs: p.data.mul_(kwargs['shrink'])])
    assert any_name(params(), lr=0.1, shrink=0.5).hypers[0]['shrink'] == 0.5
    def shifted(p, lr, shift=-1.): p.data.sub_(lr*(p.grad + shift))
    for o in (oc.algorithm('Shifted', [shifted]), oc.algorithm('Shifted', [shifted], shift=-2.),
              SGD.replace(sgd_step, shifted)):
        assert o(params(), lr=0.1).hypers[0]['shift'] == o.hypers['shift'] < 0 # a number of one's own may be any
    late = oc.algorithm('Late', Adam.cbs, **Adam.hypers)
    assert all(map(torch.equal, ends(late), ends(Adam)))


@pytest.mark.parametrize('make, error, said', [
    (lambda: oc.algorithm('M'), TypeError, r"lacks steppers. Write `M = algorithm\('M', \[average_grad"), (lambda: oc.algorithm('M', []), ValueError, 'M has no steppers'),
    (lambda: oc.algorithm([heavy]), TypeError, 'lacks a name. Write `Mine = algorithm'), (lambda: oc.algorithm(heavy), TypeError, r"heavy has none for `p`. If it is a stepper: `Mine = algorithm\('Mine', \[heavy\]\)`"),
    (lambda: oc.algorithm('M', [heavy, along_v], momm=0.9), TypeError, 'no stepper of M reads `momm`: there are heavy, along_v. Did you mean `mom`'),
    (lambda: oc.algorithm('M', [heavy], mom=1.5), ValueError, '`mom` must be at least 0 and less than 1'),
    (lambda: oc.algorithm('M', [average_grad], dampening=True), TypeError, r'is no number. Fix it in the stepper: `partial\(f, dampening=True\)`'),
    (lambda: oc.algorithm('M', [heavy], engine='eager'), TypeError, '`engine` is given when M is called'), (lambda: oc.algorithm('M', [3]), TypeError, 'must be callable'),
    (lambda: oc.algorithm(lambda: [heavy], [along_v]), TypeError, 'takes a name and steppers'), (lambda: oc.algorithm(3), TypeError, 'takes a name and steppers')], ids=range(11))
def test_what_can_not_be_named(make, error, said):
    with pytest.raises(error, match=said): make()


def test_it_is_exported_from_a_notebook():
    "Where its steppers are in `__main__`, and it may have any name"
    code = '''
import pickle, torch, optimcb as oc
from functools import partial
def heavy(p, mom=0.9, v=0.): return {'v': mom*v + p.grad}
def along_v(p, lr, v): p.data.sub_(lr*v)
mine = oc.algorithm('Another', [heavy, along_v], mom=0.95)
@oc.algorithm
def Chosen(mom=0.9, plain=False): return [oc.sgd_step] if plain else [heavy, along_v]
for o in (mine, mine.wrap(oc.clip_norm), partial(mine, mom=0.5), Chosen, Chosen.remove(0).insert(heavy, before=0)):
    assert repr(pickle.loads(pickle.dumps(o))) == repr(o), o
opt = mine([torch.nn.Parameter(torch.ones(2))], lr=0.1)
assert pickle.loads(pickle.dumps(opt)).cbs == opt.cbs
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
