"The benchmark: what it counts, that all contenders take part, and how it says what is wrong. Nothing here looks at a time."
import json
import subprocess
import sys
from math import prod

import pytest
import torch

import optimcb
from optimcb import bench
from optimcb.bench import __main__ as bench_main
from optimcb.bench.__main__ import main
from optimcb.bench.contenders import Contender, find
from optimcb.bench.measure import Bench
from optimcb.bench.report import environment, table
from optimcb.bench.timing import floor_bytes

TINY = [(3, 4), (5,), (2, 2, 2)]
OWN = '''
import torch
from functools import partial
from optimcb import Optimizer, sgd_step
Mine = partial(Optimizer, cbs=[sgd_step])
def theirs(params, lr): return torch.optim.SGD(params, lr=lr)
class Dropping:
    def __init__(self, params, lr): self.params, self.seen = params, []
    def step(self):
        self.seen.append(all(p.grad is not None for p in self.params))
        for p in self.params: p.grad = None
'''


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "Small sets of parameters, and a module `own_opts`"
    (tmp_path/'own_opts.py').write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bench_main, 'SETS', dict(resnet34=TINY, large=[(50,)]))
    monkeypatch.setenv('OPTIMCB_CACHE_DIR', str(tmp_path/'cache'))
    yield
    sys.modules.pop('own_opts', None)


def quick(*args, **kwargs): return Bench(*args, **{'repeats': 2, 'warmup': 1, 'against': ['torch'], **kwargs})
def names(result): return [r['name'] for r in result['rows']]


def test_sets_of_parameters():
    size = {k: (len(o), sum(map(prod, o))) for k, o in bench.SETS.items()}
    assert size == dict(resnet34=(110, 21_289_802), transformer=(148, 24_833_280), small=(2000, 574_648),
                        large=(1, 50_000_000), matrices=(48, 21_233_664), tiny=(110, 3300))


def test_resnet34_is_torchvisions():
    torchvision = pytest.importorskip('torchvision')
    with torch.device('meta'): model = torchvision.models.resnet34(num_classes=10)
    assert bench.SETS['resnet34'] == [tuple(p.shape) for p in model.parameters()]


@pytest.mark.parametrize('name, expected', dict(SGD=12, Momentum=20, RMSProp=20, AdamW=28, AMSGrad=36, Larc=28, Lamb=44, ranger=28).items())
def test_bytes_that_must_be_moved(name, expected):
    c = Contender(name, find(name))
    c.start(TINY)
    assert floor_bytes(c.opt, c.params) == expected * sum(map(prod, TINY))


def test_bytes_follow_the_dtypes_of_the_states():
    c = Contender('Adam', find('Adam'))
    c.start(TINY, torch.bfloat16)
    assert floor_bytes(c.opt, c.params) == sum(5*p.nbytes + 2*sum(s.nbytes for s in c.opt.state[p].values() if torch.is_tensor(s)) for p in c.params) \
        - 2*sum(p.nbytes for p in c.params)


def test_a_step():
    result = quick().step(TINY)
    assert names(result) == ['optimcb AdamW', 'torch AdamW fused', 'torch AdamW foreach', 'torch AdamW loop', 'floor']
    assert (result['tensors'], result['elements'], result['floor_bytes']) == (3, 25, 28*25)
    for r in result['rows']:
        assert r['min'] <= r['median'] and len(r['quartiles']) == 2 and r['over_fused'] > 0 and r['over_floor'] > 0
        assert r['name'] == 'floor' or r['first'] > 0 and r['extra'] >= 0
    assert result['rows'][1]['over_fused'] == result['rows'][-1]['over_floor'] == 1


def test_extra_memory():
    p = torch.ones(1000)
    def step(): return (p + p) * p # two temporaries at once
    assert 8000 <= bench.extra_memory(step, 'cpu') < 8100
    kept = [p]
    def replace(): kept[0] = kept[0] + 1 # in steady state one is freed for one that is made
    assert 4000 <= bench.extra_memory(replace, 'cpu') < 4100


USUAL = {'SGD', 'AdamW', 'RAdam', 'QHAdam', 'Lamb', 'Muon', 'SOAP', 'Adafactor', 'ranger'} # each kind of peer is there once


@pytest.mark.parametrize('name', [pytest.param(k, marks=() if k in USUAL else pytest.mark.slow) for k in bench.ALGORITHMS])
def test_every_algorithm_and_its_peers_run(name):
    assert not [r for r in quick(name, against=None, repeats=1, warmup=0).step([(2, 3)])['rows'] if r.get('error')]


def test_no_fused_one_to_compare_with():
    result = quick('RMSProp').step(TINY)
    assert names(result) == ['optimcb RMSProp', 'torch RMSprop foreach', 'torch RMSprop loop', 'floor']
    assert not any('over_fused' in r for r in result['rows']) and '× torch fused' not in table(result)


def test_what_fails_is_a_line(monkeypatch):
    monkeypatch.setitem(bench.PEERS, 'optimi', dict(AdamW='AdamNever'))
    monkeypatch.setitem(bench.MODULES, 'optimi', 'no_such_module')
    result = quick(engines=('warp',), against=['torch', 'optimi']).step(TINY)
    assert [r['name'] for r in result['rows'] if r.get('error')] == ['optimcb AdamW warp', 'optimi AdamNever']
    shown = table(result).splitlines()
    assert len(shown) == 7 and shown[-1].startswith('optimi AdamNever') and shown[-1].endswith("No module named 'no_such_module'")
    assert result['floor_bytes'] == 28*25 # as its peers have it


def test_ones_own(tiny):
    result = quick('own_opts:Mine', like='SGD').step(TINY)
    assert names(result) == ['Mine', 'torch SGD fused', 'torch SGD foreach', 'torch SGD loop',
                             'floor'] and result['floor_bytes'] == 12*25
    assert names(quick('own_opts:theirs', against=[]).step(TINY)) == ['theirs', 'floor']


def test_gradients_are_there_in_each_step(tiny):
    c = Contender('Dropping', find('own_opts:Dropping'))
    c.start(TINY)
    grads = list(c.grads)
    bench.interleave([c], 2, 1)
    assert c.opt.seen == [True]*4 and all(a is b for a, b in zip(grads, c.grads))


def test_everyone_takes_part_in_each_round():
    seen = []
    def contender(name):
        c = Contender(name)
        c.opt = type('', (), {'step': lambda self: seen.append(name)})()
        return c
    runs = [contender(k) for k in 'abc']
    bench.interleave(runs, 20, 2)
    rounds = [tuple(seen[i:i+3]) for i in range(0, len(seen), 3)]
    assert len(rounds) == 22 and all(sorted(o) == ['a', 'b', 'c'] for o in rounds) and len(set(rounds)) > 3
    assert all(len(c.times) == 20 for c in runs)


def test_python_overhead():
    result = quick(against=['torch'], engines=('warp',)).python(counts=(2, 5))
    ours, fused, *_ = result['rows']
    assert 'error' in ours and fused.keys() == {'name', *(f'{a} {b}' for a in ('same', 'new') for b in (2, 5, 'each'))}
    assert fused['new each'] == pytest.approx((fused['new 5'] - fused['new 2']) / 3)
    assert 'same each µs' in table(result)


def test_groups():
    result = quick(against=['torch']).groups(counts=(1, 3), tensors=7)
    assert all(r.keys() == {'name', 'in 1', 'in 3'} and r['in 3'] > 0
               for r in result['rows']) and 'in 3 µs' in table(result)
    c = Contender('AdamW', find('AdamW'))
    c.start([(2,)]*7, groups=3)
    assert [len(g['params']) for g in c.opt.param_groups] == [3, 2, 2]
    assert [g['lr'] for g in c.opt.param_groups] == pytest.approx([1e-3/3, 2e-3/3, 1e-3])


def test_gradients_that_come_and_go():
    result = quick(against=['torch']).changing(tensors=20)
    assert all(r['median'] > 0 for r in result['rows']) and '20 tensors, another 30% of them' in result['title']
    a, b = Contender('a', find('SGD')), Contender('b', find('SGD'))
    seen = []
    for c in (a, b):
        c.start([(2,)]*50)
        sets = []
        for _ in range(20):
            c.some_grads()
            sets.append(tuple(p.grad is not None for p in c.params))
        seen.append(sets)
    assert seen[0] == seen[1] and len(set(seen[0])) == 20 and 0.2 < sum(map(sum, seen[0]))/1000 < 0.4


def test_what_is_done_once():
    result = quick(against=['torch']).life(tensors=5)
    assert all(r[f'once {k}'] > 0 for r in result['rows'] for k in ('make', 'first step', 'state_dict'))
    assert 'state_dict ms' in table(result)


def test_new_gradients_are_other_tensors():
    c = Contender('SGD', find('SGD'))
    c.start(TINY)
    before = [p.grad for p in c.params]
    c.new_grads()
    assert all(a is not p.grad and torch.equal(a, p.grad) for a, p in zip(before, c.params))
    c.same_grads()
    assert all(a is p.grad for a, p in zip(before, c.params))


@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_a_training_step():
    pytest.importorskip('fastai')
    result = quick(against=['torch', 'fastai'], repeats=1, warmup=0).train(arch='squeezenet1_0', size=32, bs=2)
    assert names(result) == ['optimcb AdamW', 'optimcb AdamW, zero_in_step', 'torch AdamW fused',
                             'fastai Adam'] and not any(r.get('error') for r in result['rows'])
    assert all(0 < r['share'] < r['median'] for r in result['rows']) and 'optimizer ms' in table(result)


def test_tables():
    rows = [dict(name='a', median=0.001, over_floor=2., min=1., first=None),
            dict(name='longer', error='ValueError: no'), dict(name='b', median=0.1)]
    assert table(dict(rows=rows)) == '''\
        median ms  × floor
a           1.000     2.00
b         100.000        –
longer  ValueError: no'''
    assert table(dict(rows=rows), markdown=True).splitlines() == [
        '|  | median ms | × floor |', '| --- | --: | --: |', '| a | 1.000 | 2.00 |', '| b | 100.000 | – |', '| longer | ValueError: no |']
    assert table(dict(rows=rows[1:2])).splitlines()[-1] == 'longer  ValueError: no'


def test_the_command(tiny, capsys, tmp_path):
    args = ['--repeats', '1', '--warmup', '0', '--against', 'torch']
    main(['SGD', 'own_opts:Mine', '--on', 'resnet34', 'large', '--json', str(tmp_path/'times.json'), *args])
    out = capsys.readouterr().out
    assert out.startswith('optimcb ') and 'SGD on large: 1 tensor, 0.0 M elements, float32\n' in out and 'own_opts:Mine on resnet34: 3 tensors' in out
    numbers = json.loads((tmp_path/'times.json').read_text())
    assert numbers['environment'] == environment() and numbers['environment']['threads'] == torch.get_num_threads()
    assert [(r['algorithm'], r['set']) for r in numbers['results']] == [(a, s) for a in ('SGD', 'own_opts:Mine') for s in ('resnet34', 'large')]
    main(['--on', 'large', '--json', '-', '--cold', '--dtype', 'bfloat16', *args])
    assert json.loads(capsys.readouterr().out)['results'][0]['dtype'] == 'bfloat16' # and nothing else


@pytest.mark.parametrize('args, said', [
    (['AdmaW'], "there is no algorithm 'AdmaW'. Did you mean AdamW? There are SGD"), (['lamb'], 'Did you mean Lamb?'), (['zzzz'], "'zzzz'. There are"),
    (['own_opts:Nobody'], "can't import 'own_opts:Nobody' (AttributeError"), (['no_such_module:A'], "No module named 'no_such_module'"),
    (['--on', 'moon'], "invalid choice: 'moon'"), (['--repeats', '0'], 'must be 1 or more'), (['--threads', '0'], 'must be 1 or more'),
    (['--json', 'no/where.json'], "there is no folder 'no'")], ids=lambda o: o[0] if isinstance(o, list) else '')
def test_what_is_wrong_is_said_before_anything_is_measured(tiny, capsys, args, said):
    with pytest.raises(SystemExit) as e: main(args)
    assert e.value.code == 2 and said in capsys.readouterr().err


def test_importing_optimcb_does_not_import_it():
    code = 'import sys, optimcb; assert "optimcb.bench" not in sys.modules'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
    assert not hasattr(optimcb, 'ALGORITHMS') and all(hasattr(bench, k) for k in bench.__all__)


def test_memory_of_training(monkeypatch):
    monkeypatch.setitem(bench.MODELS, 'tiny', lambda: (torch.nn.Sequential(*[torch.nn.Linear(600, 600) for _ in range(5)]), torch.randn(2, 600)))
    usual, inside = (bench.trained('SGD', 'tiny', o, 'float32', 'cpu', 2, 1, 1) for o in (False, True))
    assert usual['grads'] == 5*600*601*4 and usual['title'] == '10 tensors, 1.8 M elements, float32'
    assert 600*600*4 <= inside['grads'] <= (600*600 + 5*600)*4, 'one matrix, and biases that wait'
    text = bench.table(dict(rows=[dict(usual, name='a'), dict(inside, name='b')]))
    assert 'gradients MiB' in text and ('peak MiB' in text) == (usual['peak'] is not None)
