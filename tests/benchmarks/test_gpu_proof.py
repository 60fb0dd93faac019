"The proof for a GPU: what it reports, and that a crash or a hang costs one item. CI runs all of it, dry, on the CPU."
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2]/'benchmarks'


@pytest.fixture(autouse=True)
def path(monkeypatch): monkeypatch.syspath_prepend(str(BENCHMARKS))


def times(done, busy, host, **more): return dict(done=done, busy=busy, host=host, least=done, **more)


def run(**more):
    "Results such as a machine might have"
    bench = {'AdamW large': {'optimcb': times(0.4e-3, 0.3e-3, 50e-6, extra=2**20), 'optimcb again': times(0.44e-3, 0.3e-3, 50e-6),
                             'torch fused': times(0.5e-3, 0.4e-3, 100e-6), 'bytes': 1.2e9, 'floor': 0.25e-3},
             'Lion resnet34': {'error': 'RuntimeError: no memory'}}
    items = dict(machine={'machine': dict(name='A Card', torch='2.9'), 'bandwidth': {'copy 256 MiB': 4e12, 'copy 1024 MiB': 5e12}},
                 tests={'pytest': dict(ran=30, skipped=1, failed={'test_a': 'AssertionError'}, ok=False)},
                 agree0={'float64 Adam': dict(apart=1e-12, ok=True), 'float64 SOAP': dict(skipped='no kernel')},
                 agree1={'float32 Adam': dict(apart=1., ok=False)},
                 bench=bench, launches={'optimcb AdamW': dict(kernels=1, copies=1)}, first={'AdamW cold': dict(first=0.9)},
                 host={'optimcb AdamW 110': dict(same=20e-6, new=30e-6)},
                 train_adam={f'seed {i}': dict(lr=1e-3, train_loss=1., valid_loss=1.1, accuracy=0.8 + i/100, seconds=60., data='Imagenette') for i in range(3)})
    sections = {k: dict(status='done', seconds=1., items=v, log='') for k, v in items.items()}
    return dict(date='2026-01-02', dry=False, machine='A Card', sections=sections) | more


def test_the_summary_answers_in_short():
    from proof.report import summary
    assert summary(run()) == [
        '29 of 30 tests for a GPU pass', '1 of 2 comparisons agree and wait for nothing',
        'AdamW large: 0.80 × torch fused from idle to done, host 50 µs, 80 % of copy bandwidth',
        'kernels of a step: optimcb AdamW 1', 'first step, s: AdamW cold 0.90', 'train_adam: Imagenette, accuracy 80.0%, 81.0%, 82.0%']

def test_a_dry_run_tells_no_times():
    from proof.report import readme_table, summary
    assert not any('×' in o or ' s' in o for o in summary(run(dry=True)))
    assert readme_table(None) == 'Not measured on a GPU yet.'

def test_the_report_has_a_row_for_each_measurement_and_names_what_failed():
    from proof.report import report
    text = report(run())
    assert '# GPU proof: A Card, 2026-01-02\n' in text
    assert '| AdamW large | torch fused | 0.4 | 0.80 | 10 | 0.3 | 0.75 | 1.20 | 80 | 50 | 0.50 | 1.0 |' in text
    assert '- bench, Lion resnet34: {"error": "RuntimeError: no memory"}' in text
    assert '- agree0, float64 SOAP: {"skipped": "no kernel"}' in text and '- agree1, float32 Adam: {"apart": 1.0, "ok": false}' in text
    assert '| optimcb AdamW 110 | 20.0 | 30.0 | – | – | – | – |' in text
    assert '| train_adam, seed 2 | 0.001 | 1.0000 | 1.1000 | 82.0% | 60 |' in text

def test_the_readme_shows_the_newest_run(tmp_path):
    from proof.report import newest, readme_table
    assert newest(tmp_path) is None
    for date, dry in (('2026-01-01', False), ('2026-03-01', False), ('2026-02-01', False), ('2026-04-01', True)):
        (tmp_path/f'gpu-{date}.json').write_text(json.dumps(run(date=date, dry=dry)))
    found = newest(tmp_path)
    assert found['date'] == '2026-03-01'
    assert readme_table(found).splitlines() == [
        'A Card, 2026-03-01:', '', '| step | idle to done, ms | over | % of copy bandwidth | host, µs |', '| --- | --: | --: | --: | --: |',
        '| AdamW large | 0.4 | 0.80 × torch fused | 80 | 50 |', '', '- train_adam: Imagenette, accuracy 80.0%, 81.0%, 82.0%']

def test_results_are_written_under_the_machines_name(tmp_path):
    import gpu_proof
    path = gpu_proof.write(found := run(), tmp_path)
    assert path.name == 'gpu-a-card-2026-01-02.json' and json.loads(path.read_text()) == found
    assert (tmp_path/'gpu-a-card-2026-01-02.md').read_text().startswith('# GPU proof: A Card')


# Items

def test_an_item_that_fails_is_an_item_that_has_failed(tmp_path):
    from proof.results import Results, read
    results = Results(tmp_path/'a.json')
    assert results.attempt('good', lambda: dict(ok=True)) == dict(ok=True)
    assert results.attempt('bad', lambda: 1/0)['error'].startswith('ZeroDivisionError: division by zero [test_gpu_proof.py')
    again = Results(tmp_path/'a.json')
    assert again.attempt('good', lambda: pytest.fail("it is there")) == dict(ok=True)
    assert read(tmp_path/'a.json', 'done').keys() == {'good', 'bad'} and read(tmp_path/'none.json', 'done') == {}

def test_the_item_in_which_a_process_ended_is_known(tmp_path):
    from proof.results import Results, read
    (tmp_path/'a.json').write_text(json.dumps(dict(items={'first': {}}, begun='second')))
    assert read(tmp_path/'a.json', 'out of time')['second'] == {'error': 'not finished: out of time'}
    assert Results(tmp_path/'a.json').attempt('second', dict) == {'error': 'the process ended in it'}


ITEMS = '''
import os, sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from proof.results import Results
results = Results(Path({path!r}))
results.attempt('first', dict)
results.attempt('crash', lambda: os._exit(9))
results.attempt('third', dict)
results.attempt('hang', lambda: time.sleep(60))
'''

def test_a_crash_and_a_hang_cost_one_item_each(tmp_path, monkeypatch):
    import gpu_proof
    script = tmp_path/'script.py'
    script.write_text(ITEMS.format(benchmarks=str(BENCHMARKS), path=str(tmp_path/'one.json')))
    monkeypatch.setattr(gpu_proof, '__file__', str(script))
    section = gpu_proof.Section('one', SimpleNamespace(work=tmp_path, dry=True, data=None, epochs=1, seeds=[1]), 30)
    deadline = time.monotonic() + 25
    while 'hang' not in (tmp_path/'one.json').read_text() if (tmp_path/'one.json').exists() else True:
        assert section.status() is None and time.monotonic() < deadline
        time.sleep(0.05)
    section.end = time.time()
    status = section.status()
    assert status == 'out of time'
    assert section.found(status)['items'] == {'first': {}, 'crash': {'error': 'the process ended in it'}, 'third': {},
                                              'hang': {'error': 'not finished: out of time'}}


# The command

def test_what_is_run():
    import gpu_proof
    usual = gpu_proof.wanted(gpu_proof.arguments([]))
    assert {'machine', 'tests', 'agree0', 'agree5', 'graphs', 'bench', 'train_sgd'} <= set(usual) and 'sweep' not in usual
    assert gpu_proof.wanted(gpu_proof.arguments(['--only', 'train', 'sweep'])) == [*(f'train_{o}' for o in gpu_proof.OPTIMIZERS), 'sweep']
    assert 'train_sgd' not in gpu_proof.wanted(gpu_proof.arguments(['--skip', 'train']))
    assert 'agree5' not in gpu_proof.wanted(gpu_proof.arguments(['--dry']))

def test_a_section_that_is_not_there_is_refused(capsys):
    import gpu_proof
    with pytest.raises(SystemExit): gpu_proof.arguments(['--only', 'bensh'])
    assert "there is no section 'bensh'" in capsys.readouterr().err

def test_the_proof_has_a_limit_for_each_section():
    import gpu_proof
    assert all(seconds > 0 and when in ('correct', 'alone', 'train', 'request') for seconds, when in gpu_proof.PLAN.values())
    assert [o for o in gpu_proof.PLAN if o.startswith('agree')] == [f'agree{i}' for i in range(gpu_proof.SHARDS)]
