"""Compile C to functions: the compiler, the cache of kernels, and torch's OpenMP.

Kernels are cached in a private folder, `OPTIMCB_CACHE_DIR` or `~/.cache/optimcb`, by the hash of their
source, compiler and processor. Each file ends in a hash of itself. Files that are damaged, or that others
could have written, are not loaded."""
import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ['CantBuild', 'function', 'keep', 'kept', 'library', 'openmp']


FLAGS = ['-O3', '-march=native', '-std=gnu11', '-fPIC', '-shared', '-w', '-ffp-contract=off',
         '-fno-math-errno', '-fno-trapping-math', '-fopenmp-simd']
PATIENCE = 60 # timeout of the compiler in seconds
DAY = 24*60*60 # in seconds
OPENMP = ('GOMP_parallel', 'omp_get_thread_num', 'omp_get_num_threads',
          'GOMP_barrier') # functions that kernels call
DIGEST = 32 # bytes of the hash at the end of a cached file

_lock, _loaded = threading.RLock(), {} # reentrant, as an interrupt may leave it locked by the same thread


class CantBuild(Exception):
    "A kernel can't be built: there is no compiler, or it failed. The message says what to do."


def function(
    source:str, # C
    name:str # Name of a function in it that takes a pointer
):
    "The compiled function. Raises `CantBuild`."
    f = getattr(library(source), name)
    f.argtypes, f.restype = [ctypes.c_void_p], None
    return f


def library(
    source:str # C
) -> ctypes.CDLL:
    "The compiled functions. Raises `CantBuild`."
    with _lock:
        if source not in _loaded:
            try: _loaded[source] = _load(source)
            except CantBuild as e: _loaded[source] = e
            except (AttributeError, NotImplementedError) as e:
                _loaded[source] = CantBuild(f"this system lacks what building a kernel takes ({e})")
        if isinstance(_loaded[source], CantBuild): raise _loaded[source]
        return _loaded[source]


def forget():
    "Forget this process's loaded kernels and failures."
    with _lock:
        _loaded.clear()
        for f in (compiler, processor, folder): f.cache_clear()


def _load(source):
    key = hashlib.sha256('\0'.join([source, *compiler(), *FLAGS, processor()]).encode()).hexdigest()[:32]
    kept = folder() / f'{key}.so'
    if not _intact(kept): kept = _build(source, kept)
    try: return ctypes.CDLL(str(kept))
    except OSError as e:
        raise CantBuild(f"a kernel that was built can't be loaded ({e}). "
                        "Set OPTIMCB_CACHE_DIR to a folder that programs may run from.") from None


def _build(source, kept) -> Path:
    "Compile to a temporary folder beside `kept`, then move the result there atomically"
    for left in kept.parent.glob('build-*'): # left by a killed process
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > DAY: shutil.rmtree(left, ignore_errors=True)
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True) # it may have been removed
        if not _private(kept.parent): raise PermissionError('others can write to it')
        work = Path(tempfile.mkdtemp(prefix='build-', dir=kept.parent))
    except OSError as e:
        raise CantBuild(f"can't write to {kept.parent} ({e}). Set OPTIMCB_CACHE_DIR to a folder that can be "
                        "written.") from None
    try:
        (work/'k.c').write_text(source)
        _run([*compiler()[0].split('\0'), *FLAGS, '-o', str(work/'k.so'), str(work/'k.c'), '-lm'])
        _put(kept, (work/'k.so').read_bytes(), work)
        return kept
    except OSError as e:
        raise CantBuild(f"can't write to {kept.parent} ({e}). Set OPTIMCB_CACHE_DIR to a folder that can be "
                        "written.") from None
    finally: shutil.rmtree(work, ignore_errors=True)


def _put(path, content, work):
    "Write a file with a hash of itself at its end, atomically, by way of a folder beside it"
    (work/path.name).write_bytes(content + hashlib.sha256(content).digest())
    os.replace(work/path.name, path)


def keep(
    name:str, # Name of a file
    content:bytes # What it is to hold
):
    "Keep a file in the cache, if that can be written."
    with suppress(OSError, CantBuild), tempfile.TemporaryDirectory(prefix='build-', dir=folder()) as work:
        _put(folder()/name, content, Path(work))


def kept(
    name:str # Name of a file
) -> bytes|None:
    "Return what was kept in the cache under a name; None if it isn't there, or isn't to be trusted."
    try: path = folder()/name
    except CantBuild: return None
    return path.read_bytes()[:-DIGEST] if _intact(path) else None


def _run(command):
    "Run a compiler; after a timeout, kill it and all its child processes"
    try:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True)
    except OSError as e: raise CantBuild(f"the compiler {command[0]} can't be run ({e}). {ADVICE}") from None
    try: output = p.communicate(timeout=PATIENCE)[0].decode(errors='replace')
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.communicate()
        raise CantBuild(f"the compiler {command[0]} took longer than {PATIENCE} s. {ADVICE}") from None
    if not p.returncode: return
    why = output.strip()[-500:] or f"it said nothing, and ended with status {p.returncode}"
    raise CantBuild(f"the compiler {command[0]} failed: {why}. {ADVICE}")


ADVICE = "Install gcc or clang, or name a C compiler in the environment variable CC."


@functools.cache
def compiler() -> tuple[str, str]:
    """Return the command of the C compiler (`CC`, else cc, gcc or clang), and its version.

    The words of the command are joined by null characters."""
    given = os.environ.get('CC', '').strip()
    for words in [shlex.split(given)] if given else [['cc'], ['gcc'], ['clang']]:
        path = shutil.which(words[0])
        if path:
            real = os.stat(path)
            version = f'{os.path.realpath(path)} {real.st_size} {real.st_mtime_ns}'
            return '\0'.join([path, *words[1:]]), version
    raise CantBuild("there is no C compiler: "
                    f"{f'CC={given}' if given else 'cc, gcc and clang are not there'}. {ADVICE}")


# lines of /proc/cpuinfo
TELLING = frozenset({'model name', 'flags', 'Features', 'cpu family', 'model', 'CPU part'})


@functools.cache
def processor() -> str:
    "Return the properties of the processor that `-march=native` depends on."
    try: lines = Path('/proc/cpuinfo').read_text().split('\n\n')[0].splitlines()
    except OSError: lines = [platform.processor()]
    return '\n'.join([platform.machine(), *(o for o in lines if o.split('\t')[0].rstrip() in TELLING)])


def home() -> Path:
    "Return the folder where kernels should be cached. Raises `RuntimeError` if the user has no home."
    given = os.environ.get('OPTIMCB_CACHE_DIR')
    if given: return Path(given)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path('~/.cache').expanduser())/'optimcb'


@functools.cache
def folder() -> Path:
    """Return the folder of cached kernels.

    If others could write to it, return a temporary folder of this process instead."""
    try:
        wanted = home()
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(wanted) and os.access(wanted, os.W_OK | os.X_OK): return wanted
    except (OSError, RuntimeError): pass
    try: return _temporary()
    except OSError as e:
        raise CantBuild(f"neither the folder for kernels nor a temporary one can be written ({e}). "
                        "Set OPTIMCB_CACHE_DIR to one that can.") from None


@functools.cache
def _temporary() -> Path:
    "Create a folder that is removed at the end of this process, but not by its forks"
    path, owner = tempfile.mkdtemp(prefix='optimcb-'), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(path, ignore_errors=True))
    return Path(path)


def _private(path) -> bool:
    "Can only the current user write to it?"
    s = path.lstat()
    others_write = s.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return s.st_uid == os.getuid() and not stat.S_ISLNK(s.st_mode) and not others_write


def _intact(path) -> bool:
    "Is the file complete, undamaged, and only writable by trusted users?"
    try:
        if not (_private(path) and path.is_file()): return False
        content = path.read_bytes()
        return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]
    except OSError: return False


def openmp() -> list[int]:
    "Return the addresses of functions of torch's OpenMP that start a team of threads; zeros without OpenMP."
    return _openmp()


@functools.cache
def _openmp():
    for path in _runtimes():
        try:
            lib = ctypes.CDLL(path, mode=getattr(os, 'RTLD_NOLOAD', 0))
            return [ctypes.cast(getattr(lib, f), ctypes.c_void_p).value for f in OPENMP]
        except (OSError, AttributeError): pass
    return [0, 0, 0, 0]


def _runtimes() -> list[str]:
    "List the loaded OpenMP runtimes, torch's own first"
    try:
        lines = Path('/proc/self/maps').read_text().splitlines()
        paths = {line.split(maxsplit=5)[5] for line in lines if '/' in line}
    except OSError: return []
    found = sorted(p for p in paths if os.path.basename(p).startswith(('libgomp', 'libiomp5', 'libomp')))
    home = os.path.dirname(torch.__file__)
    def is_torchs(p): return p.startswith(home + os.sep) or f'{os.sep}torch.libs{os.sep}' in p
    return sorted(found, key=lambda p: not is_torchs(p))


_forked = False


def _note_fork():
    global _forked, _lock
    _forked, _lock = True, threading.RLock() # the parent's other threads may have held the old one


if hasattr(os, 'register_at_fork'): os.register_at_fork(after_in_child=_note_fork)


def threads() -> int:
    """Return the number of threads for a kernel: torch's number, but one in a forked child.

    There, a team of threads that the parent started would never answer."""
    return 1 if _forked else torch.get_num_threads()
