"Averages of the weights equal torch's and published code's; they go into the model and come out of it to the bit, whatever happens meanwhile."
import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
from helpers import Rows, difference, params, set_grads
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn, update_bn
from zoo_averages import CASES

import optimcb as oc
from optimcb import (
    CompositionWarning,
    Optimizer,
    ema_weights,
    look_ahead,
    renamed,
    schedule_free,
    sgd_step,
    swa_weights,
)
from optimcb.composition.roles import part as part_of
from optimcb.editing.wrap import wrapped

ENGINES = ('eager', 'foreach', 'fused')
ema, swa = partial(ema_weights, ema_mom=0.8), partial(swa_weights, swa_start=2, swa_every=3)
RULES = {'sgd': partial(oc.SGD, mom=0.9), 'adam': oc.Adam, 'lamb': oc.Lamb, 'rmsprop': oc.RMSProp}
PARTS = {'ema': (ema, 'ema_avg'), 'swa': (swa, 'swa_avg'), 'lookahead': (look_ahead(), 'slow_avg'), 'free': (schedule_free(), None),
         'ema of lookahead': ([*look_ahead(), ema], 'ema_avg'), 'renamed': (renamed(ema_weights, ema_avg='mean', ema_mom='mean_mom'), 'mean')}


def made(ps, part, rule='sgd', engine='auto', **hypers):
    part = PARTS[part][0] if isinstance(part, str) else part
    return RULES[rule](ps, lr=0.05, engine=engine).edit(lambda cbs: wrapped(cbs, part))


def stepped(opt, n=7, start=0):
    ps = [p for g in opt.param_groups for p in g['params']]
    for i in range(start, start + n):
        set_grads(ps, i)
        opt.step()
    return opt


def bits(ps): return [p.detach().clone() for p in ps]
def same(a, b): return all(map(torch.equal, a, b))


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('case', CASES, ids=lambda c: c[0])
def test_equals_naive(case, engine):
    _, make, reference, *_ = case
    ps, qs = params(dtype=torch.float64), params(dtype=torch.float64)
    opt, other = make(ps, lr=0.02, engine=engine), reference(qs, lr=0.02)
    for i in range(50):
        for xs, o in ((ps, opt), (qs, other)):
            set_grads(xs, i, skip=() if i % 5 else (1,))
            o.step()
    assert difference(ps, qs) < 1e-12
    if 'x' in other.state[0]:
        with opt.averaged(): assert difference(ps, [s['x'] for s in other.state]) < 1e-12


@pytest.mark.parametrize('algo, theirs', [(oc.ScheduleFreeSGD, 'SGDScheduleFree'), (oc.ScheduleFreeAdamW, 'AdamWScheduleFree')])
def test_equals_the_authors_code(algo, theirs):
    theirs = getattr(pytest.importorskip('schedulefree'), theirs)
    ps, qs = params(dtype=torch.float64), params(dtype=torch.float64)
    a, b = algo(ps, lr=0.01, wd=0.1, warm_steps=7), theirs(qs, lr=0.01, weight_decay=0.1, warmup_steps=7)
    for turn in range(3):
        b.train()
        for i in range(10):
            for xs, o in ((ps, a), (qs, b)):
                set_grads(xs, 10*turn + i)
                o.step()
        b.eval()
        with a.averaged(): assert difference(ps, qs) < 1e-12


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('part, fn, start, every', [(partial(ema_weights, ema_mom=0.8), get_ema_avg_fn(0.8), 0, 1), (partial(ema_weights, ema_mom=0.8, ema_start=3, ema_every=2), get_ema_avg_fn(0.8), 3, 2),
                                                    (swa, get_swa_avg_fn(), 2, 3)], ids=['ema', 'ema late', 'swa'])
def test_means_are_torchs(rule, part, fn, start, every, engine):
    model = nn.ParameterList(params(dtype=torch.float64))
    opt, alone = made(list(model), part, rule, engine), params(dtype=torch.float64)
    plain, mean = RULES[rule](alone, lr=0.05, engine=engine), AveragedModel(model, avg_fn=fn)
    for i in range(12):
        stepped(opt, 1, i)
        stepped(plain, 1, i)
        if i+1 > start and (i+1) % every == 0: mean.update_parameters(model)
    assert same(model, alone) # the rule doesn't know
    with opt.averaged(): assert difference(list(model), list(mean.parameters())) < 1e-12


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('rule', ['sgd', 'lamb'])
@pytest.mark.parametrize('part', PARTS)
def test_in_and_out(part, rule, engine):
    ps = params()
    opt, straight = made(ps, part, rule, engine), made(qs := params(), part, rule, engine)
    for start in (0, 7):
        stepped(straight, 7, start)
        before, versions = bits(stepped(opt, 7, start).param_groups[0]['params']), [p._version for p in ps]
        opt.eval()
        inside = bits(ps)
        assert not any(map(torch.equal, before, inside)) and all(p._version > v for p, v in zip(ps, versions))
        if name := PARTS[part][1]: assert same(inside, [opt.state[p][name] for p in ps])
        opt.eval()
        assert same(ps, inside)
        with pytest.raises(RuntimeError, match='train()'): opt.step()
        with opt.averaged(): assert same(ps, inside)
        assert same(ps, inside) # it was so before
        opt.train()
        opt.train()
        assert same(ps, before) and same(ps, qs) and 'trained_weights' not in opt.state[ps[0]]


def clip(p, max_norm=0.5):
    total = yield p.grad.pow(2).sum()
    p.grad = p.grad * (max_norm/total.sqrt()).clamp(max=1)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('part', [*PARTS, 'clipped'])
def test_engines_agree(part, rule):
    part = [part_of('gradient')(clip), *schedule_free(), ema] if part == 'clipped' else part
    ends = []
    for engine in ENGINES:
        opt = stepped(made(ps := params(dtype=torch.float64), part, rule, engine), 12)
        opt.eval()
        ends.append([*bits(ps), *(opt.state[p]['trained_weights'] for p in ps)])
    assert difference(ends[1], ends[0]) < 1e-12 and difference(ends[2], ends[0]) < 1e-12


def test_combined_the_last_one_tells_unless_another_is_asked_for():
    opt = made(ps := params(), [*look_ahead(), ema, swa])
    stepped(opt, 1)
    with opt.averaged(): assert same(ps, [opt.state[p]['ema_avg'] for p in ps]) # there is no other mean yet
    stepped(opt, 3, 1)
    with opt.averaged(): assert same(ps, [opt.state[p]['swa_avg'] for p in ps])
    with opt.averaged('ema_weights'): assert same(ps, [opt.state[p]['ema_avg'] for p in ps])
    with opt.averaged(look_ahead()[1]): assert same(ps, [opt.state[p]['slow_avg'] for p in ps])
    with pytest.raises(ValueError, match='tells no weights'): opt.eval('momentum_step')
    with pytest.raises(ValueError, match='no stepper'): opt.eval('ema')
    opt.eval(ema_weights)
    with pytest.raises(ValueError, match='already'): opt.eval(swa_weights)
    with pytest.raises(ZeroDivisionError), opt.averaged(ema_weights): raise ZeroDivisionError
    opt.train()
    before = bits(ps)
    with pytest.raises(ZeroDivisionError), opt.averaged(): raise ZeroDivisionError
    assert same(ps, before)


def test_without_averages_nothing_happens():
    opt = stepped(oc.Adam(ps := params(), lr=0.1))
    before = bits(ps)
    opt.eval()
    assert same(ps, before) and 'evaluated' not in opt.param_groups[0]
    stepped(opt)
    early = made(qs := params(), 'ema')
    early.eval() # before the first step
    with pytest.raises(RuntimeError, match='train()'): stepped(early, 1)
    assert same(qs, params()) and not any(early.state[q] for q in qs)
    early.train()
    stepped(early, 1)


def test_parameters_without_an_average_stay():
    ps = params()
    opt = made(ps, 'free')
    for i in range(4):
        set_grads(ps, i, skip=(0, 2))
        opt.step()
    ps[1].requires_grad_(False)
    before = bits(ps)
    with opt.averaged(): assert [torch.equal(p, b) for p, b in zip(ps, before)] == [True, False, True, False]
    assert same(ps, before)


@pytest.mark.parametrize('way', ['state dict', 'torch.save', 'pickle', 'deepcopy', 'files', 'train meanwhile'])
@pytest.mark.parametrize('part', ['ema', 'free', 'lookahead'])
def test_saved_while_averages_are_in_the_model(part, way, tmp_path):
    ps = params()
    opt = stepped(made(ps, part))
    trained = bits(ps)
    opt.eval()
    inside = bits(ps)
    if way in ('pickle', 'deepcopy'):
        again = copy.deepcopy(opt) if way == 'deepcopy' else pickle.loads(pickle.dumps(opt))
        qs = again.param_groups[0]['params']
    else:
        qs = [nn.Parameter(p.detach().clone()) for p in ps] # as a model is saved
        again = made(qs, part)
        if way == 'files':
            for suffix in ('pt', 'safetensors'):
                if suffix == 'safetensors': pytest.importorskip('safetensors')
                oc.save_state(opt, tmp_path/f'run.{suffix}')
                oc.load_state(again, tmp_path/f'run.{suffix}')
        else:
            sd, f = opt.state_dict(), io.BytesIO()
            if way == 'torch.save':
                torch.save(sd, f)
                f.seek(0)
                sd = torch.load(f, weights_only=True)
            if way == 'train meanwhile': stepped(again, 2), again.eval()
            again.load_state_dict(sd)
            if way == 'train meanwhile':
                for p, q in zip(ps, qs): q.data.copy_(p)
    assert same(qs, inside)
    with pytest.raises(RuntimeError, match='train()'): again.step()
    again.train()
    opt.train()
    assert same(qs, trained) and same(ps, trained)
    stepped(opt, 4, 7)
    stepped(again, 4, 7)
    assert same(qs, ps)


def test_loaded_by_steppers_without_the_average():
    opt = stepped(made(ps := params(), 'ema'))
    trained = bits(ps)
    opt.eval()
    other = RULES['sgd'](ps, lr=0.05)
    with pytest.warns(UserWarning, match='other steppers'): other.load_state_dict(opt.state_dict())
    other.train()
    assert same(ps, trained)


def test_weights_that_were_loaded_meanwhile_stay():
    ps = params()
    opt = stepped(made(ps, 'ema'))
    trained = bits(ps)
    opt.eval()
    with torch.no_grad(): ps[0].zero_()
    with pytest.warns(UserWarning, match='1 parameters were changed'): opt.train()
    assert same(ps[1:], trained[1:]) and not ps[0].any()
    opt.eval()
    inside = bits(ps)
    opt.clear_state()
    assert same(ps, inside)
    stepped(opt)
    with torch.no_grad(): ps[0].zero_()
    opt.eval()
    sd = opt.state_dict()
    opt.load_state_dict(sd)
    opt.train() # what was loaded tells the weights
    assert not ps[0].any()


def test_step_in_backward_and_a_captured_step_are_refused_too():
    opt = stepped(made(ps := params(), 'free'))
    before = bits(ps)
    with oc.step_in_backward(opt):
        opt.eval()
        with pytest.raises(RuntimeError, match='train()'): sum(p.sum() for p in ps).backward()
        opt.train()
        assert same(ps, before)
        sum(p.sum() for p in ps).backward()
    assert not any(map(torch.equal, ps, before))
    opt.eval()
    with pytest.raises(RuntimeError, match='train()'): opt.before_replay()


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.complex64])
def test_other_numbers(dtype, engine):
    "Means of 16-bit weights are kept in 32; complex ones are pairs"
    for part in ('ema', 'swa', 'free', 'lookahead'):
        ps = [nn.Parameter(torch.randn(3, 4).to(dtype)), nn.Parameter(torch.randn(5).to(dtype))]
        opt = made(ps, part, engine='auto' if dtype.is_complex and engine != 'eager' else engine)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # kernels leave complex numbers to the eager engine
            for _ in range(9):
                for p in ps: p.grad = torch.randn_like(p)
                opt.step()
        before = bits(ps)
        with opt.averaged(): assert not any(map(torch.equal, ps, before)) and all(p.isfinite().all() for p in ps)
        assert same(ps, before)
        if part in ('ema', 'swa'):
            assert all(opt.state[p][f'{part}_avg'].dtype == torch.promote_types(dtype, torch.float32) for p in ps)


def test_a_slow_mean_of_16_bits_moves():
    p = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    opt = Optimizer([p], wrapped([sgd_step], ema_weights), lr=1.)
    for _ in range(200):
        p.grad = torch.full_like(p, -1.) if not p.any() else torch.zeros_like(p)
        opt.step()
    p.data.zero_()
    for _ in range(100): opt.step()
    assert opt.state[p]['ema_avg'][0].item() == pytest.approx(0.999**100, rel=1e-4)


def test_rows_of_an_embedding():
    emb = nn.Embedding(6, 2, sparse=True)
    start = emb.weight.detach().clone()
    for part in ('ema', 'free', 'lookahead'):
        with torch.no_grad(): emb.weight.copy_(start)
        opt = Optimizer(emb.parameters(), wrapped([sgd_step], PARTS[part][0]), lr=0.1, engine='eager')
        for rows in ([0, 1], [1, 2], [1, 0]):
            emb.weight.grad = None
            emb(torch.tensor(rows)).pow(2).sum().backward()
            opt.step()
        before = emb.weight.detach().clone()
        with opt.averaged(): inside = emb.weight.detach().clone()
        assert torch.equal(inside[3:], start[3:]) and torch.equal(emb.weight, before) and not torch.equal(inside[1], before[1])


@pytest.mark.parametrize('engine', ENGINES)
def test_a_momentum_that_changes_leaves_the_average_what_it_is(engine):
    ps = params(dtype=torch.float64)
    opt, z, x = oc.ScheduleFreeSGD(ps, lr=0.1, engine=engine), bits(ps), bits(ps)
    for i in range(9):
        set_grads(ps, i)
        opt.set_hyper('mom', 0.95 - 0.05*i)
        opt.step()
        for k, p in enumerate(ps):
            z[k] -= 0.1*p.grad
            x[k] += (z[k] - x[k])/(i+1)
    opt.set_hyper('mom', 0.1)
    with opt.averaged(): assert difference(ps, x) < 1e-12
    opt.set_hyper('mom', 0.)
    before = bits(ps)
    with pytest.raises((ValueError, RuntimeError), match='more than 0'): opt.step()
    assert same(ps, before)


def test_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(40, 3)*3 + 1
    def net(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model = net()
    opt = oc.ScheduleFreeAdamW(model.parameters(), lr=0.1)
    for b in x.split(8):
        opt.zero_grad()
        model(b).pow(2).mean().backward()
        opt.step()
    opt.eval()
    update_bn(x.split(40), model)
    assert torch.allclose(model[1].running_mean, model[0](x).mean(0), atol=1e-6)
    opt.train()


def test_options_have_one_home():
    ps = params()
    assert dict(oc.Lookahead(oc.SGD(ps, lr=0.1)).hypers[0]).items() >= dict(k=6, alpha=0.5).items() <= dict(oc.ranger(ps, 0.1).hypers[0]).items()
    assert made(ps, 'lookahead').composition.labels == oc.Lookahead(RULES['sgd'](ps, lr=0.1)).composition.labels
    with warnings.catch_warnings():
        warnings.simplefilter('error', CompositionWarning)
        for part in PARTS: made(ps, part)
    slow = stepped(oc.ranger(ps, 0.1), 7)
    with slow.averaged(): assert same(ps, slow.slow_weights[0])


# fastai

class Watch:
    "The weights that are in the model when something happens"
    def __init__(self, learn): self.learn, self.seen = learn, {}
    def __call__(self, event): self.seen.setdefault(event, []).append(bits(self.learn.model.parameters()))


@pytest.fixture
def make_learner(tmp_path):
    pytest.importorskip('fastai')
    import fastai.callback.schedule  # noqa: F401
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.torch_core import set_seed

    from optimcb.learner import AveragedWeights

    def make(opt_func, *cbs, n=24, **kwargs):
        set_seed(3, reproducible=True)
        x = torch.randn(n+8, 3)
        rows = list(zip(x, x.sum(1, keepdim=True).sin()))
        dls = DataLoaders.from_dsets(Rows(rows[:n]), Rows(rows[n:]), bs=8, num_workers=0, device='cpu')
        learn = Learner(dls, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)),
                        loss_func=nn.functional.mse_loss, opt_func=opt_func, path=tmp_path, lr=0.05, **kwargs)
        learn.remove_cbs(learn.cbs.filter(lambda cb: cb.name == 'progress'))
        learn.logger, watch = (lambda *_: None), Watch(learn)
        class See(Callback):
            order = 70
            def before_batch(self): watch('train' if self.training else 'valid')
            def after_epoch(self): watch('epoch')
        learn.add_cbs([See(), *cbs, *([AveragedWeights()] if not cbs else [])])
        return learn, watch.seen
    return make


def ema_sgd(ps, lr): return Optimizer(ps, wrapped([sgd_step], ema), lr=lr)
def means(learn): return [learn.opt.state[p]['ema_avg'] for p in learn.model.parameters()]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('opt_func', [ema_sgd, oc.ScheduleFreeAdamW, partial(oc.ranger, k=4)], ids=['ema', 'free', 'ranger'])
def test_learner_trains_as_without_and_validates_averages(opt_func, keep, make_learner):
    from optimcb.learner import AveragedWeights
    learn, seen = make_learner(opt_func, AveragedWeights(keep=keep))
    plain, without = make_learner(opt_func, AveragedWeights)
    plain.remove_cb(AveragedWeights)
    for o in (learn, plain):
        o.fit(2)
        o.fit_one_cycle(1, 0.1)
    assert len(seen['train']) == 9 and all(map(same, seen['train'], without['train']))
    assert all(map(same, seen['valid'], seen['epoch'])) and not any(map(same, seen['valid'], without['valid']))
    trained = bits(plain.model.parameters())
    assert same(learn.model.parameters(), trained) != keep
    with plain.opt.averaged(): inside = bits(plain.model.parameters())
    assert same(seen['valid'][-1], inside)
    loss = learn.validate()[0]
    preds = learn.get_preds()[0]
    assert same(seen['valid'][-1], inside) and same(learn.model.parameters(), inside if keep else trained)
    with plain.opt.averaged(): assert loss == plain.validate()[0] and torch.equal(preds, plain.get_preds()[0])


@pytest.mark.filterwarnings('ignore')
def test_learner_saves_loads_finds_a_rate_and_unfreezes(make_learner):
    from fastai.learner import load_learner
    learn, seen = make_learner(ema_sgd)
    learn.fit(1)
    inside, trained = bits(learn.model.parameters()), [learn.opt.state[p]['trained_weights'].clone()
                                                       for p in learn.model.parameters()]
    assert same(inside, means(learn)) and not any(map(torch.equal, inside, trained))
    learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)
    assert same(inside, learn.model.parameters()) and same(means(learn), inside)
    learn.save('it')
    learn.fit(1)
    assert same(seen['train'][-3], trained)
    after = bits(learn.model.parameters())
    other, theirs = make_learner(ema_sgd)
    other.create_opt()
    other.load('it')
    assert same(other.model.parameters(), inside)
    other.fit(1)
    assert same(theirs['train'][0], trained)
    learn.opt.zero_grad()
    learn.freeze() # clears the state
    learn.unfreeze()
    learn.fit(1)
    assert same(seen['train'][-3], after)
    learn.export('learner.pkl')
    exported = load_learner(learn.path/'learner.pkl')
    assert same(exported.model.parameters(), means(learn)) and same(learn.model.parameters(), means(learn))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('with_opt', [False, True])
def test_learner_keeps_the_best_averages(with_opt, make_learner):
    from fastai.callback.tracker import SaveModelCallback

    from optimcb.learner import AveragedWeights
    learn, seen = make_learner(ema_sgd, AveragedWeights())
    learn.fit(4, 0.9, cbs=SaveModelCallback(with_opt=with_opt))
    losses = [v[1] for v in learn.recorder.values]
    best = seen['epoch'][losses.index(min(losses))]
    assert same(learn.model.parameters(), best) and learn.validate()[0] == pytest.approx(min(losses))
    assert same(learn.model.parameters(), best)
    learn.fit(1, 0.)
    assert same(seen['train'][-3], best) != with_opt # with its optimizer, training goes on from the weights that were trained then
    assert 'trained_weights' in learn.opt.state[next(learn.model.parameters())]


@pytest.mark.filterwarnings('ignore')
def test_learner_is_broken_off(make_learner):
    from fastai.callback.core import Callback, CancelFitException

    from optimcb.learner import AveragedWeights
    class Stop(Callback):
        def __init__(self, error, at): self.error, self.at = error, at
        def after_batch(self):
            if self.training == (self.at == 'train'): raise self.error
    learn, seen = make_learner(ema_sgd)
    learn.fit(1, cbs=Stop(CancelFitException(), 'train'))
    assert same(learn.model.parameters(), means(learn)) # it ended
    for at in ('train', 'valid'):
        with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop(KeyboardInterrupt(), at))
        learn.validate()
        assert same(seen['valid'][-1], means(learn))
        learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, Stop)))
        learn.fit(1)
    with pytest.raises(KeyboardInterrupt): learn.validate(cbs=Stop(KeyboardInterrupt(), 'valid'))
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, Stop)))
    learn.fit(1)
    for opt_func, error in ((oc.Adam, ValueError), (None, TypeError)):
        from fastai.optimizer import SGD
        other, _ = make_learner(opt_func or SGD, AveragedWeights())
        with pytest.raises(error, match='averages|optimcb'): other.fit(1)
        other.validate()
