"The notebooks run from their first cell to their last, and are kept clean, with what they show."
import ast
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

import optimcb

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
RUN = 'import sys; from nbdev.test import test_nb; sys.exit(not test_nb(sys.argv[1])[0])'
LONG = {'02_composing', '03_algorithms', '04_engines', '05_fastai', '07_zoo', '10_from_sgd_to_adam', '11_pytorch', '12_airfoil', '13_weight_decay',
        '14_averages', '15_adamw_experiments', '16_language_models'} # they train, draw or measure for long
each = pytest.mark.parametrize('path', [pytest.param(p, marks=[pytest.mark.slow]*(p.stem in LONG)) for p in NOTEBOOKS], ids=[p.stem for p in NOTEBOOKS])
all_of_them = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)


def run(path):
    with TemporaryDirectory() as folder:
        env = {**os.environ, 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore', 'IPYTHONDIR': folder}
        return subprocess.run([sys.executable, '-c', RUN, str(path)], cwd=path.parent, env=env,
                              capture_output=True, text=True, timeout=600)


@pytest.fixture(scope='module')
def running(request):
    "Notebooks, two at a time; where tests run in several processes, each when it is its turn"
    wanted = [i.callspec.params['path'] for i in request.session.items if getattr(i, 'originalname', '') == 'test_notebooks_run']
    with ThreadPoolExecutor(2) as pool:
        yield {} if 'PYTEST_XDIST_WORKER' in os.environ else {path: pool.submit(run, path) for path in wanted}


@each
def test_notebooks_run(path, running):
    for module in ('nbdev', 'fastai', 'matplotlib', 'sklearn'): pytest.importorskip(module)
    done = running[path].result() if path in running else run(path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@all_of_them
def test_notebooks_are_kept_with_their_output_and_nothing_else(path):
    nb = json.loads(path.read_text())
    code = [c for c in nb['cells'] if c['cell_type'] == 'code']
    assert any(c['outputs'] for c in code) and not any(c['execution_count'] for c in code)
    assert nb['cells'][0]['cell_type'] == 'markdown' and re.match(r'# .+\n+> .+', ''.join(nb['cells'][0]['source']))
    outputs = [o for c in code for o in c['outputs']]
    assert not any(o['output_type'] == 'error' or o.get('name') == 'stderr' for o in outputs)
    assert not re.search(r'(/tmp|/home|/root|/Users)/',
                         json.dumps([o for o in outputs if 'image/png' not in o.get('data', {})]))


def test_every_public_name_is_in_the_api():
    shown = set(re.findall(r'show_doc\((\w+)\)', (ROOT/'nbs'/'api.ipynb').read_text()))
    missing = {*optimcb.__all__, *optimcb.steppers.__all__} - shown
    assert not missing, 'run `python nbs/run.py --cells api` to write their cells'


def test_notebooks_are_clean(tmp_path):
    "nbdev-clean has nothing to do"
    clean = pytest.importorskip('nbdev.clean')
    for path in NOTEBOOKS:
        copy = tmp_path/path.name
        copy.write_text(path.read_text())
        clean.nbdev_clean(copy)
        assert copy.read_text() == path.read_text(), path.name


def names_of(source):
    "The names that code uses, and those that it makes: all that it assigns, defines, takes or imports"
    used, made = set(), set()
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.Name): (made if isinstance(n.ctx, ast.Store) else used).add(n.id)
        elif isinstance(n, (ast.FunctionDef, ast.ClassDef)): made.add(n.name)
        elif isinstance(n, ast.arg): made.add(n.arg)
        elif isinstance(n, ast.ImportFrom):
            for a in n.names:
                made |= set(getattr(m := import_module(n.module), '__all__',
                                    vars(m))) if a.name == '*' else {a.asname or a.name}
    return used, made


@all_of_them
def test_notebooks_import_what_they_use(path):
    "Names of the library that its star doesn't bring, also in notebooks that run for long"
    code = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code')
    used, made = names_of(code)
    assert not {k for k in used - made if hasattr(optimcb, k) and not isinstance(getattr(optimcb, k), ModuleType)} # IPython has a `display`


def test_notebooks_are_linked_from_the_index():
    index = (ROOT/'nbs'/'index.ipynb').read_text()
    for path in NOTEBOOKS: assert path.stem == 'index' or f'({path.name})' in index
    for target in re.findall(r'\]\((\w+\.ipynb)\)', ''.join(p.read_text() for p in NOTEBOOKS)):
        assert (ROOT/'nbs'/target).is_file()
