"The code of Markdown pages, as a reader runs it: the blocks of a page one after the other, in one session."
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ALONE = re.compile(r'^(?:from|import) (?:lightning|transformers|accelerate)\b', re.MULTILINE) # such blocks are whole scripts


class Script(NamedTuple):
    "Blocks of a page that a reader runs in one session."
    page: Path
    blocks: list[str]

    @property
    def code(self) -> str: return '\n'.join(self.blocks)

    @property
    def modules(self) -> list[str]:
        "The modules that it needs: those that it imports, and safetensors for files of that name."
        imported = re.findall(r'^(?:from|import) (\w+)', self.code, re.MULTILINE)
        return list(dict.fromkeys(imported + ['safetensors']*('.safetensors' in self.code)))

    @property
    def messages(self) -> list[str]:
        "What it says that errors say: the comment beside `print(e)`, up to an ellipsis."
        return re.findall(r'print\(e\)  # (.*?)(?: …|$)', self.code, re.MULTILINE)

    def run(self):
        "Run the blocks in one namespace."
        names = {}
        for block in self.blocks: exec(compile(block, self.page.name, 'exec'), names)


def blocks(
    page:Path, # A Markdown file
    language:str='python'
) -> list[str]:
    "The code blocks of a page in a language."
    found = re.findall(rf'^```{language}\n(.*?)^```$', page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == page.read_text().count(f'```{language}'), f'{page.name} has a block that is not at the start of a line, or not closed'
    return found


def scripts(
    page:Path # A Markdown file
) -> list[Script]:
    "The sessions of a page: one of all its blocks, but for those that are whole scripts."
    found = blocks(page)
    alone, together = [b for b in found if ALONE.search(b)], [b for b in found if not ALONE.search(b)]
    return [Script(page, o) for o in [together, *([b] for b in alone)] if o]


def links(
    page:Path # A Markdown file
) -> list[str]:
    "The targets of its links and pictures within the repository, without anchors."
    found = re.findall(r'\]\((?!https?:)(.*?)\)|<img [^>]*?src="(?!https?:)(.*?)"', page.read_text())
    return [(a or b).partition('#')[0] for a, b in found]
