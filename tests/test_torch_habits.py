"What torch's and fastai's own tests, run on optimcb by `tests/suites`, have found."
import io

import pytest
import torch
from helpers import params, set_grads
from on_engines import TRACED
from torch import nn

from optimcb import SGD, Adam, Lamb, Lookahead, Optimizer, average_grad, momentum_step, sgd_step, weight_decay

ENGINES = ('eager', *TRACED)


def reloaded(sd):
    "A state dict that was written and read"
    f = io.BytesIO()
    torch.save(sd, f)
    f.seek(0)
    return torch.load(f, weights_only=True)


def trained(opt, ps, steps=2, first=0):
    for i in range(first, first+steps):
        set_grads(ps, i)
        opt.step()
    return opt


# State dicts

def test_repeated_parameters_have_one_place_in_a_state_dict():
    ps = params()
    opt, other = trained(Adam(ps, lr=0.1), ps), Adam(params(), lr=0.1)
    other.load_state_dict(opt.state_dict())
    other.param_groups.extend(other.param_groups)
    sd = other.state_dict()
    assert sd['param_groups'][-1]['params'] == opt.state_dict()['param_groups'][-1]['params'] == list(range(len(ps)))
    assert list(sd['state']) == list(range(len(ps)))
    other.load_state_dict(reloaded(sd))
    assert [g['params'] for g in other.state_dict()['param_groups']] == [list(range(len(ps)))]*2

@pytest.mark.parametrize('engine', ENGINES)
def test_notes_among_the_state_stay(engine):
    ps = params()
    opt = Adam(ps, lr=0.1, engine=engine)
    opt.state['seen'] = {'samples': 640, 'mean': torch.tensor([0.5])}
    trained(opt, ps)
    assert opt.state['seen']['samples'] == 640
    sd = opt.state_dict()
    sd['state']['seen']['mean'] += 1
    assert opt.state['seen']['mean'] == 0.5 # a copy, as all the rest
    ps2 = params()
    other = Adam(ps2, lr=0.1, engine=engine)
    other.load_state_dict(reloaded(sd))
    assert other.state['seen'] == {'samples': 640, 'mean': torch.tensor([1.5])}
    trained(other, ps2, first=2)
    other.remove(weight_decay)
    trained(other, ps2)
    assert other.state_dict()['state']['seen']['samples'] == 640 and len(other.state_dict()['state']) == len(ps)+1

def test_notes_are_no_bother():
    ps = params()
    opt = Lookahead(SGD(ps, lr=0.1))
    opt.state['note'] = 3
    trained(opt, ps, 3)
    assert opt.count == 3
    with pytest.warns(UserWarning): opt.insert(average_grad, before=sgd_step) # nobody reads it
    assert opt.state['note'] == 3
    assert list(Adam(ps, lr=0.1).state_dict()['state']) == list(range(len(ps))) # and without notes all is as it was
    sd = torch.optim.SGD(params(), lr=0.1, momentum=0.9).state_dict()
    sd['state']['epoch'] = 7
    opt = Optimizer(params(), [average_grad, momentum_step], lr=0.1)
    opt.load_state_dict(sd)
    assert opt.state['epoch'] == 7

def test_torch_loads_notes_that_ours_saves():
    ps = params()
    opt = trained(Adam(ps, lr=0.1), ps)
    opt.state['epoch'] = 7
    theirs = torch.optim.AdamW(params(), lr=0.1)
    theirs.load_state_dict(opt.state_dict())
    assert theirs.state['epoch'] == 7

def test_names_come_with_a_state_dict_to_who_has_none():
    m = nn.Linear(3, 2)
    named, plain = Adam(m.named_parameters(), lr=0.1), Adam(nn.Linear(3, 2).parameters(), lr=0.1)
    plain.load_state_dict(reloaded(named.state_dict()))
    assert plain.param_groups[0]['param_names'] == ['weight', 'bias'] == plain.state_dict()['param_groups'][0]['param_names']
    others = Adam([(f'other.{k}', p) for k, p in nn.Linear(3, 2).named_parameters()], lr=0.1)
    others.load_state_dict(named.state_dict())
    assert others.param_groups[0]['param_names'] == ['other.weight', 'other.bias'] # of this model
    others.load_state_dict(Adam(m.parameters(), lr=0.1).state_dict())
    assert others.param_groups[0]['param_names'] == ['other.weight', 'other.bias']


# Parameters that never have gradients

WHOLE = [torch.tensor([1, 2, 3]), torch.tensor([[1, 2]], dtype=torch.uint8), torch.tensor([True, False])]

@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('make', [SGD, Adam, Lamb])
def test_whole_numbers_are_no_bother(make, engine, recwarn):
    whole, p = [nn.Parameter(t.clone(), requires_grad=False) for t in WHOLE], nn.Parameter(torch.ones(2, 3))
    opt = make([[whole[0]], [whole[1], p, whole[2]]], lr=0.1, engine=engine)
    alone = nn.Parameter(torch.ones(2, 3))
    opt2 = make([alone], lr=0.1, engine=engine)
    for q, o in ((p, opt), (alone, opt2)):
        for i in range(3):
            q.grad = torch.full_like(q, i + 1.)
            o.step()
            if i == 1: o.load_state_dict(reloaded(o.state_dict()))
    assert torch.equal(p, alone)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(whole, WHOLE))
    assert str(opt.explain()) and str(opt.formula) == str(opt2.formula)
    assert str(Adam([torch.tensor([1, 2, 3])], lr=0.1).formula) == str(Adam(params(), lr=0.1).formula)
    assert not recwarn

def test_formula_is_of_a_parameter_that_is_trained():
    frozen = nn.Parameter(torch.zeros(3, dtype=torch.float8_e4m3fn), requires_grad=False)
    assert str(Adam([frozen, nn.Parameter(torch.ones(3))],
                    lr=0.1).formula) == str(Adam([nn.Parameter(torch.ones(3))], lr=0.1).formula)
