"Schedulers of torch and of fastai, torch's names and keywords, and hyper-parameters that are tensors: the numbers are torch's own."
import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.optim.lr_scheduler as ls
from helpers import difference, params, set_grads
from torch import tensor

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step, sgd_step, weight_decay

STEPS = 18
ENGINES = ['eager', 'foreach', 'fused']

OPTIMIZERS = {
    'sgd': (oc.SGD, torch.optim.SGD),
    'momentum': (partial(oc.SGD, mom=0.9), partial(torch.optim.SGD, momentum=0.9)),
    'adam': (partial(oc.Adam, sqr_mom=0.999, eps=1e-8, wd=0.1, decouple_wd=False), partial(torch.optim.Adam, weight_decay=0.1)),
    'rmsprop': (partial(oc.RMSProp, divide_first=True), torch.optim.RMSprop),
    'adamax': (oc.Adamax, torch.optim.Adamax),
    'radam': (partial(oc.RAdam.insert(oc.debias_eps, before=oc.radam_step), sqr_mom=0.999, eps=1e-3), partial(torch.optim.RAdam, eps=1e-3)),
    'rmsprop with momentum': (partial(oc.RMSProp, mom=0.9, divide_first=True, eps=1e-3), partial(torch.optim.RMSprop, momentum=0.9, eps=1e-3)),
}


def chained(opt): return ls.ChainedScheduler([ls.ConstantLR(opt, 0.5, total_iters=6), ls.ExponentialLR(opt, 0.95)])
def sequential(opt):
    return ls.SequentialLR(opt, [ls.LinearLR(opt, 0.1, total_iters=5), ls.CosineAnnealingLR(opt, 10), ls.StepLR(opt, 2)], [5, 15])

SCHEDULERS = {
    'LambdaLR': lambda opt: ls.LambdaLR(opt, [lambda i: 0.95**i, lambda i: 1/(1+i), lambda i: 1.]),
    'MultiplicativeLR': lambda opt: ls.MultiplicativeLR(opt, lambda i: 0.97),
    'StepLR': lambda opt: ls.StepLR(opt, 5, 0.3),
    'MultiStepLR': lambda opt: ls.MultiStepLR(opt, [3, 7, 20], 0.5),
    'ConstantLR': lambda opt: ls.ConstantLR(opt, 0.3, total_iters=10),
    'LinearLR': lambda opt: ls.LinearLR(opt, 0.1, total_iters=10),
    'ExponentialLR': lambda opt: ls.ExponentialLR(opt, 0.9),
    'SequentialLR': sequential,
    'CosineAnnealingLR': lambda opt: ls.CosineAnnealingLR(opt, 20, eta_min=1e-4),
    'ChainedScheduler': chained,
    'ReduceLROnPlateau': lambda opt: ls.ReduceLROnPlateau(opt, factor=0.5, patience=2, min_lr=[1e-3, 1e-2, 1e-1]),
    'CyclicLR': lambda opt: ls.CyclicLR(opt, [1e-3, 2e-3, 3e-3], [0.1, 0.2, 0.3], step_size_up=5, mode='triangular2', cycle_momentum=False),
    'CyclicLR, momentum': lambda opt: ls.CyclicLR(opt, 1e-3, 0.1, step_size_up=5, base_momentum=[0.7, 0.75, 0.8], max_momentum=0.95),
    'CyclicLR, defaults': lambda opt: ls.CyclicLR(opt, 1e-3, 0.1, step_size_up=7),
    'OneCycleLR, defaults': lambda opt: ls.OneCycleLR(opt, 0.1, total_steps=STEPS+2),
    'CosineAnnealingWarmRestarts': lambda opt: ls.CosineAnnealingWarmRestarts(opt, 5, 2),
    'OneCycleLR': lambda opt: ls.OneCycleLR(opt, [0.1, 0.2, 0.3], total_steps=STEPS+2, cycle_momentum=False),
    'OneCycleLR, momentum': lambda opt: ls.OneCycleLR(opt, 0.1, total_steps=STEPS+2, base_momentum=[0.8, 0.85, 0.7], three_phase=True),
    'PolynomialLR': lambda opt: ls.PolynomialLR(opt, 15, power=2.),
}


def in_groups(ps, lr): return [{'params': ps[:1]}, {'params': ps[1:3], 'lr': lr*2}, {'params': ps[3:], 'lr': lr*3}]


def scheduled(make, schedule, resume=False, lr=0.05):
    "Parameters, what torch's schedulers made of `lr` and momentum, and the optimizer. If it resumes, all is saved half-way, and goes on in another one"
    ps = params(dtype=torch.float64)
    opt = make(in_groups(ps, lr), lr=lr)
    sched, seen = schedule(opt), []
    for i in range(STEPS):
        if resume and i == STEPS//2:
            file = io.BytesIO()
            torch.save(opt.state_dict(), file)
            file.seek(0)
            ps, notes = [torch.nn.Parameter(p.detach().clone()) for p in ps], copy.deepcopy(sched.state_dict())
            opt = make(in_groups(ps, lr), lr=lr)
            sched = schedule(opt)
            opt.load_state_dict(torch.load(file, weights_only=True))
            sched.load_state_dict(notes)
        set_grads(ps, i)
        opt.step()
        sched.step(*([1.] if isinstance(sched, ls.ReduceLROnPlateau) else []))
        seen.append([(float(g['lr']), g['betas'][0] if 'betas' in g else g.get('momentum', 0.))
                     for g in opt.param_groups])
    return [p.data for p in ps], seen, opt


def kernels(make, steps=3):
    "How many kernels a few steps need that nobody schedules"
    opt = make(in_groups(ps := params(dtype=torch.float64), 0.1), lr=0.1)
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return len(opt._running.programs)


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_all_schedulers_of_torch(kind):
    ours, theirs = OPTIMIZERS[kind]
    fused = partial(ours, engine='fused')
    known = kernels(fused)
    for name, schedule in SCHEDULERS.items():
        want, numbers, _ = scheduled(theirs, schedule)
        for make, resume in ((partial(ours, engine='eager'), False), (fused, True)):
            got, seen, opt = scheduled(make, schedule, resume)
            assert difference(got, want) < 1e-12 and seen == numbers, name
        begins = kind in ('sgd', 'rmsprop') and opt.hypers[0]['mom'] # with momentum there is a first step, too
        assert len(opt._running.programs) <= known + bool(begins), name
    assert set(SCHEDULERS) >= {k for k, v in vars(ls).items() if isinstance(v, type) and issubclass(v, ls.LRScheduler) and k[0] != '_'} - {'LRScheduler'}


# torch's names in groups

def run(opt, steps=4, start=0):
    ps = [p for g in opt.param_groups for p in g['params']]
    for i in range(start, start + steps):
        set_grads(ps, i)
        opt.step()
    return [p.detach().clone() for p in ps]


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize('engine', ENGINES)
def test_what_is_written_under_torchs_names_is_in_the_next_step(engine):
    a, b = (oc.Adam(in_groups(params(), 0.1), lr=0.1, engine=engine) for _ in range(2))
    run(a, 2), run(b, 2)
    a.param_groups[0]['weight_decay'] = 0.1
    a.param_groups[1].update(betas=[0.8, 0.95], eps=1e-3)
    b.hypers[0]['wd'] = 0.1
    b.hypers[1].update(mom=0.8, sqr_mom=0.95, eps=1e-3)
    assert a.param_groups[1]['betas'] == (0.8, 0.95) and a.hypers == b.hypers and a.state_dict()['param_groups'] == b.state_dict()['param_groups']
    assert same(run(a, start=2), run(b, start=2))
    a.set_hyper('weight_decay', [0.1, 0.2, 0.3])
    a.set_hyper('betas', (0.7, 0.8))
    a.hypers[0]['momentum'] = 0.6
    assert [(h['wd'], h['mom'], h['sqr_mom']) for h in a.hypers] == [(0.1, 0.6, 0.8), (0.2, 0.7, 0.8), (0.3, 0.7, 0.8)]
    assert not {'weight_decay', 'betas', 'momentum'} & a.hyper_names


def test_a_group_is_a_dict_that_has_each_thing_once():
    opt = oc.Adam(params(), lr=0.1)
    g = opt.param_groups[0]
    ours = ['wd', 'mom', 'sqr_mom', 'eps', 'lr', 'params']
    assert list(g) == list(g.keys()) == list(dict(g)) == ours and len(g) == len(g.items()) == 6 and 'betas' not in {**g}
    assert ('betas' in g, 'momentum' in g, 'weight_decay' in g, 'lr_decay' in g, 'nothing' in g) == (True, True, True, False, False)
    assert g['betas'] == g.get('betas') == (0.9, 0.99) and g.get('momentum_decay') is None and g.get('momentum_decay', 3) == 3
    assert g.setdefault('weight_decay', 5.) == 0.01 == g['wd'] and g.setdefault('note', 1) == 1 == g['note']
    with pytest.raises(KeyError, match='momentum_decay'): g['momentum_decay']
    with pytest.raises(ValueError, match='`betas` must have 2 values'): g['betas'] = 0.9
    with pytest.raises(ValueError, match='`mom` must be at least 0'): g['betas'] = (2., 0.9)
    assert g['betas'] == (0.9, 0.99)
    g |= {'weight_decay': 0.2}
    assert g['wd'] == 0.2 and (g | {'betas': (0.1, 0.2)})['mom'] == 0.1 and g['mom'] == 0.9
    for other in (copy.copy(g), copy.deepcopy(g), g.copy(), pickle.loads(pickle.dumps(g))):
        assert list(other) == [*ours, 'note'] and other['betas'] == (0.9, 0.99)
        other['weight_decay'] = 1.
        assert other['wd'] == 1. and g['wd'] == 0.2
    assert g.pop('weight_decay') == 0.2 and 'wd' not in g and 'weight_decay' not in g
    g['weight_decay'] = 0.3
    assert g['wd'] == 0.3 and g.pop('weight_decay_', None) is None
    with pytest.raises(KeyError): g.pop('lr_decay')
    del g['betas']
    assert 'mom' not in g and 'sqr_mom' not in g and 'betas' not in g
    with pytest.raises(KeyError): del g['betas']


def test_names_come_through_copies_pickles_and_state_dicts():
    opt = oc.Adam(in_groups(params(), 0.1), lr=0.1, betas=(0.8, 0.9))
    run(opt, 1)
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.param_groups[1]['betas'] == (0.8, 0.9) == other.defaults['betas'] and 'betas: ' not in repr(other) and 'sqr_mom: 0.9' in repr(other)
        ls.OneCycleLR(other, 0.1, total_steps=5)
        assert other.hypers[0]['mom'] == 0.95 and opt.hypers[0]['mom'] == 0.8
        run(other, 1)
    sd = opt.state_dict()
    assert all(type(g) is dict and not {'betas', 'weight_decay'} & set(g) for g in sd['param_groups'])
    file = io.BytesIO()
    torch.save(sd, file)
    file.seek(0)
    sd = torch.load(file, weights_only=True)
    new = oc.Adam(in_groups(params(), 0.1), lr=0.1)
    new.load_state_dict(sd)
    assert new.param_groups[0]['betas'] == (0.8, 0.9)
    new.__setstate__({'param_groups': [dict(g) for g in new.param_groups]}) # as old code sets defaults
    new.param_groups[2]['betas'] = (0.1, 0.2)
    assert new.hypers[2]['mom'] == 0.1


def test_only_what_steppers_read_has_torchs_name():
    plain = Optimizer(params(), sgd_step, lr=0.1)
    assert not {'momentum', 'betas'} & {k for k in ('momentum', 'betas') if k in plain.defaults or k in plain.param_groups[0]}
    plain.param_groups[0]['momentum'] = 0.9 # somebody's note, as any other key
    assert plain.param_groups[0]['momentum'] == 0.9 and 'mom' not in plain.hypers[0]
    plain.edit(lambda cbs: [average_grad, momentum_step])
    assert plain.hypers[0]['mom'] == 0.9 == plain.param_groups[0]['momentum'] and 'momentum' not in plain.param_groups[0].keys()
    def heavy(p, lr, momentum=0.5, mom=0.9): p.data.add_(p.grad, alpha=-lr*(momentum + mom))
    own = Optimizer(params(), heavy, lr=0.1)
    own.param_groups[0]['momentum'] = 0.25
    assert own.hypers[0] == dict(lr=0.1, momentum=0.25, mom=0.9)
    ls.OneCycleLR(own, 0.1, total_steps=4) # it has a momentum, which is cycled
    assert own.hypers[0]['momentum'] == 0.95 and own.hypers[0]['mom'] == 0.9
    ahead = oc.ranger(params(), lr=0.1)
    ahead.param_groups[0]['alpha'] = 0.3 # of `lookahead_step`, not torch's name for `sqr_mom`
    assert ahead.alpha == 0.3 and ahead.hypers[0]['sqr_mom'] == 0.99 and ahead.defaults['sqr_mom'] == 0.99
    assert ahead.opt.composition and ahead.composition and ahead.alpha == 0.3
    ls.OneCycleLR(ahead, 0.1, total_steps=4)
    assert ahead.hypers[0]['mom'] == 0.95


# torch's keywords

@pytest.fixture
def in_doubles():
    "torch keeps numbers of a step in the default type"
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TORCHS = [(oc.SGD, torch.optim.SGD, {}), (oc.SGD, torch.optim.SGD, dict(momentum=0.9)), (oc.SGD, torch.optim.SGD, dict(momentum=0.9, nesterov=True)),
          (oc.Adam, torch.optim.Adam, {}), (oc.AdamW, torch.optim.AdamW, {}), (oc.AMSGrad, torch.optim.Adam, dict(amsgrad=True)),
          (oc.RMSProp, torch.optim.RMSprop, dict(centered=True, eps=1e-3)), (oc.NAdam, torch.optim.NAdam, {}), (oc.Adamax, torch.optim.Adamax, {}),
          (oc.Adagrad, torch.optim.Adagrad, {}), (oc.Adadelta, torch.optim.Adadelta, {})]


@pytest.mark.parametrize('ours, theirs, options', TORCHS, ids=lambda o: getattr(o, '__name__', None))
def test_torchs_defaults_are_understood(ours, theirs, options, in_doubles):
    "All that an optimizer of torch has in its groups, given as keywords, and given in a group"
    want = theirs(params(dtype=torch.float64), lr=0.05, **options)
    run(want)
    given = {k: v for k, v in want.defaults.items() if k != 'lr'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        choice = {k: v for k, v in given.items() if k in ours.signature.parameters and isinstance(v, bool)}
        if options.get('momentum'): choice['mom'] = options['momentum']
        opts = [ours(params(dtype=torch.float64), lr=0.05, **given),
                ours([{'params': params(dtype=torch.float64), **want.defaults}], lr=1., **choice)]
    for opt in opts:
        assert difference(run(opt), [p.detach() for p in want.param_groups[0]['params']]) < 1e-12
        assert not set(oc.hypers.TORCH_FLAGS) & set(opt.param_groups[0].keys())


def test_foreach_and_fused_choose_the_engine():
    composed = partial(Optimizer, cbs=[weight_decay, sgd_step])
    for make in (oc.AdamW, composed, oc.ranger):
        assert make(params(), lr=0.1, foreach=True).engine == 'foreach' and make(params(), lr=0.1, fused=True, foreach=False).engine == 'fused'
        assert make(params(), lr=0.1, foreach=None, fused=False, capturable=False, differentiable=None,
                    maximize=False).engine == 'auto'
    for make in (oc.AdamW, composed):
        assert make(params(), lr=0.1, fused=True, engine='fused').engine == 'fused'
        for options in (dict(foreach=True, fused=True), dict(fused=True, engine='eager'),
                        dict(foreach=True, engine='fused'), dict(fused=False, engine='fused')):
            with pytest.raises(ValueError, match='Pass one of them'): make(params(), lr=0.1, **options)
    with pytest.raises(TypeError, match='Pass it to the optimizer'):
        oc.AdamW([{'params': params(), 'capturable': True}], lr=0.1)
    with pytest.raises(ValueError, match="Pass engine='fused' to the optimizer"):
        oc.AdamW([{'params': params(), 'fused': True}], lr=0.1)


@pytest.mark.parametrize('option, message', [
    (dict(differentiable=True), 'functional_call'), (dict(maximize=True), r'wrap\(maximize\)'),
    (dict(amsgrad=True), r'Use `Adam\(…, amsgrad=True'), (dict(nesterov=True), '`NAdam`'), (dict(centered=True), '`RMSProp'),
    (dict(dampening=0.5), '`average_grad` takes it')], ids=str)
def test_what_cannot_be_had_says_what_to_do(option, message):
    name = next(iter(option))
    for make in (oc.Adam, partial(Optimizer, cbs=oc.Adam.cbs, **oc.Adam.hypers)):
        if make is oc.Adam and name in ('dampening', 'maximize', 'amsgrad'): continue # it doesn't have the one, and can do the others
        with pytest.raises(TypeError, match=f'`{name}=.*{message}'): make(params(), lr=0.1, **option)
        opt = make(params(), lr=0.1)
        with pytest.raises(TypeError, match=f'`{name}=.*{message}'):
            opt.add_param_group({'params': params(seed=1), **option})
        assert len(opt.param_groups) == 1
        assert difference(run(make(params(), lr=0.1, **dict.fromkeys(option, 0))), run(make(params(), lr=0.1))) == 0


def test_options_of_algorithms_as_torch_has_them():
    assert oc.AMSGrad(params(), lr=0.1, amsgrad=True) and oc.AdamW(params(), lr=0.1, decoupled_weight_decay=True)
    with pytest.raises(TypeError, match='amsgrad=False'): oc.AMSGrad(params(), lr=0.1, amsgrad=False)
    assert 'l2_reg' in repr(oc.Adam(params(), lr=0.1, decoupled_weight_decay=False)) and 'l2_reg' not in repr(oc.Adam(params(), lr=0.1, decouple_wd=None))
    with pytest.raises(TypeError, match='decouple_wd'): oc.AdamW(params(), lr=0.1, decoupled_weight_decay=False)
    for wd in (0.1, [0., 0.1], tensor(0.1)):
        with pytest.raises(TypeError, match='decouple_wd'):
            oc.AdamW([params(), params(seed=1)], lr=0.1, wd=wd, decoupled_weight_decay=False)
    assert oc.AdamW(params(), lr=0.1, wd=0., decoupled_weight_decay=False)
    assert 'l2_reg' in repr(oc.Adam([{'params': params(), 'decoupled_weight_decay': False}], lr=0.1))
    with pytest.raises(TypeError, match='`decouple_wd` chooses the steppers of Adam for all groups.*route'):
        oc.Adam([{'params': params(), 'decoupled_weight_decay': False}, {'params': params(seed=1)}], lr=0.1)
    with pytest.raises(TypeError, match="`dampening` of SGD must be True or False, but is 'half'.*`average_grad` takes it"):
        oc.SGD(params(), lr=0.1, dampening='half')
    with pytest.raises(TypeError, match='`decouple_wd` of SGD must be True or False, but is 0.0001'):
        oc.SGD(params(), 0.1, 0.9, 0, 1e-4)
    with pytest.raises(TypeError, match=r'third argument of AdamW is `mom`.* Pass betas=\(0.9, 0.999\)'):
        oc.AdamW(params(), 1e-3, (0.9, 0.999))
    assert oc.SGD(params(), 0.1, 0.9).hypers[0]['mom'] == 0.9
    with pytest.raises(TypeError, match='Adam has no `foreech`'): oc.Adam(params(), lr=0.1, foreech=True)
    def mine(p, lr, maximize=0.5, foreach=True): p.data.add_(p.grad, alpha=maximize*lr if foreach else -lr)
    assert Optimizer(params(), mine, lr=0.1, maximize=1., foreach=False).hypers[0] == dict(lr=0.1, maximize=1., foreach=False)


def test_steppers_that_messages_offer():
    "What stands in the messages does what torch does"
    assert all(f'`{k}`' in oc.hypers.TORCH_FLAGS[name][1] for name, k in (('maximize', 'wrap(maximize)'), ('dampening', 'SGD(…, mom=0.9, dampening=0.5)')))
    ascend = oc.maximize
    wd = dict(weight_decay=0.1)
    for ours, theirs in ((oc.AdamW.edit(lambda cbs: [ascend, *cbs])(params(dtype=torch.float64), lr=0.1, **wd), partial(torch.optim.AdamW, maximize=True, **wd)),
                         (Optimizer(params(dtype=torch.float64), [ascend, oc.l2_reg, sgd_step], lr=0.1, **wd), partial(torch.optim.SGD, maximize=True, **wd)),
                         (oc.SGD(params(dtype=torch.float64), lr=0.1, mom=0.9, dampening=0.5), partial(torch.optim.SGD, momentum=0.9, dampening=0.5))):
        assert difference(run(ours), run(theirs(params(dtype=torch.float64), lr=0.1))) < 1e-12


# Hyper-parameters that are tensors

def lambdas(opt): return ls.LambdaLR(opt, lambda i: 0.9**i)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('engine', ENGINES)
def test_learning_rates_that_are_tensors(engine, dtype):
    "One for all, or one each; schedulers fill them"
    want, _, _ = scheduled(partial(oc.AdamW, engine='eager'), lambdas)
    def make(ps, lr):
        given = [{**g, **{k: tensor(v, dtype=dtype) for k, v in g.items() if k == 'lr'}} for g in ps]
        return oc.AdamW(given, lr=tensor(lr, dtype=dtype), engine=engine)
    got, _, opt = scheduled(make, lambdas)
    assert difference(got, want) < (1e-12 if dtype == torch.float64 else 1e-6)
    rates = [g['lr'] for g in opt.param_groups]
    assert all(type(lr) is torch.Tensor and lr.dtype == dtype and lr.shape == ()
               for lr in rates) and len({id(lr) for lr in (*rates, opt.defaults['lr'])}) == 4
    if engine != 'eager': assert len(opt._running.programs) <= 2


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('algo', [oc.SGD, oc.Adam, oc.AMSGrad, oc.NAdam, oc.Adamax, oc.Adagrad, oc.Adadelta, oc.RAdam, oc.QHAdam, oc.Larc, oc.Lamb, oc.RMSProp],
                         ids=lambda a: a.__name__)
def test_every_hyper_parameter_may_be_a_tensor(algo, engine):
    "Values are changed in place, anew, and by `set_hyper`, and nothing is compiled again"
    def steps(number):
        options = {k: number(v or 0.1) for k, v in algo.hypers.items() if k not in ('step', 'k')}
        opt = algo([{'params': (ps := params(dtype=torch.float64))[:2]},
                    {'params': ps[2:], 'lr': number(0.02)}], lr=number(0.01), engine=engine, **options)
        run(opt, 3)
        for g in opt.param_groups: g['lr'] = number(0.03)
        run(opt, 1, 3)
        known = len(opt._running.programs) if engine != 'eager' else 0
        opt.set_hyper('lr', number(0.04))
        opt.set_hyper('wd', [number(0.2), number(0.3)])
        run(opt, 1, 4)
        if isinstance(opt.hypers[0]['lr'], torch.Tensor): opt.hypers[0]['lr'].fill_(0.05)
        else: opt.hypers[0]['lr'] = 0.05
        res = run(opt, 7, 5)
        assert not known or algo is oc.RAdam or len(opt._running.programs) == known
        return res, opt
    (got, opt), (want, _) = steps(partial(tensor, dtype=torch.float64)), steps(float)
    assert difference(got, want) < 1e-12
    assert opt.hypers[1]['lr'] == 0.04 and opt.hypers[0]['lr'] == 0.05


def test_tensors_are_shown_checked_saved_and_copied():
    opt = oc.Adam(in_groups(params(), 0.1), lr=tensor(0.1), betas=(tensor(0.9), tensor(0.99)), wd=tensor([0.1]))
    run(opt, 2)
    assert 'lr: 0.1' in repr(opt) and str(opt.formula) == str(oc.Adam(params(), lr=0.1, wd=0.1).formula)
    assert 'lr' in str(opt.explain()) and opt._repr_html_() and opt.kernel()
    sd = opt.state_dict()
    file = io.BytesIO()
    torch.save(sd, file)
    file.seek(0)
    new = oc.Adam(in_groups([torch.nn.Parameter(p.detach().clone()) for g in opt.param_groups
                             for p in g['params']], 0.1), lr=0.5)
    new.load_state_dict(torch.load(file, weights_only=True))
    assert new.hypers[0]['lr'] == tensor(0.1) and new.hypers[0]['lr'] is not opt.hypers[0]['lr'] is not sd['param_groups'][0]['lr']
    other = copy.deepcopy(opt)
    other.hypers[0]['lr'].fill_(1.)
    assert opt.hypers[0]['lr'] == tensor(0.1)
    other = copy.deepcopy(opt)
    assert same(run(opt), run(new)) and same(run(other), run(new, 0))
    mine = tensor(1)
    opt = oc.SGD(params(), lr=mine) # whole numbers would stay whole when a scheduler writes into them
    ls.ExponentialLR(opt, 0.5)
    opt.param_groups[0]['lr'].fill_(0.25)
    assert opt.hypers[0]['lr'] == 0.25 and mine == 1
    opt.add_param_group({'params': params(seed=1)})
    opt.param_groups[1]['lr'].fill_(0.5)
    assert opt.hypers[0]['lr'] == 0.25 and opt.defaults['lr'] == 1


@pytest.mark.parametrize('value, error', [
    (tensor(0.1, requires_grad=True), 'requires a gradient'), (torch.nn.Parameter(tensor(0.1)), 'requires a gradient'), (tensor([[0.1, 0.2]]), 'one number'),
    (tensor(-0.1), 'at least 0'), (tensor(float('nan')), 'NaN'), (tensor(1j), 'one number'), (tensor(True), 'one number'), (torch.zeros(0), 'values')], ids=str)
def test_tensors_that_cannot_be(value, error):
    with pytest.raises((TypeError, ValueError), match=f'`lr`.*{error}'): oc.Adam(params(), lr=value)
    opt = oc.Adam(params(), lr=0.1)
    with pytest.raises((TypeError, ValueError), match=f'`lr`.*{error}'): opt.set_hyper('lr', value)
    if 'values' not in error:
        with pytest.raises((TypeError, ValueError), match=f'`lr`.*{error}'):
            opt.add_param_group({'params': params(seed=1), 'lr': value})
        with pytest.raises((TypeError, ValueError), match=f'`mom`.*{error}'):
            opt.param_groups[0]['betas'] = (value, 0.9)
    assert len(opt.param_groups) == 1 and opt.hypers[0]['lr'] == 0.1


def test_what_is_recorded_of_tensors_stays():
    opt = oc.SGD.insert(oc.tap(size=oc.taps.norm('grad')), before=sgd_step)(params(), lr=tensor(1., dtype=torch.float64))
    record, sched = oc.Record(opt), ls.ExponentialLR(opt, 0.5)
    for _ in range(3):
        run(opt, 1)
        sched.step()
    assert [float(h[0]['lr']) for h in record.hypers] == [1., 0.5, 0.25]


def test_one_cycle_on_tensors():
    def cycle(opt): return ls.OneCycleLR(opt, 0.1, total_steps=STEPS+2)
    want, numbers, _ = scheduled(partial(oc.Adam, engine='eager'), cycle)
    def make(ps, lr):
        return oc.Adam(ps, lr=tensor(lr, dtype=torch.float64),
                       betas=(tensor(0.9, dtype=torch.float64), tensor(0.99, dtype=torch.float64)))
    got, seen, opt = scheduled(make, cycle)
    assert difference(got, want) < 1e-12 and seen == numbers and len(opt._running.programs) <= 4 # `lr` is a tensor in one group, and in the others a number


# Complex parameters

def complex_params(dtype):
    "Of several shapes and layouts, with a real one among them"
    g = torch.Generator().manual_seed(0)
    def randn(*shape): return torch.randn(shape, generator=g, dtype=dtype)
    ps = [randn(3, 4), randn(), randn(4, 5).t(), randn(2, 6, 4)[:, ::2],
          randn(3).double() if dtype == torch.complex128 else randn(3).float()]
    return [torch.nn.Parameter(p) for p in ps]


def run_complex(opt, steps, start=0):
    ps = [p for g in opt.param_groups for p in g['params']]
    for i in range(start, start + steps):
        g = torch.Generator().manual_seed(100 + i)
        for p in ps: p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype)
        opt.step()
    return [torch.view_as_real(p.detach()).clone() if p.is_complex() else p.detach().clone() for p in ps]


COMPLEX = [*TORCHS, (oc.RAdam, torch.optim.RAdam, dict(eps=1e-16)),
           (partial(oc.RMSProp, divide_first=True), torch.optim.RMSprop, dict(momentum=0.9, eps=1e-3))]


@pytest.mark.filterwarnings('ignore:Casting complex')
@pytest.mark.parametrize('ours, theirs, options', COMPLEX, ids=lambda o: getattr(o, '__name__', None))
@pytest.mark.parametrize('dtype', [torch.complex128, torch.complex64], ids=str)
def test_complex_parameters_are_torchs(ours, theirs, options, dtype, in_doubles):
    "Also where they go on from a state dict; their state is complex, as torch's is"
    want = theirs(complex_params(dtype), lr=0.05, **options)
    result = run_complex(want, 10)
    algo = partial(ours, **{k: v for k, v in want.defaults.items() if k in ('betas', 'momentum', 'nesterov', 'centered', 'eps', 'weight_decay')})
    for engine in ('auto', 'eager'):
        opt = algo(complex_params(dtype), lr=0.05, engine=engine)
        assert difference(run_complex(opt, 10), result) < (1e-12 if dtype == torch.complex128 else 5e-6)
    first = algo(complex_params(dtype), lr=0.05)
    run_complex(first, 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    ps = [torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
          for p in first.param_groups[0]['params']]
    second = algo(ps, lr=0.05)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert difference(run_complex(second, 5, 5), result) < (1e-12 if dtype == torch.complex128 else 5e-6)
    for p, q in zip(ps, want.param_groups[0]['params']):
        mine, theirs = ([v for k, v in opt.state[p].items() if isinstance(v, torch.Tensor) and k not in ('step', 'mu_product')] for opt, p in ((second, p), (want, q)))
        assert len(mine) == len(theirs) and all(v.shape == p.shape and v.dtype == p.dtype
                                                for v in (*mine, *theirs) if dtype == torch.complex128)
    assert str(second.explain())


def test_complex_state_keeps_its_memory_and_may_be_real():
    "State from before it was complex is taken, what is summed over all is, too"
    def clip_norm(p, max_norm=1.):
        total = yield p.grad.pow(2).sum()
        p.grad = p.grad * (max_norm / total.sqrt()).clamp(max=1)
    p, q = (torch.nn.Parameter(torch.tensor([1+2j, 3-1j], dtype=torch.complex128)) for _ in range(2))
    opt = Optimizer([p], [clip_norm, average_grad, momentum_step], lr=0.1, mom=0.9)
    want = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for i in range(4):
        p.grad, q.grad = (torch.tensor([1j, 2-1j], dtype=torch.complex128)*(i+1) for _ in range(2))
        torch.nn.utils.clip_grad_norm_([q], 1.)
        opt.step(), want.step()
        if i == 2: opt.state[p]['grad_avg'] = torch.view_as_real(opt.state[p]['grad_avg']).clone()
        if i == 0: avg = opt.state[p]['grad_avg']
        if i == 1: assert opt.state[p]['grad_avg'] is avg
    assert torch.allclose(p, q, rtol=1e-5) and torch.allclose(opt.state[p]['grad_avg'],
                                                              want.state[q]['momentum_buffer'], rtol=1e-5)


@pytest.mark.parametrize('engine', ['eager', 'auto'])
def test_a_group_that_is_replaced_by_a_dict(engine):
    "torch's names in it are heard at the next step"
    one, other = oc.Adam(params(), lr=0.1, engine=engine), oc.Adam(params(), lr=0.1, betas=(0.5, 0.7), engine=engine)
    one.param_groups[0] = {**one.param_groups[0], 'betas': (0.5, 0.7)}
    assert difference(run(one), run(other)) == 0 and one.param_groups[0]['betas'] == (0.5, 0.7)


@pytest.mark.parametrize('algo, names', [(oc.Adan, ('mom', 'diff_mom', 'sqr_mom')), (oc.AdEMAMix, ('mom', 'sqr_mom', 'slow_mom')),
                                         (oc.AdaMod, ('mom', 'sqr_mom', 'rate_mom'))], ids=lambda o: getattr(o, '__name__', ''))
def test_betas_are_in_the_order_of_a_rules_paper(algo, names):
    opt = algo(params(), lr=0.1, betas=(0.5, 0.6, 0.7))
    g = opt.param_groups[0]
    assert tuple(g[k] for k in names) == (0.5, 0.6, 0.7) == g['betas'] == opt.defaults['betas']
    for wrong in ((0.9, 0.99), (0.9,)*4):
        with pytest.raises(ValueError, match='`betas` must have 3 values'): algo(params(), lr=0.1, betas=wrong)
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=10, base_momentum=0.8)
    assert g['mom'] == 0.95 and g['betas'][1:] == (0.6, 0.7)


def test_ademamix_has_its_authors_alpha():
    opt = oc.AdEMAMix(params(), lr=0.1, alpha=0.5)
    assert opt.hypers[0]['slow_weight'] == 0.5 == opt.param_groups[0]['alpha'] and opt.hypers[0]['sqr_mom'] == 0.999
