"""The cells of fastai's notebooks that assert something, run with optimcb's names in the place of fastai.optimizer's.

    python tests/suites/fastai_notebooks.py fastai/nbs                # a checkout's folder `nbs`: the notebooks of `NOTEBOOKS` that are there
    python tests/suites/fastai_notebooks.py 12_optimizer.ipynb -v     # with tracebacks

Cells that fastai exports are not run: the installed fastai has them. Each notebook is run twice, with fastai's optimizers for a baseline: what
fails with these, too, is a matter of versions, of a GPU that isn't there, or of an earlier cell that was skipped. The Learner's default optimizer and those of
fastai's own helpers are replaced as well.
"""
import argparse
import ast
import contextlib
import importlib
import io
import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import fastai.learner  # noqa: E402
import fastai.optimizer  # noqa: E402
import fastai.test_utils  # noqa: E402
import torch  # noqa: E402
from fastcore import test  # noqa: E402

import optimcb  # noqa: E402

NOTEBOOKS = ['12_optimizer', '13a_learner', '14_callback.schedule', '17_callback.tracker', '18_callback.fp16',
             '18a_callback.training']
SKIPPED = { # by what the cell says
    r'^#\s*\|?\s*(default_exp|exporti?)\b': "fastai's own code",
    r'^#\s*\|?\s*(all_)?cuda|\.cuda\(|cuda=True': "needs a GPU",
    r'untar_data|pretrained=True|cnn_learner|vision_learner': "needs a download",
    r'^\s*[!%]|show_doc|notebook2script|nbdev_export': "for the documentation",
}
OURS = {k: getattr(optimcb, k) for k in fastai.optimizer.__all__ if hasattr(optimcb, k)}
THEIRS = {k: getattr(fastai.optimizer, k) for k in OURS}

# What optimcb answers in another way, on purpose: by a word of the cell
KNOWN = {
    "['local_lr']": "what lives for one step is not kept in the state",
}


@contextlib.contextmanager
def replaced():
    "fastai, with our optimizers wherever it has its own"
    undo = []
    for m in [m for k, m in list(sys.modules.items()) if k.startswith('fastai.') and k != 'fastai.optimizer']:
        for k, theirs in THEIRS.items():
            if getattr(m, k, None) is theirs:
                undo.append((m, k, theirs))
                setattr(m, k, OURS[k])
    init = fastai.learner.Learner.__init__
    defaults = init.__defaults__
    init.__defaults__ = tuple(next((OURS[k] for k, o in THEIRS.items() if o is d), d) for d in defaults)
    assert init.__defaults__ != defaults, "the Learner's default optimizer isn't fastai's"
    try: yield
    finally:
        init.__defaults__ = defaults
        for m, k, theirs in undo: setattr(m, k, theirs)


def cells(path):
    return [''.join(c['source']) for c in json.loads(Path(path).read_text())['cells'] if c['cell_type'] == 'code' and ''.join(c['source']).strip()]


def why_skipped(cell):
    if '#|export' in cell and 'defaults.callbacks.append' in cell: return None # which later cells need
    return next((why for pattern, why in SKIPPED.items() if re.search(pattern, cell, re.M)), None)


def counted(f, counts):
    def call(*args, **kwargs):
        res = f(*args, **kwargs)
        counts['assertions'] += 1 # that held
        return res
    return call


def run(path, ours):
    "What became of each cell: 'passed', a reason why it was skipped, or a traceback; and how many assertions held"
    sources = cells(path)
    name = next(m[1] for m in (re.search(r'default_exp\s+([\w.]+)', s) for s in sources) if m)
    module = importlib.import_module(f'fastai.{name}')
    ns, counts, res = {'__name__': '__main__'}, Counter(), []
    exec('from fastai.basics import *\nfrom fastai.callback.all import *', ns)
    ns.update({k: v for k, v in vars(module).items() if not k.startswith('__')})
    tests = {k: counted(getattr(test, k), counts) for k in ('test_eq', 'test_close', 'test_ne', 'test_fail', 'test_stdout', 'test_warns', 'test_is')}
    callbacks = list(fastai.learner.defaults.callbacks)
    if name == 'learner': fastai.learner.defaults.callbacks = [fastai.learner.TrainEvalCallback] # as where the notebook starts
    before = Path.cwd()
    try:
        with tempfile.TemporaryDirectory() as d, replaced() if ours else contextlib.nullcontext():
            os.chdir(d)
            for s in sources:
                why = why_skipped(s)
                if why:
                    res.append((s, why))
                    continue
                ns.update(tests)
                if ours: ns.update({k: v for k, v in OURS.items() if ns.get(k) is THEIRS[k]})
                torch.manual_seed(0)
                asserts = sum(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(s)))
                if 'defaults.callbacks.append' in s:
                    s = next(line for line in s.splitlines() if 'defaults.callbacks.append' in line)
                try:
                    with contextlib.redirect_stdout(io.StringIO()): exec(compile(s, f'<{Path(path).stem}>', 'exec'), ns)
                    counts['assertions'] += asserts
                    res.append((s, 'passed'))
                except Exception: res.append((s, traceback.format_exc()))
    finally:
        os.chdir(before)
        fastai.learner.defaults.callbacks = callbacks
    return res, counts['assertions']


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('path', type=Path, help="folder of notebooks, or one")
    parser.add_argument('-v', action='store_true', help="show cells and tracebacks of what failed")
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    paths = [args.path.resolve()] if args.path.is_file() else [p for k in NOTEBOOKS for p in [(args.path/f'{k}.ipynb').resolve()] if p.exists()]
    bad = 0
    print('| notebook | cells passed | assertions (with fastai\'s own) | failed | known differences | fail with fastai\'s, too | skipped |\n|---|--:|--:|--:|--:|--:|---|')
    for path in paths:
        theirs, n_theirs = run(path, ours=False)
        ours, n_ours = run(path, ours=True)
        reasons = set(SKIPPED.values())
        skipped = Counter(r for _, r in ours if r in reasons)
        both = sum(a not in reasons and a != 'passed' for _, a in theirs)
        failed = [(s, r) for (s, r), (_, base) in zip(ours, theirs) if base == 'passed' and r != 'passed']
        known = [next((why for k, why in KNOWN.items() if k in s), None) for s, _ in failed]
        print(f"| {path.stem} | {sum(r == 'passed' for _, r in ours)} | {n_ours} ({n_theirs}) | {known.count(None)} | {len(known) - known.count(None)} | {both} | "
              f"{', '.join(f'{n} {why}' for why, n in skipped.items())} |")
        for (s, r), why in zip(failed, known):
            print(f"    {'FAILED' if why is None else 'known'}: {s.strip().splitlines()[0]} … {why or r.strip().splitlines()[-1]}", *([s, r] if args.v else []), sep='\n' if args.v else ' ')
        if args.v:
            for (s, r), (_, base) in zip(ours, theirs):
                if base not in reasons and base != 'passed':
                    print("    with fastai's, too:", s.strip().splitlines()[0], '…',
                          base.strip().splitlines()[-1][:150], '' if r != 'passed' else '(passes with ours)')
        bad += known.count(None)
    return bad


if __name__ == '__main__': sys.exit(bool(main()))
