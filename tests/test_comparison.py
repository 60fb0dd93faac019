"What a comparison keeps in a file, goes on from, foresees, and says of differences."
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import optimcb as oc
from optimcb.compare import Comparison, compare, estimate_seconds
from optimcb.compare.runs_file import RunsFile

pytest.importorskip('fastai')

from scipy import stats  # noqa: E402
from test_compare import SGD, Adam, learner  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
OPTS = {'sgd': SGD, 'adam': Adam, 'wild': (SGD, {'lr_max': 1e30})}
FIGURES = 'train_loss', 'valid_loss', 'mae'


class Learners:
    "Makes Learners, and breaks at the one after `n`, as Ctrl-C does"
    def __init__(self, n=math.inf): self.n, self.made = n, 0
    def __call__(self, opt_func):
        if self.made == self.n: raise KeyboardInterrupt
        self.made += 1
        return learner(opt_func)


def train(make, **kwargs): return compare(make, OPTS, 2, **{'seeds': 2, 'lr_max': 0.1, **kwargs})


def same(a, b):
    assert list(a.losses) == list(b.losses) and all(np.array_equal(a.losses[k], b.losses[k], equal_nan=True) for k in a.losses)
    drop = lambda frame: frame.drop(columns='seconds') # noqa: E731
    assert drop(a.runs).equals(drop(b.runs)) and drop(a.table).equals(drop(b.table))


@pytest.mark.parametrize('n', [0, 1, 4, 5])
def test_a_comparison_goes_on_from_its_file_to_the_same_numbers(tmp_path, n):
    "Also with runs that diverged, whose numbers JSON doesn't know"
    file, whole = tmp_path/'runs.json', train(learner)
    with pytest.raises(KeyboardInterrupt) as e: train(Learners(n), file=file)
    assert file.exists() == (n > 0)
    if n: assert len(json.loads(file.read_text(), parse_constant=pytest.fail)['runs']) == n == len(e.value.comparison.losses['sgd'])*3 - (-n % 3)
    rest = Learners()
    same(train(rest, file=file), whole)
    assert rest.made == 6 - n
    none = Learners(0)
    same(train(none, file=file), whole)
    assert [o.name for o in tmp_path.iterdir()] == ['runs.json']


def test_a_file_takes_more_seeds_and_optimizers(tmp_path):
    file, made = tmp_path/'runs.json', Learners()
    compare(made, {'sgd': SGD}, 2, seeds=1, lr_max=0.1, file=file)
    same(train(made, file=file), train(learner))
    assert made.made == 6
    few = compare(made, {'adam': Adam}, 2, seeds=[1], lr_max=0.1, file=file)
    assert made.made == 6 and list(few.losses) == ['adam'] and set(few.runs.seed) == {1}


@pytest.mark.parametrize('kwargs, says', [
    (dict(n_epoch=3), "the runs in '.*' had another `n_epoch`: 2, not 3"), (dict(fit='fit'), "another `fit`: 'fit_one_cycle', not 'fit'"),
    (dict(settings={'size': 9}), "another `size`: 8, not 9"), (dict(settings={}), "another `size`: 8, not None"),
    (dict(lr_max=0.2), "the run of 'sgd' with seed 0 in '.*' had another `lr_max`: 0.1, not 0.2"),
    (dict(opt_funcs={'sgd': Adam}), r"another `opt_func`: 'SGD\(engine=eager\)', not 'Adam")], ids=lambda o: None)
def test_runs_of_other_arguments_are_not_mixed(tmp_path, kwargs, says):
    first = dict(opt_funcs={'sgd': SGD}, n_epoch=2, seeds=1, lr_max=0.1, file=tmp_path/'runs.json', settings={'size': 8})
    compare(learner, **first)
    with pytest.raises(ValueError, match=says): compare(Learners(0), **{**first, **kwargs})


class Thing: pass


def test_arguments_are_known_again_in_another_process(tmp_path):
    "Their addresses don't count"
    file = RunsFile(tmp_path/'runs.json', {'thing': Thing(), 'make': learner, 'size': Path('a'), 'share': np.float32(0.5)})
    file.add(run('a', 0, [0.5]) | {'how': {'lr': slice(0.1, 1.), 'cb': Thing()}})
    again = RunsFile(tmp_path/'runs.json', {'thing': Thing(), 'make': learner, 'size': Path('a'), 'share': 0.5})
    assert again.find('a', 0, {'lr': slice(0.1, 1.), 'cb': Thing()})['rows'] == [dict(accuracy=0.5, seconds=1.)]
    assert again.find('b', 0, {}) is again.find('a', 1, {}) is None


@pytest.mark.parametrize('content', ['', '[]', '{"settings": {}}', '{"settings": {}, "runs": [{}]}'])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    (file := tmp_path/'runs.json').write_text(content)
    with pytest.raises(ValueError, match="holds no runs of `compare`.*Pass another file"): train(Learners(0), file=file)
    assert file.read_text() == content
    with pytest.raises(FileNotFoundError, match="no folder"): train(Learners(0), file=tmp_path/'no'/'runs.json')


def test_further_figures_stand_in_the_table():
    c = compare(learner, {'sgd': SGD}, 2, seeds=2, lr_max=0.1, figures=lambda learn: {'weights': learn.model[0].weight.norm().item()})
    assert list(c.runs.weights.isna()) == [True, False]*2 and c.table.weights['sgd'] == pytest.approx(c.runs.weights.mean())
    same_losses = compare(learner, {'sgd': SGD}, 2, seeds=2, lr_max=0.1)
    assert np.array_equal(c.losses['sgd'], same_losses.losses['sgd'])


def run(name, seed, values): return dict(opt=name, seed=seed, rows=[dict(accuracy=v, seconds=1.) for v in values], losses=[1.], diverged=False, state_bytes=0.)


def test_epochs_to_a_target():
    c = Comparison([run('a', 0, [0.2, 0.5, 0.9]), run('a', 1, [0.5, 0.4, 0.3]), run('b', 0, [0.1, 0.1, 0.2])])
    table = c.epochs_to(0.5)
    assert list(table.reached) == [2, 0] and list(table.runs) == [2, 1]
    assert table.epochs['a'] == 1.5 and table.epochs_sd['a'] == pytest.approx(0.5**0.5) and math.isnan(table.epochs['b'])
    assert list(c.epochs_to(0.3, above=False).reached) == [2, 1] and c.epochs_to(0.3, above=False).epochs['a'] == 2
    with pytest.raises(ValueError, match="no `loss` to reach"): c.epochs_to(1., 'loss')


def test_differences_are_students_paired_test():
    rng = np.random.RandomState(42)
    values = {k: rng.rand(5) for k in 'abc'}
    done = [run(k, seed, [0.5, v]) for k, o in values.items() for seed, v in enumerate(o)]
    done[-1]['diverged'] = True
    table = Comparison(done).differences('a', 'accuracy')
    assert list(table.index) == ['b', 'c'] and list(table.seeds) == [5, 4]
    for k, n in (('b', 5), ('c', 4)):
        expected = stats.ttest_rel(values[k][:n], values['a'][:n])
        assert table.p[k] == pytest.approx(expected.pvalue) and table.difference[k] == pytest.approx((values[k] - values['a'])[:n].mean())
        assert table.difference[k]/table.std_error[k] == pytest.approx(expected.statistic)
    same = Comparison([run(k, s, [0.5]) for k in 'ab' for s in range(3)]).differences('a', 'accuracy')
    assert same.difference['b'] == same.std_error['b'] == 0 and same.p['b'] == 1
    one = Comparison([run(k, 0, [0.5]) for k in 'ab']).differences('a', 'accuracy')
    assert one.difference['b'] == 0 and math.isnan(one.p['b'])
    with pytest.raises(ValueError, match=r"no optimizer 'bb'.* There are a, b, c"): Comparison(done).differences('bb', 'accuracy')


def test_the_estimate_counts_all_batches_and_leaves_no_trace(monkeypatch):
    now, made = iter(range(1000)), []
    monkeypatch.setattr('time.perf_counter', lambda: float(next(now)))
    def make(opt_func):
        made.append(learner(opt_func))
        return made[-1]
    state = torch.get_rng_state()
    one = estimate_seconds(make, SGD, n_batches=2)
    assert torch.equal(torch.get_rng_state(), state) and len(made) == 1
    dls = made[0].dls
    assert one == len(dls.train) + len(dls.valid) == 6 # a second for each batch
    assert estimate_seconds(make, partial(oc.Adam, lr=0.1), n_epoch=3, n_runs=5, n_batches=1) == pytest.approx(15*one)
