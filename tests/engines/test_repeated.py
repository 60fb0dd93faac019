"A step that differs from the last one in numbers and gradients only is repeated: it goes through six files, and gives what eager gives."
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import set_grads
from torch.nn import Parameter

import optimcb as oc
from optimcb import Optimizer, average_grad, momentum_step
from optimcb.engines import c_compiler, c_kernels
from optimcb.engines.repeated import Repeated

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT/'optimcb'
try: c_compiler.library('int one(void) { return 1; }')
except c_compiler.CantBuild: pytest.skip('no C compiler', allow_module_level=True)


@pytest.fixture
def repeats(monkeypatch):
    "What each attempt to repeat a step came to"
    found, plain = [], Repeated.step
    def step(self, *args):
        found.append(None)
        found[-1] = plain(self, *args)
        return found[-1]
    monkeypatch.setattr(Repeated, 'step', step)
    return found


def pair(make, shapes=((3, 4), (4,), ()), **kwargs):
    "Optimizers of the same parameters, on the fused engine and on the eager one"
    torch.manual_seed(0)
    values = [torch.randn(s) for s in shapes]
    return [make([Parameter(v.clone()) for v in values], engine=e, **kwargs) for e in ('fused', 'eager')]


def params_of(opt): return [p for g in opt.param_groups for p in g['params']]


def step(opts, i, missing=()):
    "A step of each, with the same gradients"
    for o in opts:
        set_grads(params_of(o), i)
        for k in missing: params_of(o)[k].grad = None
        o.step()


def assert_equal(a, b):
    "Parameters and numbers to the bit, tensors of state to a rounding"
    for p, q in zip(params_of(a), params_of(b)):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert a.state[p].keys() == b.state[q].keys()
        for k, v in a.state[p].items():
            if isinstance(v, torch.Tensor): torch.testing.assert_close(v, b.state[q][k], rtol=1e-6, atol=1e-7)
            else: assert v == b.state[q][k] and type(v) is type(b.state[q][k])


@pytest.mark.parametrize('make', [oc.AdamW, oc.SGD, oc.Lion, oc.Lamb, oc.RAdam, oc.Adam.wrap(oc.cautious)], ids=lambda o: o.__name__)
def test_steps_are_repeated_and_give_what_eager_gives(make, repeats):
    opts = pair(make, lr=0.01)
    for i in range(12):
        for o in opts: o.param_groups[0]['lr'] = 0.01/(i + 1)
        step(opts, i)
        assert_equal(*opts)
    assert repeats.count(True) >= 4, repeats


def test_the_path_of_a_step_is_that_of_the_map():
    "CONTRIBUTING names the six files that a repeated step goes through, and those that answer a question on the way"
    text = ' '.join((ROOT/'CONTRIBUTING.md').read_text().split())
    [path, asked] = re.search(r'A repeated step goes through six files: (.+?)\. On the way it asks: (.+?)\.', text).groups()
    path, asked = ([f'{name}.py' for name in re.findall(r'`([\w/]+)`', o)] for o in (path, asked))
    [opt, _] = opts = pair(oc.AdamW, lr=0.01)
    for i in range(6): step(opts, i)
    seen = []
    def note(frame, event, arg):
        file = Path(frame.f_code.co_filename)
        if event == 'call' and file.is_relative_to(PACKAGE): seen.append(str(file.relative_to(PACKAGE)))
    before = sys.getprofile()
    sys.setprofile(note)
    try: opt.step()
    finally: sys.setprofile(before)
    files = list(dict.fromkeys(seen))
    assert [f for f in files if f in path] == path and len(path) == 6
    assert {*files} == {*path, *asked} and all((PACKAGE/f).is_file() for f in asked)


def test_what_is_not_repeated(repeats):
    "Other parameters with gradients, other names or types of hyper-parameters, other steppers, edits of state: each is seen"
    opts = pair(oc.AdamW, lr=0.01)
    for i in range(5): step(opts, i)
    assert repeats[-1] is True
    changes = [
        lambda i: step(opts, i, missing=[1]), lambda i: step(opts, i, missing=[0, 2]), lambda i: step(opts, i),
        lambda i: [o.param_groups[0].update(lr=1) for o in opts], lambda i: [o.param_groups[0].update(lr=torch.tensor(0.01)) for o in opts],
        lambda i: [o.param_groups[0].update(lr=0.01, unknown=3) for o in opts],
        lambda i: [o.state[params_of(o)[0]].update(step=50) for o in opts],
        lambda i: [o.state[params_of(o)[0]].update(grad_avg=torch.ones(3, 4)) for o in opts],
        lambda i: [o.wrap(oc.clip_norm) for o in opts], lambda i: [o.add_param_group({'params': [Parameter(torch.ones(2))]}) for o in opts],
        lambda i: [o.load_state_dict(o.state_dict()) for o in opts], lambda i: [params_of(o)[0].requires_grad_(False) for o in opts],
        lambda i: [params_of(o)[0].requires_grad_(True) for o in opts], lambda i: [o.clear_state() for o in opts]]
    for i, change in enumerate(changes):
        change(10*i)
        for j in range(4):
            step(opts, 10*i + j)
            assert_equal(*opts)


def test_a_global_that_changes_is_seen(repeats):
    global FACTOR
    def scaled(p, lr): p.data.add_(p.grad, alpha=-lr*FACTOR)
    opts = pair(lambda ps, **kwargs: Optimizer(ps, [scaled], lr=0.1, **kwargs))
    for i in range(20):
        FACTOR = 1. if i < 8 else 2. if i < 15 else 1
        step(opts, i)
        assert_equal(*opts)
    assert True in repeats and False in repeats


FACTOR = 1.


def test_branches_by_numbers_are_taken(repeats):
    def sometimes(p, lr, n=0):
        p.data.add_(p.grad, alpha=-lr if n % 4 else -2*lr)
        return {'n': n + 1}
    opts = pair(lambda ps, **kwargs: Optimizer(ps, [sometimes], lr=0.1, **kwargs))
    for i in range(30):
        step(opts, i)
        assert_equal(*opts)
    assert True in repeats and False in repeats


@pytest.mark.parametrize('where', ['repeat', 'put'])
def test_an_interrupted_repetition_is_no_repetition(where, repeats, monkeypatch):
    "The next step is prepared anew, and goes on from what the interrupted one has left"
    opts = pair(lambda ps, **kwargs: Optimizer(ps, [average_grad, momentum_step], lr=0.1, mom=0.9, **kwargs))
    for i in range(6): step(opts, i)
    assert repeats[-1] is True
    fused, eager = opts
    def interrupt(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        if where == 'repeat': m.setattr(c_kernels.Launch, 'repeat', interrupt)
        else: m.setattr('optimcb.engines.plan.Plan.put', interrupt)
        set_grads(params_of(fused), 6)
        with pytest.raises(KeyboardInterrupt): fused.step()
    assert fused._running.plan is None
    if where == 'repeat': step(opts, 6) # nothing had changed
    else: step([eager], 6) # all was stored
    for i in range(7, 14):
        step(opts, i)
        assert_equal(*opts)


def test_gradscaler_and_zeroing_are_prepared_each_time(repeats):
    opts = pair(oc.AdamW, lr=0.01)
    for i in range(8):
        for o in opts: o.grad_scale, o.found_inf = torch.tensor(2.), torch.tensor(float(i == 3))
        step(opts, i)
        for o in opts: del o.grad_scale, o.found_inf
        assert_equal(*opts)
    assert not repeats
    opt = oc.AdamW([Parameter(torch.ones(3))], lr=0.01, zero_in_step=True)
    for i in range(6): step([opt], i)
    assert not repeats
    opt.zero_in_step = False
    for i in range(3): step([opt], i)
    assert True in repeats
    opt.zero_in_step = True
    step([opt], 1)
    assert repeats[-1] is True and not params_of(opt)[0].grad.any()
