"The comments beside parameters: fastcore's docments."
import inspect

from fastcore.docments import docments


def comments_of(
    f # A function
) -> dict[str, str]:
    "Return the comment of each parameter that has one."
    f = inspect.unwrap(f)
    try: found = docments(f)
    except (OSError, TypeError): return {} # no source
    return {k: ' '.join(v.split()) for k, v in found.items() if v and k in inspect.signature(f).parameters}
