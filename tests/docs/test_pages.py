"The site keeps its word: all code on its pages runs, and messages are as they are shown."
import re
import socket
import sys

import pytest
import torch
from pages import ROOT, blocks, scripts

DOCS = ROOT/'docs'
PAGES = [p for p in sorted(DOCS.rglob('*.md')) if p.parent.name != 'from_readme'] # those have a test with the README
SCRIPTS = [o for page in PAGES for o in scripts(page)]
SHARDS = hasattr(torch.cpu.Stream, 'record_event')

every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(DOCS).with_suffix('')))


@pytest.fixture
def clean(tmp_path, monkeypatch):
    "A folder to write into; no figures and no processes are left"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'agg')
    yield monkeypatch
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')


def as_by_torchrun(monkeypatch):
    "Let this process be the only one of a `torchrun`"
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    known = dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='localhost', MASTER_PORT=port)
    for k, v in known.items(): monkeypatch.setenv(k, str(v))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda o: f'{o.page.relative_to(DOCS).with_suffix("")}-{o.modules[0]}')
def test_every_block_runs_and_errors_say_what_the_page_says(script, clean, capsys):
    for module in script.modules: pytest.importorskip(module)
    if 'fully_shard' in script.code and not SHARDS: pytest.skip("torch 2.6 can't shard parameters on a CPU")
    if 'torch.distributed' in script.code: as_by_torchrun(clean)
    script.run()
    out = capsys.readouterr().out
    for message in script.messages: assert message in out


@every_page
def test_all_code_is_in_a_language_that_is_checked(page): assert set(re.findall(r'^ *```(\w+)', page.read_text(), re.MULTILINE)) <= {'python', 'sh', 'text'}


@every_page
def test_code_fits_a_page(page):
    for line in ''.join(blocks(page)).splitlines(): assert len(line) <= 100, line


@every_page
def test_scripts_that_commands_name_are_there(page):
    for file in re.findall(r'examples/\S+', ''.join(blocks(page, 'sh'))): assert (ROOT/file).is_file()
