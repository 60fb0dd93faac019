"The fused engine on the CPU: a program as C, for all parameters at once."
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from optimcb.engines import c_compiler
from optimcb.engines.launch import KernelLaunch
from optimcb.tracing.ir import PER_ELEMENT, Extent
from optimcb.tracing.ops import OPS, REDUCTIONS, of_nothing
from optimcb.tracing.program import IN_MEMORY, Program, Unsupported

__all__ = ['Launch', 'Writer', 'source', 'start_of']


CHUNK = 16384 # elements that are worked on at a time
MANY = 32768 # elements that are worth more than one thread
BLOCK = 1024 # elements that are summed in the type of the tensor, before they are added up in double

PRELUDE = (Path(__file__).parent/'kernel.h').read_text()

# How a type is computed in, its suffix, how it lies in memory, how it is read and written
_plain = '{}'
TYPES = {
    torch.float32: ('float', 'f', 'float', _plain, _plain),
    torch.float64: ('double', '', 'double', _plain, _plain),
    torch.bfloat16: ('float', 'f', 'uint16_t', 'from_bfloat16({})', 'to_bfloat16({})'),
    torch.float16: ('float', 'f', 'uint16_t', 'from_float16({})', 'to_float16({})'),
    torch.bool: ('int32_t', None, 'uint8_t', _plain, '({} != 0)'),
    torch.int64: ('int64_t', 'l', 'int64_t', _plain, _plain),
}
WITH_INTEGERS = frozenset({'abs', 'sign', 'maximum', 'minimum', 'clamp_min', 'clamp_max'})


def source(
    program:Program # Program of a step
) -> str:
    "The program in C. Raises `Unsupported`."
    writer = Writer(program)
    levels = [writer.level(k) for k in range(program.last + 1)]
    entries = [writer.phase(i) for i in range(len(program.phases))]
    return '\n'.join([PRELUDE, *levels, *entries])


def start_of(
    n # Node of a reduction
) -> str:
    "Return the number, in C, that a reduction starts from. Raises `Unsupported`."
    if n.dtype is torch.int64 and not REDUCTIONS[n.op].integers:
        raise Unsupported(f"`{n.op}` of {n.dtype} has no C")
    return str(of_nothing(n.op, n.dtype)).replace('inf', 'INFINITY')


class Used(NamedTuple):
    "A column that is read."
    name: str|int
    dtype: torch.dtype
    extent: Extent


class Writer:
    "Write a program in C, a function for each level of what depends on sums"
    def __init__(self,
        program:Program # Program of a step
    ):
        self.p, self.column = program, {c: i for i, c in enumerate(program.columns)}

    def operand(self, a, dtype) -> str:
        "Write operand `a`, in the dtype in which `dtype` is computed"
        ctype = TYPES[dtype][0]
        if a < 0: return f'({ctype})S[{~a}]'
        return f'v{a}' if TYPES[self.p.nodes[a].result_dtype][0] == ctype else f'({ctype})v{a}'

    def value(self, i) -> str:
        "The declaration of node `i`"
        n = self.p.nodes[i]
        ctype, suffix, _, read, written = TYPES[n.dtype]
        if n.op in IN_MEMORY:
            at = 'i' if n.extent is PER_ELEMENT else 0
            e = read.format(f'm{self.column[self.p.column(i)]}[{at}]')
        elif n.op == 'numel': e = 'J->numel[t]'
        elif n.op == 'zero': e = '0'
        elif n.op == 'total': e = f'J->totals[{self.p.totals.index(i)}]'
        elif n.op in REDUCTIONS: e = f'J->sums[t*{len(self.p.sums)} + {self.p.sums.index(i)}]'
        elif n.op == 'cast':
            of = n.args[0]
            e = self.operand(of, self.p.nodes[of].result_dtype if of >= 0 else torch.float64)
            if n.dtype is torch.bool: e = f'{e} != 0'
            elif read != _plain: e = read.format(written.format(f'(float){e}')) # rounded to 16 bits
        else:
            op = OPS[n.op]
            lacks_integers = suffix == 'l' and n.op not in WITH_INTEGERS
            if '{f}' in op.text and (suffix is None or lacks_integers):
                raise Unsupported(f"`{n.op}` of {n.dtype} has no C")
            args = [self.operand(a, n.dtype) for a in n.args]
            if n.op == 'where': args[0] = self.operand(n.args[0], torch.bool)
            e = op.text.format(*args, f=suffix)
            if n.dtype is torch.bool: e = f'({e}) != 0' # True + True is True
        return f'const {TYPES[n.result_dtype][0]} v{i} = ({TYPES[n.result_dtype][0]})({e});'

    def split(self, wanted):
        "Declarations that are made once for a tensor, once for an element, and the pointers that they need"
        needed = self.p.needed(wanted)
        each = {i for i in needed if self.p.nodes[i].extent is PER_ELEMENT}
        loads = [(self.p.column(i), self.p.nodes[i]) for i in needed if self.p.nodes[i].op in IN_MEMORY]
        used = [Used(name, n.dtype, n.extent) for name, n in loads]
        once = [self.value(i) for i in needed if i not in each]
        return once, [self.value(i) for i in needed if i in each], used

    def pointers(self, used, stores=()) -> list[str]:
        kinds = {u.name: (u.dtype, u.extent, 'const ') for u in used}
        kinds |= {s.name: (s.dtype, s.extent, '') for s in stores}
        return [f'{const}{TYPES[dtype][2]} *restrict m{self.column[name]} = ({const}{TYPES[dtype][2]} '
                f'*)M[{self.column[name]}]{" + start" if extent is PER_ELEMENT else ""};'
                for name, (dtype, extent, const) in kinds.items()]

    def head(self):
        return ['const int64_t start = 0; (void)start;', 'void *const *M = J->memory + '
                                                         f't*{len(self.column)};', self.numbers()]

    def numbers(self):
        "Copy the numbers to local memory: gcc doesn't vectorize a choice between numbers that it must load"
        n = len(self.p.slots)
        if not n: return ''
        values = ', '.join(f'N[{i}]' for i in range(n))
        return f"const double *N = J->numbers + J->row[t]*{n}, S[] = {{{values}}};"

    def level(self, k) -> str:
        "Write the functions for a chunk, and those for the tensor after it"
        sums = self.p.at(k, self.p.sums)
        stores = [s for s in self.p.stores_at(k) if s.extent is PER_ELEMENT]
        out = []
        if sums or stores:
            wanted = [self.p.nodes[i].args[0] for i in sums] + [s.value for s in stores]
            once, each, used = self.split(wanted)
            out += [f'static void chunk{k}(const Job *J, int64_t c) {{',
                    'const int64_t t = J->chunk[3*c], start = J->chunk[3*c+1], n = J->chunk[3*c+2];',
                    f'void *const *M = J->memory + t*{len(self.column)};',
                    self.numbers(), *self.pointers(used, stores), *once]
            if sums: out += self.summed(sums, each)
            if stores:
                out += ['#pragma omp simd', 'for (int64_t i = 0; i < n; i++) {',
                        *each, *self.stored(stores, 'i'), '}']
            out.append('}')
        if sums: out += self.joined(k, sums)
        totals = self.p.at(k, self.p.totals)
        ends = [s for s in self.p.stores_at(k) if s.extent is not PER_ELEMENT]
        if totals or ends:
            once, _, used = self.split([self.p.nodes[i].args[0] for i in totals] + [s.value for s in ends])
            out += [f'static void tensor{k}(const Job *J, int64_t t) {{',
                    *self.head(), *self.pointers(used, ends), *once,
                    *(f'J->yields[t*{len(self.p.totals)} + {self.p.totals.index(i)}] = '
                      f'{self.operand(self.p.nodes[i].args[0], torch.float64)};'
                      for i in totals),
                    *self.stored(ends, 0), '}']
        return '\n'.join(out)

    def stored(self, stores, i) -> list[str]:
        res = []
        for s in stores:
            _, _, kind, _, written = TYPES[s.dtype]
            res.append(f'm{self.column[s.name]}[{i}] = '
                       f'({kind}){written.format(self.operand(s.value, s.dtype))};')
        return res

    def summed(self, sums, each) -> list[str]:
        "A loop that sums blocks, their sums in double"
        nodes = [(i, self.p.nodes[i], REDUCTIONS[self.p.nodes[i].op]) for i in sums]
        kinds = {i: TYPES[n.dtype][0] for i, n, _ in nodes}
        simd = ' '.join(f'reduction({r.clause}:x{i})' for i, _, r in nodes)
        start = {i: start_of(n) for i, n, _ in nodes}
        return [*(f'double a{i} = {start[i]};' for i in sums),
                f'for (int64_t b = 0; b < n; b += {BLOCK}) {{', f'const int64_t e = b + {BLOCK} < n ? '
                                                                f'b + {BLOCK} : n;',
                *(f'{kinds[i]} x{i} = {start[i]};' for i in sums),
                f'#pragma omp simd {simd}', 'for (int64_t i = b; i < e; i++) {', *each,
                *(f'x{i} = {r.text.format(f"x{i}", self.operand(n.args[0], n.dtype))};' for i, n, r in nodes),
                '}',
                *(f'a{i} = {r.text.format(f"a{i}", f"(double)x{i}")};' for i, _, r in nodes), '}',
                *(f'J->partial[c*{len(self.p.sums)} + {self.p.sums.index(i)}] = a{i};' for i in sums)]

    def joined(self, k, sums) -> list[str]:
        "The chunks' sums together, in order"
        out = [f'static void join{k}(const Job *J, int64_t t) {{']
        for i in sums:
            n, at = self.p.nodes[i], f'{len(self.p.sums)} + {self.p.sums.index(i)}'
            r = REDUCTIONS[n.op]
            out += [f'double a{i} = {start_of(n)};',
                    'for (int64_t c = J->first[t]; c < J->first[t+1]; c++) {',
                    f'const double x = J->partial[c*{at}];', f'a{i} = {r.text.format(f"a{i}", "x")};', '}',
                    f'J->sums[t*{at}] = a{i};']
        return [*out, '}']

    def phase(self, i) -> str:
        "The function that Python calls: a team of threads goes through the levels"
        body, steps = [], self.p.passes[i]
        for j, (f, over) in enumerate(steps):
            body.append(f'for (int64_t i = from(J->{over}, s), e = until(J->{over}, s); i < e; '
                        f'i++) {f}(J, i);')
            if j + 1 < len(steps): body.append('wait_for_all(s);')
        return '\n'.join([
            f'static void work{i}(const Share *s) {{ const Job *J = s->job;', *body, '}',
            f'static void team{i}(void *J) '
            f'{{ Share s = {{J, ((const Job *)J)->thread(), ((const Job *)J)->team()}}; work{i}(&s); }}',
            f'void phase{i}(Job *J) {{', f'if (J->parallel && J->threads > 1) J->parallel(team{i}, J, '
                                         'J->threads, 0);',
            f'else {{ Share s = {{J, 0, 1}}; work{i}(&s); }}', '}'])


def _kernel(program) -> list:
    "The functions of a program in C, one for each phase. Raises `Unsupported` and `CantBuild`."
    if program.kernel is None:
        text = source(program)
        program.kernel = [c_compiler.function(text, f'phase{k}') for k in range(len(program.phases))]
    return program.kernel


def _chunks(sizes) -> tuple[np.ndarray, np.ndarray]:
    """Divide tensors into chunks. Return rows of a chunk's tensor, start and size; and for each tensor its
    first chunk, with the number of all at the end"""
    first = np.append(0, np.cumsum(-(-sizes//CHUNK)))
    tensor = np.repeat(np.arange(len(sizes)), np.diff(first))
    start = (np.arange(first[-1]) - first[tensor])*CHUNK
    return np.stack([tensor, start, np.minimum(CHUNK, sizes[tensor] - start)], 1), first


class Launch(KernelLaunch):
    """Launch of one kernel for parameters whose programs have the same key, with its arguments.

    Tables that stay the same from step to step are made once. Raises `Unsupported` and `CantBuild`."""
    def __init__(self,
        members:list, # `(bucket, program)`: programs with the same key
        at:list, # For each member, the index of its first parameter in the plan
        plan # Plan, which knows the addresses of parameters and state
    ):
        super().__init__(members, at, plan)
        p, n = self.program, len(self.places)
        self.can_repeat = len(p.phases) == 1 and not any(program.fresh for _, program in members)
        self.kernel = _kernel(p)
        sizes = plan.memory.sizes[self.places]
        chunk, first = _chunks(sizes)
        self.memory = np.zeros((n, len(self.columns)), np.int64)
        self._place_all(plan)
        self.numbers = np.zeros((len(members), len(p.slots)))
        self.sums, self.yields = np.zeros((n, len(p.sums))), np.zeros((n, len(p.totals)))
        self.totals = np.zeros(len(p.totals))
        self.tables = [chunk, first, plan.memory.unsharded_sizes[self.places], self.member, self.memory,
                       self.numbers, np.zeros((len(chunk), len(p.sums))), self.sums, self.yields, self.totals]
        addresses = [t.ctypes.data for t in self.tables]
        self.job = np.array([len(chunk), n, *addresses, 1, *c_compiler.openmp()], np.int64)
        self.address, self.threads = self.job.ctypes.data, 2 + len(self.tables)
        self.alone = sizes.sum() < MANY

    def start(self,
        recordings:list, # Of each member
        plan # Where the gradients are
    ):
        "Fill in what changes from step to step: gradients, numbers, threads."
        self._fill(recordings, plan)
        self.job[self.threads] = 1 if self.alone else c_compiler.threads()

    def repeat(self,
        slots:list, # Of each member, the numbers of its nodes
        grads:np.ndarray # Addresses of all gradients of the plan
    ):
        "Run a step that has one phase and makes no state, with other numbers and gradients."
        self.numbers[:] = [[values[k] for k in program.slots]
                           for (_, program), values in zip(self.members, slots)]
        if grads is not self.grads: self._place_grads(grads)
        self.job[self.threads] = 1 if self.alone else c_compiler.threads()
        self.phase(0)

    def phase(self, i) -> dict[int, float]:
        "Run a phase; the sums of what it yields, by their round."
        self.kernel[i](self.address)
        if self.sharding: self._gather_sums(i, torch.from_numpy(self.sums))
        return self._yielded(i) if self.program.rounds else {}

    def take(self, totals):
        "Totals over all parameters, by their round."
        for j, (round, _) in enumerate(self.program.rounds):
            if round in totals: self.totals[j] = totals[round]
