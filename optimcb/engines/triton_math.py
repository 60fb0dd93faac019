"""The Triton versions of functions in operations, like `kernel.h` for C.

They round like torch's. Instead of Triton's fast float32 functions, they call NVIDIA's library in float64 and
round the result, which costs nothing as a step is limited by memory."""
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
def cube_root_(x): return pow(x, tl.full((), 1/3, x.dtype)) # a number would be one of float32

@triton.jit
def hypot(x, y): return libdevice.hypot(x.to(tl.float64), y.to(tl.float64)).to(x.dtype)

@triton.jit
def atan2(x, y): return libdevice.atan2(x.to(tl.float64), y.to(tl.float64)).to(x.dtype)
