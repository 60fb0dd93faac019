"How kernels are launched on a GPU, with a driver of Triton that launches nothing: directly, with the arguments that Triton would hand on, each step the same ones."
import gc
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import params, set_grads

import optimcb as oc
from optimcb.engines import foreach
from optimcb.engines.compilation import Compilation

triton = pytest.importorskip('triton', reason="Triton isn't installed")
from triton.runtime.driver import driver  # noqa: E402
from without_gpu import FakeDriver, install  # noqa: E402

from optimcb.engines import captures, cuda_memory, runner, triton_kernels  # noqa: E402

OLD = tuple(map(int, triton.__version__.split('.')[:2])) < (3, 5) # whose drivers tell less of a binary
SIZES = [(3000,), (5, 7), ()]


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TRITON_CACHE_DIR', str(tmp_path_factory.mktemp('triton')))
        assert not os.environ.get('TRITON_INTERPRET')
        yield


@pytest.fixture
def fake(monkeypatch):
    "The driver; what would be launched, isn't"
    install(monkeypatch.setattr)
    monkeypatch.setattr(Compilation, 'lowering', lambda self, device: foreach if self.engine == 'foreach' else triton_kernels)
    triton_kernels.functions.cache_clear() # what was compiled by another driver
    fake = FakeDriver(4 if OLD else 5)
    monkeypatch.setattr(driver, '_active' if hasattr(driver, '_active') else 'active', fake)
    yield fake
    triton_kernels.functions.cache_clear()
    gc.collect() # kernels are unloaded by the driver that has loaded them


def ready(make, steps=3):
    ps = params(SIZES)
    opt = make(ps, lr=0.01, engine='fused')
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    launches, = opt._running.plan.launches.values()
    return ps, opt, launches[0][0]


@pytest.mark.parametrize('make, kernels', [(oc.SGD, ['chunk0']), (oc.AdamW, ['chunk0']), (oc.Lamb, ['chunk0', 'join0', 'chunk1'])], ids=['SGD', 'AdamW', 'Lamb'])
def test_launches_of_a_step(make, kernels, fake):
    "One for elementwise rules"
    ps, opt, launch = ready(make)
    fake.launched.clear()
    opt.step()
    assert [name for name, _ in fake.launched] == kernels
    for name, (*grid, stream, function, metadata, launch_metadata, enter, leave) in ((n, a[:9]) for n, a in fake.launched):
        assert grid == [launch.count['tensors' if name == 'join0' else 'chunks'], 1, 1]
        assert stream == 77 and function == f'handle of {name}' and len(metadata) and (launch_metadata, enter, leave) == (None,)*3

def test_a_launch_is_what_triton_would_hand_on(fake):
    "By its own way, with all that it looks up; arguments are addresses instead of tensors"
    _, opt, launch = ready(oc.Lamb)
    known = triton_kernels.functions(triton_kernels.source(launch.program))
    for (kernel, count, arguments), name in zip(launch.kernels[0], ('chunk0', 'join0', 'chunk1')):
        fake.launched.clear()
        launch._run(kernel, count, arguments)
        known[name][(count,)](*arguments.tensors, **triton_kernels.OPTIONS)
        (_, ours), (_, tritons) = fake.launched
        assert list(map(str, ours[:6])) == list(map(str, tritons[:6])) # after it: what is told to profilers
        assert list(ours[9:]) == [t.data_ptr() for t in tritons[9:]] and len(ours) == 9 + len(triton_kernels.ARGUMENTS)

def test_kernels_are_loaded_once(fake):
    _, opt, launch = ready(oc.Lamb, 20)
    for lr in (0.1, 0.2): opt.set_hyper('lr', lr), opt.step()
    assert set(Counter(fake.loaded).values()) == {1}

def test_arguments_are_the_same_in_each_step(fake):
    _, opt, launch = ready(oc.AdamW)
    before = list(launch.arguments.pointers)
    fake.launched.clear()
    for _ in range(3): opt.step()
    assert len({args[9:] for _, args in fake.launched}) == 1 and launch.arguments.pointers == before

def test_large_tensors_have_joins_in_two_stages(fake, monkeypatch):
    "Of which the second adds what the first has found"
    for k in ('JOIN', 'ALONE'): monkeypatch.setattr(triton_kernels, k, 2)
    _, opt, launch = ready(oc.Lamb)
    fake.launched.clear()
    opt.step()
    assert [(name, args[0]) for name, args in fake.launched] == [('chunk0', 5), ('join0', 4), ('join0', 3), ('chunk1', 5)]
    (_, first), (_, second) = fake.launched[1:3]
    assert first[9 + 4] == second[9 + 3] != second[9 + 4] == launch.sums.data_ptr()

@pytest.mark.parametrize('make, dtype, elements', [(oc.AdamW, torch.float32, 1024), (oc.SGD, torch.float32, 1024), (oc.SGD, torch.bfloat16, 2048),
                                                   (oc.AdamW, torch.bfloat16, 1024), (oc.AdamW, torch.float64, 1024)], ids=str)
def test_chunks_have_more_elements_where_these_are_small(make, dtype, elements, fake):
    ps = params([(5000,)], dtype)
    opt = make(ps, lr=0.01, engine='fused')
    set_grads(ps)
    for _ in range(3): opt.step()
    (launch, _), = next(iter(opt._running.plan.launches.values()))
    assert launch.count['chunks'] == -(-5000//elements)

def test_parameters_without_elements_launch_nothing(fake):
    p = torch.nn.Parameter(torch.ones(0))
    opt = oc.SGD([p], lr=0.1, engine='fused')
    p.grad = torch.ones(0)
    opt.step()
    assert not fake.launched


# Buffers

class Event:
    "Of a device that is behind until it is told otherwise"
    done = set()
    def __init__(self): self.count = 0
    def record(self): self.count += 1
    def query(self): return self in Event.done


@pytest.fixture
def no_pinned_memory(monkeypatch):
    make = torch.empty
    monkeypatch.setattr(torch, 'empty', lambda *args, pin_memory=False, **kwargs: make(*args, **kwargs))
    monkeypatch.setattr(torch.cuda, 'Event', Event)

def test_a_buffer_is_used_again_only_when_its_copy_has_run(no_pinned_memory):
    buffers, table = cuda_memory.Buffers(3), torch.zeros(3, dtype=torch.int64)
    for i in range(4): buffers.send([i, i + 1, i + 2], table)
    assert table.tolist() == [3, 4, 5] and [o.numbers.tolist()[0] for o in buffers.sent] == [0, 1, 2, 3]
    Event.done.add(buffers.sent[0].copied)
    first = buffers.sent[0]
    buffers.send([9, 9, 9], table)
    assert len(buffers.sent) == 4 and buffers.sent[-1] is first and first.numbers.tolist() == [9, 9, 9]
    assert buffers.sent[0].numbers.tolist() == [1, 2, 3] # not yet sent
    Event.done.clear()


# CUDA graphs

def test_a_capture_reads_a_table_of_its_own(fake, monkeypatch):
    ps, opt, launch = ready(oc.AdamW)
    spare = launch.spare
    for o in (runner, captures): monkeypatch.setattr(o, 'is_capturing', lambda: True)
    fake.launched.clear()
    opt.step()
    (_, args), = fake.launched
    assert args[9 + 2] == spare.table.data_ptr() != launch.table.data_ptr() and launch.spare is None
    assert spare.table.tolist() == launch.host.tolist() # filled before the capture has ended
    for o in (runner, captures): monkeypatch.setattr(o, 'is_capturing', lambda: False)
    opt.step()
    assert fake.launched[-1][1][9 + 2] == launch.table.data_ptr() and launch.spare is not None

def test_a_table_that_does_not_arrive_is_an_error(fake, monkeypatch):
    ps, opt, launch = ready(oc.AdamW)
    launch.spare.fill = lambda numbers: False
    for o in (runner, captures): monkeypatch.setattr(o, 'is_capturing', lambda: True)
    with pytest.raises(RuntimeError, match="don't arrive"): opt.step()

def test_a_number_on_the_cpu_cant_be_captured(fake, monkeypatch):
    ps = params(SIZES)
    opt = oc.AdamW(ps, lr=torch.tensor(0.01), engine='fused')
    for i in range(3):
        set_grads(ps, i)
        opt.step()
    plan = opt._running.plan
    prepared = next(iter(plan.launches.values()))
    class Elsewhere: is_cpu = False
    step = captures.Captures()
    known = opt._running.compilation.prepare(plan, [dict(g) for g in opt.hypers], captures.NOT_SCALED)
    assert known.launches is prepared and known.recordings[0].externals
    monkeypatch.setattr(plan, 'buckets', [SimpleNamespace(example=Elsewhere())])
    with pytest.raises(RuntimeError, match='a tensor on the CPU'): step.check(plan, known, True, captures.NOT_SCALED)


def test_groups_of_joins_have_each_chunk_once():
    "A tensor with up to ALONE chunks is one group, a larger one is divided by JOIN, with the constants that a GPU gets"
    from optimcb.engines.triton_source import ALONE, JOIN
    counts = np.array([1, 2, JOIN - 1, JOIN, JOIN + 1, ALONE - 1, ALONE, ALONE + 1, 5*JOIN, 5*JOIN + 1, 3, 100_003])
    tensors = np.zeros((len(counts), 5), np.int64)
    tensors[:, 4] = np.cumsum(counts)
    tensors[1:, 3] = tensors[:-1, 4]
    groups, of_groups = triton_kernels._groups(tensors)
    assert groups[0, 3] == 0 and (groups[1:, 3] == groups[:-1, 4]).all() and groups[-1, 4] == counts.sum()
    for n, (first, last), chunks in zip(counts, of_groups[:, 3:], tensors[:, 3:]):
        own = groups[first:last]
        assert (own[0, 3], own[-1, 4]) == tuple(chunks) and last - first == (1 if n <= ALONE else -(-n//JOIN))
        assert n <= ALONE or (own[:, 4] - own[:, 3] <= JOIN).all()
