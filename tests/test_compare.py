"One call trains with several optimizers: the numbers are those of training by hand, from the same weights, on the same batches."
import random
import subprocess
import sys
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import optimcb as oc
from optimcb.compare import Comparison, compare

pytest.importorskip('fastai')
matplotlib.use('Agg')

from fastai.callback.core import Callback, CancelFitException  # noqa: E402
from fastai.callback.schedule import fit_one_cycle  # noqa: E402, F401
from fastai.data.core import DataLoaders, TfmdDL  # noqa: E402
from fastai.learner import Learner  # noqa: E402
from fastai.metrics import mae  # noqa: E402
from fastai.optimizer import OptimWrapper  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402
from fasttransform import Transform  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
SGD, Adam = partial(oc.SGD, engine='eager'), partial(oc.Adam, engine='eager')


class Noise(Transform):
    "Augmentation that draws from all three generators"
    def encodes(self, x:torch.Tensor):
        return x + 0.1*torch.randn_like(x) + 0.1*random.random() + 0.1*np.random.rand() if x.is_floating_point() else x


def data(n=64, bs=16, num_workers=0, cls=TfmdDL, **kwargs):
    g = torch.Generator().manual_seed(42)
    x = torch.randn(n+32, 3, generator=g)
    items = list(zip(x, x@torch.tensor([[1.], [2.], [3.]]) + 0.1*torch.randn(n+32, 1, generator=g)))
    return DataLoaders(cls(items[:n], bs, shuffle=True, num_workers=num_workers, **kwargs),
                       cls(items[n:], bs, num_workers=num_workers), device='cpu')


DLS = data(after_batch=[Noise])


def learner(opt_func, dls=DLS, **kwargs):
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
    return Learner(dls, model, loss_func=nn.MSELoss(), opt_func=opt_func, metrics=mae, **kwargs)


def by_hand(opt_func, seed, fit=lambda learn: learn.fit_one_cycle(2, 0.1)):
    set_seed(seed, reproducible=True)
    learn = learner(opt_func)
    set_seed(seed, reproducible=True)
    for dl in learn.dls.loaders: dl.rng = random.Random(seed)
    losses = []
    class Keep(Callback):
        def after_batch(self): losses.extend([self.learn.loss.item()] if self.training else [])
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(Keep()): fit(learn)
    return losses, learn.recorder.values


def test_numbers_are_those_of_training_by_hand():
    torch.manual_seed(5); np.random.seed(5); random.seed(5) # noqa: E702
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5); np.random.seed(5); random.seed(5) # noqa: E702
    c = compare(learner, {'sgd': SGD, 'adam': Adam}, 2, seeds=[3, 1], lr_max=0.1)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert list(c.losses) == list(c.table.index) == ['sgd', 'adam'] and all(o.shape == (2, 8)
                                                                            for o in c.losses.values())
    assert list(c.runs) == ['opt', 'seed', 'epoch', 'train_loss', 'valid_loss', 'mae', 'seconds'] and len(c.runs) == 8
    for name, f in (('sgd', SGD), ('adam', Adam)):
        for i, seed in enumerate((3, 1)):
            losses, values = by_hand(f, seed)
            rows = c.runs[(c.runs.opt == name) & (c.runs.seed == seed)]
            assert c.losses[name][i].tolist() == losses and list(rows.epoch) == [0, 1]
            assert rows[['train_loss', 'valid_loss', 'mae']].to_numpy().tolist() == [list(v) for v in values]


@pytest.mark.parametrize('dls', [DLS, data(num_workers=1, after_item=[Noise]), data(cls=partial(torch.utils.data.DataLoader)),
                                 data(cls=partial(torch.utils.data.DataLoader, generator=torch.Generator()))],
                         ids=['fastai', 'workers', 'torch', 'torch with a generator'])
def test_all_see_the_same_weights_batches_and_augmentation(dls):
    seen = []
    class See(Callback):
        def before_batch(self): seen.append(self.x.sum().item() if self.training else 0.)
    c = compare(partial(learner, dls=dls, cbs=See), dict(a=SGD, b=SGD, c=Adam), 2, seeds=2, lr_max=0.1)
    assert np.array_equal(c.losses['a'], c.losses['b']) and not np.array_equal(c.losses['a'], c.losses['c'])
    assert (c.losses['a'][:, 0] == c.losses['c'][:, 0]).all() and c.losses['a'][0, 0] != c.losses['a'][1, 0]
    runs = np.array(seen).reshape(2, 3, -1)
    assert (runs == runs[:, :1]).all() and (runs[0] != runs[1]).any() and len(np.unique(runs[0, 0])) > 8


def test_the_table_is_of_the_last_epoch():
    c = compare(learner, {'sgd': SGD, 'adam': Adam, 'torch': partial(OptimWrapper, opt=torch.optim.Adam)}, 2,
                lr_max=0.1)
    for name in c.losses:
        last, row = c.runs[(c.runs.opt == name) & (c.runs.epoch == 1)], c.table.loc[name]
        for k in ('train_loss', 'valid_loss', 'mae'):
            assert len(last) == 3 and row[k] == pytest.approx(np.mean(last[k])) and 0 < row[f'{k}_sd'] == pytest.approx(np.std(last[k], ddof=1))
        assert row.seconds == c.runs[c.runs.opt == name].seconds.median() > 0 and row.diverged == 0
    assert list(c.table.state_bytes) == pytest.approx([0, 8, 8 + 4*4/41]) # torch's steps are tensors, one for each of 4 parameters
    assert list(c.table)[-3:] == ['seconds', 'diverged', 'state_bytes']
    assert ' ± ' in repr(c) and '<table' in c._repr_html_() and 'mae_sd' not in repr(c)
    assert '±' not in repr(compare(learner, [SGD], seeds=[7], lr_max=0.1))


def test_names_rates_and_arguments_of_their_own():
    fast = partial(SGD, lr=0.2)
    c = compare(learner, [SGD, fast, oc.Adam, oc.ranger], 2, seeds=1)
    assert list(c.losses) == ["SGD(engine=eager)", "SGD(engine=eager, lr=0.2)", 'Adam', 'ranger']
    assert c.losses['SGD(engine=eager, lr=0.2)'][0].tolist() == by_hand(fast, 0, lambda learn: learn.fit_one_cycle(2))[0]
    own = compare(learner, dict(a=SGD, b=(SGD, dict(lr_max=0.05, wd=0.1)), c=(SGD, {})), 2, 1, lr_max=0.1, wd=0.)
    for name, lr, wd in (('a', 0.1, 0.), ('b', 0.05, 0.1), ('c', 0.1, 0.)):
        assert own.losses[name][0].tolist() == by_hand(SGD, 0,
                                                       lambda learn, lr=lr, wd=wd: learn.fit_one_cycle(2, lr, wd=wd))[0]


def test_ways_of_fitting():
    def after_lr_find(learn, n_epoch, num_it):
        learn.lr_find(num_it=num_it, show_plot=False)
        learn.fit(n_epoch, 0.1)
    for fit, kwargs, epochs in (('fit', dict(lr=0.1), 2), ('fine_tune', {}, 3),
                                (after_lr_find, dict(num_it=6), 2), (lambda learn, n: learn.fit(n), {}, 2)):
        splitter = lambda m: [list(m[0].parameters()), list(m[3].parameters())] # noqa: E731
        c = compare(partial(learner, splitter=splitter), {'adam': Adam}, 2, seeds=1, fit=fit, **kwargs)
        assert c.losses['adam'].shape == (1, 4*epochs) and list(c.runs.epoch) == list(range(epochs))


def test_quiet(capsys):
    compare(learner, [SGD], seeds=1, lr_max=0.1)
    assert capsys.readouterr() == ('', '')
    compare(learner, [SGD], seeds=1, lr_max=0.1, progress=True)
    assert '100' in capsys.readouterr().out


class Stop(Callback):
    "Ends training at the first loss that is not finite, as fastai's `TerminateOnNaNCallback` does"
    def after_batch(self):
        if not torch.isfinite(self.loss): raise CancelFitException


@pytest.mark.parametrize('cbs', [None, Stop], ids=['to the end', 'stopped'])
def test_runs_that_diverge_are_counted(cbs):
    def mixed(ps, lr): return SGD(ps, lr=0.1 if torch.initial_seed() == 1 else 1e30)
    def fit(learn, n_epoch):
        learn.create_opt()
        learn.fit(n_epoch, learn.opt.hypers[0]['lr'])
    c = compare(partial(learner, cbs=cbs, lr=0.1), dict(good=SGD, bad=partial(SGD, lr=1e30), mixed=mixed), 2,
                seeds=2, fit=fit)
    assert list(c.table.diverged) == [0, 2, 1] and list(c.table.valid_loss.isna()) == [False, True, False]
    assert c.table.loc['mixed', 'valid_loss'] == c.runs[(c.runs.opt == 'mixed') & (c.runs.seed == 1)].valid_loss.iloc[-1]
    assert np.isnan(c.table.loc['mixed', 'valid_loss_sd']) and not np.isfinite(c.losses['mixed'][0]).all() and np.isfinite(c.losses['mixed'][1]).all()
    assert 'nan' in repr(c) and c.plot() and c.plot('valid_loss')


def test_all_diverge_at_once():
    c = compare(partial(learner, cbs=Stop), {'bad': partial(SGD, lr=1e30)}, 2, seeds=2, fit='fit')
    assert list(c.table.diverged) == [2] and len(c.runs) == 0 and '2' in repr(c)


def test_no_validation():
    dls = data()
    dls.loaders[1] = []
    c = compare(partial(learner, dls=dls), [SGD], seeds=2, lr_max=0.1)
    assert list(c.table.diverged) == [0] and 'valid_loss' not in c.table and c.table.train_loss.notna().all()


def test_plot():
    import matplotlib.pyplot as plt
    c = compare(learner, dict(sgd=SGD, adam=Adam), 2, seeds=2, lr_max=0.1)
    ax = c.plot()
    assert [o.get_label() for o in ax.lines] == ['sgd', 'adam'] and ax.lines[0].get_ydata() == pytest.approx(c.losses['sgd'].mean(0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('step', 'training loss')
    assert c.plot('mae', ax=(ax := plt.subplots()[1]), log=True) is ax and ax.get_yscale() == 'log' and (ax.get_xlabel(), ax.get_ylabel()) == ('epoch', 'mae')
    assert ax.lines[1].get_ydata() == pytest.approx(c.runs[c.runs.opt == 'adam'].groupby('epoch').mae.mean().to_numpy())
    with pytest.raises(ValueError, match=r"no `accuracy` to plot.*train_loss.*mae"): c.plot('accuracy')
    plt.close('all')


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_error_names_the_run_and_keeps_the_others(error):
    def breaks(ps, lr):
        if torch.initial_seed() == 1: raise error('it broke')
        return SGD(ps, lr=lr)
    state = torch.get_rng_state()
    with pytest.raises(error, match='it broke') as e:
        compare(learner, dict(good=SGD, breaks=breaks), 1, seeds=3, lr_max=0.1)
    said = ' '.join([str(e.value), *getattr(e.value, '__notes__', [])])
    assert "'breaks' with seed 1" in said and '3 of 6' in said and torch.equal(torch.get_rng_state(), state)
    assert isinstance(e.value.comparison, Comparison) and len(e.value.comparison.runs) == 3


LEARNERS = []
def old_learner(opt_func):
    if not LEARNERS: LEARNERS.append(learner(opt_func))
    return LEARNERS[0]


@pytest.mark.parametrize('args, says', [
    (dict(opt_funcs={}), "empty"), (dict(opt_funcs=[]), "empty"), (dict(opt_funcs=[SGD, SGD]), "more than one SGD.*Pass a dict"),
    (dict(opt_funcs=SGD), "must be a dict"), (dict(opt_funcs={'a': 3}), "'a'.* must be called"),
    (dict(opt_funcs={'a': (SGD, 0.1)}), "'a'.*pair of one and a dict"), (dict(seeds=0), "`seeds` must be how many, 1 or more"),
    (dict(seeds=[]), "`seeds` must be"), (dict(seeds=[1, 1]), "that differ"), (dict(fit='fit_one_cycles'), "no `fit_one_cycles`. Did you mean `fit_one_cycle`"),
    (dict(fit='forward'), "no `forward`"), (dict(make_learner=lambda f: f), "must return a Learner, but returned"), (dict(n_epoch=0), "no batch to train on"),
    (dict(lr=0.1), "`fit_one_cycle` has no `lr`. Did you mean `lr_max`"), (dict(opt_funcs={'a': (SGD, dict(pct_strat=0.1))}), "Did you mean `pct_start`"),
    (dict(fit='fit'), "`fit` has no `lr_max`. Did you mean `lr`"), (dict(fit=lambda learn, n: None), "has no `lr_max`. It has a Learner and the number of epochs only"),
    (dict(fit=lambda learn, n, lr_max, more: None), "missing a required argument: 'more'"),
    (dict(make_learner=old_learner, opt_funcs=dict(a=SGD, b=SGD)), "doesn't start as for the first.*inside of `make_learner`")], ids=lambda o: None)
def test_errors(args, says):
    with pytest.raises((ValueError, TypeError), match=says):
        compare(**{**dict(make_learner=learner, opt_funcs=[SGD], seeds=2, lr_max=0.1), **args})


def test_fastai_is_imported_when_needed():
    code = '''import sys; sys.modules['fastai'] = None
from optimcb.compare import compare
try: compare(None, [print])
except ImportError as e: print(e)'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "pip install 'optimcb[fastai]'" in done.stdout and not done.stderr
