"""Pages of the API, and a check that every public name is on one, with its documentation.

Public is what `__all__` of optimcb lists, and of the places that its docstring names."""
import inspect
from collections.abc import Iterator
from importlib import import_module

import gallery
from pieces import stepper_link, summary, table

import optimcb as oc
from optimcb.composition.stepper import innermost

PLACES = ['algorithms', 'parts', 'steppers', 'composition', 'routing', 'taps', 'plots', 'problems', 'learner',
          'catalog', 'bench', 'fastai', 'compare', 'factory']

# By file: title, what it is about, and names, with a module for those that aren't in `optimcb` itself
PAGES = {
    'optimizers': ('Optimizers', 'Make an optimizer, name a list of steppers, wrap an optimizer.', '''
        Optimizer algorithm algorithm.Algorithm create_optimizer list_optimizers ranger Lookahead SAM
        stats_kept step_in_backward training.in_backward.InBackward update_hessian hutchinson'''),
    'composition': ('Composition', 'What steppers may return, and what can be done with a list of them.', '''
        once composition.stop by_torch part composition.of_signs composition.of_directions composition.only
        renamed composition.renamed_all wrapped Composition MissingName CompositionWarning'''),
    'routing': ('Rules, routes and schedules', 'Tell parameters apart, give them algorithms, and let '
        'hyper-parameters change.', '''
        routing.Rule by_name by_ndim by_shape by_module norms_and_biases route grouped no_wd
        warmup cosine_decay inverse_sqrt'''),
    'explain': ('Explanations', 'What `explain()`, `formula`, `kernel()` and `doctor()` return.', '''
        doctor diagnosis.explain.Explained diagnosis.explain.Explanation diagnosis.formula.Formula'''),
    'state': ('State and files', 'Save, load and convert what an optimizer keeps.', '''
        save_state load_state named_state to_torch'''),
    'taps': ('Taps', 'Record numbers for each parameter while it trains.', '''
        tap Record OptStats taps.norm taps.cosine taps.histogram'''),
    'learner': ('Callbacks of a fastai Learner', 'Import them from `optimcb.fastai`.', '''
        learner.OptStatsCallback learner.AveragedWeights learner.SAMCallback
        learner.ZeroInStepCallback'''),
    'compare': ('Comparisons', 'Train several optimizers from the same weights on the same batches.', '''
        compare compare.Comparison compare.estimate_seconds'''),
    'plots': ('Plots and problems', 'Paths on test functions, curves, schedules, layers.', '''
        plot_paths animate_paths plot_curves plot_sched plots.plot_layers problems.Problem problems.path
        problems.as_problem problems.check_complete problems.PROBLEMS problems.rosenbrock problems.beale
        problems.ravine problems.saddle'''),
    'catalog': ('Catalog', 'Tables of all algorithms and parts, as data.', '''
        catalog.catalog catalog.parts catalog.Catalog'''),
    'bench': ('Benchmarks', 'What `python -m optimcb.bench` is made of.', '''
        bench.main bench.Bench bench.table bench.environment bench.find bench.floor_bytes bench.sets.SETS''')}

FAMILIES = { # modules of `optimcb.steppers`: the title of each
    'sgd': 'Gradient descent and decay', 'adam': 'Adam family', 'second_moments': 'Second moments',
    'layerwise': 'Layerwise rates', 'lookahead': 'Lookahead', 'adaptive': 'Variants of Adam',
    'rates': 'Bounded rates', 'momentum': 'Signs and momentum', 'parameter_free': 'Without a learning rate',
    'muon': 'Muon', 'shampoo': 'Shampoo', 'soap': 'SOAP', 'factored': 'Factored squares',
    'storage': 'Storage of state',
    'averages': 'Averages of weights', 'sharpness': 'Sharpness', 'parts': 'Parts', 'schedules': 'Schedules',
    'moving_average': 'Moving averages'}

# Classes whose page has what they inherit, but for what engines ask of them
WITH_INHERITED = {'Optimizer', 'algorithm.Algorithm'}
FOR_ENGINES = ('pending_masks tracked forget_runner step_target state_dict_on choosing edited flags')
INHERITED = f"""
    options:
      inherited_members: true
      filters: ['!^_', '!^({FOR_ENGINES.replace(' ', '|')})$']"""


def home(
    name:str # Of `optimcb`, with its module if it isn't in `optimcb` itself
) -> str:
    "Return where a public object is defined, as `module.name`."
    module, _, last = f'optimcb.{name}'.rpartition('.')
    o = getattr(import_module(module), last)
    if inspect.isfunction(o): o = innermost(o)
    own = getattr(o, '__module__', None) or ''
    return f'{own}.{last}' if own.startswith('optimcb') else f'{module}.{last}'


def pages() -> Iterator[tuple[str, str]]:
    "Yield the pages of the API: paths and Markdown."
    for file, (title, about, names) in PAGES.items():
        yield f'api/{file}.md', '\n\n'.join([f'# {title}', about, *map(_shown, names.split())])
    for module, title in FAMILIES.items():
        family = import_module(f'optimcb.steppers.{module}')
        shown = [f'::: {family.__name__}.{k}' for k in family.__all__]
        yield f'api/steppers/{module}.md', '\n\n'.join([f'# {title}', inspect.getdoc(family), *shown])
    yield 'api/steppers/index.md', _index_of_steppers()


def _shown(name) -> str: return f"::: {home(name)}{INHERITED if name in WITH_INHERITED else ''}"


def _index_of_steppers() -> str:
    said = ['# Steppers', 'All formulas of the library, each once. A list of them is an optimizer. '
            'For what a stepper is, see [Concepts](../../concepts.md).']
    for module, title in FAMILIES.items():
        names = import_module(f'optimcb.steppers.{module}').__all__
        found = [getattr(oc.steppers, k) for k in names]
        rows = [(stepper_link(f), summary(f.__doc__)) for f in found]
        said.append(f"## [{title}]({module}.md)\n\n{table(('name', 'what it does'), *rows)}")
    return '\n\n'.join(said)


def missing() -> list[str]:
    "Say which public names are on no page or have no docstring, and which families have no title."
    listed = {k.rpartition('.')[2] for *_, names in PAGES.values() for k in names.split()}
    shown = {*listed, *gallery.algorithms_by_name(), *gallery.parts_by_name(), *oc.steppers.__all__}
    families = {m.__name__.rpartition('.')[2] for m in oc.steppers.FAMILIES}
    untitled = sorted(families - FAMILIES.keys())
    res = [f'steppers.{k} has no title: add it to `FAMILIES` of docs/gen/api.py.' for k in untitled]
    for place in ['optimcb', *(f'optimcb.{k}' for k in PLACES)]:
        module = import_module(place)
        for k in module.__all__:
            o = getattr(module, k)
            documented = not callable(o) or inspect.getdoc(o)
            if k not in shown:
                res.append(f'{place}.{k} is on no page: add it to `PAGES` of docs/gen/api.py.')
            if not documented: res.append(f'{place}.{k} has no docstring.')
    return res
