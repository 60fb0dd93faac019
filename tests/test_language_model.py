"The language model's weights go the way they go with torch's optimizers; text is split by file; errors are one line."
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip('fastai')
sys.path.insert(0, str(Path(__file__).parent.parent/'examples'))

import language_model as lm  # noqa: E402
from fastai.callback.core import Callback  # noqa: E402
from fastai.callback.training import GradientClip  # noqa: E402
from fastai.optimizer import OptimWrapper  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
TINY = ['--kb', '3', '--emb', '12', '--hid', '16', '--bs', '8', '--seq', '8', '--epochs', '2', '--drop', '0.1']
TORCH = {'sgd': (torch.optim.SGD, dict(momentum=0.9)), 'adam_l2': (torch.optim.Adam, {}), 'adamw': (torch.optim.AdamW, {}),
         'amsgrad': (torch.optim.AdamW, dict(amsgrad=True))}


class Weights(Callback):
    "Keeps the weights after each step"
    def before_fit(self): self.seen = []
    def after_step(self): self.seen.append(torch.cat([p.detach().flatten() for p in self.learn.model.parameters()]))


def maker(a): return lm.learner_maker(*lm.tokens(*lm.texts(a), a), a)


def trained(make_learner, opt_func, kwargs, cbs=()):
    set_seed(42, reproducible=True)
    learn = make_learner(opt_func)
    learn.model.double() # in float32, an ulp grows to 1e-3 in 50 steps of Adam
    learn.wd_bn_bias = True # fastai spares biases, which torch's optimizers don't know of
    weights = Weights()
    learn.add_cbs([weights, *cbs])
    set_seed(42, reproducible=True)
    with learn.no_bar(), learn.no_logging(): lm.fit(learn, 2, **kwargs)
    return torch.stack(weights.seen)


ALL = [(name, schedule, 'awd_lstm') for name in TORCH for schedule in ('one-cycle', 'flat')] + [('adamw', 'one-cycle', 'qrnn')]


@pytest.mark.parametrize('name, schedule, arch', ALL, ids=' '.join)
def test_a_trajectory_is_that_of_torchs_optimizer(name, schedule, arch):
    a = lm.arguments([*TINY, '--opts', name, '--schedules', schedule, '--arch', arch, '--wd', '0.01'])
    make_learner = maker(a)
    [(f, kwargs)] = lm.choices(a).values()
    kwargs |= {'lr': 0.5, 'wd': 0.} if name == 'sgd' else {'lr': 1e-3}
    if name == 'sgd': f = partial(f, mom=0.9)
    opt, options = TORCH[name]
    ours = trained(make_learner, f, kwargs)
    kwargs.pop('nonmono', None) # averages are beside the trajectory
    theirs = trained(make_learner, partial(OptimWrapper, opt=opt, **options), kwargs, [GradientClip(a.clip)])
    assert len(ours) == len(theirs) >= 50
    moved = (ours[49] - ours[0]).abs().max()
    assert (ours[:50] - theirs[:50]).abs().max() < 1e-5 < 1e-2 < moved


def test_flat_sgd_averages_once_the_loss_stops_falling():
    a = lm.arguments([*TINY, '--opts', 'sgd', '--schedules', 'flat', '--nonmono', '1', '--epochs', '1'])
    [(f, kwargs)] = lm.choices(a).values()
    starts = {}
    for lr in (0.5, 1e-9): # falling; the same over and over
        learn = maker(a)(f)
        with learn.no_bar(), learn.no_logging(): lm.fit(learn, 4, **{**kwargs, 'lr': lr, 'wd': 0.})
        starts[lr] = learn.opt.hypers[0]['swa_start']
    steps = len(learn.dls.train)
    assert starts[0.5] == lm.NEVER and starts[1e-9] in {2*steps, 3*steps, lm.NEVER}


def test_averaged_weights_are_validated():
    a = lm.arguments([*TINY, '--opts', 'sgd', '--schedules', 'flat'])
    [(f, kwargs)] = lm.choices(a).values()
    learn = maker(a)(f)
    trigger, _ = cbs = lm.averaging(1)
    losses = iter([3., 2., 4., 1.])
    class Losses(Callback):
        order = 60
        def after_epoch(self): self.learn.recorder.values[-1][1] = next(losses)
    weights = Weights()
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1., wd=0., cbs=[*cbs, Losses(), weights])
    steps = len(learn.dls.train)
    assert learn.opt.hypers[0]['swa_start'] == 3*steps and trigger.averages
    now = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    assert torch.allclose(now, torch.stack(weights.seen[3*steps:]).mean(0), atol=1e-5)


def run(capsys, *args):
    lm.main([*map(str, args)])
    return capsys.readouterr().out


def test_the_whole_run_with_a_search_and_resumed(capsys, tmp_path):
    args = [*TINY, '--epochs', '1', '--opts', 'adamw', 'sgd', '--schedules', 'flat', '--seeds', '2', '--plot', tmp_path/'p.png', '--json', tmp_path/'r.json']
    out = run(capsys, *args)
    assert 'best decay: adamw flat' in out and (tmp_path/'p.png').exists() and 'against adamw flat' in out
    table = out[out.index('optimizer  '):]
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ['adamw', 'sgd'] and '±' in table
    assert len(json.loads((tmp_path/'r.json').read_text())['runs']) == len(json.loads((tmp_path/'r.search.json').read_text())['runs']) == 4
    again = run(capsys, *args, '--resume')
    assert again[again.index('optimizer  '):] == table


def test_tokens_of_several_bytes(tmp_path):
    pytest.importorskip('tokenizers')
    (tmp_path/'train.txt').write_text('the cat sat on the mat, and the dog sat on the cat. '*100)
    (tmp_path/'valid.txt').write_text('the dog sat on the mat. '*100)
    a = lm.arguments(['--data', str(tmp_path), '--tokens', 'bpe', '--vocab', '300', '--bs', '4', '--seq', '8'])
    train, valid, n = lm.tokens(*lm.texts(a), a)
    assert n <= 300 + lm.SPECIAL and max(map(max, train + valid)) < n and min(map(min, train + valid)) >= lm.SPECIAL
    assert len(train[0]) < 5200/3 and len(valid) == 1


def test_text_is_split_by_file():
    a = lm.arguments(['--kb', '20'])
    train, valid = lm.texts(a)
    assert sum(map(len, train)) == 20000 and sum(map(len, valid)) == 5000 and not {*train} & {*valid}
    assert lm.texts(a) == (train, valid) and len(train) > 5


@pytest.mark.parametrize('args, said', [
    (['--opts', 'adm'], "there is no optimizer 'adm'"), (['--data', 'nowhere'], "there is no folder 'nowhere'"), (['--kb', '0'], '--kb must be 1 or more'),
    (['--clip', '0'], '--clip must be more than 0'), (['--drop', '-1'], '--drop must be 0 or more'), (['--vocab', '10'], '--vocab must be 256 or more'),
    (['--kb', '1', '--bs', '64', '--seq', '64'], 'fewer than a batch of 4096'), (['--wd', '-1'], '--wd must be 0 or more'), (['--seeds', '0'], '--seeds must be 1'),
    (['--lr', 'find'], '--lr find is for pictures'), (['--resume'], 'Name it with --json'), (['--opts', 'ranger'], "ranger doesn't take gradient clipping"),
    (['--opts', 'adam', 'adam'], 'names an optimizer twice'), (['--json', 'no/r.json'], "there is no folder 'no'")], ids=lambda o: o[0] if isinstance(o, list) else '')
def test_what_is_wrong_is_said_in_one_line(args, said):
    with pytest.raises(SystemExit) as e: lm.main(args)
    assert str(e.value).startswith('language_model.py: ') and said in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('files, said', [({}, 'has no text'), ({'a.bin': b'\xff\x00'}, 'has no text'), ({'a.txt': b' \n'}, 'has no text'),
                                         ({'a.txt': b'text'}, 'has one file of text')], ids=['nothing', 'no text', 'empty', 'one file'])
def test_a_folder_without_text(tmp_path, files, said):
    for name, content in files.items(): (tmp_path/name).write_bytes(content)
    with pytest.raises(SystemExit, match=said): lm.main(['--data', str(tmp_path)])


def test_a_file_of_results_is_not_overwritten(tmp_path):
    (file := tmp_path/'r.json').write_text('mine')
    with pytest.raises(SystemExit, match='is there already.*--resume'): lm.main(['--json', str(file)])
    with pytest.raises(SystemExit, match='holds no runs'): lm.main([*TINY, '--wd', '0', '--json', str(file), '--resume'])
    assert file.read_text() == 'mine'
