"""Follow numbers through a run of steppers: each computation becomes a line of a Python script.

The script then computes the same from other numbers, without the steppers. It is valid as long as every
decision by a number turns out as in the run; guards check that. A stepper that does
`if step > 5: lr = lr/2`, with inputs `v0` (lr) and `v1` (step), in a run with step 6, gives

    if not (v1 > 5): return None
    t0 = v0 / 2
"""
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from types import CodeType

import numpy as np

__all__ = ['FOLLOWED', 'MATH_LOCK', 'NotFollowed', 'FollowedNumber', 'Script', 'math_followed', 'plain']


FOLLOWED = frozenset({int, float, np.float64}) # types of numbers that are followed
CONSTANTS = FOLLOWED | {bool} # types of their other operands
MOST_LINES = 1000 # limit of a script
MATH_LOCK = RLock() # held while `math`'s functions are replaced
IN_MATH = """sqrt cbrt exp exp2 expm1 log log2 log10 log1p pow fabs fmod remainder copysign sin cos tan asin
    acos atan atan2 sinh cosh tanh asinh acosh atanh degrees radians erf erfc gamma lgamma isnan isinf
    isfinite""".split()
MATH = {k: getattr(math, k) for k in IN_MATH if hasattr(math, k)}
BINARY = {
    'add': '{} + {}', 'sub': '{} - {}', 'mul': '{} * {}', 'truediv': '{} / {}', 'floordiv': '{} // {}',
    'mod': '{} % {}', 'pow': '{} ** {}', 'and': '{} & {}', 'or': '{} | {}', 'xor': '{} ^ {}',
    'lshift': '{} << {}', 'rshift': '{} >> {}'}
UNARY = {'neg': '-{}', 'pos': '+{}', 'invert': '~{}', 'abs': 'abs({})'}
COMPARISONS = {'lt': '{} < {}', 'le': '{} <= {}', 'gt': '{} > {}', 'ge': '{} >= {}', 'eq': '{} == {}',
               'ne': '{} != {}'}
WHOLE = {'floor': math.floor, 'ceil': math.ceil, 'trunc': math.trunc, 'round': round}
INSIDE = {**MATH, **WHOLE, 'abs': abs, 'type': type, 'int': int, 'float': float, 'float64': np.float64}


class NotFollowed(Exception):
    "A number is used where it can't be followed."


class Script:
    "What a run computes from its numbers: lines of Python, in the order of the run."
    def __init__(self):
        self.lines, self.names, self.guards, self.inside = [], {}, set(), dict(INSIDE)
        self.failed = False # stays True if a stepper catches the error

    def fail(self):
        "Give up, as a number is used where it can't be followed. Always raises `NotFollowed`."
        self.failed = True
        raise NotFollowed

    def inputs(self,
        values:tuple # Numbers, which may differ in later runs, and other values, which must stay the same
    ) -> list:
        "Return `values` for the run, with followed numbers for those of types in `FOLLOWED`."
        return [self._input(i, v) for i, v in enumerate(values)]

    def _input(self, i, v):
        name = f'v{i}'
        if type(v) in FOLLOWED: return FollowedNumber(self, name, v)
        same = f'{name} == {v!r}' if type(v) is str else f'{name} is {self.text(v)}'
        self.guard(same, True)
        return v

    def text(self,
        v # A followed number, a constant, or a tuple of these
    ) -> str:
        "Write `v` in Python."
        if type(v) is FollowedNumber: return v._name
        if type(v) is tuple and any(type(o) is FollowedNumber for o in v):
            return f"({''.join(f'{self.text(o)}, ' for o in v)})"
        if v is None or type(v) in (bool, str): return repr(v)
        if type(v) is int or type(v) is float and math.isfinite(v):
            return f'({v!r})' if repr(v)[0] == '-' else repr(v)
        if type(v) in (tuple, frozenset) and any(map(_holds_number, v)): self.fail()
        name = f'c{len(self.inside)}'
        self.inside[name] = v
        return name

    def guard(self,
        condition:str, # As Python
        outcome # Its value in the run
    ):
        "Add a line that ends a later run if the condition has another outcome there."
        known = condition, bool(outcome)
        if known in self.guards: return
        self.guards.add(known)
        self._append(f'if not ({condition}): return None' if outcome else f'if {condition}: return None')

    def _append(self, line):
        if len(self.lines) == MOST_LINES: self.fail()
        self.lines.append(line)

    def operands(self,
        given:tuple # Operands of an operation, some of them followed
    ) -> tuple|None:
        """Return the values and texts of operands; None if one is a tracer, which handles the operation.

        Raises `NotFollowed`."""
        if any(hasattr(type(o), 'by_torch') for o in given): return None
        if any(type(o) is not FollowedNumber and type(o) not in CONSTANTS for o in given): self.fail()
        return list(map(plain, given)), list(map(self.text, given))

    def work_out(self,
        f:Callable, # An operation
        values:list # Its operands
    ):
        "Return `f(*values)`. Gives up if it raises an error, which it may not do in a later run."
        try: return f(*values)
        except Exception:
            self.failed = True
            raise

    def line(self,
        expression:str, # As Python
        value, # Its value in the run
        varies:bool=False # May it have another type for operands of the same types?
    ) -> 'FollowedNumber':
        "Add an expression to the script, unless it is there, and follow its value."
        if type(value) not in FOLLOWED: self.fail()
        name = self.names.get(expression)
        if name is None:
            name = self.names[expression] = f't{len(self.names)}'
            self._append(f'{name} = {expression}')
            if varies: self.guard(f'type({name}) is {type(value).__name__}', True)
        return FollowedNumber(self, name, value)

    def function(self,
        count:int, # Number of inputs
        slots:list, # Numbers of the recording, some of them followed
        numbers:dict # New state by name, some of it followed numbers
    ) -> Callable:
        """Return the script as a function of the inputs, which returns `slots` and `numbers` for them.

        It returns None if a decision has another outcome or an error is raised. Raises `NotFollowed`."""
        listed = f"[{', '.join(map(self.text, slots))}]"
        named = ', '.join(f'{k!r}: {self.text(v)}' for k, v in numbers.items())
        lines = [f"def replay({', '.join(f'v{i}' for i in range(count))}):", ' try:',
                 *(f'  {line}' for line in self.lines), f'  return {listed}, {{{named}}}',
                 ' except Exception: return None']
        exec(_compiled('\n'.join(lines)), self.inside)
        return self.inside['replay']


@lru_cache(maxsize=256)
def _compiled(source) -> CodeType: # parameters of many shapes may have one script
    return compile(source, '<numbers of a step>', 'exec')


def _holds_number(v) -> bool:
    return type(v) is FollowedNumber or isinstance(v, (tuple, frozenset)) and any(map(_holds_number, v))


def plain(
    v # Anything
):
    "Return the plain number of a followed one, also inside tuples; other values stay as they are."
    if type(v) is tuple: return tuple(map(plain, v))
    return v._value if type(v) is FollowedNumber else v


class FollowedNumber:
    """A followed number: it computes and compares like a plain number of its type, and adds each operation to
    a script.

    Every other use of it raises `NotFollowed`, and the script is given up.
    """
    __slots__ = ('_script', '_name', '_value')
    __array_priority__, __array_ufunc__ = 1000, None # NumPy's scalars leave operators to us

    def __init__(self,
        script:Script, # Collects the operations
        name:str, # Its name in the script
        value # The plain number
    ): self._script, self._name, self._value = script, name, value

    __class__ = property(lambda self: type(self._value))

    def __bool__(self):
        outcome = bool(self._value)
        self._script.guard(self._name, outcome)
        return outcome

    def __round__(self, ndigits=None):
        if ndigits is None: return _whole('round')(self)
        if type(ndigits) is not int: self._script.fail()
        value = self._script.work_out(round, [self._value, ndigits])
        return self._script.line(f'round({self._name}, {ndigits})', value)

    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        given = *args, *(kwargs or {}).values()
        tracer = next((o for o in given if hasattr(type(o), 'by_torch')), None)
        if tracer is None: next(o for o in given if type(o) is FollowedNumber)._script.fail()
        return type(tracer).__torch_function__(f, types, args, kwargs)

    def __getattr__(self, name):
        if hasattr(type(self._value), name): self._script.fail()
        raise AttributeError(f'{type(self._value).__name__!r} object has no attribute {name!r}')

    def _fail(self, *args): self._script.fail()


def _binary(name):
    f, is_power = getattr(operator, f'__{name}__'), name == 'pow'
    def method(self, other, *modulus, reflected=False):
        script, given = self._script, (other, self) if reflected else (self, other)
        if modulus: script.fail()
        operands = script.operands(given)
        if operands is None: return NotImplemented
        values, texts = operands
        value = script.work_out(f, values)
        is_plain = type(values[0]) is float and type(values[1]) is int # such a power is always a float
        return script.line(BINARY[name].format(*texts), value, is_power and not is_plain)
    def reflected(self, other, *modulus): return method(self, other, *modulus, reflected=True)
    return method, reflected


def _unary(name):
    f = getattr(operator, f'__{name}__')
    def method(self):
        script = self._script
        return script.line(UNARY[name].format(self._name), script.work_out(f, [self._value]))
    return method


def _whole(name):
    def method(self):
        script = self._script
        return script.line(f'{name}({self._name})', script.work_out(WHOLE[name], [self._value]))
    return method


def _comparison(name):
    f = getattr(operator, f'__{name}__')
    def method(self, other):
        script = self._script
        operands = script.operands((self, other))
        if operands is None: return NotImplemented
        values, texts = operands
        outcome = script.work_out(f, values)
        if texts[0] == texts[1] and type(self._value) is int: return outcome # the same for all numbers
        script.guard(COMPARISONS[name].format(*texts), outcome)
        if name in ('eq', 'ne') and outcome == (name == 'ne') and texts[0] != texts[1]:
            _check_not_nan(script, values, texts, other)
        return outcome
    return method


def _check_not_nan(script, values, texts, other):
    "Rule out NaN: for `in`, the same NaN object equals itself, but a followed number is a new object"
    if any(v != v for v in values): script.fail()
    is_followed_float = type(other) is FollowedNumber and type(values[0]) is not int
    if is_followed_float: script.guard(f'{texts[0]} == {texts[0]}', True)


for _k in BINARY:
    _forward, _reflected = _binary(_k)
    setattr(FollowedNumber, f'__{_k}__', _forward)
    setattr(FollowedNumber, f'__r{_k}__', _reflected)
for _k in UNARY: setattr(FollowedNumber, f'__{_k}__', _unary(_k))
for _k in ('floor', 'ceil', 'trunc'): setattr(FollowedNumber, f'__{_k}__', _whole(_k))
for _k in COMPARISONS: setattr(FollowedNumber, f'__{_k}__', _comparison(_k))
for _k in """float int index complex hash str repr format divmod rdivmod reduce reduce_ex copy deepcopy
    array""".split(): setattr(FollowedNumber, f'__{_k}__', FollowedNumber._fail)


# `math`'s functions, which are written in C, where numbers can't be followed

def _in_math(name, f):
    def call(*args):
        script = next((o._script for o in args if type(o) is FollowedNumber), None)
        operands = script and script.operands(args)
        if operands is None: return f(*args)
        values, texts = operands
        value, expression = script.work_out(f, values), f"{name}({', '.join(texts)})"
        if type(value) is not bool: return script.line(expression, value)
        script.guard(expression, value)
        return value
    return call


FOLLOWING = {k: _in_math(k, f) for k, f in MATH.items()}


@contextmanager
def math_followed() -> Iterator[None]:
    "Let `math`'s functions follow numbers; their results stay the same."
    with MATH_LOCK:
        known = [k for k, f in MATH.items() if getattr(math, k) is f]
        try:
            for k in known: setattr(math, k, FOLLOWING[k])
            yield
        finally:
            for k in known: setattr(math, k, MATH[k])
