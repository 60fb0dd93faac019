"The README keeps its word: its code runs, its links lead somewhere, and its commands are those that CI runs."
import re
from pathlib import Path

import pytest
from fenced import blocks, run_together

ROOT = Path(__file__).parent.parent
README = (ROOT/'README.md').read_text()
TARGETS = [a or b for a, b in re.findall(r'\]\((?!https?:)(.*?)\)|<img src="(.*?)"', README)]


@pytest.mark.filterwarnings('ignore')
def test_every_python_block_runs(capsys, tmp_path, monkeypatch):
    "And errors are as the comments beside them say"
    pytest.importorskip('fastai')
    monkeypatch.chdir(tmp_path)
    found = blocks(README, 'python')
    assert len(found) == README.count('```python') == 5
    run_together(found, 'README.md', lambda: capsys.readouterr().out)


def test_the_two_commands_are_what_ci_runs_and_the_example_is_there():
    main, test = (b.strip() for b in blocks(README, 'sh'))
    assert (ROOT/main.split()[-1]).is_file() and main.startswith('python3 -m venv .venv && .venv/bin/pip install -e ')
    assert test.endswith('.venv/bin/python -m pytest')
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'README.md' in ci.read_text()


def test_links_lead_somewhere():
    for target in TARGETS: assert (ROOT/target).exists(), target


def test_pictures_are_small():
    "`python docs/img/draw.py` draws them"
    sizes = [(ROOT/o).stat().st_size for o in TARGETS if o.startswith('docs/img/')]
    assert len(sizes) == 2 and max(sizes) <= 300_000


def test_the_readme_is_read_in_two_minutes(): assert len(README.splitlines()) <= 140
