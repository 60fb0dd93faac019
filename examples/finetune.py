"""Train a network on half of the classes, fine-tune it on the others with several optimizers, and compare.

    python examples/finetune.py                                    # digits, minutes on two cores
    python examples/finetune.py --data imagenette --epochs 3 --tta
    python examples/finetune.py --data cars --pretrained --arch resnet50 --epochs 20 --unfrozen 40
"""
import copy
import tempfile

import common
import pictures
from common import stop

LRS = dict(sgd=0.05, momentum=0.01)
ADAM_LR = 2e-3


def arguments(argv=None):
    opts = ['momentum', 'adam_l2', 'adamw', 'amsgrad']
    p = common.parser(__doc__, opts, epochs=1, seeds=3, plot='finetune.png')
    pictures.add_options(p)
    p.add_argument('--arch', default='resnet18', help='a model of torchvision')
    p.add_argument('--pretrained', action='store_true',
                   help='start from weights for ImageNet, which are downloaded once, and use all classes')
    p.add_argument('--before', type=int, default=3, help='epochs on the first half of the classes')
    p.add_argument('--unfrozen', type=int, default=2, help='epochs of all layers, after --epochs of the head')
    p.add_argument('--spread', type=float, default=10.,
                   help='learning rate of the last layers over that of the first ones')
    a = p.parse_args(argv)
    common.check_options(a)
    for k in ('before', 'unfrozen'):
        if getattr(a, k) < 1: stop(f"--{k} must be 1 or more, not {getattr(a, k)}.")
    if not a.spread >= 1: stop(f"--spread must be 1 or more, not {a.spread}.")
    if a.arch == 'wrn_22': stop("wrn_22 has no layers that fastai freezes. Take a model of torchvision.")
    pictures.check_options(a)
    return a


def fit(learn, n_epoch, lr, wd, frozen, spread):
    "Train the head, then all layers, the first ones with a learning rate that is smaller by `spread`"
    learn.freeze()
    learn.fit_one_cycle(frozen, lr, wd=wd)
    learn.unfreeze()
    learn.fit_one_cycle(n_epoch - frozen, slice(lr/2/spread, lr/2), wd=wd)


def halves(path):
    "The classes in `train`, in two halves"
    classes = sorted(o.name for o in (path/'train').iterdir() if o.is_dir())
    if len(classes) < 4:
        stop(f"'{path}/train' has {len(classes)} classes. Two halves take four at least, or --pretrained.")
    return classes[:len(classes)//2], classes[len(classes)//2:]


def trained_body(dls, a):
    "The body of a network that was trained from scratch, with AdamW"
    from fastai.callback.schedule import no_random
    print(f'{common.counted(a.before, "epoch")} on the classes {", ".join(dls.vocab)}', flush=True)
    with no_random(a.seed):
        learn = pictures.learner(dls, a, common.OPTS['adamw'])
        with learn.no_logging(): learn.fit_one_cycle(a.before, ADAM_LR)
    print(f'accuracy {learn.recorder.values[-1][-1]:.1%}')
    return copy.deepcopy(learn.model[0].state_dict())


@common.one_line_errors
def main(argv=None):
    a = arguments(argv)
    common.need('fastai.vision.all', 'torchvision.models')
    pictures.check_arch(a)
    with tempfile.TemporaryDirectory() as tmp:
        path, body, classes = pictures.folder(a, tmp), None, None
        if not a.pretrained:
            first, classes = halves(path)
            body = trained_body(pictures.loaders(path, a, first), a)
        dls = pictures.loaders(path, a, classes)
        def make_learner(opt_func):
            learn = pictures.learner(dls, a, opt_func, a.pretrained)
            if body is not None: learn.model[0].load_state_dict(body)
            return learn
        opts = common.choices(a, LRS, ADAM_LR, make_learner)
        stages = {'frozen': a.epochs, 'spread': a.spread}
        opts = {k: (f, {**kwargs, **stages}) for k, (f, kwargs) in opts.items()}
        a.epochs += a.unfrozen # of a run in all
        pictures.compare(a, make_learner, opts, fit)


if __name__ == '__main__': main()
