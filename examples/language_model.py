"""Train a language model, AWD-LSTM or QRNN, with several optimizers and schedules, and compare perplexities.

    python examples/language_model.py                  # Python's standard library, on every machine
    python examples/language_model.py --data wikitext-2 --tokens bpe --vocab 8000 --arch qrnn
"""
import random
import sysconfig
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
from common import stop

from optimcb import clip_norm, swa_weights

LRS = {'one-cycle': {'sgd': 10., 'momentum': 2.}, 'flat': {'sgd': 20., 'momentum': 2.}}
ADAM_LRS = {'one-cycle': 1e-2, 'flat': 5e-3}
WDS = {'l2': [1e-6, 1e-5], 'decoupled': [0.01, 0.1]}
L2 = 1.2e-6 # the decay of Merity et al. 2018
NEVER = 10**9 # a step that isn't reached
SPECIAL = 2 # numbers before those of tokens: fastai's model takes 1 for padding
FIGURES = {'train_loss': ('train loss', '.3f'), 'valid_loss': ('valid loss', '.3f'),
           'perplexity': ('perplexity', '.2f')}


def arguments(argv=None):
    opts = ['sgd', 'adam_l2', 'adamw', 'amsgrad']
    p = common.parser(__doc__, opts, epochs=4, seeds=2, plot='perplexities.png')
    p.add_argument('--data', help="folder of text; if names of files have 'train' and 'valid' in them, it is "
                                  "split like that (default: Python's standard library)")
    p.add_argument('--kb', type=int,
                   help='thousands of bytes to train on (default: 64 of the standard library, else all)')
    p.add_argument('--tokens', choices=['bytes', 'bpe'], default='bytes',
                   help='what is predicted: bytes, or frequent sequences of them (byte pair encoding)')
    p.add_argument('--vocab', type=int, default=1000, help='number of tokens with --tokens bpe')
    p.add_argument('--arch', choices=['awd_lstm', 'qrnn'], default='awd_lstm', help='the model')
    p.add_argument('--emb', type=int, default=64, help='width of the embedding')
    p.add_argument('--hid', type=int, default=128, help='width of hidden layers')
    p.add_argument('--layers', type=int, default=2, help='number of layers')
    p.add_argument('--drop', type=float, default=0.2, help="factor of fastai's dropouts")
    p.add_argument('--bs', type=int, default=32, help='batch size')
    p.add_argument('--seq', type=int, default=32, help='tokens through which gradients flow')
    p.add_argument('--schedules', nargs='+', choices=['one-cycle', 'flat'], default=['one-cycle', 'flat'],
                   help='learning rates over time')
    p.add_argument('--clip', type=float, default=0.25, help='largest norm of all gradients together')
    p.add_argument('--nonmono', type=int, default=2,
                   help='flat SGD averages weights when the loss is no better than so many epochs ago')
    p.set_defaults(wd='find')
    a = p.parse_args(argv)
    common.check_options(a)
    for k in ('kb', 'vocab', 'emb', 'hid', 'layers', 'seq', 'nonmono'):
        value = getattr(a, k)
        if value is not None and value < 1: stop(f"--{k} must be 1 or more, not {value}.")
    if a.vocab < 256: stop(f"--vocab must be 256 or more, the number of bytes, not {a.vocab}.")
    if not a.drop >= 0: stop(f"--drop must be 0 or more, not {a.drop}.")
    if not a.clip > 0: stop(f"--clip must be more than 0, not {a.clip}.")
    if a.lr == 'find': stop("--lr find is for pictures. Pass a number, or 'auto'.")
    for o in a.opts:
        if not hasattr(common.OPTS[o], 'wrap') and not isinstance(common.OPTS[o], partial):
            stop(f"{o} doesn't take gradient clipping, which the model needs. Choose another optimizer.")
    a.schedules = list(dict.fromkeys(a.schedules))
    if a.data is None and a.kb is None: a.kb = 64
    return a


# Text

def read_text(path) -> bytes:
    "The content of a file, or nothing if it isn't text"
    try: content = path.read_bytes()
    except OSError: return b''
    try: content.decode()
    except UnicodeDecodeError: return b''
    return b'' if b'\0' in content else content


def standard_library():
    "Sources and documentation of Python's standard library, without tests"
    root = Path(sysconfig.get_paths()['stdlib'])
    files = [*root.glob('*.py'), *root.glob('*/*.py')]
    return root, [f for f in files if not {'site-packages', 'test', 'tests'} & {*f.relative_to(root).parts}]


def split_by_file(files, seed=42):
    "A tenth of the files, one at least, is for validation. The order depends on the names alone"
    files = sorted(files)
    random.Random(seed).shuffle(files)
    n = max(1, len(files)//10)
    return files[n:], files[:n]


def texts(a):
    "Lists of texts to train on and to validate on"
    if a.data is None:
        root, files = standard_library()
        train, valid = split_by_file(files)
    else:
        root = Path(a.data)
        if not root.is_dir(): stop(f"there is no folder '{root}'. --data takes a folder of text.")
        files = [f for f in sorted(root.rglob('*')) if f.is_file() and read_text(f).strip()]
        if not files: stop(f"'{root}' has no text. --data takes a folder of files in UTF-8.")
        named = [[f for f in files if k in f.relative_to(root).as_posix()] for k in ('train', 'valid')]
        if len(files) == 1: stop(f"'{root}' has one file of text. It takes two, one of them for validation.")
        train, valid = named if all(named) else split_by_file(files)
    size = a.kb and a.kb*1000
    most = size and size//8 if a.data is None else None # of one file, so that none is all of the text
    return take(train, size, most), take(valid, size and size//4, most)


def take(files, size, most):
    "Contents of the first files, `size` bytes in all and up to `most` of each; None for all"
    taken, n = [], 0
    for f in files:
        if size is not None and n >= size: break
        text = read_text(f)[:most]
        if size is not None: text = text[:size - n]
        if text: taken.append(text)
        n += len(text)
    return taken


def tokens(train, valid, a):
    "Texts as tensors of numbers, and how many numbers there are"
    if a.tokens == 'bytes': encode, n = lambda text: np.frombuffer(text, np.uint8), 256
    else:
        try:
            from tokenizers import ByteLevelBPETokenizer as Tokenizer
        except ImportError: stop("--tokens bpe needs a package: pip install tokenizers.")
        bpe, known = Tokenizer(), [o.decode(errors='replace') for o in train]
        bpe.train_from_iterator(known, vocab_size=a.vocab, show_progress=False)
        encode, n = lambda text: bpe.encode(text.decode(errors='replace')).ids, bpe.get_vocab_size()
    def numbered(text): return torch.tensor(np.array(encode(text), dtype=np.int64)) + SPECIAL
    numbers = [[numbered(o) for o in part] for part in (train, valid)]
    for part, what in zip(numbers, ('to train on', 'for validation')):
        found = sum(map(len, part))
        if found <= a.bs*a.seq:
            stop(f"there are {found} tokens {what}, fewer than a batch of {a.bs*a.seq}. "
                 "Lower --bs or --seq, or take more text.")
    return *numbers, n + SPECIAL


# Models and optimizers

def learner_maker(train, valid, n, a):
    "A function that makes a Learner. Its loaders are new each time, because fastai's keep their order"
    import fastai.text.all as text
    from fastai.text.models.core import _model_meta

    arch = text.AWD_LSTM
    config = {**text.awd_lstm_lm_config, 'emb_sz': a.emb, 'n_hid': a.hid, 'n_layers': a.layers}
    if a.arch == 'qrnn':
        from models import AWD_QRNN
        arch = AWD_QRNN
        _model_meta[arch] = _model_meta[text.AWD_LSTM] # where fastai looks up how to make a language model

    def make_learner(opt_func):
        loader = partial(text.LMDataLoader, bs=a.bs, seq_len=a.seq)
        dls = text.DataLoaders(loader(train, shuffle=True), loader(valid))
        dls.vocab = [str(i) for i in range(n)]
        return text.language_model_learner(dls, arch, config, a.drop, pretrained=False,
                                           metrics=text.Perplexity(), opt_func=opt_func)
    return make_learner


def clipped(opt_func, a, *parts):
    "An optimizer whose first stepper clips the norm of all gradients together"
    if hasattr(opt_func, 'wrap'): return partial(opt_func.wrap(clip_norm, *parts), max_norm=a.clip)
    return partial(clipped(opt_func.func, a, *parts), *opt_func.args, **opt_func.keywords)


def choices(a):
    "For each optimizer and schedule its function and arguments of the fit"
    found = {}
    for name in a.opts:
        for schedule in a.schedules:
            averages = name == 'sgd' and schedule == 'flat'
            f = clipped(common.OPTS[name], a, swa_weights) if averages else clipped(common.OPTS[name], a)
            if averages: f = partial(f, swa_start=NEVER)
            lr = a.lr if isinstance(a.lr, float) else LRS[schedule].get(name, ADAM_LRS[schedule])
            wd = L2 if common.decay_of(name, f) == 'l2' else None
            kwargs = {'lr': lr, 'wd': a.wd if isinstance(a.wd, float) else wd, 'schedule': schedule}
            if averages: kwargs['nonmono'] = a.nonmono
            found[f'{name} {schedule}'] = f, kwargs
    return found


def fit(learn, n_epoch, lr, wd, schedule, nonmono=None):
    "Train by a schedule; with `nonmono` the weights are averaged once the loss stops falling (NT-ASGD)"
    if schedule == 'one-cycle': return learn.fit_one_cycle(n_epoch, lr, wd=wd)
    learn.fit(n_epoch, lr, wd=wd, cbs=averaging(nonmono) if nonmono else None)


def averaging(nonmono):
    """Callbacks that average the weights, once the validation loss is no better than the best of those
    up to `nonmono` epochs ago, and validate the average
    (Merity et al. 2018, https://arxiv.org/abs/1708.02182, alg. 1)"""
    from fastai.callback.core import Callback

    from optimcb.learner import AveragedWeights

    class Trigger(Callback):
        order = 61 # after the Recorder
        def before_fit(self): self.losses, self.steps, self.averages = [], 0, False
        def after_step(self): self.steps += 1
        def after_epoch(self):
            loss = self.learn.recorder.values[-1][1]
            worse = len(self.losses) > nonmono and loss > min(self.losses[:-nonmono])
            self.losses.append(loss)
            if self.averages or not worse: return
            self.averages = True
            self.opt.set_hyper('swa_start', self.steps)
    return [Trigger(), AveragedWeights()]


@common.one_line_errors
def main(argv=None):
    a = arguments(argv)
    common.need('fastai.text.all')
    train, valid, n = tokens(*texts(a), a)
    make_learner, opts = learner_maker(train, valid, n, a), choices(a)
    print(f'{sum(map(len, train))} tokens to train on, {sum(map(len, valid))} for validation, '
          f'of {n - SPECIAL} kinds')
    if a.wd == 'find': opts = common.find_wds(a, make_learner, opts, fit, WDS, 'perplexity', above=False)
    c = common.run(a, make_learner, opts, fit)
    common.show(a, c, opts, FIGURES, 'perplexity', above=False)


if __name__ == '__main__': main()
