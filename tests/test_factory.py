"Optimizers by name, as timm's users know them: each is what its parts say, with the defaults of its algorithm."
from fnmatch import fnmatch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import optimcb as oc
from optimcb import create_optimizer, list_optimizers
from optimcb.algorithm import Algorithm
from optimcb.factory import ALIASES, PARTS

ALGORITHMS = {k: o for k, o in vars(oc).items() if isinstance(o, Algorithm)}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))


def trained(make, steps=7):
    "Where the parameters of a model are after some steps"
    model = network()
    opt = make(model)
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    def closure():
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss
    for _ in range(steps): opt.step(closure)
    return [p.detach() for p in model.parameters()]


def same(a, b): return all(map(torch.equal, trained(a), trained(b)))


@pytest.mark.parametrize('name', ALGORITHMS)
def test_every_algorithm_is_made_by_its_name(name):
    algo = ALGORITHMS[name]
    assert name.lower() in list_optimizers()
    opt = create_optimizer(name.lower(), model := network(), lr=1e-3)
    expected = algo(network().parameters(), lr=1e-3)
    assert opt.composition.labels == expected.composition.labels and dict(opt.hypers[0]) == dict(expected.hypers[0]) and opt._title == name
    assert opt.param_groups[0]['param_names'] == [k for k, _ in model.named_parameters()]


@pytest.mark.parametrize('name, make', [
    ('AdamW', oc.AdamW), ('schedule_free_adamw', oc.ScheduleFreeAdamW), ('ScheduleFree-AdamW', oc.ScheduleFreeAdamW), ('sign_sgd', oc.SignSGD),
    ('lookahead_adamw', lambda ps, lr: oc.Lookahead(oc.AdamW(ps, lr))), ('look_ahead_AdamW', lambda ps, lr: oc.Lookahead(oc.AdamW(ps, lr))),
    ('ranger', oc.ranger), ('momentum', lambda ps, lr: oc.SGD(ps, lr, mom=0.9)), ('lars', lambda ps, lr: oc.Larc(ps, lr, clip=False)),
    ('sam', lambda ps, lr: oc.SAM(oc.SGD(ps, lr, mom=0.9))), ('sam_adamw', lambda ps, lr: oc.SAM(oc.AdamW(ps, lr))),
    ('cautious_lion', oc.Lion.wrap(oc.cautious)), ('clip_norm_cautious_lion', oc.Lion.wrap(oc.clip_norm, oc.cautious)),
    ('cautious_clipnorm_lion', oc.Lion.wrap(oc.clip_norm, oc.cautious)), ('schedule_free_rmsprop', oc.RMSProp.wrap(oc.schedule_free())),
    ('sam_cautious_momentum', lambda ps, lr: oc.SAM(oc.SGD.wrap(oc.cautious)(ps, lr, mom=0.9))), ('sam_ranger', lambda ps, lr: oc.SAM(oc.ranger(ps, lr))),
    ('lookahead_schedule_free_sgd', None)], ids=lambda o: o if isinstance(o, str) else '')
def test_names_are_made_of_words(name, make):
    if make is None: # two averages of the weights
        with pytest.raises(ValueError, match='makes no sense beside|can.t be put beside'):
            create_optimizer(name, network(), lr=0.01)
        return
    assert same(lambda m: create_optimizer(name, m, lr=0.01), lambda m: make(m.parameters(), lr=0.01))


@given(algo=st.sampled_from(['adam', 'lion', 'rmsprop', 'lamb', 'momentum']), words=st.lists(st.sampled_from(sorted({*PARTS, 'sam'})), max_size=3, unique=True))
@settings(max_examples=60, deadline=None)
def test_parts_in_any_order_are_those_parts(algo, words):
    "Or refused with the reason, as `wrap` does"
    def labels(names):
        try: opt = create_optimizer('_'.join([*names, algo]), network(), lr=0.01, check=False)
        except ValueError as e: return str(e)
        return type(opt).__name__, opt.composition.labels
    first = labels(words)
    assert 'there is no' not in first
    if isinstance(first, tuple):
        assert first == labels(words[::-1]) and (first[0] == 'SAM') == ('sam' in words)
        for k in words:
            if k not in ('sam', 'lookahead', 'schedulefree'):
                assert any(label.startswith(PARTS[k].__name__) for label in first[1])


def test_options_are_ours_or_torchs():
    opt = create_optimizer('adamw', network(), lr=1e-3, wd=0.1, betas=(0.8, 0.9), engine='eager')
    assert dict(opt.hypers[0]) == dict(lr=1e-3, wd=0.1, mom=0.8, sqr_mom=0.9, eps=1e-8) and opt.engine == 'eager'
    assert create_optimizer('sgd', network(), lr=0.1, weight_decay=0.2,
                            momentum=0.5).hypers[0] == dict(lr=0.1, wd=0.2, mom=0.5)
    assert create_optimizer('momentum', network(), lr=0.1, momentum=0.5).hypers[0]['mom'] == 0.5 # over that of the name
    assert create_optimizer('clip_norm_adam', network(), lr=0.1, max_norm=0.5).hypers[0]['max_norm'] == 0.5
    sam = create_optimizer('sam_adamw', network(), lr=0.1, rho=0.2, adaptive=True, eps=1e-3)
    assert (sam.hypers[0]['sam_rho'], sam.ascent.adaptive, sam.hypers[0]['eps']) == (0.2, True, 1e-3) and isinstance(sam.model, nn.Module)
    with pytest.raises(TypeError, match='AdamW has no `epss`. Did you mean `eps`'):
        create_optimizer('adamw', network(), lr=0.1, epss=1.)
    with pytest.raises(TypeError, match='AdamW has no `adaptive`'):
        create_optimizer('adamw', network(), lr=0.1, adaptive=True)
    with pytest.raises(TypeError, match="missing a required argument: 'lr'"): create_optimizer('adamw', network())
    with pytest.raises(TypeError, match="`weight_decay` is torch's name for `wd`"):
        create_optimizer('adamw', network(), lr=0.1, wd=0.1, weight_decay=0.1)


def test_what_is_not_decayed():
    "As timm's `filter_bias_and_bn`: norms and biases"
    def undecayed(opt):
        return {k for g in opt.param_groups for k, p in zip(g['param_names'], g['params']) if opt.state[p].get('do_wd') is False}
    model = network()
    rest = {'0.bias', '1.weight', '1.bias', '3.bias'}
    assert undecayed(create_optimizer('adamw', model, lr=0.1, wd=0.1)) == set()
    assert undecayed(create_optimizer('adamw', model, lr=0.1, wd=0.1, no_wd=True)) == rest == undecayed(create_optimizer('sam_adamw', model, lr=0.1, no_wd=True))
    assert undecayed(create_optimizer('adamw', model, lr=0.1, no_wd=oc.by_name('0.*'))) == {'0.weight', '0.bias'}
    by_hand = [{'params': [p for p in model.parameters() if p.ndim > 1]},
               {'params': [p for p in model.parameters() if p.ndim < 2], 'weight_decay': 0.}]
    def theirs(m):
        by_hand = [{'params': [p for p in m.parameters() if (p.ndim > 1) == decayed],
                    'weight_decay': 0.1*decayed} for decayed in (True, False)]
        return torch.optim.AdamW(by_hand, lr=0.01)
    ours, torchs = trained(lambda m: create_optimizer('adamw', m, lr=0.01, wd=0.1, no_wd=True)), trained(theirs)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, torchs))
    assert undecayed(create_optimizer('adamw', nn.Linear(2, 2, bias=False), lr=0.1, no_wd=True)) == set() # there are none
    for name in list_optimizers(): create_optimizer(name, network(), lr=0.1, no_wd=True) # also where nothing is decayed
    with pytest.raises(ValueError, match='reads `do_wd`'): create_optimizer('rprop', model, lr=0.1, no_wd=oc.by_ndim(1))
    with pytest.raises(TypeError, match='`no_wd=True` needs the model'):
        create_optimizer('adamw', model.parameters(), lr=0.1, no_wd=True)
    assert create_optimizer('adamw', by_hand, lr=0.1, no_wd=oc.by_ndim(0, 1)).hypers[1]['wd'] == 0.


def test_it_is_called_by_its_name():
    titles = {k: create_optimizer(k, network(), lr=0.1).explain().title
              for k in ('adamw', 'cautious_lion', 'ranger', 'sam_adamw')}
    assert titles == {'adamw': 'AdamW', 'cautious_lion': 'cautious_lion', 'ranger': 'ranger',
                      'sam_adamw': 'SAM of AdamW'}
    with pytest.raises(TypeError, match='cautious_lion has no `epss`'):
        create_optimizer('cautious_lion', network(), lr=0.1, epss=1.)


def test_a_model_gives_what_is_trained():
    model = network()
    model[0].requires_grad_(False)
    assert create_optimizer('sgd', model, lr=0.1).param_groups[0]['param_names'] == ['1.weight', '1.bias',
                                                                                     '3.weight', '3.bias']
    assert len(create_optimizer('sgd', model.parameters(), lr=0.1).param_groups[0]['params']) == 6


@pytest.mark.parametrize('args, error, said', [
    (('adamv', None), ValueError, "there is no optimizer 'adamv'. Did you mean 'adam'"), (('schedulefreadamw', None), ValueError, "Did you mean 'schedulefreeadamw'"),
    (('cautius_lion', None), ValueError, "there is no part 'cautius', as in 'cautius_lion'. Did you mean 'cautious'"), (('', None), ValueError, "there is no optimizer ''"),
    (('_', None), ValueError, 'there is no optimizer'), (('cautious', None), ValueError, "there is no optimizer 'cautious'"),
    ((network(), 'adamw'), TypeError, r"the name comes first: `create_optimizer\('adamw', model"), ((None, network()), TypeError, 'must be a name'),
    (('clip_value_sign_sgd', network()), ValueError, '`clip_value` would do nothing')], ids=range(9))
def test_names_that_are_not_there(args, error, said):
    with pytest.raises(error, match=said): create_optimizer(*args, lr=0.1)


@pytest.mark.parametrize('name, twice', [('cautious_cautious_adam', 'cautious'), ('sam_sam', 'sam'), ('sam_sam_adam', 'sam'), ('clip_norm_clipnorm_adam', 'clipnorm'),
                                         ('look_ahead_ranger', 'lookahead'), ('cautious_clip_norm_cautious_momentum', 'cautious')])
def test_no_part_is_named_twice(name, twice):
    with pytest.raises(ValueError, match=f"'{name}' has '{twice}' twice"): create_optimizer(name, network(), lr=0.1)


def test_what_a_part_may_precede_is_listed():
    "And each of these names makes an optimizer"
    listed = list_optimizers('cautious_*')
    assert {'cautious_adamw', 'cautious_momentum', 'cautious_sam'} <= set(listed) and all(k.startswith('cautious_') for k in listed)
    assert list_optimizers('Cautious-adam*') == [f'cautious_{k}' for k in list_optimizers('adam*')]
    assert list_optimizers('cautious_*', exclude_filters='*w') == [k for k in listed if k[-1] != 'w']
    assert list_optimizers('ema_weights_*') and 'ema_weights_schedulefreesgd' not in list_optimizers('ema_weights_*') # averages of weights, both
    assert dict(list_optimizers('cautious_yogi', with_description=True))['cautious_yogi'] == dict(list_optimizers('yogi', with_description=True))['yogi']
    for name in [*listed, *list_optimizers('ema_weights_*')]: create_optimizer(name, network(), lr=0.1)


@pytest.mark.parametrize('name, make', [('nadamw', oc.NAdam), ('radamw', oc.RAdam), ('sgdw', oc.SGD)])
def test_names_with_w_decay_decoupled(name, make):
    def expected(model): return make(model.parameters(), lr=0.1, wd=0.3, decouple_wd=True, **(dict(mom=0.9) if name == 'sgdw' else {}))
    def coupled(model): return create_optimizer(name, model, lr=0.1, wd=0.3, decouple_wd=False)
    def named(model): return create_optimizer(name, model, lr=0.1, wd=0.3)
    assert same(named, expected) and not same(named, coupled)


def test_names_are_listed():
    names = list_optimizers()
    assert names == sorted({*(k.lower() for k in ALGORITHMS),
                            *ALIASES}) == list_optimizers('*') == list_optimizers(['*'])
    assert list_optimizers('*adam*') == [k for k in names if fnmatch(k, '*adam*')] == list_optimizers('*Adam*') and 'adamw' in list_optimizers('*adam*')
    assert list_optimizers('adam') == ['adam'] and list_optimizers('nobody') == [] and list_optimizers(['sgd', 'lion']) == ['lion', 'sgd']
    assert list_optimizers('schedule_free*') == ['schedulefreeadamw', 'schedulefreesgd']
    assert list_optimizers('*adam*', exclude_filters='*w') == [k for k in names if fnmatch(k, '*adam*') and k[-1] != 'w']
    assert list_optimizers(exclude_filters=['*a*', '*s*']) == [k for k in names if not {'a', 's'} & set(k)]
    told = list_optimizers(with_description=True)
    assert [k for k, _ in told] == names and all(d and '\n' not in d
                                                 for _, d in told) and 'Loshchilov' in dict(told)['adamw']
