"Code blocks of Markdown files: found, run, and compared with what they say that they print."
import re
import textwrap
from pathlib import Path

import pytest

FENCE = re.compile(r'^([ ]*)```(\w+)[^\n]*\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
FRAMEWORK = re.compile(r'^(?:from|import) (lightning|transformers|accelerate)\b', re.MULTILINE)
SAID = re.compile(r'print\(e\) +# (.*?)(?: …|$)', re.MULTILINE) # the beginning of a message


def blocks(text, language) -> list[str]: return [textwrap.dedent(code) for _, known, code in FENCE.findall(text) if known == language]
def languages(text) -> set[str]: return {known for _, known, _ in FENCE.findall(text)}


def run_together(found, name, out):
    "Run blocks one after the other, with common names; `out` returns what was printed. Messages must be as their comments say"
    names = {'__name__': '__main__'}
    for block in found: exec(compile(block, name, 'exec'), names)
    printed = out()
    for message in SAID.findall('\n'.join(found)): assert message in printed, f'{name}: this was not printed: {message}'


def run_apart(found, name):
    "Run blocks each by itself, those of frameworks that are installed"
    for block in found:
        pytest.importorskip(FRAMEWORK.search(block)[1])
        exec(compile(block, name, 'exec'), {})


def pages(folder) -> list[Path]: return sorted(Path(folder).rglob('*.md'))
