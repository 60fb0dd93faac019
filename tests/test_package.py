"The package as a whole: what it imports, what it exports, and that all of it is documented."
import inspect
import subprocess
import sys

import pytest
from fastcore.docments import docments

import optimcb
from optimcb import (
    Algorithm,
    algorithms,
    averages,
    checkpoint,
    checks,
    composition,
    display,
    editing,
    expression,
    files,
    formula,
    hypers,
    interop,
    lookahead,
    optimizer,
    plots,
    problems,
    rehearsal,
    stepper,
    steppers,
    taps,
    warn,
)
from optimcb.engine import build, cpu, eager, foreach, launch, memory, ops, plan, program, reading, record, runner, trace
from optimcb.stepper import Stepper

MODULES = [algorithms, averages, checkpoint, checks, composition, display, editing, expression, files, formula, hypers, interop, lookahead, optimizer, plots, problems, rehearsal, stepper,
           steppers, taps, warn, sys.modules['optimcb.compare'],
           build, cpu, eager, foreach, launch, memory, ops, plan, program, reading, record, runner, trace]
PUBLIC = {(m.__name__, k): getattr(m, k) for m in MODULES for k in m.__all__}
FASTAI = ['sgd_step', 'weight_decay', 'l2_reg', 'average_grad', 'average_sqr_grad', 'momentum_step', 'rms_prop_step', 'step_stat', 'debias', 'adam_step',
          'radam_step', 'qhadam_step', 'larc_layer_lr', 'larc_step', 'lamb_step']


def test_importing_needs_torch_and_fastcore_only():
    code = 'import sys, optimcb; assert not {"fastai", "matplotlib", "pandas", "IPython", "sklearn"} & set(sys.modules); print(optimcb.__version__)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == optimcb.__version__ and not done.stderr


@pytest.mark.parametrize('name', FASTAI)
def test_steppers_have_fastais_arguments(name):
    fastai = pytest.importorskip('fastai.optimizer')
    ours, theirs = (list(inspect.signature(getattr(m, name)).parameters) for m in (optimcb, fastai))
    assert ours == theirs


@pytest.mark.parametrize('where', PUBLIC, ids='.'.join)
def test_every_public_name_is_documented(where):
    o = PUBLIC[where]
    if not callable(o): return
    assert o.__doc__ and o.__doc__[0] != '\n', f'{where} has no docstring'
    f = o.recipe if isinstance(o, Algorithm) else o.__init__ if isinstance(o, type) and '__init__' in vars(o) else o
    if isinstance(o, type) and not inspect.isfunction(f): return
    own = f.__code__.co_varnames[:f.__code__.co_argcount + f.__code__.co_kwonlyargcount]
    undocumented = [k for k, v in docments(f).items() if not v and k in own and k not in ('self', 'cls', 'p')]
    assert not undocumented, f'{where}: {undocumented} have no comment'


def test_methods_are_documented():
    for cls in (optimcb.Optimizer, optimcb.Lookahead, optimcb.Composition, optimcb.Algorithm, hypers.HyperView, editing.Composable, display.Explained,
                display.Explanation, formula.Formula, taps.Record, taps.OptStats, optimcb.Comparison):
        for k, v in vars(cls).items():
            if not k.startswith('_') and (callable(v) or isinstance(v, property)): assert v.__doc__, f'{cls.__name__}.{k}'


def test_steppers_say_where_their_formula_is_from():
    plain = {'apply_update', 'momentum_step', 'rms_update', 'average_update', 'average_center', 'eps_in_root', 'step_stat', 'debias_grad_avg', 'debias_sqr_avg',
             'start_avgs', 'use_sqr_max', 'decay_lr', 'nadam_schedule', 'larc_step', 'slow_start', 'grad_update', 'avg_update', 'larc_update', 'accumulate',
             'skip_nonfinite', 'zero_nonfinite', 'clip_value', 'clip_tensor_norm', 'clip_update', 'clip_update_norm',
             'whole_step', 'keep_start', 'keep_bound', 'share_d', 'lr_in_grad', 'keep_first_norm', 'route_lr', 'maximize', 'lr_in_update', 'count_steps', 'schedule'}
    for k in set(steppers.__all__) - plain: assert any(year in getattr(steppers, k).__doc__ for year in ('19', '20')), k


def test_library_steppers_take_their_names_from_what_others_make():
    "Each name that a stepper needs is a hyper-parameter of some algorithm, or made by another stepper"
    all_steppers = [Stepper(getattr(steppers, k)) for k in steppers.__all__ if k not in steppers.FORMULAS]
    made = {n for s in all_steppers for n in s.mentions}
    recipes = [o for o in vars(optimcb).values() if isinstance(o, Algorithm)]
    made |= {n for o in recipes for s in o.composition.steppers for n in s.mentions} # under names that recipes give
    given = {n for o in recipes for n in o.hypers} | {'lr'}
    for s in all_steppers: assert set(s.required) <= made | given, s.label


def test_show_doc_works_on_all_of_them():
    showdoc = pytest.importorskip('nbdev.showdoc')
    for name in optimcb.__all__:
        shown = showdoc.show_doc(getattr(optimcb, name))._repr_markdown_()
        assert shown.startswith(f'---\n\n### {name}\n') and ' at 0x' not in shown, name
    shown = showdoc.show_doc(optimcb.Adam)._repr_markdown_()
    assert 'def Adam(' in shown and 'mom:float=0.9, # Coefficient of past gradients' in shown and 'lr, # Learning rate' in shown and 'Kingma' in shown
