"Parameters for which a function by torch is called once, instead of once for each."
import torch
from torch import Tensor

from optimcb.tracing.opaque import OutputMismatch, listed

__all__ = ['LARGE', 'MOST_BYTES', 'batches', 'call_batch']


# that are stacked at a time: a call for as much takes so long that another one costs nothing
MOST_BYTES = 64 << 20
# of one parameter, from which on `vmap` is not used on a CPU: most functions are as quick as memory is, and a
# copy in a stack then costs more than the calls that it spares (measured: from 50 to 100 KB on)
LARGE = 64 << 10


def batches(
    call, # A `Call`
    rows:list, # Of each parameter, the tensors and numbers that the function is given
    varies:list # Of each of these, is it a tensor of the parameter's own?
) -> list[list[int]]:
    """Put the indices of `rows` into batches that one call can do: tensors of the same shapes, types and
    devices, and the same numbers. Of a function that takes no batches, each is by itself."""
    if not call.f.batched or not any(varies): return [[i] for i in range(len(rows))]
    known = {}
    for i, row in enumerate(rows): known.setdefault(_key(row, varies), []).append(i)
    res = []
    for same in known.values():
        size = sum(x.nbytes for x, v in zip(rows[same[0]], varies) if v)
        n = max(1, MOST_BYTES // max(1, size))
        if size > LARGE and not callable(call.f.batched) and _on_cpu(rows[same[0]], varies): n = 1
        res += [same[i:i+n] for i in range(0, len(same), n)]
    return res


def _on_cpu(row, varies): return next(x for x, v in zip(row, varies) if v).is_cpu


def _key(row, varies):
    "What rows in a batch have in common"
    def part(x, varies):
        if varies: return x.shape, x.dtype, x.device
        return id(x) if isinstance(x, Tensor) else (type(x), x)
    return tuple(map(part, row, varies))


def call_batch(
    call, # A `Call`
    rows:list, # Of each parameter of a batch, the tensors and numbers that the function is given
    varies:list # Of each of these, is it a tensor of the parameter's own?
) -> list[list]:
    "What one call returns for each parameter of a batch. Raises `OutputMismatch`."
    given = [torch.stack(xs) if v else xs[0] for xs, v in zip(zip(*rows), varies)]
    out = listed(call.batched(given, varies))
    for x in out:
        if isinstance(x, Tensor) and x.shape[:1] == (len(rows),): continue
        what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise OutputMismatch(f"`{call.name}` returns {what} for a batch of {len(rows)} parameters, "
                             "where they were to be the first dimension.")
    return list(zip(*(x.unbind() for x in out)))
