"""Hooks of MkDocs: they add the pages that are generated, turn formulas into MathML, and check what was built."""
import re
import sys
from functools import cache
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)] if str(Path(__file__).parent) not in sys.path else []

import api  # noqa: E402
import formulas  # noqa: E402
import gallery  # noqa: E402
import notebooks  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.plugins import event_priority  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402

NETWORK = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="https?://|<link\b(?![^>]*rel="(?:canonical|alternate)")[^>]*href="https?://')


@cache
def generated() -> dict[str, str|bytes]:
    "Return all files that are made when the site is built, by path."
    res = {**dict(gallery.pages()), **dict(api.pages())}
    for path in notebooks.notebooks():
        text, pictures = notebooks.page(path)
        res[f'notebooks/{path.stem}.md'] = text
        res |= {f'notebooks/{k}': v for k, v in pictures.items()}
        res[f'notebooks/{path.name}'] = path.read_bytes()
    return res


def on_config(config):
    "Put the pages of gallery, notebooks and API into the navigation."
    lacking = api.missing()
    if lacking: raise PluginError('\n'.join(lacking))
    for section in config.nav:
        (title, pages), = section.items()
        if title == 'Gallery': pages += [_of_gallery('Algorithms', 'algorithms', gallery.by_name(), gallery.family, gallery.FAMILIES),
                                         _of_gallery('Parts', 'parts', gallery.parts_by_name(), gallery.group, gallery.GROUPS)]
        if title == 'Notebooks': pages += [{notebooks.title(p): f'notebooks/{p.stem}.md'} for p in notebooks.notebooks() if p.stem != 'index']
        if title == 'API': pages += [*({o[0]: f'api/{k}.md'} for k, o in api.PAGES.items()),
                                     {'Steppers': ['api/steppers/index.md', *({o: f'api/steppers/{k}.md'} for k, o in api.FAMILIES.items())]}]
    return config


def _of_gallery(title, folder, names, group_of, groups) -> dict:
    sections = {o: [k for k in names if group_of(k) == o] for o in dict.fromkeys(groups.values())}
    inner = [{o: [{k: f'gallery/{folder}/{k}.md'} for k in found]} for o, found in sections.items()]
    return {title: [f'gallery/{folder}/index.md', *inner]}


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
    found = NETWORK.search(output)
    if found: raise PluginError(f'{page.file.src_uri} would load something from a network: {found[0]}')
    return output
