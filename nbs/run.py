"""Run notebooks from their first cell to their last, and keep what they show: `python nbs/run.py api 04_engines`; without names, all.

`python nbs/run.py --cells api` first writes the cells of `api.ipynb`: one for each public name that has none, after its neighbour in `__all__`.
"""
import argparse
import json
import re
import sys
from pathlib import Path

from jupyter_client.manager import start_new_kernel
from nbdev.clean import nbdev_clean

import optimcb

HERE = Path(__file__).parent
TEXT = re.compile('text/|image/svg')
COLOR = re.compile(r'\x1b\[[\d;]*m')


def lines(text): return text.splitlines(keepends=True)


class Outputs(list):
    "The outputs of a cell, as a notebook keeps them."
    def take(self, message):
        "Take in what a kernel says."
        kind, content = message['header']['msg_type'], message['content']
        if kind == 'clear_output': self.clear()
        elif kind == 'stream': self.stream(content['name'], content['text'])
        elif kind == 'error': self.append({'output_type': kind, **content})
        elif kind in ('display_data', 'execute_result', 'update_display_data'): self.display(kind, content)

    def stream(self, name, text):
        last = self[-1] if self else {}
        if last.get('name') == name: last['text'] = lines(''.join(last['text']) + text)
        else: self.append({'output_type': 'stream', 'name': name, 'text': lines(text)})

    def display(self, kind, content):
        data = {k: lines(v) if TEXT.match(k) else v for k, v in content['data'].items()}
        new = {'data': data, 'metadata': content['metadata'], 'id': content.get('transient', {}).get('display_id')}
        if kind == 'update_display_data':
            for o in self:
                if o.get('id') == new['id']: o.update(new)
        else: self.append({'output_type': kind, **new})

    def kept(self):
        "What goes into the file"
        for o in self:
            o.pop('id', None)
            if o['output_type'] == 'execute_result': o['execution_count'] = None
        return list(self)


def run(path):
    "Run a notebook, and write what it shows into it. Raises `RuntimeError` for a cell that fails, and writes nothing then."
    nb = json.loads(path.read_text())
    manager, client = start_new_kernel(cwd=path.parent)
    try:
        for cell in nb['cells']:
            if cell['cell_type'] != 'code': continue
            outputs = Outputs()
            client.execute_interactive(''.join(cell['source']), output_hook=outputs.take, allow_stdin=False)
            cell['outputs'] = outputs.kept()
            failed = [o for o in outputs if o['output_type'] == 'error']
            if failed: raise RuntimeError(f'{path.name}: ' + COLOR.sub('', '\n'.join(failed[0]['traceback'])))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    write(nb, path)


def write(nb, path):
    "Write a notebook, clean"
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n')
    nbdev_clean(path)


def write_cells(path):
    "Let the API's notebook have a cell for each public name, and none for a name that it doesn't import any more."
    nb, names = json.loads(path.read_text()), {}
    imports = next(c for c in nb['cells'] if c['cell_type'] == 'code')
    exec(''.join(imports['source']), names)
    for public in (optimcb.__all__, optimcb.steppers.__all__):
        for before, name in zip([None, *public], public):
            known = [shown(c) for c in nb['cells']]
            if name in known: continue
            place = known.index(before) + 1 if before in known else len(known)
            nb['cells'].insert(place, cell(name))
    nb['cells'] = [c for c in nb['cells'] if shown(c) is None or shown(c) in names]
    write(nb, path)


def shown(cell):
    "The name that a cell of the API shows, if it does"
    found = re.fullmatch(r'show_doc\((\w+)\)', ''.join(cell['source']))
    return found and found[1]


def cell(name):
    return {'cell_type': 'code', 'execution_count': None, 'metadata': {}, 'outputs': [], 'source': [f'show_doc({name})']}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help="of notebooks, without `.ipynb`")
    parser.add_argument('--cells', action='store_true', help="write the API's cells first")
    args = parser.parse_args()
    if args.cells: write_cells(HERE/'api.ipynb')
    for name in args.names or sorted(p.stem for p in HERE.glob('*.ipynb')):
        print(name, flush=True)
        run(HERE/f'{name}.ipynb')


if __name__ == '__main__': sys.exit(main())
