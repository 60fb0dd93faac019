"""Options that choose steppers, given for a group or later; `maximize`, `dampening` and `amsgrad` as torch
has them; Adafactor as `transformers` has it."""
import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.optim as to
import torch.optim.lr_scheduler as ls
from helpers import difference, params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb import (
    SAM,
    SGD,
    Adam,
    AdamW,
    Lookahead,
    Optimizer,
    Sophia,
    accumulate,
    clip_norm,
    maximize,
    momentum_step,
    sgd_step,
)

D = torch.float64
ENGINES = ['eager', 'foreach', 'fused']
ALGORITHMS = {k: o for k, o in vars(oc).items() if isinstance(o, oc.Algorithm)}


@pytest.fixture(autouse=True)
def in_doubles():
    "torch keeps numbers of a step in the default type"
    torch.set_default_dtype(D)
    yield
    torch.set_default_dtype(torch.float32)


def all_params(opt): return [p for g in opt.param_groups for p in g['params']]


def run(opt, steps=range(4), sign=1):
    ps = all_params(opt)
    for i in steps:
        set_grads(ps, i)
        for p in ps: p.grad = sign*p.grad
        opt.step()
    return [p.detach().clone() for p in ps]


def new(): return params(dtype=D)
def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
def groups(ps, **options): return [{'params': ps[:2], **options}, {'params': ps[2:]}]


# Momentum that comes for a group, or later

WITH_MOMENTUM = {'SGD': (SGD, to.SGD, {}), 'RMSProp': (partial(oc.RMSProp, divide_first=True, eps=1e-3), partial(to.RMSprop, eps=1e-3), {}),
                 'RMSProp, gradients averaged': (oc.RMSProp, None, {}), 'Larc': (partial(oc.Larc, mom=0.), None, {}),
                 'Shampoo': (oc.Shampoo, None, {}), 'SM3': (partial(oc.SM3, mom=0.), None, {}), 'Adafactor': (oc.Adafactor, None, {})}


def state_from(opt, make):
    sd = io.BytesIO()
    torch.save(make(new(), lr=0.1, mom=0.9).state_dict(), sd)
    sd.seek(0)
    opt.load_state_dict(torch.load(sd, weights_only=True))


LATER = {
    'group': lambda opt, make: opt.param_groups[0].__setitem__('mom', 0.9),
    "group, torch's name": lambda opt, make: opt.param_groups[0].update(momentum=0.9),
    'view': lambda opt, make: opt.hypers[0].__setitem__('mom', 0.9),
    'hypers': lambda opt, make: setattr(opt, 'hypers', [{**h, 'mom': 0.9} for h in opt.hypers]),
    'set_hyper': lambda opt, make: opt.set_hyper('mom', 0.9),
    "set_hyper, torch's name": lambda opt, make: opt.set_hyper('momentum', 0.9),
    'set_hypers': lambda opt, make: opt.set_hypers(mom=[0.9]),
    'scheduler': lambda opt, make: ls.CyclicLR(opt, 0.1, 0.1, base_momentum=0.9, max_momentum=0.9),
    'state dict': state_from}


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('how', LATER)
def test_momentum_that_comes_later_is_momentum(how, engine):
    for name, (make, theirs, _) in WITH_MOMENTUM.items():
        make = partial(make, engine=engine if name != 'Shampoo' or engine != 'foreach' else 'auto')
        opt = make(new(), lr=0.1)
        assert opt.defaults['momentum'] == 0 == opt.param_groups[0]['momentum']
        LATER[how](opt, make)
        got = run(opt)
        assert same(got, run(make(new(), lr=0.1, mom=0.9))), name
        if theirs: assert difference(got, run(theirs(new(), lr=0.1, momentum=0.9))) < 1e-12, name


@pytest.mark.parametrize('engine', ENGINES)
def test_momentum_that_comes_in_training_goes_on_as_torchs(engine):
    ours, theirs = SGD(new(), lr=0.1, engine=engine), to.SGD(new(), lr=0.1)
    assert same(run(ours), run(SGD(new(), lr=0.1, engine=engine)))
    run(theirs)
    for opt in (ours, theirs): opt.param_groups[0]['momentum'] = 0.9
    assert difference(run(ours, range(4, 9)), run(theirs, range(4, 9))) < 1e-12
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert difference(run(other, range(9, 12)), run(copy.deepcopy(theirs), range(9, 12))) < 1e-12


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name', WITH_MOMENTUM)
@pytest.mark.parametrize('how', ['momentum', 'mom', 'added', 'given for each'])
def test_groups_without_momentum_are_as_without_it(name, how, engine):
    """To the bit where their step is the same, and without state for it, also where gradients aren't finite;
    the others have it"""
    if name == 'Shampoo': engine = 'eager'
    make = partial(WITH_MOMENTUM[name][0], lr=0.1, engine=engine)
    ps, qs, rs = new(), new(), new()
    if how == 'added':
        opt = make(ps[2:])
        opt.add_param_group({'params': ps[:2], 'mom': 0.9})
    elif how == 'given for each': opt = make([ps[2:], ps[:2]], mom=[0., 0.9])
    else: opt = make([{'params': ps[2:]}, {'params': ps[:2], how: 0.9}])
    plain, momentum = make(qs[2:]), make(rs[:2], mom=0.9)
    for i in range(5):
        for os, these in ((opt, ps), (plain, qs), (momentum, rs)):
            set_grads(these, i)
            for p in these:
                p.grad.view(-1)[:1] = -0.
                if i == 3 and name == 'SGD': p.grad.view(-1)[-1:] = torch.inf
            os.step()
    alike = same if name not in ('RMSProp', 'Adafactor') else lambda a, b: difference(a, b) < 1e-14 # these multiply in another order
    assert alike(ps[2:], qs[2:]) and same(ps[:2], rs[:2])
    assert [opt.state[p].keys() for p in ps[2:]] == [plain.state[p].keys() for p in qs[2:]]
    assert [opt.state[p].keys() for p in ps[:2]] == [momentum.state[p].keys() for p in rs[:2]]


def test_momentum_that_is_0_for_a_while_leaves_the_average_as_torch_does():
    ours, theirs = (cls([{'params': (ps := new())[:2]}, {'params': ps[2:], 'momentum': 0.9}], lr=0.1)
                    for cls in (SGD, to.SGD))
    for start, mom in ((0, 0.), (3, 0.9), (6, 0.), (9, 0.8)):
        for opt in (ours, theirs): opt.param_groups[0]['momentum'] = mom
        assert difference(run(ours, range(start, start+3)), run(theirs, range(start, start+3))) < 1e-12


@pytest.mark.parametrize('name', ALGORITHMS)
@pytest.mark.parametrize('schedule', [partial(ls.OneCycleLR, max_lr=0.01, total_steps=9), partial(ls.CyclicLR, base_lr=1e-3, max_lr=0.01, step_size_up=3)],
                         ids=['OneCycleLR', 'CyclicLR'])
def test_schedulers_of_momentum_with_their_defaults(name, schedule):
    "They go with all that has momentum; what has none they refuse, as they do with torch's"
    opt = ALGORITHMS[name](new(), lr=0.01)
    if 'mom' not in opt.param_groups[0]:
        with pytest.raises(ValueError, match='must support momentum'): schedule(opt)
        return
    sched = schedule(opt)
    before = [p.detach().clone() for p in all_params(opt)]
    for i in range(4):
        assert 'mom' in opt.composition.reads and 0 < opt.hypers[0]['mom'] < 1
        if 'Free' not in name: run(opt, [i])
        sched.step()
    assert 'Free' in name or not same(before, all_params(opt))


@pytest.mark.parametrize('edited', [
    lambda opt: Lookahead(opt), lambda opt: opt.wrap(clip_norm), lambda opt: opt.wrap(oc.clip_update), lambda opt: opt.insert(oc.step_stat, before=0),
    lambda opt: opt.remove(oc.weight_decay), lambda opt: Lookahead(opt.wrap(maximize)), copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt.wrap(clip_norm)))])
def test_what_was_done_to_the_steppers_is_done_again(edited):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', oc.CompositionWarning)
        late, early = edited(SGD(new(), lr=0.1)), edited(SGD(new(), lr=0.1, mom=0.9))
        late.set_hyper('mom', 0.9)
        assert late.composition.labels == early.composition.labels and same(run(late), run(early))


def test_what_was_done_by_hand_is_not_undone():
    for change in (lambda opt: setattr(opt, 'cbs', [sgd_step]),
                   lambda opt: opt.replace(sgd_step, oc.sign_update, oc.apply_update)):
        opt = SGD(new(), lr=0.1)
        change(opt)
        labels = opt.composition.labels
        with pytest.raises(ValueError, match='set by hand|there is no stepper `sgd_step`'): opt.set_hyper('mom', 0.9)
        assert opt.hypers[0]['mom'] == 0 and opt.composition.labels == labels
        run(opt)
    own = SGD(new(), lr=0.1)
    own.cbs = [oc.average_grad, momentum_step] # which read it
    own.set_hyper('mom', 0.9)
    assert same(run(own), run(SGD(new(), lr=0.1, mom=0.9)))


def test_recipes_of_ones_own_choose_again_and_what_cannot_be_pickled_stays_as_it_is():
    @oc.algorithm
    def Mine(heavy=0.): return [oc.average_grad, momentum_step] if heavy else [sgd_step]
    opt = Mine(new(), lr=0.1)
    opt.set_hyper('heavy', 1.)
    assert opt.composition.labels == ['average_grad', 'momentum_step']
    opt.param_groups[0]['heavy'] = 0.
    assert opt.composition.labels == ['sgd_step']
    assert Mine([{'params': new(), 'heavy': 1.}], lr=0.1).composition.labels == ['average_grad', 'momentum_step']
    assert pickle.loads(pickle.dumps(Mine(new(), lr=0.1)))._choice is None
    copied = copy.deepcopy(Mine(new(), lr=0.1))
    copied.set_hyper('heavy', 1.)
    assert copied.composition.labels == ['average_grad', 'momentum_step']


def test_fastais_one_cycle_on_what_has_no_momentum_stays_as_it_is_there(recwarn):
    schedule = pytest.importorskip('fastai.callback.schedule')
    def ahead(*args, **kwargs): return Lookahead(SGD(*args, **kwargs))
    for make in (SGD, oc.RMSProp, ahead):
        opt = make(new(), lr=0.1)
        labels = opt.composition.labels
        cb = schedule.ParamScheduler({'mom': schedule.combined_cos(0.25, 0.95, 0.85, 0.95)})
        cb.learn = type('Learner', (), {'opt': opt, 'pct_train': 0.})()
        for pct in (0., 0.3, 0.6): cb._update_val(pct)
        assert opt.hypers[-1]['mom'] > 0.8 and opt.composition.labels == labels
        assert same(run(opt), run(make(new(), lr=0.1)))
        later = make(new(), lr=0.1)
        later.load_state_dict(opt.state_dict()) # which is of an optimizer without momentum
        assert later.composition.labels == labels and later.hypers[-1]['mom'] > 0.8
        for o in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), later):
            o.set_hyper('mom', 0.9) # by a user
            assert 'average_grad' in o.composition.labels
    assert not [w for w in recwarn if 'mom' in str(w.message)]


def test_states_with_momentum_come_into_an_optimizer_without():
    for make in (SGD, oc.RMSProp, oc.Shampoo, oc.Larc):
        a = make(groups(new(), mom=0.8), lr=0.1, mom=0.)
        run(a)
        sd = a.state_dict()
        b = make(groups([p.detach().clone().requires_grad_() for p in all_params(a)]), lr=0.3, mom=0.)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            b.load_state_dict(sd)
        assert same(run(b, range(4, 8)), run(a, range(4, 8)))
        c = make(new(), lr=0.1, mom=0.)
        with pytest.raises(ValueError): c.load_state_dict(sd) # of other groups
        assert c.hypers[0]['mom'] == 0 and 'mom' not in c.composition.reads


# Flags

def flags_of(algo): return sorted(algo.flags - {'maximize'})


@pytest.mark.parametrize('name', ALGORITHMS)
def test_every_flag_of_a_group_works_or_is_refused(name):
    """Two groups that differ are as two optimizers, or an error says what to write; a flag that comes later
    is as if it had been there"""
    algo = ALGORITHMS[name]
    for k in flags_of(algo):
        value, mom = not algo.signature.parameters[k].default, {'mom': 0.9} if 'mom' in algo.options else {}
        make = partial(algo, lr=0.01, wd=0.1, **mom) if 'wd' in algo.options else partial(algo, lr=0.01, **mom)
        try: want = [run(make(new()[:2], **{k: value})), run(make(new()[2:]))]
        except ValueError: continue # it needs another option
        ps = new()
        try: opt = make([{'params': ps[:2], k: value}, {'params': ps[2:]}])
        except TypeError as e:
            assert f'`{k}` chooses the steppers of {name} for all groups' in str(e) and 'route(' in str(e)
            opt = make(new()[2:])
            with pytest.raises(TypeError, match='route'): opt.add_param_group({'params': new()[:2], k: value})
            assert len(opt.param_groups) == 1
        else:
            if not opt.composition.sums_over_all and same(new()[2:], new()[2:]):
                a, b = make(new()[:2], **{k: value}), make(new()[2:])
                for i in range(4):
                    set_grads(ps, i)
                    for o, these in ((a, ps[:2]), (b, ps[2:])):
                        for p, q in zip(all_params(o), these): p.grad = q.grad.clone()
                        o.step()
                    opt.step()
                assert difference(ps, [*all_params(a), *all_params(b)]) < 1e-12, k
        late = make(new()[:2])
        late.param_groups[0][k] = value
        assert same(run(late), want[0]), k
        late = make(new()[:2])
        late.set_hyper(k, value)
        assert same(run(late), want[0]), k


OPTIONS = st.fixed_dictionaries(dict(lr=st.sampled_from([0.01, 0.1]), momentum=st.sampled_from([0., 0.5, 0.9]), dampening=st.sampled_from([0., 0.3, 0.9, 1.]),
                                     weight_decay=st.sampled_from([0., 0.1]), maximize=st.booleans()))
NESTEROV = st.fixed_dictionaries(dict(momentum=st.sampled_from([0.5, 0.9]), nesterov=st.booleans(),
                                      maximize=st.booleans(), weight_decay=st.sampled_from([0., 0.1])))
AVERAGES = st.fixed_dictionaries(dict(betas=st.sampled_from([(0.9, 0.99), (0.5, 0.9)]), amsgrad=st.booleans(),
                                      maximize=st.booleans(), weight_decay=st.sampled_from([0., 0.1])))
CENTERED = st.fixed_dictionaries(dict(momentum=st.sampled_from([0., 0.9]), centered=st.booleans(),
                                      maximize=st.booleans(), eps=st.just(1e-3)))
l2 = dict(decouple_wd=False)
TORCHS = {'SGD': (partial(SGD, **l2), to.SGD, OPTIONS), 'Nesterov': (partial(SGD, **l2), to.SGD, NESTEROV), 'Adam': (partial(Adam, sqr_mom=0.999, eps=1e-8, **l2), to.Adam, AVERAGES),
          'AdamW': (AdamW, to.AdamW, AVERAGES), 'RMSprop': (partial(oc.RMSProp, divide_first=True), to.RMSprop, CENTERED)}


@pytest.mark.parametrize('name', TORCHS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_groups_with_torchs_options_are_as_torchs(name, data):
    ours, theirs, options = TORCHS[name]
    engine, given = data.draw(st.sampled_from(ENGINES)), data.draw(st.lists(options, min_size=1, max_size=3))
    def made(f, **kwargs):
        ps = new()
        return f([{'params': ps[i::len(given)], **o} for i, o in enumerate(given)], lr=0.05, **kwargs)
    a, b = made(ours, engine=engine), made(theirs)
    assert difference(run(a, range(6)), run(b, range(6))) < 1e-12
    changed = data.draw(options)
    for opt in (a, b):
        opt.param_groups[0].update({k: v for k, v in changed.items() if k not in ('momentum', 'centered') or name == 'SGD'})
    if name != 'Adam' and name != 'AdamW': assert difference(run(a, range(6, 9)), run(b, range(6, 9))) < 1e-12


@pytest.mark.parametrize('options', [dict(momentum=0.9, dampening=0.5), dict(momentum=0.9, dampening=1., maximize=True), dict(momentum=0.9, dampening=0.)])
@pytest.mark.parametrize('engine', ENGINES)
def test_dampening_is_torchs_if_it_is_a_number(options, engine):
    for ours in (partial(SGD, lr=0.1, **options), partial(Optimizer, cbs=[maximize, oc.average_grad, momentum_step], **{'lr': 0.1, 'maximize': False, **options})):
        opt = ours(new(), engine=engine)
        assert difference(run(opt), run(to.SGD(new(), lr=0.1, **options))) < 1e-12
    assert same(run(SGD(new(), lr=0.1, mom=0.9, dampening=True, engine=engine)),
                run(Optimizer(new(), oc.SGD.recipe(mom=0.9, dampening=True), lr=0.1, mom=0.9, engine=engine)))


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('ours, theirs', [(partial(Adam, sqr_mom=0.999, eps=1e-8, **l2), to.Adam), (AdamW, to.AdamW)], ids=['Adam', 'AdamW'])
def test_amsgrad_of_adam(ours, theirs, engine):
    opt = ours(new(), lr=0.1, weight_decay=0.1, amsgrad=True, engine=engine)
    assert difference(run(opt, range(8)), run(theirs(new(), lr=0.1, weight_decay=0.1, amsgrad=True), range(8))) < 1e-12
    assert 'sqr_max' in opt.state[all_params(opt)[0]]


# Maximize

@pytest.mark.parametrize('name', ALGORITHMS)
def test_every_algorithm_maximizes(name):
    "As it minimizes what is negated: to the bit, as a keyword, as a part, and for a group"
    algo = ALGORITHMS[name]
    want = run(algo(new(), lr=0.01, engine='eager'), sign=-1)
    for opt in (algo(new(), lr=0.01, maximize=True, engine='eager'), algo.wrap(maximize)(new(), lr=0.01, engine='eager'),
                algo(new(), lr=0.01, engine='eager').wrap(maximize), algo([{'params': new(), 'maximize': True}], lr=0.01, engine='eager')):
        assert same(run(opt), want)
    late = algo(new(), lr=0.01, engine='eager')
    late.param_groups[0]['maximize'] = True
    assert same(run(late), want)
    late.set_hyper('maximize', False)
    assert late.param_groups[0]['maximize'] is False and 'maximize' in late.composition.labels


@pytest.mark.parametrize('engine', ['foreach', 'fused'])
def test_maximizing_on_other_engines(engine):
    for algo in (SGD, AdamW, oc.Lion, oc.Lamb, oc.Prodigy):
        want = run(algo(new(), lr=0.01, engine=engine), sign=-1)
        assert same(run(algo(new(), lr=0.01, maximize=True, engine=engine)), want)


def objective(ps, sign):
    return sign * sum((p**3 - i*p).sum() for i, p in enumerate(ps)) + sign * ps[0].sum()*ps[1].sum()


def trained(sign, wrapped, steps=4, seed=0):
    "Parameters after steps up the negative objective, or down the objective"
    ps = new()
    opt = wrapped(ps)
    torch.manual_seed(seed)
    def closure():
        opt.zero_grad()
        loss = objective(ps, sign)
        loss.backward()
        return loss
    for _ in range(steps): opt.step(closure)
    return [p.detach() for p in ps]


@pytest.mark.parametrize('wrap', [
    lambda make, up: lambda ps: SAM(make(ps, lr=0.01, mom=0.9, maximize=up), rho=0.1),
    lambda make, up: lambda ps: SAM(make(ps, lr=0.01, mom=0.9).wrap(*[maximize][:up]), rho=0.1, adaptive=True),
    lambda make, up: lambda ps: SAM(make([{'params': ps, 'maximize': up}], lr=0.01), rho=0.1),
    lambda make, up: lambda ps: SAM(make([(f'p{i}', p) for i, p in enumerate(ps)], lr=0.01).wrap(*[oc.only(maximize, oc.by_name('p*'))][:up]), rho=0.1),
    lambda make, up: lambda ps: Lookahead(make(ps, lr=0.01, mom=0.9, maximize=up), k=2),
    lambda make, up: lambda ps: make(ps, lr=0.01, maximize=up).wrap(partial(accumulate, accum=2)),
    lambda make, up: lambda ps: make(ps, lr=0.01, maximize=up, wd=0.1, decouple_wd=False).wrap(partial(clip_norm, max_norm=0.1)),
    lambda make, up: lambda ps: make(ps, lr=0.01, maximize=up).wrap(oc.add_noise, oc.grokfast, oc.cautious)],
    ids='sam asam groups rule lookahead accumulate clip noise'.split())
def test_what_stands_around_a_step_maximizes_too(wrap):
    assert same(trained(1, wrap(SGD, False)), trained(-1, wrap(SGD, True)))


def test_sam_around_an_optimizer_of_torchs_goes_the_other_way_too():
    from optimcb.training.sam import Ascent
    ends = []
    for sign, up in ((1, False), (-1, True)):
        ps = new()
        ascent = Ascent(to.SGD(ps, lr=0.1, maximize=up), rho=0.1)
        objective(ps, sign).backward()
        ascent.up()
        ends.append([p.detach().clone() for p in ps])
        ascent.down()
        assert same(ps, new())
    assert same(*ends) and not same(ends[0], new())


def test_one_climbs_and_another_descends():
    "A game of two in one optimizer, SAM around it"
    ps, qs = new(), new()
    opt = SAM(SGD(groups(ps, maximize=True), lr=0.01), rho=0.1)
    for i in range(3):
        set_grads(ps, i)
        with torch.no_grad(): up = [p.grad.clone() * (-1 if k < 2 else 1) for k, p in enumerate(ps)]
        norm = torch.sqrt(sum((g**2).sum() for g in up))
        opt.ascend()
        assert difference(ps, [q + g*0.1/norm for q, g in zip(qs, up)]) < 1e-9
        set_grads(ps, 10 + i)
        opt.step()
        for k, (q, p) in enumerate(zip(qs, ps)): q.data.add_(p.grad, alpha=0.01 if k < 2 else -0.01)
        assert difference(ps, qs) < 1e-12


@pytest.mark.parametrize('made', [lambda ps, up: Sophia(ps, lr=0.01, maximize=up), lambda ps, up: Sophia([{'params': ps, 'maximize': up}], lr=0.01),
                                  lambda ps, up: Sophia(ps, lr=0.01).wrap(*[oc.only(maximize, oc.by_ndim(0, 1, 2, 4))][:up])], ids=['keyword', 'group', 'rule'])
def test_curvature_is_of_what_is_minimized(made):
    ends = []
    for sign, up in ((1, False), (-1, True)):
        ps = new()
        opt = made(ps, up)
        torch.manual_seed(0)
        for i in range(4):
            oc.update_hessian(opt, oc.hutchinson(objective(ps, sign), ps))
            opt.zero_grad()
            objective(ps, sign).backward()
            if i == 2: oc.update_hessian(opt, scale=2.) # squares have no sign
            opt.step()
        ends.append([p.detach() for p in ps])
    assert same(*ends)


def test_a_grad_scaler_and_a_scheduler_around_it():
    ends = []
    for make in (partial(AdamW, maximize=True), partial(to.AdamW, maximize=True)):
        ps = new()
        opt = make(ps, lr=0.01)
        sched, scaler = ls.OneCycleLR(opt, 0.1, total_steps=9), torch.amp.GradScaler('cpu', init_scale=8.)
        for i in range(6):
            opt.zero_grad()
            scaler.scale(objective(ps, -1) * (torch.inf if i == 3 else 1.)).backward()
            scaler.step(opt)
            scaler.update()
            sched.step()
        ends.append([p.detach() for p in ps])
    assert difference(*ends) < 1e-12


def test_a_step_in_backward_maximizes():
    ends = []
    for sign, up in ((1, False), (-1, True)):
        ps = new()
        oc.step_in_backward(SGD(ps, lr=0.01, maximize=up))
        for _ in range(3): objective(ps, sign).backward()
        ends.append([p.detach() for p in ps])
    assert same(*ends)


def test_what_maximizes_is_a_flag():
    for v in (0.5, 'up', [True, False]):
        with pytest.raises(TypeError, match='`maximize` of SGD must be True or False'): SGD(new(), lr=0.1, maximize=v)
    for v in (None, False, 0): assert 'maximize' not in SGD(new(), lr=0.1, maximize=v).composition.labels
    assert 'grad = -grad' in str(SGD(new(), lr=0.1, maximize=True).formula)
    with pytest.raises(ValueError, match='there already'): SGD(new(), lr=0.1, maximize=True).wrap(maximize)


# Adafactor

TRANSFORMERS = [
    {}, dict(lr=None, eps=(1e-30, 1e-3), clip_threshold=1., decay_rate=-0.8, beta1=None, weight_decay=0., scale_parameter=True, relative_step=True, warmup_init=False),
    dict(warmup_init=True, beta1=0.9), dict(lr=1e-3, scale_parameter=False, relative_step=False, weight_decay=0.1), dict(scale_parameter=False, clip_threshold=0.5),
    dict(lr=1e-2, relative_step=False, beta1=0.7, eps=(1e-5, 1e-1), clip_threshold=0.5, decay_rate=-0.5, weight_decay=0.3)]


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('options', TRANSFORMERS, ids=range(len(TRANSFORMERS)))
def test_adafactor_as_transformers_has_it(options, engine):
    theirs = pytest.importorskip('transformers').Adafactor
    assert difference(run(oc.Adafactor(new(), engine=engine, **options), range(20)),
                      run(theirs(new(), **options), range(20))) < 1e-12


def test_groups_of_adafactor_as_transformers_has_them():
    theirs = pytest.importorskip('transformers').Adafactor
    for k, v in dict(scale_parameter=False, clip_threshold=0.3, decay_rate=-0.5, beta1=0.8, eps=(1e-10, 0.1),
                     weight_decay=0.2, warmup_init=True).items():
        usual = dict(weight_decay=0.1, clip_threshold=1.)
        ours, want = (make(groups(new(), **{k: v}), **usual) for make in (oc.Adafactor, theirs))
        assert difference(run(ours, range(9)), run(want, range(9))) < 1e-12, k


def test_adafactor_refuses_what_transformers_refuses():
    for options, message in ((dict(warmup_init=True, relative_step=False), 'needs `relative_step=True`'),
                             (dict(beta1=1.5), '`mom` must be')):
        with pytest.raises(ValueError, match=message): oc.Adafactor(new(), lr=1e-3, **options)
    assert oc.Adafactor(new()).hypers[0]['lr'] == 1e-2
    with pytest.raises(TypeError, match="missing a required argument: 'lr'"): oc.SM3(new())


# Where else

def test_routes_and_wrappers_choose_again():
    routed = oc.route(hidden=(partial(SGD, mom=0.), oc.by_ndim(2)), rest=partial(SGD, mom=0.5))
    want = run(oc.route(hidden=(partial(SGD, mom=0.), oc.by_ndim(2)), rest=partial(SGD, mom=0.5))(new(), lr=0.1, hidden_mom=0.9))
    late = routed(new(), lr=0.1)
    late.set_hyper('hidden_mom', 0.9)
    assert same(run(late), want)
    assert same(run(routed(new(), lr=0.1, maximize=True)), run(routed(new(), lr=0.1), sign=-1))
    assert same(run(oc.ranger(new(), lr=0.1, maximize=True)), run(oc.ranger(new(), lr=0.1), sign=-1))
    inner = SGD(new(), lr=0.1)
    sam = SAM(inner, rho=0.1)
    sam.set_hyper('mom', 0.9)
    assert 'average_grad' in sam.composition.labels and trained(1, lambda ps: SAM(SGD(ps, lr=0.01), rho=0.1))


def test_a_step_in_backward_chooses_again():
    ends = []
    for late in (False, True):
        ps = new()
        opt = SGD(ps, lr=0.01, mom=0. if late else 0.9)
        oc.step_in_backward(opt)
        opt.param_groups[0]['momentum'] = 0.9
        for _ in range(3): objective(ps, 1).backward()
        ends.append([p.detach() for p in ps])
    assert same(*ends)


def test_what_means_nothing_in_a_composition_is_said():
    with pytest.warns(UserWarning, match='no stepper reads `momentum`'):
        Optimizer([{'params': new(), 'momentum': 0.9}], sgd_step, lr=0.1)
    opt = SGD(new(), lr=0.1)
    with pytest.raises(TypeError, match='`centered=True` can\'t be had.*RMSProp'): opt.set_hyper('centered', True)
    with pytest.raises(TypeError, match=r'`maximize=True` can.t be had.*wrap\(maximize\)'):
        Optimizer(new(), sgd_step, lr=0.1).set_hyper('maximize', True)
    with pytest.raises(TypeError, match='`decouple_wd` chooses'):
        SGD(groups(new()), lr=0.1).set_hyper('decouple_wd', [True, False])
    assert 'centered' not in opt.hypers[0]


def test_what_cannot_be_set_is_not_set():
    opt = SGD(groups(new()), lr=0.1)
    with pytest.raises(TypeError, match='route'): opt.set_hyper('decouple_wd', [True, False])
    assert all('decouple_wd' not in h for h in opt.hypers) and opt.composition.labels == SGD.composition.labels
    run(opt)
