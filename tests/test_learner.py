"Every way in which a fastai Learner uses an optimizer works, and gives the numbers that fastai's own gives."
import copy
import subprocess
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import optimcb as oc

pytest.importorskip('fastai')
sklearn_datasets = pytest.importorskip('sklearn.datasets')

import fastai.callback.hook  # noqa: E402, F401
import fastai.optimizer as fo  # noqa: E402
from fastai.callback.core import Callback  # noqa: E402
from fastai.callback.fp16 import ModelToHalf, NonNativeMixedPrecision  # noqa: E402
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin  # noqa: E402
from fastai.callback.tracker import ReduceLROnPlateau, SaveModelCallback  # noqa: E402
from fastai.callback.training import GradientAccumulation, GradientClip  # noqa: E402
from fastai.data.core import DataLoaders  # noqa: E402
from fastai.learner import Learner, load_learner  # noqa: E402
from fastai.metrics import accuracy  # noqa: E402
from fastai.torch_core import params, set_seed  # noqa: E402
from fastcore.foundation import L  # noqa: E402

from optimcb.learner import OptStatsCallback, SAMCallback, ZeroInStepCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')

X, Y = sklearn_datasets.load_digits(return_X_y=True)
DIGITS = list(zip(torch.tensor(X/16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(Y)))


class Digits(list):
    "A data set that can be exported"
    def new_empty(self): return Digits()


def body():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
                         nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
def head(): return nn.Sequential(nn.Linear(128, 10))
def three_groups(m): return [params(m[0][:3]), params(m[0][3:]), params(m[1])]


def learner(opt_func, path, model=None, **kwargs):
    set_seed(42, reproducible=True)
    dls = DataLoaders.from_dsets(Digits(DIGITS[:320]), Digits(DIGITS[320:420]), bs=32, num_workers=0, device='cpu')
    learn = Learner(dls, model or nn.Sequential(body(), head()), metrics=accuracy, opt_func=opt_func, path=path,
                    **{'loss_func': F.cross_entropy, 'splitter': three_groups, **kwargs})
    learn.remove_cbs(learn.cbs.filter(lambda cb: cb.name == 'progress'))
    learn.logger = print
    return learn


class Record:
    "Trains, and keeps what fastai records and where the parameters end"
    def __init__(self, opt_func, way, path, **kwargs):
        path.mkdir(parents=True)
        learn = learner(opt_func, path, **kwargs)
        self.losses = []
        learn = way(learn, self.note) or learn
        self.note(learn)
        self.learn, self.opt, self.weights = learn, learn.opt, [p.detach() for p in learn.model.parameters()]

    def note(self, learn):
        if not hasattr(learn.recorder, 'losses'): return
        self.losses += [*map(float, learn.recorder.losses),
                        *(float(v) for row in learn.recorder.values for v in row if v is not None)]


def same(way, tmp_path, ours=oc.Adam, theirs=fo.Adam, exact=True, **kwargs):
    a, b = Record(partial(ours, engine='eager'), way, tmp_path/'ours', **kwargs), Record(theirs, way, tmp_path/'theirs', **kwargs)
    assert isinstance(a.opt, oc.Optimizer) and len(a.losses) == len(b.losses) > 5
    assert a.losses == pytest.approx(b.losses, rel=1e-6, nan_ok=True)
    if exact: assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights))
    return a


def lookahead(m): return lambda ps, lr, **kwargs: m.Lookahead(m.SGD(ps, lr=lr, mom=0.9, **kwargs), k=3)
def radam(m): return partial(m.RAdam, beta=50.)
def larc(m): return partial(m.Larc, clip=False)
def momentum(m): return partial(m.SGD, mom=0.9)
def adam_l2(m): return partial(m.Adam, wd=0.1, decouple_wd=False)
def rmsprop(m): return partial(m.RMSProp, mom=0.9)


@pytest.mark.parametrize('make', ['SGD', 'RMSProp', 'Adam', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'ranger', lookahead, momentum, adam_l2, rmsprop, radam, larc],
                         ids=lambda o: getattr(o, '__name__', o))
def test_losses_of_each_algorithm_equal_fastais(make, tmp_path):
    get = (lambda m: getattr(m, make)) if isinstance(make, str) else make
    same(lambda learn, note: learn.fit_one_cycle(2, 1e-2), tmp_path, get(oc), get(fo))


def test_vision_learner_on_a_resnet(tmp_path):
    "Rounding that differs anywhere would show here: it grows a thousandfold"
    from torchvision.models import resnet18
    model = lambda: nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(1, 3, 1), resnet18(num_classes=10)) # noqa: E731
    runs = [Record(f, lambda learn, note: learn.fit_one_cycle(1, 1e-2), tmp_path/n, model=(set_seed(0), model())[1], splitter=params)
            for f, n in ((partial(oc.Adam, engine='eager'), 'ours'), (fo.Adam, 'theirs'))]
    assert runs[0].losses == runs[1].losses


# Ways of training

def fit(learn, note): learn.fit(2, 1e-2)
def fit_wd(learn, note): learn.fit(1, slice(1e-4, 1e-2), wd=0.3)
def one_cycle(learn, note): learn.fit_one_cycle(1, slice(1e-4, 1e-2))
def one_cycle_without_momentum(learn, note): learn.fit_one_cycle(1, 1e-2, moms=(0, 0, 0))
def flat_cos(learn, note): learn.fit_flat_cos(1, 1e-2)
def sgdr(learn, note): learn.fit_sgdr(2, 1, 1e-2)
def fine_tune(learn, note): learn.fine_tune(1, 1e-2)

def find_lr(learn, note):
    found = learn.lr_find(show_plot=False, num_it=30)
    note(learn)
    learn.fit(1, found.valley)

def freeze_and_unfreeze(learn, note):
    learn.freeze(); learn.fit(1, 1e-2); note(learn) # noqa: E702
    learn.freeze_to(1); learn.fit(1, 1e-2); note(learn) # noqa: E702
    learn.unfreeze(); learn.fit(1, slice(1e-3)) # noqa: E702

def save_and_load(learn, note):
    learn.fit_one_cycle(1, 1e-2)
    note(learn)
    learn.save('here')
    with warnings.catch_warnings():
        warnings.simplefilter('error') # fastai makes a warning of any error in `load_state_dict`
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        learn.load('here', with_opt=True)
    learn.fit(1, 1e-3)

def load_into_new(learn, note):
    learn.fit_one_cycle(1, 1e-2)
    note(learn)
    learn.save('here')
    new = learner(learn.opt_func, learn.path)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='Could not load')
        new.load('here', with_opt=True)
    new.fit(1, 1e-3)
    return new

def export_and_go_on(learn, note):
    learn.fit(1, 1e-2)
    note(learn)
    learn.export('learner.pkl')
    loaded = load_learner(learn.path/'learner.pkl')
    assert torch.equal(loaded.get_preds(dl=learn.dls.valid)[0], learn.get_preds(dl=learn.dls.valid)[0])
    learn.fit(1, 1e-3)

def copied(learn, note):
    learn.fit(1, 1e-2)
    note(learn)
    other = copy.deepcopy(learn)
    set_seed(1)
    learn.fit(1, 1e-3)
    kept = [p.detach().clone() for p in learn.model.parameters()]
    set_seed(1)
    other.fit(1, 1e-3)
    assert other.opt.hypers[0]['lr'] == 1e-3 and len(kept) == len(list(other.model.parameters()))
    return other

def reset(learn, note):
    learn.fit(1, 1e-2)
    note(learn)
    learn.fit_one_cycle(1, 1e-2, reset_opt=True)

def plateau(learn, note):
    learn.fit(3, 1e-2, cbs=ReduceLROnPlateau(patience=0, min_delta=10., factor=10.))
    assert learn.opt.hypers[-1]['lr'] == pytest.approx(1e-4) == learn.opt.hypers[0]['lr']

def best_is_saved(learn, note): learn.fit(2, 1e-2, cbs=SaveModelCallback(with_opt=True))
def accumulated(learn, note): learn.fit(1, 1e-2, cbs=GradientAccumulation(64))
def clipped(learn, note): learn.fit_one_cycle(1, 1e-2, cbs=GradientClip(0.1))
def fp16(learn, note): learn.to_fp16().fit_one_cycle(1, 1e-2)
def bf16(learn, note): learn.to_bf16().fit_one_cycle(1, 1e-2)
def fp16_with_all(learn, note):
    learn.to_fp16().fit_one_cycle(1, 1e-2, cbs=[GradientAccumulation(64), GradientClip(0.1)])

def schedules(learn, note):
    learn.fit(1, cbs=ParamScheduler({'lr': SchedCos(1e-2, 1e-4), 'wd': SchedLin(0., 0.3), 'sqr_mom': SchedLin(0.9, 0.99), 'eps': SchedLin(1e-3, 1e-5)}))
    assert learn.recorder.hps['wd'] == pytest.approx(list(np.arange(10)/10*0.3))

def summary(learn, note):
    learn.fit(1, 1e-2)
    note(learn)
    learn.freeze_to(2)
    assert 'frozen up to parameter group #2' in str(learn.summary()) and repr(learn.opt_func) in str(learn.summary())


ways = [fit, fit_wd, one_cycle, one_cycle_without_momentum, flat_cos, sgdr, fine_tune, find_lr, freeze_and_unfreeze, save_and_load, load_into_new,
        export_and_go_on, copied, reset, plateau, best_is_saved, accumulated, clipped, fp16, bf16, fp16_with_all, schedules, summary]


@pytest.mark.parametrize('way', ways, ids=lambda f: f.__name__)
def test_every_way_of_training(way, tmp_path): same(way, tmp_path)


@pytest.mark.parametrize('way', [fine_tune, freeze_and_unfreeze, find_lr, save_and_load], ids=lambda f: f.__name__)
def test_lookahead_too(way, tmp_path): same(way, tmp_path, lookahead(oc), lookahead(fo))


@pytest.mark.parametrize('options', [dict(wd_bn_bias=True, wd=0.3), dict(wd_bn_bias=False, wd=0.3), dict(train_bn=False), dict(moms=(0.8, 0.7, 0.8))], ids=str)
def test_options_of_the_learner(options, tmp_path):
    def way(learn, note):
        learn.freeze()
        learn.fit_one_cycle(1, 1e-2)
    a = same(way, tmp_path, **options)
    flags = [a.opt.state[p] for p in a.learn.model[0][1].parameters()]
    assert all(('do_wd' in s) != options.get('wd_bn_bias', False)
               and ('force_train' in s) == options.get('train_bn', True) for s in flags)


def test_a_partial_that_carries_the_learning_rate(tmp_path):
    a = same(lambda learn, note: learn.fit(1), tmp_path, partial(oc.Adam, lr=0.02), partial(fo.Adam, lr=0.02))
    assert a.learn.lr == 0.02 == a.opt.hypers[0]['lr']


def test_steppers_of_ones_own_in_a_learner(tmp_path):
    from test_optimizer import (
        average_square_grad,
        book_average_grad,
        book_momentum_step,
        book_rms_prop_step,
        sgd_cb,
    )
    with_defaults = partial(Optimizer := oc.Optimizer, cbs=[average_square_grad, book_rms_prop_step],
                            square_mom=0.99, eps=1e-8)
    for i, (ours, theirs) in enumerate([
            (partial(Optimizer, cbs=[sgd_cb]), partial(fo.Optimizer, cbs=[sgd_cb])), (with_defaults, partial(fo.Optimizer, **with_defaults.keywords)),
            (partial(Optimizer, cbs=(momentum := [book_average_grad, book_momentum_step]), mom=0.9), partial(fo.Optimizer, cbs=momentum, mom=0.9))]):
        for way in (one_cycle, save_and_load, export_and_go_on, find_lr):
            same(way, tmp_path/f'{i}{way.__name__}', ours, theirs)


def sharpened(p, lr, power, grad_avg, limit=2.):
    p.data.sub_(lr * grad_avg.sign() * grad_avg.abs().clamp(max=limit).pow(power))


def hypers_by_hand(learn, n_steps, **sched):
    "Train as a Learner does, and set hyper-parameters before each step"
    opt, i = learn.opt, 0
    for xb, yb in learn.dls.train:
        opt.set_hypers(**{k: f(i/n_steps) for k, f in sched.items()})
        learn.loss_func(learn.model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
        i += 1


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_any_hyper_parameter_of_a_stepper_of_ones_own_is_scheduled(engine, tmp_path):
    "`power` has no default and `limit` has one: both take what fastai's schedules say, and what is set by hand gives the same weights"
    sched = {'lr': SchedCos(1e-2, 1e-3), 'power': SchedCos(0.5, 1.), 'limit': SchedLin(2., 0.1),
             'mom': SchedCos(0.95, 0.8)}
    func = partial(oc.Optimizer, cbs=[oc.average_grad, sharpened], power=1., mom=0.9, engine=engine)
    a, b = (learner(func, tmp_path/n) for n in 'ab')
    n_steps = len(a.dls.train)
    set_seed(7)
    a.fit(1, cbs=ParamScheduler(sched))
    assert a.recorder.hps['power'] == [pytest.approx(sched['power'](i/n_steps))
                                       for i in range(n_steps)] and a.opt.hypers[0]['limit'] < 0.5
    assert engine == 'eager' or len(a.opt._running.programs) <= 2
    set_seed(7)
    b.create_opt()
    b.model.train()
    hypers_by_hand(b, n_steps, **sched)
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters()))


@pytest.mark.parametrize('way', [one_cycle, flat_cos, sgdr, find_lr], ids=lambda f: f.__name__)
def test_schedules_of_fastai_on_the_fused_engine_compile_once(way, tmp_path):
    "Learning rate and momentum change in each step; `lr_find` loads its state and goes on with the same kernels"
    ours = Record(partial(oc.Optimizer, cbs=[oc.average_grad, sharpened], power=1., mom=0.9, engine='fused'),
                  way, tmp_path/'fused')
    eager = Record(partial(oc.Optimizer, cbs=[oc.average_grad, sharpened], power=1., mom=0.9, engine='eager'),
                   way, tmp_path/'eager')
    assert ours.losses[:20] == pytest.approx(eager.losses[:20], rel=1e-3) and len(ours.losses) == len(eager.losses)
    assert len(ours.opt._running.programs) <= 2


def test_non_native_mixed_precision(tmp_path):
    "fastai asks for a GPU here by the name of the device only: 16-bit parameters train on the CPU too"
    def way(learn, note):
        learn.fit(1, 1e-2)
        note(learn)
        mixed = NonNativeMixedPrecision(loss_scale=8, dynamic=False)
        mixed.dls = SimpleNamespace(device=SimpleNamespace(type='cuda'))
        learn.add_cbs([ModelToHalf(), mixed]).fit(1, 1e-3)
        assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    mlp = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10))
    two = lambda m: L(m[0], m[1]).map(params) # noqa: E731
    runs = [Record(f, way, tmp_path/n, model=copy.deepcopy(mlp), splitter=two)
            for f, n in ((partial(oc.Adam, engine='eager'), 'ours'), (fo.Adam, 'theirs'))]
    assert runs[0].losses == runs[1].losses and len(runs[0].losses) > 20
    assert all(torch.equal(x, y) for x, y in zip(runs[0].weights, runs[1].weights))
    assert set(runs[0].opt.state) == set(runs[0].learn.model.parameters())


@pytest.mark.parametrize('algo', [oc.Adam, oc.Lamb, oc.ranger], ids=lambda f: f.__name__)
def test_the_fused_engine_in_a_learner(algo, tmp_path):
    "Not to the bit: differences of an ulp grow in training"
    def way(learn, note):
        learn.freeze()
        learn.fit(1, 1e-3)
        learn.unfreeze()
        learn.fit_one_cycle(1, slice(1e-4, 1e-3))
    linear = lambda: nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), nn.Linear(32, 10)) # noqa: E731
    runs = [Record(partial(algo, engine=e), way, tmp_path/e, model=(set_seed(0), linear())[1], splitter=lambda m: [params(m[0]), params(m[1])])
            for e in ('fused', 'eager')]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=1e-4) and len(runs[0].losses) > 10
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(runs[0].weights, runs[1].weights))


# Names of the model

NAMES = ['0.0.weight', '0.0.bias', '0.1.weight', '0.1.bias', '0.3.weight', '0.3.bias', '0.4.weight',
         '0.4.bias', '1.0.weight', '1.0.bias']
def names_of(opt): return [k for g in opt.param_groups for k in g.get('param_names', ())]


@pytest.mark.parametrize('make', [oc.Adam, lookahead(oc), oc.ranger, lambda ps, lr: oc.SAM(oc.SGD(ps, lr=lr)), partial(oc.Optimizer, cbs=oc.sgd_step)],
                         ids=['Adam', 'Lookahead', 'ranger', 'SAM', 'partial'])
def test_parameters_have_the_names_of_the_model(make, tmp_path):
    learn = learner(make, tmp_path)
    learn.create_opt()
    assert names_of(learn.opt) == NAMES and [len(g['param_names']) for g in learn.opt.param_groups] == [4, 4, 2]
    known = dict(learn.model.named_parameters())
    assert all(known[k] is p for g in learn.opt.param_groups for k, p in zip(g['param_names'], g['params']))
    assert list(oc.named_state(learn.opt)) == NAMES
    where = [line for line in str(learn.opt.explain()).splitlines() if line.strip().startswith('do_wd')]
    if make is oc.Adam: assert '0.0.bias, 0.1.weight, 0.1.bias, …' in where[0]
    assert "    param_names: ['1.0.weight', '1.0.bias']" in repr(learn.opt) and max(map(len, repr(learn.opt).splitlines()[2:])) < 82
    assert oc.Adam([nn.Parameter(torch.ones(2))], lr=0.1).param_groups[0].keys().isdisjoint({'param_names'}) # outside of a Learner


@pytest.mark.parametrize('first', ['fastai.learner', 'optimcb', 'fastai.data.all'])
def test_names_are_there_whatever_is_imported_first(first):
    code = f'''
import sys, importlib
importlib.import_module({first!r})
import optimcb as oc
assert ('fastai.learner' in sys.modules) == ({first!r} == 'fastai.learner')
from fastai.learner import Learner
import torch
from torch import nn
from fastai.data.core import DataLoaders
rows = [(torch.ones(2), torch.ones(1))]*4
by_names = oc.route(weights=(oc.SGD, oc.by_name('*.weight')), rest=oc.Adam)
dls = DataLoaders.from_dsets(rows, rows, bs=2, num_workers=0, device='cpu')
learn = Learner(dls, nn.Sequential(nn.Linear(2, 1)), loss_func=nn.MSELoss(), opt_func=by_names)
learn.create_opt()
assert learn.opt.param_groups[0]['param_names'] == ['0.weight', '0.bias']
assert Learner.create_opt.__doc__ and not any(type(o).__module__ == 'optimcb.state.learner_names' for o in sys.meta_path)
'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rules_by_name_in_a_learner(tmp_path):
    "As those that are told the model"
    def way(opt_func):
        return Record(partial(opt_func, engine='eager'), lambda learn, note: learn.fit_one_cycle(1, 1e-2),
                      tmp_path/opt_func.__name__)
    two = way(oc.route('by_names', head=(oc.SGD, oc.by_name('1.*')), rest=oc.Adam))
    def of_model(ps, lr, engine):
        ps = [list(o) for o in ps]
        return oc.route(head=(oc.SGD, oc.by_shape(head_shape)), rest=oc.Adam)(ps, lr=lr, engine=engine)
    def head_shape(shape): return shape in ((10, 128), (10,))
    expected = way(of_model)
    assert two.losses == expected.losses and all(map(torch.equal, two.weights, expected.weights))
    assert 'route head: 1.0.weight, 1.0.bias' in repr(two.opt) and '1.0.weight, 1.0.bias' in str(two.opt.explain())
    only = learner(partial(oc.Optimizer, cbs=[oc.only(oc.weight_decay, ~oc.by_name('*.bias')), oc.sgd_step],
                           wd=0.1), tmp_path)
    only.fit(1, 1e-2)
    assert oc.no_wd(only.opt, oc.by_name('1.0.*')) is only.opt


class WithLoss(nn.Module):
    "A loss with a parameter of its own"
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, pred, y): return F.cross_entropy(pred*self.scale, y)


def test_parameters_of_a_loss_and_of_nobody(tmp_path):
    loss, alone = WithLoss(), nn.Parameter(torch.ones(3))
    learn = learner(oc.Adam, tmp_path, loss_func=loss, splitter=lambda m: [params(m), list(loss.parameters())])
    learn.fit(1, 1e-3)
    assert names_of(learn.opt) == [*NAMES, 'loss_func.scale']
    learn = learner(oc.Adam, tmp_path, splitter=lambda m: [params(m), [alone]])
    learn.fit(1, 1e-3)
    assert names_of(learn.opt) == [] # all have names, or none


@pytest.mark.parametrize('saved, loaded', [(True, False), (False, True), (True, True)], ids=str)
def test_runs_with_and_without_names_go_on_from_each_other(saved, loaded, tmp_path):
    def way(with_names):
        learn = learner(partial(oc.Adam, engine='eager'), tmp_path)
        learn.create_opt()
        if not with_names:
            for g in learn.opt.param_groups: del g['param_names']
        return learn
    one = way(saved)
    one.fit_one_cycle(1, 1e-2)
    one.save('here')
    other = way(loaded)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', category=FutureWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        other.load('here', with_opt=True)
    assert names_of(other.opt) == (NAMES if saved or loaded else [])
    batch = one.dls.train.one_batch()
    for o in (one, other):
        o.model.train()
        F.cross_entropy(o.model(batch[0]), batch[1]).backward()
        o.opt.step()
    assert all(map(torch.equal, one.model.parameters(),
                   other.model.parameters())) and other.opt.state[other.model[1][0].bias]['step'] == 11


def test_a_group_is_added_without_a_name(tmp_path):
    learn = learner(oc.Adam, tmp_path)
    learn.create_opt()
    learn.opt.add_param_group({'params': [nn.Parameter(torch.ones(3))]})
    assert names_of(learn.opt) == [] and len(learn.opt.param_groups) == 4


def test_a_named_algorithm_in_a_learner(tmp_path):
    "Exported, too"
    named = oc.algorithm('Sharpened', [oc.average_grad, sharpened], power=1., mom=0.9)
    for i, way in enumerate((one_cycle, save_and_load, export_and_go_on, find_lr, summary)):
        runs = [Record(partial(f, engine='eager'), way, tmp_path/f'{i}{n}')
                for n, f in (('named', named), ('plain', partial(oc.Optimizer, cbs=[oc.average_grad, sharpened], power=1., mom=0.9)))]
        assert runs[0].losses == runs[1].losses and all(map(torch.equal, runs[0].weights, runs[1].weights))
    learn = learner(oc.algorithm('Mine', [oc.sgd_step], lr=0.05), tmp_path)
    learn.fit(1)
    assert learn.lr == 0.05 == learn.opt.hypers[0]['lr']


# Gradients that the step zeroes

class SeesGrads(Callback):
    "What is in the gradients before and after each step"
    def __init__(self): self.before, self.after = [], []
    def before_step(self):
        self.before.append(any(p.grad.any().item() for p in self.model.parameters() if p.grad is not None))
    def after_step(self):
        self.after.append(any(p.grad.any().item() for p in self.model.parameters() if p.grad is not None))

def with_zeros(way, tmp_path, **kwargs):
    "Trains with and without the option: the same losses and weights, to the bit. Returns the learner with it"
    runs = [Record(oc.Adam, partial(way, cbs=cbs), tmp_path/name, **kwargs)
            for name, cbs in (('with', [ZeroInStepCallback()]), ('without', []))]
    assert all(torch.equal(x, y) for x, y in zip(*(r.weights for r in runs))) and np.array_equal(*(r.losses for r in runs), equal_nan=True)
    return runs[0].learn

def test_a_step_zeroes_gradients(tmp_path):
    sees = SeesGrads()
    def way(learn, note, cbs):
        learn.fit_one_cycle(1, 0.01, cbs=[*cbs, *([sees] if cbs else [])])
        assert not learn.opt.zero_in_step
        learn.freeze()
        learn.fit(1, 0.01, cbs=cbs)
        learn.unfreeze()
        learn.fit(1, slice(1e-4, 1e-2), cbs=[*cbs, OptStatsCallback(), GradientClip(0.1)])
        assert np.isfinite(learn.opt_stats['grad_norm']).any() and (learn.opt_stats['grad_norm'] > 0).any()
    with_zeros(way, tmp_path)
    assert len(sees.before) == 10 and all(sees.before) and not any(sees.after)

def test_batches_that_are_added_up_before_a_step_that_zeroes(tmp_path):
    def way(learn, note, cbs): learn.fit(2, 0.01, cbs=[*cbs, GradientAccumulation(96)])
    with_zeros(way, tmp_path)

def test_other_ways_of_a_learner_with_steps_that_zero(tmp_path):
    def way(learn, note, cbs):
        learn.add_cbs(cbs)
        learn.lr_find(num_it=5, show_plot=False)
        learn.fit(1, 0.01, cbs=[SAMCallback()])
        class Broken(Callback):
            def after_batch(self):
                if self.training: raise KeyError('mine')
        with pytest.raises(KeyError, match='mine'): learn.fit(1, 0.01, cbs=[Broken()])
        learn.fit(1, 0.01)
        assert not learn.opt.zero_in_step
    with_zeros(way, tmp_path)

def test_steps_that_zero_are_of_our_optimizers(tmp_path):
    with pytest.raises(TypeError, match='ZeroInStepCallback sets'):
        learner(fo.Adam, tmp_path).fit(1, cbs=[ZeroInStepCallback()])
