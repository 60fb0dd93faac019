"The README and the pages keep their word: their code runs, their links lead somewhere, and the commands are those that CI runs."
import pytest
from pages import ROOT, blocks, links, scripts

README = ROOT/'README.md'
PAGES = [README, *sorted((ROOT/'docs'/'from_readme').glob('*.md'))]
SCRIPTS = [o for page in PAGES for o in scripts(page)]

every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda o: f'{o.page.stem}-{o.modules[0]}')
def test_every_block_runs_and_errors_say_what_the_page_says(script, capsys, tmp_path, monkeypatch):
    for module in script.modules: pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    script.run()
    out = capsys.readouterr().out
    for message in script.messages: assert message in out


@every_page
def test_links_lead_somewhere(page):
    for target in links(page): assert (page.parent/target).exists(), target


def test_the_two_commands_are_what_ci_runs_and_the_example_is_there():
    main, test = (b.strip() for b in blocks(README, 'sh'))
    assert (ROOT/main.split()[-1]).is_file() and main.startswith('python3 -m venv .venv && .venv/bin/pip install -e ')
    assert test.endswith('.venv/bin/python -m pytest')
    if (ci := ROOT/'.ci'/'run').is_file(): assert 'README.md' in ci.read_text()


def test_pictures_are_small():
    "`python docs/img/draw.py` draws them"
    pictures = {file: (ROOT/file).stat().st_size for file in links(README) if file.startswith('docs/img/')}
    assert len(pictures) == 2 and max(pictures.values()) <= 300_000


def test_the_readme_is_read_in_two_minutes(): assert len(README.read_text().splitlines()) <= 140
