"""The engine for CUDA: what it computes, by Triton's interpreter; what it compiles to, for a GPU that need not be there; and on a GPU, where there is one."""
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from helpers import params, set_grads
from test_by_torch import made as with_calls

import optimcb as oc
from optimcb import Optimizer
from optimcb.engines import foreach
from optimcb.engines.compilation import Compilation
from optimcb.tracing.ir import PER_ELEMENT
from optimcb.tracing.ops import OPS

triton = pytest.importorskip('triton', reason="Triton isn't installed")
import without_gpu  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, make_backend  # noqa: E402
from triton.runtime.jit import create_function_from_signature  # noqa: E402

from optimcb.engines import triton_kernels, triton_math  # noqa: E402

NOT = ' and '.join(f'not {o}' for o in ('foreach', 'algorithms_on_every', 'float64-finite', 'float32-special', 'bfloat16-finite', 'float16-special', 'copies', 'auto_takes', 'a_reduction_needs',
                                           'inside_of', 'surprises', 'cant_be_had', 'nothing_can', 'adafactor-float32')) # for time's sake
HERE, TARGET, CUOBJDUMP = Path(__file__).parents[1], GPUTarget('cuda', 90, 32), Path(triton.__file__).parent/'backends/nvidia/bin/cuobjdump'


def gpu(test): return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")(test))


@pytest.mark.slow
def test_numbers_by_the_interpreter():
    "In a process of its own, since Triton asks for its interpreter when it is imported"
    folders = str(HERE), str(HERE/'engines'), os.environ.get('PYTHONPATH', '')
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': os.pathsep.join(folders), 'OPTIMCB_CASES': '6'}
    command = [sys.executable, '-m', 'pytest', '-n0', '-q', '-p', 'interpreted', 'interpreted.py',
               'engines/test_engines.py', 'tracing/test_operations.py', 'engines/test_by_torch.py', '-k', NOT]
    res = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-4000:]


# What a GPU would run

@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TRITON_CACHE_DIR', str(tmp_path_factory.mktemp('triton')))
        yield


@pytest.fixture
def programs(monkeypatch):
    "The programs that are launched, which `foreach` then runs"
    seen = []
    class Recorder(foreach.Launch):
        def __init__(self, members, at, plan):
            super().__init__(members, at, plan)
            seen.append(self.program)
    class Lowering: Launch = Recorder
    monkeypatch.setattr(Compilation, 'lowering', lambda self, device: Lowering)
    return seen


OLD = tuple(map(int, triton.__version__.split('.')[:2])) < (3, 3)
CONSTANTS = 'constexprs' if 'constexprs' in inspect.signature(ASTSource).parameters else 'constants' # in Triton 3.2, of torch 2.6
SIGNATURE = {a: '*i64' if a in triton_kernels.ARGUMENTS[:3] else '*fp64' for a in triton_kernels.ARGUMENTS}


def compiled(program, target=TARGET):
    "Each kernel's name, text for a GPU, and what it takes of it"
    found = triton_kernels.functions(triton_kernels.source(program))
    for name in (name for phase in program.passes for name, _ in phase):
        kernel = ASTSource(fn=found[name], signature=SIGNATURE, **{CONSTANTS: {}})
        asm = triton.compile(kernel, target=target, options=triton_kernels.OPTIONS).asm
        yield name, asm['ptx'], asm['cubin']


def first_step(make, dtype=torch.float32, steps=1, **hypers):
    ps = params(dtype=dtype)
    opt = make(ps, lr=0.01, **hypers)
    opt.engine = 'fused'
    for i in range(steps):
        set_grads(ps, i)
        opt.step()


def assert_good(ptx, name, width=4):
    if name.startswith('chunk'):
        assert re.search(rf'ld\.global\.v{width}\.b32', ptx), "elements aren't loaded by vectors"
        assert 'st.global.v' in ptx or '_partial' in ptx or 'st.global.b64' in ptx
    assert not re.search(r'\b(ld|st)\.local', ptx), "registers don't suffice"
    assert not re.search(r'\.(approx|full)\S*\.f32|\.ftz', ptx), "not what IEEE says"


@pytest.mark.parametrize('name, make', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_algorithms_compile(name, make, programs):
    "To kernels that load by vectors, keep all in registers, and neither round nor flush denormals in ways of their own"
    first_step(make, steps=2)
    for program in {triton_kernels.source(p): p for p in programs}.values():
        kernels = list(compiled(program))
        assert kernels
        for name, ptx, _ in kernels: assert_good(ptx, name)


@pytest.mark.slow
@pytest.mark.parametrize('arch', [pytest.param(80, id='A100'), pytest.param(120, id='RTX 50', marks=pytest.mark.skipif(OLD, reason="Triton before 3.3 doesn't know it"))])
@pytest.mark.parametrize('make', [oc.AdamW, oc.Lamb], ids=lambda o: o.__name__)
def test_other_gpus(make, arch, programs):
    "Kernels compile for GPUs before and after the H100, as well"
    first_step(make, steps=2)
    for program in {triton_kernels.source(p): p for p in programs}.values():
        for name, ptx, _ in compiled(program, GPUTarget('cuda', arch, 32)):
            assert f'.target sm_{arch}' in ptx
            assert_good(ptx, name)


@pytest.mark.parametrize('name', ['muon', 'spectral'])
def test_functions_by_torch_are_between_kernels_that_compile(name, programs):
    opt = with_calls(name, 'fused', ps := params())
    set_grads(ps)
    opt.step()
    kernels = [o for p in programs if p.calls for o in compiled(p)]
    assert len(kernels) > 1
    for name, ptx, _ in kernels: assert_good(ptx, name)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize('make', [oc.Adam, oc.Lamb], ids=lambda o: o.__name__)
def test_types_compile(make, dtype, programs):
    first_step(make, dtype)
    for name, ptx, _ in compiled(programs[0]):
        if name.startswith('chunk'): assert re.search(r'ld\.global\.v(4\.b32|2\.b64)', ptx)
        assert dtype != torch.bfloat16 or 'st.global.v' not in ptx or 'cvt.rn.bf16' in ptx
        assert not re.search(r'\b(ld|st)\.local', ptx)


@pytest.mark.skipif(not CUOBJDUMP.exists(), reason="Triton comes without cuobjdump")
@pytest.mark.parametrize('make', [oc.SGD, oc.Adam, oc.Lamb, oc.NAdam], ids=lambda o: o.__name__)
def test_registers_suffice(make, programs, tmp_path):
    "No stack to speak of, and few enough registers that a processor of a GPU has 4,000 elements at a time under way"
    first_step(make)
    for name, _, cubin in compiled(programs[0]):
        (tmp_path/'kernel').write_bytes(cubin)
        usage = subprocess.run([CUOBJDUMP, '-res-usage', tmp_path/'kernel'], capture_output=True, text=True).stdout
        registers, stack = (int(re.search(rf'{k}:(\d+)', usage)[1]) for k in ('REG', 'STACK'))
        assert stack <= 8 and registers <= 128, (name, usage)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_every_function_compiles(dtype, programs):
    "And what NVIDIA computes is computed in float64: in float32 its functions flush denormals"
    def all_of_them(p):
        x = p.data
        for o in (o for o in OPS if '{1}' not in OPS[o].text and o not in ('cast', 'cube', 'cube_root')):
            x = getattr(torch, o)(x).to(p.dtype)
        x = torch.copysign(torch.hypot(x**(1/3), torch.atan2(x, p.grad))**x, p.grad).lerp(p.grad, x)
        return {'out': F.softplus(x), 'most': torch.fmin(torch.maximum(x, p.grad), p.grad)}
    first_step(lambda ps, lr: Optimizer(ps, [all_of_them]), dtype)
    text, = {triton_kernels.source(p) for p in programs}
    assert set(re.findall(r'\b(\w+)\(', text)) >= set(triton_math.__all__) - {'minimum_', 'fma_', 'abs_', 'sign_'}
    (_, ptx, _), = compiled(programs[0])
    assert not re.search(r'(add|mul|fma|div|sqrt|cvt\.r\wi)\S*\.ftz\.f32', ptx)


def odd(p, lr, prev=None, seen=None, count=None, total=False):
    if prev is None:
        prev, seen, count = torch.zeros_like(p, dtype=torch.float32), torch.zeros_like(p, dtype=torch.bool), torch.zeros((), dtype=torch.int64)
    norm = yield p.grad.pow(2).sum()
    p.data.add_((p.grad*prev/norm.sqrt()).to(p.dtype), alpha=-lr)
    return {'prev': p.grad.float(), 'seen': seen | (p.data > 0), 'count': count + 1}


def test_threads_wait_before_they_overwrite_what_others_load(programs):
    "`prev` is loaded by the threads of one layout, and stored by those of another, with what doesn't depend on it"
    first_step(lambda ps, lr: Optimizer(ps, [odd], lr=lr), torch.bfloat16, steps=2)
    kernels = {name: ptx for name, ptx, _ in compiled(next(p for p in programs[::-1] if not all(s.extent is PER_ELEMENT for s in p.stores)))}
    assert list(kernels) == ['chunk0', 'join0', 'tensor1', 'chunk2', 'tensor2']
    for part in kernels['chunk2'].split('bra.uni')[:2]:
        assert re.search(r'ld\.global.*bar\.sync.*st\.global', part, re.DOTALL)
    programs.clear()
    first_step(oc.Adam)
    assert 'debug_barrier' not in triton_kernels.source(programs[0])


def test_nothing_but_types_tells_kernels_apart(programs):
    "Sizes, addresses and numbers aren't compiled in; the source is the same for other numbers"
    for lr, n in ((0.1, 3), (0.2, 1000)):
        ps = [torch.nn.Parameter(torch.ones(n)) for _ in range(n)]
        opt = oc.Adam(ps, lr=lr, wd=lr, eps=lr)
        opt.engine = 'fused'
        for _ in range(3):
            for p in ps: p.grad = torch.ones_like(p)
            opt.step()
    sources = {triton_kernels.source(p) for p in programs}
    assert len(programs) == 4 and len(sources) == 1
    kernel = triton_kernels.functions(sources.pop())['chunk0']
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(TARGET))
    memory = torch.zeros(100, dtype=torch.int64)
    keys = {str(bind(*[memory[i:]]*3, *[memory[i:].double()]*4, **triton_kernels.OPTIONS)[1]) for i in range(3)}
    assert len(keys) == 1, keys


def test_a_compiler_that_fails_is_no_crash(programs, monkeypatch):
    "The eager engine takes over, before anything has changed"
    first_step(oc.Adam)
    def broken(text): raise RuntimeError("no compiler")
    without_gpu.install(monkeypatch.setattr)
    monkeypatch.setattr(triton_kernels, 'functions', broken)
    monkeypatch.setattr(Compilation, 'lowering', lambda self, device: triton_kernels)
    ps = params()
    set_grads(ps)
    with pytest.warns(UserWarning, match="no compiler"): oc.Adam(ps, lr=0.1, engine='auto').step()


# On a GPU

def on_gpu(make, steps=5, device='cuda', dtype=torch.float32, each=lambda opt, i: None):
    "Parameters on the eager engine of the CPU, and on a GPU"
    res = []
    for d, engine in (('cpu', 'eager'), (device, 'fused')):
        ps = [torch.nn.Parameter(p.detach().to(d))
              for p in params([(3, 4), (5,), (2, 3, 2, 2), (), (5000,), (1023,)], dtype)]
        opt = make([{'params': ps[:2]}, {'params': ps[2:], 'lr': 0.003}], lr=0.01)
        opt.engine = engine
        for i in range(steps):
            cpu = params([p.shape for p in ps], dtype)
            set_grads(cpu, i)
            for p, q in zip(ps, cpu): p.grad = q.grad.to(d)
            opt.step()
            each(opt, i)
        res.append([p.detach().cpu() for p in ps])
    return res


@gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('name, make', [c[:2] for c in CASES], ids=[c[0] for c in CASES])
def test_algorithms_on_gpu(name, make, dtype):
    want, got = on_gpu(make, dtype=dtype)
    tol = 5e-6 if dtype == torch.float32 else 1e-13
    for p, q in zip(got, want): torch.testing.assert_close(p, q, rtol=tol, atol=tol*q.abs().max().item())


def stepping(make, n=200, size=3000, device='cuda'):
    "A step to repeat; it has run twice"
    ps = [torch.nn.Parameter(torch.randn(size, device=device)) for _ in range(n)]
    opt = make(ps, lr=0.01)
    opt.engine = 'fused'
    for p in ps: p.grad = torch.randn_like(p)
    for _ in range(2): opt.step()
    return ps, opt


def launched(f):
    "Names of the kernels that a function launches"
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
        f()
        torch.cuda.synchronize()
    return [e.name for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith(('Memcpy', 'Memset'))]


@gpu
@pytest.mark.parametrize('make, kernels', [(oc.SGD, ['chunk0']), (oc.Adam, ['chunk0']), (oc.AMSGrad, ['chunk0']), (oc.Lamb, ['chunk0', 'join0', 'chunk1'])],
                         ids=lambda o: getattr(o, '__name__', ''))
def test_launches_of_a_step(make, kernels):
    _, opt = stepping(make)
    assert launched(opt.step) == kernels


@gpu
@pytest.mark.parametrize('make', [oc.Adam, oc.Lamb, lambda ps, lr: Optimizer(ps, [odd], lr=lr)], ids=['Adam', 'Lamb', 'totals'])
def test_nothing_waits_for_the_gpu(make):
    ps, opt = stepping(make)
    grads = [[torch.randn_like(p) for p in ps] for _ in range(3)]
    torch.cuda.set_sync_debug_mode('error')
    try:
        for gs in grads:
            for p, g in zip(ps, gs): p.grad = g
            opt.step()
    finally: torch.cuda.set_sync_debug_mode('default')


@gpu
def test_numbers_that_are_sent_are_not_overwritten():
    "While the GPU is busy with something else, many steps are queued; each must have its own numbers"
    ps, opt = stepping(oc.SGD, n=3)
    start, total = [p.detach().clone() for p in ps], 0.
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    for i in range(200):
        opt.set_hyper('lr', 1e-4*(i + 1))
        total += 1e-4*(i + 1)
        opt.step()
    for p, q in zip(ps, start): torch.testing.assert_close(p.detach(), q - total*p.grad, rtol=1e-4, atol=1e-4)


@gpu
def test_another_stream():
    "Work that is queued on a stream before the step is done before it, and the other way round"
    stream = torch.cuda.Stream()
    ps, opt = stepping(oc.SGD, n=3, size=1_000_000)
    for p in ps: p.data.zero_()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for p in ps:
            torch.cuda._sleep(20_000_000)
            p.grad = torch.ones_like(p)
        opt.step()
        got = [p.detach().clone() for p in ps]
    stream.synchronize()
    for g in got: torch.testing.assert_close(g, torch.full_like(g, -0.01))


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_two_gpus():
    for device in ('cuda:1', 'cuda:0'):
        want, got = on_gpu(oc.Lamb, device=device)
        for p, q in zip(got, want): torch.testing.assert_close(p, q, rtol=5e-6, atol=1e-6)


@gpu
def test_nothing_is_compiled_for_other_numbers(monkeypatch):
    "Nor are launches built again, whatever was compiled before in this process"
    built = []
    class Counted(triton_kernels.Launch):
        def __init__(self, *args):
            built.append(args)
            super().__init__(*args)
    monkeypatch.setattr(triton_kernels, 'Launch', Counted)
    _, opt = stepping(oc.Adam, n=3)
    known = len(built)
    for i in range(100):
        opt.set_hyper('lr', 0.01/(i + 1))
        opt.set_hyper('wd', 0.01*(i + 1))
        opt.step()
    assert len(built) == known > 0


@gpu
@pytest.mark.parametrize('make', [oc.Adam, oc.Lamb], ids=['Adam', 'Lamb'])
def test_a_cuda_graph_with_other_learning_rates(make):
    "Forward, backward and step are captured; each replay has the numbers of its own step"
    res, x = [], torch.randn(32, 20, device='cuda')
    for captured in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1)).cuda()
        opt, graph = make(model.parameters(), lr=0.01), torch.cuda.CUDAGraph()
        def train(model=model, opt=opt):
            opt.zero_grad(set_to_none=True)
            F.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
            opt.step()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3): train()
        torch.cuda.current_stream().wait_stream(stream)
        if captured:
            with torch.cuda.graph(graph): train()
        torch.cuda.set_sync_debug_mode('error')
        try:
            for i in range(20):
                opt.set_hyper('lr', 0.01/(i + 1))
                if captured:
                    opt.before_replay()
                    graph.replay()
                else: train()
        finally: torch.cuda.set_sync_debug_mode('default')
        res.append([p.detach().clone() for p in model.parameters()])
        assert opt.state[model[0].weight]['step'] == 23
    for p, q in zip(*res): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def with_graph(opt):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): opt.step()
    return graph


@gpu
def test_two_graphs_that_are_replayed_with_and_without_new_numbers():
    "A replay without has those of the capture"
    (ps, opt), (qs, other) = stepping(oc.AdamW, n=3), stepping(oc.AdamW, n=3)
    for p, q in zip(ps, qs):
        q.data.copy_(p.data)
        q.grad.copy_(p.grad)
    other.load_state_dict(opt.state_dict())
    other.step()
    first = with_graph(opt)
    first.replay()
    for p, q in zip(ps, qs): torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    for o in (opt, other): o.set_hyper('lr', 0.1)
    opt.step()
    other.step()
    second = with_graph(opt)
    for p in ps: p.data.zero_()
    opt.set_hyper('lr', 0.)
    for graph in (first, second):
        opt.before_replay()
        graph.replay()
    assert not any(p.any() for p in ps)


@gpu
@pytest.mark.parametrize('free', [lambda opt: opt.load_state_dict(opt.state_dict()), lambda opt: opt.clear_state(), lambda opt: setattr(opt, 'engine', 'fused')],
                         ids=['load_state_dict', 'clear_state', 'engine'])
def test_a_replay_after_state_has_gone_changes_nothing(free):
    ps, opt = stepping(oc.Lamb, n=3)
    opt.step()
    graph = with_graph(opt)
    with pytest.warns(UserWarning, match='a replay of it changes no parameter'): free(opt)
    before = [p.detach().clone() for p in ps]
    junk = [torch.full((3000,), float('nan'), device='cuda') for _ in range(100)] # where state was
    graph.replay()
    assert all(map(torch.equal, ps, before)) and all(x.isnan().all() for x in junk)


@gpu
@pytest.mark.parametrize('make', [oc.SGD, oc.AdamW, oc.Lamb], ids=lambda o: o.__name__)
def test_a_capturable_step_is_replayed_with_no_call(make):
    res = []
    for is_captured in (False, True):
        torch.manual_seed(0)
        ps, opt = stepping(lambda ps, lr: make(ps, lr=torch.tensor(lr), capturable=True), n=3)
        for _ in range(2): opt.step()
        run = with_graph(opt).replay if is_captured else opt.step
        for i in range(5):
            opt.param_groups[0]['lr'].fill_(0.01/(i + 1))
            run()
        res.append([p.detach().clone() for p in ps])
    for p, q in zip(*res): torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@gpu
def test_a_scaler_on_the_gpu():
    "As torch's fused AdamW, steps that are skipped included; nothing waits but for a step that is done"
    res = []
    for make in (oc.AdamW, lambda ps, lr: torch.optim.AdamW(ps, lr, fused=True)):
        ps = [torch.nn.Parameter(p.detach().cuda()) for p in params()]
        opt, scaler = make(ps, lr=0.01), torch.amp.GradScaler('cuda', init_scale=2.**10, growth_interval=2)
        scaler.scale(torch.zeros((), device='cuda'))
        scaled = []
        for i in range(9):
            set_grads(there := params(), i)
            if i in (0, 4): there[1].grad.view(-1)[-1] = float('inf')
            scaled.append([p.grad.cuda() for p in there])
        torch.cuda.set_sync_debug_mode('error')
        try:
            for gs in scaled:
                for p, g in zip(ps, gs): p.grad = g*scaler._scale
                scaler.step(opt)
                scaler.update()
        finally: torch.cuda.set_sync_debug_mode('default')
        res.append([p.detach() for p in ps])
        assert all(s['step'] == 7 for s in opt.state.values())
    for p, q in zip(*res): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
