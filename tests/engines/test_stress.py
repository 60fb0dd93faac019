"Under stress: threads, processes that die, disks that are full, gradients that come and go, numbers that are none, interrupts. `suites/soak.py` has the long ones."
import copy
import gc
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import tracemalloc
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import params, script, set_grads
from on_engines import SPECIAL

import optimcb as oc
from optimcb.engines import c_compiler

fork = multiprocessing.get_context('fork') if 'fork' in multiprocessing.get_all_start_methods() else None
needs_fork = pytest.mark.skipif(fork is None, reason='this system has no fork')
needs_root = pytest.mark.skipif(getattr(os, 'geteuid', lambda: 1)() != 0,
                                reason='only root can give a file away, or be somebody else')
NOBODY = 65534


def trained(make, steps=20, engine='fused'):
    ps = params([(30, 20), (7,), ()])
    opt = make(ps, lr=0.01, engine=engine)
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return ps, opt


def same(ps, qs): return all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))


def in_children(f, n=1):
    "What `f(i)` returns in forked children, which are killed if they don't answer, by their number; what died is not there"
    queue, children = fork.Queue(), []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in range(n):
            children.append(fork.Process(target=lambda i=i: queue.put((i, f(i)))))
            children[-1].start()
    got = {}
    try:
        while len(got) < n and (any(c.is_alive() for c in children) or not queue.empty()):
            try: got.update([queue.get(timeout=0.5)])
            except Exception: continue
    finally:
        for c in children: c.join(30); c.kill() # noqa: E702
    return got


# Threads and processes

@pytest.mark.parametrize('makes', [[oc.Adam]*4, [oc.SGD, oc.Adam, oc.Lamb, oc.RMSProp]], ids=['the same', 'different'])
def test_optimizers_in_threads(makes, cache):
    got, start = {}, threading.Barrier(4)
    def run(i):
        start.wait()
        got[i] = trained(makes[i])[0]
    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(same(got[i], trained(make)[0]) for i, make in enumerate(makes))


@needs_fork
def test_eight_processes_build_and_the_first_is_killed_while_it_does(cache, tmp_path, monkeypatch):
    monkeypatch.setenv('CC', script(tmp_path/'mycc', f'if mkdir {tmp_path}/first 2>/dev/null; then kill -9 $PPID; fi\nexec cc "$@"'))
    start = fork.Barrier(8)
    def run(i):
        start.wait(30)
        return [p.tolist() for p in trained(oc.Adam, 2)[0]]
    got = in_children(run, 8)
    assert len(got) == 7 and all(o == got[min(got)] for o in got.values())
    assert len(list(cache.glob('*.so'))) == 1 and all(c_compiler._intact(o) for o in cache.glob('*.so'))


# Disks and folders

def goes_on():
    "Trains; the warnings, and whether the numbers are right"
    c_compiler.forget()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        ps = [trained(oc.SGD, 5, 'auto')[0] for _ in range(2)][0]
        qs = trained(oc.SGD, 5, 'eager')[0]
    return [str(w.message) for w in caught], same(ps, qs)

@needs_fork
@pytest.mark.parametrize('size', [0, 100, 12_000])
def test_a_full_disk(cache, size):
    "Nothing, less than the source, or less than the kernel can be written"
    def run(i):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return goes_on()
    said, right = in_children(run)[0]
    assert right and {s.split('`')[0] for s in said} <= {"the eager engine runs what the fused one can't: "} | set(said[:1]) and len(set(said)) == 1
    assert not list(cache.glob('*')), 'nothing is left behind'

@needs_fork
@needs_root
@pytest.mark.parametrize('temporary', [True, False])
def test_a_home_that_cannot_be_written(temporary, tmp_path, monkeypatch):
    home = tmp_path/'home'
    home.mkdir(mode=0o755)
    for k in ('OPTIMCB_CACHE_DIR', 'XDG_CACHE_HOME', 'TMPDIR'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('HOME', str(home))
    def run(i):
        tempfile.tempdir = None if temporary else str(home)
        c_compiler._temporary.cache_clear()
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return goes_on()
    said, right = in_children(run)[0]
    assert right and len(set(said)) == (not temporary) and not list(home.iterdir())
    if said: assert 'OPTIMCB_CACHE_DIR' in said[0]

def built():
    "How many kernels are compiled for a training that finds the cache as it is"
    calls, run = [], c_compiler._run
    c_compiler._run = lambda command: (calls.append(1), run(command))
    c_compiler.forget()
    try: said, right = goes_on()
    finally: c_compiler._run = run
    assert right
    return len(calls), set(said)

@pytest.mark.parametrize('harm', [
    pytest.param(lambda file: os.chown(file, NOBODY, NOBODY), marks=needs_root, id='of somebody else'),
    pytest.param(lambda file: file.chmod(0o620), id='writable by the group'),
    pytest.param(lambda file: (file.unlink(), os.mkfifo(file, 0o600)), id='a pipe'),
    pytest.param(lambda file: (file.rename(file.with_suffix('.old')), file.symlink_to(file.with_suffix('.old'))), id='a link to the right one')])
def test_foreign_files_are_not_loaded(harm, cache):
    assert built() == (2, set()) and built() == (0, set()) # the kernel, and the look at the parameters
    harm(next(cache.glob('*.so')))
    assert built() == (1, set())
    assert c_compiler._intact(next(cache.glob('*.so'))) and built() == (0, set())

def test_a_folder_in_the_place_of_a_kernel(cache):
    built()
    file = next(o for o in cache.glob('*.so') if b'phase0' in o.read_bytes())
    file.unlink()
    file.mkdir()
    _, said = built()
    assert len(said) == 1 and 'OPTIMCB_CACHE_DIR' in said.pop()

@needs_root
def test_a_folder_of_somebody_else_is_not_used(cache):
    cache.mkdir(mode=0o700)
    os.chown(cache, NOBODY, NOBODY)
    assert built()[1] == set() and not list(cache.iterdir())

def test_a_folder_that_is_a_link_is_not_used(cache, tmp_path):
    (tmp_path/'real').mkdir(mode=0o700)
    cache.symlink_to(tmp_path/'real')
    assert built()[1] == set() and not list((tmp_path/'real').iterdir())


# Gradients that come and go

def coming_and_going(opt, ps, steps, seed=0):
    "Steps in which a part of the parameters has gradients"
    rng, grads = random.Random(seed), [torch.randn(p.shape, generator=torch.Generator().manual_seed(i),
                                                   dtype=p.dtype) for i, p in enumerate(ps)]
    for i in range(steps):
        for p, g in zip(ps, grads): p.grad = g * (1 + i % 3) if rng.random() < 0.7 else None
        opt.step()

def usage():
    "Objects, and bytes that Python holds"
    gc.collect()
    return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

@pytest.mark.parametrize('engine', ['foreach', 'fused'])
def test_gradients_that_come_and_go(engine):
    runs = {e: params([(3,), (4, 2), (), (5,), (2, 2)]) for e in ('eager', engine)}
    opts = {e: oc.Adam(ps, lr=0.01, wd=0.1, engine=e) for e, ps in runs.items()}
    coming_and_going(opts[engine], runs[engine], 50)
    kernels = len(c_compiler._loaded), len(opts[engine]._running.programs)
    tracemalloc.start()
    try:
        before = usage()
        coming_and_going(opts[engine], runs[engine], 150, 1)
        objects, size = usage()
    finally: tracemalloc.stop()
    coming_and_going(opts['eager'], runs['eager'], 50)
    coming_and_going(opts['eager'], runs['eager'], 150, 1)
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-5) for p, q in zip(*runs.values()))
    assert [s['step'] for s in opts['eager'].state.values()] == [s['step'] for s in opts[engine].state.values()]
    assert (len(c_compiler._loaded), len(opts[engine]._running.programs)) == kernels, 'no new kernels'
    assert objects - before[0] < 200 and size - before[1] < 100_000

@pytest.mark.parametrize('inside', [False, True])
def test_memory_is_flat(inside):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    opt, x = oc.Adam(model.parameters(), lr=0.01), torch.ones(3, 4)
    handle = oc.step_in_backward(opt) if inside else None
    def train(steps):
        for i in range(steps):
            opt.set_hyper('lr', 0.01/(1 + i % 7))
            model(x).square().mean().backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            if i % 50 == 0: opt.load_state_dict(opt.state_dict())
    train(60)
    tracemalloc.start()
    try:
        train(60)
        before = usage()
        train(200)
        objects, size = usage()
    finally: tracemalloc.stop()
    assert objects - before[0] < 100 and size - before[1] < 30_000
    if handle: handle.remove()


# Numbers

def bits(t):
    "The bits of a tensor, but for those of NaN"
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[t.element_size()]
    return torch.where(t.isnan(), torch.zeros((), dtype=t.dtype), t).view(kind), t.isnan()

def odd_numbers(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    return torch.tensor([*SPECIAL, tiny, -tiny, tiny/2, -tiny/4, torch.finfo(dtype).max], dtype=torch.float64).to(dtype)

CBS = {'momentum': [oc.weight_decay, oc.average_grad, oc.momentum_step],
       'mean': [partial(oc.average_grad, dampening=True), oc.average_sqr_grad, oc.momentum_step]}

def odd_steps(engine, dtype, cbs, steps=3):
    "All pairs of odd numbers, as parameter and gradient, with odd state"
    odd = odd_numbers(dtype)
    n = len(odd)
    p = torch.nn.Parameter(odd.repeat(n))
    opt = oc.Optimizer([p], cbs, lr=0.5, mom=0.5, sqr_mom=0.5, wd=0.25, engine=engine)
    for i in range(steps):
        p.grad = odd.repeat_interleave(n).roll(i)
        opt.step()
        for k, v in enumerate(v for v in opt.state[p].values() if isinstance(v, torch.Tensor)): v.copy_(v.roll(3*k + 1))
    return [p.detach(), *(v for v in opt.state[p].values() if isinstance(v, torch.Tensor))]

@pytest.mark.parametrize('flush', [False, True])
@pytest.mark.parametrize('cbs', CBS.values(), ids=CBS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('engine', ['foreach', 'fused'])
def test_odd_numbers_have_the_bits_of_eager(engine, dtype, cbs, flush):
    if flush and not torch.set_flush_denormal(True): pytest.skip('this processor cannot flush denormals')
    try: want, got = (odd_steps(e, dtype, cbs) for e in ('eager', engine))
    finally: torch.set_flush_denormal(False)
    for a, b in zip(want, got, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(bits(a), bits(b)))

def test_kernels_leave_denormals_as_they_are():
    for engine in ('eager', 'fused'):
        p = torch.nn.Parameter(torch.full((5,), 1e-40))
        p.grad = torch.full((5,), -1e-41)
        opt = oc.SGD([p], lr=1., engine=engine)
        opt.step()
        assert (p == torch.tensor(1e-40) + torch.tensor(1e-41)).all() and torch.tensor(1e-40) / 2 > 0


# Interrupts

class Interrupted:
    "Raises KeyboardInterrupt at a line of the library, as a signal may do"
    def __init__(self, at): self.at, self.lines, self.inside = at, 0, str(Path(oc.__file__).parent)
    def __enter__(self): sys.settrace(self.trace)
    def __exit__(self, *error): sys.settrace(None)
    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(self.inside): return None
        if event == 'line':
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

def finished(opt, ps, step): # from wherever it is
    for i in range(step, step + 3):
        set_grads(ps, i)
        opt.step()
    return ps

@pytest.mark.parametrize('done', [0, 2], ids=['first step', 'later step'])
@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
def test_interrupts(engine, done):
    "Wherever a step is broken off, gradients are what they were, and training goes on from what is there as it would on the eager engine"
    def ready():
        ps = params([(3,), (2, 2)])
        opt = oc.Adam(ps, lr=0.01, wd=0.1, engine=engine)
        for i in range(done): set_grads(ps, i); opt.step() # noqa: E702
        set_grads(ps, done)
        return ps, opt
    ready()[1].step() # builds what is to be built
    ps, opt = ready()
    with (all_lines := Interrupted(-1)): opt.step()
    for at in range(1, all_lines.lines*9//10, 1 + all_lines.lines//60): # how many there are depends on what else is alive
        ps, opt = ready()
        grads = [p.grad for p in ps]
        with pytest.raises(KeyboardInterrupt), Interrupted(at): opt.step()
        assert all(p.grad is g for p, g in zip(ps, grads))
        qs, other = copy.deepcopy((ps, opt))
        other.engine = 'eager'
        assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-6)
                   for p, q in zip(finished(opt, ps, done+1), finished(other, qs, done+1)))

def test_a_real_signal():
    m = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(20)])
    opt, hit = oc.Adam(m.parameters(), lr=0.01), 0
    def interrupt(*_): raise KeyboardInterrupt
    old = signal.signal(signal.SIGALRM, interrupt)
    rng = random.Random(0)
    try:
        for i in range(60):
            set_grads(list(m.parameters()), i)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
                opt.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt: hit += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    n, other = copy.deepcopy((m, opt))
    other.engine = 'eager'
    a, b = (finished(o, list(k.parameters()), 60) for k, o in ((m, opt), (n, other)))
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-6) for p, q in zip(a, b))
