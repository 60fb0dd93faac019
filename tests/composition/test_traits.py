"Traits of steppers, as the library's and users' functions have them."
from functools import partial

import pytest
import torch
from helpers import params, set_grads

import optimcb as oc
from optimcb import steppers
from optimcb.composition.roles import kind_of, of_directions, of_signs, part, place_of
from optimcb.composition.stepper import Stepper
from optimcb.composition.traits import NO_TRAITS, Traits, has_traits, traits_of, weights_by


def test_traits_of_users_functions():
    "Decorators add to one another, in any order, and leave the function as it is"
    def f(p, lr): p.data.sub_(p.grad, alpha=lr)
    assert traits_of(f) is NO_TRAITS is traits_of(None) and place_of(f) is None is kind_of(f)
    assert of_signs(part('update', 'mine')(f)) is f
    assert traits_of(f) == Traits('update', 'mine', blind_to=('tensors', 'elements'))
    assert of_directions(f).traits.blind_to == ('tensors',)
    assert place_of(f) == 'update' and kind_of(partial(f)) == 'mine'
    assert Stepper(oc.only(partial(weights_by(len)(f)), oc.by_ndim(2))).traits.eval_weights is len
    with pytest.raises(ValueError, match='there is no place'): part('updates')
    with pytest.raises(TypeError, match='no trait `colour`'): has_traits(colour=1)


def test_somebodys_own_attribute_is_no_trait():
    class Mine:
        def traits(self): return {}
        def __call__(self, p, lr): p.data.sub_(p.grad, alpha=lr)
    assert Stepper(Mine()).traits is NO_TRAITS


MATHEMATICS = [k for k in steppers.__all__ if k not in steppers.FORMULAS]
FUSED = [k for k in MATHEMATICS if traits_of(getattr(steppers, k)).unfused]


@pytest.mark.parametrize('name', FUSED)
def test_a_step_is_what_its_parts_do(name):
    "But for rounding, where it divides by a root"
    step = getattr(steppers, name)
    state = dict(grad_avg=0.1, sqr_avg=0.2)
    given = dict(lr=0.1, local_lr=0.05, mom=0.9, sqr_mom=0.99, step=3, nu_1=0.7, nu_2=0.8, eps=1e-4)
    found = []
    for fs in ([step], step.traits.unfused):
        ps = params(dtype=torch.float64)
        set_grads(ps)
        for p in ps:
            values = {**given, **{k: torch.full_like(p.data, v) for k, v in state.items()}}
            for f in fs: values |= Stepper(f)(p, values) or {}
        found.append([p.data for p in ps])
    for a, b in zip(*found): torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
