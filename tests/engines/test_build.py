"The C build: whatever is wrong with compiler, folder or file, a step is right, and says once why it is slow."
import os
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers import params, script, set_grads

import optimcb as oc
from optimcb.engines import c_compiler
from optimcb.engines.runner import CantRun

SCRIPT = """
import sys, time, torch, optimcb as oc
from optimcb.engines import c_compiler as build
built = []
run = build._run
build._run = lambda command: (built.append(1), run(command))
p = torch.nn.Parameter(torch.ones(5)); p.grad = torch.full((5,), 0.5)
t = time.perf_counter()
oc.SGD([p], lr=0.1, mom=0.9, engine='fused').step()
assert torch.allclose(p, torch.tensor(0.95)), p
print(len(built), time.perf_counter() - t)
"""


def step(engine='auto'):
    "One step of SGD; the warnings"
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.full((5,), 0.5)
    opt = oc.SGD([p], lr=0.1, engine=engine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(3): opt.step()
    assert torch.allclose(p, torch.tensor(0.85))
    return [str(w.message) for w in caught]


def test_kernels_are_kept(cache):
    assert step('fused') == []
    kept = list(cache.iterdir())
    assert len(kept) == 2, 'the kernel, and the look at the parameters'
    assert kept[0].suffix == '.so' and stat.S_IMODE(cache.stat().st_mode) == 0o700
    env = {**os.environ, 'OPTIMCB_CACHE_DIR': str(cache)}
    command = [sys.executable, '-c', SCRIPT]
    def run(): return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert [run().split()[0] for _ in range(2)] == ['1', '0'], 'the second process finds it'


def test_nothing_is_written_or_compiled_at_import(cache):
    code = "import torch; from optimcb import *; Adam([torch.nn.Parameter(torch.ones(3))], lr=0.1)"
    env = {**os.environ, 'OPTIMCB_CACHE_DIR': str(cache), 'CC': '/nowhere/cc'}
    command = [sys.executable, '-W', 'error::UserWarning', '-c', code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert not cache.exists() and not done.stderr


@pytest.mark.parametrize('text', ['exit 1', 'echo nonsense >&2; exit 3', 'exit 0', None, 'sleep 60'],
                         ids=['fails', 'complains', 'makes nothing', 'is not there', 'hangs'])
def test_compilers(text, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(c_compiler, 'PATIENCE', 1)
    monkeypatch.setenv('CC', script(tmp_path/'mycc', text) if text else '/nowhere/cc')
    start = time.time()
    said = step()
    assert len(said) == 1 and any(why in said[0] for why in ('mycc', '/nowhere/cc', 'written'))
    assert time.time() - start < 20
    with pytest.raises(CantRun, match="engine='fused'"): step('fused')
    assert step('foreach') == []
    assert not list(cache.glob('*.so'))


def test_the_compiler_is_asked_once_for_a_source(cache, tmp_path, monkeypatch):
    log = tmp_path/'log'
    monkeypatch.setenv('CC', script(tmp_path/'mycc', f'echo x >> {log}; exit 1'))
    for _ in range(3): step()
    assert log.read_text().count('x') == 1


def test_options_of_the_compiler(cache, monkeypatch):
    monkeypatch.setenv('CC', 'cc -DMINE=1')
    assert step('fused') == []
    c_compiler.forget()
    monkeypatch.setenv('CC', 'cc -DMINE=2')
    assert step('fused') == [] and len(list(cache.glob('*.so'))) == 4, 'the kernel, and the look at the parameters'


@pytest.mark.parametrize('harm', ['cut', 'empty', 'changed', 'garbage', 'writable by others', 'a link'])
def test_damaged_and_foreign_files_are_not_loaded(harm, cache, tmp_path):
    step('fused')
    file = next(cache.glob('*.so'))
    good = file.read_bytes()
    c_compiler.forget()
    damaged = {
        'cut': good[:len(good)//2],
        'empty': b'',
        'changed': good[:5000] + b'\0\1\2' + good[5003:],
        'garbage': os.urandom(5000),
    }
    new = damaged.get(harm, good)
    file.unlink()
    if harm == 'a link':
        (tmp_path/'elsewhere').write_bytes(good)
        file.symlink_to(tmp_path/'elsewhere')
    else: file.write_bytes(new)
    file.chmod(0o666 if harm == 'writable by others' else 0o600) if harm != 'a link' else None
    built = c_compiler._run
    calls = []
    c_compiler._run = lambda command: (calls.append(1), built(command))
    try: assert step('fused') == []
    finally: c_compiler._run = built
    assert len(calls) == 1 and c_compiler._intact(file)


def test_a_folder_that_others_can_write_is_not_used(cache):
    cache.mkdir()
    cache.chmod(0o777)
    assert step('fused') == [] and not list(cache.iterdir())


def test_a_folder_that_is_a_file_or_cannot_be_made(cache, tmp_path, monkeypatch):
    cache.write_text('a file')
    assert step('fused') == []
    monkeypatch.setenv('OPTIMCB_CACHE_DIR', '/proc/nowhere')
    c_compiler.forget()
    assert step('fused') == []


def test_a_full_disk(cache, monkeypatch):
    def full(self, text): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_text', full)
    said = step()
    assert len(said) == 1 and 'No space left' in said[0] and 'OPTIMCB_CACHE_DIR' in said[0]


def test_processes_that_build_at_once_one_of_them_killed(cache):
    env = {**os.environ, 'OPTIMCB_CACHE_DIR': str(cache)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ps = [subprocess.Popen([sys.executable, '-c', SCRIPT], env=env, **pipes) for _ in range(4)]
    time.sleep(2)
    ps[0].kill()
    out = [p.communicate() for p in ps]
    assert all(p.returncode == 0 for p in ps[1:]), out
    assert len(list(cache.glob('*.so'))) == 1


def test_the_first_step_of_many_parameters_costs_no_more_compiling(cache):
    ps = params([(3,)]*500)
    set_grads(ps[:1])
    for p in ps: p.grad = torch.ones(3)
    calls, run = [], c_compiler._run
    c_compiler._run = lambda command: (calls.append(1), run(command))
    try:
        opt = oc.Adam(ps, lr=0.1)
        for i in range(30):
            opt.set_hypers(lr=0.1/(i+1), mom=0.9 - i/100, wd=0.1*i, eps=1e-5*(i+1), sqr_mom=0.9 + i/1000)
            opt.step()
    finally: c_compiler._run = run
    assert len(calls) == 3, 'one with weight decay, one without, and the look at the parameters'


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    "But not what another one may be building now"
    monkeypatch.setattr(c_compiler, 'folder', lambda: tmp_path)
    for name, age in (('build-old', 2*c_compiler.DAY), ('build-new', 60)):
        (tmp_path/name).mkdir()
        (tmp_path/name/'k.c').write_text('')
        os.utime(tmp_path/name, (time.time() - age,)*2)
    c_compiler._load(f'int f(void) {{ return {os.getpid()}; }}')
    assert not (tmp_path/'build-old').exists() and (tmp_path/'build-new').exists()


def test_a_folder_that_was_removed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(c_compiler, 'folder', lambda: tmp_path/'gone')
    c_compiler._load(f'int g(void) {{ return {os.getpid()}; }}')
    assert stat.S_IMODE((tmp_path/'gone').stat().st_mode) == 0o700
