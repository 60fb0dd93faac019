"""State in fewer bits, for any algorithm: loaded before the steppers run, and rounded after them.

Kernels load and store it in its own type, so there is no copy in float32."""
from functools import partial

from optimcb._compat.boundary import entry
from optimcb.composition.stepper import renamed
from optimcb.hypers.torch_names import nearest
from optimcb.steppers.storage import decode_state, encode_state

__all__ = ['FORMATS', 'stored']


FORMATS = 'bfloat16', 'float16', 'float32' # types that state may be stored in, by their names in torch


@entry
def stored(
    **formats # By name of state: 'bfloat16', 'float16' or 'float32'
) -> list:
    """Store state in another type: `AdamW.wrap(stored(grad_avg='bfloat16'))`.

    Steppers see float32, whatever the state is stored as; it is rounded to nearest at the end of each step.
    In 16 bits it takes half the memory, and a step moves fewer bytes. An average that forgets slowly, such as
    `sqr_avg` with `sqr_mom=0.999`, then loses small changes, and is off by a factor. For parameters in 16
    bits, 'float32' keeps state that would be in 16 bits as well. The state of a running optimizer, and that
    of a file, is converted.

    Raises `ValueError` for an unknown format, `TypeError` without names of state."""
    if not formats:
        raise TypeError("`stored` needs the names of state, as `stored(grad_avg='bfloat16')`.")
    steppers = []
    for name, given in formats.items():
        format = str(given).removeprefix('torch.')
        if format not in FORMATS:
            near = nearest(format, FORMATS)
            hint = f" Did you mean {near!r}?" if near else ''
            raise ValueError(f"`{name}` can't be stored as {given!r}.{hint} "
                             f"Formats are {', '.join(FORMATS)}.")
        store = partial(encode_state, format=format)
        steppers += [renamed(decode_state, kept=name), renamed(store, kept=name)]
    return steppers
