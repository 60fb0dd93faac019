"The source of the kernel that runs a step."
import textwrap

from optimcb.diagnosis.formula import slots
from optimcb.diagnosis.rendering import text
from optimcb.engines import c_kernels
from optimcb.tracing.program import Program

__all__ = ['Source', 'source_of']


def source_of(
    program:Program, # A step
    device:str # 'cpu' or 'cuda'
) -> tuple[str, str]:
    "Generate the source of a kernel: its prelude and the rest. Raises `Unsupported`."
    if device == 'cpu': kernels = c_kernels
    elif device == 'cuda':
        from optimcb.engines import triton_kernels as kernels
    else:
        raise ValueError("there are kernels for 'cpu', in C, and for 'cuda', in Triton, "
                         f"but none for {device!r}.")
    return kernels.PRELUDE, kernels.source(program).removeprefix(kernels.PRELUDE).strip()


class Source(str):
    """The source of a kernel, shown without its prelude but with the meaning of its memory and numbers.

    `language` is 'c' or 'python', `shown` is the displayed text."""
    @classmethod
    def of(cls,
        step, # A step, rehearsed with named numbers
        device:str, # 'cpu' or 'cuda'
        zeroes=None # Type of the gradient, if the kernel leaves zeros there
    ) -> 'Source':
        "Generate the source for a step. Raises `Unsupported`."
        program, is_c = Program(*step.recording.key), device == 'cpu'
        if zeroes is not None: program = program.with_zeros(zeroes)
        prelude, body = source_of(program, device)
        self = cls('\n'.join([prelude, body]))
        self.language, self.notes = 'c' if is_c else 'python', _notes(step, program, is_c)
        mark = '//' if is_c else '#'
        self.shown = '\n'.join([*(f'{mark} {n}' for n in self.notes), '', _indented(body) if is_c else body])
        return self

    def __repr__(self): return self.shown
    def _repr_markdown_(self): return f'```{self.language}\n{self.shown}\n```'


def _notes(step, program, is_c) -> list[str]:
    "Describe the memory of a kernel, and its numbers by their expressions in this step"
    columns = {'.p': 'p', '.grad': 'p.grad'}
    between = [c for c in program.columns if isinstance(c, str) and c[1:].isdigit()]
    columns |= {c: _between(program, int(c[1:])) for c in between}
    memory = [f"{'m' if is_c else 'a'}{i}: {columns.get(c, c)}" for i, c in enumerate(program.columns)]
    numbers = [f"{f'S[{i}]' if is_c else f's{i}'}: {text(e)}" for i, e in enumerate(slots(step, program))]
    return memory + numbers


def _between(program, i) -> str:
    "Say which function, run by torch between kernels, node `i` comes from or goes to"
    n = program.nodes[i]
    if n.op == 'result': return f"from `{program.nodes[n.args[0]].args[-1].name}`"
    call = next(k for k in program.calls if i in program.nodes[k].args[:-1])
    return f"for `{program.nodes[call].args[-1].name}`"


def _indented(source) -> str:
    "Indent C by its braces"
    out, depth = [], 0
    for line in source.splitlines():
        depth -= line.startswith('}')
        out.append(textwrap.indent(line, '    '*depth))
        depth += line.count('{') - line.count('}') + line.startswith('}')
    return '\n'.join(out)
