"The site keeps its word: all code on its pages runs, and messages are as they are shown."
import socket
import sys
from pathlib import Path

import pytest
import torch
from fenced import FRAMEWORK, blocks, languages, pages, run_apart, run_together

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT/'docs')
SHARDS = hasattr(torch.cpu.Stream, 'record_event')
each = pytest.mark.parametrize('page', PAGES, ids=[str(p.relative_to(ROOT/'docs').with_suffix('')) for p in PAGES])


@pytest.fixture
def process(tmp_path, monkeypatch):
    "A folder to write into, and a process as `torchrun` starts it"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'agg')
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    for k, v in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='localhost', MASTER_PORT=port).items(): monkeypatch.setenv(k, str(v))
    yield
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')


@each
@pytest.mark.filterwarnings('ignore')
def test_code_runs(page, process, capsys):
    "The blocks of a page continue each other; those of other frameworks stand alone"
    found = blocks(page.read_text(), 'python')
    if 'fastai' in ''.join(found): pytest.importorskip('fastai')
    if 'matplotlib' in ''.join(found): pytest.importorskip('matplotlib')
    if 'fully_shard' in ''.join(found) and not SHARDS: pytest.skip("torch 2.6 can't shard parameters on a CPU")
    run_together([b for b in found if not FRAMEWORK.search(b)], page.name, lambda: capsys.readouterr().out)


@each
@pytest.mark.filterwarnings('ignore')
def test_code_of_other_frameworks_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_apart([b for b in blocks(page.read_text(), 'python') if FRAMEWORK.search(b)], page.name)


@each
def test_blocks_are_of_languages_that_are_checked_or_no_code(page): assert languages(page.read_text()) <= {'python', 'sh', 'text'}


@each
def test_scripts_that_commands_name_are_there(page):
    for line in '\n'.join(blocks(page.read_text(), 'sh')).splitlines():
        for word in line.split():
            if word.startswith('examples/'): assert (ROOT/word).is_file()


@each
def test_code_fits_a_page(page):
    for line in ''.join(blocks(page.read_text(), 'python')).splitlines(): assert len(line) <= 100, line
