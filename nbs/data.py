"""Where the notebooks' data come from, without a network. All of it is in memory, and in the same order from run to run.

Real data are looked for in the folder that the environment variable `OPTIMCB_DATA` names, and Imagenette also where fastai keeps it.
What isn't there has a substitute that comes with scikit-learn, and a line says so.
"""
import os
import random
import tarfile
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    IndexSplitter,
    IntToFloatTensor,
    Normalize,
    Rotate,
    TensorCategory,
    TensorImage,
    TfmdDL,
    TransformBlock,
    fastai_path,
    set_seed,
)
from PIL import Image, ImageOps
from sklearn.datasets import load_diabetes, load_digits
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

__all__ = ['airfoil', 'augmented_digits', 'digits', 'imagenette']

def _given(name): return Path(os.environ.get('OPTIMCB_DATA') or '/nowhere')/name


def airfoil(batch_size=10, n_train=1500):
    """Batches of 5 features and a label, standardised, of the first `n_train` rows of NASA's airfoil noise (d2l, section 12.11).

    The substitute is scikit-learn's diabetes: 442 patients, 5 of their 10 features, of which all rows are used."""
    file = _given('airfoil_self_noise.dat')
    if file.is_file(): rows = np.array([o for o in np.genfromtxt(file, delimiter='\t') if not np.isnan(o).any()]) # without a line of names
    else:
        print("airfoil_self_noise.dat isn't there: these are scikit-learn's diabetes data instead.")
        x, y = load_diabetes(return_X_y=True)
        rows = np.c_[x[:, [2, 3, 6, 8, 9]], y]
    rows = torch.tensor((rows - rows.mean(0))/rows.std(0), dtype=torch.float32)[:n_train]
    batches = BatchSampler(RandomSampler(rows), batch_size, drop_last=False)
    return DataLoader(TensorDataset(rows[:, :-1], rows[:, -1]), sampler=batches, batch_size=None, num_workers=0)


def _loaders(x, y, valid, bs, seed):
    "fastai's DataLoaders of pictures (bytes, N x 3 x H x W), normalised, with `valid` as the validation set"
    block = DataBlock((TransformBlock(batch_tfms=IntToFloatTensor), CategoryBlock), getters=[lambda i: TensorImage(x[i]), lambda i: y[i]],
                      splitter=IndexSplitter(valid), batch_tfms=Normalize.from_stats(*[[v]*3 for v in (0.45, 0.25)]))
    set_seed(seed) # of the order of batches
    return block.dataloaders(range(len(x)), bs=bs, num_workers=0, device='cpu')


def digits(bs=64, seed=42, size=8):
    "scikit-learn's 1,797 digits of 8 x 8, as pictures enlarged to `size`; a fifth of them, drawn by `seed`, is the validation set."
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x*255/16).view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
    x = torch.nn.functional.interpolate(x, size, mode='bilinear').round().byte()
    return _loaders(x, [str(o) for o in y], random.Random(seed).sample(range(len(x)), len(x)//5), bs, seed)


class _Indices:
    "Indices of pictures. fastai sets `split_idx`, by which it augments them (0) or not (1)"
    def __init__(self, idxs, split_idx): self.idxs, self.split_idx = idxs, split_idx
    def __len__(self): return len(self.idxs)
    def __getitem__(self, i): return self.idxs[i]

    @contextmanager
    def set_split_idx(self, i):
        before, self.split_idx = self.split_idx, i
        try: yield
        finally: self.split_idx = before


def augmented_digits(classes=range(10), bs=64, seed=42):
    "The digits of some classes, labelled from 0, with rotations by up to 10 degrees. A batch is made at once, which is fast."
    x, y = load_digits(return_X_y=True)
    there = np.isin(y, classes)
    x, y = torch.tensor(x[there]/8 - 1, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y[there] - min(classes))
    idxs = random.Random(seed).sample(range(len(x)), len(x))
    n, rotate = len(x)//5, [Rotate(10, p=1., pad_mode='border')]
    def batch(i): return TensorImage(x[i]), TensorCategory(y[i])
    def loader(idxs, valid):
        return TfmdDL(_Indices(idxs, int(valid)), bs=bs, shuffle=not valid, drop_last=not valid, num_workers=0, create_batch=batch, after_batch=rotate)
    set_seed(seed) # of the order of batches
    return DataLoaders(loader(idxs[n:], False), loader(idxs[:n], True), device='cpu')


def _imagenette_folder():
    "Imagenette-160, extracted once where fastai keeps it; None if it can't be had"
    folder, archive = fastai_path('data')/'imagenette2-160', _given('imagenette2-160.tgz')
    if not folder.exists() and archive.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as tmp, tarfile.open(archive) as tar:
            tar.extractall(tmp, filter='data')
            if not folder.exists(): (Path(tmp)/folder.name).rename(folder) # whole, or not there
    return folder if folder.exists() else None


@cache
def _pictures(folder, size, pct, seed):
    "Of each class in train and val a share, drawn by `seed`: the pictures' middle squares, their classes, and which are in val"
    drawn = [f for c in sorted(folder.glob('*/*/')) for fs in [sorted(c.glob('*.JPEG'))] for f in random.Random(seed).sample(fs, round(len(fs)*pct))]
    x = torch.stack([torch.tensor(np.array(ImageOps.fit(Image.open(f).convert('RGB'), (size, size)))).permute(2, 0, 1) for f in drawn])
    return x, [f.parent.name for f in drawn], [i for i, f in enumerate(drawn) if f.parent.parent.name == 'val']


def imagenette(size=64, pct=0.1, bs=64, seed=42):
    "A share `pct` of Imagenette's 10 classes, train and val, as pictures of `size`; the substitute is `digits`, enlarged to half of that."
    folder = _imagenette_folder()
    if folder: return _loaders(*_pictures(folder, size, pct, seed), bs, seed)
    print("Imagenette isn't there: these are scikit-learn's digits instead.")
    return digits(bs, seed, size//2)
