"What a kernel can't have is left to the eager engine by itself: what is alike it goes on in its kernel."
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from on_engines import TRACED, ulps

import optimcb as oc
from optimcb import Optimizer
from optimcb.composition.pipeline import Composition
from optimcb.tracing.program import Unsupported


def left(opt):
    "Parameters that the last step left to the eager engine, by place"
    params = [p for g in opt.param_groups for p in g['params']]
    flat = opt._running.plan.flat
    return [i for i, p in enumerate(params) if not any(p is q for q in flat)]


def steps(opt, ps, n=3):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for i in range(n):
            set_grads(ps, i)
            opt.step()
    return [str(w.message) for w in said]


def spread(p, lr, sizes=None):
    "A mean of squares that may be one for each row, or for each element"
    if sizes is None: sizes = p.grad**2
    p.data.sub_(lr * p.grad / (1 + sizes))
    return {'sizes': 0.5*sizes + 0.5}


def test_state_of_an_odd_shape_is_left_by_itself():
    "With one warning, and shown where one looks"
    ps = params([(3, 4)]*5, torch.float64)
    opt = Optimizer(ps, spread, lr=0.1)
    steps(opt, ps, 1)
    opt.state[ps[1]]['sizes'] = torch.ones(3, 1, dtype=torch.float64)
    said = steps(opt, ps)
    assert left(opt) == [1] and len(said) == 1 and '(3, 1)' in said[0]
    fused, eager = opt.explain().engine
    assert fused.endswith('for 4 parameters') and eager.startswith('eager: 1 parameter, for ') and '(3, 1)' in eager


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([None, (3, 1), (1, 4), (1, 1), (4,)]), min_size=2, max_size=6), st.integers(0, 2))
def test_any_of_them_at_any_time(shapes, when):
    ends = []
    for engine in ('auto', 'eager'):
        ps = params([(3, 4)]*len(shapes), torch.float64)
        opt = Optimizer(ps, spread, lr=0.1, engine=engine)
        for i in range(4):
            if i == when:
                for p, s in zip(ps, shapes):
                    if s: opt.state[p]['sizes'] = torch.full(s, 0.5, dtype=torch.float64)
            steps(opt, ps, 1)
        if engine == 'auto' and None in shapes: assert left(opt) == [i for i, s in enumerate(shapes) if s]
        ends.append([p.detach() for p in ps])
    assert max(map(ulps, *ends)) <= 4


def test_what_none_can_is_refused_once():
    "Also where its state has another shape in each step"
    def grows(p, lr, past=None):
        past = p.grad.data.flatten() if past is None else torch.cat([past, p.grad.data.flatten()])
        p.data.sub_(p.grad, alpha=lr*past.numel())
        return {'past': past}
    ps = params([(3, 4)]*3)
    opt = Optimizer(ps, grows, lr=1e-3)
    assert len(steps(opt, ps, 8)) == 1 and left(opt) == [0, 1, 2] and len(opt._running.refused) == 1


@pytest.mark.parametrize('engine', TRACED)
def test_by_name_it_is_an_error(engine):
    ps = params([(3, 4)]*3)
    opt = Optimizer(ps, spread, lr=0.1, engine=engine)
    opt.state[ps[0]]['sizes'] = torch.ones(3, 1)
    set_grads(ps)
    before = [p.detach().clone() for p in ps]
    with pytest.raises(RuntimeError, match="engine='.*' can't run this"): opt.step()
    assert all(map(torch.equal, ps, before))


def test_devices_without_kernels(monkeypatch):
    "The foreach engine steps their parameters, which is said once for each kind of device; `fused` refuses"
    from optimcb.diagnosis import engine_choice
    from optimcb.engines import compilation, foreach
    monkeypatch.setattr(compilation, 'TOLD', set())
    def lowering(engine, device): return compilation.Compilation(engine, Composition([oc.sgd_step])).lowering(torch.device(device))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for device in ('mps', 'mps', 'xpu', 'mps'): assert lowering('auto', device) is foreach
        assert lowering('foreach', 'hpu') is foreach
    assert [str(w.message).split(':')[0] for w in said] == [f'the foreach engine runs the steps on {o}' for o in ('mps', 'xpu')]
    assert all('none for' in str(w.message) and "engine='foreach'" in str(w.message) for w in said)
    with pytest.raises(Unsupported, match='none for mps'): lowering('fused', 'mps')
    kind = SimpleNamespace(reason=None, example=SimpleNamespace(device=torch.device('mps')))
    assert engine_choice._engine_for(kind, 'auto') == ('foreach', 'there are kernels for the CPU and for CUDA, none for mps')
    assert engine_choice._engine_for(kind, 'foreach') == ('foreach', None)
