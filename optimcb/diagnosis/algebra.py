"""Algebra on formulas: built simplified, and written as Python or as LaTeX.

An expression is a symbol, a number, a sum, a product of powers, or a function of expressions. `add`, `mul`, `power` and
`call` make them; they flatten, collect and cancel, and keep the order in which things were written. A choice between two
expressions is a function of a condition and both, which `choice` makes.
"""
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from keyword import iskeyword
from numbers import Number
from typing import NamedTuple

__all__ = ['Add', 'Call', 'Mul', 'Num', 'Sym', 'ONE', 'ZERO', 'add', 'apart', 'both', 'call', 'choice',
           'common', 'condition', 'div', 'either', 'latex', 'latex_name', 'mul', 'neg', 'negated', 'number',
           'power', 'sub', 'substituted', 'symbols', 'text', 'unknown']


HALF = Fraction(1, 2)


class Sym(NamedTuple):
    "A name."
    name: str
    scalar: bool = True # A number, not a tensor?
    value: Number|None = None # What it is now, if that is known: it tells the sign of a difference

    def __eq__(self, other): return isinstance(other, Sym) and self[:2] == other[:2]
    def __ne__(self, other): return not self == other
    def __hash__(self): return hash(self[:2])


class Num(NamedTuple):
    "A number."
    value: Number
    scalar = True


class Add(NamedTuple):
    "A sum of `(coefficient, expression)`."
    terms: tuple
    @property
    def scalar(self): return all(e.scalar for _, e in self.terms)


class Mul(NamedTuple):
    "A product of `(base, exponent)`; exponents are expressions."
    factors: tuple
    @property
    def scalar(self): return all(b.scalar for b, _ in self.factors)


class Call(NamedTuple):
    "A function of expressions."
    name: str
    args: tuple
    @property
    def scalar(self): return self.name in OVER_ALL or self.name != 'F' and all(a.scalar for a in self.args)


OVER_ALL = frozenset({'sum', 'mean', 'norm', 'rms', 'amax', 'amin', 'total', 'numel', 'f'}) # `f` is an unknown number, `F` an unknown tensor


def number(
    x:Number # A number
) -> Num:
    "`x` as an expression; whole numbers without a point."
    if isinstance(x, Fraction): return Num(x if x.denominator != 1 else x.numerator)
    whole = abs(x) < 1e15 and x == int(x)
    return Num(int(x) if whole else float(x))


ZERO, ONE = Num(0), Num(1)


def _terms(e) -> list:
    "`e` as `(coefficient, expression)` pairs; a number is a multiple of one"
    if isinstance(e, Add): return list(e.terms)
    if isinstance(e, Num): return [(e.value, ONE)]
    if isinstance(e, Mul) and isinstance(e.factors[0][0], Num): return [(e.factors[0][0].value, _product(e.factors[1:]))]
    return [(1, e)]


def add(
    *es # Expressions
):
    "Their sum."
    found = {}
    for e in es:
        for c, x in _terms(e): found[x] = found.get(x, 0) + c
    terms = tuple((c, x) for x, c in found.items() if c != 0)
    if not terms: return ZERO
    return _scaled(*terms[0]) if len(terms) == 1 else Add(terms)


def _scaled(c, e): return e if c == 1 else number(c) if e == ONE else mul(number(c), e)


def _product(factors):
    return factors[0][0] if len(factors) == 1 and factors[0][1] == ONE else Mul(tuple(factors)) if factors else ONE


def mul(
    *es # Expressions
):
    "Their product. Equal bases are collected; the number comes first, then what is one number, then tensors."
    coefficient, found = 1, {}
    todo = [(e, ONE) for e in es]
    while todo:
        e, exponent = todo.pop(0)
        if isinstance(e, Mul) and isinstance(exponent, Num) and isinstance(exponent.value, int):
            todo[:0] = [(b, mul(x, exponent)) for b, x in e.factors]
        elif isinstance(e, Num) and isinstance(exponent, Num) and (e.value != 0 or exponent.value > 0):
            coefficient *= _number_power(e.value, exponent.value)
        else:
            sign, e = _positive(e) if exponent in (ONE, Num(-1)) else (1, e)
            coefficient *= sign
            found[e] = add(found[e], exponent) if e in found else exponent
    factors = [(b, x) for b, x in found.items() if x != ZERO]
    averaged = next((b for b, x in factors if isinstance(b, Call) and b.name == 'sum' and x == ONE), None)
    if averaged and found.get(NUMEL) == Num(-1): # the mean
        factors = [(Call('mean', b.args) if b is averaged else b, x) for b, x in factors if b != NUMEL]
    if coefficient == 0: return ZERO
    factors.sort(key=lambda f: not f[0].scalar)
    if coefficient == 1: return _product(factors)
    return _product([(number(coefficient), ONE), *factors])


NUMEL = Call('numel', ())


def _number_power(x, exponent): return Fraction(x)**exponent if isinstance(x, (int, Fraction)) and isinstance(exponent, int) else x**exponent


def _positive(e):
    "A sum that is negative, like `mom - 1`, as minus one times `1 - mom`"
    return (-1, Add(tuple((-c, x) for c, x in e.terms))) if isinstance(e, Add) and (_value(e) or 0) < 0 else (1, e)


def _value(e) -> Number|None:
    "What a sum comes to, where that is known"
    if isinstance(e, (Sym, Num)): return e.value
    if isinstance(e, Add): parts = [(c, _value(x)) for c, x in e.terms]
    elif isinstance(e, Mul): parts = [(_value(b), _value(x)) for b, x in e.factors]
    else: return None
    if any(v is None for o in parts for v in o): return None
    try: return sum(c*v for c, v in parts) if isinstance(e, Add) else math.prod(b**x for b, x in parts)
    except ArithmeticError: return None


def neg(
    e # An expression
):
    "Minus `e`."
    return mul(Num(-1), e)


def sub(
    a, # An expression
    b # Another
):
    "`a - b`."
    return add(a, neg(b))


def div(
    a, # An expression
    b # Another
):
    "`a / b`."
    return mul(a, power(b, Num(-1)))


def power(
    base, # An expression
    exponent # Another
):
    "`base ** exponent`; a root of a sum of squares is a norm."
    if exponent == ONE: return base
    if exponent == ZERO: return ONE
    if isinstance(base, Num) and isinstance(exponent, Num) and isinstance(exponent.value, int) and (base.value or exponent.value > 0):
        return number(_number_power(base.value, exponent.value))
    if exponent == Num(HALF) and isinstance(base, Call) and base.name in ('sum', 'mean') and isinstance(base.args[0], Mul):
        squares = base.args[0].factors
        if all(x == Num(2) for _, x in squares): return Call('norm' if base.name == 'sum' else 'rms', (mul(*(b for b, _ in squares)),))
    if isinstance(base, Mul) and isinstance(exponent, Num) and isinstance(exponent.value, int):
        return mul(*(power(b, mul(x, exponent)) for b, x in base.factors))
    return Mul(((base, exponent),))


def call(
    name:str, # A function
    *args # Expressions
):
    "A function of expressions."
    return Call(name, args)


def symbols(
    e # An expression
) -> set[str]:
    "The names in it."
    if isinstance(e, Sym): return {e.name} if e.name.isidentifier() and not iskeyword(e.name) else set() # no constants
    if isinstance(e, Add): return set().union(*(symbols(x) for _, x in e.terms))
    if isinstance(e, Mul): return set().union(*(symbols(b) | symbols(x) for b, x in e.factors))
    return set().union(*map(symbols, e.args)) if isinstance(e, Call) else set()


def substituted(
    e, # An expression
    new:dict # By expression, what takes its place
):
    "`e` with other expressions in the place of some, simplified."
    if e in new: return new[e]
    if isinstance(e, Add): return add(*(_scaled(c, substituted(x, new)) for c, x in e.terms))
    if isinstance(e, Mul): return mul(*(power(substituted(b, new), substituted(x, new)) for b, x in e.factors))
    if not isinstance(e, Call): return e
    args = [substituted(a, new) for a in e.args]
    if e.name == 'case': return choice(*args)
    if e.name == 'where' and isinstance(args[0], Num): return args[1] if args[0].value else args[2]
    return condition(e.name, *args) if e.name in OPPOSITE and len(args) == 2 else call(e.name, *args)


# Choices

OPPOSITE = dict(eq='ne', ne='eq', lt='ge', ge='lt', gt='le', le='gt', is_none='is_there', is_there='is_none')
OPPOSITE |= {'and': 'or', 'or': 'and'}
TRUE, FALSE = Num(True), Num(False)


def condition(
    name:str, # Of a comparison, `and` or `or`
    *args # What is compared, or two conditions
):
    "A condition, or true or false if it is known."
    if name == 'and': return both(*args)
    if name == 'or': return either(*args)
    if not all(isinstance(a, Num) for a in args): return call(name, *args)
    return TRUE if getattr(operator, name)(*(a.value for a in args)) else FALSE


def negated(
    c # A condition on numbers
):
    "The opposite condition."
    if isinstance(c, Num): return FALSE if c.value else TRUE
    args = map(negated, c.args) if c.name in ('and', 'or') else c.args
    return call(OPPOSITE[c.name], *args)


def both(
    a, # A condition on numbers
    b # Another
):
    "The condition that both hold."
    if isinstance(a, Num): return b if a.value else FALSE
    if isinstance(b, Num): return a if b.value else FALSE
    return a if a == b else FALSE if a == negated(b) else call('and', a, b)


def either(
    a, # A condition on numbers
    b # Another
):
    "The condition that one of them holds, or both."
    return negated(both(negated(a), negated(b)))


def choice(
    c, # A condition on numbers
    a, # What it is if that holds
    b # What it is if not
):
    "`a` or `b`: what both have in common stands before the choice, the smaller or the larger of two is `min` or `max`."
    if isinstance(c, Num): return a if c.value else b
    if a == b: return a
    if c.name in ('gt', 'ge'): return choice(call('lt' if c.name == 'gt' else 'le', *c.args[::-1]), a, b)
    if c.name in ('ne', 'is_there'): return choice(negated(c), b, a)
    if isinstance(b, Call) and b.name == 'case' and b.args[1] == a: return choice(either(c, b.args[0]), a, b.args[2])
    if not (a.scalar and b.scalar): return call('case', c, a, b)
    extreme = _extreme(c, a, b)
    if extreme: return extreme
    differ = _differences(a, b)
    if len(differ) == 1 and differ != {(a, b)}: # the choice is inside
        (x, y), = differ
        return _one_for_two(a, b, (x, y), choice(c, x, y))
    if _minus(a) and (_minus(b) or b == ZERO) or a == ZERO and _minus(b): return neg(choice(c, neg(a), neg(b)))
    shared, a, b = apart(a, b)
    return mul(shared, choice(c, a, b)) if shared != ONE else call('case', c, a, b)


def apart(
    a, # A number, as an expression
    b # Another
) -> tuple:
    "What can be pulled out of both, and what is left of each. Of 0 all can be pulled out that is there in any case: names."
    mine, theirs = _factors(a), _factors(b)
    shared = [f for f in mine if f in theirs]
    if ZERO in (a, b): shared = [f for f in (theirs if a == ZERO else mine) if isinstance(f[0], Sym) and f[1] == ONE]
    rests = [ZERO if e == ZERO else _product([f for f in _factors(e) if f not in shared]) for e in (a, b)]
    return _product(shared), *rests


def _parts(e) -> list:
    "What an expression is made of"
    if isinstance(e, Add): return [x for _, x in e.terms]
    if isinstance(e, Mul): return [x for factor in e.factors for x in factor]
    return list(e.args) if isinstance(e, Call) else []


def _is_alike(a, b) -> bool:
    "Do two expressions differ in their parts only?"
    if type(a) is not type(b): return False
    if isinstance(a, Add): return [c for c, _ in a.terms] == [c for c, _ in b.terms]
    if isinstance(a, Mul): return len(a.factors) == len(b.factors)
    return isinstance(a, Call) and a.name == b.name and len(a.args) == len(b.args)


def _differences(a, b) -> set:
    "The pairs of parts, one of each, that differ"
    if a == b: return set()
    return set().union(*map(_differences, _parts(a), _parts(b))) if _is_alike(a, b) else {(a, b)}


def _one_for_two(a, b, pair, new):
    "What `a` and `b` are with `new` in the place of the only parts that differ"
    if (a, b) == pair: return new
    if a == b: return a
    parts = [_one_for_two(x, y, pair, new) for x, y in zip(_parts(a), _parts(b))]
    if isinstance(a, Add): return add(*(_scaled(c, x) for (c, _), x in zip(a.terms, parts)))
    if isinstance(a, Mul): return mul(*(power(x, n) for x, n in zip(parts[::2], parts[1::2])))
    return choice(*parts) if a.name == 'case' else call(a.name, *parts)


def _factors(e) -> tuple: return e.factors if isinstance(e, Mul) else ((e, ONE),) if e != ONE else ()


def _extreme(c, a, b):
    "A multiple of the smaller or larger of the two sides of a comparison, if the choice is that"
    if c.name not in ('lt', 'le'): return None
    small, large = c.args
    for name, mine, theirs in (('min', small, large), ('max', large, small)):
        for e, side, other, side_of_other in ((a, mine, b, theirs), (b, theirs, a, mine)):
            if side == ZERO: continue
            times = div(e, side)
            divides = any(_divides(f) and symbols(f[0]) for f in _factors(times)) # by what may be 0 in the other case
            if mul(times, side_of_other) == other and times != ZERO and not divides:
                return mul(times, call(name, *sorted((mine, theirs), key=lambda x: not isinstance(x, Num))))


def unknown(
    *es, # Expressions
    also=() # Others, on which it may depend, too
) -> Call:
    "`f(…)`, which can be either of them, of the names that they depend on. It is a number if all of them are."
    names = {}
    for e in (*es, *also): _names(e, names)
    res = [names[k] for k in sorted(names)]
    return Call('f' if all(e.scalar for e in es) else 'F', tuple(res))


def _names(e, found):
    "Put the symbols in `e` into `found`, by name"
    if isinstance(e, Sym):
        if symbols(e): found[e.name] = e
    elif isinstance(e, Add):
        for _, x in e.terms: _names(x, found)
    elif isinstance(e, Mul):
        for b, x in e.factors: _names(b, found), _names(x, found)
    elif isinstance(e, Call):
        for a in e.args: _names(a, found)


def common(
    a, # An expression
    b, # Another
    differ:Callable # Takes a number in one and a number in its place in the other, or parts that are no numbers; returns what is there
):
    "What both are, with what `differ` says in the places of numbers that differ."
    if a == b: return a
    if _minus(a) and _minus(b): return neg(common(neg(a), neg(b), differ))
    if a.scalar and b.scalar: return differ(a, b)
    x, y = _by_tensors(a), _by_tensors(b)
    if x.keys() <= y.keys() or y.keys() <= x.keys(): # the same tensors, with other numbers before them
        return add(*(mul(common(x.get(t, ZERO), y.get(t, ZERO), differ), _product(list(t))) for t in {**x, **y}))
    if type(a) is type(b) is Call and a.name == b.name and len(a.args) == len(b.args):
        return Call(a.name, tuple(common(m, n, differ) for m, n in zip(a.args, b.args)))
    if type(a) is type(b) is Add and len(a.terms) == len(b.terms):
        return add(*(common(_scaled(*m), _scaled(*n), differ) for m, n in zip(a.terms, b.terms)))
    (s, t), (u, v) = _split(a), _split(b)
    if len(t) == len(v) == 1 and t[0][1] == v[0][1] and t[0][1] != ONE: # the same power of something else
        return mul(common(s, u, differ), power(common(t[0][0], v[0][0], differ), t[0][1]))
    if max(len(t), len(v)) > 1 and len(t) == len(v):
        return mul(common(s, u, differ), *(common(_product([m]), _product([n]), differ) for m, n in zip(t, v)))
    return differ(a, b)


def _minus(e) -> bool: return isinstance(e, Num) and e.value < 0 or isinstance(e, Mul) and _minus(e.factors[0][0])


def _by_tensors(e) -> dict:
    "The terms of a sum: by the tensors in each, the number before them"
    res = {}
    for c, x in _terms(e):
        s, t = (x, []) if x.scalar else _split(x)
        res[tuple(t)] = add(res.get(tuple(t), ZERO), _scaled(c, s))
    return res


def _split(e):
    "The number in a product, and the other factors"
    factors = e.factors if isinstance(e, Mul) else ((e, ONE),)
    return _product([f for f in factors if f[0].scalar]), [f for f in factors if not f[0].scalar]


# Writing

CASE, TRUTH, SUM, PRODUCT, POWER, ATOM = range(6) # how tightly parts hold together
OPEN = frozenset({'sum', 'total'}) # in LaTeX, these have no brackets of their own
BETWEEN = dict(eq=('==', SUM), ne=('!=', SUM), lt=('<', SUM), le=('<=', SUM), gt=('>', SUM), ge=('>=', SUM), # and how tightly what is beside them must hold
               logical_and=('&', SUM), logical_or=('|', SUM), logical_xor=('^', SUM))
BETWEEN |= {k: (k, SUM) for k in ('and', 'or')}


class _Python:
    over = PRODUCT # how tightly what is divided must hold together
    signs = {} # other ones than in `BETWEEN`
    def symbol(self, name): return name
    def number(self, x): return str(x) if isinstance(x, (int, Fraction)) else repr(_short(x))
    def times(self, parts): return '*'.join(parts)
    def fraction(self, over, under): return f'{over}/{under[0]}' if under[1] > PRODUCT else f'{over}/({under[0]})'
    def power(self, base, exponent): return f'{base}**{exponent[0]}' if exponent[1] >= POWER else f'{base}**({exponent[0]})'
    def root(self, x): return f'sqrt({x})'
    def function(self, name, args): return f'{args[0]}[{args[1]}]' if name == 'item' else f"{name}({', '.join(args)})"
    def brackets(self, x): return f'({x})'
    def case(self, c, a, b): return f'{a} if {c} else {b}', CASE
    def is_there(self, x, there): return f"{x} is{' not'*there} None"


class _Latex:
    over = SUM
    signs = {'and': r' \text{ and } ', 'or': r' \text{ or } '} | dict(
        eq=' = ', ne=r' \ne ', le=r' \le ', ge=r' \ge ', logical_and=r' \wedge ', logical_or=r' \vee ', logical_xor=r' \oplus ')
    def symbol(self, name): return latex_name(name)
    def number(self, x):
        if isinstance(x, Fraction): return rf'\frac{{{x.numerator}}}{{{x.denominator}}}'
        if isinstance(x, float) and math.isinf(x): return r'\infty' if x > 0 else r'-\infty'
        mantissa, _, exponent = f'{x}' .partition('e') if isinstance(x, int) else repr(_short(x)).partition('e')
        return rf'{mantissa} \cdot 10^{{{int(exponent)}}}' if exponent else mantissa
    def times(self, parts): return r' \cdot '.join(parts) if sum(p[0].isdigit() for p in parts) > 1 else r' \, '.join(parts)
    def fraction(self, over, under): return rf'\frac{{{over}}}{{{under[0]}}}'
    def power(self, base, exponent): return rf'{base}^{{{exponent[0]}}}'
    def root(self, x): return rf'\sqrt{{{x}}}'
    def function(self, name, args): return (TEX[name].format(*args) if name in TEX else
                                            rf"\operatorname{{{name.replace('_', chr(92) + '_')}}}\left({', '.join(args)}\right)")
    def brackets(self, x): return rf'\left({x}\right)'
    def case(self, c, a, b): return TEX['where'].format(c, a, b), ATOM
    def is_there(self, x, there): return rf"{x} \text{{ is {'' if there else 'not '}there}}"


TEX = {'where': r'\begin{{cases}} {1} & \text{{if }} {0} \\ {2} & \text{{else}} \end{{cases}}', 'abs': r'\left|{}\right|', 'sum': r'\sum {}',
       'logical_not': r'\neg\left({}\right)', 'float': r'\left[{}\right]', 'norm': r'\left\lVert {} \right\rVert', 'mean': r'\overline{{{}}}',
       'rms': r'\operatorname{{rms}}\left({}\right)', 'numel': 'n', 'total': r'\sum_{{\text{{all }} \theta}} {}', 'exp': r'e^{{{}}}',
       'log': r'\ln\left({}\right)', 'maximum': r'\max\left({}, {}\right)', 'minimum': r'\min\left({}, {}\right)',
       'floor': r'\left\lfloor {} \right\rfloor', 'ceil': r'\left\lceil {} \right\rceil',
       'min': r'\min\left({}, {}\right)', 'max': r'\max\left({}, {}\right)',
       'item': '{}_{{{}}}', 'mod': r'\left({} \bmod {}\right)'}

TEX_NAMES = dict(p=r'\theta', grad='g', lr=r'\eta', mom=r'\beta_1', sqr_mom=r'\beta_2', wd=r'\lambda', eps=r'\epsilon', step='t', grad_avg='m', sqr_avg='v',
                 update='u', sqr_max=r'v^{\max}', grad_max=r'g^{\max}', slow_avg=r'\phi', update_avg=r'\bar{u}', delta_avg=r'\Delta', grad_center=r'\bar{g}')
GREEK = frozenset('alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu rho sigma tau phi chi psi omega'.split())


def latex_name(
    name:str # Of state, of a hyper-parameter, `p`, or `grad`
) -> str:
    "The letter that papers have for a name, or the name."
    if name.endswith('_hat'): return rf'\hat{{{latex_name(name[:-4])}}}'
    if name.endswith('_old'): return rf'{latex_name(name[:-4])}^{{\text{{old}}}}'
    if name in TEX_NAMES: return TEX_NAMES[name]
    stem, _, index = name.rpartition('_')
    if stem in GREEK and index: return rf'\{stem}_{{{index}}}'
    letter = name if len(name) == 1 else rf'\{name}' if name in GREEK else None
    return letter if letter and letter not in TEX_NAMES.values() else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"


def _short(x):
    "`x` without the dust of binary fractions, if that is all that it loses"
    short = float(f'{x:.12g}')
    return short if abs(short - x) <= 4*math.ulp(x) else x


def _write(e, w) -> tuple[str, int]:
    "`e` as written by `w`, and how tightly it holds together"
    if isinstance(e, Sym): return w.symbol(e.name), ATOM
    if isinstance(e, Num): return w.number(e.value), SUM if e.value < 0 else PRODUCT if isinstance(e.value, Fraction) else ATOM
    if isinstance(e, Call): return _function(e, w)
    if isinstance(e, Add):
        out = ''
        for c, x in sorted(e.terms, key=lambda o: o[0] < 0): # what is positive first
            part = _inside(_scaled(abs(c), x), w, PRODUCT)
            out += f' - {part}' if c < 0 and out else f'-{part}' if c < 0 else f' + {part}' if out else part
        return out, SUM
    (first, exponent), *others = e.factors
    if isinstance(first, Num) and first.value < 0 and exponent == ONE: return f'-{_inside(_scaled(-first.value, _product(others)), w, PRODUCT)}', SUM
    factors = e.factors
    if isinstance(first, Num) and isinstance(first.value, Fraction): # `x/2`, not `1/2*x`
        over, under = first.value.as_integer_ratio()
        factors = [*([(Num(over), ONE)] if over != 1 else []), *others, (Num(under), Num(-1))]
    groups = [[f for f in factors if f[0].scalar], [f for f in factors if not f[0].scalar]]
    if any(all(map(_divides, g)) for g in groups): groups = [factors] # one quotient, for there is nothing to divide in the other
    parts = [_quotient(g, w) for g in groups]
    if len(parts) == 1: return parts[0]
    return w.times([_in(o, w, PRODUCT) for o in parts]), PRODUCT


def _function(e, w):
    if e.name in BETWEEN:
        if e.name in ('lt', 'le') and isinstance(e.args[0], Num): e = call({'lt': 'gt', 'le': 'ge'}[e.name], *e.args[::-1])
        sign, least = BETWEEN[e.name]
        return w.signs.get(e.name, f' {sign} ').join(_inside(a, w, least) for a in e.args), TRUTH
    if e.name in ('is_none', 'is_there'): return w.is_there(_inside(e.args[0], w, ATOM), e.name == 'is_there'), TRUTH
    if e.name == 'case':
        c, a, b = e.args
        return w.case(_inside(c, w, TRUTH), _inside(a, w, TRUTH), _inside(b, w, CASE))
    args = [_inside(a, w, PRODUCT if e.name in OPEN and isinstance(w, _Latex) else CASE) for a in e.args]
    return w.function(e.name, args), PRODUCT if e.name in OPEN and isinstance(w, _Latex) else ATOM


def _divides(factor) -> bool: return isinstance(factor[1], Num) and factor[1].value < 0
def _in(written, w, least) -> str: return written[0] if written[1] >= least else w.brackets(written[0])
def _inside(e, w, least) -> str: return _in(_write(e, w), w, least)


def _quotient(factors, w):
    "A product, with what divides it under a line"
    over, under = [f for f in factors if not _divides(f)], [(b, neg(x)) for b, x in factors if _divides((b, x))]
    top = _powers(over, w) if over else (w.number(1), ATOM)
    if not under: return top
    return w.fraction(_in(top, w, w.over), _powers(under, w)), PRODUCT


def _powers(factors, w):
    if len(factors) == 1: return _power(*factors[0], w)
    return w.times([_in(_power(b, x, w), w, PRODUCT) for b, x in factors]), PRODUCT


def _power(base, exponent, w):
    if exponent == ONE: return _write(base, w)
    if exponent == Num(HALF): return w.root(_write(base, w)[0]), ATOM
    return w.power(_inside(base, w, ATOM), _write(exponent, w)), POWER


def text(
    e # An expression
) -> str:
    "`e` in Python."
    return _write(e, _Python())[0]


def latex(
    e # An expression
) -> str:
    "`e` in LaTeX."
    return _write(e, _Latex())[0]
