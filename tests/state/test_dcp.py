"`torch.distributed.checkpoint`: state by the model's names, and parameters in parts."
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers import set_grads, shards_on_cpu
from torch import nn

import optimcb as oc

dist_state = pytest.importorskip('torch.distributed.checkpoint.state_dict')
get, put, Options = dist_state.get_optimizer_state_dict, dist_state.set_optimizer_state_dict, dist_state.StateDictOptions

ALGORITHMS = [oc.NAdam, oc.SGD, lambda ps, lr: oc.Lookahead(oc.SGD(ps, lr, mom=0.9), k=3)]
OPTIONS = [Options(), Options(flatten_optimizer_state_dict=True), Options(full_state_dict=True, cpu_offload=True)]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def advance(model, opt, steps):
    for i in steps:
        for j, p in enumerate(model.parameters()): set_grads([p], 10*i + j)
        opt.step()


def groups(model, way):
    "Ways to give parameters to an optimizer: all or in groups, with or without names, in another order"
    ps = list(model.named_parameters())
    return {'all': list(model.parameters()), 'named': ps, 'groups': [[p for _, p in ps[:1]], [p for _, p in ps[1:]]], 'named groups': [ps[:1], ps[1:]],
            'other order': [ps[:0:-1], ps[:1]]}[way]


@pytest.mark.parametrize('options', OPTIONS, ids=['nested', 'flat', 'full'])
@pytest.mark.parametrize('algo', ALGORITHMS, ids=['nadam', 'sgd', 'lookahead'])
@pytest.mark.parametrize('a, b', [('all', 'all'), ('named', 'named'), ('named groups', 'other order'), ('groups', 'other order')])
@pytest.mark.parametrize('before', ['new', 'stepped', 'cleared'])
def test_goes_by_the_models_names(algo, a, b, options, before):
    if algo is oc.SGD and options.full_state_dict: options = OPTIONS[0] # torch can't load what is full where there is no state
    if options.flatten_optimizer_state_dict and a != b: b = 'groups' if a == 'groups' else 'named groups' # other keys of groups
    model, other = net(), net(1)
    opt, back = algo(groups(model, a), lr=0.1), algo(groups(other, b), lr=5.)
    opt.engine = back.engine = 'eager'
    if 'group' in a: opt.set_hyper('lr', slice(0.1, 0.2))
    advance(model, opt, range(4))
    if before != 'new': advance(other, back, range(2))
    if before == 'cleared': back.clear_state()
    back.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        put(other, back, get(model, opt, options=options), options=options)
    other.load_state_dict(model.state_dict())
    for (k, p), q in zip(model.named_parameters(), other.parameters()):
        assert {n: type(v) for n, v in opt.state[p].items()} == {n: type(v) for n, v in back.state[q].items()}, k
        assert all(torch.equal(v, back.state[q][n]) if isinstance(v, torch.Tensor) else v == back.state[q][n]
                   for n, v in opt.state[p].items())
    advance(model, opt, range(4, 9))
    advance(other, back, range(4, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


def test_what_is_saved_is_by_name_and_loads_without_torchs_help():
    model, other = net(), net(1)
    opt, back = oc.Adam(model.parameters(), lr=0.1), oc.Adam(list(other.named_parameters())[::-1], lr=5.)
    advance(model, opt, range(2))
    sd = get(model, opt)
    assert set(sd['state']) == {k for k, _ in model.named_parameters()} and sd['param_groups'][0]['params'] == list(sd['state'])
    back.load_state_dict(sd)
    assert torch.equal(back.state[other[1].bias]['grad_avg'],
                       opt.state[model[1].bias]['grad_avg']) and back.hypers[0]['lr'] == 0.1


def test_names_of_ones_own_are_no_hindrance():
    model, other = net(), net(1)
    opt, back = (oc.Adam([(f'my {k}', p) for k, p in m.named_parameters()], lr=lr)
                 for m, lr in ((model, 0.1), (other, 5.)))
    advance(model, opt, range(2))
    put(other, back, get(model, opt))
    assert torch.equal(back.state[other[1].bias]['grad_avg'], opt.state[model[1].bias]['grad_avg']) and back.param_groups[0]['param_names'][0] == 'my 0.weight'


def test_torchs_own_state_comes_that_way_too():
    model, other = net(), net(1)
    theirs, ours = torch.optim.AdamW(model.parameters(), lr=0.1), oc.AdamW(other.parameters(), lr=5.)
    advance(model, theirs, range(3))
    ours.load_state_dict(get(model, theirs))
    other.load_state_dict(model.state_dict())
    advance(model, theirs, range(3, 9))
    advance(other, ours, range(3, 9))
    assert all(torch.allclose(p, q, rtol=1e-5) for p, q in zip(model.parameters(), other.parameters())) and ours.state[other[0].bias]['step'] == 9


@shards_on_cpu
@pytest.mark.skipif(not hasattr(os, 'fork') or not torch.distributed.is_gloo_available(), reason='needs fork and gloo')
@pytest.mark.parametrize('engines', [('eager', 'auto')], ids=' '.join)
def test_saved_by_two_processes_goes_on_with_one_and_with_four(tmp_path, engines):
    env = {**os.environ, 'PYTHONPATH': str(Path(oc.__file__).parents[1]), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, str(Path(__file__).parents[1]/'sharded.py'), str(tmp_path),
                           *engines], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and 'equal' in done.stdout, done.stdout + done.stderr
