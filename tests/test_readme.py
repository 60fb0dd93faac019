"The README keeps its word: its code runs, its tables are those of the code, and its commands are those that CI runs."
import re
from pathlib import Path

import pytest
from checklist import COMMAND, PARTS_TABLE, RULES_TABLE, table_of_parts, table_of_rules
from zoo import ALGORITHMS, said

ROOT = Path(__file__).parent.parent
README = (ROOT/'README.md').read_text()


def blocks(language): return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


FRAMEWORK = re.compile(r'^(?:from|import) (lightning|transformers|accelerate)\b', re.MULTILINE)


@pytest.mark.filterwarnings('ignore')
def test_every_python_block_runs(capsys, tmp_path, monkeypatch):
    for module in ('fastai', 'safetensors'): pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    found, names = [b for b in blocks('python') if not FRAMEWORK.search(b)], {}
    assert len(found) == 15
    for block in found: exec(compile(block, 'README.md', 'exec'), names)
    out = capsys.readouterr().out
    for line in re.findall(r'#  ?(\w+ has no .*?|stepper .*?|`clip_value` .*?)(?: …|$)', '\n'.join(found),
                           re.MULTILINE):
        assert line in out


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
    new = ALGORITHMS.keys() - said().keys()
    assert not new, f'the README has no line for {", ".join(sorted(new))}: {COMMAND}'
    assert RULES_TABLE.search(README)[2] == table_of_rules().markdown, COMMAND


def test_the_table_of_parts_is_that_of_the_code():
    assert PARTS_TABLE.search(README)[2] == table_of_parts().markdown, COMMAND


def test_the_two_commands_are_what_ci_runs_and_the_example_is_there():
    main, test = (b.strip() for b in blocks('sh'))
    assert (ROOT/main.split()[-1]).is_file() and main.startswith('python3 -m venv .venv && .venv/bin/pip install -e ')
    assert test.endswith('.venv/bin/python -m pytest')
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'README.md' in ci.read_text()


def test_links_lead_somewhere():
    for target in re.findall(r'\]\((?!http)(.*?)\)', README): assert (ROOT/target).exists()
