"What others ask of fastai's optimizers, and of an optimizer's class, ours answer."
import copy
import inspect
import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from fastcore.foundation import L
from helpers import params, set_grads
from torch import nn

import optimcb as oc

fastai = pytest.importorskip('fastai')
import fastai.optimizer as fo  # noqa: E402


def named(pattern):
    "What fastai's source, but for its optimizers, has in the place of the group in `pattern`"
    files = [f for f in Path(fastai.__file__).parent.rglob('*.py') if f.name not in ('optimizer.py', '_modidx.py')]
    return {k for f in files for k in re.findall(pattern, f.read_text())}


# Optimizers

def test_all_that_fastai_reads_of_an_optimizer_is_there():
    opt, names = oc.Adam(params(), lr=0.1), named(r'\bopt\.([a-z_]\w*)')
    assert names >= {'hypers', 'frozen_idx', 'param_lists', 'state', 'set_hyper', 'freeze_to', 'clear_state',
                     'param_groups'}
    assert [k for k in names if not hasattr(opt, k)] == [] and named(r'\bopt_func\.([a-z_]\w*)') <= {'keywords'}

@pytest.mark.parametrize('name', [k for k in fo.__all__ if k[0].isupper() and k not in ('Optimizer', 'Lookahead', 'OptimWrapper')])
def test_all_that_fastais_have(name):
    theirs, ours = (getattr(m, name)(params(), lr=0.1) for m in (fo, oc))
    assert [k for k in dir(theirs) if not hasattr(ours, k) and k != '__slotnames__'] == [] # which `copyreg` notes in a class

@pytest.mark.parametrize('rg', [True, False])
def test_set_require_grad(rg):
    "A callback that freezes the groups which it chooses calls it as fastai does"
    def frozen(opt):
        opt.state[opt.param_lists[0][1]]['force_train'] = True
        for p in opt.param_lists[0]: p.requires_grad_(not rg)
        for o in opt.all_params(slice(0, 1)): opt._set_require_grad(rg, *o)
        return [p.requires_grad for ps in opt.param_lists for p in ps]
    theirs, ours = (frozen(m.Adam([params()[:2], params()[2:]], lr=0.1)) for m in (fo, oc))
    assert ours == theirs and ours[:2] == [rg, True]

def test_what_a_subclass_overrides_is_called():
    class Chatty(oc.Optimizer):
        def _set_require_grad(self, rg, p, pg, state, h):
            self.said.append(rg)
            super()._set_require_grad(rg, p, pg, state, h)
        def _set_hyper(self, k, v):
            self.said.append((k, list(v)))
            super()._set_hyper(k, v)
    opt = Chatty([params()[:1], params()[1:2]], [oc.sgd_step], lr=0.1)
    opt.said = []
    opt.freeze()
    opt.set_hyper('lr', slice(0.1))
    assert opt.said == [True, False, ('lr', [0.01, 0.1])] and opt.hypers[0]['lr'] == 0.01

def test_groups_have_their_parameters_in_what_answers_as_an_L_does():
    theirs, ours = (m.Adam(params(), lr=0.1).param_groups[0]['params'] for m in (fo, oc))
    assert isinstance(ours, list) and len(ours) == len(theirs) and [p.shape for p in ours.items] == [p.shape for p in theirs.items]
    assert ours.map(torch.numel) == theirs.map(torch.numel) and isinstance(ours.map(torch.numel), L)
    assert ours.attrgot('shape') == theirs.attrgot('shape') and ours.filter(lambda p: p.dim() == 1)[0].shape == (5,)
    assert not hasattr(ours, 'iloc') and ours[:1] + ours[1:] == list(ours)
    opt = oc.Adam(params(), lr=0.1)
    opt.param_groups[0]['params'] = list(params([(2,)]))
    opt.add_param_group({'params': params([(3,)])})
    assert [g['params'].items[0].shape for g in opt.param_groups] == [(2,), (3,)]

def test_the_count_of_lookahead():
    "`state_dict()['count']`, as fastai's"
    def counts(m):
        ps, seen = params(), []
        opt = m.Lookahead(m.SGD(ps, lr=0.1), k=3)
        for i in range(5):
            set_grads(ps, i)
            opt.step()
            seen.append(opt.state_dict()['count'])
        return opt, seen
    (_, theirs), (opt, ours) = counts(fo), counts(oc)
    assert ours == theirs == [1, 2, 3, 4, 5]
    other = oc.Lookahead(oc.SGD(params(), lr=0.1))
    other.load_state_dict(opt.state_dict())
    assert other.count == 5 and oc.Lookahead(oc.SGD(params(), lr=0.1)).state_dict()['count'] == 0
    oc.SGD(params(), lr=0.1).load_state_dict(oc.SGD(params(), lr=0.1).state_dict())


# Steppers

@pytest.mark.parametrize('name', [k for k in fo.__all__ if hasattr(getattr(fo, k), 'defaults')])
def test_defaults_of_steppers(name): assert getattr(oc, name).defaults == getattr(fo, name).defaults

def test_all_steppers_tell_defaults_that_are_those_of_a_composition():
    from optimcb import steppers
    for k in steppers.__all__:
        if k in steppers.FORMULAS: continue
        f = getattr(steppers, k)
        assert f.defaults == oc.Composition([f]).defaults, k

def test_a_composition_of_ours_is_what_it_was():
    "Defaults on which steppers don't agree stay each stepper's own"
    assert 'eps' not in oc.Composition([oc.rms_prop_step, oc.adam_step]).defaults
    assert oc.Composition([oc.weight_decay, oc.average_grad]).defaults == dict(wd=0., mom=0.9)

def test_fastais_optimizer_runs_our_steppers():
    def trained(Optimizer, m):
        ps = params()
        opt = Optimizer(ps, [m.weight_decay, partial(m.average_grad, dampening=True), m.average_sqr_grad, m.step_stat, m.adam_step],
                        lr=0.1, mom=0.9, sqr_mom=0.99, eps=1e-5)
        for i in range(3):
            set_grads(ps, i)
            opt.step()
        return ps
    for p, q in zip(trained(fo.Optimizer, oc), trained(fo.Optimizer, fo)):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# Algorithms

ALGORITHMS = [k for k in oc.__all__ if isinstance(getattr(oc, k), oc.Algorithm)]

USUAL_LR = dict(Adafactor=0.01) # of algorithms that have one: a Learner takes it


@pytest.mark.parametrize('name', ALGORITHMS)
def test_what_is_asked_of_an_optimizers_class(name):
    algo = getattr(oc, name)
    assert isinstance(algo, partial) and issubclass(algo, torch.optim.Optimizer) and not issubclass(algo, torch.optim.SGD)
    assert algo.keywords['opt'].__name__ == name, "as mlflow's autolog asks"
    assert 'opt' not in algo.keywords and algo.keywords.get('lr') == USUAL_LR.get(name) and list(inspect.signature(algo).parameters)[:2] == ['params', 'lr']
    assert algo.func(params(), **{**algo.keywords, 'lr': 0.1}).composition.labels == algo.composition.labels
    with pytest.raises(KeyError): algo.keywords['nobody']

def mlflows_names(learn):
    "What mlflow's autolog logs of an optimizer"
    func = learn.opt_func
    name = func.keywords['opt'].__name__ if isinstance(func, partial) else func.__name__
    return name, {k: [h[k] for h in learn.opt.hypers] for k in learn.opt.hypers[0]}, learn.opt.frozen_idx

@pytest.mark.parametrize('make', [oc.Adam, oc.Adam.named('Mine'), oc.AdamW.wrap(oc.clip_norm)])
def test_logged_by_mlflow(make):
    from fastai.learner import Learner
    learn = Learner(fastai.data.core.DataLoaders([], []), nn.Linear(2, 1), loss_func=nn.functional.mse_loss,
                    opt_func=make, lr=0.1)
    learn.create_opt()
    name, hypers, frozen = mlflows_names(learn)
    assert name == make.__name__ and hypers['lr'] == [0.1] and hypers['wd'] == [0.01] and frozen == 0


# Without parameters, as transformers' `Trainer` calls what is no class

def net(): return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))

@pytest.mark.parametrize('again', [lambda o: o, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize('make', [oc.AdamW, partial(oc.AdamW, betas=(0.8, 0.9)), partial(oc.AdamW, weight_decay=0.3, foreach=True),
                                  partial(partial(oc.AdamW.wrap(oc.clip_value), max_grad=0.1), eps=1e-3)])
def test_parameters_later(make, again):
    ps, qs = params(), params()
    opt, want = again(make())(ps, lr=0.1), make(qs, lr=0.1)
    assert [dict(h) for h in opt.hypers] == [dict(h) for h in want.hypers] and opt.engine == want.engine
    for i in range(2):
        for o, rs in ((opt, ps), (want, qs)):
            set_grads(rs, i)
            o.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, qs))

def test_a_model_later():
    "Norms and biases aren't decayed, where anything is; frozen parameters are left out; names come with it"
    model = net()
    model[0].weight.requires_grad_(False)
    opt = oc.AdamW(wd=0.3)(model, lr=0.1)
    assert [(g['param_names'], g['wd'], g['lr']) for g in opt.param_groups] == [
        (['2.weight'], 0.3, 0.1), (['0.bias', '1.weight', '1.bias', '2.bias'], 0., 0.1)]
    opt = oc.Rprop()(net(), lr=0.1)
    assert len(opt.param_groups) == 1 and len(opt.param_groups[0]['params']) == 6

def test_what_is_wrong_is_said():
    with pytest.raises(TypeError, match="AdamW has no `lrr`. Did you mean `lr`?"): oc.AdamW(lrr=0.1)
    with pytest.raises(TypeError, match="missing a required argument: 'lr'"): oc.AdamW()(params())
    with pytest.raises(AttributeError, match='AdamW was called without parameters, and is no optimizer yet. Pass them first'):
        oc.AdamW(lr=0.1).step()
    with pytest.raises(TypeError, match='`params` is a model'): oc.AdamW(net(), lr=0.1)

@pytest.mark.parametrize('name', ALGORITHMS)
def test_lightnings_command_line(name):
    "A class and its arguments come from a file"
    cli = pytest.importorskip('lightning.pytorch.cli')
    ps = params()
    opt = cli.instantiate_class(ps, {'class_path': f'optimcb.{name}', 'init_args': {'lr': 0.1, 'engine': 'eager'}})
    assert opt.hypers[0]['lr'] == 0.1 and opt.engine == 'eager' and opt.param_groups[0]['params'] == ps
