"Help explains each argument: `?` in IPython, `help`, and `print`, for every algorithm and every part."
import importlib
import inspect
import pydoc
import re
import sys

import pytest
import torch

import optimcb as oc
from optimcb import parts, steppers
from optimcb.catalog import LISTS
from optimcb.composition.stepper import Stepper
from optimcb.hypers.values import check

ALGORITHMS = {k: o for k, o in vars(oc).items() if isinstance(o, oc.Algorithm)}
PARTS = {k: getattr(parts, k) for k in parts.__all__}
every_algorithm = pytest.mark.parametrize('name', ALGORITHMS)
every_part = pytest.mark.parametrize('name', PARTS)


def asked(o) -> str:
    "What `o?` shows as the docstring"
    return pytest.importorskip('IPython.core.oinspect').getdoc(o)


def explained(doc) -> dict[str, str]:
    "The arguments that a text lists, with what it says of each"
    return dict(re.findall(r'^    (\S+)(?: +(.*))?$', doc, re.MULTILINE))


def named(signature) -> list[str]:
    "Arguments as they are listed"
    return [k if o.default is o.empty else f'{k}={o.default!r}' for k, o in signature.parameters.items()]


@every_algorithm
def test_each_argument_of_an_algorithm_is_explained(name):
    algo = ALGORITHMS[name]
    doc = asked(algo)
    assert doc.startswith(inspect.getdoc(algo))
    assert list(explained(doc)) == named(algo.signature)
    assert not [k for k, said in explained(doc).items() if len(said) < 10]


@every_algorithm
def test_the_ranges_that_are_told_are_those_that_are_checked(name):
    "A value just inside of them is taken, one outside is refused"
    algo = ALGORITHMS[name]
    for argument, said in explained(asked(algo)).items():
        k, least = argument.partition('=')[0], re.search(r'at least (\d)', said)
        if not least: continue
        check(k, int(least[1]), (0, None))
        with pytest.raises(ValueError, match='must be at least'): algo([torch.nn.Parameter(torch.ones(2, 2))], **{'lr': 1., k: int(least[1]) - 1.})


@every_part
def test_each_argument_of_a_part_is_explained(name):
    part = PARTS[name]
    doc = asked(part)
    found = explained(doc)
    assert doc.startswith(inspect.getdoc(part)) and not [k for k, said in found.items() if len(said) < 5]
    if name in ('scheduled', 'stored'): return # their names are those of the rule
    fs = LISTS.get(f'{name}()', ([part], None))[0]
    hypers = oc.SGD.wrap(fs).hypers
    for k in {k for f in map(Stepper, fs) for k in f.names} & hypers.keys(): assert f'{k}={hypers[k]!r}' in found


@pytest.mark.parametrize('name', steppers.__all__)
def test_each_argument_of_a_stepper_is_explained(name):
    f = getattr(steppers, name)
    names = [k for k in inspect.signature(f).parameters if k not in ('p', 'kwargs')]
    assert [k.partition('=')[0] for k in explained(asked(f))] == names


def test_what_takes_any_keyword_explains_it():
    assert explained(asked(oc.scheduled))['**functions'].startswith('By hyper-parameter, a function of the step')


def test_combined_and_own_algorithms_are_explained_by_their_steppers():
    def my_step(p, lr,
        push=2. # How far
    ): p.data.add_(p.grad, alpha=-lr*push)
    mine = oc.algorithm('Mine', [my_step], push=3.)
    assert explained(asked(mine))['push=3.0'] == 'How far; at least 0'
    routed = oc.route(hidden=(oc.Muon, oc.by_ndim(2)), rest=oc.AdamW)
    assert explained(asked(routed))['rest_eps=1e-08'] == 'Added to the root; at least 0'
    assert explained(asked(oc.Lion.wrap(oc.clip_norm)))['max_norm=1.0'].startswith('Largest norm of all gradients')


@pytest.mark.skipif(sys.version_info[:2] == (3, 13), reason='pydoc of Python 3.13 takes every partial for data, and cuts its text')
@every_algorithm
def test_help_shows_the_whole_signature(name):
    algo = ALGORITHMS[name]
    shown = pydoc.plain(pydoc.render_doc(algo))
    assert f'{algo.__name__}{algo.signature}' in shown or ''.join(f'{algo.__name__}{algo.signature}'.split()) in ''.join(shown.split())
    assert inspect.getdoc(algo).splitlines()[0] in shown


def test_an_algorithm_in_a_class_is_no_method():
    class Trainer: opt_func = oc.Adam
    assert Trainer().opt_func is Trainer.opt_func is oc.Adam
    Trainer().opt_func([torch.nn.Parameter(torch.ones(2))], lr=1e-3)


@every_algorithm
def test_printed_an_algorithm_is_its_recipe(name):
    algo = ALGORITHMS[name]
    title, *lines = str(algo).splitlines()
    labels = algo.composition.labels
    assert title == algo.__name__ and len(lines) == len(labels)
    assert all(line.startswith(f'    {label}') for line, label in zip(lines, labels))
    for stepper, line in zip(algo.composition.steppers, lines):
        for k in set(stepper.names) & algo.hypers.keys(): assert f'{k}={algo.hypers[k]!r}' in line


def test_an_edited_algorithm_prints_what_it_has_become():
    shown = str(oc.Adam.wrap(oc.clip_norm))
    assert shown.startswith('Adam, edited\n') and re.search(r'clip_norm +max_norm=1.0', shown)


def test_help_of_the_package_begins_with_its_map():
    shown = pydoc.plain(pydoc.render_doc(oc))
    assert 'Make an optimizer' in shown[:1000] and shown.index('optimcb.doctor()') < 4000


def test_functions_of_others_are_left_alone():
    "What the package imports under names with an underscore isn't its own"
    assert not hasattr(inspect.isfunction, 'getdoc') and not hasattr(importlib.import_module, 'getdoc')
