"""Ask all that is to be known of the library on a GPU, in one command.

    python benchmarks/gpu_proof.py                          # ten minutes on a machine with a GPU
    python benchmarks/gpu_proof.py --only bench host        # some sections
    python benchmarks/gpu_proof.py --dry                    # every section on the CPU, tiny
    python benchmarks/gpu_proof.py --report results.json    # write a report again

Each section is a process with a limit of its own, and writes its results as they come: a crash, a hang or a
spoilt CUDA context costs one item. A report in Markdown and JSON is rewritten after each section, in
`benchmarks/results` under the machine's name. Correctness comes first, several sections at a time; what is
measured runs alone; training comes last. Nothing is installed: `--wheels` names a folder of pure wheels (of
fastai, say) for a machine without a network.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
OPTIMIZERS = 'sgd', 'momentum', 'rmsprop', 'adam'
SHARDS = 6
# Seconds at most, and when: with others that are 'correct'ness, 'alone', 'train'ing, or only on 'request'
PLAN = {
    'machine': (60, 'alone'),
    'tests': (170, 'correct'), **{f'agree{i}': (150, 'correct') for i in range(SHARDS)},
    'graphs': (110, 'correct'), 'amp': (80, 'correct'),
    'lifetime': (80, 'correct'), 'sharded': (80, 'correct'),
    'bench': (120, 'alone'), 'host': (60, 'alone'), 'launches': (40, 'alone'), 'first': (60, 'alone'),
    'zoo': (50, 'alone'), **{f'train_{o}': (190, 'train') for o in OPTIMIZERS},
    'sweep': (120, 'request'), 'counters': (60, 'request'), 'sanitizer': (120, 'request'),
    **{f'fastai_{o}': (190, 'request') for o in OPTIMIZERS}}
NOT_DRY = {f'agree{i}' for i in range(2, SHARDS)} | {f'train_{o}' for o in OPTIMIZERS[:-1]}
RESERVED = 150 # seconds that are kept for training
MOST_TRIES = 6 # of a section whose process ends in an item


def arguments(argv=None):
    "Parse the command line."
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--out', type=Path,
                   help='folder of the report (default: benchmarks/results; of a dry run, a new one)')
    p.add_argument('--budget', type=float, default=560, help='seconds in all')
    some = dict(nargs='+', default=[], metavar='SECTION')
    p.add_argument('--only', **some, help=f"of {', '.join(PLAN)}, or how several begin")
    p.add_argument('--skip', **some, help='the same')
    p.add_argument('--data', help="Imagenette, a folder or packed (default: scikit-learn's digits)")
    p.add_argument('--wheels', type=Path, help='folder of wheels that the machine lacks')
    p.add_argument('--epochs', type=int, default=5, help='of training')
    p.add_argument('--seeds', type=int, nargs='+', default=[42], help='of training')
    p.add_argument('--dry', action='store_true', help='on the CPU, tiny')
    p.add_argument('--report', type=Path, metavar='JSON', help='only write the report of these results')
    p.add_argument('--section', help=argparse.SUPPRESS)
    p.add_argument('--work', type=Path, help=argparse.SUPPRESS)
    p.add_argument('--seconds', type=float, help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    unknown = [o for o in (*a.only, *a.skip) if not any(name.startswith(o) for name in PLAN)]
    if unknown: p.error(f"there is no section {unknown[0]!r}. There are {', '.join(PLAN)}.")
    a.repo = REPO
    return a


def wanted(a) -> list[str]:
    "List the sections of a run."
    def is_named(name, names): return any(name == o or o not in PLAN and name.startswith(o) for o in names)
    usual = [o for o in PLAN if PLAN[o][1] != 'request' and not (a.dry and o in NOT_DRY)]
    names = [o for o in PLAN if is_named(o, a.only)] if a.only else usual
    return [o for o in names if not is_named(o, a.skip)]


# In the process of a section

def run_section(a):
    "Run one section in this process."
    from proof import agreement, device, graphs, loops, machine, speed
    from proof.results import Results
    def end(*args):
        for pid in list(device.CHILDREN): os.killpg(pid, signal.SIGKILL)
        os._exit(4)
    signal.signal(signal.SIGTERM, end)
    sections = dict(machine=machine.machine, tests=machine.tests, graphs=graphs.graphs, amp=loops.amp,
                    lifetime=loops.lifetime, sharded=loops.sharded, bench=speed.bench, host=machine.host,
                    launches=speed.launches, first=machine.first, zoo=speed.zoo, sweep=speed.sweep,
                    counters=machine.counters, sanitizer=machine.sanitizer)
    sections |= {f'agree{i}': partial(agreement.agree, i, SHARDS) for i in range(SHARDS)}
    for o in OPTIMIZERS:
        for prefix, whose in dict(train='optimcb', fastai='fastai').items():
            sections[f'{prefix}_{o}'] = partial(machine.train, o, whose)
    results = Results(a.work/f'{a.section}.json')
    sections[a.section](results, device.Device(a.dry), a)


# In the process that runs them

class Section:
    "A section that runs in a process of its own."
    def __init__(self, name, a, seconds):
        self.name, self.a, self.start, self.end, self.tries = name, a, time.time(), time.time() + seconds, 0
        self.known = -1 # number of items when it ended last
        self.begin()

    def begin(self):
        "Start the process."
        self.tries += 1
        command = [sys.executable, str(Path(__file__)), '--section', self.name, '--work', str(self.a.work)]
        command += ['--seconds', str(self.end - time.time()), '--epochs', str(self.a.epochs)]
        command += ['--seeds', *map(str, self.a.seeds)]
        if self.a.dry: command.append('--dry')
        if self.a.data: command += ['--data', self.a.data]
        with (self.a.work/f'{self.name}.log').open('a') as log:
            output = dict(stdout=log, stderr=subprocess.STDOUT)
            self.process = subprocess.Popen(command, start_new_session=True, **output)

    def status(self) -> str|None:
        """Return how it ended, or None while it runs.

        After an item that ended the process, a new one goes on with the next item."""
        code = self.process.poll()
        if code is None and time.time() < self.end: return None
        if code is None:
            self._kill()
            return 'out of time'
        if code == 0: return 'done'
        if self.tries < MOST_TRIES and self.end - time.time() > 10 and self._has_moved():
            self.begin()
            return None
        return f'failed (exit {code})'

    def _has_moved(self) -> bool:
        from proof.results import read
        before, self.known = self.known, len(read(self.a.work/f'{self.name}.json', ''))
        return self.known > before

    def _kill(self):
        for sign, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 10)):
            if self.process.poll() is not None: return
            os.killpg(self.process.pid, sign)
            try: self.process.wait(seconds)
            except subprocess.TimeoutExpired: pass

    def found(self, status) -> dict:
        "Return its results, and the end of its output if it failed."
        from proof.results import read
        log = (self.a.work/f'{self.name}.log').read_text(errors='replace')
        items = read(self.a.work/f'{self.name}.json', status)
        tail = '' if status == 'done' else log[-2500:]
        return dict(status=status, seconds=time.time() - self.start, items=items, log=tail)


def run_together(names, a, run, until):
    "Run sections side by side, and write the report after each."
    running = [Section(o, a, min(PLAN[o][0]*(3 if a.dry else 1), until - time.time())) for o in names]
    while running:
        time.sleep(0.1)
        for o in list(running):
            status = o.status()
            if status is None: continue
            running.remove(o)
            run['sections'][o.name] = o.found(status)
            write(run, a.out)
            print(f"[{time.time() - a.begun:4.0f} s] {o.name}: {status}", flush=True)


def write(run, out) -> Path:
    "Write results and report under the machine's name. Returns the path of the results."
    from proof.report import report
    found = run['sections'].get('machine', {}).get('items', {}).get('machine', {})
    run['machine'] = found.get('name', 'unknown')
    name = re.sub(r'\W+', '-', f"{'dry' if run['dry'] else 'gpu'}-{run['machine']}-{run['date']}".lower())
    path = out/f'{name}.json'
    for suffix, text in (('.json', json.dumps(run, indent=1)), ('.md', report(run))):
        path.with_suffix(suffix).write_text(text)
    return path


def prepare(a):
    "Make the folder of a run: wheels, data, caches; set what all processes find in their environment."
    a.work = Path(tempfile.mkdtemp(prefix='gpu_proof_'))
    a.out = a.out or (Path(tempfile.mkdtemp(prefix='gpu_report_')) if a.dry else HERE/'results')
    a.out.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(a.wheels.glob('*.whl')) if a.wheels else ():
        with zipfile.ZipFile(wheel) as z: z.extractall(a.work/'site')
    if a.data and Path(a.data).is_file():
        with tarfile.open(a.data) as t: t.extractall(a.work/'data', filter='data')
        a.data = str(next(o for o in (a.work/'data').iterdir() if o.is_dir()))
    folders = [REPO, HERE, REPO/'tests', a.work/'site', os.environ.get('PYTHONPATH')]
    os.environ |= dict(
        PYTHONPATH=os.pathsep.join(str(o) for o in folders if o), PYTHONDONTWRITEBYTECODE='1',
        PYTHONUNBUFFERED='1', TRITON_CACHE_DIR=str(a.work/'triton'), OPTIMCB_CACHE_DIR=str(a.work/'optimcb'),
        MPLBACKEND='Agg', KINETO_LOG_LEVEL='99', OMP_NUM_THREADS='1' if a.dry else '4')


def run_all(a) -> dict:
    "Run all sections that there is time for."
    names, end = wanted(a), a.begun + a.budget
    run = dict(date=time.strftime('%Y-%m-%d'), dry=a.dry, machine='unknown', sections={})
    def of(kind): return [o for o in names if PLAN[o][1] == kind]
    until = end - (min(RESERVED, a.budget/3) if of('train') else 0)
    if a.dry: steps = [(names[i:i + 2], end) for i in range(0, len(names), 2)] # nothing is measured
    else:
        first, *measured = [[o] for o in of('alone')] or [[]]
        steps = [(o, until) for o in (first, of('correct'), *measured)]
        steps += [(o, end) for o in (of('train'), *([o] for o in of('request')))]
    for together, limit in steps:
        if limit - time.time() > 10: run_together(together, a, run, limit)
        else:
            left_out = dict(status='no time left', seconds=0, items={}, log='')
            run['sections'] |= dict.fromkeys(together, left_out)
    run['sections'] = {o: run['sections'][o] for o in PLAN if o in run['sections']}
    return run


def main(argv=None):
    "Run the proof. Returns 1 if a section or a check failed, else 0."
    sys.path[:0] = [str(REPO), str(HERE)]
    a = arguments(argv)
    if a.section: return run_section(a)
    from proof.report import report, summary
    if a.report: return print(report(json.loads(a.report.read_text())))
    a.begun = time.time()
    prepare(a)
    run = run_all(a)
    path = write(run, a.out)
    (a.out/f'{path.stem}.log').write_text(logs(a.work))
    print('\n'.join(f'- {o}' for o in summary(run)))
    bad = [f'{name}: {o["status"]}' for name, o in run['sections'].items() if o['status'] != 'done']
    bad += [f'{name}, {k}: {v}' for name, o in run['sections'].items() for k, v in o['items'].items()
            if 'error' in v or v.get('ok') is False]
    for o in bad: print(f'NOT GOOD: {o}')
    print(f'{time.time() - a.begun:.0f} s in all. The report is in {path.with_suffix(".md")}')
    shutil.rmtree(a.work, ignore_errors=True)
    return int(bool(bad))


def logs(work) -> str:
    "Join the output of all sections."
    files = sorted(work.glob('*.log'))
    return '\n'.join(f'=== {o.stem}\n{o.read_text(errors="replace")[-60000:]}' for o in files)


if __name__ == '__main__': sys.exit(main())
