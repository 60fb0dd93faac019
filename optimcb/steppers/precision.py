"Choose the dtype of matrix products whose formula allows low precision."
import platform
from functools import cache

import torch

__all__ = ['product_dtype', 'why_slow_in_bfloat16']


X86 = frozenset({'x86_64', 'AMD64', 'i386', 'i686'})


@cache
def why_slow_in_bfloat16(
    device:str # Its type: 'cpu', 'cuda', …
) -> str|None:
    """Return why matrix products are slower in bfloat16 than in float32 on this machine; None if they aren't.

    The answer depends on the type of the device only, and is cached: all parameters must get the same one in
    all steps. It depends on features of the processor, not on measurements, so that equal machines agree."""
    if device == 'cpu' and not _cpu_has_bfloat16(): return "this CPU has no instructions for bfloat16"
    if device == 'cuda' and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(False):
        return "this GPU has no units for bfloat16"
    return None


def _cpu_has_bfloat16() -> bool:
    if not torch.backends.mkldnn.is_available(): return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported(): return False
    # True on every x86 with AVX-512, even if oneDNN has to convert each number
    if platform.machine() not in X86: return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def product_dtype(
    dtype:torch.dtype, # Dtype of the matrices
    device:str, # Type of their device
    exact:bool=False, # Compute in the matrices' own dtype, at least float32?
    bfloat16:bool=False # Compute in bfloat16 even if that is slower?
) -> tuple[torch.dtype, str]:
    "Return the dtype of matrix products, and why: bfloat16, or float32 where that is faster."
    if exact: return torch.promote_types(dtype, torch.float32), "`exact=True` asks for it"
    if bfloat16: return torch.bfloat16, "`bfloat16=True` asks for it"
    slow = why_slow_in_bfloat16(device)
    if slow: return torch.float32, f"{slow}. `bfloat16=True` uses it anyway"
    return torch.bfloat16, f"which is enough for it, and no slower than float32 on '{device}'"
