"Suggest code to replace a stepper's use of a tensor's value, with the stepper's own names."
import ast
import linecache
import os
from numbers import Number
from types import FrameType

import torch

from optimcb._compat import cpython
from optimcb._compat.cpython import ANYWHERE, caller_outside, place_of
from optimcb.tracing.opaque import DO_IT

__all__ = ['ELEMENTWISE', 'INSTEAD', 'instead_of_branch', 'instead_of_number']


HERE, TORCH, CPYTHON = os.path.dirname(__file__), os.path.dirname(torch.__file__), cpython.__file__
LONGEST = 160 # most characters of a suggested line
NEUTRAL = { # neutral elements
    'add_': 0., 'sub_': 0., 'mul_': 1., 'div_': 1., ast.Add: 0., ast.Sub: 0., ast.Mult: 1., ast.Div: 1.}
PLAIN = ( # expressions without calls
    ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.BinOp, ast.Load, ast.operator, ast.unaryop)


def instead_of_branch() -> str:
    "Suggest code instead of the branch of the calling stepper."
    frame = _frame()
    path = _path(frame)
    call = next((o for o in path if _is_call(o, 'min', 'max')), None)
    if call is not None and len(call.args) > 1 and not call.keywords:
        return _say('Write', _replaced(path, call, _bounded(call, frame)))
    branch = next((o for o in path if isinstance(o, (ast.If, ast.IfExp, ast.While, ast.Assert))), None)
    if branch is None: return "Choose with `torch.where(condition, a, b)`."
    condition = _condition(branch.test, frame)
    if isinstance(branch, ast.IfExp):
        a, b = _for_tensors(branch.body, frame), _for_tensors(branch.orelse, frame)
        line = _replaced(path, branch, _where(condition, a, b))
    else: line = _chosen(branch, condition, frame) if isinstance(branch, ast.If) else None
    if line: return _say('Choose with `torch.where`:', line)
    return f"Choose with `torch.where({ast.unparse(condition)}, a, b)`."


def instead_of_number() -> str:
    "Suggest code instead of the calling stepper's conversion of a tensor to a number."
    path = _path(_frame())
    call = next((o for o in path if isinstance(o, ast.Call)), None)
    tensor = call and _kept(call)
    if tensor: return _say("Keep it a tensor:", _replaced(path, call, tensor))
    return "Only the eager engine knows numbers: use `torch.where` to choose, and keep numbers as tensors."


def _kept(call) -> ast.expr|None:
    "Return the tensor expression in a call that converts it to a number, or None"
    if _is_call(call, 'float', 'int') and len(call.args) == 1: return call.args[0]
    f = call.func
    if not isinstance(f, ast.Attribute): return None
    if f.attr == 'item': return f.value
    is_of_numbers = isinstance(f.value, ast.Name) and f.value.id in ('math', 'np')
    if is_of_numbers and hasattr(torch, f.attr): return _of_torch(f.attr, *call.args)


ELEMENTWISE = "Use operations on the elements of one tensor, or its sum, mean, norm, max or min."
INSTEAD = { # by name, advice instead of a method or function of torch
    **dict.fromkeys(['view', 'reshape', 'flatten', 'ravel'], "Sums and norms of a tensor need no `view`."),
    **dict.fromkeys(['randn_like', 'rand_like', 'normal_', 'uniform_', 'bernoulli', 'bernoulli_', 'dropout'],
                    "Random numbers are drawn by the eager engine only."),
    **dict.fromkeys(['median', 'sort', 'topk', 'quantile', 'kthvalue', 'argmax', 'argmin'],
                    "Only the eager engine can do it."),
    **dict.fromkeys(['dot', 'vdot', 'inner'], "Write `(a*b).sum()`."),
    **dict.fromkeys(['new', 'resize_as_', 'resize_'], "Make state with `torch.zeros_like(p)`."),
    **dict.fromkeys(['matmul', 'mm', 'mv', '__matmul__', 'bmm'], DO_IT),
}


# The place in the source

def _frame() -> FrameType|None:
    "Return the frame of the stepper, or of its helper, that caused it"
    return caller_outside((HERE, TORCH, CPYTHON))


def _path(frame) -> list:
    "List the syntax nodes around the frame's current instruction, innermost first; empty without source"
    if frame is None: return []
    try: tree = ast.parse(''.join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    except (SyntaxError, ValueError): return []
    start, end = place_of(frame)
    placed = [o for o in ast.walk(tree) if hasattr(o, 'lineno')]
    around = [o for o in placed if _start(o) <= start and end <= _end(o) and _asks(o, start, end)]
    def size(o): return o.end_lineno - o.lineno, o.end_col_offset - o.col_offset
    functions = [size(o) for o in around if isinstance(o, (ast.FunctionDef, ast.Lambda))]
    return sorted((o for o in around if not functions or size(o) < min(functions)), key=size)


def _asks(o, start, end) -> bool:
    "Does the node itself, not a branch of it, cause it? Some instructions have the whole node as their place"
    if start[1] == ANYWHERE: return not isinstance(o, ast.If) or start[0] <= o.test.end_lineno
    if isinstance(o, (ast.If, ast.While)): return start <= _end(o.test)
    if not isinstance(o, ast.IfExp): return True
    return _start(o.test) <= start and end <= _end(o.test) or (start, end) == (_start(o), _end(o))


def _start(o): return o.lineno, o.col_offset
def _end(o): return o.end_lineno, o.end_col_offset

def _is_call(o, *names) -> bool:
    return isinstance(o, ast.Call) and isinstance(o.func, ast.Name) and o.func.id in names


# The suggestion

def _say(what, line) -> str: return f"{what} `{line}`."
def _called(f, *args) -> ast.Call: return ast.Call(f, list(args), [])
def _of_torch(name, *args) -> ast.Call: return _called(ast.Attribute(ast.Name('torch'), name), *args)
def _where(condition, a, b) -> ast.Call: return _of_torch('where', condition, a, b)


def _replaced(path, old, new) -> str:
    "Return the statement of `old` with `new` instead, or only `new` if that is long"
    statements = ast.Assign, ast.AugAssign, ast.Expr, ast.Return
    statement = next((o for o in path if isinstance(o, statements)), None)
    if statement is None: return ast.unparse(new)
    line = ast.unparse(_Swap(old, new).visit(ast.parse(ast.unparse(statement)).body[0]))
    return line if '\n' not in line and len(line) <= LONGEST else ast.unparse(new)


class _Swap(ast.NodeTransformer):
    "A transformer that replaces an expression wherever it occurs"
    def __init__(self, old, new): self.old, self.new = ast.dump(old), new
    def visit(self, node): return self.new if ast.dump(node) == self.old else self.generic_visit(node)


def _bounded(call, frame) -> ast.expr:
    "Rewrite `min` or `max` of tensors and numbers with torch functions"
    is_min = call.func.id == 'min'
    numbers = [a for a in call.args if _is_number(a, frame)]
    tensors = [a for a in call.args if a not in numbers]
    res = tensors[0] if tensors else call.args[0]
    for o in tensors[1:]: res = _of_torch('minimum' if is_min else 'maximum', res, o)
    side = 'max' if is_min else 'min'
    for o in numbers: res = ast.Call(ast.Attribute(res, 'clamp'), [], [ast.keyword(side, o)])
    return res


def _for_tensors(value, frame) -> ast.expr:
    "Rewrite `min` and `max` of tensors, which also branch, with torch functions"
    return _Bounds(frame).visit(ast.parse(ast.unparse(value), mode='eval').body)


class _Bounds(ast.NodeTransformer):
    def __init__(self, frame): self.frame = frame
    def visit_Call(self, node):
        node = self.generic_visit(node)
        is_bound = _is_call(node, 'min', 'max') and len(node.args) > 1 and not node.keywords
        if not is_bound or all(_is_number(a, self.frame) for a in node.args): return node
        return _bounded(node, self.frame)


def _is_number(node, frame) -> bool:
    "Is the expression known to be a Python number?"
    if not all(isinstance(o, PLAIN) for o in ast.walk(node)): return False
    code = compile(ast.Expression(node), '', 'eval')
    try: return isinstance(eval(code, frame.f_globals, frame.f_locals), Number)
    except Exception: return False


def _condition(test, frame) -> ast.expr:
    "Rewrite `or`, `and`, `not` and chained comparisons for tensors"
    if isinstance(test, ast.BoolOp):
        parts = [_condition(o, frame) for o in test.values]
        return _joined(ast.BitOr() if isinstance(test.op, ast.Or) else ast.BitAnd(), parts)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return ast.UnaryOp(ast.Invert(), _condition(test.operand, frame))
    if isinstance(test, ast.Compare) and len(test.ops) > 1:
        sides = [test.left, *test.comparators]
        pairs = [ast.Compare(a, [op], [b]) for a, op, b in zip(sides, test.ops, sides[1:])]
        return _joined(ast.BitAnd(), pairs)
    if isinstance(test, ast.Compare): return test
    if _is_number(test, frame): return _called(ast.Name('bool'), test)
    return test if isinstance(test, ast.Call) else ast.Compare(test, [ast.NotEq()], [ast.Constant(0)])


def _joined(op, parts) -> ast.expr:
    res = parts[0]
    for o in parts[1:]: res = ast.BinOp(res, op, o)
    return res


def _chosen(branch, condition, frame) -> str|None:
    "Return a single statement equivalent to the branches of an `if`, or None"
    name, value = _made(branch, condition, frame)
    if name is not None: return ast.unparse(ast.fix_missing_locations(ast.Assign([ast.Name(name)], value)))
    o = branch.body[0]
    if len(branch.body) > 1 or branch.orelse: return None
    if isinstance(o, ast.AugAssign) and type(o.op) in NEUTRAL:
        value = _where(condition, o.value, ast.Constant(NEUTRAL[type(o.op)]))
        return ast.unparse(ast.AugAssign(o.target, o.op, value))
    f = getattr(getattr(o, 'value', None), 'func', None)
    if not isinstance(o, ast.Expr) or not isinstance(f, ast.Attribute): return None
    if f.attr in ('zero_', 'fill_'):
        value = o.value.args or [ast.Constant(0.)]
        return ast.unparse(_called(ast.Attribute(f.value, 'masked_fill_'), condition, *value))
    if f.attr in NEUTRAL and len(o.value.args) == 1:
        value = _where(condition, o.value.args[0], ast.Constant(NEUTRAL[f.attr]))
        return ast.unparse(ast.Call(f, [value], o.value.keywords))


def _made(branch, condition, frame) -> tuple:
    "Return the only name that all branches set, and its value, or None"
    name, a = _set(branch.body, frame)
    if name is None: return None, None
    if not branch.orelse: return name, _where(condition, a, ast.Name(name))
    if len(branch.orelse) == 1 and isinstance(nested := branch.orelse[0], ast.If):
        other, b = _made(nested, _condition(nested.test, frame), frame)
    else: other, b = _set(branch.orelse, frame)
    return (name, _where(condition, a, b)) if other == name else (None, None)


def _set(body, frame) -> tuple:
    o = body[0]
    if len(body) > 1 or not isinstance(o, ast.Assign) or len(o.targets) > 1: return None, None
    target = o.targets[0]
    return (target.id, _for_tensors(o.value, frame)) if isinstance(target, ast.Name) else (None, None)
