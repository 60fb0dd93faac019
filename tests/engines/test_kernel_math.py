"""The functions of `kernel.h` that are the library's own, over all of float32: against NumPy in float64, which shares nothing with them.

They are faithful: what they give is one of the two floats around the exact value, so less than one unit in the last place away, and one float at
most from the nearest one. Two units are allowed.
"""
import ctypes

import numpy as np
import pytest
import torch
from on_engines import ulps

from optimcb.engines import c_compiler, c_kernels

STRIDE = 1009 # of the bits of floats: 4 million of them
THIRD = float(np.float32(1/3)) # torch's `pow` rounds the exponent to the type of the tensor
EXACT = {'exp': np.exp, 'exp2': np.exp2, 'cube_root': lambda x: np.power(x, THIRD)}
EDGES = [0., -0., np.inf, -np.inf, np.nan, 1., -1., 2**-149, -2**-149, 2**-126, -2**-126, 3.4028235e38, -3.4028235e38, 88.72283, 88.722839,
         -87.336544, -87.33655, -103.27893, -103.97207, -103.97208, -104., 127.99999, 128., -126., -149., -149.99998, -150., 8., 27., 64., 1e-20, 2**-60]

LOOP = '''
typedef struct { const float *x; float *y; int64_t n; } Floats;
void each(Floats *f) {
    const float *restrict in = f->x; float *restrict out = f->y;
    #pragma omp simd
    for (int64_t i = 0; i < f->n; i++) { const float x = in[i]; out[i] = %s_f(x); }
}
'''


def floats():
    bits = np.arange(0, 2**32, STRIDE, dtype=np.uint64).astype(np.uint32)
    return np.concatenate([np.array(EDGES, np.float32), bits.view(np.float32)])


def computed(name, x):
    each = c_compiler.function(c_kernels.PRELUDE + LOOP % name, 'each')
    y = np.empty_like(x)
    each(np.array([x.ctypes.data, y.ctypes.data, len(x)], np.int64).ctypes.data_as(ctypes.c_void_p))
    return y


@pytest.mark.parametrize('flags', ['', ' -U__FP_FAST_FMAF -U__FP_FAST_FMA'], ids=['fma', 'no fma'])
@pytest.mark.parametrize('name', EXACT)
def test_functions_round_as_well_as_float64(name, flags, cache, monkeypatch):
    monkeypatch.setenv('CC', f'cc{flags}')
    x = floats()
    with np.errstate(all='ignore'): want = EXACT[name](x.astype(np.float64)).astype(np.float32)
    got = computed(name, x)
    assert ulps(torch.from_numpy(got), torch.from_numpy(want)) <= 2
    assert np.array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0]), 'sign of zero'
