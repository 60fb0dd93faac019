"`python -m optimcb` and `doctor()` say what is there and what runs, also where something is missing."
import os
import subprocess
import sys
import types
from dataclasses import fields
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import optimcb
from optimcb import doctor, environment
from optimcb.diagnosis.engine_choice import _engine_for
from optimcb.environment import Environment


def printed(before='pass', **env) -> dict[str, str]:
    "What the command prints, by the label of the line, in a process with these environment variables"
    code = f"import runpy, sys; {before}; runpy.run_module('optimcb', run_name='__main__')"
    done = subprocess.run([sys.executable, '-c', code], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(fields(Environment))
    return dict(line.split('  ', 1) for line in lines)


def stripped(found): return {k: v.strip() for k, v in found.items()}


@pytest.fixture(scope='module')
def here(): return stripped(printed())


def test_versions_are_those_that_are_installed(here):
    assert here['optimcb'] == f'{optimcb.__version__}, in {Path(optimcb.__file__).parent}'
    assert here['Python'].startswith(sys.version.split()[0]) and here['torch'].startswith(torch.__version__)
    assert here['fastcore'] == version('fastcore')


def test_the_command_prints_what_doctor_returns(here):
    found = doctor()
    assert isinstance(found, Environment) and repr(found) == str(found)
    assert [line.split('  ')[0] for line in str(found).splitlines()] == list(here)
    assert found.torch == here['torch'] and found.compiler == here['C compiler'] and found.on_cpu == here['on the CPU']


def test_every_field_has_a_line_and_is_said(here):
    assert all(here.values()) and all(isinstance(getattr(doctor(), f.name), str) for f in fields(Environment))


def test_the_engine_is_the_one_that_steps(here):
    p = torch.nn.Parameter(torch.zeros(8))
    p.grad = torch.zeros(8)
    opt = optimcb.AdamW([p], lr=1e-3)
    opt.step()
    assert here['on the CPU'] == '; '.join(opt.explain().engine)


def test_without_a_compiler():
    found = stripped(printed(CC='/no/compiler'))
    assert found['C compiler'].startswith('none: there is no C compiler') and 'CC=/no/compiler' in found['settings']
    assert found['on the CPU'].startswith('eager') and 'there is no C compiler' in found['on the CPU']


def test_with_a_compiler_that_fails(tmp_path):
    "It is there and tells its version, but what runs is found by a step"
    fails = tmp_path/'cc'
    fails.write_text('#!/bin/sh\ntest "$1" = --version && echo "broken 1.0" && exit\necho no disk; exit 1\n')
    fails.chmod(0o755)
    found = stripped(printed(CC=str(fails), OPTIMCB_CACHE_DIR=str(tmp_path/'kernels')))
    assert found['C compiler'].startswith(f'{fails} (broken 1.0), -O3')
    assert found['on the CPU'].startswith('eager') and 'no disk' in found['on the CPU']


def test_with_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path/'file').touch()
    found = stripped(printed(OPTIMCB_CACHE_DIR=str(tmp_path/'file'/'kernels')))
    assert f"as {tmp_path/'file'/'kernels'} can't be written" in found['cache'] and 'writable' not in found['cache']


def test_with_a_cache_its_size_is_told(tmp_path):
    (tmp_path/'kernels').mkdir(mode=0o700)
    (tmp_path/'kernels'/'a.so').write_bytes(bytes(3*2**20))
    found = stripped(printed(OPTIMCB_CACHE_DIR=str(tmp_path/'kernels')))
    assert found['cache'] == f"{tmp_path/'kernels'}, 1 kernels, 3.0 MiB, writable"


def test_without_triton():
    found = stripped(printed("sys.modules['triton'] = None"))
    assert found['Triton'].startswith('none: ')
    if not torch.cuda.is_available(): assert 'foreach' in found['on a GPU']


def test_explanations_say_that_triton_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    on_gpu = types.SimpleNamespace(reason=None, example=types.SimpleNamespace(device=torch.device('cuda')), program=None)
    engine, why = _engine_for(on_gpu, 'auto')
    assert engine == 'foreach' and why.startswith("Triton can't be imported")


def test_without_fastai(monkeypatch):
    def lacks(package):
        if package == 'fastai': raise PackageNotFoundError(package)
        return version(package)
    monkeypatch.setattr(environment, 'version', lacks)
    assert doctor().fastai == 'not installed'


def test_a_step_that_fails_is_told(monkeypatch):
    "As on a GPU whose driver is broken: whatever fails, there is something to report"
    gpu = types.SimpleNamespace(name='H100', total_memory=80*2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda i: gpu)
    def breaks(*args, **kwargs): raise RuntimeError('driver')
    monkeypatch.setattr(environment, 'AdamW', breaks)
    found = doctor()
    assert found.gpu == 'H100 (80 GiB, sm_90)'
    assert found.on_cpu == 'a step fails: RuntimeError: driver' and found.on_cuda.startswith('a step fails: ')


def test_importing_the_module_prints_nothing(capsys):
    import_module('optimcb.__main__')
    assert not capsys.readouterr().out
