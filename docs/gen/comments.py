"The comments beside parameters: fastcore's docments."
import inspect
import re

from fastcore.docments import docments


def comments_of(
    f # A function
) -> dict[str, str]:
    "Return the comment of each parameter that has one."
    f = inspect.unwrap(f)
    try: found, source = docments(f), inspect.getsource(f)
    except (OSError, TypeError): return {} # no Python source
    params = inspect.signature(f).parameters
    said = {k: ' '.join(v.split()) for k, v in found.items() if v and k in params}
    keywords = [k for k, p in params.items() if p.kind is p.VAR_KEYWORD]
    return said | {k: v for k in keywords if (v := _beside(f'**{k}', source))}


def _beside(name, source) -> str|None:
    "Return the comment beside `**name`, which docments leaves out"
    found = re.search(rf'{re.escape(name)}\s*# *(.+)', source)
    return found and found[1]
