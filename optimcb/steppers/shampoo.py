"Shampoo: inverse roots of summed gradient products."
from optimcb.composition.calls import by_torch
from optimcb.steppers.formulas import precise
from optimcb.steppers.sides import _along, _eigen, _grams, _packed, _shape, _sides, _unpacked

__all__ = ['sum_grams', 'inverse_roots', 'shampoo_update']


KERNEL_NDIM = 4 # as the author has it: three dimensions are a stack, four a kernel


# Shampoo: roots of the sums of gradients times themselves

@by_torch
def started_grams(x, sides, eps):
    "`eps` times the identity, for each dimension."
    x = x.reshape(_shape(x))
    starts = [precise(x).new_ones(d) * eps for d in x.shape]
    return _packed(x, [o.diag() if used else o for o, used in zip(starts, sides)])


@by_torch
def added_grams(x, grams, sides):
    "`grams` and those of `x`."
    return grams + _packed(x, _grams(x, sides, diagonal=True))


@by_torch
def roots_of(x, grams, sides, eps):
    "Of each dimension, the gram matrix to the power of -1/2 over the number of dimensions; no eigenvalue is taken to be smaller than `eps`."
    power = -1 / (2*len(_shape(x)))
    def root(m):
        if m.dim() == 1: return m.clamp(min=eps).pow(power)
        values, vectors = _eigen(m)
        return (vectors * values.clamp(min=eps).pow(power)) @ vectors.T
    return _packed(x, [root(m) for m in _unpacked(grams, x, sides, diagonal=True)])


@by_torch
def preconditioned(x, roots, sides):
    "`x`, multiplied by the root of each dimension."
    return _along(x, _unpacked(roots, x, sides, diagonal=True))


def sum_grams(p,
    eps=1e-4, # Where their diagonals start
    max_dim=1200, # Dimensions that are larger have the diagonal only
    grams=None, # State: the sums
    **kwargs):
    "Sum of the products of gradients with themselves, a matrix for each dimension, in `grams` (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."
    g = p.grad.data
    return {'grams': added_grams(g, started_grams(g, _sides(p, max_dim), eps) if grams is None else grams, _sides(p, max_dim))}
sum_grams.whole = True


def inverse_roots(p,
    grams, # State: sums of gradients times themselves
    step, # State: steps done
    eps=1e-4, # Smallest eigenvalue
    max_dim=1200, # Dimensions that are larger have the diagonal only
    refresh_steps=1, # Steps from one computation of the roots to the next, which are the expensive part
    roots=None, # State: the roots
    **kwargs):
    "Inverse roots of `grams`, in the first step and every `refresh_steps` steps after it, in `roots` (Gupta et al. 2018, https://arxiv.org/abs/1802.09568)."
    if roots is None or (step-1) % refresh_steps == 0: return {'roots': roots_of(p.grad.data, grams, _sides(p, max_dim), eps)}


def shampoo_update(p,
    roots, # State: inverse roots
    max_dim=1200, # Dimensions that are larger have the diagonal only
    **kwargs):
    "The gradient, multiplied by the root of each dimension (Gupta et al. 2018, https://arxiv.org/abs/1802.09568, alg. 2)."
    return {'update': preconditioned(p.grad.data, roots, _sides(p, max_dim))}
