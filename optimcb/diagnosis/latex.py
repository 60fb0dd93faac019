"Write expressions in LaTeX, with the letters that papers use for names."
import math
from fractions import Fraction

from optimcb.diagnosis.rendering import ATOM, SUM, without_dust, write

__all__ = ['latex', 'latex_name']


FUNCTIONS = dict(
    where=r'\begin{{cases}} {1} & \text{{if }} {0} \\ {2} & \text{{else}} \end{{cases}}',
    abs=r'\left|{}\right|', sum=r'\sum {}', logical_not=r'\neg\left({}\right)', float=r'\left[{}\right]',
    norm=r'\left\lVert {} \right\rVert', mean=r'\overline{{{}}}', rms=r'\operatorname{{rms}}\left({}\right)',
    numel='n', prod=r'\prod {}', total=r'\sum_{{\text{{all }} \theta}} {}',
    exp=r'e^{{{}}}', log=r'\ln\left({}\right)',
    maximum=r'\max\left({}, {}\right)', minimum=r'\min\left({}, {}\right)',
    floor=r'\left\lfloor {} \right\rfloor', ceil=r'\left\lceil {} \right\rceil',
    min=r'\min\left({}, {}\right)', max=r'\max\left({}, {}\right)', item='{}_{{{}}}',
    mod=r'\left({} \bmod {}\right)')
LETTERS = dict(
    p=r'\theta', grad='g', lr=r'\eta', mom=r'\beta_1', sqr_mom=r'\beta_2', wd=r'\lambda', eps=r'\epsilon',
    step='t', grad_avg='m', sqr_avg='v', update='u', sqr_max=r'v^{\max}', grad_max=r'g^{\max}',
    slow_avg=r'\phi',
    update_avg=r'\bar{u}', delta_avg=r'\Delta', grad_center=r'\bar{g}')
GREEK = frozenset('alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu rho sigma tau phi chi '
                  'psi omega'.split())


class LatexStyle:
    "How expressions are spelled in LaTeX."
    over = SUM # how tightly what is divided must hold together
    open_functions = frozenset({'sum', 'total', 'prod'})
    signs = {'and': r' \text{ and } ', 'or': r' \text{ or } '} | dict(
        eq=' = ', ne=r' \ne ', le=r' \le ', ge=r' \ge ', logical_and=r' \wedge ', logical_or=r' \vee ',
        logical_xor=r' \oplus ')
    def symbol(self, name): return latex_name(name)
    def fraction(self, over, under): return rf'\frac{{{over}}}{{{under[0]}}}'
    def power(self, base, exponent): return rf'{base}^{{{exponent[0]}}}'
    def root(self, x): return rf'\sqrt{{{x}}}'
    def brackets(self, x): return rf'\left({x}\right)'
    def case(self, c, a, b): return FUNCTIONS['where'].format(c, a, b), ATOM
    def is_there(self, x, there): return rf"{x} \text{{ is {'' if there else 'not '}there}}"

    def number(self, x):
        if isinstance(x, Fraction): return rf'\frac{{{x.numerator}}}{{{x.denominator}}}'
        if isinstance(x, float) and math.isinf(x): return r'\infty' if x > 0 else r'-\infty'
        shown = f'{x}' if isinstance(x, int) else repr(without_dust(x))
        mantissa, _, exponent = shown.partition('e')
        return rf'{mantissa} \cdot 10^{{{int(exponent)}}}' if exponent else mantissa

    def times(self, factors):
        has_numbers = sum(p[0].isdigit() for p in factors) > 1 # adjacent numbers would read as one
        return r' \cdot '.join(factors) if has_numbers else r' \, '.join(factors)

    def function(self, name, args):
        if name in FUNCTIONS: return FUNCTIONS[name].format(*args)
        return rf"\operatorname{{{_escaped(name)}}}\left({', '.join(args)}\right)"


def latex(
    e # An expression
) -> str:
    "Write `e` in LaTeX."
    return write(e, LatexStyle())[0]


def latex_name(
    name:str # Name of state, of a hyper-parameter, `p`, or `grad`
) -> str:
    "Return the letter that papers use for a name, or the name."
    if name.endswith('_hat'): return rf'\hat{{{latex_name(name[:-4])}}}'
    if name.endswith('_old'): return rf'{latex_name(name[:-4])}^{{\text{{old}}}}'
    if name in LETTERS: return LETTERS[name]
    if name == 'p.ndim': return r'\dim \theta'
    if name.startswith('p.shape'): return rf"n_{{{name[len('p.shape'):].strip('[]')}}}"
    stem, _, index = name.rpartition('_')
    if stem in GREEK and index: return rf'\{stem}_{{{index}}}'
    letter = name if len(name) == 1 else rf'\{name}' if name in GREEK else None
    is_free = letter and letter not in LETTERS.values()
    return letter if is_free else rf'\mathrm{{{_escaped(name)}}}'


def _escaped(name) -> str: return name.replace('_', r'\_')
