"""Tables of parameters from docments, the comments beside parameters, for mkdocstrings.

griffe reads the source without running it, and doesn't look at comments. This extension asks fastcore for
them, and adds them to the docstring as a section `Args`."""
import importlib
import inspect
import sys
import textwrap
from pathlib import Path

import griffe

sys.path[:0] = [str(Path(__file__).parent)] if str(Path(__file__).parent) not in sys.path else []
from comments import comments_of  # noqa: E402

PLAIN = dict(warn_unknown_params=False, warn_missing_types=False) # most parameters have no annotation


def comment_of(
    attribute:griffe.Attribute # A constant, or a field of a class
) -> str|None:
    "Return the comment in the line of an attribute, or those in the lines above it."
    lines = attribute.filepath.read_text().splitlines()
    first = attribute.lineno - 1
    if first >= len(lines) or attribute.name not in lines[first]: return None # it is a stub's line
    _, sign, beside = lines[first].partition(' # ')
    if sign: return beside
    above = []
    while first > 0 and lines[first-1].lstrip().startswith('#'):
        first -= 1
        above.insert(0, lines[first].lstrip(' #'))
    return ' '.join(above) or None


class Docments(griffe.Extension):
    "Add comments beside parameters to docstrings."
    def on_function(self, *, func, loader, **kwargs):
        "Add the section `Args` to a function's docstring."
        try: f = _object(func)
        except (ImportError, AttributeError): return
        found = comments_of(f)
        if not found: return
        starred = {p.name: f'{_stars(p)}{p.name}' for p in func.parameters}
        args = [f'{starred.get(k, k)}: {said}' for k, said in found.items()]
        doc = func.docstring.value.rstrip() + '\n' if func.docstring else ''
        section = textwrap.indent('\n'.join(args), '    ')
        text = f'{doc}\nArgs:\n{section}' # never starts with `Args`, or it would lose its indents
        func.docstring = griffe.Docstring(text, parent=func, parser='google', parser_options=PLAIN)

    def on_attribute(self, *, attr, loader, **kwargs):
        "Let the comment of an attribute be its docstring."
        if attr.docstring or not attr.lineno: return
        said = comment_of(attr)
        if said: attr.docstring = griffe.Docstring(said, parent=attr)


def _object(func):
    "Return the function that griffe describes"
    parent, rest = importlib.import_module(func.module.path), func.path[len(func.module.path)+1:]
    for k in rest.split('.'): parent = inspect.getattr_static(parent, k)
    return parent.fget if isinstance(parent, property) else getattr(parent, '__func__', parent)


def _stars(parameter) -> str:
    kinds = {griffe.ParameterKind.var_positional: '*', griffe.ParameterKind.var_keyword: '**'}
    return kinds.get(parameter.kind, '')
