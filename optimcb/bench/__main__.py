"The command `python -m optimcb.bench`."
import argparse
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from optimcb.bench.contenders import ALGORITHMS, PEERS, SLOW, find
from optimcb.bench.measure import Bench
from optimcb.bench.report import environment, table
from optimcb.bench.sets import MODELS, SETS, USUAL

__all__ = ['main']

def _arguments(argv):
    p = argparse.ArgumentParser('python -m optimcb.bench', description=__doc__.split('\n')[0])
    p.add_argument('algorithms', nargs='*', metavar='ALGORITHM',
                   help=f"of {', '.join(ALGORITHMS)}; or 'module:name' for one of your own (default: AdamW)")
    p.add_argument('--on', nargs='+', choices=SETS, default=list(USUAL), metavar='SET',
                   help=f"parameters, of {', '.join(SETS)} (default: {', '.join(USUAL)})")
    p.add_argument('--against', nargs='+', choices=[*PEERS, 'torch_compile'], metavar='LIBRARY',
                   help=f"of {', '.join(PEERS)} and torch_compile "
                        f"(default: what is installed, but not {' or '.join(SLOW)})")
    p.add_argument('--like', choices=ALGORITHMS, default='AdamW', metavar='ALGORITHM',
                   help='whose peers your own is compared with (default: AdamW)')
    p.add_argument('--engines', nargs='+', default=[], metavar='ENGINE',
                   help="engines to force, such as eager foreach (default: the algorithm's own choice)")
    p.add_argument('--dtype', choices=('float32', 'float64', 'bfloat16', 'float16'), default='float32',
                   help='of parameters and gradients (default: float32)')
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    p.add_argument('--threads', type=int, help="of the CPU (default: torch's choice)")
    p.add_argument('--repeats', type=int, default=20, help='rounds that are measured (default: 20)')
    p.add_argument('--warmup', type=int, default=3, help='rounds before them (default: 3)')
    p.add_argument('--python', action='store_true',
                   help="measure Python's share, instead of the sets: on tensors of one element, in many "
                        "groups, with gradients that come and go, and what is done once")
    p.add_argument('--train', action='store_true',
                   help='measure a training step of fastai (ResNet-18, 16 pictures of 64 pixels), '
                        'without and with `zero_in_step`, instead of the sets')
    p.add_argument('--backward', nargs='*', choices=MODELS, metavar='MODEL',
                   help=f"measure the memory of training {' or '.join(MODELS)} (default: mlp), "
                        "without and with `step_in_backward`, instead of the sets")
    p.add_argument('--cold', action='store_true', help='start with an empty cache of compiled kernels')
    p.add_argument('--markdown', action='store_true', help='print tables in Markdown')
    p.add_argument('--json', metavar='FILE',
                   help='write all numbers there, or with - to the standard output in place of the tables')
    a = p.parse_args(argv)
    if a.device == 'cuda' and not torch.cuda.is_available(): p.error('torch finds no CUDA device.')
    too_few_threads = a.threads is not None and a.threads < 1
    if a.repeats < 1 or a.warmup < 0 or too_few_threads:
        p.error('--repeats and --threads must be 1 or more, --warmup 0 or more.')
    if a.json and not Path(a.json).parent.is_dir():
        p.error(f"there is no folder '{Path(a.json).parent}' for the numbers.")
    if a.train and not find_spec('fastai'): p.error("--train needs fastai: pip install 'optimcb[fastai]'.")
    a.algorithms = a.algorithms or ['AdamW']
    try:
        for name in a.algorithms: find(name)
    except LookupError as e: p.error(str(e))
    return a


def _results(a):
    "Run the requested measurements, and yield each result as soon as it is ready."
    for name in a.algorithms:
        b = Bench(name, a.against, a.engines, a.like, a.dtype, a.device, a.repeats, a.warmup)
        if a.python: yield from (b.python(), b.groups(), b.changing(), b.life())
        if a.train: yield b.train()
        if a.backward is not None:
            for model in a.backward or ['mlp']: yield b.backward(model)
        only_sets = not a.python and not a.train and a.backward is None
        if only_sets:
            for name_of_set in a.on: yield {'set': name_of_set, **b.step(SETS[name_of_set])}


def main(
    argv:list|None=None # Arguments; default: those of the command line
) -> None:
    "Run the measurements, and print each result as soon as it is ready."
    a = _arguments(argv)
    if a.threads: torch.set_num_threads(a.threads)
    where, results = environment(a.device), []
    def show(text): print(text + '\n', flush=True) if a.json != '-' else None
    show(', '.join(f'{k} {v}' for k, v in where.items()))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if a.cold: os.environ['OPTIMCB_CACHE_DIR'] = folder
        for r in _results(a):
            results.append(r)
            measured = f"{r['algorithm']} on {r['set']}" if 'set' in r else r['algorithm']
            show(f"{measured}: {r['title']}\n\n{table(r, a.markdown)}")
    numbers = json.dumps(dict(environment=where, results=results), indent=1)
    if a.json == '-': print(numbers)
    elif a.json: Path(a.json).write_text(numbers)


if __name__ == '__main__': main()
