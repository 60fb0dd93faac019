"""The Triton versions of functions in operations, like `kernel.h` for C.

They round like torch's. Instead of Triton's fast float32 functions, they call NVIDIA's library in float64 and
round the result, which costs nothing on GPUs that compute float64 fast, as a step is limited by memory."""
import triton
import triton.language as tl
from triton.language.extra import libdevice

__all__ = ['abs_', 'acos_', 'acosh_', 'asin_', 'asinh_', 'atan2', 'atan_', 'atanh_', 'ceil', 'copysign',
           'cos_', 'cosh_', 'cube_root_', 'div_', 'erf_', 'erfc_', 'exp2_', 'exp_', 'expm1_',
           'floor', 'fma_', 'hypot', 'lerp_', 'log10_', 'log1p_', 'log2_', 'log_', 'maximum_',
           'minimum_', 'pow', 'rint', 'sign_', 'sin_', 'sinh_', 'softplus_', 'sqrt', 'tan_',
           'tanh_', 'trunc', 'where']


# Before Triton 3.6, the division and root with IEEE rounding flush float32 denormals to zero. In float64
# these numbers aren't denormal, and rounding a float32 quotient or root to float64 and then to float32 gives
# the correctly rounded result
FLUSHES = tl.constexpr(tuple(map(int, triton.__version__.split('.')[:2])) < (3, 6))


# Exact, or rounded once

@triton.jit
def where(c, a, b): return tl.where(c != 0, a, b)

@triton.jit
def abs_(x): return tl.abs(x)

@triton.jit
def sign_(x): return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)

@triton.jit
def maximum_(a, b): return tl.where(a != a, a, tl.where(b != b, b, tl.where(a > b, a, b)))

@triton.jit
def minimum_(a, b): return tl.where(a != a, a, tl.where(b != b, b, tl.where(a < b, a, b)))

@triton.jit
def fma_(a, b, c): return tl.fma(a, b, c)

@triton.jit
def div_(a, b):
    a = tl.cast(a, b.dtype)
    if b.dtype != tl.float32: return a / b
    elif FLUSHES: return (a.to(tl.float64) / b.to(tl.float64)).to(tl.float32)
    else: return tl.div_rn(a, b)

@triton.jit
def sqrt(x):
    if x.dtype != tl.float32: return tl.sqrt(x)
    elif FLUSHES: return tl.sqrt(x.to(tl.float64)).to(tl.float32)
    else: return tl.sqrt_rn(x)

@triton.jit
def floor(x): return tl.floor(x.to(tl.float64)).to(x.dtype) # float32 would flush denormals to zero

@triton.jit
def ceil(x): return tl.ceil(x.to(tl.float64)).to(x.dtype)

@triton.jit
def rint(x): return libdevice.rint(x)

@triton.jit
def trunc(x): return libdevice.trunc(x)

@triton.jit
def copysign(a, b): return libdevice.copysign(a, b)


# Several roundings, as in `kernel.h`

@triton.jit
def lerp_(a, b, w): return tl.where(tl.abs(w) < 0.5, tl.fma(w, b - a, a), tl.fma(-(b - a), 1 - w, b))

@triton.jit
def softplus_(x, beta, threshold):
    return tl.where(x * beta > threshold, x, div_(log1p_(exp_(x * beta)), beta))


# Functions of one number

@triton.jit
def exp_(x): return libdevice.exp(x.to(tl.float64)).to(x.dtype)

@triton.jit
def exp2_(x): return libdevice.exp2(x.to(tl.float64)).to(x.dtype)

@triton.jit
def expm1_(x): return libdevice.expm1(x.to(tl.float64)).to(x.dtype)

@triton.jit
def log_(x): return libdevice.log(x.to(tl.float64)).to(x.dtype)

@triton.jit
def log2_(x): return libdevice.log2(x.to(tl.float64)).to(x.dtype)

@triton.jit
def log10_(x): return libdevice.log10(x.to(tl.float64)).to(x.dtype)

@triton.jit
def log1p_(x): return libdevice.log1p(x.to(tl.float64)).to(x.dtype)

@triton.jit
def erf_(x): return libdevice.erf(x.to(tl.float64)).to(x.dtype)

@triton.jit
def erfc_(x): return libdevice.erfc(x.to(tl.float64)).to(x.dtype)

@triton.jit
def sin_(x): return libdevice.sin(x.to(tl.float64)).to(x.dtype)

@triton.jit
def cos_(x): return libdevice.cos(x.to(tl.float64)).to(x.dtype)

@triton.jit
def tan_(x): return libdevice.tan(x.to(tl.float64)).to(x.dtype)

@triton.jit
def asin_(x): return libdevice.asin(x.to(tl.float64)).to(x.dtype)

@triton.jit
def acos_(x): return libdevice.acos(x.to(tl.float64)).to(x.dtype)

@triton.jit
def atan_(x): return libdevice.atan(x.to(tl.float64)).to(x.dtype)

@triton.jit
def sinh_(x): return libdevice.sinh(x.to(tl.float64)).to(x.dtype)

@triton.jit
def cosh_(x): return libdevice.cosh(x.to(tl.float64)).to(x.dtype)

@triton.jit
def tanh_(x): return libdevice.tanh(x.to(tl.float64)).to(x.dtype)

@triton.jit
def asinh_(x): return libdevice.asinh(x.to(tl.float64)).to(x.dtype)

@triton.jit
def acosh_(x): return libdevice.acosh(x.to(tl.float64)).to(x.dtype)

@triton.jit
def atanh_(x): return libdevice.atanh(x.to(tl.float64)).to(x.dtype)


# Functions of two numbers

@triton.jit
def pow(x, y): return libdevice.pow(x.to(tl.float64), y.to(tl.float64)).to(x.dtype)

@triton.jit
def cube_root_(x):
    if x.dtype == tl.float32: res = cube_root_of_float32(x)
    else: res = pow(x, tl.full((), 1/3, x.dtype)) # a number would be one of float32
    return res

@triton.jit
def cube_root_of_float32(x):
    "Compute the cube root in float32, as `kernel.h` does: many GPUs are slow in float64."
    size = tl.abs(x)
    is_small = size < 8.673617379884035e-19
    a = size * tl.where(is_small, 7.922816251426434e+28, 5.960464477539063e-08)
    bits = a.to(tl.int32, bitcast=True).to(tl.float32)
    r = (0x54a20000 - (bits * 0.3333333432674408).to(tl.int32)).to(tl.float32, bitcast=True)
    h = tl.fma(-(a * r), r * r, 1.)
    c = tl.fma(tl.fma(h, 0.1736292988061905, 0.22348186373710632), h, 0.3333345651626587)
    r = tl.fma(r * h, c, r)
    s = r * r
    y = a * s
    yy = y * y
    residue = tl.fma(-y, tl.fma(y, y, -yy), tl.fma(-y, yy, a))
    offset = tl.where(is_small, -154.5718216896057, -71.39415979385376)
    log = tl.fma(bits, 8.262958317573066e-08, offset)
    y += tl.fma(residue * s, 0.3333333432674408, log * y * 9.934107758624577e-09)
    y = tl.where(size < float('inf'), y * tl.where(is_small, 2.3283064365386963e-10, 256.), size)
    return tl.where((x < 0) & (x > float('-inf')), float('nan'), y)

@triton.jit
def hypot(x, y): return libdevice.hypot(x.to(tl.float64), y.to(tl.float64)).to(x.dtype)

@triton.jit
def atan2(x, y): return libdevice.atan2(x.to(tl.float64), y.to(tl.float64)).to(x.dtype)
