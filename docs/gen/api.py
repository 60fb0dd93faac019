"""Pages of the API: what each of them shows, and that every public name is somewhere.

Public is what `__all__` of optimcb, and of the places that its docstring names, lists."""
import inspect
from collections.abc import Iterator
from importlib import import_module

import gallery

import optimcb as oc
from optimcb.composition.stepper import innermost

PLACES = ['algorithms', 'parts', 'steppers', 'composition', 'routing', 'taps', 'plots', 'problems', 'learner', 'catalog',
          'bench', 'fastai', 'compare', 'factory']

PAGES = { # title, what it is about, and names: of `optimcb`, or with their module
    'optimizers': ('Optimizers', 'Make an optimizer, name a list of steppers, wrap an optimizer.',
        ['Optimizer', 'algorithm', 'algorithm.Algorithm', 'create_optimizer', 'list_optimizers', 'ranger', 'Lookahead',
         'SAM', 'stats_kept', 'step_in_backward', 'training.in_backward.InBackward', 'update_hessian', 'hutchinson']),
    'composition': ('Composition', 'What steppers may return, and what can be done with a list of them.',
        ['once', 'composition.stop', 'by_torch', 'part', 'composition.of_signs', 'composition.of_directions',
         'composition.only', 'renamed', 'composition.renamed_all', 'wrapped', 'Composition', 'MissingName', 'CompositionWarning']),
    'routing': ('Rules, routes and schedules', 'Tell parameters apart, give them algorithms, and let hyper-parameters change.',
        ['routing.Rule', 'by_name', 'by_ndim', 'by_shape', 'by_module', 'norms_and_biases', 'route', 'grouped', 'no_wd',
         'warmup', 'cosine_decay', 'inverse_sqrt']),
    'explain': ('Explanations', 'What `explain()`, `formula` and `kernel()` return.',
        ['diagnosis.explain.Explained', 'diagnosis.explain.Explanation', 'diagnosis.formula.Formula']),
    'state': ('State and files', 'Save, load and convert what an optimizer keeps.',
        ['save_state', 'load_state', 'named_state', 'to_torch']),
    'taps': ('Taps', 'Record numbers for each parameter while it trains.',
        ['tap', 'Record', 'OptStats', 'taps.norm', 'taps.cosine', 'taps.histogram']),
    'learner': ('Callbacks of a fastai Learner', 'Import them from `optimcb.fastai` or `optimcb.learner`.',
        ['learner.OptStatsCallback', 'learner.AveragedWeights', 'learner.SAMCallback', 'learner.ZeroInStepCallback']),
    'compare': ('Comparisons', 'Train several optimizers from the same weights on the same batches.',
        ['compare', 'compare.Comparison']),
    'plots': ('Plots and problems', 'Paths on test functions, curves, schedules, layers.',
        ['plot_paths', 'animate_paths', 'plot_curves', 'plot_sched', 'plots.plot_layers',
         *(f'problems.{k}' for k in ('Problem', 'path', 'as_problem', 'check_complete', 'PROBLEMS', 'rosenbrock', 'beale', 'ravine', 'saddle'))]),
    'catalog': ('Catalog', 'Tables of all algorithms and parts, as data.', ['catalog.catalog', 'catalog.parts', 'catalog.Catalog']),
    'bench': ('Benchmarks', 'What `python -m optimcb.bench` is made of.',
        [f'bench.{k}' for k in ('main', 'Bench', 'table', 'environment', 'find', 'floor_bytes', 'sets.SETS')])}

FAMILIES = { # modules of `optimcb.steppers`: the title of each
    'sgd': 'Gradient descent and decay', 'adam': 'Adam family', 'second_moments': 'Second moments', 'layerwise': 'Layerwise rates',
    'lookahead': 'Lookahead', 'adaptive': 'Variants of Adam', 'rates': 'Bounded rates', 'momentum': 'Signs and momentum',
    'parameter_free': 'Without a learning rate', 'muon': 'Muon', 'shampoo': 'Shampoo', 'soap': 'SOAP', 'factored': 'Factored squares',
    'averages': 'Averages of weights', 'sharpness': 'Sharpness', 'parts': 'Parts', 'schedules': 'Schedules', 'moving_average': 'Moving averages'}


def home(
    name:str # Of `optimcb`, or with a module
) -> str:
    "Return where a public object is defined, as `module.name`."
    module, _, last = f'optimcb.{name}'.rpartition('.')
    try: o = getattr(import_module(module), last)
    except ModuleNotFoundError: raise LookupError(f'there is no {name}') from None
    if inspect.ismodule(o): o = getattr(o, last) # `compare` and `algorithm` are modules, too
    own = getattr(o, '__module__', None)
    o = innermost(o) if inspect.isfunction(o) else o
    return f'{own}.{last}' if own and own.startswith('optimcb') else f'{module}.{last}'


def pages() -> Iterator[tuple[str, str]]:
    "Yield the pages of the API: paths and Markdown."
    for file, (title, about, names) in PAGES.items():
        yield f'api/{file}.md', f'# {title}\n\n{about}\n\n' + '\n\n'.join(f'::: {home(k)}' for k in names) + '\n'
    for module, title in FAMILIES.items():
        family = import_module(f'optimcb.steppers.{module}')
        shown = '\n\n'.join(f'::: optimcb.steppers.{module}.{k}' for k in family.__all__)
        yield f'api/steppers/{module}.md', f'# {title}\n\n{inspect.getdoc(family)}\n\n{shown}\n'
    yield 'api/steppers/index.md', _index_of_steppers()


def _index_of_steppers() -> str:
    said = []
    for module, title in FAMILIES.items():
        names = import_module(f'optimcb.steppers.{module}').__all__
        rows = [(gallery.stepper_link(getattr(oc.steppers, k)), gallery.without_source(getattr(oc.steppers, k).__doc__)) for k in names]
        said.append(f"## [{title}]({module}.md)\n\n{gallery.table(('name', 'what it does'), *rows)}")
    return ('# Steppers\n\nAll formulas of the library, each once. A list of them is an optimizer. '
            'For what a stepper is, see [Concepts](../../concepts.md).\n\n' + '\n\n'.join(said) + '\n')


def missing() -> list[str]:
    "Say which public names are on no page, or have no docstring or no comment for a parameter."
    shown = {k.rpartition('.')[2] for *_, names in PAGES.values() for k in names} | gallery.by_name().keys() | set(oc.parts.__all__)
    shown |= set(oc.steppers.__all__)
    res = []
    for place in ['', *PLACES]:
        module = import_module(f'optimcb.{place}'.rstrip('.'))
        for k in module.__all__:
            if k not in shown: res.append(f'`{k}` of {module.__name__} is on no page: add it to `PAGES` of docs/gen/api.py.')
            o = getattr(module, k)
            if (inspect.isfunction(o) or inspect.isclass(o)) and not o.__doc__: res.append(f'`{k}` of {module.__name__} has no docstring.')
    unknown = {p.stem for p in (gallery.TESTS.parent/'optimcb'/'steppers').glob('*.py')} & {m.__name__.rpartition('.')[2] for m in oc.steppers.FAMILIES} - FAMILIES.keys()
    return [*dict.fromkeys(res), *(f'The family {k} of steppers has no title in `FAMILIES` of docs/gen/api.py.' for k in sorted(unknown))]
