// What a generated kernel stands on: types, memory in 16 bits, torch's rounding, and a team of threads.
#include <math.h>
#include <stdint.h>
#include <string.h>

// A job, as filled in by `c_kernels`: 64 bits a field.
typedef struct {
    int64_t chunks, tensors;        // a tensor is worked on in chunks
    const int64_t *chunk;           // of each chunk: its tensor, start and size
    const int64_t *first;           // of each tensor: its first chunk; one more at the end
    const int64_t *numel, *row;     // of each tensor: size, and row of `numbers`
    void *const *memory;            // of each tensor: where its columns lie
    const double *numbers;          // in rows: what the program takes as arguments
    double *partial, *sums;         // of each chunk, of each tensor: sums
    double *yields;                 // of each tensor: its share of the totals
    const double *totals;           // over all parameters
    int64_t threads;
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned); // from torch's OpenMP; null: one thread
    int (*thread)(void), (*team)(void);
    void (*barrier)(void);
} Job;

typedef struct { const Job *job; int64_t thread, team; } Share;

static inline void wait_for_all(const Share *s) { if (s->team > 1) s->job->barrier(); }
static inline int64_t from(int64_t n, const Share *s) { return n * s->thread / s->team; }
static inline int64_t until(int64_t n, const Share *s) { return n * (s->thread + 1) / s->team; }

// 16-bit numbers are kept as bits, and rounded to nearest, ties to even.
static inline float bits_to_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
static inline uint32_t float_to_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float from_bfloat16(uint16_t h) { return bits_to_float((uint32_t)h << 16); }
static inline uint16_t to_bfloat16(float x) {
    uint32_t u = float_to_bits(x);
    return x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
static inline float from_float16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float x = bits_to_float(rest) * 0x1p112f; // denormals too
    uint32_t u = (h & 0x7c00) == 0x7c00 ? rest | 0x7f800000 : float_to_bits(x);
    return bits_to_float(u | sign);
}
static inline uint16_t to_float16(float x) {
    uint32_t u = float_to_bits(x), sign = u & 0x80000000, a = u ^ sign;
    uint32_t small = float_to_bits(bits_to_float(a) + 0.5f) - 0x3f000000; // the sum rounds to denormals of 16 bits
    uint32_t normal = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
    uint32_t h = a > 0x7f800000 ? 0x7e00 : a >= 0x477ff000 ? 0x7c00 : a < 0x38800000 ? small : normal;
    return h | sign >> 16;
}

// A product and a sum are one rounding where the processor has that, as in torch.
#ifdef __FP_FAST_FMAF
static inline float fma_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
static inline float fma_f(float a, float b, float c) { return a * b + c; }
#endif
#ifdef __FP_FAST_FMA
static inline double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
static inline double fma_(double a, double b, double c) { return a * b + c; }
#endif

// Exponentials and the cube root of floats, to one unit in the last place, without branches and tables, so
// that any compiler makes vectors of them. NaN stays NaN; what is too large for float is infinity, and what is
// too small is a denormal, or zero. Those of doubles are the C library's, one by one.
#define TO_INTEGER 0x1.8p23f // added to a small float, it rounds it; the low bits of the sum are the integer

// 2^n e^(r + rest) for |r| < 0.35, where `rounded` is n + TO_INTEGER. The polynomial is (e^r - 1 - r)/r^2, to
// 2^-27. 2^n is a product of two powers, since n may be beyond the exponents that a float has.
static inline float scaled_exp(float rounded, float r, float rest) {
    uint32_t n = float_to_bits(rounded) - 0x4b400000, half = (uint32_t)((int32_t)n >> 1);
    float q = fma_f(0x1.68415cp-10f, r, 0x1.123ab6p-7f);
    q = fma_f(fma_f(fma_f(q, r, 0x1.555ba6p-5f), r, 0x1.555490p-3f), r, 0x1.fffff8p-2f);
    float y = 1 + (r + fma_f(r * r, q, rest));
    return y * bits_to_float((half + 127) << 23) * bits_to_float((n - half + 127) << 23);
}
static inline float exp_f(float x) {
    float a = x < -104 ? -104 : x > 89 ? 89 : x, rounded = fma_f(a, 0x1.715476p0f, TO_INTEGER);
    float n = rounded - TO_INTEGER, high = fma_f(n, -0x1.63p-1f, a), low = n * 0x1.bd0106p-13f; // of ln 2
    float r = high + low;
    return scaled_exp(rounded, r, high - r + low);
}
static inline float exp2_f(float x) {
    float a = x < -150 ? -150 : x > 129 ? 129 : x, rounded = a + TO_INTEGER, f = a - (rounded - TO_INTEGER);
    float r = f * 0x1.62e430p-1f;
    return scaled_exp(rounded, r, fma_f(f, 0x1.62e430p-1f, -r) - f * 0x1.05c610p-29f);
}
static inline double exp_(double x) { return exp(x); }
static inline double exp2_(double x) { return exp2(x); }

// x to the power of the float that is nearest to 1/3, as torch has it: that is 1e-8 more, which makes ten units
// where x is tiny. The bits of x give 1/y to 4 %, a polynomial makes that 3e-6, and Newton's step, whose
// residue is exact where there is `fma`, gives the root.
static inline float cube_root_f(float x) {
    float size = fabsf(x);
    int is_small = size < 0x1p-60f;
    float a = size * (is_small ? 0x1p96f : 0x1p-24f), bits = (float)(int32_t)float_to_bits(a);
    float r = bits_to_float(0x54a20000 - (uint32_t)(int32_t)(bits * 0x1.555556p-2f));
    float h = fma_f(-(a * r), r * r, 1);
    r = fma_f(r * h, fma_f(fma_f(0x1.6397c2p-3f, h, 0x1.c9b0dcp-3f), h, 0x1.5555a8p-2f), r);
    float s = r * r, y = a * s, yy = y * y, residue = fma_f(-y, fma_f(y, y, -yy), fma_f(-y, yy, a));
    float log = fma_f(bits, 0x1.62e43p-24f, (is_small ? 127 + 96 : 127 - 24) * -0x1.62e43p-1f); // to 0.06
    y += fma_f(residue * s, 0x1.555556p-2f, log * y * 0x1.555556p-27f);
    y = size < INFINITY ? y * (is_small ? 0x1p-32f : 0x1p8f) : size;
    return x < 0 && x > -INFINITY ? NAN : y;
}
static inline double cube_root_(double x) { return pow(x, 1. / 3); }

// Other functions for float (_f) and double (_). Where gcc can make vectors of the C library's functions of
// doubles, floats go by way of these, as in Triton: that is quicker than one by one, and rounds as well. Vectors
// of its functions of floats would round worse, but for powf, and so would doubles'.
#define SINGLE(name) \
    static inline float name##_f(float x) { return name##f(x); } \
    static inline double name##_(double x) { return name(x); }
#define SIMD __attribute__((simd("notinbranch")))
#define VECTOR(name) \
    SIMD double name(double); \
    static inline float name##_f(float x) { return (float)name(x); } \
    double name##_(double) __asm__(#name);
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define GLIBC(minor) __GLIBC_PREREQ(2, minor)
#else
#define GLIBC(minor) 0
#endif
#if GLIBC(22)
SIMD float powf(float, float);
#define SINCE_2_22 VECTOR
#else
#define SINCE_2_22 SINGLE
#endif
#if GLIBC(35)
#define SINCE_2_35 VECTOR
#else
#define SINCE_2_35 SINGLE
#endif
SINCE_2_22(log) SINCE_2_22(sin) SINCE_2_22(cos)
SINCE_2_35(expm1) SINCE_2_35(log2) SINCE_2_35(log10) SINCE_2_35(log1p) SINCE_2_35(erf) SINCE_2_35(erfc)
SINCE_2_35(tan) SINCE_2_35(asin) SINCE_2_35(acos) SINCE_2_35(atan)
SINCE_2_35(sinh) SINCE_2_35(cosh) SINCE_2_35(tanh) SINCE_2_35(asinh) SINCE_2_35(acosh) SINCE_2_35(atanh)

// A function for float (_f), double (_) and int64 (_l).
#define where(c, a, b) ((c) ? (a) : (b))
#define FUNCTIONS(T, S, F) \
    static inline T abs##S(T x) { return fabs##F(x); } \
    static inline T sign##S(T x) { return (T)(x > 0) - (T)(x < 0); } \
    static inline T div##S(T a, T b) { return a / b; } \
    static inline T maximum##S(T a, T b) { return a != a ? a : b != b ? b : a > b ? a : b; } \
    static inline T minimum##S(T a, T b) { return a != a ? a : b != b ? b : a < b ? a : b; } \
    static inline T lerp##S(T a, T b, T w) { return fabs##F(w) < (T)0.5 ? fma##S(w, b - a, a) : fma##S(-(b - a), 1 - w, b); } \
    static inline T softplus##S(T x, T beta, T threshold) { return x * beta > threshold ? x : log1p##S(exp##S(x * beta)) / beta; }

FUNCTIONS(float, _f, f)
FUNCTIONS(double, _, )
static inline int64_t abs_l(int64_t x) { return x < 0 ? -x : x; }
static inline int64_t sign_l(int64_t x) { return (x > 0) - (x < 0); }
static inline int64_t maximum_l(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t minimum_l(int64_t a, int64_t b) { return a < b ? a : b; }
