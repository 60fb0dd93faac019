"Several processes, started as one starts them, on CPUs: DDP, FSDP2, tensor parallel, ZeRO, fastai, and the example."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import shards_on_cpu

from optimcb import Adam

HERE = Path(__file__).parents[1]
EXAMPLES = HERE.parent/'examples'
sys.path.insert(0, str(EXAMPLES))

import distributed  # noqa: E402

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()),
                                reason='torch was built without gloo')
PATIENCE = 200 # seconds, with which a process that hangs is ended


def torchrun(n, script, *args, cwd=None, **env):
    "Run a script in `n` processes; what they print. Nothing but their output tells what was wrong"
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '',
           'PYTHONPATH': os.pathsep.join([str(HERE.parent), *sys.path]), **env}
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n),
               str(script), *map(str, args)]
    done = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try: out, late = done.communicate(timeout=PATIENCE)[0], ''
    except subprocess.TimeoutExpired:
        done.terminate() # it ends the processes that it has started
        out, late = done.communicate()[0], f'\nnot done after {PATIENCE} seconds'
    assert done.returncode == 0 and not late, out + late
    return out


@pytest.mark.parametrize('n, checks, engines', [
    (2, 'ddp accumulated unused zero zero_resumed', ['auto']),
    pytest.param(2, 'beside', ['auto'], marks=shards_on_cpu),
    pytest.param(2, 'fsdp partly frozen mixed clipped tensor_parallel failed watched resumed scaled noted', ['eager', 'fused'],
                 marks=[pytest.mark.slow, shards_on_cpu]),
    pytest.param(4, 'ddp fsdp two_meshes shards_of_shards partly zero', ['fused'], marks=[pytest.mark.slow, shards_on_cpu])],
    ids=['2, data parallel', '2, beside', '2, sharded', '4'])
def test_many_processes_do_what_one_does(n, checks, engines):
    assert 'all is well' in torchrun(n, HERE/'distributed_worker.py', *checks.split(), '--engines', *engines)


def test_fastai():
    pytest.importorskip('fastai')
    pytest.importorskip('accelerate')
    assert 'all is well' in torchrun(2, HERE/'distributed_fastai.py')


@shards_on_cpu
def test_the_example(tmp_path, capsys):
    "Trained sharded over two processes, which build their kernels at the same time; and what they have saved, loaded by one"
    out = torchrun(2, EXAMPLES/'distributed.py', '--fsdp', '--epochs', 4, cwd=tmp_path,
                   OPTIMCB_CACHE_DIR=str(tmp_path/'cache'))
    said = [line for line in out.splitlines() if 'accuracy' in line]
    assert len(said) == 1 and said[0].startswith('2 × cpu, sharded: accuracy ')
    distributed.main(['--epochs', '4', '--checkpoint', str(tmp_path/'one')])
    alone = capsys.readouterr().out
    assert alone.startswith('1 × ') and alone.split('accuracy ')[1].split(',')[0] == said[0].split('accuracy ')[1].split(',')[0]
    model = distributed.network()
    opt = distributed.Clipped(model.parameters(), lr=1.)
    distributed.load(model, opt, tmp_path/'checkpoint')
    valid = distributed.digits('cpu')[1]
    assert f'{distributed.accuracy(model, valid):.1%}' in said[0] and 0.8 < distributed.accuracy(model, valid)
    assert {s['step'] for s in opt.state.values()} == {4 * (1437//64)} and opt.param_groups[0]['lr'] < 1e-4


def test_parameters_may_be_elsewhere_only_where_there_are_processes():
    "Who deals parameters out makes groups without any. Alone, that is a mistake"
    with pytest.raises(ValueError, match='empty'): Adam([{'params': []}], lr=0.1)
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match='empty'): Adam([], lr=0.1)
        with pytest.raises(ValueError, match='empty'): Adam([[]], lr=0.1)
        opt = Adam([{'params': []}, {'params': [], 'lr': 0.2}], lr=0.1)
        opt.step()
        opt.zero_grad()
        opt.load_state_dict(opt.state_dict())
        assert [g['lr'] for g in opt.param_groups] == [0.1, 0.2] and str(opt.explain())
        opt.add_param_group({'params': [torch.nn.Parameter(torch.ones(2))]})
        assert len(opt.all_params()) == 1
    finally: dist.destroy_process_group()
