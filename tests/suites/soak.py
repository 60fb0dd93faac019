"""Long runs that nobody waits for in the tests: memory that must stay flat, and times that must grow with the number of tensors only.

    python tests/suites/soak.py                      # all of it
    python tests/suites/soak.py flat --steps 1000000 # one part, longer

- flat: a small model, a new learning rate in each step and a state dict in every 1,000th, after `step()` and in backward.
- coming: gradients that come and go at random, against the eager engine.
- many: 2,500, 5,000 and 10,000 tensors. What is quadratic takes 16 times as long for four times as many: 12 is an error.

Ends with status 1 if something grew.
"""
import argparse
import gc
import sys
import time
import warnings
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS/"engines"), str(TESTS.parent)]
from helpers import params  # noqa: E402
from test_stress import coming_and_going  # noqa: E402

import optimcb as oc  # noqa: E402
from optimcb.engines import c_compiler  # noqa: E402

failed = []


def check(what, right):
    "Say it, and remember if it is wrong"
    print(f"  {'right' if right else 'WRONG'}: {what}", flush=True)
    if not right: failed.append(what)


def resident() -> float:
    "MiB of the process, on Linux"
    try: return int(Path('/proc/self/statm').read_text().split()[1])*4096/2**20
    except OSError: return 0.


def usage():
    gc.collect()
    return len(gc.get_objects()), resident()


def grown(before, what):
    objects, mib = (b - a for a, b in zip(before, usage()))
    check(f'{what}: {objects:+} objects, {mib:+.1f} MiB of the process', objects < 500 and mib < 8)


def flat(steps):
    for inside in (False, True):
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        opt, x = oc.Adam(model.parameters(), lr=0.01, wd=0.1), torch.ones(4, 8)
        handle = oc.step_in_backward(opt) if inside else None
        def train(n, model=model, opt=opt, x=x):
            for i in range(n):
                opt.set_hyper('lr', 0.01/(1 + i))
                model(x).square().mean().backward()
                opt.step()
                opt.zero_grad(set_to_none=True)
                if i % 1000 == 0: sd = opt.state_dict()
            return sd
        train(max(2000, steps//10))
        before, start = usage(), time.time()
        train(steps)
        grown(before, f"{steps} steps {'in backward' if inside else 'after backward'}, {(time.time() - start)/steps*1e6:.0f} µs each")
        if handle: handle.remove()


def coming(steps):
    runs = {e: params([(3,), (4, 2), (), (5,), (2, 2), (7, 3)], dtype=torch.float64)
            for e in ('eager', 'foreach', 'fused')}
    for engine, ps in runs.items():
        for p in ps: p.grad = None
        opt = oc.Adam(ps, lr=1e-3, wd=0.1, engine=engine)
        coming_and_going(opt, ps, 200)
        kernels = len(c_compiler._loaded)
        before = usage()
        coming_and_going(opt, ps, steps, 1)
        grown(before, f'{steps} steps with gradients that come and go, {engine}')
        check(f'no new kernels, {len(opt._running.programs) if engine != "eager" else 0} programs',
              len(c_compiler._loaded) == kernels)
    for engine, ps in runs.items():
        far = max((p - q).abs().max().item() for p, q in zip(ps, runs['eager']))
        check(f'{engine} is {far:.1e} from eager at the end', far < 1e-9)


def many(steps):
    times = {}
    def timed(what, f):
        gc.collect()
        start = time.process_time()
        res = f()
        times.setdefault(what, []).append(time.process_time() - start)
        return res
    for n in (2500, 5000, 10_000):
        ps = [torch.nn.Parameter(torch.ones(8)) for _ in range(n)]
        for p in ps: p.grad = torch.ones(8)
        opt = timed('construction', lambda ps=ps: oc.Adam(ps, lr=0.01))
        for what in ('first step', 'second step'): timed(what, opt.step)
        timed('10 later steps', lambda opt=opt: [opt.step() for _ in range(10)])
        sd = timed('state_dict', opt.state_dict)
        timed('load_state_dict', lambda opt=opt, sd=sd: opt.load_state_dict(sd))
        timed('explain', lambda opt=opt: str(opt.explain()))
        timed('step after load', opt.step)
        half = ps[::2]
        for p in half: p.grad = None
        timed('step with half of them', opt.step)
        for p in half: p.grad = torch.ones(8)
        handle = timed('step_in_backward', lambda opt=opt: oc.step_in_backward(opt))
        opt.zero_grad(set_to_none=True)
        for what in ('first', 'second', 'third'):
            timed(f'{what} backward that steps', lambda ps=ps: torch.stack([p.sum() for p in ps]).sum().backward())
        handle.remove()
    for what, (a, b, c) in times.items():
        check(f'{what}: {a*1e3:.1f}, {b*1e3:.1f}, {c*1e3:.1f} ms', c < max(12*a, 0.05))


PARTS = dict(flat=flat, coming=coming, many=many)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('parts', nargs='*', choices=[*PARTS, []], help=f"of {', '.join(PARTS)} (default: all)")
    p.add_argument('--steps', type=int, help='default: 100,000 for flat, 10,000 for coming')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    for part in a.parts or PARTS:
        print(part, flush=True)
        PARTS[part](a.steps or dict(flat=100_000).get(part, 10_000))
    sys.exit(bool(failed))
