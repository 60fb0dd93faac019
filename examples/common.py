"What the examples share: optimizers by name, options, the comparison itself, its table and its curves."
import argparse
import difflib
import math
import sys
import warnings
from functools import partial, wraps
from importlib import import_module
from pathlib import Path

import optimcb
from optimcb import SGD, AdamW, Algorithm, l2_reg
from optimcb.compare import compare, estimate_seconds
from optimcb.compare.runs_file import OtherRuns

# Every algorithm under its name in small letters. `adam_l2` is `adamw` but for the decay.
OPTS = {k.lower(): o for k, o in vars(optimcb).items() if isinstance(o, Algorithm)}
OPTS |= {'momentum': partial(SGD, mom=0.9), 'ranger': optimcb.ranger,
         'adam_l2': AdamW.wrap(l2_reg)}
PLOTS = '.png', '.svg', '.pdf'
SEARCH_SEED = 1_000_003 # decays are chosen with a seed that no result comes from


class Wrong(Exception):
    "Something that the user has to change"


def stop(message): raise Wrong(message)


def need(*modules):
    "Import what the example needs, or say how to install it"
    for name in modules:
        try: import_module(name)
        except ImportError as e: stop(f"{e}. Install what it needs: pip install 'optimcb[fastai]'.")


def one_line_errors(main):
    "Decorate the main function of an example, so that what the user has to change is said in one line"
    @wraps(main)
    def call(argv=None):
        name = Path(main.__code__.co_filename).name
        warnings.filterwarnings('ignore', category=FutureWarning) # of torch, for what fastai calls
        try: return main(argv)
        except Wrong as e: sys.exit(f'{name}: {" ".join(str(e).split())}')
        except KeyboardInterrupt: sys.exit(f'{name}: interrupted; no run was done.')
    return call


# Options

def parser(doc, opts, epochs, seeds, plot):
    "A parser with the options that all examples have, and these defaults"
    p = argparse.ArgumentParser(description=doc.split('\n')[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument('--opts', nargs='+', default=opts, metavar='OPT',
                   help=f"optimizers, of {', '.join(sorted(OPTS))}")
    p.add_argument('--epochs', type=int, default=epochs, help='epochs of each run')
    p.add_argument('--seeds', type=int, default=seeds, help='runs of each optimizer, with a seed each')
    p.add_argument('--seed', type=int, default=42, help='the first seed of weights, batches and augmentation')
    p.add_argument('--lr', default='auto',
                   help="top learning rate: a number; 'find' for lr_find; 'auto' for each optimizer's own")
    p.add_argument('--wd', default='auto',
                   help="weight decay: a number; 'find' for a small search; 'auto' for each optimizer's own")
    p.add_argument('--plot', type=Path, default=Path(plot), help='where the plot goes')
    p.add_argument('--json', type=Path, help='file to keep finished runs in (default: none)')
    p.add_argument('--resume', action='store_true', help='go on from the finished runs in the --json file')
    return p


def check_options(a):
    "Check the options that all examples have, and turn numbers into numbers"
    for o in a.opts:
        if o in OPTS: continue
        near = difflib.get_close_matches(o, OPTS, n=1)
        meant = f' Did you mean {near[0]}?' if near else ''
        stop(f"there is no optimizer '{o}'.{meant} There are {', '.join(sorted(OPTS))}.")
    if len(set(a.opts)) < len(a.opts): stop(f"--opts names an optimizer twice: {' '.join(a.opts)}.")
    a.lr = _number('--lr', a.lr, above=0)
    a.wd = _number('--wd', a.wd)
    for k in ('epochs', 'seeds', 'bs', 'size'):
        value = getattr(a, k, None)
        if value is not None and value < 1: stop(f"--{k} must be 1 or more, not {value}.")
    _check_place('--plot', a.plot, 'the plot')
    if a.plot.suffix not in PLOTS: stop(f"--plot must end in one of {', '.join(PLOTS)}, but is '{a.plot}'.")
    if a.json is None:
        if a.resume: stop("--resume goes on from a file of finished runs. Name it with --json.")
        return
    _check_place('--json', a.json, 'finished runs')
    if a.json.exists() and not a.resume:
        stop(f"'{a.json}' is there already. Go on from it with --resume, or name another file with --json.")


def _number(option, value, above=None):
    if value in ('auto', 'find'): return value
    try: number = float(value)
    except ValueError: stop(f"{option} must be a number, 'find' or 'auto', not '{value}'.")
    if number < 0 or number == above or not number < math.inf:
        least = '0 or more' if above is None else 'more than 0'
        stop(f"{option} must be {least} and finite, not {value}.")
    return number


def _check_place(option, path, what):
    if not path.parent.is_dir(): stop(f"there is no folder '{path.parent}' for {what}.")
    if path.is_dir(): stop(f"{option} must end in a file's name, but '{path}' is a folder.")


# The comparison

def choices(a, lrs, lr=None, make_learner=None) -> dict:
    "For each optimizer its function and arguments of the fit: `lr`, from `lrs` if 'auto', and `wd`"
    found = {}
    for name in a.opts:
        rate = a.lr if isinstance(a.lr, float) else lrs.get(name, lr)
        if a.lr == 'find': rate = _find_lr(make_learner, OPTS[name], a.seed)
        found[name] = OPTS[name], {'lr': rate, 'wd': a.wd if isinstance(a.wd, float) else None}
    return found


def _find_lr(make_learner, opt_func, seed):
    from fastai.callback.schedule import no_random
    with no_random(seed):
        learn = make_learner(opt_func)
        with learn.no_bar(), learn.no_logging(): return learn.lr_find(show_plot=False).valley


def decay_of(name, opt_func):
    "'l2' where decay is in the unit of gradients, as in SGD; 'decoupled' where it isn't"
    while not hasattr(opt_func, 'composition') and isinstance(opt_func, partial): opt_func = opt_func.func
    of_sgd = name.split()[0] in ('sgd', 'momentum')
    labels = getattr(getattr(opt_func, 'composition', None), 'labels', ())
    return 'l2' if of_sgd or 'l2_reg' in labels else 'decoupled'


def find_wds(a, make_learner, opts, fit, wds, metric, above=True) -> dict:
    """Choose each optimizer's decay from `wds['l2']` or `wds['decoupled']` by training with each once.

    The seed is one that no result comes from. Returns `opts` with the decays."""
    tried = {}
    for name, (f, kwargs) in opts.items():
        tried |= {f'{name}, wd {wd:g}': (f, {**kwargs, 'wd': wd}) for wd in wds[decay_of(name, f)]}
    c = run(a, make_learner, tried, fit, 'search of the decay: ', [SEARCH_SEED], '.search')
    best = {}
    for name, (f, _) in opts.items():
        mine = [k for k in c.losses if k.split(', wd ')[0] == name]
        values = c.table.loc[mine, metric].dropna()
        if not len(values): stop(f"{name} diverges with each decay. Lower --lr.")
        best[name] = f, tried[values.idxmax() if above else values.idxmin()][1]
    print('\nbest decay: ' + ', '.join(f"{k} {kwargs['wd']:g}" for k, (_, kwargs) in best.items()))
    return best


def run(a, make_learner, opts, fit, what='', seeds=None, suffix='', figures=None):
    "Say how long it will take, then compare. Interrupted by Ctrl-C, return what is done (but of a search)"
    seeds = seeds or range(a.seed, a.seed + a.seeds)
    f = next(iter(opts.values()))[0]
    n_runs = len(opts)*len(seeds)
    seconds = estimate_seconds(make_learner, f, a.epochs, n_runs)
    most = 'up to' if a.resume else 'about'
    runs = f"{counted(n_runs, 'run')} of {counted(a.epochs, 'epoch')}"
    print(f'\n{what}{runs}, {most} {spoken(seconds)}', flush=True)
    file = a.json and a.json.with_suffix(suffix + a.json.suffix)
    left_out = 'opts schedules seeds lr wd epochs json resume plot workers target interrupted'.split()
    settings = {k: v for k, v in vars(a).items() if k not in left_out}
    try:
        return compare(make_learner, opts, a.epochs, list(seeds), fit, progress=True, figures=figures,
                       file=file, settings=settings)
    except OtherRuns as e: stop(str(e))
    except KeyboardInterrupt as e:
        done = getattr(e, 'comparison', None)
        if done is None or suffix: raise
        a.interrupted = True
        return done


def counted(n, what): return f'{n} {what}' if n == 1 else f'{n} {what}s'


def spoken(seconds):
    "A duration in the unit that suits it"
    if seconds < 90: return f'{max(1, round(seconds))} s'
    if seconds < 90*60: return f'{round(seconds/60)} min'
    return f'{seconds/3600:.1f} h'


# What is shown

def show(a, c, opts, figures, main, above=True):
    "Print tables, draw curves. `figures`: column of `c.runs` -> title and format. `main` is tested and drawn"
    print(f'\n{results(a, c, opts, figures, main, above)}')
    if a.seeds > 1 and len(c.losses) > 1:
        first = next(iter(c.losses))
        title, spec = figures[main]
        print(f'\n{title} against {first}, seed by seed:\n{tested(c, first, main, spec)}')
    draw(c, main, a.plot)
    print(f'\nThe curves are drawn in {a.plot}.')
    if getattr(a, 'interrupted', False):
        on = ' Go on with --resume.' if a.json else ''
        print(f'\nInterrupted: these are the runs that were done.{on}')
        sys.exit(130)


def results(a, c, opts, figures, main, above=True) -> str:
    "A row for each optimizer: mean and standard deviation over seeds"
    target = getattr(a, 'target', None)
    seconds = c.runs.groupby(['opt', 'seed']).seconds.sum().groupby('opt').mean()
    reached = c.epochs_to(target, main, above) if target is not None else None
    columns = ['optimizer', 'lr', 'wd', *[title for k, (title, _) in figures.items() if k in c.table]]
    if target is not None: columns.append(f'epochs to {target:g}')
    rows = [columns + ['seconds']]
    for name in c.losses:
        kwargs, row = opts[name][1], c.table.loc[name]
        wd = 'own' if kwargs['wd'] is None else f"{kwargs['wd']:g}"
        cells = [_spread(row[k], row[f'{k}_sd'], spec) for k, (_, spec) in figures.items() if k in row]
        if target is not None: cells.append(_reached(reached.loc[name]))
        diverged = f' ({row.diverged:g} diverged)' if row.diverged else ''
        lr, duration = f"{kwargs['lr']:.2g}", f'{seconds.get(name, math.nan):.1f}'
        rows.append([name + diverged, lr, wd, *cells, duration])
    return aligned(rows)


def _reached(row):
    if not row.reached: return 'never'
    some = f' ({row.reached:g} of {row.runs:g})' if row.reached < row.runs else ''
    return _spread(row.epochs, row.epochs_sd, '.1f') + some


def _spread(mean, sd, spec): return f'{mean:{spec}}' + (f' ± {sd:{spec}}' if sd == sd else '')


def tested(c, first, main, spec) -> str:
    "Differences to the first optimizer, their standard errors, and Student's p"
    rows = [('optimizer', 'difference', 'standard error', 'p')]
    for name, row in c.differences(first, main).iterrows():
        error, p = [f'{o:{s}}' if o == o else '-' for o, s in ((row.std_error, spec), (row.p, '.3f'))]
        rows.append((name, f'{row.difference:+{spec}}', error, p))
    return aligned(rows)


def aligned(rows) -> str:
    "Lines of text with the first column on the left and the others on the right"
    widths = [max(map(len, column)) for column in zip(*rows)]
    def line(row):
        first, *others = (c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths)))
        return '  '.join([first, *others]).rstrip()
    return '\n'.join(map(line, rows))


def draw(c, main, file):
    "Draw the training loss, smoothed as fastai does, and the main figure, side by side"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(11, 4), layout='constrained')
    left, right = fig.subplots(1, 2)
    c.plot(ax=left, smooth=0.98, log=True)
    c.plot(main, ax=right)
    fig.savefig(file, dpi=120)
