"The README keeps its word: its code runs, its table is that of the code, and its commands are those that CI runs. Run as a script, writes the table."
import re
from pathlib import Path

import pytest

import optimcb
from optimcb import Algorithm, Composition

ROOT = Path(__file__).parent.parent
README = (ROOT/'README.md').read_text()
TABLE = re.compile(r'(<!-- table: .*? -->\n)(.*?)(<!-- end of table -->)', re.DOTALL)


def blocks(language): return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


FRAMEWORK = re.compile(r'^(?:from|import) (lightning|transformers|accelerate)\b', re.MULTILINE)


def table():
    algorithms = [o for o in vars(optimcb).values() if isinstance(o, Algorithm)]
    rows = [f"| `{o.__name__}` | {' → '.join(f'`{s}`' for s in Composition(o.cbs).labels)} | {o.__doc__.rstrip('.')} |" for o in algorithms]
    return '\n'.join(['| algorithm | steppers, with the default options | what, and where from |', '|---|---|---|', *rows, ''])


@pytest.mark.filterwarnings('ignore')
def test_every_python_block_runs(capsys, tmp_path, monkeypatch):
    for module in ('fastai', 'safetensors'): pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    found, names = [b for b in blocks('python') if not FRAMEWORK.search(b)], {}
    assert len(found) == 12
    for block in found: exec(compile(block, 'README.md', 'exec'), names)
    out = capsys.readouterr().out
    for said in re.findall(r'#  ?(\w+ has no .*?|stepper .*?)(?: …|$)', '\n'.join(found), re.MULTILINE): assert said in out


@pytest.mark.filterwarnings('ignore')
def test_blocks_in_other_frameworks_run(tmp_path, monkeypatch):
    "Each by itself"
    found = [b for b in blocks('python') if FRAMEWORK.search(b)]
    for b in found: pytest.importorskip(FRAMEWORK.search(b)[1])
    assert len(found) == 3
    monkeypatch.chdir(tmp_path)
    for block in found: exec(compile(block, 'README.md', 'exec'), {})


def test_the_table_is_that_of_the_code(): assert TABLE.search(README)[2] == table(), 'run `python tests/test_readme.py` to write it'


def test_the_two_commands_are_what_ci_runs_and_the_example_is_there():
    main, test = (b.strip() for b in blocks('sh'))
    assert (ROOT/main.split()[-1]).is_file() and main.startswith('python3 -m venv .venv && .venv/bin/pip install -e ')
    assert test.endswith('.venv/bin/python -m pytest')
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'README.md' in ci.read_text()


def test_links_lead_somewhere():
    for target in re.findall(r'\]\((?!http)(.*?)\)', README): assert (ROOT/target).exists()


if __name__ == '__main__': (ROOT/'README.md').write_text(TABLE.sub(lambda m: m[1] + table() + m[3], README))
