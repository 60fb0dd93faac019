"Train with each optimizer on each seed."
import gc
import inspect
import random
import time
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
import torch

from optimcb._compat.boundary import entry
from optimcb.compare.comparison import Comparison
from optimcb.compare.runs_file import RunsFile
from optimcb.hypers.torch_names import suggest
from optimcb.plots import _name, _named

__all__ = ['compare']


@entry
def compare(
    make_learner:Callable, # Takes an `opt_func`; returns a new fastai `Learner` with a new model
    opt_funcs:dict|list, # Name -> `opt_func`, or `(opt_func, its fit_kwargs)`; or a list of `opt_func`s
    n_epoch:int=1, # Number of epochs of each run
    seeds:int|list=3, # Number of seeds, counted from 0, or a list of seeds
    fit:str|Callable='fit_one_cycle', # A Learner's method, or a function `fit(learn, n_epoch, **fit_kwargs)`
    progress:bool=False, # Show one progress bar for all runs, with the time left?
    figures:Callable=None, # Takes the trained Learner; returns a dict of further numbers for the table
    file:str=None, # JSON file to keep finished runs in. Runs that are already in it aren't trained again
    settings:dict=None, # What else all runs in `file` must have in common, as options of `make_learner`
    **fit_kwargs # Further arguments of `fit`, for all optimizers
) -> Comparison:
    """Train with each optimizer on each seed, which determines weights, batches and augmentation.

    These are the same for all optimizers, unless an optimizer draws random numbers itself. The global random
    state is restored afterwards. Runs that diverge are counted. If a run raises or is interrupted, so is
    `compare`: the exception names the run, and holds the finished runs in its attribute `comparison`. They
    are in `file`, too, and the same call goes on from there. Raises `ValueError` or `TypeError` for invalid
    arguments, or if `file` holds runs of other arguments, before training.
    """
    try:
        from fastai.callback.schedule import no_random  # and the ways to fit
    except ImportError as e:
        raise ImportError(f"compare trains fastai's Learners, but {e}. "
                          "Install it: pip install 'optimcb[fastai]'.") from None
    _check_takes_one(make_learner)
    opts, seeds = _opts(opt_funcs), list(range(seeds) if isinstance(seeds, Integral) else seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("`seeds` must be how many, 1 or more, or a list of ones that differ, "
                         f"but are {seeds}.")
    shared = {'n_epoch': n_epoch, 'fit': getattr(fit, '__name__', fit), **(settings or {})}
    kept = None if file is None else RunsFile(file, shared)
    done, todo = [], []
    for seed in seeds:
        for name, (f, own) in opts.items():
            run = {'opt': name, 'seed': seed, 'how': {'opt_func': _name(f), **fit_kwargs, **own}}
            found = kept.find(**run) if kept else None
            if found: done.append(found)
            else: todo.append(run)
    weights, bar = {}, _Bar(len(todo)) if progress and todo else None
    for i, run in enumerate(todo):
        f, own = opts[run['opt']]
        try:
            with no_random(run['seed']):
                if bar: bar.start(i, f"{run['opt']}, seed {run['seed']}")
                found = _run(make_learner, f, run['seed'], fit, n_epoch, {**fit_kwargs, **own},
                             weights, figures, bar)
            done.append({**run, **found})
            if kept: kept.add(done[-1])
        except BaseException as e:
            n_runs = len(seeds)*len(opts)
            note = f"This was optimizer {run['opt']!r} with seed {run['seed']}; " \
                   f"{len(done)} of {n_runs} runs were done."
            if hasattr(e, 'add_note'): e.add_note(note)
            else: e.args = (*e.args, note) # before Python 3.11
            e.comparison = Comparison(_in_order(done, seeds, opts)) if done else None
            raise
        if torch.cuda.is_available(): gc.collect() # a Learner is a cycle that holds its model's memory
    if bar: bar.end()
    return Comparison(_in_order(done, seeds, opts))


def _in_order(done, seeds, opts):
    "Return runs in the order in which they are trained, wherever they are from"
    return sorted(done, key=lambda run: (seeds.index(run['seed']), list(opts).index(run['opt'])))


class _Bar:
    "A progress bar for all runs, in hundredths of a run"
    def __init__(self, n_runs):
        from fastprogress.fastprogress import progress_bar
        self.bar = progress_bar(range(100*n_runs), leave=False)

    def start(self, i, comment):
        "Begin with run `i`."
        self.i, self.bar.comment = i, comment
        self.show(0.)

    def show(self, share):
        "Show how much of the present run is done."
        self.bar.update(int(100*(self.i + min(share, 1))))

    def end(self):
        "Show that all runs are done."
        self.bar.update(self.bar.total)


def _check_takes_one(make_learner):
    "Raise `TypeError` if `make_learner` can't be called with an `opt_func`"
    example = "as `def make_learner(opt_func): return Learner(dls, model(), opt_func=opt_func)` does"
    if not callable(make_learner):
        raise TypeError("`make_learner` must be a function that makes a Learner of an `opt_func`, "
                        f"{example}, but is a {type(make_learner).__name__}.")
    try: signature = inspect.signature(make_learner)
    except ValueError: return # a builtin that keeps its signature to itself
    try: signature.bind(None)
    except TypeError as e:
        name = getattr(make_learner, '__name__', make_learner)
        raise TypeError("`make_learner` is called with an `opt_func`, for which it makes a Learner, "
                        f"{example}. But `{name}{signature}` can't be: {e}.") from None


def _run(make_learner, f, seed, fit, n_epoch, kwargs, weights, figures, bar) -> dict:
    "Train once; `weights` maps each seed to the sums of its initial weights"
    from fastai.basics import Learner, set_seed
    learn = make_learner(f)
    if not isinstance(learn, Learner):
        raise TypeError(f"`make_learner` must return a Learner, but returned {learn!r:.80} "
                        f"({type(learn).__name__}).")
    train = getattr(type(learn), fit, None) if isinstance(fit, str) else fit
    if not callable(train):
        raise ValueError(f"a Learner has no `{fit}`.{suggest(str(fit), dir(Learner))} "
                         "Pass the name of a method that fits, or a function.")
    _check_takes(train, learn, n_epoch, kwargs)
    start = [v.double().sum().item() for v in learn.model.parameters()]
    if weights.setdefault(seed, start) != start:
        raise ValueError("the model doesn't start as for the first optimizer, with the same weights. "
                         "Make it inside of `make_learner`.")
    getattr(learn.dls, 'n_inp', None) # fastai's loaders draw a random item at the first access
    set_seed(seed, reproducible=True)
    for dl in getattr(learn.dls, 'loaders', ()): _seed_loader(dl, seed)
    record = _record(bar and _shower(bar, learn, n_epoch))
    with learn.no_bar(), learn.no_logging():
        with learn.added_cbs(record): train(learn, n_epoch, **kwargs)
        further = figures(learn) if figures else {}
    if not record.steps:
        raise ValueError("there was no batch to train on. "
                         "Is the training set smaller than a batch, or doesn't `fit` train?")
    losses = torch.stack(record.steps).double().cpu().numpy()
    last = [v for row in record.rows[-1:] for k, v in row.items() if k.endswith('loss')]
    for row in record.rows[-1:]: row |= further
    diverged = not np.isfinite([*losses, *last]).all()
    return dict(rows=record.rows, losses=losses, diverged=diverged, state_bytes=_state_bytes(learn.opt))


def _check_takes(train, learn, n_epoch, kwargs):
    "Raise `TypeError` if a function that fits can't be called like that"
    try: signature = inspect.signature(train)
    except (TypeError, ValueError): return # a builtin that keeps its signature to itself
    try: signature.bind(learn, n_epoch, **kwargs)
    except TypeError as e:
        name, known = getattr(train, '__name__', train), list(signature.parameters)[2:]
        unknown = [k for k in kwargs if k not in known]
        if not unknown:
            raise TypeError(f"`{name}{signature}` is called with a Learner and the number of epochs: "
                            f"{e}.") from None
        k = unknown[0]
        near = [o for o in known if {k, o} & {*k.split('_')} & {*o.split('_')}]
        meant = f" Did you mean `{near[0]}`?" if near else suggest(k, known)
        has = f"It has {', '.join(known)}." if known else "It has a Learner and the number of epochs only."
        raise TypeError(f"`{name}` has no `{k}`.{meant} {has}") from None


def _shower(bar, learn, n_epoch) -> Callable:
    "Return a function that shows how much of a run is done after some steps"
    in_all = max(1, n_epoch*len(learn.dls.train))
    return lambda steps: bar.show(steps/in_all)


def _record(show=None):
    "Return a callback that records each batch's loss and each epoch's figures, except during `lr_find`"
    from fastai.callback.core import Callback
    class Record(Callback):
        order = 60 # after the Recorder
        def __init__(self): self.steps, self.rows = [], []
        def before_fit(self): self.run = not hasattr(self.learn, 'lr_finder')
        def before_epoch(self): self.start = time.perf_counter()
        def before_backward(self):
            self.steps.append(self.learn.loss.detach())
            if show: show(len(self.steps))
        def after_epoch(self):
            row = dict(zip(self.learn.recorder.metric_names[1:], self.learn.recorder.values[-1]))
            numbers = {k: v for k, v in row.items() if isinstance(v, Real)}
            self.rows.append(numbers | {'seconds': time.perf_counter() - self.start})
    return Record()


def _seed_loader(dl, seed):
    "Seed the loader's own random generator, which fastai's loaders (and some of torch) keep between fits"
    if isinstance(getattr(dl, 'rng', None), random.Random): dl.rng = random.Random(seed)
    for o in (dl, getattr(dl, 'sampler', None)):
        if isinstance(g := getattr(o, 'generator', None), torch.Generator): g.manual_seed(seed)


def _state_bytes(opt) -> float:
    "Return the bytes of an optimizer's state per parameter element"
    states = getattr(opt, 'opt', opt).state.values() # unwrap the optimizer
    tensors = [v for s in states if isinstance(s, dict) for v in s.values() if torch.is_tensor(v)]
    used = sum(v.numel()*v.element_size() for v in tensors)
    return used / sum(p.numel() for ps in opt.param_lists for p in ps)


def _opts(opt_funcs) -> dict:
    "Return a dict: name -> (`opt_func`, its own fit arguments)"
    pairs = {}
    if isinstance(opt_funcs, dict): pairs = {k: o for k, o in opt_funcs.items() if isinstance(o, tuple)}
    for k, o in pairs.items():
        if len(o) != 2 or not isinstance(o[1], dict):
            raise TypeError(f"'{k}' must be an `opt_func`, or a pair of one and a dict for `fit`, "
                            f"but is {o!r:.80}.")
    named = _named({**opt_funcs, **{k: o[0] for k, o in pairs.items()}} if pairs else opt_funcs)
    return {k: (f, pairs[k][1] if k in pairs else {}) for k, f in named.items()}
