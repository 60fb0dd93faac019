"Rules that see a parameter as a matrix: what the table of algorithms doesn't show."
from functools import partial

import pytest
import torch
from helpers import difference, params, set_grads, trajectory

import optimcb as oc

MATRICES = [(3, 4), (7, 2), (2, 6)]
pytestmark = pytest.mark.filterwarnings('ignore:the eager engine runs')


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('ours, theirs', [({}, {}), (dict(match_rms=True, nesterov=False), dict(adjust_lr_fn='match_rms_adamw', nesterov=False))], ids=str)
def test_muon_rounds_as_torchs_does(ours, theirs, dtype):
    """In bfloat16 a last digit may go the other way, where the average of the gradients differs in its last
    one: 1/256 of a step"""
    to_muon = pytest.importorskip('torch.optim._muon', reason='torch 2.6 has no Muon').Muon
    one_by_one = partial(oc.Muon, pairs=False, bfloat16=True)
    a = trajectory(partial(one_by_one, wd=0.1, **ours), dtype, ps=params(MATRICES, dtype))
    b = trajectory(partial(to_muon, weight_decay=0.1, **theirs), dtype, ps=params(MATRICES, dtype))
    assert difference(a, b) < 1e-3


@pytest.mark.parametrize('shape, rank', [((8, 40), 8), ((40, 8), 8), ((40, 8), 2), ((16, 16), 16)], ids=str)
def test_two_steps_at_a_time_are_the_same_iteration(shape, rank):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape[0], rank, generator=g, dtype=torch.float64) @ torch.randn(rank, shape[1], generator=g, dtype=torch.float64)
    def by(x, exact, pairs):
        return oc.steppers.muon.orthogonalized(x, 5, 1e-7, *oc.steppers.muon.NEWTON_SCHULZ, exact, pairs,
                                               bfloat16=not exact).double()
    right = by(x, True, False)
    assert difference([by(x, True, True)], [right]) < 1e-12
    one, two = ((by(x.float(), False, pairs) - right).norm() for pairs in (False, True))
    assert two < 3*one # where there is nothing, as in a rank of 2, what bfloat16 leaves there is made large by either


def test_muon_iterates_on_a_kernel_as_on_a_matrix():
    kernel, matrix = params([(4, 3, 2, 2)])[0], params([(4, 12)])[0]
    for p in (kernel, matrix):
        set_grads([p])
        oc.Muon([p], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def authors_update(grad, momentum, mom=0.95):
    """One step of https://github.com/KellerJordan/Muon, but in the type of the gradient, and with the rows
    and columns of the matrix that a kernel is made into"""
    momentum.lerp_(grad, 1 - mom)
    x = grad.lerp(momentum, mom)
    x = x.view(len(x), -1) if x.dim() >= 4 else x
    scale = max(1, x.shape[-2] / x.shape[-1])**0.5
    flip = x.shape[-2] > x.shape[-1]
    if flip: x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445*x + (-4.7750*gram + 2.0315*gram @ gram) @ x
    return scale*(x.mT if flip else x).reshape(grad.shape)


@pytest.mark.parametrize('engine', ['eager', 'auto', 'foreach'])
@pytest.mark.parametrize('shape', [(5, 3), (4, 5, 3), (4, 3, 8), (3, 2, 2), (1, 3, 4), (4, 3, 2, 2), (2, 3, 2, 2, 2), (0, 3, 2), (3, 0, 2)], ids=str)
@pytest.mark.parametrize('pairs', [True, False], ids=['pairs', 'one by one'])
def test_muon_takes_stacks_and_kernels_as_its_author_does(shape, pairs, engine):
    "Three dimensions are a stack of matrices, four and more one matrix of outputs by all else"
    p = params([shape], torch.float64)[0]
    q, momentum = p.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    opt = oc.Muon([p], lr=0.02, exact=True, pairs=pairs, engine=engine)
    for i in range(6):
        set_grads([p], i)
        if p.numel(): q -= 0.02*authors_update(p.grad, momentum)
        opt.step()
    assert torch.allclose(p, q, rtol=1e-5, atol=1e-7) # eps is a smallest norm here, and added to it there


@pytest.mark.parametrize('match_rms', [False, True])
@pytest.mark.parametrize('kernel_ndim, shape, one', [
    (4, (3, 4, 2), (4, 2)), (4, (2, 9, 2), (9, 2)), (3, (6, 2, 3), (6, 6)), (5, (2, 3, 4, 2), (4, 2)), (4, (5, 2, 2, 2), (5, 8))], ids=str)
def test_each_matrix_of_a_stack_is_stepped_as_by_itself(kernel_ndim, shape, one, match_rms):
    "Also on the same numbers in bfloat16"
    for exact, tol in ((True, 1e-12), (False, 1e-2)):
        whole = params([shape])[0]
        parts = [torch.nn.Parameter(m.clone()) for m in whole.detach().reshape(-1, *one)]
        options = dict(lr=0.1, wd=0.1, match_rms=match_rms, exact=exact)
        together, alone = oc.Muon([{'params': [whole], 'kernel_ndim': kernel_ndim}],
                                  **options), oc.Muon(parts, **options)
        for i in range(3):
            set_grads([whole], i)
            for q, g in zip(parts, whole.grad.reshape(-1, *one)): q.grad = g.clone()
            together.step()
            alone.step()
        assert difference([whole.reshape(-1, *one)], [torch.stack([q.detach() for q in parts])]) < max(tol, 1e-6)


def test_adafactors_rate_falls_with_the_root_of_the_step():
    "Where `lr` is larger than one over it"
    ours, theirs = (trajectory(o, torch.float64, lr=0.5)
                    for o in (partial(oc.Adafactor, engine='eager'), torch.optim.Adafactor))
    assert difference(ours, theirs) < 1e-12


SIZES = [ # numbers of state for a matrix of 6 by 4, a kernel of 2 by 3 by 2 by 2, a vector of 5
    (oc.Muon, 24, 24, 10), # an average; for a vector two, as in Adam
    (oc.Shampoo, 2*(36+16), 2*(4+9+4+4), 2*25), # a matrix for each dimension, and its root
    (partial(oc.Shampoo, max_dim=4), 2*(6+16), 2*(4+9+4+4), 2*5),
    (oc.SOAP, 2*24 + 2*(36+16), 2*24 + 2*(4+9+4+4), 10), # Adam's, and a matrix for each dimension and its basis
    (partial(oc.SOAP, max_dim=4), 2*24 + 2*16, 2*24 + 2*(4+9+4+4), 10),
    (oc.Adafactor, 6+4, 12+12, 5), # rows and columns of the last two dimensions
    (partial(oc.SM3, mom=0.), 6+4, 2+3+2+2, 5), # a number for each place of each dimension
    (oc.SM3, 24 + 6+4, 24 + 2+3+2+2, 10)]


@pytest.mark.parametrize('make, sizes', [(o[0], o[1:]) for o in SIZES], ids=lambda o: str(getattr(o, '__name__', o)))
def test_state_is_as_small_as_promised(make, sizes):
    ps = params([(6, 4), (2, 3, 2, 2), (5,)])
    opt = make(ps, lr=0.01)
    for i in range(3):
        set_grads(ps, i)
        opt.step()
    assert [sum(v.numel() for v in opt.state[p].values() if isinstance(v, torch.Tensor) and v.dim())
            for p in ps] == list(sizes)


def test_soap_only_looks_in_its_first_step():
    ps = params([(6, 4), (5,)])
    start = [p.detach().clone() for p in ps]
    opt = oc.SOAP(ps, lr=0.1, wd=0.1)
    set_grads(ps)
    opt.step()
    assert all(torch.equal(p, o) for p, o in zip(ps, start))


@pytest.mark.parametrize('algo', [oc.Shampoo, oc.SOAP, oc.Adafactor, oc.SM3], ids=lambda o: o.__name__)
def test_what_has_no_rows_takes_sparse_gradients_as_dense_ones(algo):
    sparse, dense = (params([(6, 3)])[0] for _ in range(2))
    for p in (sparse, dense):
        grad = torch.sparse_coo_tensor([[1, 4]], torch.ones(2, 3), (6, 3))
        p.grad, opt = grad if p is sparse else grad.to_dense(), algo([p], lr=0.1, engine='eager')
        opt.step()
    assert torch.equal(sparse, dense) and sparse.grad.is_sparse


@pytest.mark.parametrize('algo', [oc.Shampoo, oc.SOAP], ids=lambda o: o.__name__)
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_gradient_that_is_not_finite_spoils_its_own_weights_alone(algo, value):
    "torch's eigenvalues raise for such a matrix, in the middle of a step"
    ps = params(MATRICES)
    opt = algo(ps, lr=0.01)
    for i in range(3):
        set_grads(ps, i)
        if i == 0: ps[1].grad[0, 0] = value
        opt.step()
    assert [bool(p.isfinite().all()) for p in ps] == [True, False, True]
