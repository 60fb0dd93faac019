"The sets of parameters for benchmarks."
import torch
from torch import Tensor

__all__ = ['MODELS', 'SETS', 'USUAL', 'matrices', 'mlp', 'parameters', 'resnet', 'resnet34', 'transformer']

def resnet34() -> list[tuple]:
    "List the shapes of ResNet-34's parameters, with 10 classes: 110 tensors, 21 M elements."
    shapes, before = [(64, 3, 7, 7), (64,), (64,)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            shapes += [(width, before, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if before != width: shapes += [(width, before, 1, 1), (width,), (width,)]
            before = width
    return [*shapes, (10, 512), (10,)]


def transformer() -> list[tuple]:
    "List the shapes of a small GPT's parameters: 148 tensors, 25 M elements."
    w, norm = 384, [(384,), (384,)]
    def linear(n_in, n_out): return [(n_out, n_in), (n_out,)]
    block = [*norm, *linear(w, 3*w), *linear(w, w), *norm, *linear(w, 4*w), *linear(4*w, w)]
    return [(8192, w), (1024, w), *block*12, *norm]


def matrices() -> list[tuple]:
    "List the shapes of the matrices in that GPT's blocks, without embeddings: 48 tensors, 21 M elements."
    return [s for s in transformer()[2:] if len(s) == 2]


SETS = dict(resnet34=resnet34(), transformer=transformer(), small=[(64 + i*37 % 448,) for i in range(2000)],
            large=[(50_000_000,)], matrices=matrices(), tiny=[(30,)]*110)
USUAL = 'resnet34', 'transformer', 'small', 'large'


def parameters(
    shapes, # Shapes of the parameters
    dtype, # Dtype of parameters and gradients
    device # Device of the parameters
) -> list[Tensor]:
    "Create parameters with gradients, with the same random numbers each time."
    rng = torch.Generator(device).manual_seed(0)
    def randn(shape, scale): return torch.randn(shape, generator=rng, device=device).mul_(scale).to(dtype)
    params = [randn(s, 0.1).requires_grad_() for s in shapes]
    for p in params: p.grad = randn(p.shape, 0.01)
    return params


# Models for training with and without `step_in_backward`

def mlp() -> tuple:
    "Create a model of 32 layers of 1024 units, and 16 inputs: memory is mostly parameters."
    layers = [o for _ in range(32) for o in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers), torch.randn(16, 1024)


def resnet() -> tuple:
    "Create torchvision's ResNet-34, and 4 images of 64 pixels."
    import torchvision
    return torchvision.models.resnet34(num_classes=10), torch.randn(4, 3, 64, 64)


MODELS = dict(mlp=mlp, resnet34=resnet)
