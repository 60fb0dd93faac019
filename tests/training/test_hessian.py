"Estimates of the Hessian's diagonal, and what takes them."
import pytest
import torch

from optimcb import SGD, Sophia, hutchinson, update_hessian

ENGINES = ['eager', 'foreach', 'fused']


def pair(): return [torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in ([1., -2.], 3.)]


def test_hutchinson_is_exact_for_a_diagonal_hessian_and_none_where_there_is_none():
    a, b = pair()
    unused, straight = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    loss = (torch.tensor([2., 5.])*a**2).sum() + b**3 + straight.sum()
    found = hutchinson(loss, [a, b, unused, straight])
    assert found[2:] == [None, None]
    torch.testing.assert_close(found[:2], [torch.tensor([4., 10.], dtype=torch.float64), torch.tensor(18., dtype=torch.float64)])
    loss.backward() # the graph is still there
    assert hutchinson(straight.sum(), [straight]) == [None]


@pytest.mark.parametrize('engine', ENGINES)
def test_squared_gradients_become_the_mean_that_the_next_step_divides_by(engine):
    (a, b), start = pair(), pair()
    opt = Sophia([a, b], lr=0.1, mom=0., sqr_mom=0.5, rho=1., wd=0., engine=engine)
    a.grad, b.grad = torch.full_like(a, 2.), None
    update_hessian(opt, scale=3.) # before the first step
    a.grad = torch.full_like(a, 4.)
    b.grad = torch.full_like(b, -0.3)
    opt.step()
    update_hessian(opt, scale=3.)
    torch.testing.assert_close(a.data, start[0] - 0.1*(4/6)*torch.ones_like(a)) # 6 = 3*2²/2
    torch.testing.assert_close(b.data, start[1] + 0.1) # nothing is known of it: clipped
    torch.testing.assert_close(opt.state[a]['hess_avg'], torch.full_like(a, 3 + 24.))
    torch.testing.assert_close(opt.state[b]['hess_avg'], torch.full_like(b, 0.5*3*0.09))
    opt.step()
    torch.testing.assert_close(a.data, start[0] - 0.1*(4/6 + 4/27)*torch.ones_like(a))
    update_hessian(opt, [torch.full_like(a, -1e3), None]) # a negative mean is clipped, too
    opt.step()
    torch.testing.assert_close(a.data, start[0] - 0.1*(4/6 + 4/27 + 1)*torch.ones_like(a))


def test_estimates_that_do_not_fit_change_nothing():
    a, b = pair()
    opt = Sophia([a, b], lr=0.1)
    a.grad = torch.ones_like(a)
    for estimates, match in [([None], '1 estimates for 2 parameters'),
                             ([torch.ones(2), torch.ones(2)], r'estimate 1 is of shape \(2,\)')]:
        with pytest.raises(ValueError, match=match): update_hessian(opt, estimates)
    assert not opt.state
    with pytest.raises(ValueError, match='no stepper reads `hess_avg`: .*sgd_step'): update_hessian(SGD([a], lr=0.1))
    a.grad = torch.sparse_coo_tensor([[0]], [1.], (2,), dtype=torch.float64)
    with pytest.raises(ValueError, match='dense, real'): update_hessian(opt)


def test_hutchinson_leaves_frozen_parameters_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    opt = Sophia(model.parameters(), lr=0.1)
    found = hutchinson(model(torch.ones(4, 3)).pow(2).mean(), model.parameters())
    assert [f is None for f in found] == [True, True, False, False]
    update_hessian(opt, found)
    model.requires_grad_(False)
    assert hutchinson(torch.ones(()), model.parameters()) == [None]*4
