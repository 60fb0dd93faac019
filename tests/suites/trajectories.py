"""Trajectories of every algorithm, to the bit: recorded before a change that should change no number, and compared after it.

    python tests/suites/trajectories.py record FILE     # steps every algorithm of the catalog, and saves its state in both formats
    python tests/suites/trajectories.py compare FILE    # steps again, and goes on from what was saved

Bits depend on the processor and on torch's version, so a file holds for the machine that made it.
"""
import io
import sys
import warnings
from pathlib import Path

import torch

import optimcb as oc

SHAPES = [(3, 4), (5,), (2, 3, 2, 2), (), (16, 8)]
STEPS = 30
ENGINES = ('eager', 'foreach', 'fused', 'auto')
DTYPES = (torch.float32, torch.bfloat16)
PARTS = ('clip_norm', 'cautious', 'ema_weights', 'accumulate', 'agc', 'centralize', 'grokfast', 'trust_ratio',
         'swa_weights')


def algorithms() -> dict:
    "Every algorithm, some variants that choose other steppers, and AdamW with each of some parts"
    named = {name: o for name, o in vars(oc).items() if type(o).__name__ == 'Algorithm'}
    variants = {'SGD, momentum': oc.SGD.wrap(), 'SGD, nesterov': oc.SGD, 'RMSProp, centered': oc.RMSProp,
                'Adam, l2': oc.Adam}
    wrapped = {f'AdamW with {k}': oc.AdamW.wrap(getattr(oc, k)) for k in PARTS if hasattr(oc, k)}
    return {**named, **variants, **wrapped}


OPTIONS = {'SGD, momentum': dict(mom=0.9), 'SGD, nesterov': dict(mom=0.9, nesterov=True),
           'RMSProp, centered': dict(mom=0.9, centered=True), 'Adam, l2': dict(wd=0.1, decouple_wd=False)}


def parameters(dtype) -> list:
    "The same random parameters each time"
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for s in SHAPES]


def steps(opt, ps, first, last):
    "Steps `first` to `last`, with the same random gradients each time; now and then one is missing"
    for i in range(first, last):
        g = torch.Generator().manual_seed(1000 + i)
        for j, p in enumerate(ps):
            grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
            p.grad = None if (i, j) in ((4, 1), (9, 0)) else grad
        opt.set_hyper('lr', 0.01 * (1 + i % 5))
        opt.step()


def run(name, algo, engine, dtype) -> dict|None:
    "Where the parameters and their state are after all steps, and what can be saved half way; None where the engine can't have it"
    torch.manual_seed(0)
    ps = parameters(dtype)
    try:
        opt = algo([(f'p{i}', p) for i, p in enumerate(ps)], lr=0.01, engine=engine, **OPTIONS.get(name, {}))
        steps(opt, ps, 0, STEPS//2)
        saved, half = io.BytesIO(), [p.detach().clone() for p in ps]
        torch.save(opt.state_dict(), saved)
        steps(opt, ps, STEPS//2, STEPS)
    except RuntimeError as e:
        if "can't run" in str(e) or "can't be had" in str(e): return None
        raise
    return dict(params=[p.detach().clone() for p in ps], states=[dict(opt.state[p]) for p in ps], half=half,
                saved=saved.getvalue())


def resumed(name, algo, engine, dtype, half, saved) -> list:
    "Parameters after the second half of the steps, from what was saved"
    ps = [torch.nn.Parameter(p.clone()) for p in half]
    opt = algo([(f'p{i}', p) for i, p in enumerate(ps)], lr=0.01, engine=engine, **OPTIONS.get(name, {}))
    opt.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    steps(opt, ps, STEPS//2, STEPS)
    return [p.detach() for p in ps]


def same(a, b) -> bool:
    "Are these the same to the bit?"
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(7.), b.nan_to_num(7.))
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b


def everything():
    "Each case, with what it is called"
    for name, algo in algorithms().items():
        for engine in ENGINES:
            for dtype in DTYPES: yield f'{name}, {engine}, {dtype}', (name, algo, engine, dtype)


def record(path):
    "Record all of them"
    found = {key: run(*case) for key, case in everything()}
    torch.save(found, path)
    print(f'{len(found)} trajectories, {sum(v is None for v in found.values())} that the engine refuses')


def compare(path):
    "Print what is other than it was. Exits with 1 if something is"
    known, odd = torch.load(path, weights_only=True), []
    now = dict(everything())
    for key, old in known.items():
        if key not in now: odd.append(f'{key}: gone')
        elif (new := run(*now[key])) is None or old is None: odd += [f'{key}: refused'] if new is not old else []
        elif not same(old['params'], new['params']): odd.append(f'{key}: other parameters')
        elif not same(old['states'], new['states']): odd.append(f'{key}: other state')
        elif not same(old['params'], resumed(*now[key], old['half'], old['saved'])):
            odd.append(f'{key}: resumed otherwise')
    print('\n'.join(odd) or f'{len(known)} trajectories are the same to the bit, and go on from what was saved')
    return bool(odd)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    what, path = sys.argv[1:]
    sys.exit(record(Path(path)) if what == 'record' else compare(Path(path)))
