"""What differs from parameter to parameter behind anything at all is called for each, or refused in words.

Nor is a step with it replayed."""
import warnings

import hidden_changes
import pytest
import torch
from hidden import PROBES, Count, tick
from on_engines import TRACED

from optimcb import Optimizer
from optimcb.composition.pipeline import Composition
from optimcb.engines.runner import CantRun
from optimcb.tracing.outside import outside_of
from optimcb.tracing.purity import impurity


@pytest.fixture(autouse=True)
def defaults():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def run(engine, make, steps=4):
    "The parameters after each step, in which the learning rate changes"
    torch.set_default_dtype(torch.float32)
    Count.n = 0
    ps = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt = Optimizer(ps, make(), lr=.1, engine=engine, check=False)
        Count.n, res = 0, []
        for i in range(steps):
            for p in ps: p.grad = torch.ones_like(p)
            opt.set_hyper('lr', .1/(i + 1))
            opt.step()
            res.append([p[0].item() for p in ps])
    return res


@pytest.mark.parametrize('name', PROBES)
def test_what_hides_state_is_called_for_each_parameter(name):
    make = PROBES[name]
    want = run('eager', make)
    assert want[-1] != [want[-1][0]]*3 or want[0] != want[1], 'the probe counts'
    assert run('auto', make) == want
    for engine in TRACED:
        with pytest.raises(CantRun, match='must be called for each parameter'): run(engine, make)


@pytest.mark.parametrize('name', [*PROBES, *hidden_changes.VARYING])
def test_what_hides_state_is_neither_recorded_nor_replayed(name):
    made = (PROBES | hidden_changes.VARYING)[name]()
    composition = Composition(made if isinstance(made, list) else [made])
    before = Count.n
    assert any(map(impurity, composition.steppers)) and outside_of(composition) is None
    assert Count.n == before, 'reading runs nothing'


def test_the_probes_count_what_they_do():
    Count.n = 3
    assert tick() == 4 and len(PROBES) > 200
