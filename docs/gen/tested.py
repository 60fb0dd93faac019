"What algorithms and parts are compared with in the tests, and how near they come."
import sys
from functools import cache, partial
from pathlib import Path

from optimcb.composition.stepper import innermost

TESTS = Path(__file__).parents[2]/'tests'
sys.path += [str(o) for o in (TESTS, TESTS/'editing') if str(o) not in sys.path]
from checklist import TESTED_ELSEWHERE  # noqa: E402
from test_wrapping import PARTS, REFERENCES  # noqa: E402
from zoo import ROWS, algorithm_of, apart, reference  # noqa: E402

FORMULA = 'the formula of its source, in a plain loop that shares no code with the library'
WITH_ALL = ('The tests put it around every algorithm, on every engine. All engines must give the same '
            'weights, or the combination must be refused with a reason.')


@cache
def of_algorithm(
    name:str # Of an algorithm
) -> str:
    "Say what an algorithm is compared with. Runs the comparisons."
    rows = [r for r in ROWS if getattr(algorithm_of(r[1]), '__name__', '') == name]
    theirs = dict.fromkeys(reference(r[2]) for r in rows)
    named = ' and '.join(FORMULA if o == 'its formula in a loop' else o for o in theirs)
    tolerance = max(max(tol) if isinstance(tol, list) else tol for *_, tol in rows)
    found = max(apart(partial(ours, engine='eager'), other) for _, ours, other, _ in rows)
    return (f'The tests compare `{name}` with {named}: 50 steps in float64 on the eager engine. '
            f"Relative to the size of each tensor, the difference must stay below {tolerance:.0e}. "
            f"In this build it was {f'{found:.1e}' if found else '0'}. "
            "The other engines are compared with the eager one.")


def of_part(
    name:str, # Of a part
    cbs:list # Its steppers
) -> str:
    "Say how a part is tested."
    own = {innermost(f) for f in cbs}
    rows = [n for n, ours, _ in REFERENCES if own & {s.innermost for s in ours.func.composition.steppers}]
    compared = (f"The tests compare it with a plain loop around `torch.optim` ({', '.join(rows)}): "
                'the difference must stay below 1e-12.')
    found = [compared]*bool(rows) + [WITH_ALL]*bool(own & _with_all())
    return ' '.join(found) or f'The tests are in `tests/{TESTED_ELSEWHERE[name]}`.'


@cache
def _with_all() -> set:
    "Return the steppers of parts that are tested with every algorithm"
    return {innermost(f) for fs in PARTS.values() for f in (fs if isinstance(fs, list) else [fs])}
