"`capturable`: counts of steps, and learning rates that are tensors, stay on the device, and a step is the same but for the last digit."
import pickle
from functools import partial

import pytest
import torch
from helpers import params, set_grads
from on_engines import ulps

import optimcb as oc


def stepped(make, steps=12, ps=None, engine='fused', **options):
    ps = params() if ps is None else ps
    opt = make(ps, engine=engine, **options)
    for i in range(steps):
        set_grads(ps, i)
        opt.step()
    return ps, opt


@pytest.mark.parametrize('engine', ['eager', 'foreach', 'fused'])
@pytest.mark.parametrize('make', [oc.SGD, oc.Adam, oc.AdamW, oc.Lamb, oc.NAdam, oc.Adan, oc.QHAdam, oc.Muon], ids=lambda o: o.__name__)
def test_steps_are_the_same(make, engine):
    ps, opt = stepped(make, engine=engine, lr=0.01)
    qs, other = stepped(make, engine=engine, lr=0.01, capturable=True)
    for p, q in zip(ps, qs): torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-7)
    for s in other.state.values():
        assert all(isinstance(v, torch.Tensor) for v in s.values())
        assert 'step' not in s or s['step'].dtype == torch.float64 and s['step'] == 12

@pytest.mark.parametrize('make, why', [
    (oc.RAdam, "branches on a tensor's value"), (oc.MADGRAD, 'makes a number of a tensor'), (oc.ScheduleFreeAdamW, "branches on a tensor's value"),
    (lambda ps, **kw: oc.AdamW(ps, **kw).wrap(oc.look_ahead()), '')], ids=['RAdam', 'MADGRAD', 'ScheduleFree', 'Lookahead'])
def test_what_depends_on_the_step_in_python_is_refused_in_words(make, why):
    with pytest.raises(RuntimeError, match=f"engine='fused' can't run this.*{why}"): stepped(make, lr=0.01, capturable=True)

def test_a_learning_rate_stays_one_tensor():
    "`set_hyper` and schedulers write into it, so that a graph finds what they wrote"
    ps, opt = stepped(oc.AdamW, lr=torch.tensor(0.01), capturable=True)
    lr = opt.param_groups[0]['lr']
    opt.set_hyper('lr', 0.02)
    assert opt.param_groups[0]['lr'] is lr and lr == 0.02
    opt.step()
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda i: 0.5**i)
    sched.step()
    assert opt.param_groups[0]['lr'] is lr
    with pytest.raises(ValueError, match='at least 0'): opt.set_hyper('lr', -1.)
    before = float(lr)
    qs, other = stepped(oc.AdamW, 0, ps=[torch.nn.Parameter(p.detach().clone()) for p in ps], lr=before, capturable=True)
    other.load_state_dict(opt.state_dict())
    for o, xs in ((opt, ps), (other, qs)):
        set_grads(xs, 0)
        o.step()
    assert all(ulps(p, q) == 0 for p, q in zip(ps, qs))

def test_without_it_a_number_takes_the_tensors_place():
    _, opt = stepped(oc.AdamW, lr=torch.tensor(0.01))
    opt.set_hyper('lr', 0.02)
    assert opt.param_groups[0]['lr'] == 0.02 and isinstance(opt.param_groups[0]['lr'], float)

def test_it_lasts_through_state_dicts_and_pickles():
    ps, opt = stepped(oc.AdamW, lr=0.01, capturable=True)
    again = pickle.loads(pickle.dumps(opt))
    qs = [p for g in again.param_groups for p in g['params']]
    rs, other = stepped(oc.AdamW, 0, lr=0.01, capturable=True)
    for r, p in zip(rs, ps): r.data.copy_(p)
    numbers = opt.state_dict()
    for s in numbers['state'].values() if isinstance(numbers['state'], dict) else numbers['state']: s['step'] = int(s['step']) # as without the option
    other.load_state_dict(numbers)
    for o, xs in ((opt, ps), (again, qs), (other, rs)):
        for i in range(3):
            set_grads(xs, i)
            o.step()
        assert all(isinstance(s['step'], torch.Tensor) and s['step'] == 15 for s in o.state.values())
    for p, q, r in zip(ps, qs, rs): assert ulps(p, q) == 0 and ulps(p, r) == 0

def test_a_parameter_that_comes_later_has_a_count_of_its_own():
    ps = params()
    opt = oc.AdamW(ps, lr=0.01, capturable=True, engine='fused')
    for i in range(5):
        set_grads(ps, i, [0] if i < 3 else [])
        opt.step()
    set_grads(ps, 0)
    opt.step()
    assert [float(opt.state[p]['step']) for p in ps] == [3, 6, 6, 6] and all(isinstance(opt.state[p]['step'], torch.Tensor) for p in ps)

def test_it_is_an_option_of_every_way_to_make_an_optimizer():
    for make in (oc.AdamW, partial(oc.AdamW, mom=0.8), partial(oc.Optimizer, cbs=[oc.step_stat, oc.sgd_step]), oc.ranger):
        for value in (False, None): assert not make(params(), lr=0.1, capturable=value)._capturable
    assert oc.Optimizer(params(), [oc.step_stat, oc.sgd_step], lr=0.1, capturable=True)._capturable
