"""Spare Triton reading all of its own files, to find kernels in its cache.

The names of files in that cache depend on a hash of Triton itself. To work it out takes 0.4 of the 0.43
seconds that a process takes to get a kernel from there. So the hash is kept, with the sizes and times of the
files that it is of."""
import os
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from optimcb.engines.c_compiler import keep, kept

__all__ = ['provide_key']


MODULES = 'triton.runtime.cache', 'triton.compiler.compiler' # where versions of Triton have `triton_key`


@cache
def provide_key() -> bool:
    """Let Triton take its key from our cache, or put it there.

    Returns whether Triton took it; if not, it has worked it out, now or for itself."""
    module = next((m for m in map(import_module, MODULES) if hasattr(m, 'triton_key')), None)
    if module is None: return False
    name = f'triton-{_stamp(Path(import_module("triton").__file__).parent)}.key'
    known = kept(name)
    if known is None:
        keep(name, module.triton_key().encode())
        return False
    key = known.decode()
    module.triton_key = lambda: key
    return True


def _stamp(folder) -> str:
    "Return a hash of the names, sizes and times of all files in a folder"
    stats = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(o for o in folders if o != '__pycache__')
        for file in sorted(files):
            s = os.stat(os.path.join(path, file))
            stats.append((path, file, s.st_size, s.st_mtime_ns))
    return sha256(repr(stats).encode()).hexdigest()[:32]
