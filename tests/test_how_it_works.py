"The small engine in the notebook `How it works` is small, and gives what the library gives."
import json
import re
from pathlib import Path

import pytest
import torch

import optimcb as oc

NOTEBOOK = Path(__file__).parent.parent/'nbs'/'08_how_it_works.ipynb'
CELLS = [''.join(c['source']) for c in json.loads(NOTEBOOK.read_text())['cells'] if c['cell_type'] == 'code']
ENGINE = [c for c in CELLS if c.startswith('# The engine')]
STEPS = 20
ALGORITHMS = [oc.SGD, oc.RMSProp, oc.Adagrad, oc.Adam, oc.AdamW, oc.AMSGrad, oc.Adamax, oc.NAdam, oc.AdaBelief, oc.LaProp,
              oc.SignSGD, oc.Lion, oc.QHM, oc.AggMo]


def mean_grad(p, mom=0.9, m=0.): return {'m': mom*m + (1-mom)*p.grad}
def mean_square(p, sqr_mom=0.99, s=0.): return {'s': sqr_mom*s + (1-sqr_mom)*p.grad**2}
def ratio_step(p, lr, m, s, eps=1e-8): p.data.sub_(lr * m / (s.sqrt() + eps))


def count(p, step=0): return {'step': step + 1}
def every_fifth(p, lr, step):
    if step % 5 == 0: p.data.sub_(5*lr * p.grad)


OWN = oc.algorithm('Own', [mean_grad, mean_square, ratio_step])
RARE = oc.algorithm('Rare', [count, every_fifth])


@pytest.fixture(scope='module')
def small():
    "What the cells of the engine define"
    names = {}
    exec('\n'.join([CELLS[0], *ENGINE]), names)
    return names['SmallOptimizer']


def trained(make, set_lr):
    "Parameters after steps with random gradients, one of which is missing, and a learning rate that changes. And their optimizer"
    g = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((3, 4), (5,), ())]
    opt = make(params)
    for i in range(STEPS):
        for j, p in enumerate(params):
            grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
            p.grad = None if (i, j) == (3, 1) else grad
        set_lr(opt, 0.1 / (i + 1))
        opt.step()
    return [p.detach() for p in params], opt


def small_trained(small, algo, traced):
    hypers = dict(algo([torch.nn.Parameter(torch.ones(1))], lr=0.1).hypers[0])
    return trained(lambda params: small(params, algo.cbs, traced, **hypers), lambda opt, lr: opt.hypers.update(lr=lr))


@pytest.mark.parametrize('traced', [False, True], ids=['called', 'traced'])
@pytest.mark.parametrize('algo', [*ALGORITHMS, OWN, RARE], ids=lambda a: a.__name__)
def test_the_small_engine_gives_what_the_library_gives(small, algo, traced):
    real, opt = trained(lambda params: algo(params, lr=0.1, engine='eager'), lambda opt, lr: opt.set_hyper('lr', lr))
    ours, small_opt = small_trained(small, algo, traced)
    for a, b in zip(ours, real): torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    for mine, theirs in zip(small_opt.state.values(), opt.state.values()):
        assert mine.keys() == theirs.keys()
        for k in mine:
            torch.testing.assert_close(torch.as_tensor(mine[k]), torch.as_tensor(theirs[k]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('algo, kernels', [(oc.SGD, 1), (oc.AdamW, 2), (OWN, 2), (RARE, 2)], ids=lambda o: getattr(o, '__name__', ''))
def test_no_kernel_is_compiled_for_another_learning_rate(small, algo, kernels):
    "One for the first step where it makes state, one for the others, and one for each branch"
    assert len(small_trained(small, algo, True)[1].kernels) == kernels


def test_the_small_engine_is_small():
    lines = [line for line in '\n'.join(ENGINE).splitlines() if line.strip() and not line.startswith('#')]
    assert len(ENGINE) == 5 and len(lines) <= 110 and max(map(len, lines)) <= 110


def test_the_files_that_it_names_are_there():
    root = Path(oc.__file__).parent
    named = re.findall(r'`(?:optimcb/)?((?:\w+/)+\w+\.py)`', NOTEBOOK.read_text())
    assert named and all((root/name).is_file() for name in named)
