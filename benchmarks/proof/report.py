"What a run of the proof has found, as Markdown: a report, and a table for a README."
import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ['newest', 'readme_table', 'report', 'summary']

COPY = 'copy '
TIMES = 'done', 'busy', 'host'


def _items(run, section) -> dict:
    "The items of a section, or of all whose names begin so with a number"
    found = run['sections']
    names = [o for o in found if o == section or o.rstrip('0123456789') == section]
    return {k: v for o in names for k, v in found[o]['items'].items()}


def _form(x, scale=1., form='.3g') -> str: return '–' if x is None else format(x*scale, form)


def _table(head, rows) -> list[str]:
    if not rows: return []
    lines = [head, ['---', *['--:']*(len(head) - 1)], *rows]
    return ['', *('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)]


def _bandwidth(run) -> float|None:
    "Bytes a second of the fastest copy"
    found = _items(run, 'machine').get('bandwidth', {})
    return max((v for k, v in found.items() if k.startswith(COPY)), default=None)


def _speed(run) -> Iterator[dict]:
    "The measurements of each algorithm and set, with what they are over the peer's"
    bandwidth = _bandwidth(run)
    for name, o in _items(run, 'bench').items():
        if 'optimcb' not in o: continue
        we, again = o['optimcb'], o['optimcb again']
        peer = next((k for k in ('torch fused', 'torch', 'torch foreach') if k in o), None)
        they = o.get(peer, {})
        def over(k, we=we, they=they): return we[k]/they[k] if they.get(k) else None
        times = {k: we[k] for k in TIMES} | {f'{k}_over': over(k) for k in TIMES}
        yield times | dict(name=name, peer=peer, spread=abs(again['done']/we['done'] - 1),
                           floor=we['busy']/o['floor'], extra=we.get('extra'),
                           copy=bandwidth and o['bytes']/we['busy']/bandwidth)


def _counted(items) -> tuple[int, int]:
    "How many items are as they must be, of those that could run"
    ran = [v for v in items.values() if 'ok' in v or 'error' in v]
    return sum(v.get('ok') is True for v in ran), len(ran)


CHECKS = dict(agree='comparisons agree and wait for nothing', graphs='checks with CUDA graphs hold',
              amp='checks with a GradScaler hold', lifetime='checks of streams, threads and lifetimes hold',
              sharded='checks with `fully_shard` hold')


def summary(
    run:dict # What was found
) -> list[str]:
    "List the answers in short, a line each."
    lines, found = [], _items(run, 'tests').get('pytest', {})
    if 'ran' in found:
        passed = found['ran'] - len(found['failed'])
        lines.append(f"{passed} of {found['ran']} tests for a GPU pass")
    for section, what in CHECKS.items():
        good, ran = _counted(_items(run, section))
        if ran: lines.append(f'{good} of {ran} {what}')
    if run['dry']: return lines
    for o in _speed(run):
        ratio = _form(o['done_over'], form='.2f')
        over = f"{ratio} × {o['peer']} from idle to done, " if o['done_over'] else ''
        of_copy = f", {_form(o['copy'], 100, '.0f')} % of copy bandwidth" if o['copy'] else ''
        lines.append(f"{o['name']}: {over}host {_form(o['host'], 1e6, '.0f')} µs{of_copy}")
    kernels = {k: v['kernels'] for k, v in _items(run, 'launches').items() if 'kernels' in v}
    if kernels: lines.append('kernels of a step: ' + ', '.join(f'{k} {n}' for k, n in kernels.items()))
    first = {k: v['first'] for k, v in _items(run, 'first').items() if 'first' in v}
    if first: lines.append('first step, s: ' + ', '.join(f'{k} {t:.2f}' for k, t in first.items()))
    return lines + [f'{name}: {line}' for name, line in _accuracies(run).items()]


def _accuracies(run) -> dict[str, str]:
    res = {}
    for name in run['sections']:
        if name.partition('_')[0] not in ('train', 'fastai'): continue
        found = [v for v in _items(run, name).values() if 'accuracy' in v]
        accuracies = ', '.join(f"{v['accuracy']:.1%}" for v in found)
        if found: res[name] = f"{found[0]['data']}, accuracy {accuracies}"
    return res


def report(
    run:dict # What was found
) -> str:
    "Write all that was found as Markdown."
    dry = ' (dry run: tiny, on the CPU; its times mean nothing)' if run['dry'] else ''
    machine = {k: v for k, v in _items(run, 'machine').get('machine', {}).items() if k != 'error'}
    facts = ', '.join(f'{k} {v}' for k, v in machine.items())
    lines = [f"# GPU proof: {run['machine']}, {run['date']}{dry}", '', facts]
    lines += ['', '## In short', '', *(f'- {o}' for o in summary(run)), '', '## Sections', '']
    for name, o in run['sections'].items():
        good, ran = _counted(o['items'])
        checked = f', {good} of {ran} hold' if ran else ''
        lines.append(f"- {name}: {o['status']}, {o['seconds']:.0f} s, {len(o['items'])} items{checked}")
    lines += ['', '## What failed, and what was left out', '', *(_failures(run) or ['Nothing.'])]
    return '\n'.join([*lines, *_speed_tables(run), *_other_tables(run)]) + '\n'


def _failures(run) -> list[str]:
    lines = []
    for section, o in run['sections'].items():
        for name, v in o['items'].items():
            what = {k: v[k] for k in ('error', 'refused', 'skipped', 'waits', 'failed') if v.get(k)}
            text = json.dumps(what or v)[:400]
            if v.get('ok') is False or what: lines.append(f'- {section}, {name}: {text}')
    return lines


def _speed_tables(run) -> list[str]:
    rows = [(o['name'], o['peer'] or '–', _form(o['done'], 1e3), _form(o['done_over'], form='.2f'),
             _form(o['spread'], 100, '.0f'), _form(o['busy'], 1e3), _form(o['busy_over'], form='.2f'),
             _form(o['floor'], form='.2f'), _form(o['copy'], 100, '.0f'), _form(o['host'], 1e6, '.0f'),
             _form(o['host_over'], form='.2f'), _form(o['extra'], 2**-20, '.1f'))
            for o in _speed(run)]
    head = ('', 'peer', 'idle to done, ms', '× peer', '± %', 'device, ms', '× peer', '× floor', '% of copy',
            'host, µs', '× peer', 'extra MiB')
    lines = ['', '## Speed', *_table(head, rows)] if rows else []
    for section in ('zoo', 'sweep'):
        found = {k: v for k, v in _items(run, section).items() if 'optimcb' in v}
        rows = [(k, _form(v['optimcb']['busy'], 1e3), _form(v['optimcb']['busy']/v['floor'], form='.2f'),
                 _form(v['optimcb']['host'], 1e6, '.0f')) for k, v in found.items()]
        head = ('', 'device, ms', '× floor', 'host, µs')
        if rows: lines += ['', f'## {section.capitalize()}', *_table(head, rows)]
    return lines


# Of a section: unit, factor, format, and columns
COLUMNS = dict(
    host=('µs', 1e6, '.1f', ('same', 'new', 'step', 'plan', 'prepare', 'start')),
    first=('s', 1, '.3f', ('import_torch', 'import_optimcb', 'device', 'first', 'second', 'third')),
    launches=('', 1, '.0f', ('kernels', 'copies')),
    graphs=('µs', 1e6, '.1f', ('step', 'step_host', 'replay', 'replay_host')))


def _other_tables(run) -> list[str]:
    lines = []
    for section, (unit, scale, form, names) in COLUMNS.items():
        found = {k: v for k, v in _items(run, section).items() if any(o in v for o in names)}
        rows = [(k, *(_form(v.get(o), scale, form) for o in names)) for k, v in found.items()]
        title = f"## {section.capitalize()}{f', {unit}' if unit else ''}"
        if rows: lines += ['', title, *_table(('', *names), rows)]
    trained = {f'{name}, {k}': v for name in _accuracies(run) for k, v in _items(run, name).items()}
    rows = [(k, _form(v['lr']), _form(v['train_loss'], form='.4f'), _form(v['valid_loss'], form='.4f'),
             f"{v['accuracy']:.1%}", _form(v['seconds'], form='.0f'))
            for k, v in trained.items() if 'accuracy' in v]
    head = ('', 'lr', 'train loss', 'valid loss', 'accuracy', 'seconds')
    return lines + (['', '## Training', *_table(head, rows)] if rows else [])


# For a README

def newest(
    folder:Path # Results of several runs
) -> dict|None:
    "Return the newest run that isn't a dry one, or None."
    runs = [json.loads(o.read_text()) for o in folder.glob('gpu-*.json')]
    return max((o for o in runs if not o['dry']), key=lambda o: o['date'], default=None)


def readme_table(
    run:dict|None # Result of `newest`
) -> str:
    "Write what a README shows of a run: the machine, the speed of steps, accuracies."
    if run is None: return 'Not measured on a GPU yet.'
    def over(o): return f"{_form(o['done_over'], form='.2f')} × {o['peer']}" if o['peer'] else '–'
    rows = [(o['name'], _form(o['done'], 1e3), over(o), _form(o['copy'], 100, '.0f'),
             _form(o['host'], 1e6, '.0f'))
            for o in _speed(run)]
    head = ('step', 'idle to done, ms', 'over', '% of copy bandwidth', 'host, µs')
    accuracies = [f'- {k}: {v}' for k, v in _accuracies(run).items()]
    if accuracies: accuracies.insert(0, '')
    return '\n'.join([f"{run['machine']}, {run['date']}:", *_table(head, rows), *accuracies])
