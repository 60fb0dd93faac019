"Triton's key is kept: a process that finds its kernels in Triton's cache doesn't read Triton's files."
import os
import subprocess
import sys
from importlib import import_module

import pytest

pytest.importorskip('triton')
from optimcb.engines import c_compiler, triton_key  # noqa: E402

MODULE = next(m for m in map(import_module, triton_key.MODULES) if hasattr(m, 'triton_key'))
COMPILE = """
import inspect, sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import optimcb as oc
from optimcb.engines import foreach, triton_kernels
from optimcb.engines.compilation import Compilation
from optimcb.engines.triton_key import MODULES, provide_key
programs = []
class Launch(foreach.Launch):
    def __init__(self, members, at, plan):
        super().__init__(members, at, plan)
        programs.append(self.program)
Compilation.lowering = lambda self, device: type('', (), {'Launch': Launch})
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
oc.AdamW([p], lr=0.1, engine='fused').step()
taken = provide_key()
if taken: # what would be worked out isn't asked for
    import builtins
    def refuse(file, *args, plain=builtins.open, **kwargs):
        assert 'libtriton' not in str(file), 'the file was read'
        return plain(file, *args, **kwargs)
    builtins.open = refuse
found = triton_kernels.functions(triton_kernels.source(programs[0]))
[f] = [found[name] for phase in programs[0].passes for name, _ in phase]
signature = {a: '*i64' if a in triton_kernels.ARGUMENTS[:3] else '*fp64' for a in triton_kernels.ARGUMENTS}
constants = 'constexprs' if 'constexprs' in inspect.signature(ASTSource).parameters else 'constants'
kernel = triton.compile(ASTSource(fn=f, signature=signature, **{constants: {}}), target=GPUTarget('cuda', 90, 32), options=triton_kernels.OPTIONS)
print(taken, kernel.hash)
"""


@pytest.fixture
def fresh(cache, monkeypatch):
    "A cache of one's own, and no key yet"
    triton_key.provide_key.cache_clear()
    monkeypatch.setattr(MODULE, 'triton_key', MODULE.triton_key)
    yield cache
    triton_key.provide_key.cache_clear()


@pytest.mark.slow
def test_a_second_process_takes_the_key(tmp_path):
    "And the kernel that the first one has compiled"
    env = {**os.environ, 'OPTIMCB_CACHE_DIR': str(tmp_path/'ours'), 'TRITON_CACHE_DIR': str(tmp_path/'theirs')}
    def compiled():
        done = subprocess.run([sys.executable, '-c', COMPILE], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    [first, hash], [second, same] = compiled(), compiled()
    assert (first, second) == ('False', 'True') and hash == same


def test_the_key_is_tritons(fresh):
    plain = MODULE.triton_key
    expected = plain()
    assert not triton_key.provide_key() and MODULE.triton_key is plain # worked out, and kept
    triton_key.provide_key.cache_clear()
    assert triton_key.provide_key() and MODULE.triton_key is not plain
    assert MODULE.triton_key() == expected


def test_a_damaged_key_is_worked_out_again(fresh):
    triton_key.provide_key()
    [file] = fresh.glob('triton-*.key')
    good = file.read_bytes()
    for bad in (b'', good[:-1], b'x' + good[1:]):
        file.write_bytes(bad)
        triton_key.provide_key.cache_clear()
        assert not triton_key.provide_key() and file.read_bytes() == good
    file.chmod(0o666) # others could write it
    triton_key.provide_key.cache_clear()
    assert not triton_key.provide_key()


def test_another_triton_has_another_key(fresh, tmp_path):
    folder = tmp_path/'triton'
    (folder/'runtime').mkdir(parents=True)
    (folder/'runtime'/'a.py').write_text('1')
    stamp = triton_key._stamp(folder)
    assert triton_key._stamp(folder) == stamp
    (folder/'runtime'/'__pycache__').mkdir()
    (folder/'runtime'/'__pycache__'/'a.pyc').write_text('1')
    assert triton_key._stamp(folder) == stamp
    os.utime(folder/'runtime'/'a.py', ns=(1, 1))
    other = triton_key._stamp(folder)
    (folder/'runtime'/'b.py').write_text('1')
    assert len({stamp, other, triton_key._stamp(folder)}) == 3


def test_a_folder_that_cant_be_written(fresh, monkeypatch):
    "Then Triton works it out, as without us"
    plain = MODULE.triton_key
    monkeypatch.setattr(c_compiler, 'folder', lambda: fresh/'not there')
    assert not triton_key.provide_key() and MODULE.triton_key is plain


def test_a_triton_without_such_a_key(fresh, monkeypatch):
    monkeypatch.delattr(MODULE, 'triton_key')
    assert not triton_key.provide_key() and not hasattr(MODULE, 'triton_key')
