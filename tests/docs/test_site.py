"The site is whole: a page for each algorithm and part, all that is public documented, links and pictures there, nothing from a network."
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

import optimcb as oc

ROOT = Path(__file__).parents[2]
for module in ('math_core', 'matplotlib', 'mkdocs', 'mkdocstrings', 'material'): pytest.importorskip(module, reason="pip install 'optimcb[docs]'")
sys.path.insert(0, str(ROOT/'docs'/'gen'))

import api  # noqa: E402
import gallery  # noqa: E402
import notebooks  # noqa: E402
from comments import comments_of  # noqa: E402
from formulas import in_output, mathml  # noqa: E402

ALGORITHMS = {k for k, o in vars(oc).items() if isinstance(o, oc.Algorithm)}
QUESTIONS = { # what newcomers asked: the page that answers, and words of the answer
    'keep decay off norms': ('how-to/no-decay.html', 'no_wd'),
    'resume torch.optim': ('how-to/checkpoints.html', 'load_state_dict'),
    'what does part mean': ('concepts.html', 'go with any algorithm'),
    'faster on my GPU': ('speed.html', 'Not yet measured on a GPU'),
    'write my own optimizer': ('how-to/write-your-own.html', 'A stepper is a function of one parameter'),
    'clip gradients': ('gallery/parts/clip_norm.html', 'clip_grad_norm_'),
    'muon adamw': ('how-to/muon-with-adamw.html', 'route'),
    'defaults of Adam': ('coming-from/torch.html', 'Defaults that differ'),
    'use in fastai Learner': ('how-to/fastai.html', 'opt_func'),
    'error missing name': ('mistakes.html', 'A stepper that lacks something')}


# What is generated

def test_each_algorithm_and_each_part_has_a_page():
    assert gallery.algorithms_by_name().keys() == ALGORITHMS and gallery.parts_by_name().keys() == set(oc.parts.__all__)


def test_every_public_name_has_a_page_and_is_documented(): assert api.missing() == []


def test_a_name_without_a_page_is_found(monkeypatch):
    monkeypatch.setattr(oc.taps, '__all__', [*oc.taps.__all__, 'RATIOS'])
    assert 'optimcb.taps.RATIOS is on no page' in ''.join(api.missing())


@pytest.mark.parametrize('name', ['Lion', 'Muon'])
@pytest.mark.filterwarnings('ignore')
def test_the_page_of_an_algorithm_says_what_the_code_does(name):
    algo = getattr(oc, name)
    page, picture = gallery.algorithm_page(name)
    assert algo.formula.latex in page and picture.startswith(b'\x89PNG')
    for s in algo.composition.steppers: assert f'[`{s.innermost.__name__}`][optimcb.steppers.' in page
    for k in algo.hypers: assert re.search(rf'^\| `{k}` \| `.*?` \| \S', page, re.MULTILINE), k
    assert '1e-12' in page and algo.__doc__.split('\n')[0].strip() in page


@pytest.mark.parametrize('name', ['clip_norm', 'add_noise', 'look_ahead', 'zero_nonfinite'])
@pytest.mark.filterwarnings('ignore')
def test_the_page_of_a_part_says_what_it_does(name):
    page, picture = gallery.part_page(name)
    assert 'Place in a step' in page and '## Tested against' in page
    assert (picture is None) == ('No picture' in page) == (name == 'zero_nonfinite')
    assert ('There is none: stepper `add_noise`' in page) == (name == 'add_noise')


def test_comments_beside_parameters_are_found():
    assert {'params', 'cbs', 'engine', 'hypers'} <= comments_of(oc.Optimizer.__init__).keys()
    assert comments_of(oc.scheduled)['functions'].startswith('By hyper-parameter')


def test_formulas_become_mathml():
    assert mathml(r'\theta').startswith('<math') and '\n' not in mathml(oc.Adam.formula.latex, block=True)
    assert '<math' in in_output(r'<p>\(\beta_1\)</p>') and in_output('<p>text</p>') == '<p>text</p>'


@pytest.mark.parametrize('path', notebooks.notebooks(), ids=lambda p: p.stem)
def test_notebooks_become_pages_with_all_that_they_show(path):
    page, pictures = notebooks.page(path)
    cells = [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code' and ''.join(c['source']).strip()]
    shown = [o for c in cells for o in c['outputs']]
    assert page.count('```python\n') >= len(cells) and len(pictures) == sum('image/png' in o.get('data', {}) for o in shown)
    assert '.ipynb)' not in page.replace(f']({path.name})', '')


def test_the_start_page_counts_right():
    said = re.search(r'(\d+) algorithms and (\d+) parts', (ROOT/'docs'/'index.md').read_text())
    assert [int(n) for n in said.groups()] == [len(ALGORITHMS), len(oc.parts.__all__)]


# What is built

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site: the one that `OPTIMCB_SITE` names, or else a new one"
    if 'OPTIMCB_SITE' in os.environ: return Path(os.environ['OPTIMCB_SITE'])
    out = tmp_path_factory.mktemp('site')
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', str(out)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr[-5000:]
    return out


class Page(HTMLParser):
    "What a page links to, loads and can be linked by."
    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get('id'), attrs.get('name')}
        if tag == 'a' and attrs.get('href'): self.links.append(attrs['href'])
        elif tag in ('img', 'script', 'source', 'iframe') and attrs.get('src'): self.loads.append(attrs['src'])
        elif tag == 'link' and attrs.get('rel') not in ('canonical', 'alternate'): self.loads.append(attrs['href'])


@cache
def parsed(path): return Page(path)


def pages_of(site): return sorted(p for p in site.rglob('*.html') if p.name != '404.html')
def is_outside(link): return re.match(r'[a-z]+:|//', link) is not None


def target(page, link):
    path, _, anchor = unquote(link).partition('#')
    return (page.parent/path).resolve() if path else page, anchor


@pytest.mark.slow
def test_links_lead_somewhere_and_figures_are_there(site):
    lost = []
    for page in pages_of(site):
        for link in filter(lambda o: not is_outside(o), parsed(page).links + parsed(page).loads):
            path, anchor = target(page, link)
            if not path.exists() or path.is_dir(): lost.append((page.name, link))
            elif anchor and path.suffix == '.html' and anchor not in parsed(path).ids and not anchor.startswith('__'): lost.append((page.name, link))
            elif path.suffix == '.png': assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 1000
    assert not lost, lost[:20]


@pytest.mark.slow
def test_nothing_comes_from_a_network(site):
    for page in pages_of(site): assert not [o for o in parsed(page).loads if is_outside(o) and not o.startswith('data:')], page


@pytest.mark.slow
def test_formulas_are_drawn(site):
    for name in ALGORITHMS: assert '<math display="block">' in (site/'gallery'/'algorithms'/f'{name}.html').read_text(), name
    for page in pages_of(site): assert 'class="arithmatex"' not in page.read_text(), page


@pytest.mark.slow
def test_every_public_name_can_be_linked(site):
    known = {i for page in pages_of(site) for i in parsed(page).ids if i and i.startswith('optimcb.')}
    names = {k.rpartition('.')[2] for k in known}
    for place in ['optimcb', *(f'optimcb.{k}' for k in api.PLACES)]: assert not {*import_module(place).__all__} - names, place


@pytest.mark.slow
def test_questions_are_answered_within_two_clicks_of_the_start_page_and_found_by_search(site):
    start, near = site/'index.html', set()
    for link in filter(lambda o: not is_outside(o), parsed(start).links):
        page, _ = target(start, link)
        if page.suffix != '.html': continue
        near |= {page, *(target(page, o)[0] for o in parsed(page).links if not is_outside(o))}
    index = json.loads((site/'search'/'search_index.json').read_text())['docs']
    for question, (page, answer) in QUESTIONS.items():
        assert (site/page).resolve() in near and answer in re.sub('<.*?>', '', (site/page).read_text()), question
        assert any(o['location'].startswith(page) for o in index), question
