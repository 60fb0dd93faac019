"Tell matrices, stacks of matrices and other tensors apart, by their shape."
import math


def is_matrix(
    x # A tensor
) -> bool:
    "Has it rows and columns, two dimensions or more? Rules for matrices do something else with the others."
    return x.ndim >= 2


def is_stack(
    x, # A tensor
    kernel_ndim # Dimensions from which on it is a kernel, which is one matrix
) -> bool:
    "Is it a stack of matrices, which are its last two dimensions?"
    return 2 < x.ndim < kernel_ndim


def rows_and_columns(
    x, # A tensor of two dimensions or more
    kernel_ndim # Dimensions from which on it is a kernel, which is one matrix
) -> tuple:
    "Count rows and columns of the matrix that a tensor is made into, or of each matrix of a stack."
    if not x.numel(): return 1, 1
    return x.shape[-2:] if is_stack(x, kernel_ndim) else (x.shape[0], math.prod(x.shape[1:]))
