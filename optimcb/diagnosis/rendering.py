"Write expressions: `write` adds the necessary brackets, a style spells each kind of expression."
import math
from fractions import Fraction

from optimcb.diagnosis.algebra import neg, scaled
from optimcb.diagnosis.expressions import HALF, ONE, Add, Call, Num, Sym, call, divides, product

__all__ = ['ATOM', 'CASE', 'POWER', 'PRODUCT', 'SUM', 'TRUTH', 'PythonStyle', 'text', 'without_dust', 'write']


CASE, TRUTH, SUM, PRODUCT, POWER, ATOM = range(6) # precedence: how tightly operands bind
# Signs between arguments, and the least precedence of these
BETWEEN = dict(eq=('==', SUM), ne=('!=', SUM), lt=('<', SUM), le=('<=', SUM), gt=('>', SUM), ge=('>=', SUM),
               logical_and=('&', SUM), logical_or=('|', SUM), logical_xor=('^', SUM))
BETWEEN |= {k: (k, SUM) for k in ('and', 'or')}


class PythonStyle:
    "How expressions are spelled in Python."
    over = PRODUCT # least precedence of a numerator
    signs = {} # signs that differ from `BETWEEN`
    open_functions = frozenset() # written without brackets
    def symbol(self, name): return name
    def number(self, x): return str(x) if isinstance(x, (int, Fraction)) else repr(without_dust(x))
    def times(self, factors): return '*'.join(factors)
    def root(self, x): return f'sqrt({x})'
    def brackets(self, x): return f'({x})'
    def case(self, c, a, b): return f'{a} if {c} else {b}', CASE
    def is_there(self, x, there): return f"{x} is{' not'*there} None"

    def fraction(self, over, under):
        text, tightness = under
        return f'{over}/{text}' if tightness > PRODUCT else f'{over}/({text})'

    def power(self, base, exponent):
        text, tightness = exponent
        return f'{base}**{text}' if tightness >= POWER else f'{base}**({text})'

    def function(self, name, args):
        if name == 'numel': return 'p.numel()'
        return f'{args[0]}[{args[1]}]' if name == 'item' else f"{name}({', '.join(args)})"


def text(
    e # An expression
) -> str:
    "Write `e` in Python."
    return write(e, PythonStyle())[0]


def without_dust(
    x:float # A number
) -> float:
    "Round `x` to 12 digits, if that only removes rounding errors of binary fractions."
    rounded = float(f'{x:.12g}')
    return rounded if abs(rounded - x) <= 4*math.ulp(x) else x


def write(
    e, # An expression
    style # How to spell it
) -> tuple[str, int]:
    "Write `e` in a style. Returns the text and its precedence."
    if isinstance(e, Sym): return style.symbol(e.name), ATOM
    if isinstance(e, Num):
        tightness = SUM if e.value < 0 else PRODUCT if isinstance(e.value, Fraction) else ATOM
        return style.number(e.value), tightness
    if isinstance(e, Call): return _function(e, style)
    return _sum(e, style) if isinstance(e, Add) else _product(e, style)


def _in_brackets(written, style, least) -> str:
    "Return a text, in brackets if its precedence is below `least`"
    text, tightness = written
    return text if tightness >= least else style.brackets(text)


def _within(e, style, least) -> str: return _in_brackets(write(e, style), style, least)


def _sum(e, style):
    "Write a sum, positive terms first"
    out = ''
    for c, x in sorted(e.terms, key=lambda o: o[0] < 0):
        term = _within(scaled(abs(c), x), style, PRODUCT)
        if out: out += f' - {term}' if c < 0 else f' + {term}'
        else: out = f'-{term}' if c < 0 else term
    return out, SUM


def _product(e, style):
    "Write a product: numbers, then tensors, each as a quotient"
    (first, exponent), *others = e.factors
    if isinstance(first, Num) and first.value < 0 and exponent == ONE:
        return f'-{_within(scaled(-first.value, product(others)), style, PRODUCT)}', SUM
    factors = e.factors
    if isinstance(first, Num) and isinstance(first.value, Fraction): # `x/2`, not `1/2*x`
        over, under = first.value.as_integer_ratio()
        factors = [*([(Num(over), ONE)] if over != 1 else []), *others, (Num(under), Num(-1))]
    groups = [[f for f in factors if f[0].scalar], [f for f in factors if not f[0].scalar]]
    # One without a numerator joins the other
    only_divides = any(all(map(divides, g)) for g in groups)
    if only_divides: groups = [factors]
    factors = [_quotient(g, style) for g in groups]
    if len(factors) == 1: return factors[0]
    return style.times([_in_brackets(o, style, PRODUCT) for o in factors]), PRODUCT


def _quotient(factors, style):
    "Write a product, with its divisors in the denominator"
    over = [f for f in factors if not divides(f)]
    under = [(b, neg(x)) for b, x in factors if divides((b, x))]
    top = _powers(over, style) if over else (style.number(1), ATOM)
    if not under: return top
    return style.fraction(_in_brackets(top, style, style.over), _powers(under, style)), PRODUCT


def _powers(factors, style):
    if len(factors) == 1: return _power(*factors[0], style)
    return style.times([_in_brackets(_power(b, x, style), style, PRODUCT) for b, x in factors]), PRODUCT


def _power(base, exponent, style):
    if exponent == ONE: return write(base, style)
    if exponent == Num(HALF): return style.root(write(base, style)[0]), ATOM
    return style.power(_within(base, style, ATOM), write(exponent, style)), POWER


def _function(e, style):
    "Write a function, a comparison or a choice"
    if e.name in BETWEEN: return _comparison(e, style)
    if e.name in ('is_none', 'is_there'):
        return style.is_there(_within(e.args[0], style, ATOM), e.name == 'is_there'), TRUTH
    if e.name == 'case':
        c, a, b = e.args
        return style.case(_within(c, style, TRUTH), _within(a, style, TRUTH), _within(b, style, CASE))
    is_open = e.name in style.open_functions
    args = [_within(a, style, PRODUCT if is_open else CASE) for a in e.args]
    return style.function(e.name, args), PRODUCT if is_open else ATOM


def _comparison(e, style):
    "Write a comparison, with its number on the right, or `and`, `or` and the like"
    if e.name in ('lt', 'le') and isinstance(e.args[0], Num):
        e = call({'lt': 'gt', 'le': 'ge'}[e.name], *e.args[::-1])
    sign, least = BETWEEN[e.name]
    return style.signs.get(e.name, f' {sign} ').join(_within(a, style, least) for a in e.args), TRUTH
