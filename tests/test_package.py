"The package as a whole: what it imports, what it exports, and that all of it is documented."
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections import Counter
from configparser import ConfigParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from checklist import has_source, undocumented

import optimcb
from optimcb import Algorithm, algorithms, parts, plots, steppers
from optimcb.composition.stepper import Stepper

ROOT = Path(__file__).parent.parent
NEEDS_FASTAI = {'optimcb.fastai', 'optimcb.learner'}


def modules():
    "Every module of the package, but those whose requirements aren't installed"
    for found in pkgutil.walk_packages(optimcb.__path__, 'optimcb.'):
        if found.name in NEEDS_FASTAI and not find_spec('fastai'): continue
        yield import_module(found.name)


MODULES = list(modules())
PUBLIC = {(m.__name__, k): getattr(m, k) for m in MODULES for k in getattr(m, '__all__', ())}
FASTAI = ['sgd_step', 'weight_decay', 'l2_reg', 'average_grad', 'average_sqr_grad', 'momentum_step', 'rms_prop_step', 'step_stat', 'debias', 'adam_step',
          'radam_step', 'qhadam_step', 'larc_layer_lr', 'larc_step', 'lamb_step']


def test_importing_needs_torch_and_fastcore_only():
    code = 'import sys, optimcb; assert not {"fastai", "matplotlib", "pandas", "IPython", "sklearn"} & set(sys.modules); print(optimcb.__version__)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == optimcb.__version__ and not done.stderr


def test_every_file_of_the_package_is_installed():
    "What is no module, as C and types, is named in setup.cfg"
    setup = ConfigParser()
    setup.read(ROOT/'setup.cfg')
    named = {f for package, patterns in setup['options.package_data'].items() for o in patterns.split(', ')
             for f in (ROOT/package.replace('.', '/')).glob(o)}
    files = {f for f in (ROOT/'optimcb').rglob('*') if f.is_file() and f.suffix not in ('.py', '.pyc')}
    assert files == named and {'py.typed', 'kernel.h', '__init__.pyi'} <= {f.name for f in files}


def test_no_two_modules_off_the_package_share_a_name():
    "Tests, examples and the site's generators import each other by bare names: of two with one name, the first to be imported would stand for both"
    tests = ROOT/'tests'
    folders = [ROOT/'examples', ROOT/'docs'/'gen', ROOT/'benchmarks', tests, *(o for o in tests.iterdir() if o.is_dir())]
    names = Counter(o.stem for folder in folders for o in folder.glob('*.py') if o.stem != '__init__')
    assert len(names) > 50 and not [o for o, n in names.items() if n > 1]


def test_the_version_stands_in_one_place():
    "setup.cfg reads it from the package, and the newest entry of the changelog is that of it"
    assert 'version = attr: optimcb.__version__' in (ROOT/'setup.cfg').read_text()
    newest = re.search(r'^## (\S+)', (ROOT/'CHANGELOG.md').read_text(), re.MULTILINE)[1]
    assert newest == optimcb.__version__


def test_importing_reads_no_steppers():
    "Recipes are run, and signatures looked at, when they are used: an import that asks all of them takes a third of a second"
    code = '''
        import inspect, torch, fastcore.foundation
        asked, signature = [], inspect.signature
        inspect.signature = lambda f, **kw: asked.append(f) or signature(f, **kw)
        import optimcb
        read = [o.__name__ for o in vars(optimcb).values() if isinstance(o, optimcb.Algorithm) and 'options' in vars(o)]
        assert set(read) <= {'RAdam'}, read # whose signature is that of `ranger`
        assert len(asked) < 100, len(asked) # there are 150 steppers
        assert optimcb.Lamb.options[:2] == ['mom', 'sqr_mom'] and 'options' in vars(optimcb.Lamb)
    '''
    done = subprocess.run([sys.executable, '-c', dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', FASTAI)
def test_steppers_have_fastais_arguments(name):
    fastai = pytest.importorskip('fastai.optimizer')
    ours, theirs = (list(inspect.signature(getattr(m, name)).parameters) for m in (optimcb, fastai))
    assert ours == theirs


def test_every_module_says_what_it_is():
    for m in MODULES: assert m.__doc__ and 'TODO' not in m.__doc__, f'{m.__name__} has no docstring'


def test_the_linter_of_layers_knows_every_module():
    "`lint-imports`, which CI runs, checks that each package imports only those below it"
    layers = set(re.findall(r'^    (optimcb\.\w+)$', (ROOT/'setup.cfg').read_text(), re.MULTILINE))
    top = {'.'.join(m.__name__.split('.')[:2]) for m in MODULES}
    assert top <= layers, 'put it in `layers` of setup.cfg'
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'lint-imports' in ci.read_text()


@pytest.mark.parametrize('where', PUBLIC, ids='.'.join)
def test_every_public_name_is_documented(where):
    o = PUBLIC[where]
    if not callable(o) or type(o).__name__ == 'JITFunction': return # functions of Triton's kernels are named after C's
    assert o.__doc__ and o.__doc__[0] != '\n', f'{where} has no docstring'
    assert not undocumented(o), f'{where}: {undocumented(o)} have no comment'


SHOWN = 'optimizer learner taps compare problems catalog bench diagnosis.explain diagnosis.formula editing.edit hypers.views training state'.split()


@pytest.mark.parametrize('place', SHOWN)
def test_methods_are_documented(place):
    "Of the classes that users meet"
    found = {(m, k): o for (m, k), o in PUBLIC.items() if m.startswith(f'optimcb.{place}') and isinstance(o, type)}
    assert found or place in ('learner', 'state')
    for cls in {*found.values(), optimcb.Algorithm, optimcb.Composition}: _check_methods(cls)


def _check_methods(cls):
    for k, v in vars(cls).items():
        if k.startswith('_') or not (inspect.isfunction(v) or isinstance(v, property)): continue
        assert inspect.getdoc(getattr(cls, k)), f'{cls.__name__}.{k} has no docstring'


def test_steppers_say_where_their_formula_is_from():
    plain = [k for k in steppers.__all__ if not has_source(getattr(steppers, k))]
    assert not plain, f'{plain} name no source: see `python -m tests.checklist`'


def test_library_steppers_take_their_names_from_what_others_make():
    "Each name that a stepper needs is a hyper-parameter of some algorithm, or made by another stepper"
    all_steppers = [Stepper(getattr(steppers, k)) for k in steppers.__all__ if k not in steppers.FORMULAS]
    made = {n for s in all_steppers for n in s.mentions}
    recipes = [o for o in vars(optimcb).values() if isinstance(o, Algorithm)]
    made |= {n for o in recipes for s in o.composition.steppers for n in s.mentions} # under names that recipes give
    given = {n for o in recipes for n in o.hypers} | {'lr'}
    for s in all_steppers: assert set(s.required) <= made | given, s.label


def test_show_doc_works_on_all_of_them():
    showdoc = pytest.importorskip('nbdev.showdoc')
    for name in optimcb.__all__:
        shown = showdoc.show_doc(getattr(optimcb, name))._repr_markdown_()
        assert shown.startswith(f'---\n\n### {name}\n') and ' at 0x' not in shown, name
    shown = showdoc.show_doc(optimcb.Adam)._repr_markdown_()
    assert 'def Adam(' in shown and 'mom:float=0.9, # Coefficient of past gradients' in shown and 'lr, # Learning rate' in shown and 'Kingma' in shown


# What is where

def star(module, names):
    exec(f'from {module} import *', names)
    return names


@pytest.fixture(scope='module')
def fastai():
    "The names that fastai's stars bring"
    pytest.importorskip('fastai.vision.all')
    names = {}
    for k in ('vision.all', 'tabular.all', 'text.all', 'collab'): star(f'fastai.{k}', names)
    return names


def replaced(module, names):
    new = star(module, dict(names))
    return {k for k, o in names.items() if k != '__builtins__' and new[k] is not o}


def test_stars_replace_nothing_of_fastais_but_its_optimizers(fastai):
    import fastai.optimizer as fo
    optimizers = {'Optimizer', 'SGD', 'RMSProp', 'Adam', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'Lookahead', 'ranger'}
    assert replaced('optimcb.fastai', fastai) == optimizers
    ours = replaced('optimcb', fastai)
    assert optimizers <= ours <= set(fo.__all__) and not {'only', 'stop', 'debias', 'params'} & ours
    for k in ours - optimizers: # steppers, which take the same names
        assert list(inspect.signature(getattr(optimcb, k)).parameters) == list(inspect.signature(getattr(fo, k)).parameters), k


OTHERS = '''Algorithm algorithm Comparison compare Composition MissingName CompositionWarning InBackward step_in_backward named_state
    hutchinson update_hessian load_state save_state to_torch Lookahead look_ahead Optimizer SAM stats_kept by_torch once only renamed
    renamed_all stop OptStats Record tap of_directions of_signs part wrapped create_optimizer list_optimizers'''.split()


def test_everything_is_imported_by_name():
    listed = [k for m in (algorithms, steppers, plots, parts, sys.modules['optimcb.routing']) for k in m.__all__]
    for k in {*OTHERS, *listed, *optimcb.__all__}: exec(f'from optimcb import {k}', {})
    assert set(optimcb.__all__) <= {*OTHERS, *listed} and len(set(optimcb.__all__)) == len(optimcb.__all__)


def test_dir_is_what_one_types_and_where_the_rest_is():
    assert set(optimcb.__all__) <= set(dir(optimcb)) and len(dir(optimcb)) < 140
    modules = {k for k in dir(optimcb) if isinstance(getattr(optimcb, k), types.ModuleType)}
    assert modules == {'algorithms', 'composition', 'parts', 'plots', 'routing', 'steppers', 'taps'}
    for k in ('algorithms', 'parts', 'steppers'):
        assert set(dir(getattr(optimcb, k))) == set(getattr(optimcb, k).__all__), k
    with pytest.raises(AttributeError, match="module 'optimcb' has no attribute 'nobody'"): optimcb.nobody # noqa: B018
    with pytest.raises(ImportError): exec('from optimcb import nobody', {})


def test_help_is_a_map_of_a_screen():
    lines = optimcb.__doc__.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 110
    places = set(re.findall(r'optimcb\.(\w+)', optimcb.__doc__))
    assert places >= {k for k in dir(optimcb) if isinstance(getattr(optimcb, k), types.ModuleType)}
    code = [line for line in lines if line.startswith('    ') and '(' in line]
    spoken = {k for line in code for k in re.findall(r"(?<![.\w'*])([A-Za-z]\w+)(?=\()", line)} - {'Learner'}
    assert {'Adam', 'algorithm', 'create_optimizer', 'route', 'SAM'} <= spoken and all(hasattr(optimcb, k)
                                                                                       for k in spoken)


def test_places_that_are_imported_when_they_are_used():
    pytest.importorskip('fastai')
    code = '''
        import sys, optimcb
        assert not {'optimcb.learner', 'optimcb.catalog', 'optimcb.bench', 'fastai'} & set(sys.modules)
        optimcb.catalog.parts, optimcb.bench.Bench, optimcb.problems.PROBLEMS
        assert 'fastai' not in sys.modules
        optimcb.learner.AveragedWeights, optimcb.fastai.Adam
    '''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_parts_are_listed_with_what_they_do():
    from optimcb.catalog import parts as table
    rows = [row['part'].strip('`').partition('(')[0] for row in table()]
    assert set(parts.__all__) == set(rows) and len(parts.__all__) == len(rows)
    lines = re.findall(r'^    (\w+)  +(\S.*)$', parts.__doc__, re.MULTILINE)
    assert [k for k, _ in lines] == parts.__all__ and max(map(len, parts.__doc__.splitlines())) <= 110
    for k, said in lines: assert getattr(parts, k).__doc__.startswith(said.removesuffix(' …')), k


def test_a_learner_is_trained_with_one_line(tmp_path):
    pytest.importorskip('fastai')
    code = '''
        from fastai.vision.all import *
        from optimcb.fastai import *
        import optimcb
        rows = [(torch.ones(2)*i, torch.ones(1)) for i in range(8)]
        dls = DataLoaders.from_dsets(rows, rows, bs=2, num_workers=0, device='cpu')
        Mine = algorithm('Mine', [weight_decay, average_grad, momentum_step], mom=0.9) # these are fastai's
        assert average_grad.__module__ == 'fastai.optimizer'
        routed = route(head=(SGD, by_name('1.*')), rest=Adam)
        for opt_func in (Adam.wrap(clip_norm, ema_weights), Mine.wrap(ema_weights), routed.wrap(ema_weights)):
            model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
            learn = Learner(dls, model, nn.MSELoss(), opt_func=opt_func, cbs=[AveragedWeights(), OptStatsCallback()])
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
            assert isinstance(learn.opt, optimcb.Optimizer) and learn.opt_stats['grad_norm'].shape == (4, 4)
            assert learn.opt_stats.param_names == ['0.weight', '0.bias', '1.weight', '1.bias']
    '''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', dedent(code)], capture_output=True,
                          text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
