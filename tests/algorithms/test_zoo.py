"""The zoo: each algorithm equals its reference on every engine, goes on where it was left, and learns to read
digits."""
import copy
import io
import math
import statistics
import warnings
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from checklist import COMMAND
from helpers import difference, params, set_grads, trajectory
from zoo import ALGORITHMS, LRS, OPTIONS, ROWS, ZOO, algorithm_of, apart, own_lines, said

from optimcb.engines.runner import CantRun

rows = pytest.mark.parametrize('name, ours, theirs, tol', ZOO, ids=[c[0] for c in ZOO])
NEW = {k: o for k, o in ALGORITHMS.items() if k in {getattr(algorithm_of(c[1]), '__name__', None) for c in ZOO}}
every = pytest.mark.parametrize('algo', NEW.values(), ids=NEW)


def as_near_as_said(algo):
    "How near to its references docs/tables.md says that an algorithm is"
    assert algo.__name__ in said(), f'docs/tables.md has no line for `{algo.__name__}`: {COMMAND}'
    return said()[algo.__name__]


@cache
def expected(i): return trajectory(ZOO[i][2], torch.float64)


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
@rows
def test_equals_reference(name, ours, theirs, tol, engine):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        try: got = trajectory(partial(ours, engine=engine), torch.float64)
        except CantRun as e: pytest.skip(str(e))
    found, algo = difference(got, expected([c[0] for c in ZOO].index(name))), algorithm_of(ours)
    if algo is not None and engine == 'eager': tol = min(tol, 100*as_near_as_said(algo)) # other machines round otherwise
    assert found <= tol


@rows
def test_gradients_that_come_and_go(name, ours, theirs, tol):
    assert apart(partial(ours, engine='eager'), theirs, skip=lambda step: {step % 5, (step // 3) % 4}) <= tol


def test_every_algorithm_has_a_row():
    tested = {o.__name__ for o in map(algorithm_of, (r[1] for r in ROWS)) if o}
    assert not ALGORITHMS.keys() - tested, 'add a row to `CASES` of the table of their file: see `python -m tests.checklist`'
    assert tested <= ALGORITHMS.keys(), 'put them in `__all__` of their file in optimcb/algorithms'
    assert not NEW.keys() - LRS.keys(), 'add a learning rate for the digits to `LRS` of the table of their file'
    assert LRS.keys() <= NEW.keys()


def test_an_algorithm_is_a_few_lines(): assert statistics.median(own_lines().values()) <= 8


@every
def test_goes_on_from_a_file_bit_for_bit(algo):
    ps = params(dtype=torch.float64)
    opt = algo(ps, lr=0.01)
    for i in range(12): set_grads(ps, i); opt.step() # noqa: E702
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    qs = copy.deepcopy(ps)
    other = algo(qs, lr=0.01)
    other.load_state_dict(torch.load(file, weights_only=True))
    for i in range(12, 24):
        for o, x in ((opt, ps), (other, qs)): set_grads(x, i); o.step() # noqa: E702
    assert all(torch.equal(p, q) for p, q in zip(ps, qs))


@every
def test_16_bits_lose_digits_and_nothing_else(algo):
    "Of a step from where float32 is"
    ps, qs = params(), params(dtype=torch.bfloat16)
    exact, coarse = (algo(o, lr=1e-2, **{k: 1e-2 for k in ('eps',) if k in algo.hypers}) for o in (ps, qs))
    for i in range(3):
        for o, x in ((exact, ps), (coarse, qs)): set_grads(x, i); o.step() # noqa: E702
    assert all(torch.isfinite(q).all() for q in qs) and difference(qs, ps) < 0.1


@cache
def digits():
    sklearn = pytest.importorskip('sklearn.datasets')
    x, y = sklearn.load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32)/16, torch.tensor(y)


@every
def test_learns_to_read_digits(algo):
    x, y = digits()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    opt, worst = algo(model.named_parameters(), lr=LRS[algo.__name__], **OPTIONS.get(algo.__name__, {})), 0.
    for _ in range(5):
        for idx in torch.randperm(1500).split(64):
            loss = F.cross_entropy(model(x[idx]), y[idx])
            loss.backward()
            opt.step()
            opt.zero_grad()
            worst = max(worst, loss.item())
    if hasattr(opt, 'eval'): opt.eval()
    accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean()
    assert math.isfinite(worst) and worst < 6 and accuracy > 0.8, (worst, accuracy)
