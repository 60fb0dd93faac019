"""Notebooks as pages: their text, code and outputs, as they are kept.

They become Markdown, so that they get the site's colours, search, table of contents and checks of links."""
import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from formulas import in_output

FOLDER = Path(__file__).parents[2]/'nbs'
NOT_HERE = {'api'} # the site has pages of the API
LINK = re.compile(r'\]\((\w+)\.ipynb(#[^)]*)?\)')
STYLESHEET = re.compile(r'<link rel="stylesheet"[^>]*>') # of an icon font, from a network
ICONS = { # of an animation's buttons
    'minus': '−', 'fast-backward': '|◀', 'step-backward': '‹', 'play fa-flip-horizontal': '◀', 'pause': '||',
    'play': '▶', 'step-forward': '›', 'fast-forward': '▶|', 'plus': '+'}


def notebooks() -> list[Path]:
    "Return the notebooks that become pages."
    return [p for p in sorted(FOLDER.glob('*.ipynb')) if p.stem not in NOT_HERE]


@cache
def cells(
    path:Path # A notebook
) -> list[dict]:
    "Read the cells of a notebook."
    return json.loads(path.read_text())['cells']


def title(
    path:Path # A notebook
) -> str:
    "Return the heading of a notebook."
    return ''.join(cells(path)[0]['source']).partition('\n')[0].removeprefix('# ')


def page(
    path:Path # A notebook
) -> tuple[str, dict[str, bytes]]:
    "Return a notebook as Markdown, and its pictures by file name."
    pictures, out = {}, []
    for i, cell in enumerate(cells(path)):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': out.append(_text(source))
        elif cell['cell_type'] == 'code':
            if source.strip(): out.append(_fenced(source, 'python'))
            for j, output in enumerate(cell['outputs']):
                name = f'{path.stem}_{i}_{j}'
                out += _shown(output, name, pictures)
    about = f'[Open the notebook]({path.name}){{ .notebook download="{path.name}" }}'
    out.insert(1, about)
    return '\n\n'.join(out) + '\n', pictures


def _text(source) -> str:
    def linked(m): return f"]({'../api/index.md' if m[1] in NOT_HERE else m[1] + '.md'}{m[2] or ''})"
    return LINK.sub(linked, source)


def _fenced(text, language) -> str:
    fence = '````' if '```' in text else '```'
    return f'{fence}{language}\n{text.rstrip()}\n{fence}'


def _shown(output, name, pictures) -> Iterator[str]:
    "Yield the Markdown of one output, and put its picture into `pictures`"
    data = {k: ''.join(v) for k, v in output.get('data', {}).items()}
    if output['output_type'] == 'stream': yield _box(_fenced(''.join(output['text']), 'text'))
    elif 'image/png' in data:
        pictures[f'{name}.png'] = base64.b64decode(data['image/png'])
        yield f'![{_plain(data)}]({name}.png){{ .figure }}'
    elif 'text/html' in data: yield f'<div class="output rich">\n{_html(data["text/html"])}\n</div>'
    elif 'text/latex' in data:
        latex = data['text/latex'].strip().strip('$').strip()
        yield _box(f'$$\n{latex}\n$$')
    elif 'text/markdown' in data: yield _box(data['text/markdown'])
    elif 'text/plain' in data: yield _box(_fenced(data['text/plain'], 'text'))


def _box(markdown) -> str: return f'<div class="output" markdown>\n\n{markdown}\n\n</div>'


def _plain(data) -> str:
    "Describe a picture for those who don't see it"
    said = data.get('text/plain', '')
    return 'Figure' if not said or said.startswith('<') else said.splitlines()[0].strip('[]')


def _html(text) -> str:
    "Return HTML that needs no network, and has no blank line, which would end it in Markdown"
    text = STYLESHEET.sub('', text)
    for icon, sign in ICONS.items(): text = text.replace(f'<i class="fa fa-{icon}"></i>', sign)
    if '<script' in text: return re.sub(r'\n\s*\n', '\n', text)
    return re.sub(r'\n\s*\n', '\n', in_output(text))
