"Write a program in Triton, for all parameters at once; `triton_kernels` describes the tables that it reads."
import linecache
from functools import cache
from hashlib import sha256

import torch

from optimcb.engines import c_kernels
from optimcb.tracing.ir import PER_ELEMENT
from optimcb.tracing.ops import OPS, REDUCTIONS
from optimcb.tracing.program import IN_MEMORY, KNOWN, Program, Unsupported

__all__ = ['ALONE', 'ARGUMENTS', 'JOIN', 'PRELUDE', 'chunk_of', 'functions', 'source']


CHUNK_BYTES = 8192 # that a Triton program loads, or more: as many must be under way to keep memory busy
CHUNKS = 1024, 4096 # least and most elements of one
JOIN = 2048 # sums that are added at a time: as many as registers hold
ALONE = 8192 # sums of a tensor that one Triton program adds; more are shared by several
VECTOR = 8 # elements of the smallest dtype in 16 bytes, the widest load
FIELDS = 5 # fields of a row of `chunks` and of `tensors`
ARGUMENTS = ('chunks', 'tensors', 'table', 'partial', 'sums', 'yields', 'totals') # of every kernel
# fuse multiply-adds only where an operation says so

# The dtype to compute in, and the dtype in memory
TYPES = {
    torch.float32: ('tl.float32', 'tl.float32'),
    torch.float64: ('tl.float64', 'tl.float64'),
    torch.bfloat16: ('tl.float32', 'tl.bfloat16'),
    torch.float16: ('tl.float32', 'tl.float16'),
    torch.bool: ('tl.int32', 'tl.int8'),
    torch.int64: ('tl.int64', 'tl.int64'),
}

PRELUDE = f'''import triton
import triton.language as tl
from optimcb.engines.triton_math import *

kernel = triton.jit(do_not_specialize={list(ARGUMENTS)})
'''


def chunk_of(
    program:Program # What one step does
) -> int:
    "Return the number of elements per Triton program: more where elements are small."
    loaded = {(program.column(i), n.dtype) for i, n in enumerate(program.nodes)
              if n.op in IN_MEMORY and n.extent is PER_ELEMENT}
    size = sum(dtype.itemsize for _, dtype in loaded)
    least, most = CHUNKS
    return min(most, max(least, 1 << (CHUNK_BYTES // max(1, size)).bit_length() - 1))


def source(
    program:Program # Program of a step
) -> str:
    "Write a program in Triton. Raises `Unsupported`."
    writer = _Writer(program)
    return '\n\n'.join([PRELUDE, *(f for k in range(program.last + 1) for f in writer.level(k))]) + '\n'


@cache
def functions(
    text:str # Result of `source`
) -> dict:
    """Return the functions in a source, by name.

    Triton reads a function's source text, which is registered in Python's line cache."""
    name = f'<optimcb {sha256(text.encode()).hexdigest()[:16]}>'
    found = {'__name__': 'optimcb.engines.generated'}
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    exec(compile(text, name, 'exec'), found)
    return found


def _function(decorator, name, args, body) -> str:
    return '\n    '.join([f'@{decorator}\ndef {name}({", ".join(args)}):', *body])


class _Writer(c_kernels.Writer):
    def operand(self, a, dtype) -> str:
        "Write operand `a`, in the dtype in which `dtype` is computed"
        kind = TYPES[dtype][0]
        if a < 0: return f's{~a}.to({kind})'
        return f'v{a}' if TYPES[self.p.nodes[a].result_dtype][0] == kind else f'v{a}.to({kind})'

    def value(self, i) -> str:
        "Write the assignment of node `i`"
        n = self.p.nodes[i]
        if n.op in IN_MEMORY:
            at = ' + i, mask' if n.extent is PER_ELEMENT else ''
            e = f'tl.load(m{self.column[self.p.column(i)]}{at})'
        elif n.op == 'numel': e = f'tl.load(tensors + t*{FIELDS} + 2)'
        elif n.op == 'zero': e = f'tl.full((), 0, {TYPES[n.dtype][0]})'
        elif n.op == 'total': e = f'tl.load(totals + {self.p.totals.index(i)})'
        elif n.op in KNOWN: e = f'tl.load({self.place("sums", i)})'
        elif n.op == 'cast': e = self.cast(n)
        else: e = self.expression(n)
        if n.dtype is torch.bool: e = f'({e}) != 0'
        return f'v{i} = ({e}).to({TYPES[n.result_dtype][0]})'

    def cast(self, n) -> str:
        kind, low = TYPES[n.dtype]
        of = n.args[0]
        e = self.operand(of, self.p.nodes[of].result_dtype if of >= 0 else torch.float64)
        return f'{e}.to({kind}).to({low})' if n.dtype in (torch.bfloat16, torch.float16) else e

    def expression(self, n) -> str:
        op = OPS[n.op]
        integers = n.dtype is torch.int64 and n.op in c_kernels.WITH_INTEGERS
        if '{f}' in op.text and not n.dtype.is_floating_point and not integers:
            raise Unsupported(f"`{n.op}` of {n.dtype} has no Triton")
        args = [self.operand(a, n.dtype) for a in n.args]
        if n.op == 'where': args[0] = self.operand(n.args[0], torch.bool)
        return op.text.format(*args, f='')

    def place(self, array, i, row='t') -> str:
        "Write the address of sum `i` of a tensor or chunk"
        return f'{array} + {row}*{len(self.p.sums)} + {self.p.sums.index(i)}'

    def start(self, i) -> str:
        "Write the initial value of reduction `i`"
        return c_kernels.start_of(self.p.nodes[i]).replace('INFINITY', "float('inf')")

    def columns(self, used, stores) -> dict:
        "Map used columns, by index, to their dtype in memory and whether they have a value per element"
        return {self.column[o.name]: (TYPES[o.dtype][1], o.extent is PER_ELEMENT) for o in (*used, *stores)}

    def numbers(self) -> list[str]: return [f's{k} = tl.load(S + {k})' for k in range(len(self.p.slots))]

    def level(self, k) -> list[str]:
        "Write the functions for a chunk, and those for the tensor after it"
        sums, totals, stores = self.p.at(k, self.p.sums), self.p.at(k, self.p.totals), self.p.stores_at(k)
        each = [s for s in stores if s.extent is PER_ELEMENT]
        ends = [s for s in stores if s.extent is not PER_ELEMENT]
        res = self.chunk(k, sums, each) if sums or each else []
        if sums: res.append(self.join(k, sums))
        if totals or ends: res.append(self.tensor(k, totals, ends))
        return res

    def chunk(self, k, sums, stores) -> list[str]:
        """Write a function for the elements of a chunk, and the kernel that calls it.

        Elements are loaded as vectors if their addresses are aligned"""
        once, each, used = self.split([self.p.nodes[i].args[0] for i in sums] + [s.value for s in stores])
        columns = self.columns(used, stores)
        wide = [c for c, (_, each_) in columns.items() if each_]
        addresses = [f'a{c}' for c in columns]
        args = ['c', 't', 'start', 'n', 'S', *addresses, 'tensors', 'partial', 'sums', 'totals']
        pointers = []
        for c, (low, each_) in columns.items():
            offset = ' + start' if each_ else ''
            pointers.append(f'm{c} = a{c}.to(tl.pointer_type({low})){offset}')
        elements = _function('triton.jit', f'elements{k}', [*args, 'wide: tl.constexpr'], [
            *pointers,
            'if wide:',
            f'    n = n // {VECTOR} * {VECTOR}',
            *(f'    m{c} = tl.multiple_of(m{c}, 16)' for c in wide),
            f'i = tl.arange(0, {chunk_of(self.p)})',
            'mask = i < n',
            *self.numbers(), *once, *each,
            *self.barrier(stores, used), *self.stored(stores), *self.summed(sums)])
        given = ', '.join(args)
        bits = ' | '.join(f'a{c}' for c in wide) or 0 # the bits of all addresses
        # every second pass goes backwards, and finds the end of the one before it in the cache
        order = 'tl.num_programs(0) - 1 - tl.program_id(0)' if k % 2 else 'tl.program_id(0)'
        main = _function('kernel', f'chunk{k}', ARGUMENTS, [
            f'c = {order}',
            f'row = chunks + c*{FIELDS}',
            't = tl.load(row)',
            'start = tl.load(row + 1)',
            'n = tl.load(row + 2).to(tl.int32)',
            'M = table + tl.load(row + 3)',
            'S = (table + tl.load(row + 4)).to(tl.pointer_type(tl.float64))',
            *(f'a{c} = tl.load(M + {c})' for c in columns),
            f'if (({bits}) % 16 == 0) & (n % {VECTOR} == 0):',
            f'    elements{k}({given}, True)',
            f'else: elements{k}({given}, False)'])
        return [elements, main]

    def barrier(self, stores, used) -> list[str]:
        """Write a barrier if threads may store other elements than they load.

        All threads must have loaded values before others overwrite them with independent values"""
        loaded = {u.name for u in used}
        def own(s): return any(self.p.nodes[i].args == (s.name,) for i in self.p.needed([s.value]))
        return ['tl.debug_barrier()'] if any(s.name in loaded and not own(s) for s in stores) else []

    def stored(self, stores, where='m{} + i', mask=', mask') -> list[str]:
        res = []
        for s in stores:
            place = where.format(self.column[s.name])
            value = self.operand(s.value, s.dtype)
            if s.dtype is torch.bool: value = f'{value} != 0'
            res.append(f'tl.store({place}, ({value}).to({TYPES[s.dtype][1]}){mask})')
        return res

    def summed(self, sums) -> list[str]:
        "Write the sums of a chunk"
        res = []
        for i in sums:
            n = self.p.nodes[i]
            res.append(f'x{i} = tl.where(mask, {self.operand(n.args[0], n.dtype)}, {self.start(i)})')
            res.append(f'tl.store({self.place("partial", i, "c")}, '
                       f'{REDUCTIONS[n.op].block.format(f"x{i}")}.to(tl.float64))')
        return res

    def join(self, k, sums) -> str:
        """Write a kernel that adds up sums, in an order that is always the same: those of the chunks of a
        group, and those of the groups of a tensor"""
        rows = {i: REDUCTIONS[self.p.nodes[i].op] for i in sums}
        more = {i: f'tl.load({self.place("partial", i, "c")}, c < last, {self.start(i)})' for i in sums}
        return _function('kernel', f'join{k}', ARGUMENTS, [
            't = tl.program_id(0)',
            f'first = tl.load(tensors + t*{FIELDS} + 3)',
            f'last = tl.load(tensors + t*{FIELDS} + 4)',
            *(f'x{i} = tl.full([{JOIN}], {self.start(i)}, tl.float64)' for i in sums),
            f'for b in range(first, last, {JOIN}):',
            f'    c = b + tl.arange(0, {JOIN})',
            *(f'    x{i} = {rows[i].pair.format(f"x{i}", more[i])}' for i in sums),
            *(f'tl.store({self.place("sums", i)}, {rows[i].block.format(f"x{i}")})' for i in sums)])

    def tensor(self, k, totals, ends) -> str:
        "Write a kernel for a tensor's yielded values, and for its scalar state, which is no longer read"
        once, _, used = self.split([self.p.nodes[i].args[0] for i in totals] + [s.value for s in ends])
        shared = {self.p.totals.index(i): self.p.nodes[i].args[0] for i in totals}
        shares = {j: self.operand(a, torch.float64) for j, a in shared.items()}
        columns = self.columns(used, ends)
        count = len(self.p.totals)
        return _function('kernel', f'tensor{k}', ARGUMENTS, [
            't = tl.program_id(0)',
            f'row = tensors + t*{FIELDS}',
            'M = table + tl.load(row)',
            'S = (table + tl.load(row + 1)).to(tl.pointer_type(tl.float64))',
            *(f'm{c} = tl.load(M + {c}).to(tl.pointer_type({low}))' for c, (low, _) in columns.items()),
            *self.numbers(), *once,
            *(f'tl.store(yields + t*{count} + {j}, {share})' for j, share in shares.items()),
            *self.stored(ends, 'm{}', '')])
