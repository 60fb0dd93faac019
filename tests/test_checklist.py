"The checklist names all that a new rule, part and operation lack, and writes what can be made of the code, and nothing else."
import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checklist import lacks

ROOT = Path(__file__).parent.parent

STEPPER = '''

def halve_update(p,
    update, # This step's update
    halving=2.,
    **kwargs):
    "Halve the update."
    return {'update': update/halving}
'''
RULE = '''

@algorithm
def HalfSGD():
    "Half of a gradient."
    return [grad_update, halve_update, apply_update]
'''
PART = '''

@part('update')
def quarter_update(p,
    update, # This step's update
    **kwargs):
    "A quarter of the update."
    return {'update': update/4}
'''


def run(tree, *args):
    env = {**os.environ, 'PYTHONPATH': str(tree)}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'tests.checklist', *args], cwd=tree, env=env,
                          capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def append(path, code, name=None):
    "Add code at the end of a file, with its name in `__all__`"
    text = path.read_text()
    if name: text = text.replace('__all__ = [', f"__all__ = ['{name}', ", 1)
    path.write_text(text + code)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A copy of the repository in which somebody has begun to add a rule, a part and an operation"
    tree = tmp_path_factory.mktemp('clone')
    for folder in ('optimcb', 'tests'): shutil.copytree(ROOT/folder, tree/folder, ignore=shutil.ignore_patterns('__pycache__'))
    for folder in ('docs', 'nbs'): (tree/folder).mkdir()
    for file in ('docs/tables.md', 'nbs/api.ipynb'): shutil.copy(ROOT/file, tree/file)
    append(tree/'optimcb/steppers/sgd.py', STEPPER, 'halve_update')
    append(tree/'optimcb/algorithms/momentum.py', RULE, 'HalfSGD')
    append(tree/'optimcb/steppers/parts.py', PART, 'quarter_update')
    ops = tree/'optimcb/tracing/ops.py'
    ops.write_text(ops.read_text().replace("    _same('neg', ", "    _same('gcd', '{0} + {1}'),\n    _same('neg', ", 1))
    return tree


def test_nothing_is_lacking_here(): assert [str(o) for o in lacks()] == []


@pytest.mark.slow
def test_what_is_lacking_is_named_and_what_can_be_is_written(tree):
    pytest.importorskip('nbdev')
    found = run(tree)
    def said(*words): return any(all(w in line for w in words) for line in found)
    assert said('rule `HalfSGD`', 'reference', 'zoo_momentum.py') and said('rule `HalfSGD`', 'source')
    assert said('rule `HalfSGD`', 'docs/tables.md') and said('rule `HalfSGD`', 'api.ipynb')
    assert said('stepper `halve_update`', 'source') and said('stepper `halve_update`', 'comments for `halving`')
    assert said('part `quarter_update`', 'among the parts') and said('part `quarter_update`', 'every rule', 'test_wrapping.py')
    assert said('part `quarter_update`', 'docs/tables.md') and said('stepper `quarter_update`', 'api.ipynb')
    assert said('operation `gcd`', 'expression')
    zoo = tree/'tests'/'zoo_momentum.py'
    zoo.write_text(zoo.read_text() + '''
CASES.append(('halfsgd', oc.HalfSGD, partial(Naive, formula=lambda p, g, s, t, lr: p - lr*g/2)))
LRS['HalfSGD'] = 0.1
''')
    tables, api = ((tree/o).read_text() for o in ('docs/tables.md', 'nbs/api.ipynb'))
    found = run(tree, '--write')
    assert said('wrote docs/tables.md') and said('wrote optimcb/__init__.pyi') and said('wrote optimcb/algorithms/__init__.pyi') and said('wrote the cell of `HalfSGD`') and said('wrote the cell of `quarter_update`')
    assert not said('rule `HalfSGD` lacks', 'docs/tables.md') and not said('api.ipynb:') and not said('reference') and said('`HalfSGD`', 'source')
    def changed(before, file): return [o for o in difflib.ndiff(before.splitlines(), (tree/file).read_text().splitlines()) if o[0] in '+-']
    rows = changed(tables, 'docs/tables.md')
    assert [o[:2] for o in rows] == ['+ ', '+ '] and '`HalfSGD`' in rows[0] and 'its formula in a loop | 1e-' in rows[0]
    assert '`quarter_update`' in rows[1]
    assert all(o[0] == '+' for o in changed(api, 'nbs/api.ipynb'))
    before, after = json.loads(api)['cells'], json.loads((tree/'nbs/api.ipynb').read_text())['cells']
    new = [c for c in after if c not in before]
    assert {''.join(c['source']) for c in new} == {f'show_doc({k})'
                                                   for k in ('HalfSGD', 'halve_update', 'quarter_update')}
    assert [c for c in after if c not in new] == before and all(c['outputs'] and c['execution_count'] is None
                                                                for c in new)
    assert not any('wrote' in line for line in run(tree, '--write'))
    from nbdev.clean import nbdev_clean
    text = (tree/'nbs/api.ipynb').read_text()
    nbdev_clean(tree/'nbs'/'api.ipynb')
    assert (tree/'nbs/api.ipynb').read_text() == text
