"Rewrite expressions: substitute subexpressions, or find the common form of two."
from collections.abc import Callable

from optimcb.diagnosis.algebra import add, mul, neg, power, scaled
from optimcb.diagnosis.choices import OPPOSITE, choice, condition
from optimcb.diagnosis.expressions import (
    NUMEL,
    ONE,
    ZERO,
    Add,
    Call,
    Mul,
    Num,
    Sym,
    call,
    dims,
    is_negative,
    product,
    symbols,
    terms_of,
)

__all__ = ['common', 'substituted', 'unknown']


def substituted(
    e, # An expression
    new:dict # New expressions by old ones
):
    "Substitute expressions in `e`, and simplify."
    if e in new: return new[e]
    if isinstance(e, Add): return add(*(scaled(c, substituted(x, new)) for c, x in e.terms))
    if isinstance(e, Mul):
        return mul(*(power(substituted(b, new), substituted(x, new)) for b, x in e.factors))
    if not isinstance(e, Call): return e
    args = [substituted(a, new) for a in e.args]
    if e.name == 'case': return choice(*args)
    if e.name == 'where' and isinstance(args[0], Num): return args[1] if args[0].value else args[2]
    return condition(e.name, *args) if e.name in OPPOSITE and len(args) == 2 else call(e.name, *args)


def unknown(
    *es, # Expressions
    also=() # Further expressions on which it may depend
) -> Call:
    """Return `f(…)` of the names that expressions depend on, to stand for any of them.

    It is a number if all of them are, else a tensor `F(…)`."""
    names = {}
    for e in (*es, *also): _names(e, names)
    res = [names[k] for k in sorted(names)]
    return Call('f' if all(e.scalar for e in es) else 'F', tuple(res))


def _names(e, found):
    "Add the symbols in `e` to `found`, by name"
    if isinstance(e, Sym):
        if symbols(e) or dims(e): found[e.name] = e
    elif isinstance(e, Add):
        for _, x in e.terms: _names(x, found)
    elif isinstance(e, Mul):
        for b, x in e.factors: _names(b, found), _names(x, found)
    elif e == NUMEL: found['p.numel()'] = e
    elif isinstance(e, Call):
        for a in e.args: _names(a, found)


def common(
    a, # An expression
    b, # Another
    differ:Callable # Takes two subexpressions that differ, if possible numbers; returns their replacement
):
    "Find the common form of both, with subexpressions that differ replaced by `differ`."
    if a == b: return a
    if is_negative(a) and is_negative(b): return neg(common(neg(a), neg(b), differ))
    if a.scalar and b.scalar: return differ(a, b)
    x, y = _by_tensors(a), _by_tensors(b)
    if x.keys() <= y.keys() or y.keys() <= x.keys(): # the same tensors with other coefficients
        numbers = {t: common(x.get(t, ZERO), y.get(t, ZERO), differ) for t in {**x, **y}}
        return add(*(mul(c, product(list(t))) for t, c in numbers.items()))
    if type(a) is type(b) is Call and a.name == b.name and len(a.args) == len(b.args):
        return Call(a.name, tuple(common(m, n, differ) for m, n in zip(a.args, b.args)))
    if type(a) is type(b) is Add and len(a.terms) == len(b.terms):
        return add(*(common(scaled(*m), scaled(*n), differ) for m, n in zip(a.terms, b.terms)))
    (s, t), (u, v) = _split(a), _split(b)
    if len(t) == len(v) == 1 and t[0][1] == v[0][1] and t[0][1] != ONE: # the same power of another base
        return mul(common(s, u, differ), power(common(t[0][0], v[0][0], differ), t[0][1]))
    if max(len(t), len(v)) > 1 and len(t) == len(v):
        return mul(common(s, u, differ), *(common(product([m]), product([n]), differ) for m, n in zip(t, v)))
    return differ(a, b)


def _by_tensors(e) -> dict:
    "Map the tensors in each term of a sum to their coefficient"
    res = {}
    for c, x in terms_of(e):
        s, t = (x, []) if x.scalar else _split(x)
        res[tuple(t)] = add(res.get(tuple(t), ZERO), scaled(c, s))
    return res


def _split(e):
    "Return the number in a product, and the other factors"
    factors = e.factors if isinstance(e, Mul) else ((e, ONE),)
    return product([f for f in factors if f[0].scalar]), [f for f in factors if not f[0].scalar]


