"""Training that is killed, out of disk or not allowed to write: `python interrupted.py folder suffix`.

Processes are forked, so that torch is imported once. It is left with an error if anything is not as it should be."""
import os
import random
import resource
import signal
import sys
from pathlib import Path

import numpy.random  # noqa: F401 — before a fork that may not read where it lies
import torch

import optimcb as oc
from optimcb.state import files

STEPS = 60


def train(path, report=lambda: None):
    "Train from where the file is, and save every third step"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 300), torch.nn.Tanh(), torch.nn.Linear(300, 5))
    opt, step = oc.Lookahead(oc.Adam(model.named_parameters(), lr=0.01), k=4), 0
    opt.engine = 'eager'
    if path.exists():
        extra = oc.load_state(opt, path)
        model.load_state_dict(extra['model'])
        step = extra['step']
    while step < STEPS:
        opt.set_hyper('lr', 0.01 / (1 + step))
        x = torch.randn(8, 20, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        opt.step()
        opt.zero_grad()
        step += 1
        if step % 3 == 0: oc.save_state(opt, path, extra=dict(model=model.state_dict(), step=step))
        report()


def forked(f) -> int:
    "How a process that calls `f` ends"
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try: f()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def killed_after(n, path) -> bool:
    "Train, killed from outside when `n` steps have been reported, wherever it is by then. Was it?"
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        train(path, lambda: os.write(w, b'.'))
        os._exit(0)
    os.close(w)
    with open(r, 'rb', buffering=0) as reports: got = sum(len(reports.read(1)) for _ in range(n))
    if got == n: os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def die(*args): os.kill(os.getpid(), signal.SIGKILL)


class Half:
    "A file of which half is written when the process dies"
    def __init__(self, *args): self.f = open(*args)
    def __enter__(self): return self
    def __exit__(self, *args): self.f.close()
    def write(self, data):
        if len(data) < 1000: return self.f.write(data) # torch writes in parts
        self.f.write(data[:len(data)//2])
        self.f.flush()
        die()


def dies_in(path, where, nth):
    "Train, killed at the `nth` save, at a place inside"
    def run():
        saves = iter(range(nth))
        write = files._write
        def counted(*args):
            if next(saves) == nth - 1:
                if where == 'write': files.open = Half
                else:
                    real = getattr(os, where.split()[-1])
                    setattr(os, where.split()[-1], lambda *a: (real(*a), die()) if 'after' in where else die())
            write(*args)
        files._write = counted
        train(path)
    return forked(run)


def refused(path, kind):
    "A save that fails with an error of the system, by a process of its own, which then may load"
    opt = oc.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    try: oc.save_state(opt, path, extra=torch.ones(10_000))
    except kind: return
    raise AssertionError(f'{path} was written')


def full(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    refused(path, OSError)


def read_only(path):
    if os.geteuid() == 0: os.setuid(65534)
    refused(path, PermissionError)


def main(folder, suffix):
    torch.set_num_threads(1)
    one, other = folder/f'one{suffix}', folder/f'other{suffix}'
    assert forked(lambda: train(one)) == 0
    rng, kills = random.Random(0), 0
    for where in ('write', 'fsync', 'after fsync', 'replace', 'after replace'): # of the first save, and of a later one
        kills += dies_in(other, where, rng.randint(1, 3)) == -signal.SIGKILL
    left = list(folder.glob('.*.tmp'))
    while killed_after(rng.randint(2, 14), other): kills += 1
    a, b = (torch_state(p) for p in (one, other))
    assert files._crc32(a) == files._crc32(b) and a['saved_extra']['step'] == STEPS
    assert kills >= 8 and left, (kills, left)
    for f in folder.glob('.*.tmp'): f.unlink()
    before = other.read_bytes()
    assert forked(lambda: full(other)) == 0 and forked(lambda: full(folder/f'new{suffix}')) == 0
    folder.chmod(0o555)
    assert forked(lambda: read_only(other)) == 0
    folder.chmod(0o755)
    assert other.read_bytes() == before and {p.name for p in folder.iterdir()} == {one.name, other.name}
    print(f'{kills} kills')


def torch_state(path): return files._read(path)


if __name__ == '__main__': main(Path(sys.argv[1]), sys.argv[2])
