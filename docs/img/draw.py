"""Draw the README's pictures: `python docs/img/draw.py`, from the root of a clone.

The panel is what a notebook shows of an optimizer, photographed by Chromium (`chromium` or `google-chrome` on
the path)."""
import base64
import io
import re
import shutil
import subprocess
from functools import partial
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.mathtext import math_to_image
from PIL import Image, ImageChops

from optimcb import SGD, Adam, Adan, Lion, NAdam, animate_paths

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 860, 1600, 16 # of the panel in pixels, before it is cropped
PAGE = '<html><body style="font: 15px sans-serif; margin: {}px; background: white">{}</body></html>'
EXAMPLE = re.search(r'```python\n(.*?)```', (HERE.parent.parent/'README.md').read_text(), re.DOTALL)[1]
ALIGNED = re.compile(r'\$\$\s*\\begin{aligned}(.*?)\\end{aligned}\s*\$\$', re.DOTALL)
INLINE = re.compile(r'\\\((.*?)\\\)')


def panel():
    "Photograph what a notebook shows of the README's optimizer, after a step."
    example = {}
    exec(EXAMPLE, example)
    model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.Linear(20, 1))
    opt = example['Momentum'](model.parameters(), lr=0.1, mom=0.95)
    model(torch.randn(64, 10)).pow(2).mean().backward()
    opt.step()
    with TemporaryDirectory() as folder:
        page, picture = Path(folder)/'page.html', Path(folder)/'page.png'
        page.write_text(PAGE.format(MARGIN, _typeset(opt._repr_html_())), encoding='utf-8')
        browser = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))))
        options = ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars']
        size, target = f'--window-size={WIDTH},{HEIGHT}', f'--screenshot={picture}'
        subprocess.run([browser, *options, size, target, page.as_uri()], check=True, capture_output=True)
        _cropped(Image.open(picture).convert('RGB')).quantize(64).save(HERE/'panel.png', optimize=True)


def _typeset(html) -> str:
    "Set formulas, as a notebook does: a browser alone doesn't"
    html = ALIGNED.sub(lambda m: _lines(m[1]), html)
    return INLINE.sub(lambda m: _formula(m[1]), html)


def _lines(latex) -> str:
    return ''.join(f'<div style="margin: 6px">{_formula(line)}</div>' for line in latex.split(r'\\'))


def _formula(latex) -> str:
    svg = io.BytesIO()
    shown = unescape(latex).replace('&', '').strip() # without marks of alignment
    math_to_image(f'${shown}$', svg, dpi=72, format='svg')
    data = base64.b64encode(svg.getvalue()).decode()
    return f'<img style="vertical-align: middle" src="data:image/svg+xml;base64,{data}">'


def _cropped(picture) -> Image.Image:
    "Without the white below and beside what is shown"
    white = Image.new('RGB', picture.size, 'white')
    left, top, right, bottom = ImageChops.difference(picture, white).getbbox()
    return picture.crop((0, 0, min(right + MARGIN, WIDTH), bottom + MARGIN))


def paths():
    "Animate the paths of five optimizers on Rosenbrock's function."
    makes = {'SGD': partial(SGD, lr=1e-3, mom=0.9), 'Adam': partial(Adam, lr=0.1),
             'NAdam': partial(NAdam, lr=0.1), 'Adan': partial(Adan, lr=0.1), 'Lion': partial(Lion, lr=0.02)}
    moving = animate_paths(makes, 'rosenbrock', steps=200, every=8, figsize=(6, 3.5))
    moving.save(HERE/'paths.gif', writer='pillow')


if __name__ == '__main__':
    panel()
    paths()
