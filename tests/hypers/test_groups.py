"`param_groups` answer torch's names whoever puts groups there, by whatever way, and whenever they are asked."
import copy
import gc
import io
import math
import pickle
import warnings
import weakref
from functools import partial

import pytest
import torch
import torch.optim.lr_scheduler as ls
from helpers import params, set_grads
from hypothesis import given, settings
from hypothesis import strategies as st

import optimcb as oc
from optimcb import algorithms
from optimcb.algorithm import Algorithm
from optimcb.hypers.groups import Groups, Params, TorchNames

HYPERS = dict(lr=0.1, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.3)
SHAPES = [(3, 4), (5,), (2, 3), ()]


def pair():
    "torch's AdamW and ours, each of four groups"
    def groups(): return [{'params': [p], 'lr': 0.1*(i + 1)} for i, p in enumerate(params(SHAPES, torch.float64))]
    return torch.optim.AdamW(groups(), **HYPERS), oc.AdamW(groups(), **HYPERS)


def changed(g, i): return {**g, 'lr': 0.01*(i + 1), 'betas': (0.5, 0.6 + i/10), 'weight_decay': 0.1*i}


def assign(opt, i): opt.param_groups = [changed(g, i) for g in opt.param_groups]
def reorder(opt, i): opt.param_groups = [dict(g) for g in reversed(opt.param_groups)]
def put(opt, i): opt.param_groups[i % 4] = changed(opt.param_groups[i % 4], i)
def put_slice(opt, i): opt.param_groups[1:3] = [changed(g, i) for g in opt.param_groups[1:3]]
def put_every_other(opt, i): opt.param_groups[::2] = (changed(g, i) for g in opt.param_groups[::2])
def append(opt, i): opt.param_groups.append(changed(opt.param_groups.pop(0), i))
def extend(opt, i): opt.param_groups.extend([changed(opt.param_groups.pop(0), i) for _ in range(2)])
def insert(opt, i): opt.param_groups.insert(0, changed(opt.param_groups.pop(), i))
def held(opt, i):
    groups = opt.param_groups # is the list itself
    groups += [changed(groups.pop(0), i)]
    assert opt.param_groups is groups
def write(opt, i): opt.param_groups[i % 4].update(betas=(0.4, 0.5), weight_decay=0.2)
def through_dict(opt, i): opt.__dict__['param_groups'] = [changed(g, i) for g in opt.param_groups] # as torch's `__setstate__` does
def as_if_loaded(opt, i):
    opt.__setstate__({'param_groups': [changed(g, i) for g in opt.param_groups], 'state': opt.state})
def copied_out(opt, i): opt.param_groups = copy.deepcopy(opt.param_groups)[:0] + [*opt.param_groups]
def load(opt, i): opt.load_state_dict(opt.state_dict())


WAYS = (assign, reorder, put, put_slice, put_every_other, append, extend, insert, held, write, through_dict,
        as_if_loaded, copied_out, load)


def seen(opt):
    return [(g['lr'], *g['betas'], g['eps'], g['weight_decay'], 'betas' in g, g.get('weight_decay'),
             len(g['params'])) for g in opt.param_groups]
def weights(opt): return [p for g in opt.param_groups for p in g['params']]


def check_same(a, b):
    assert seen(a) == seen(b)
    assert all(isinstance(g, TorchNames) and isinstance(g, dict) and 'betas' not in g.keys() for g in b.param_groups)
    for i in range(2):
        for opt in (a, b):
            set_grads(sorted(weights(opt), key=lambda p: p.numel()), i)
            opt.step()
    for p, q in zip(weights(a), weights(b), strict=True): torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('way', WAYS, ids=lambda f: f.__name__)
def test_each_way(way):
    a, b = pair()
    for opt in (a, b): way(opt, 1)
    check_same(a, b)

@settings(max_examples=40, deadline=None)
@given(ways=st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 3)), min_size=1, max_size=6))
def test_drawn_ways(ways):
    a, b = pair()
    for way, i in ways:
        for opt in (a, b): way(opt, i)
        assert seen(a) == seen(b)
    check_same(a, b)

def loaded(o):
    torch.save(o, f := io.BytesIO())
    f.seek(0)
    return torch.load(f, weights_only=False)

@pytest.mark.parametrize('again', [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o)), loaded], ids=['deepcopy', 'copy', 'pickle', 'torch'])
@pytest.mark.parametrize('wrapper', [lambda o: o, oc.Lookahead])
def test_copies(again, wrapper):
    opt = wrapper(oc.AdamW(params(), **HYPERS))
    opt.param_groups = [{**g, 'betas': (0.3, 0.4)} for g in opt.param_groups]
    other = again(opt)
    assert other.param_groups[0]['betas'] == (0.3, 0.4) and type(other.param_groups) is Groups and type(other.param_groups[0]['params']) is Params
    other.param_groups.append({'params': params([(2,)]), 'betas': (0.1, 0.2), 'lr': 1.})
    assert other.param_groups[-1]['momentum'] == 0.1 and other.param_groups[-1]['mom'] == 0.1
    assert again(opt.param_groups)[0]['betas'] == (0.3, 0.4), 'the list alone'

def test_names_go_with_the_steppers():
    opt = oc.SGD(params(), lr=0.1, mom=0.9)
    assert 'betas' not in opt.param_groups[0] and opt.param_groups[0]['momentum'] == 0.9
    opt.param_groups = [dict(g, sqr_mom=0.7) for g in opt.param_groups]
    assert 'betas' not in opt.param_groups[0]
    opt.edit(lambda cbs: oc.Adam.cbs)
    assert opt.param_groups[0]['betas'] == (0.9, 0.7)
    opt.param_groups.append({'params': params([(2,)]), 'lr': 0.1, 'eps': 1e-3, 'weight_decay': 0., 'betas': (0.1, 0.2)})
    assert opt.param_groups[-1]['betas'] == (0.1, 0.2) and opt.hypers[-1]['mom'] == 0.1

def test_a_value_that_cannot_be_changes_nothing():
    opt = oc.AdamW(params(), **HYPERS)
    with pytest.raises(ValueError, match='must be at least 0'):
        opt.param_groups = [{**opt.param_groups[0], 'betas': (-1., 0.9)}]
    with pytest.raises(ValueError, match='must be at least 0'):
        opt.param_groups.append({'params': [], 'weight_decay': -1.})
    assert len(opt.param_groups) == 1 and opt.param_groups[0]['betas'] == (0.8, 0.9)


# Values that can't be

NAN = float('nan')
BAD = [('lr', NAN), ('lr', -1.), ('lr', math.inf), ('lr', None), ('lr', 'a'), ('lr', [0.1]), ('lr', torch.tensor(NAN)), ('eps', -1.), ('wd', NAN),
       ('weight_decay', -1.), ('mom', 2.), ('sqr_mom', 1.), ('betas', (0.9, 1.)), ('betas', (NAN, 0.9))]

def by_item(g, k, v): g[k] = v
def by_update(g, k, v): g.update({'lr': 0.5, k: v})
def by_keyword(g, k, v): g.update(**{k: v})
def by_or(g, k, v): g |= {'lr': 0.5, k: v}
def by_default(g, k, v):
    old = g.pop(k)
    try: g.setdefault(k, v)
    finally: g[k] = old

@pytest.mark.parametrize('write', [by_item, by_update, by_keyword, by_or, by_default])
@pytest.mark.parametrize('k, v', BAD, ids=str)
def test_a_value_out_of_range_is_refused_where_it_is_written(write, k, v):
    opt = oc.AdamW(params(), **HYPERS)
    with pytest.raises((TypeError, ValueError)) as wanted:
        oc.AdamW(params(), **HYPERS).set_hyper(k, v if k == 'betas' else [v])
    before = dict(opt.param_groups[0])
    for group in (opt.param_groups[0], opt.defaults):
        with pytest.raises(wanted.type) as e: write(group, k, v)
        assert str(e.value) == str(wanted.value)
    assert dict(opt.param_groups[0]) == before

@pytest.mark.parametrize('way', [f for f in WAYS if f is not write and f is not load and f is not copied_out], ids=lambda f: f.__name__)
def test_a_group_with_a_value_out_of_range_is_refused(way, monkeypatch):
    _, opt = pair()
    monkeypatch.setitem(globals(), 'changed', lambda g, i: {**g, 'eps': -1.})
    def put():
        way(opt, 1) if way is not reorder else setattr(opt, 'param_groups',
                                                       [dict(g, eps=-1.) for g in opt.param_groups])
    with pytest.raises(ValueError, match='`eps` must be at least 0'):
        put()
        opt.param_groups # noqa: B018 - which is when what lies in `__dict__` is seen

def test_what_may_be_written_is_written():
    opt = oc.AdamW(params(), **HYPERS)
    g = opt.param_groups[0]
    for k, v in dict(lr=0, eps=0., mom=0., wd=0, sqr_mom=0.).items():
        g[k] = v
        assert g[k] == v
    g['lr'] = lr = torch.tensor(0.1)
    assert g['lr'] is lr
    g['lr'] = torch.tensor(0.1).numpy()
    assert isinstance(g['lr'], float)
    g['note'], g['eps_of_mine'] = NAN, -1. # not ours

@pytest.mark.parametrize('rate', [lambda i: -1., lambda i: NAN, lambda i: math.inf, lambda i: 1. - i])
def test_a_scheduler_that_computes_rubbish_fails_where_it_writes(rate):
    opt = oc.Adam(params(), lr=0.1)
    def run():
        sched = ls.LambdaLR(opt, rate)
        for _ in range(3): sched.step()
    with pytest.raises(ValueError, match='`lr`'): run()
    assert 0 <= opt.param_groups[0]['lr'] <= 0.1

ENDS = {
    'LinearLR': lambda opt, n: ls.LinearLR(opt, 1/3, 0., n), 'PolynomialLR': lambda opt, n: ls.PolynomialLR(opt, n, 0.9),
    'CosineAnnealingLR': lambda opt, n: ls.CosineAnnealingLR(opt, n), 'warm restarts': lambda opt, n: ls.CosineAnnealingWarmRestarts(opt, n),
    'LambdaLR': lambda opt, n: ls.LambdaLR(opt, lambda i: max(0, 1 - i/n)),
    'CyclicLR': lambda opt, n: ls.CyclicLR(opt, 0., 0.1, n, base_momentum=0.),
    'OneCycleLR': lambda opt, n: ls.OneCycleLR(opt, 0.1, total_steps=n, anneal_strategy='linear', final_div_factor=1e30, base_momentum=0.),
    'OneCycleLR, much momentum': lambda opt, n: ls.OneCycleLR(opt, 0.1, total_steps=n, anneal_strategy='linear', max_momentum=0.999)}

@pytest.mark.parametrize('name', ENDS)
@pytest.mark.parametrize('make', [partial(oc.SGD, mom=0.9), oc.Adam])
def test_torchs_schedulers_may_end_at_nothing(make, name):
    for n in (5, 7, 25, 49):
        opt = make(params(), lr=0.1)
        sched = ENDS[name](opt, n)
        for _ in range(n if 'One' in name else 2*n): # a cycle is stepped once more than it has values
            opt.step()
            sched.step()
        assert -1e-12 < opt.param_groups[0]['lr'] < 0.1 + 1e-12 and 0 <= opt.param_groups[0]['mom'] < 1


# Names that nobody reads

SLIPS = dict(weigth_decay='wd', wieght_decay='wd', lrr='lr', epss='eps', epsilon='eps', beta='mom',
             momm='mom', sqr_momm='sqr_mom', learning_rat='lr', momentun='mom')

@pytest.mark.parametrize('name', SLIPS)
@pytest.mark.parametrize('write', [by_item, by_update, by_keyword, by_or])
def test_a_slip_in_a_group_is_said_once(write, name):
    for opt in (oc.AdamW(params(), **HYPERS), copy.deepcopy(oc.AdamW(params(), **HYPERS)),
                pickle.loads(pickle.dumps(oc.AdamW(params(), **HYPERS)))):
        with pytest.warns(UserWarning, match=f'no stepper reads `{name}`: .* Did you mean `{SLIPS[name]}`') as said:
            write(opt.param_groups[0], name, 0.5)
        assert [w.filename for w in said] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            write(opt.param_groups[0], name, 0.3)
        assert opt.param_groups[0][name] == 0.3

def test_a_slip_in_a_new_group_is_said():
    opt = oc.AdamW(params(), **HYPERS)
    with pytest.warns(UserWarning, match='no stepper reads `lrr`'):
        opt.param_groups = [dict(g, lrr=3) for g in opt.param_groups]

NOTES = ('initial_lr swa_lr lr_mult lr_scale max_lr min_lr base_lr lr_max max_momentum base_momentum initial_momentum foreach fused capturable differentiable maximize '
         'name names group_name tag id index layer layer_id no_weight_decay weight_decay_mult wd_mult decay_mult use_muon is_muon scheduled scale params '
         'param_names amsgrad nesterov dampening centered train_mode k r d d0 d_coef growth_interval evaluated step epoch frozen').split()

@pytest.mark.parametrize('name', [k for k, o in vars(algorithms).items() if isinstance(o, Algorithm)])
def test_notes_in_a_group_are_somebodys_own(name):
    opt = vars(algorithms)[name](params(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for k in {*NOTES} - opt.param_groups[0].keys(): opt._notice(k, 0.5)
        for k in ('initial_lr', 'max_momentum', 'name', 'foreach'): opt.param_groups[0][k] = 0.5

def test_groups_do_not_keep_an_optimizer():
    opt = oc.Adam(params(), lr=0.1)
    group, there = opt.param_groups[0], weakref.ref(opt)
    del opt
    gc.collect()
    group['epss'] = 1.
    assert there() is None and 'notice' not in vars(copy.deepcopy(group)) and pickle.loads(pickle.dumps(group)).keys() == group.keys()

CHOOSE = [(oc.Adam, 'decouple_wd', False), (partial(oc.RMSProp, mom=0.9), 'divide_first', True), (oc.Muon, 'match_rms', True), (oc.SGD, 'nesterov', False),
          (oc.RMSProp, 'centered', True), (oc.Adam, 'amsgrad', True), (oc.SGD, 'mom', 0.5), (oc.Adam, 'maximize', True)]

@pytest.mark.parametrize('make, k, v', CHOOSE, ids=str)
def test_options_that_choose_steppers_are_read(make, k, v):
    ps = params([(3, 4), (2, 3)])
    others = params([(3, 4), (2, 3)])
    want, got, group = make(others, lr=0.1, **{k: v}), make(ps, lr=0.1), make(params([(3, 4), (2, 3)]), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got.set_hyper(k, v)
        group.hypers[0][k] = v
    assert got.composition.labels == want.composition.labels == group.composition.labels

def test_the_list_is_one_for_those_who_hold_it():
    "torch's `PostLocalSGDOptimizer` and others keep the very list"
    opt = oc.AdamW(params(), **HYPERS)
    groups = opt.param_groups
    opt.add_param_group({'params': params([(2,)])})
    assert groups is opt.param_groups and len(groups) == 2
    other = oc.AdamW(params(), **HYPERS)
    other.param_groups = groups
    assert other.param_groups is groups

def test_wrappers_that_delegate_have_no_groups_of_their_own():
    class Wrapper(oc.Optimizer):
        def __init__(self, opt): self.opt = opt
        def __getattr__(self, k): return getattr(self.__dict__['opt'], k)
    opt = oc.AdamW(params(), **HYPERS)
    wrapper = Wrapper(opt)
    assert wrapper.param_groups is opt.param_groups and wrapper.param_groups[0]['betas'] == (0.8, 0.9)


# Lightning: a fine-tuning callback puts the groups of the run before it back

def test_a_resumed_fine_tuning(tmp_path):
    pl = pytest.importorskip('lightning.pytorch')
    from test_frameworks import batches, net
    class Module(pl.LightningModule):
        def __init__(self, make):
            super().__init__()
            self.net, self.make = net(), make
        def training_step(self, batch, i): return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        def configure_optimizers(self): return self.make(self.net[3:].parameters())
    class Unfreeze(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, module): self.freeze(module.net[:3])
        def finetune_function(self, module, epoch, opt):
            if epoch == 1: self.unfreeze_and_add_param_group(module.net[:3], opt, lr=1e-3)
    def run(make, name, epochs, path=None):
        folder = tmp_path/name/str(epochs)
        monitor = pl.callbacks.LearningRateMonitor('step', log_momentum=True, log_weight_decay=True)
        saved = pl.callbacks.ModelCheckpoint(folder, filename='last', save_top_k=-1)
        trainer = pl.Trainer(max_epochs=epochs, accelerator='cpu', devices=1, precision='64-true', logger=pl.loggers.CSVLogger(folder), log_every_n_steps=1,
                             callbacks=[Unfreeze(), monitor, saved], enable_progress_bar=False, enable_model_summary=False)
        model = Module(make)
        trainer.fit(model, batches(), ckpt_path=path, weights_only=False)
        return [p.detach() for p in model.parameters()], {**monitor.last_momentum_values, **monitor.last_weight_decay_values}, folder/'last.ckpt'
    def resumed(make, name): return run(make, name, 3, run(make, name, 2)[2])
    theirs, monitored, _ = resumed(partial(torch.optim.AdamW, **HYPERS), 'theirs')
    ours, seen, _ = resumed(partial(oc.AdamW, **HYPERS), 'ours')
    for p, q in zip(ours, theirs, strict=True): torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)
    assert list(seen.values()) == list(monitored.values()) and len(seen) == 4
