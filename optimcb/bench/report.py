"Format results as tables."
import platform
from pathlib import Path

import torch

import optimcb

__all__ = ['environment', 'table']


COLUMNS = dict( # header, factor, format
    median=('median ms', 1e3, '.3f'),
    over_fused=('× torch fused', 1, '.2f'), over_floor=('× floor', 1, '.2f'),
    share=('optimizer ms', 1e3, '.3f'), first=('first step s', 1, '.3f'), extra=('extra MiB', 2**-20, '.1f'),
    grads=('gradients MiB', 2**-20, '.1f'), peak=('peak MiB', 2**-20, '.1f'))


def table(
    result:dict, # Result of `Bench`
    markdown:bool=False # Use Markdown instead of aligned text?
) -> str:
    "Format a table with a line for each contender, or its error."
    rows = [r for r in result['rows'] if not r.get('error')]
    failed = [(r['name'], r['error']) for r in result['rows'] if r.get('error')]
    known = {k: None for r in rows for k, v in r.items() if v is not None}
    columns = {k: o for k, o in COLUMNS.items() if k in known}
    columns |= {k: (f'{k} µs', 1e6, '.1f') for k in known if k.startswith(('same ', 'new ', 'in '))}
    columns |= {k: (f'{k[5:]} ms', 1e3, '.1f') for k in known if k.startswith('once ')}
    def cell(value, factor, form): return '–' if value is None else format(value*factor, form)
    def cells(row): return [cell(row.get(k), factor, form) for k, (_, factor, form) in columns.items()]
    lines = [('', *(header for header, *_ in columns.values())), *((r['name'], *cells(r)) for r in rows)]
    if markdown:
        table_lines = [lines[0], ['---'] + ['--:']*len(columns), *lines[1:], *failed]
        return '\n'.join(f"| {' | '.join(o)} |" for o in table_lines)
    widths = [max(map(len, o)) for o in zip(*lines)]
    widths[0] = max(widths[0], *(len(name) for name, _ in failed), 0)
    aligned = [[o[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(o[1:], widths[1:]))] for o in lines]
    errors = [(name.ljust(widths[0]), error) for name, error in failed]
    return '\n'.join('  '.join(o) for o in [*aligned, *errors])


def environment(
    device:str='cpu' # 'cpu' or 'cuda'
) -> dict:
    "Describe the environment of the measurements: versions, processor, threads."
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((o.partition(': ')[2] for o in lines if o.startswith('model name')), platform.machine())
    gpu = dict(gpu=torch.cuda.get_device_name()) if device == 'cuda' else {}
    return dict(optimcb=optimcb.__version__, torch=torch.__version__, python=platform.python_version(),
                cpu=cpu, threads=torch.get_num_threads(), **gpu)
