"Show a `partial` that makes an optimizer in IPython: Python's own text has the addresses of steppers."
import sys
from functools import partial

from optimcb.composition.stepper import label

__all__ = ['show_partials']


def show_partials(
    of:type # Class of optimizers, whose partials are shown
) -> None:
    "Let a running IPython show steppers in a `partial` of the class by their names. Without one, do nothing."
    ipython = sys.modules.get('IPython')
    shell = ipython.get_ipython() if hasattr(ipython, 'get_ipython') else None
    if shell is None: return
    formatters = shell.display_formatter.formatters
    if 'text/plain' in formatters: formatters['text/plain'].for_type(partial, partial(_pretty, of))


def _pretty(of, o, printer, cycle): printer.text(_shown(of, o))


def _shown(of, o) -> str:
    "The text of a `partial`, by the labels of its steppers if it makes an optimizer."
    try:
        if not issubclass(o.func, of): return repr(o)
        keywords = [f"{k}={_steppers(v) if k == 'cbs' else repr(v)}" for k, v in o.keywords.items()]
        return f"partial({', '.join([o.func.__name__, *map(repr, o.args), *keywords])})"
    except Exception: return repr(o) # of something that is no class, or has no steppers


def _steppers(cbs) -> str:
    return label(cbs) if callable(cbs) else f"[{', '.join(map(label, cbs))}]"
