"""Train one model with each optimizer, from the same seeds, and compare: a table, and a plot of the losses.

    python examples/imagenette.py                                  # digits, minutes on two cores
    python examples/imagenette.py --data imagenette --opts momentum adam --arch resnet34 --epochs 5
    python examples/imagenette.py --data cifar10 --arch wrn_22 --opts adam_l2 adamw amsgrad --epochs 30 \\
        --seeds 5 --wd find --tta --target 0.94 --json runs.json
"""
import tempfile

import common
import pictures
from common import stop

# The learning rate at which each starts well from scratch
LRS = dict(sgd=0.05, momentum=0.01, adagrad=1e-2, adadelta=1., larc=0.1, lamb=5e-3)
ADAM_LR = 1e-3


def arguments(argv=None):
    opts = ['sgd', 'momentum', 'rmsprop', 'adam', 'yogi']
    p = common.parser(__doc__, opts, epochs=2, seeds=1, plot='losses.png')
    pictures.add_options(p)
    p.add_argument('--arch', default='resnet18', help="a model of torchvision, or 'wrn_22', a wide ResNet")
    p.add_argument('--pretrained', action='store_true',
                   help='start from weights for ImageNet, which are downloaded once, and fine-tune')
    p.add_argument('--target', type=float, help='an accuracy: count the epochs until it is reached')
    a = p.parse_args(argv)
    common.check_options(a)
    if a.target is not None and not 0 < a.target <= 1:
        stop(f"--target must be an accuracy, over 0 and up to 1, not {a.target}.")
    if a.pretrained and a.arch == 'wrn_22': stop("there are no weights of wrn_22. Leave out --pretrained.")
    pictures.check_options(a)
    return a


def fit(learn, n_epoch, lr, wd):
    "Train from scratch by one-cycle"
    learn.fit_one_cycle(n_epoch, lr, wd=wd)


def fine_tune(learn, n_epoch, lr, wd):
    "Train the head for one epoch, then all"
    learn.fine_tune(n_epoch, lr, wd=wd)


@common.one_line_errors
def main(argv=None):
    a = arguments(argv)
    common.need('fastai.vision.all', 'torchvision.models')
    pictures.check_arch(a)
    with tempfile.TemporaryDirectory() as tmp:
        dls = pictures.loaders(pictures.folder(a, tmp), a)
        def make_learner(opt_func): return pictures.learner(dls, a, opt_func, a.pretrained)
        opts = common.choices(a, LRS, ADAM_LR, make_learner)
        pictures.compare(a, make_learner, opts, fine_tune if a.pretrained else fit)


if __name__ == '__main__': main()
