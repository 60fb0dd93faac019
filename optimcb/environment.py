"What the library finds around it, as text for a bug report: `python -m optimcb`."
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.nn import Parameter

import optimcb
from optimcb.algorithms import AdamW
from optimcb.engines import c_compiler

__all__ = ['Environment', 'doctor']

SETTINGS = ('OPTIMCB_CACHE_DIR', 'OPTIMCB_FULL_TRACEBACK', 'CC', 'XDG_CACHE_HOME', 'OMP_NUM_THREADS',
            'TRITON_INTERPRET', 'CUDA_VISIBLE_DEVICES') # environment variables that change what runs
NONE = 'none: ' # before the reason
TIMEOUT = 10 # of a compiler that is asked for its version, in seconds


@dataclass(frozen=True, repr=False)
class Environment:
    "What the library finds around it, in words. `print` shows it as text for a bug report."
    optimcb: str # Version and folder
    python: str # Version and operating system
    torch: str # Version, and that of the CUDA that it is built with
    fastcore: str # Version
    fastai: str # Version, or that it isn't installed
    compiler: str # C compiler, its version and flags, or why there is none
    triton: str # Version, or why it can't be used
    gpu: str # Name and memory of each GPU, or why there is none
    cache: str # Folder of compiled kernels, its size, and whether it can be written
    cpu: str # Threads of a kernel, and the processor's instructions
    settings: str # Environment variables that change what runs
    on_cpu: str # Engine of parameters on the CPU, and why not a faster one
    on_cuda: str # The same on a GPU

    def __str__(self):
        names = [f.name for f in fields(self)]
        return '\n'.join(f"{LABELS.get(k, k):<{WIDTH}}  {getattr(self, k)}" for k in names)

    __repr__ = __str__


LABELS = {'python': 'Python', 'compiler': 'C compiler', 'cpu': 'CPU', 'triton': 'Triton', 'gpu': 'GPU',
          'on_cpu': 'on the CPU', 'on_cuda': 'on a GPU'}
WIDTH = max(len(LABELS.get(f.name, f.name)) for f in fields(Environment))


def doctor() -> Environment:
    """Describe what the library finds around it, for bug reports: versions, compiler, GPU, cache and engines.

    It takes a step of `AdamW` on the CPU, and on a GPU if there is one, to tell which engine runs it.
    `python -m optimcb` prints the same."""
    return Environment(
        optimcb=f'{optimcb.__version__}, in {Path(optimcb.__file__).parent}',
        python=f'{platform.python_version()}, {platform.python_implementation()}, {platform.platform()}',
        torch=f'{torch.__version__}, CUDA {torch.version.cuda}',
        fastcore=_version('fastcore'), fastai=_version('fastai'),
        compiler=_compiler(), triton=_triton(), gpu=', '.join(_gpus()), cache=_cache(), cpu=_cpu(),
        settings=', '.join(f'{k}={os.environ[k]}' for k in SETTINGS if k in os.environ) or 'none',
        on_cpu=_engine_on('cpu'), on_cuda=_on_cuda())


def _version(package) -> str:
    try: return version(package)
    except PackageNotFoundError: return 'not installed'


def _compiler() -> str:
    try: command = c_compiler.compiler()[0].split('\0')
    except c_compiler.CantBuild as e: return f'{NONE}{e}'
    flags = ' '.join([*command[1:], *c_compiler.FLAGS])
    return f'{command[0]} ({_version_of(command[0])}), {flags}'


def _version_of(compiler) -> str:
    "The first line of what a compiler says of itself"
    try:
        asked = subprocess.run([compiler, '--version'], stdin=subprocess.DEVNULL, capture_output=True,
                               timeout=TIMEOUT)
        said = asked.stdout.decode(errors='replace')
    except (OSError, subprocess.SubprocessError) as e: return f'it tells no version: {e}'
    return next(iter(said.splitlines()), 'it tells no version')


def _triton() -> str:
    try: return import_module('triton').__version__
    except Exception as e: return f'{NONE}{e}' # a damaged installation raises anything


def _gpus() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield NONE + ('torch finds none' if torch.version.cuda else 'this torch is built without CUDA')
        return
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield f'{gpu.name} ({gpu.total_memory/2**30:.0f} GiB, sm_{gpu.major}{gpu.minor})'


def _cache() -> str:
    try:
        wanted, used = c_compiler.home(), c_compiler.folder()
        kept = list(used.glob('*.so'))
        size = sum(o.stat().st_size for o in kept)/2**20
    except (c_compiler.CantBuild, OSError, RuntimeError) as e: return f'{NONE}{e}'
    told = f'{len(kept)} kernels, {size:.1f} MiB'
    if used == wanted: return f'{used}, {told}, writable'
    return (f"{used}, {told}, which ends with this process, as {wanted} can't be written, "
            "or others can write to it")


def _cpu() -> str:
    instructions = torch.backends.cpu.get_cpu_capability()
    return f'{platform.machine()} with {instructions}, {torch.get_num_threads()} threads'


def _engine_on(device) -> str:
    "Say which engine steps a parameter, by a step"
    try:
        p = Parameter(torch.zeros(8, device=device))
        p.grad = torch.zeros_like(p)
        opt = AdamW([p], lr=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # the explanation has the reason
            opt.step()
        return '; '.join(opt.explain().engine)
    except Exception as e: return f'a step fails: {type(e).__name__}: {e}' # to be reported


def _on_cuda() -> str:
    if torch.cuda.is_available(): return _engine_on('cuda')
    has_triton = not _triton().startswith(NONE)
    return f"no GPU here; with one: {'fused, in Triton' if has_triton else 'foreach, for there is no Triton'}"
