"Pictures for the examples: digits, Imagenette, CIFAR-10, or a folder."
import mimetypes
import random
from pathlib import Path

import common
from common import stop

KNOWN = 'digits', 'imagenette', 'cifar10'
NAMES = {'imagenette': 'IMAGENETTE_160', 'cifar10': 'CIFAR'} # in fastai's `URLs`
SIZES = {'digits': 32, 'cifar10': 32}
BATCHES = {'digits': 32}
WDS = {'l2': [1e-4, 1e-3, 1e-2], 'decoupled': [0.01, 0.1, 0.3]}
FIGURES = {'train_loss': ('train loss', '.4f'), 'valid_loss': ('valid loss', '.4f'),
           'accuracy': ('accuracy', '.1%'), 'tta': ('with TTA', '.1%')}


def add_options(p):
    "Options of all examples with pictures"
    p.add_argument('--data', default='digits',
                   help="'digits', which come with scikit-learn; 'imagenette' or 'cifar10', downloaded once; "
                        "or a folder with train/ and val/, or train/ and test/")
    p.add_argument('--size', type=int, help='side of the pictures in pixels (default: 128; small ones 32)')
    p.add_argument('--bs', type=int, help='batch size (default: 64, or 32 for digits)')
    p.add_argument('--pct', type=float, default=1., help='share of the data to use, over 0 and up to 1')
    p.add_argument('--workers', type=int,
                   help="processes that load pictures (default: fastai's choice; none for digits)")
    p.add_argument('--tta', action='store_true', help='also predict the mean over four augmented copies')


def check_options(a):
    if not 0 < a.pct <= 1: stop(f"--pct must be over 0 and up to 1, not {a.pct}.")
    if a.workers is not None and a.workers < 0: stop("--workers must be 0 or more.")
    if a.data not in KNOWN: check_folder(Path(a.data))
    a.size = a.size or SIZES.get(a.data, 128)
    a.bs = a.bs or BATCHES.get(a.data, 64)
    if a.workers is None and a.data == 'digits': a.workers = 0


def valid_name(path): return 'val' if (path/'val').is_dir() or not (path/'test').is_dir() else 'test'


def check_folder(path):
    known = ', '.join(f"'{o}'" for o in KNOWN)
    for o in ('train', valid_name(path)):
        folder = path/o
        if not folder.is_dir():
            stop(f"'{path}' has no folder {o}. Pass {known}, or a folder with train/CLASS/ and val/CLASS/.")
        if not any(map(is_picture, folder.glob('*/*'))): stop(f"'{folder}' has no pictures in CLASS/.")
    classes = {f.parent.name for f in (path/'train').glob('*/*') if is_picture(f)}
    if len(classes) < 2:
        stop(f"'{path}/train' has one class only, {min(classes)}. There must be two or more.")


def is_picture(path): return (mimetypes.guess_type(path.name)[0] or '').startswith('image/')


def folder(a, tmp):
    "The folder of the data; digits are written into `tmp`"
    if a.data == 'digits': return digits_folder(Path(tmp))
    return downloaded(a.data) if a.data in NAMES else Path(a.data)


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


def downloaded(name):
    from fastai.data.external import URLs, untar_data
    try: return untar_data(getattr(URLs, NAMES[name]))
    except OSError as e:
        print()
        title = name.capitalize().replace('Cifar10', 'CIFAR-10')
        stop(f"{title} can't be downloaded ({str(e)[:200]}). Is there a network?")


def loaders(path, a, classes=None):
    """Load the pictures of all or some `classes`.

    They are cut to a common size, augmented on the device in batches, and brought to ImageNet's mean and
    deviation."""
    import fastai.vision.all as vision
    valid = valid_name(path)
    def items(path):
        files = vision.get_image_files(path, folders=['train', valid])
        return share([f for f in files if classes is None or f.parent.name in classes], a)
    augment = vision.aug_transforms(size=a.size, min_scale=0.75, do_flip=a.data != 'digits')
    block = vision.DataBlock(
        (vision.ImageBlock, vision.CategoryBlock), get_items=items, get_y=vision.parent_label,
        splitter=vision.GrandparentSplitter(valid_name=valid), item_tfms=vision.Resize(a.size*5//4),
        batch_tfms=[*augment, vision.Normalize.from_stats(*vision.imagenet_stats)])
    dls = block.dataloaders(path, bs=a.bs, num_workers=a.workers)
    if not len(dls.train):
        stop(f"there are {dls.train.n} pictures to train on, fewer than a batch of {dls.train.bs}. "
             "Lower --bs or raise --pct.")
    return dls


def share(files, a):
    "Of each class in train and val the first pictures, one at least, in an order that the seed determines"
    classes = {}
    for f in sorted(files): classes.setdefault(f.parent, []).append(f)
    rng = random.Random(a.seed)
    return [f for fs in classes.values() for f in rng.sample(fs, max(1, round(len(fs)*a.pct)))]


def learner(dls, a, opt_func, pretrained=False):
    "A Learner of a wide ResNet, or with the body of a model of torchvision"
    import fastai.vision.all as vision
    import torch
    import torchvision.models
    if a.arch == 'wrn_22':
        from models import wrn_22
        learn = vision.Learner(dls, wrn_22(dls.c), metrics=vision.accuracy, opt_func=opt_func,
                               loss_func=vision.CrossEntropyLossFlat())
    else:
        try: learn = vision.vision_learner(dls, getattr(torchvision.models, a.arch), pretrained=pretrained,
                                           normalize=False, metrics=vision.accuracy, opt_func=opt_func)
        except OSError as e:
            stop(f"weights of {a.arch} can't be downloaded ({e}). Is there a network? "
                 "Without --pretrained none are needed.")
        except Exception as e:
            stop(f"fastai can't make a vision_learner of {a.arch} ({type(e).__name__}: {e}). Try a ResNet.")
    return learn.to_fp16() if torch.cuda.is_available() else learn


def check_arch(a):
    import torchvision.models
    known = torchvision.models.list_models(module=torchvision.models)
    if a.arch not in known and a.arch != 'wrn_22': stop(f"torchvision has no model '{a.arch}'.")


def tta_accuracy(learn) -> dict:
    "Accuracy of the mean over augmented copies, as a figure for the table"
    from fastai.vision.all import accuracy
    return {'tta': accuracy(*learn.tta()).item()}


def compare(a, make_learner, opts, fit):
    "Search for decays, if asked for, train with each optimizer, and show the table and the curves"
    if a.wd == 'find': opts = common.find_wds(a, make_learner, opts, fit, WDS, 'accuracy')
    c = common.run(a, make_learner, opts, fit, figures=tta_accuracy if a.tta else None)
    common.show(a, c, opts, FIGURES, 'accuracy')
