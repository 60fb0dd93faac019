"The machine, the host's time, the project's own tests, training, and hardware counters."
import importlib.util
import json
import os
import platform
import re
import shutil
import statistics
import sys
import sysconfig
import time
from pathlib import Path
from xml.etree import ElementTree

import torch

from optimcb.bench.sets import parameters
from optimcb.hypers.values import hypers_of
from proof.device import command
from proof.speed import ours, theirs

__all__ = ['counters', 'first', 'host', 'machine', 'sanitizer', 'tests', 'train']


def machine(
    results, # Takes what is known of the machine
    device, # `Device`
    options # Options of the command
):
    "Name the machine; measure its copy bandwidth; try Triton."
    results.attempt('machine', _machine, device)
    results.attempt('bandwidth', _bandwidth, device)
    if not device.dry: results.attempt('triton', _try_triton, options)


def _machine(device):
    res = dict(name=platform.machine(), cpus=os.cpu_count(), python=platform.python_version(),
               compiler=shutil.which('gcc') or shutil.which('cc'), torch=torch.__version__,
               python_h=(Path(sysconfig.get_paths()['include'])/'Python.h').exists())
    for k in ('triton', 'fastai', 'fastcore', 'pytest', 'numpy'):
        res[k] = getattr(__import__(k), '__version__', '?') if importlib.util.find_spec(k) else 'none'
    if not device.dry:
        gpu = torch.cuda.get_device_properties(0)
        res |= dict(name=gpu.name, processors=gpu.multi_processor_count, memory=gpu.total_memory,
                    capability=f'{gpu.major}.{gpu.minor}', gpus=torch.cuda.device_count())
        if shutil.which('nvidia-smi'):
            what = '--query-gpu=driver_version,clocks.sm,clocks.mem'
            res['driver'] = command(['nvidia-smi', what, '--format=csv,noheader'], 20)[0].strip()
    return res


def _bandwidth(device):
    "Bytes a second that a copy reads and writes"
    res = {}
    for mib in (1,) if device.dry else (256, 1024, 4096):
        x = torch.randn(mib << 18, device=device.type)
        y = torch.empty_like(x)
        res[f'copy {mib} MiB'] = 2*x.nbytes/device.busy(lambda x=x, y=y: y.copy_(x), 1e-5, 10)
    return res


TWICE = '''
import triton
import triton.language as tl

@triton.jit
def twice(x, n, B: tl.constexpr):
    i = tl.program_id(0)*B + tl.arange(0, B)
    tl.store(x + i, tl.load(x + i, i < n)*2, i < n)
'''


def _try_triton(options):
    (options.work/'twice_kernel.py').write_text(TWICE)
    sys.path.insert(0, str(options.work))
    from twice_kernel import twice
    x = torch.arange(1000., device='cuda')
    start = time.perf_counter()
    twice[(8,)](x, 1000, 128)
    torch.cuda.synchronize()
    return dict(first=time.perf_counter() - start, ok=torch.equal(x, torch.arange(1000., device='cuda')*2))


# The host

def host(
    results, # Takes a result for each optimizer and number of tensors
    device, # `Device`
    options # Options of the command
):
    "Measure the host's time of a step, by the number of tensors, and the parts of one."
    makers = {'optimcb AdamW': ours('AdamW'), 'torch AdamW': theirs('AdamW')['torch fused'],
              'optimcb SGD': ours('SGD'), 'torch SGD': theirs('SGD')['torch fused']}
    for n in (1, 5) if device.dry else (1, 110, 2000, 10000):
        for k, make in makers.items(): results.attempt(f'{k} {n}', _host, make, n, device)
    for name in ('AdamW', 'Lamb'): results.attempt(f'parts of {name}', _parts, name, device)


def _host(make, n, device):
    "With the same gradients, and with new ones"
    ps = parameters([(64,)]*n, torch.float32, device.type)
    grads, opt = [[torch.randn_like(p) for p in ps] for _ in range(2)], make(ps)
    for _ in range(4): opt.step()
    def swap():
        grads.reverse()
        for p, g in zip(ps, grads[0]): p.grad = g
    repeats = 3 if device.dry else max(12, min(100, 60000//n))
    return dict(same=device.times(opt.step, repeats)[1], new=device.times(opt.step, repeats, swap)[1])


def _parts(name, device):
    "Of a step on 110 tensors"
    opt = ours(name)(parameters([(64,)]*(5 if device.dry else 110), torch.float32, device.type))
    for _ in range(4): opt.step()
    runner, hypers = opt._running, hypers_of(opt.param_groups, opt.hyper_names)
    from optimcb.engines.grad_scaling import NOT_SCALED
    prepared = runner.compilation.prepare(runner.plan, hypers, NOT_SCALED)
    (launch, of), = prepared.launches
    def start(): launch.start([prepared.recordings[i] for i in of], runner.plan)
    parts = dict(step=opt.step, plan=lambda: runner.plan.is_unchanged(opt, opt.composition),
                 prepare=lambda: runner.compilation.prepare(runner.plan, hypers, NOT_SCALED), start=start)
    return {k: _cost(f, device) for k, f in parts.items()}


def _cost(f, device):
    times = []
    for _ in range(5 if device.dry else 200):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    device.sync()
    return statistics.median(times)


FIRST = '''
import json, sys, time
marks = [time.perf_counter()]
def mark(): marks.append(time.perf_counter())
import torch; mark()
import optimcb; mark()
device, which, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
ps = [torch.nn.Parameter(torch.randn(64, 64, device=device)) for _ in range(n)]
for p in ps: p.grad = torch.randn_like(p)
sync = torch.cuda.synchronize if device == 'cuda' else int
sync(); mark()
if which == 'torch': opt = torch.optim.AdamW(ps, lr=1e-3, fused=True)
else: opt = getattr(optimcb, which)(ps, lr=1e-3, engine='fused')
for _ in range(3): opt.step(); sync(); mark()
names = 'import_torch', 'import_optimcb', 'device', 'first', 'second', 'third'
print(json.dumps(dict(zip(names, (b - a for a, b in zip(marks, marks[1:]))))))
'''


def first(
    results, # Takes a result for each optimizer and cache
    device, # `Device`
    options # Options of the command
):
    "Measure the first step in a new process, with empty caches and again."
    def one(which, cache):
        env = os.environ | dict(TRITON_CACHE_DIR=str(cache/'triton'), OPTIMCB_CACHE_DIR=str(cache/'optimcb'))
        n = '3' if device.dry else '110'
        out, status = command([sys.executable, '-c', FIRST, device.type, which, n], 60, env=env)
        if status: raise RuntimeError(out[-300:])
        return json.loads(out.splitlines()[-1])
    for which in ('AdamW',) if device.dry else ('AdamW', 'Lamb', 'torch'):
        cache = options.work/f'cache of {which}'
        shutil.rmtree(cache, ignore_errors=True)
        kinds = ('warm',) if which == 'torch' else ('cold', 'warm')
        for kind in kinds: results.attempt(f'{which} {kind}', one, which, cache)


# The project's own tests

def tests(
    results, # Takes the outcome
    device, # `Device`
    options # Options of the command
):
    "Run the tests that need a GPU; in a dry run, a few that don't."
    results.attempt('pytest', _pytest, device, options)


def _pytest(device, options):
    xml = options.work/'tests.xml'
    which = ['-k', 'nothing_but_types'] if device.dry else ['-m', 'gpu']
    args = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-o', 'addopts=', *which]
    if importlib.util.find_spec('xdist') and not device.dry: args += ['-n', '5', '--dist', 'load']
    args.append(f'--junitxml={xml}')
    out, status = command([*args, 'tests/engines/test_cuda.py'], options.seconds - 5, cwd=options.repo)
    print(out)
    cases = list(ElementTree.parse(xml).iter('testcase')) if xml.exists() else []
    failed = {c.get('name'): ' '.join((o.get('message') or '').split())[:300]
              for c in cases for o in c if o.tag in ('failure', 'error')}
    skipped = sum(o.tag == 'skipped' for c in cases for o in c)
    return dict(status=status, ran=len(cases) - skipped, skipped=skipped, failed=failed, ok=status == 0)


# Training

def train(
    name:str, # An optimizer of `examples/imagenette.py`
    whose:str, # 'optimcb' or 'fastai'
    results, # Takes a result for each seed
    device, # `Device`
    options # Options of the command
):
    "Train a ResNet from scratch on Imagenette, in fp16 with one-cycle, from several seeds."
    for seed in options.seeds: results.attempt(f'seed {seed}', _train, name, whose, seed, device, options)


def _train(name, whose, seed, device, options):
    args = ['--opts', name, '--seed', str(seed), '--plot', str(options.work/f'{whose}_{name}_{seed}.png')]
    if device.dry: how = '--arch resnet18 --epochs 1 --size 32 --pct 0.02 --bs 16'
    else: how = f'--arch resnet34 --epochs {options.epochs} --size 128 --workers 4'
    args += how.split()
    if options.data: args += ['--data', options.data]
    script = options.repo/'benchmarks'/'proof'/'train.py'
    out, status = command([sys.executable, str(script), whose, *args], options.seconds - 5, cwd=options.repo)
    print(out)
    row = re.search(rf'^{name} +([\d.e-]+) +own +(\S+) +(\S+) +([\d.]+)% +([\d.]+)$', out, re.M)
    if not row: raise RuntimeError(f'it ended with {status}: {out[-300:]}')
    lr, train_loss, valid_loss, accuracy, seconds = map(float, row.groups())
    res = dict(lr=lr, train_loss=train_loss, valid_loss=valid_loss, accuracy=accuracy/100, seconds=seconds)
    return res | dict(data='Imagenette' if options.data else 'digits')


# On request

COUNTED = ['SpeedOfLight', 'Occupancy', 'MemoryWorkloadAnalysis'] # sections of Nsight Compute
ONE_LARGE = '''
import torch, optimcb
p = torch.nn.Parameter(torch.randn(50_000_000, device='cuda'))
p.grad = torch.randn_like(p)
opt = optimcb.AdamW([p], lr=1e-3, engine='fused')
for _ in range(3): opt.step()
torch.cuda.synchronize()
'''
ODD_SIZES = '''
import torch, optimcb
for algorithm in (optimcb.AdamW, optimcb.Lamb, optimcb.Prodigy):
    ps = [torch.nn.Parameter(torch.randn(n, device='cuda')) for n in (1, 7, 1023, 1025, 5000)]
    for p in ps: p.grad = torch.randn_like(p)
    opt = algorithm(ps, lr=1e-3, engine='fused')
    for _ in range(3): opt.step()
torch.cuda.synchronize()
'''


def counters(
    results, # Takes the outcome
    device, # `Device`
    options # Options of the command
):
    "Read the hardware counters of AdamW's kernel on 50 M elements, by Nsight Compute."
    def one():
        args = 'ncu --clock-control none --kernel-name chunk0 --launch-skip 1 --launch-count 1'.split()
        for o in COUNTED: args += ['--section', o]
        out, status = command([*args, sys.executable, '-c', ONE_LARGE], options.seconds - 5)
        lines = [' '.join(o.split()) for o in out.splitlines()]
        wanted = r'Throughput|Occupancy|Registers|Hit Rate|Duration|Bandwidth'
        return dict(status=status, lines=[o for o in lines if re.search(wanted, o)] or lines[-5:])
    if not device.dry: results.attempt('AdamW', one)


def sanitizer(
    results, # Takes the outcome
    device, # `Device`
    options # Options of the command
):
    "Check the memory accesses of steps on odd sizes, by compute-sanitizer."
    def one():
        args = ['compute-sanitizer', '--tool', 'memcheck', sys.executable, '-c', ODD_SIZES]
        out, status = command(args, options.seconds - 5)
        return dict(status=status, said=out[-600:], ok='ERROR SUMMARY: 0 errors' in out)
    if not device.dry: results.attempt('memcheck', one)
