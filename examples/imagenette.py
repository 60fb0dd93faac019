"""Train one model once per optimizer, from the same seed, and compare: a table, and a plot of the losses.

    python examples/imagenette.py                                        # digits, about a minute on two cores
    python examples/imagenette.py --data imagenette --opts momentum adam --arch resnet34 --epochs 5
"""
import argparse
import difflib
import math
import mimetypes
import random
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import optimcb
from optimcb import SGD, Algorithm

# Every algorithm under its name in small letters, and the learning rate at which it starts well from scratch
OPTS = {k.lower(): o for k, o in vars(optimcb).items() if isinstance(o, Algorithm)} | {'momentum': partial(SGD, mom=0.9), 'ranger': optimcb.ranger}
LRS = dict(sgd=0.05, momentum=0.01, adagrad=1e-2, adadelta=1., larc=0.1, lamb=5e-3)
ADAM_LR = 1e-3
PLOTS = '.png', '.svg', '.pdf'


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument('--opts', nargs='+', default=['sgd', 'momentum', 'rmsprop', 'adam', 'yogi'], metavar='OPT',
                   help=f"optimizers, of {', '.join(sorted(OPTS))}")
    p.add_argument('--data', default='digits',
                   help="'digits', which come with scikit-learn; 'imagenette', which is downloaded once; or a folder with train/ and val/")
    p.add_argument('--arch', default='resnet18', help='a model of torchvision')
    p.add_argument('--pretrained', action='store_true', help='start from weights for ImageNet, which are downloaded once, and fine-tune')
    p.add_argument('--size', type=int, help='side of the pictures in pixels (default: 128, or 32 for digits)')
    p.add_argument('--bs', type=int, help='batch size (default: 64, or 32 for digits)')
    p.add_argument('--epochs', type=int, default=2, help='epochs for each optimizer')
    p.add_argument('--lr', default='auto', help="top of the one-cycle schedule: a number; 'find' for lr_find; 'auto' for what suits each optimizer")
    p.add_argument('--seed', type=int, default=42, help='seed of weights, batches and augmentation')
    p.add_argument('--pct', type=float, default=1., help='share of the data to use, over 0 and up to 1')
    p.add_argument('--workers', type=int, help="processes that load pictures (default: fastai's choice; none for digits)")
    p.add_argument('--plot', type=Path, default=Path('losses.png'), help='where the plot goes')
    a = p.parse_args(argv)
    for o in a.opts:
        if o not in OPTS:
            near = difflib.get_close_matches(o, OPTS, n=1)
            stop(f"there is no optimizer '{o}'.{f' Did you mean {near[0]}?' if near else ''} There are {', '.join(sorted(OPTS))}.")
    if a.lr not in ('find', 'auto'):
        try: a.lr = float(a.lr)
        except ValueError: stop(f"--lr must be a number, 'find' or 'auto', not '{a.lr}'.")
        if not 0 < a.lr < math.inf: stop(f"--lr must be more than 0 and finite, not {a.lr}.")
    if not 0 < a.pct <= 1: stop(f"--pct must be over 0 and up to 1, not {a.pct}.")
    if min(1 if o is None else o for o in (a.bs, a.epochs, a.size)) < 1: stop("--bs, --epochs and --size must be 1 or more.")
    if a.workers is not None and a.workers < 0: stop("--workers must be 0 or more.")
    if a.data not in ('digits', 'imagenette'): check_folder(Path(a.data))
    if not a.plot.parent.is_dir(): stop(f"there is no folder '{a.plot.parent}' for the plot.")
    if a.plot.suffix not in PLOTS: stop(f"--plot must end in one of {', '.join(PLOTS)}, but is '{a.plot}'.")
    return a


def stop(message): sys.exit(f"imagenette.py: {message}")


def check_folder(path):
    for o in ('train', 'val'):
        if not (path/o).is_dir(): stop(f"'{path}' has no folder {o}. Pass 'digits', 'imagenette', or a folder with train/CLASS/ and val/CLASS/.")
        if not any((mimetypes.guess_type(f.name)[0] or '').startswith('image/') for f in (path/o).glob('*/*')): stop(f"'{path/o}' has no pictures in CLASS/.")


# The data

def digits_folder(path):
    "The 1,797 digits that come with scikit-learn, as pictures of 8 x 8 pixels in Imagenette's layout"
    from PIL import Image
    from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images, labels)):
        file = path/('train' if i < 1437 else 'val')/str(label)/f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8)*255/16).astype('uint8')).save(file)
    return path


def imagenette_folder():
    from fastai.data.external import URLs, untar_data
    try: return untar_data(URLs.IMAGENETTE_160)
    except OSError as e:
        print()
        stop(f"Imagenette can't be downloaded ({' '.join(str(e).split())[:200]}). Is there a network?")


def loaders(path, a):
    "Pictures are cut to a common size, then augmented on the device in batches and brought to ImageNet's mean and deviation"
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        Normalize,
        Resize,
        aug_transforms,
        get_image_files,
        imagenet_stats,
        parent_label,
    )
    digits = a.data == 'digits'
    size = a.size or (32 if digits else 128)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda path: share(get_image_files(path, folders=['train', 'val']), a), get_y=parent_label,
                      splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(size*5//4),
                      batch_tfms=[*aug_transforms(size=size, min_scale=0.75, do_flip=not digits), Normalize.from_stats(*imagenet_stats)])
    return block.dataloaders(path, bs=a.bs or (32 if digits else 64), num_workers=a.workers if a.workers is not None else 0 if digits else None)


def share(files, a):
    "Of each class in train and val the first pictures, one at least, in an order that depends on the seed alone"
    classes = {}
    for f in sorted(files): classes.setdefault(f.parent, []).append(f)
    rng = random.Random(a.seed)
    return [f for fs in classes.values() for f in rng.sample(fs, max(1, round(len(fs)*a.pct)))]


# Training

def train(name, path, a):
    "Train from scratch with one optimizer; return what the table and the plot show"
    import torch
    import torchvision.models
    from fastai.vision.all import accuracy, set_seed, vision_learner
    set_seed(a.seed, reproducible=True)
    dls = loaders(path, a)
    if not len(dls.train): stop(f"there are {dls.train.n} pictures to train on, fewer than a batch of {dls.train.bs}. Lower --bs or raise --pct.")
    try: learn = vision_learner(dls, getattr(torchvision.models, a.arch), pretrained=a.pretrained, normalize=False, metrics=accuracy, opt_func=OPTS[name])
    except OSError as e: stop(f"weights of {a.arch} can't be downloaded ({e}). Is there a network? Without --pretrained none are needed.")
    except Exception as e: stop(f"fastai can't make a vision_learner of {a.arch} ({type(e).__name__}: {e}). Try a ResNet.")
    if torch.cuda.is_available(): learn.to_fp16()
    if a.lr == 'find':
        with learn.no_bar(): lr = learn.lr_find(show_plot=False).valley
    else: lr = LRS.get(name, ADAM_LR) if a.lr == 'auto' else a.lr
    print(f'\n{name}, lr {lr:.2g}', flush=True)
    start = time.perf_counter()
    (learn.fine_tune if a.pretrained else learn.fit_one_cycle)(a.epochs, lr)
    seconds = time.perf_counter() - start
    train_loss, valid_loss, acc = learn.recorder.values[-1]
    return dict(name=name, lr=lr, train_loss=train_loss, valid_loss=valid_loss, accuracy=acc, seconds=seconds,
                losses=[float(o) for o in learn.recorder.losses], iters=list(learn.recorder.iters), valid=[v[1] for v in learn.recorder.values])


def table(runs):
    rows = [('optimizer', 'lr', 'train loss', 'valid loss', 'accuracy', 'seconds')]
    rows += [(r['name'], f"{r['lr']:.2g}", f"{r['train_loss']:.4f}", f"{r['valid_loss']:.4f}", f"{r['accuracy']:.1%}", f"{r['seconds']:.1f}") for r in runs]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in rows)


def plot(runs, file):
    "Losses on the training set, smoothed as fastai does, and on the validation set, side by side"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(11, 4), layout='constrained')
    left, right = fig.subplots(1, 2)
    for r in runs:
        left.plot(r['losses'], label=r['name'])
        right.plot(r['iters'], r['valid'], marker='o', label=r['name'])
    left.set(title='training loss', xlabel='step', yscale='log')
    right.set(title='validation loss', xlabel='step', yscale='log')
    right.legend()
    fig.savefig(file, dpi=120)


def main(argv=None):
    a = arguments(argv)
    warnings.filterwarnings('ignore', category=FutureWarning) # of torch, for what fastai calls
    try:
        import fastai.vision.all  # noqa: F401
        import torchvision.models
    except ImportError as e: stop(f"{e}. Install what it needs: pip install 'optimcb[fastai]'.")
    if a.arch not in torchvision.models.list_models(module=torchvision.models): stop(f"torchvision has no model '{a.arch}'.")
    with tempfile.TemporaryDirectory() as tmp:
        path = digits_folder(Path(tmp)) if a.data == 'digits' else imagenette_folder() if a.data == 'imagenette' else Path(a.data)
        runs = [train(name, path, a) for name in a.opts]
    print(f'\n{table(runs)}')
    plot(runs, a.plot)
    print(f'\nThe losses are drawn in {a.plot}.')


if __name__ == '__main__': main()
