"Say in words which engine runs which parameters, and why not a faster one."
from collections import Counter
from importlib import import_module

from optimcb._compat.dtensors import local, shard_of, unsharded
from optimcb.diagnosis.kinds import Kind, counted
from optimcb.diagnosis.source import source_of
from optimcb.engines import c_compiler
from optimcb.engines.compilation import no_kernels
from optimcb.engines.runner import Runner
from optimcb.tracing.bucket import fit, key_of, misfit, sharing
from optimcb.tracing.program import Unsupported

__all__ = ['engines_of']


def engines_of(
    kinds:list[Kind], # All kinds of parameters
    wanted:str, # Requested engine
    runner:Runner|None, # Runner of the steps so far
    state_of:dict # State, by the `id` of its parameter
) -> list[str]:
    "List which engine runs which parameters, a line each, from the last step or as expected."
    runs, left, programs = Counter(), Counter(), {}
    plan = getattr(runner, 'plan', None)
    shared = _sharing_memory(kinds) if plan is None else ()
    for k in kinds:
        name, why = _engine_for(k, wanted)
        around = () if name == 'foreach' else _functions(k.program)
        for p in k.params or [None]:
            is_asked = p is not None and wanted != 'eager'
            refusal = _refusal(p, runner, plan, shared, state_of[id(p)]) if is_asked else None
            if refusal or why: left['eager' if refusal else name, refusal or why] += p is not None
            else:
                runs[name, around] += p is not None
                programs.setdefault((name, around), set()).add(k.program.key)
    res = [_running(name, around, len(programs[name, around]), n) for (name, around), n in runs.items()]
    is_forced = wanted in ('fused', 'foreach') and any(k.reason for k in kinds)
    def engine(name): return 'none' if is_forced else name
    return res + [f'{engine(name)}: {_parameters(n)}, for {why}' for (name, why), n in left.items()]


def _running(name, around, n_kernels, n) -> str:
    "Describe an engine that runs `n` parameters, and the functions between its kernels"
    if name == 'foreach': return f'{name}: {_parameters(n)}'
    what = f"kernels around {', '.join(f'`{k}`' for k in around)}" if around else counted(n_kernels, 'kernel')
    return f'{name}: {what} for {_parameters(n)}'


def _parameters(n): return counted(n, 'parameter') if n else 'any parameters'


def _functions(program) -> tuple:
    "Return the names of functions that torch runs between the kernels of a program"
    if program is None: return ()
    return tuple(dict.fromkeys(program.nodes[i].args[-1].name for i in program.calls))


def _sharing_memory(kinds):
    "Return the ids of parameters that share memory"
    shards = [(id(p), shard_of(p)) for k in kinds for p in k.params]
    return sharing([(i, shard) for i, shard in shards if not misfit(shard)])


def _engine_for(kind, wanted) -> tuple[str, str|None]:
    "Return the engine for a kind of parameters, and why not a faster one"
    if wanted == 'eager': return 'eager', 'that is the one asked for'
    if kind.reason: return 'eager', kind.reason
    device = kind.example.device.type if kind.example is not None else 'cpu'
    if wanted == 'foreach': return 'foreach', None
    if device not in ('cpu', 'cuda'): return 'foreach', no_kernels(device).rstrip('.')
    try:
        if device == 'cpu': c_compiler.compiler()
        else: import_module('triton')
        source_of(kind.program, device)
    except (c_compiler.CantBuild, Unsupported) as e: return 'eager' if device == 'cpu' else 'foreach', str(e)
    except ImportError as e: return 'foreach', f"Triton can't be imported ({e})"
    return f"fused, in {'C' if device == 'cpu' else 'Triton'}", None


def _refusal(p, runner, plan, shared, state) -> str|None:
    "Return why a parameter is left to the eager engine, or None"
    shard = shard_of(p)
    grad = getattr(shard, 'grad', None)
    why = misfit(shard, grad)
    is_left = plan is not None and grad is not None and not any(p is unsharded(o) for o in plan.flat)
    if not why and (id(p) in shared or is_left): why = 'it shares memory with another'
    if runner is None or not runner.refused: return why
    refusals = runner.compilation.refusals
    can = fit(shard, grad, {k: local(v) for k, v in state.items()}) or ((), ())
    grad_dtype = p.dtype if grad is None else grad.dtype
    return refusals.why(key_of(0, can, shard, grad_dtype, refusals)) or why
