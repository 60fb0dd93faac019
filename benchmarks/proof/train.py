"Train as `examples/imagenette.py` does, with fastai's own optimizers too: `train.py fastai --opts adam …`."
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]/'examples'))

import common  # noqa: E402
import imagenette  # noqa: E402


def main():
    "Train with 'optimcb' or 'fastai', the first argument; the others are those of the example."
    whose, *args = sys.argv[1:]
    if whose == 'fastai':
        from fastai.optimizer import SGD, Adam, RMSProp
        common.OPTS |= dict(sgd=SGD, momentum=partial(SGD, mom=0.9), rmsprop=RMSProp, adam=Adam)
    imagenette.main(args)


if __name__ == '__main__': main()
