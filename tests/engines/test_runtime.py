"Kernels where they run: threads, processes, copies, compiled steps; the same bits always."
import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import clip_all, params, set_grads

import optimcb as oc
from optimcb import Optimizer
from optimcb.engines import c_compiler

BIG = [(300, 200), (70001,), (5,), (), (64, 3, 3, 3)]


def trained(algo=oc.Lamb, steps=3, engine='fused', threads=1, shapes=BIG):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ps = params(shapes)
        opt = algo(ps, lr=0.1, engine=engine)
        for i in range(steps):
            set_grads(ps, i)
            opt.step()
    finally: torch.set_num_threads(before)
    return ps


Clipped = partial(Optimizer, cbs=[clip_all, *oc.Lamb.cbs])


@pytest.mark.parametrize('algo', [oc.Lamb, oc.Larc, oc.Adam, Clipped], ids=['Lamb', 'Larc', 'Adam', 'Clipped'])
def test_the_same_bits_for_any_number_of_threads(algo):
    runs = [trained(algo, threads=n) for n in (1, 2, 3, 5, 1)]
    assert all(torch.equal(p, q) for ps in runs for p, q in zip(ps, runs[0]))

COUNTS_OPENMPS = '''
import torch, optimcb as oc
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.ones(100000))
p.grad = p.detach().clone()
oc.Adam([p], lr=0.1).step()
files = {line.split()[-1] for line in open('/proc/self/maps')}
print(sum(any(o in file.rsplit('/')[-1] for o in ('libgomp', 'libomp', 'libiomp')) for file in files))
'''

def test_one_openmp_is_loaded():
    trained(threads=2)
    assert all(c_compiler.openmp())
    if not Path('/proc/self/maps').exists(): return
    done = subprocess.run([sys.executable, '-c', COUNTS_OPENMPS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '1'

def test_without_openmp(monkeypatch):
    monkeypatch.setattr(c_compiler, 'openmp', lambda: [0, 0, 0, 0])
    assert all(torch.equal(p, q) for p, q in zip(trained(threads=2), trained()))

def test_no_compilation_in_a_thousand_steps(monkeypatch):
    ps = params([(3, 4), (5,)])
    opt = oc.RAdam(ps, lr=0.1, engine='fused')
    built = []
    function = c_compiler._load
    monkeypatch.setattr(c_compiler, '_load', lambda source: (built.append(1), function(source))[1])
    c_compiler._loaded.clear()
    for i in range(1000):
        if i < 3: set_grads(ps, i)
        opt.set_hypers(lr=0.1/(i+1), mom=0.9 - i/1e4, sqr_mom=0.99 - i/1e5, eps=1e-5 + i/1e8, wd=0.01 + i/1e6)
        opt.step()
        if i == 10: early = len(built)
    assert len(built) == early == 3 # two kernels, and the look at the parameters

def test_threads():
    want, got = trained(), {}
    def run(i): got[i] = trained()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(got) == 4 and all(torch.equal(p, q) for ps in got.values() for p, q in zip(ps, want))

SMALL = [(100, 200), (20000,), (5,)] # few enough elements for torch, which doesn't answer in a child either, to use one thread

def _child(queue): queue.put([p.detach().numpy() for p in trained(threads=2, shapes=SMALL)])

@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='this system has no fork')
def test_after_fork():
    torch.set_num_threads(2)
    try:
        want = trained(threads=2, shapes=SMALL)
        context = multiprocessing.get_context('fork')
        queue = context.Queue()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            child = context.Process(target=_child, args=(queue,))
            child.start()
        try: got = queue.get(timeout=60)
        finally: child.terminate()
    finally: torch.set_num_threads(1)
    assert all(torch.equal(p, torch.from_numpy(q)) for p, q in zip(want, got))

def test_state_of_a_forked_child_is_its_own():
    ps = [torch.nn.Parameter(torch.ones(1_000_000))]
    ps[0].grad = torch.ones(1_000_000)
    opt = oc.SGD(ps, lr=0.1, mom=0.9, engine='fused')
    opt.step()
    context = multiprocessing.get_context('fork')
    child = context.Process(target=lambda: opt.state[ps[0]]['grad_avg'].fill_(7.))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        child.start()
    child.join(60)
    assert child.exitcode == 0 and opt.state[ps[0]]['grad_avg'][0] == 1.

@pytest.mark.parametrize('way', ['deepcopy', 'pickle', 'state_dict', 'torch.save'])
def test_copies_go_on(way):
    ps = params(BIG)
    opt = oc.Adam(ps, lr=0.1, engine='fused')
    for i in range(2): set_grads(ps, i); opt.step() # noqa: E702
    pair = ps, opt
    if way == 'deepcopy': qs, other = copy.deepcopy(pair)
    elif way == 'pickle': qs, other = pickle.loads(pickle.dumps(pair))
    elif way == 'torch.save':
        torch.save(pair, file := io.BytesIO())
        file.seek(0)
        qs, other = torch.load(file, weights_only=False)
    else:
        qs = copy.deepcopy(ps)
        other = oc.Adam(qs, lr=0.5, engine='fused')
        other.load_state_dict(opt.state_dict())
    assert other.engine == 'fused'
    for i in range(2, 5):
        set_grads(ps, i); set_grads(qs, i) # noqa: E702
        opt.step(); other.step() # noqa: E702
    assert all(torch.equal(p, q) and p.data_ptr() != q.data_ptr() for p, q in zip(ps, qs) if p.numel())

def test_a_state_is_saved_alone():
    ps = params([(1000, 1000), (5,)])
    set_grads(ps)
    opt = oc.Adam(ps, lr=0.1, engine='fused')
    opt.step()
    torch.save(opt.state[ps[1]]['grad_avg'], file := io.BytesIO())
    assert len(file.getvalue()) < 10_000, 'not the memory that it shares with others'

@pytest.mark.parametrize('mode', [torch.no_grad, torch.enable_grad, torch.inference_mode], ids=lambda o: o.__name__)
def test_modes_of_autograd(mode):
    ps, qs = params(BIG), params(BIG)
    a, b = oc.Adam(ps, lr=0.1, engine='fused'), oc.Adam(qs, lr=0.1, engine='eager')
    for i in range(2):
        set_grads(ps, i); set_grads(qs, i) # noqa: E702
        with mode(): a.step()
        b.step()
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-6) and p.requires_grad for p, q in zip(ps, qs))

def test_a_closure_and_a_real_loss():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1), torch.randn(20, 3)
    opt = oc.Adam(model.parameters(), lr=0.1, engine='fused')
    def closure():
        opt.zero_grad()
        loss = (model(x) - 1).pow(2).mean()
        loss.backward()
        return loss
    losses = [opt.step(closure).item() for _ in range(60)]
    assert losses[-1] < 0.1*losses[0]

def test_inside_a_compiled_step():
    "The model's part is compiled, the optimizer's is run as it is"
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 1), torch.randn(20, 3)
    twin = copy.deepcopy(model)
    a, b = (oc.Adam(o.parameters(), lr=0.1, engine='fused') for o in (model, twin))
    def train(model, opt):
        loss = (model(x) - 1).pow(2).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss
    compiled = torch.compile(lambda: train(model, a), backend='eager')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in range(6):
            a.set_hyper('lr', 0.1/(i+1)); b.set_hyper('lr', 0.1/(i+1)) # noqa: E702
            assert torch.allclose(compiled(), train(twin, b), rtol=1e-5)
    assert all(torch.allclose(p, q, rtol=1e-4) for p, q in zip(model.parameters(), twin.parameters()))
    assert a.state[next(iter(model.parameters()))]['step'] == 6

def test_ten_thousand_parameters():
    ps = [torch.nn.Parameter(torch.ones(3)) for _ in range(10_000)]
    for p in ps: p.grad = torch.ones(3)
    opt = oc.Adam(ps, lr=0.1)
    for _ in range(3): opt.step()
    assert len({p[0].item() for p in ps}) == 1 and ps[0][0] < 1

def test_every_group_has_numbers_of_its_own():
    ps, qs = params([(4,)]*20), params([(4,)]*20)
    def groups(ps): return [{'params': [p], 'lr': 0.1/(i+1)} for i, p in enumerate(ps)]
    a, b = oc.Adam(groups(ps), lr=1., engine='fused'), oc.Adam(groups(qs), lr=1., engine='eager')
    for i in range(3):
        set_grads(ps, i); set_grads(qs, i) # noqa: E702
        a.step(); b.step() # noqa: E702
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-7) for p, q in zip(ps, qs))
