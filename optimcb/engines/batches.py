"Batches of parameters for which a function by torch is called once, instead of once for each."
import torch
from torch import Tensor

from optimcb.tracing.opaque import OutputMismatch, listed

__all__ = ['LARGE', 'MOST_BYTES', 'batches', 'call_batch']


# Limit of a stack: for so much data, the cost of another call doesn't matter
MOST_BYTES = 64 << 20
# Size of a parameter from which `vmap` isn't used on a CPU: most functions are limited by memory bandwidth,
# and copying into a stack then costs more than the calls that it saves (measured: from 50 to 100 KB on)
LARGE = 64 << 10


def batches(
    call, # A `Call`
    rows:list, # For each parameter, the function's arguments: tensors and numbers
    varies:list # For each argument, does each parameter have its own tensor?
) -> list[list[int]]:
    """Put the indices of `rows` into batches, one for each call: rows with tensors of the same shapes, dtypes
    and devices, and the same numbers. A function that takes no batches is called for each row."""
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
    "Return what rows of one batch must have in common"
    def kind(x, varies):
        if varies: return x.shape, x.dtype, x.device
        return id(x) if isinstance(x, Tensor) else (type(x), x)
    return tuple(map(kind, row, varies))


def call_batch(
    call, # A `Call`
    rows:list, # For each parameter of a batch, the function's arguments
    varies:list # For each argument, does each parameter have its own tensor?
) -> list[list]:
    "Call a function once for a batch; return its results for each parameter. Raises `OutputMismatch`."
    given = [torch.stack(xs) if v else xs[0] for xs, v in zip(zip(*rows), varies)]
    out = listed(call.batched(given, varies))
    for x in out:
        if isinstance(x, Tensor) and x.shape[:1] == (len(rows),): continue
        what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise OutputMismatch(f"`{call.name}` returns {what} for a batch of {len(rows)} parameters, "
                             "whose first dimension should be the batch.")
    return list(zip(*(x.unbind() for x in out)))
