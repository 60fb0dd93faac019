"Names of earlier versions: modules that have moved, names that have changed, pickles and files with them."
import importlib
import pickle
import subprocess
import sys
import warnings
from functools import partial

import pytest
from helpers import params, set_grads

import optimcb as oc
from optimcb import steppers
from optimcb._compat import renamed
from optimcb._compat.renamed import LABELS, MOVED, RENAMED, old_names

PUBLIC = { # by old module, the names in it that people import, and that are in pickles
    'averages': 'averaged',
    'backward': 'InBackward step_in_backward',
    'checkpoint': 'ParamStates named_state pack unpack',
    'choice': 'Choice',
    'composition': 'Composition MissingName StepperError',
    'curvature': 'hutchinson update_hessian',
    'editing': 'Composable inserted place removed replaced with_parts with_renamed',
    'files': 'load_state save_state',
    'hypers': (
        'NOT_NEGATIVE RANGES TORCH_NAMES AUTHORS_NAMES TORCH_FLAGS check from_torch TorchNames Groups '
        'HyperView HyperViews'),
    'interop': 'COUNTERPARTS Counterpart from_torch_optim to_torch',
    'lookahead': 'Lookahead look_ahead',
    'names': 'named_after names_in_learners',
    'routing': (
        'Rule by_module by_name by_ndim by_shape grouped no_wd norms_and_biases route scheduled '
        'warmup cosine_decay inverse_sqrt'),
    'sam': 'Ascent SAM stats_kept',
    'stepper': 'InRoute Stepper by_torch label name_of once only renamed renamed_all stop weights_by',
    'steppers.classic': (
        'apply_update grad_update sgd_step weight_decay l2_reg average_grad lazy_average_grad '
        'avg_update momentum_step nesterov_update average_sqr_grad rms_update rms_prop_step '
        'average_update lazy_average_update average_center center_sqr_avg eps_in_root step_stat '
        'debias debias_grad_avg debias_sqr_avg debias_eps adam_step yogi_sqr_grad start_avgs '
        'max_sqr_avg use_sqr_max sum_sqr_grad decay_lr adadelta_update max_abs_grad adamax_update '
        'nadam_mom nadam_schedule nadam_avg rectification radam_update radam_step qhadam_avgs '
        'qhadam_step larc_layer_lr larc_update larc_step trust_ratio lamb_step slow_start '
        'lookahead_step'),
    'steppers.matrices': (
        'slow_vectors orthogonal_update vector_update spectral_lr match_rms_lr sum_grams '
        'inverse_roots shampoo_update average_grams refresh_bases turn_grad turn_back param_rms '
        'relative_lr scale_lr lr_in_update factored_sqr_grad factored_update cover_sqr_grad '
        'keep_cover'),
    'steppers.tools': 'route_lr count_steps schedule',
    'warn': 'CompositionWarning calling_frame warn',
    'wrapping': 'PLACES kind_of of_directions of_signs part place_of wrapped',
}


def warnings_of(code) -> list:
    "Run Python in a new process, where nothing is imported yet. Returns the warnings that it printed."
    run = subprocess.run([sys.executable, '-W', 'always', '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [line for line in run.stderr.splitlines() if 'DeprecationWarning' in line and 'optimcb' in line]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        yield


def test_every_old_module_imports_and_warns_once():
    old = [k for k in MOVED if importlib.util.find_spec(f'optimcb.{k}').loader.__class__.__name__ == '_Finder']
    code = 'import importlib, optimcb\n' + ''.join(f"importlib.import_module('optimcb.{k}')\n" for k in old)*2
    said = warnings_of(code)
    assert len(said) == len(old)
    for k in old:
        now = ', '.join(f'`optimcb.{o}`' for o in MOVED[k])
        assert sum(f'`optimcb.{k}` is now {now}.' in line for line in said) == 1, k


def test_every_new_module_is_there():
    for new in {o for news in MOVED.values() for o in news} - {'bench.__main__'}:
        importlib.import_module(f'optimcb.{new}')
    for new in RENAMED.values():
        path, _, name = new.rpartition('.')
        assert hasattr(importlib.import_module(f'optimcb.{path}' if path else 'optimcb'), name), new


@pytest.mark.parametrize('old', PUBLIC)
def test_an_old_module_gives_what_it_gave(old, quiet):
    module = importlib.import_module(f'optimcb.{old}')
    for name in PUBLIC[old].split():
        found = getattr(module, name)
        if name in oc.__all__: assert found is getattr(oc, name)
    with pytest.raises(AttributeError, match='has no attribute'): _ = module.nothing_of_the_kind


# Names that have changed

@pytest.fixture
def with_old_name(monkeypatch):
    monkeypatch.setitem(RENAMED, 'taps.spy', 'taps.tap')
    monkeypatch.setattr(renamed, 'WARNED', set())
    monkeypatch.setattr(oc.taps, '__getattr__', old_names('taps'), raising=False)


def test_an_old_name_warns_once_and_gives_the_new(with_old_name):
    with pytest.warns(DeprecationWarning, match=r'`optimcb.taps.spy` is now `optimcb.taps.tap`'): found = oc.taps.spy
    assert found is oc.tap
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert oc.taps.spy is oc.tap
    with pytest.raises(AttributeError, match="module 'optimcb.taps' has no attribute 'another'"): _ = oc.taps.another


def test_an_old_name_of_an_old_module(with_old_name, monkeypatch):
    monkeypatch.setitem(MOVED, 'watching', ['taps'])
    with pytest.warns(DeprecationWarning, match='is now'): assert old_names('watching')('spy') is oc.tap


STEPPERS = {old: new for old, new in LABELS.items() if old != new}


@pytest.mark.parametrize('old', STEPPERS)
@pytest.mark.parametrize('module', [steppers, oc], ids=lambda m: m.__name__)
def test_old_names_of_steppers_lead_to_the_new_ones(module, old, monkeypatch):
    "The warning is at the line that asks"
    monkeypatch.setattr(renamed, 'WARNED', set())
    now = RENAMED[f'steppers.{old}']
    with pytest.warns(DeprecationWarning) as said: found = getattr(module, old)
    assert [str(w.message) for w in said] == [f'`optimcb.steppers.{old}` is now `optimcb.{now}`.']
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert getattr(steppers, old) is found is getattr(oc, old) and found.__name__ == STEPPERS[old]


def test_names_that_never_were():
    for module in (steppers, steppers.muon, oc.taps, oc.composition, oc): assert not hasattr(module, 'no_such_name')
    with pytest.raises(AttributeError, match="module 'optimcb.steppers' has no attribute 'no_such_name'"):
        _ = steppers.no_such_name


# Pickles

def as_of_old(o) -> bytes:
    "Pickle `o`, then write the old names of modules into it."
    data = pickle.dumps(o, protocol=0) # in which a function is its module and its name, a line each
    lines = data.split(b'\n')
    for i, line in enumerate(lines[:-1]):
        start, found, path = line.rpartition(b'coptimcb.')
        name = lines[i+1].decode(errors='replace')
        old = _old_home(path.decode(errors='replace'), name) if found else None
        if old: lines[i] = start + found + old.encode()
    return b'\n'.join(lines)


def _old_home(path, name) -> str|None:
    "Return the old module that had `name`, which is in the module at `path` now."
    return next((k for k, news in MOVED.items() if path in news and path != k and not _is_there(k)), None)


def _is_there(old) -> bool: return importlib.util.find_spec(f'optimcb.{old}').loader.__class__.__name__ != '_Finder'


MAKE = {
    'sgd': partial(oc.SGD, mom=0.9), 'adamw': oc.AdamW, 'muon': oc.Muon, 'edited': oc.Adam.replace(oc.adam_step, oc.lamb_step),
    'parts': oc.Adam.wrap(partial(oc.clip_norm, max_norm=0.5), oc.cautious), 'scheduled': oc.Adam.wrap(oc.scheduled(lr=oc.warmup(3))),
    'renamed': oc.Adam.rename('average_grad', mom='my_mom'), 'route': oc.route(a=(oc.SGD, oc.by_ndim(2)), rest=oc.AdamW),
    'rules': oc.SGD.replace('weight_decay', oc.only(oc.weight_decay, ~oc.by_ndim(1) | oc.by_shape(len)))}


@pytest.mark.parametrize('name', MAKE)
def test_a_pickle_of_an_earlier_version_goes_on(name, quiet):
    opt = MAKE[name](params(), lr=0.1, engine='eager')
    set_grads(opt.all_params().itemgot(0), 0)
    opt.step()
    data = as_of_old(opt)
    assert b'optimcb.stepper' in data or b'optimcb.choice' in data
    old = pickle.loads(data)
    assert old.composition.labels == opt.composition.labels and old._choice is not None
    for o in (opt, old):
        set_grads(o.all_params().itemgot(0), 1)
        o.step()
    for p, q in zip(opt.all_params().itemgot(0), old.all_params().itemgot(0)): assert (p == q).all()


@pytest.mark.parametrize('module, name', [('soap', 'turn_grad'), ('parameter_free', 'share_d'), ('muon', 'slow_vectors'), ('averages', 'free_step'),
                                          ('averages', 'ascend'), ('adaptive', 'rms_rate'), ('formulas', 'debias'), ('matrices', 'turn_back')])
@pytest.mark.filterwarnings('ignore')
def test_pickles_of_functions_of_before_load(module, name):
    found = pickle.loads(f'coptimcb.steppers.{module}\n{name}\n.'.encode())
    assert found is getattr(steppers, LABELS.get(name, name))


# State dicts

@pytest.mark.parametrize('algo', [oc.SOAP, oc.Prodigy, oc.ScheduleFreeAdamW, oc.Muon])
def test_a_state_dict_with_old_labels_is_of_the_same_steppers(algo, recwarn):
    ps = params()
    opt = algo(ps, lr=0.01)
    set_grads(ps)
    opt.step()
    sd, back = opt.state_dict(), {new: old for old, new in STEPPERS.items()}
    def before(label):
        name, paren, options = label.partition('(')
        return back.get(name, name) + paren + options
    old = {**sd, 'steppers': [before(k) for k in sd['steppers']]}
    assert old['steppers'] != sd['steppers']
    recwarn.clear()
    algo(ps, lr=0.01).load_state_dict(old)
    assert not recwarn.list
