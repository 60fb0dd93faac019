"Editors and type checkers know what the package has: the stubs are those of the code, and what jedi reads has signatures."
import re
import types

import pytest
from checklist import COMMAND
from stubs import PACKAGE, SUBMODULES, public, stubs

import optimcb
from optimcb import Algorithm, algorithms

USE = '''
import torch, optimcb
from optimcb import *
model = torch.nn.Linear(3, 3)
opt = Adam(model.parameters(), lr=1e-3)
'''


@pytest.fixture(scope='module')
def jedi(tmp_path_factory):
    "With a cache of its own, as processes that share one disturb each other"
    jedi = pytest.importorskip('jedi')
    jedi.settings.cache_directory = str(tmp_path_factory.mktemp('jedi'))
    return jedi


def asked(jedi, code): return jedi.Script(USE + code)


@pytest.mark.parametrize('path', stubs(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_stubs_are_those_of_the_code(path): assert path.read_text() == stubs()[path], COMMAND


def test_the_package_says_that_it_has_types(): assert (PACKAGE/'py.typed').is_file()


def test_every_name_is_in_the_stub():
    text = (PACKAGE/'__init__.pyi').read_text()
    named = set(re.findall(r'import (\w+) as \1$', text, re.MULTILINE))
    assert named == {*public(), *SUBMODULES, 'doctor'} and {*dir(optimcb)} - {'__version__'} <= named
    names = {}
    exec(re.sub(r'^__version__: str$', '', text, flags=re.MULTILINE), names) # what the stub imports is there
    assert all(isinstance(names[k], types.ModuleType) for k in SUBMODULES)
    assert names['__all__'] == optimcb.__all__ and all(names[k] is getattr(optimcb, k) for k in named)


@pytest.mark.parametrize('name', [k for k in algorithms.__all__ if isinstance(getattr(algorithms, k), Algorithm)])
def test_every_argument_of_an_algorithm_is_known(name):
    call = re.search(rf'class _{name}\(Algorithm\):\n    def __call__\((.*?)\) -> Optimizer', (PACKAGE/'algorithms'/'__init__.pyi').read_text(), re.DOTALL)[1]
    assert re.findall(r'^        (\w+):', call, re.MULTILINE) == list(getattr(algorithms, name).signature.parameters)


@pytest.mark.parametrize('call, names', [
    ('AdamW(', 'params lr mom sqr_mom eps wd amsgrad engine check zero_in_step'),
    ('optimcb.algorithms.Lion(', 'params lr'), ('create_optimizer(', 'name model lr wd no_wd options'),
    ('clip_norm(', 'p max_norm kwargs'), ('route(', 'called apart routes'), ('opt.step(', 'closure'), ('opt.set_hyper(', 'k v'),
    ('Optimizer(', 'params cbs engine check zero_in_step hypers')])
def test_an_editor_shows_the_arguments(jedi, call, names):
    (found, *_) = asked(jedi, call).get_signatures()
    shown = [o.name for o in found.params]
    assert shown[:len(names.split())] == names.split()


@pytest.mark.parametrize('start, name', [
    ('opt.', 'step'), ('opt.', 'param_groups'), ('opt.', 'explain'), ('Adam.', 'wrap'), ('optimcb.', 'doctor'), ('optimcb.parts.', 'cautious'),
    ('optimcb.steppers.', 'eps_in_root'), ('from optimcb import ', 'Muon'), ('from optimcb.learner import ', 'AveragedWeights'),
    ('from optimcb.fastai import *\n', 'OptStatsCallback')])
def test_an_editor_completes(jedi, start, name): assert name in {o.name for o in asked(jedi, start).complete()}
