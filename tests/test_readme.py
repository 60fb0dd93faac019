"The README keeps its word: its code runs, its table is that of the code, and its commands are those that CI runs. Run as a script, writes the table."
import math
import re
from functools import partial
from pathlib import Path

import pytest
from zoo import ROWS, algorithm_of, apart, reference, said

from optimcb.catalog import Catalog, catalog, parts

ROOT = Path(__file__).parent.parent
README = (ROOT/'README.md').read_text()
PARTS = re.compile(r'(<!-- parts: .*? -->\n)(.*?)(<!-- end of parts -->)', re.DOTALL)
TABLE = re.compile(r'(<!-- table: .*? -->\n)(.*?)(<!-- end of table -->)', re.DOTALL)


def blocks(language): return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


FRAMEWORK = re.compile(r'^(?:from|import) (lightning|transformers|accelerate)\b', re.MULTILINE)


def table(to):
    "The catalog, with what each algorithm equals in the tests, and how nearly"
    return Catalog({**row, 'equals': ', '.join(dict.fromkeys(reference(r[2]) for r in rows_of(row['algorithm']))), 'to': to(row['algorithm'])} for row in catalog())


def rows_of(name): return [r for r in ROWS if f"`{getattr(algorithm_of(r[1]), '__name__', '')}`" == name]


def reached(name):
    "The power of ten that all rows of an algorithm are within, on the eager engine"
    worst = max(apart(partial(ours, engine='eager'), theirs) for _, ours, theirs, _ in rows_of(name))
    return f'{10.**math.ceil(math.log10(max(worst, 1e-16))):.0e}'


@pytest.mark.filterwarnings('ignore')
def test_every_python_block_runs(capsys, tmp_path, monkeypatch):
    for module in ('fastai', 'safetensors'): pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    found, names = [b for b in blocks('python') if not FRAMEWORK.search(b)], {}
    assert len(found) == 15
    for block in found: exec(compile(block, 'README.md', 'exec'), names)
    out = capsys.readouterr().out
    for line in re.findall(r'#  ?(\w+ has no .*?|stepper .*?|`clip_value` .*?)(?: …|$)', '\n'.join(found), re.MULTILINE): assert line in out


@pytest.mark.filterwarnings('ignore')
def test_blocks_in_other_frameworks_run(tmp_path, monkeypatch):
    "Each by itself"
    found = [b for b in blocks('python') if FRAMEWORK.search(b)]
    for b in found: pytest.importorskip(FRAMEWORK.search(b)[1])
    assert len(found) == 3
    monkeypatch.chdir(tmp_path)
    for block in found: exec(compile(block, 'README.md', 'exec'), {})


def test_the_table_is_that_of_the_code():
    "Tests of the rows themselves compare the tolerances"
    assert TABLE.search(README)[2] == table(lambda name: f"{said()[name.strip('`')]:.0e}").markdown, 'run `python tests/test_readme.py` to write it'


def test_the_table_of_parts_is_that_of_the_code(): assert PARTS.search(README)[2] == parts().markdown, 'run `python tests/test_readme.py` to write it'


def test_the_two_commands_are_what_ci_runs_and_the_example_is_there():
    main, test = (b.strip() for b in blocks('sh'))
    assert (ROOT/main.split()[-1]).is_file() and main.startswith('python3 -m venv .venv && .venv/bin/pip install -e ')
    assert test.endswith('.venv/bin/python -m pytest')
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'README.md' in ci.read_text()


def test_links_lead_somewhere():
    for target in re.findall(r'\]\((?!http)(.*?)\)', README): assert (ROOT/target).exists()


if __name__ == '__main__':
    written = TABLE.sub(lambda m: m[1] + table(reached).markdown + m[3], README)
    (ROOT/'README.md').write_text(PARTS.sub(lambda m: m[1] + parts().markdown + m[3], written))
