"Hooks of MkDocs: they add the generated pages, turn formulas into MathML, and check what was built."
import re
import sys
from functools import cache
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path: sys.path.insert(0, HERE)

import api  # noqa: E402
import formulas  # noqa: E402
import gallery  # noqa: E402
import notebooks  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.plugins import event_priority  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402

FROM_NETWORK = re.compile(r'''<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?https?://'''
                          r'''|<link\b(?![^>]*rel="(?:canonical|alternate)")[^>]*\bhref=["']?https?://''')


LATER = '---\nsearch:\n  boost: 0.5\n---\n\n' # guides come first in a search


@cache
def generated() -> dict[str, str|bytes]:
    "Return all files that are made when the site is built, by path."
    res = {**dict(gallery.pages()), **{k: LATER + text for k, text in api.pages()}}
    for path in notebooks.notebooks():
        text, pictures = notebooks.page(path)
        res[f'notebooks/{path.stem}.md'] = LATER + text
        res[f'notebooks/{path.name}'] = path.read_bytes()
        res |= {f'notebooks/{k}': v for k, v in pictures.items()}
    examples = notebooks.FOLDER.parent/'examples' # to which notebooks link
    return res | {f'examples/{p.name}': p.read_bytes() for p in examples.glob('*.py')}


def on_config(config):
    "Put the pages of gallery, notebooks and API into the navigation. Refuses public names without a page."
    lacking = api.missing()
    if lacking: raise PluginError('\n'.join(lacking))
    more = {'Gallery': _of_gallery, 'Notebooks': _of_notebooks, 'API': _of_api}
    for section in config.nav:
        (title, pages), = section.items()
        if title in more: pages += more[title]()
    return config


def _of_gallery() -> list:
    def sections(folder, names, title_of):
        titles = dict.fromkeys(map(title_of, names))
        return [{t: [{k: f'gallery/{folder}/{k}.md'} for k in names if title_of(k) == t]} for t in titles]
    algorithms = sections('algorithms', gallery.algorithms_by_name(), gallery.family)
    parts = sections('parts', gallery.parts_by_name(), gallery.group)
    return [{'Algorithms': ['gallery/algorithms/index.md', *algorithms]},
            {'Parts': ['gallery/parts/index.md', *parts]}]


def _of_notebooks() -> list:
    found = [p for p in notebooks.notebooks() if p.stem != 'index']
    return [{notebooks.title(p): f'notebooks/{p.stem}.md'} for p in found]


def _of_api() -> list:
    families = [{title: f'api/steppers/{k}.md'} for k, title in api.FAMILIES.items()]
    pages = [{title: f'api/{k}.md'} for k, (title, *_) in api.PAGES.items()]
    return [*pages, {'Steppers': ['api/steppers/index.md', *families]}]


@event_priority(100)
def on_files(files, config):
    "Add the generated files."
    for path, content in generated().items(): files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html, page, config, files):
    "Turn formulas into MathML."
    return formulas.in_page(html)


def on_post_page(output, page, config):
    "Refuse a page that would load something from a network."
    found = FROM_NETWORK.search(output)
    if found: raise PluginError(f'{page.file.src_uri} would load something from a network: {found[0]}')
    return output
