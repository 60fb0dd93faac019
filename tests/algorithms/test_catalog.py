"The tables of what is there: all of it, in rows that are as the code is."
import re

import pytest
import torch
from checklist import COMMAND, PARTS_TABLE, RULES_TABLE, table_of_parts, table_of_rules
from zoo import ALGORITHMS, TABLES, said

import optimcb as oc
from optimcb.catalog import LISTS, RULES, SHAPE, Catalog, catalog, parts
from optimcb.composition.roles import PLACES, place_of
from optimcb.composition.stepper import Stepper


def named(table): return {next(iter(row.values())).strip('`'): row for row in table}


@pytest.fixture(scope='module')
def rules(): return named(catalog())


@pytest.fixture(scope='module')
def parted(): return named(parts())


def test_every_algorithm_is_there(rules):
    assert list(rules) == [o.__name__ for o in vars(oc).values() if isinstance(o, oc.Algorithm)]
    assert not [k for k, row in rules.items() if not re.search(r'(19|20)\d\d', row['what, and where from'])]
    assert rules['Lion']['steppers, with the default options'].startswith('`weight_decay` → `mixed_update(nu→mom)` → `sign_update`')


@pytest.mark.parametrize('name, state', [('SGD', 0), ('SignSGD', 0), ('Lion', 4), ('Adam', 8), ('AdamW', 8), ('AMSGrad', 12), ('Adafactor', 0.125)])
def test_state_is_counted(rules, name, state): assert float(rules[name]['state']) == state


def bytes_of_state(algo):
    "State per element after some steps, without what is a number for each parameter"
    p = torch.nn.Parameter(torch.ones(SHAPE))
    p.grad = torch.ones(SHAPE)
    opt = algo([p], lr=1e-3)
    for _ in range(3): opt.step()
    tensors = [v for v in opt.state[p].values() if isinstance(v, torch.Tensor) and v.ndim] + [
        o for v in opt.state[p].values() if isinstance(v, (list, tuple)) for o in v]
    return sum(v.numel()*v.element_size() for v in tensors)/p.numel()


@pytest.mark.parametrize('name', ALGORITHMS)
def test_state_is_what_steps_leave(rules, name):
    assert float(rules[name]['state']) == pytest.approx(bytes_of_state(getattr(oc, name)), rel=1e-2)


def test_state_of_parts_is_what_steps_leave(parted):
    for name, row in parted.items():
        fs = LISTS[name][0] if name in LISTS else [getattr(oc, name)]
        assert float(row['state']) == pytest.approx(bytes_of_state(RULES.get(name, oc.SGD).wrap(fs))), name


@pytest.mark.parametrize('name', ALGORITHMS)
def test_the_steppers_are_those_that_run(rules, name):
    opt = getattr(oc, name)([torch.nn.Parameter(torch.ones(SHAPE))], lr=1e-3)
    assert rules[name]['steppers, with the default options'] == ' → '.join(f'`{k}`' for k in opt.composition.labels)


def test_every_algorithm_runs_as_kernels(rules, parted):
    assert not [k for k, row in rules.items() if not row['runs as'].startswith('kernel')]
    assert {k for k, row in parted.items() if not row['runs as'].startswith('kernel')} == {'add_noise'}


def test_the_page_of_tables_is_that_of_the_code():
    "Tests of the rows themselves compare the tolerances"
    page, new = TABLES.read_text(), ALGORITHMS.keys() - said().keys()
    assert not new, f'docs/tables.md has no line for {", ".join(sorted(new))}: {COMMAND}'
    assert RULES_TABLE.search(page)[2] == table_of_rules().markdown, COMMAND
    assert PARTS_TABLE.search(page)[2] == table_of_parts().markdown, COMMAND


def test_every_part_is_there_in_the_order_of_a_step(parted):
    placed = {k for k, f in vars(oc).items() if not isinstance(f, type) and callable(f) and place_of(f) in {*PLACES} - {'apply'}}
    assert parted.keys() == placed - {Stepper(f).innermost.__name__ for fs, _ in LISTS.values()
                                      for f in fs} | LISTS.keys()
    ranks = [list(PLACES).index(row['place'].split(', ')[0]) for row in parted.values()]
    assert ranks == sorted(ranks)


def test_what_a_part_brings_along(parted):
    assert parted['clip_norm']['numbers'] == '`max_norm=1`' and parted['cautious']['numbers'] == ''
    assert parted['look_ahead()']['numbers'] == '`k=6`, `alpha=0.5`' and parted['look_ahead()']['place'] == 'first, last'
    assert {k: parted[k]['state'] for k in ('clip_norm', 'ema_weights', 'look_ahead()', 'schedule_free()')} == {
        'clip_norm': '0', 'ema_weights': '4', 'look_ahead()': '4', 'schedule_free()': '4'}


def test_how_it_runs(rules, parted):
    assert {rules[k]['runs as'] for k in ('SGD', 'Adam', 'Lion', 'Lamb', 'Prodigy', 'ScheduleFreeAdamW')} == {'kernel'}
    assert rules['Muon']['runs as'] == 'kernels around `orthogonalized`'
    assert parted['clip_norm']['runs as'] == 'kernel' and parted['add_noise']['runs as'] == 'steppers, one by one'


def test_shown_as_markdown():
    table = Catalog([{'a': 'x|y', 'b': 1}])
    assert table.markdown == table._repr_markdown_() == repr(table) == '| a | b |\n| --- | --- |\n| x\\|y | 1 |\n'
    assert Catalog().markdown == ''


def test_a_row_is_a_line(rules, parted):
    for o in (rules, parted): assert not [k for k, row in o.items() if any('\n' in str(v) for v in row.values())]
