"The source of the kernel that does a step."
import textwrap

from optimcb.diagnosis.algebra import text
from optimcb.diagnosis.formula import slots
from optimcb.engines import c_kernels
from optimcb.tracing.program import Program

__all__ = ['Source']


def _source(program, device) -> tuple[str, str]:
    "What all kernels begin with, and what this one goes on with"
    if device == 'cpu': return c_kernels.PRELUDE, c_kernels.source(program).removeprefix(c_kernels.PRELUDE).strip()
    if device != 'cuda': raise ValueError(f"there are kernels for 'cpu', in C, and for 'cuda', in Triton, but none for {device!r}.")
    from optimcb.engines import triton_kernels  # Triton is loaded when it is needed
    return triton_kernels.PRELUDE, triton_kernels.source(program).removeprefix(triton_kernels.PRELUDE).strip()


class Source(str):
    """The source of a kernel, all of it. Shown without what all kernels begin with, but with what its memory and its numbers are.

    `language` is 'c' or 'python', `shown` what is shown."""
    @classmethod
    def of(cls,
        step, # A step, rehearsed with named numbers
        device:str # 'cpu' or 'cuda'
    ) -> 'Source':
        "The source for a step. Raises `Unsupported`."
        program = Program(*step.recording.key)
        prelude, body = _source(program, device)
        mark = '//' if device == 'cpu' else '#'
        columns = {'.p': 'p', '.grad': 'p.grad'} | {c: _between(program, int(c[1:])) for c in program.columns if isinstance(c, str) and c[1:].isdigit()}
        notes = [f'{"m" if device == "cpu" else "a"}{i}: {columns.get(c, c)}' for i, c in enumerate(program.columns)]
        notes += [f'{"S[{}]" if device == "cpu" else "s{}"}: {text(e)}'.format(i) for i, e in enumerate(slots(step, program))]
        self = cls('\n'.join([prelude, body]))
        self.language, self.notes = 'c' if device == 'cpu' else 'python', notes
        self.shown = '\n'.join([*(f'{mark} {n}' for n in notes), '', _indented(body) if device == 'cpu' else body])
        return self

    def __repr__(self): return self.shown
    def _repr_markdown_(self): return f'```{self.language}\n{self.shown}\n```'


def _between(program, i) -> str:
    "What node `i`, which a function by torch takes or gives, is"
    n = program.nodes[i]
    of = n.args[0] if n.op == 'result' else next(k for k in program.calls if i in program.nodes[k].args[:-1])
    return f"{'from' if n.op == 'result' else 'for'} `{program.nodes[of].args[-1].name}`"


def _indented(source) -> str:
    "C, indented by its braces"
    out, depth = [], 0
    for line in source.splitlines():
        depth -= line.startswith('}')
        out.append(textwrap.indent(line, '    '*depth))
        depth += line.count('{') - line.count('}') + line.startswith('}')
    return '\n'.join(out)
