"""Formulas as MathML, which browsers draw themselves: no script, no font and no network at reading time.

`math-core` translates LaTeX when the site is built. It raises for LaTeX that it doesn't know, so a formula
that can't be read breaks the build."""
import html
import re
from functools import cache

from math_core import LatexToMathML

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
LINES = re.compile(r'\s*\n\s*')
IN_HTML = re.compile(r'\$\$(.*?)\$\$|\\\((.*?)\\\)', re.DOTALL)


@cache
def _converter(): return LatexToMathML()


def mathml(
    latex:str, # A formula, without dollars
    block:bool=False # On a line of its own?
) -> str:
    "Return a formula as MathML. Raises `LatexError`."
    found = _converter().convert_with_local_state(latex.strip(), displaystyle=block)
    if not block: return found
    found = LINES.sub(' ', found) # a blank line would end the HTML in Markdown
    return f'<div class="formula" tabindex="0">{found}</div>'


def in_page(
    page:str # HTML that Markdown has made
) -> str:
    "Replace the formulas of a page, which `pymdownx.arithmatex` has marked."
    page = BLOCK.sub(lambda m: mathml(html.unescape(m[1]), block=True), page)
    return INLINE.sub(lambda m: mathml(html.unescape(m[1])), page)


def in_output(
    output:str # HTML that a notebook shows, with formulas for MathJax
) -> str:
    "Replace the formulas of a notebook's output."
    def replaced(m): return mathml(html.unescape(m[1] or m[2]), block=bool(m[1]))
    return IN_HTML.sub(replaced, output)
