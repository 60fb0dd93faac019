"The examples with pictures run: on digits, on a folder, on the real Imagenette where it is at hand; they go on after a kill, and say in one line what is wrong."
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from urllib.error import URLError

import pytest

pytest.importorskip('fastai')
EXAMPLES = Path(__file__).parent.parent/'examples'
sys.path.insert(0, str(EXAMPLES))

import common  # noqa: E402
import finetune  # noqa: E402
import imagenette  # noqa: E402
import pictures  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
SMALL = ['--pct', '0.1', '--epochs', '1', '--size', '16', '--workers', '0']


def run(capsys, *args, main=imagenette.main):
    main([*map(str, args)])
    return capsys.readouterr().out


def rows(out):
    "The table of results: optimizer, lr, wd, losses, accuracies, seconds"
    return [line.split() for line in out[out.index('optimizer  '):].split('\n\n')[0].splitlines()[1:]]


def test_digits(capsys, tmp_path):
    out = run(capsys, *SMALL, '--opts', 'sgd', 'ranger', '--plot', tmp_path/'losses.png')
    assert [r[0] for r in rows(out)] == ['sgd', 'ranger'] and all(len(r) == 7 and 0 <= float(r[5][:-1]) <= 100 for r in rows(out))
    assert 'about' in out
    assert (tmp_path/'losses.png').read_bytes().startswith(b'\x89PNG')
    again = run(capsys, *SMALL, '--opts', 'ranger', '--plot', tmp_path/'losses.png')
    assert rows(again)[0][1:6] == rows(out)[1][1:6] # the seed fixes weights, batches and augmentation, whoever trained before


@pytest.mark.slow
def test_a_folder_and_a_found_learning_rate(capsys, tmp_path):
    data = pictures.digits_folder(tmp_path/'data')
    assert sum(1 for _ in data.rglob('*.png')) == 1797
    out = run(capsys, *SMALL, '--data', data, '--opts', 'momentum', '--lr', 'find', '--bs', '16', '--plot', tmp_path/'losses.png')
    assert 1e-7 < float(rows(out)[0][1]) < 10


@pytest.mark.skipif('OPTIMCB_DATA' not in os.environ, reason='OPTIMCB_DATA names no folder with imagenette2-160.tgz')
def test_imagenette(tmp_path):
    with tarfile.open(Path(os.environ['OPTIMCB_DATA'])/'imagenette2-160.tgz') as tar:
        members = [m for i, m in enumerate(m for m in tar if m.isfile() and m.name.endswith('.JPEG')) if i % 60 == 0]
        tar.extractall(tmp_path/'home'/'data', members, filter='data')
    args = ['--data', 'imagenette', '--opts', 'sgd', 'yogi', '--epochs', '1', '--size', '32', '--workers', '0']
    done = subprocess.run([sys.executable, EXAMPLES/'imagenette.py', *args], cwd=tmp_path, env={**os.environ, 'FASTAI_HOME': str(tmp_path/'home')},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [r[0] for r in rows(done.stdout)] == ['sgd', 'yogi'] and (tmp_path/'losses.png').exists()


@pytest.mark.parametrize('args, said', [
    (['--opts', 'adm'], "there is no optimizer 'adm'. Did you mean adam? There are adabelief"),
    (['--data', 'nowhere'], "'nowhere' has no folder train"),
    (['--arch', 'resnet19'], "torchvision has no model 'resnet19'"), (['--lr', 'fast'], "--lr must be a number, 'find' or 'auto', not 'fast'"),
    (['--lr', '-1'], '--lr must be more than 0'), (['--pct', '2'], '--pct must be over 0'), (['--epochs', '0'], 'must be 1 or more'),
    (['--size', '0'], 'must be 1 or more'), (['--bs', '0'], 'must be 1 or more'), (['--lr', 'inf'], 'finite'),
    (['--workers', '-1'], 'must be 0 or more'),
    (['--target', '94'], '--target must be an accuracy'), (['--wd', 'much'], "--wd must be a number"), (['--seeds', '0'], '--seeds must be 1 or more'),
    (['--resume'], 'Name it with --json'), (['--arch', 'wrn_22', '--pretrained'], 'no weights of wrn_22'), (['--json', 'no/r.json'], "there is no folder 'no'"),
    (['--plot', 'x.foo'], "--plot must end in one of .png"), (['--plot', '.'], '--plot must end in'),
    (['--arch', 'vit_b_16'], "can't make a vision_learner of vit_b_16"), (['--bs', '2000'], 'fewer than a batch of 2000'),
    (['--plot', 'no/where.png'], "there is no folder 'no' for the plot")], ids=lambda o: o[0] if isinstance(o, list) else '')
def test_what_is_wrong_is_said_in_one_line(args, said):
    with pytest.raises(SystemExit) as e: imagenette.main(args)
    assert str(e.value).startswith('imagenette.py: ') and said in str(e.value) and '\n' not in str(e.value)


def test_a_folder_without_pictures(tmp_path):
    for o in ('train/a', 'val/a'): (tmp_path/o).mkdir(parents=True)
    with pytest.raises(SystemExit, match='has no pictures'): imagenette.main(['--data', str(tmp_path)])


def test_a_share_has_some_of_every_class():
    files = [Path(f'{split}/{label}/{i}.png') for split in ('train', 'val') for label in 'ab' for i in range(10)]
    def share(files, *args): return pictures.share(files, imagenette.arguments(args))
    few = share(files, '--pct', '0.2')
    assert [f.parent.as_posix() for f in few] == ['train/a', 'train/a', 'train/b', 'train/b', 'val/a', 'val/a', 'val/b', 'val/b']
    assert few == share(files[::-1], '--pct', '0.2') != share(files, '--pct', '0.2', '--seed', '1')
    assert len(share(files, '--pct', '0.001')) == 4


def test_no_network_is_one_line(monkeypatch):
    import fastai.data.external
    def untar_data(*args, **kwargs): raise URLError('Name or service not known')
    monkeypatch.setattr(fastai.data.external, 'untar_data', untar_data)
    for data, title in (('imagenette', 'Imagenette'), ('cifar10', 'CIFAR-10')):
        with pytest.raises(SystemExit, match=f"imagenette.py: {title} can't be downloaded .*Is there a network"): imagenette.main(['--data', data])


def folder_of(path, classes, n=4):
    "A folder of small pictures, `n` of each class"
    from PIL import Image
    for split in ('train', 'val'):
        for k, label in enumerate(classes):
            (path/split/label).mkdir(parents=True)
            for i in range(n): Image.new('RGB', (8, 8), (60*k, 50*i, 100)).save(path/split/label/f'{i}.png')
    return path


def test_one_class_only(tmp_path):
    for main in (imagenette.main, finetune.main):
        with pytest.raises(SystemExit, match='has one class only, a'): main(['--data', str(folder_of(tmp_path/main.__module__, 'a'))])
    with pytest.raises(SystemExit, match='has 3 classes. Two halves take four'): finetune.main(['--data', str(folder_of(tmp_path/'three', 'abc'))])


@pytest.mark.parametrize('args, said', [(['--before', '0'], '--before must be 1'), (['--unfrozen', '0'], '--unfrozen must be 1'), (['--spread', '0'], '--spread must be 1'),
                                        (['--arch', 'wrn_22'], 'wrn_22 has no layers'), (['--opts', 'adm'], "no optimizer 'adm'"), (['--data', 'nowhere'], 'no folder train')],
                         ids=lambda o: o[0] if isinstance(o, list) else '')
def test_what_is_wrong_with_fine_tuning(args, said):
    with pytest.raises(SystemExit) as e: finetune.main(args)
    assert str(e.value).startswith('finetune.py: ') and said in str(e.value) and '\n' not in str(e.value)


SHORT = [*SMALL, '--pct', '0.05', '--bs', '8']


def test_seeds_decays_augmentation_and_a_target(capsys, tmp_path):
    args = [*SHORT, '--opts', 'adam_l2', 'adamw', '--seeds', '2', '--wd', 'find', '--tta', '--target', '0.05', '--plot', tmp_path/'losses.png']
    wds, pictures.WDS = pictures.WDS, {'l2': [1e-3], 'decoupled': [0.1]}
    try: out = run(capsys, *args)
    finally: pictures.WDS = wds
    assert 'best decay: adam_l2 0.001, adamw 0.1' in out and 'accuracy against adam_l2, seed by seed' in out
    head = next(line for line in out.splitlines() if line.startswith('optimizer '))
    assert 'with TTA' in head and 'epochs to 0.05' in head and [r[2] for r in rows(out)] == ['0.001', '0.1'] and rows(out)[0].count('±') >= 4


def test_fine_tuning(capsys, tmp_path):
    args = [*SHORT, '--opts', 'sgd', 'adamw', '--seeds', '1', '--before', '1', '--unfrozen', '1', '--plot', tmp_path/'p.png', '--json', tmp_path/'r.json']
    out = run(capsys, *args, main=finetune.main)
    assert '1 epoch on the classes 0, 1, 2, 3, 4' in out and [r[0] for r in rows(out)] == ['sgd', 'adamw'] and '2 runs of 2 epochs' in out
    again = run(capsys, *args, '--resume', main=finetune.main)
    assert rows(again) == rows(out)


def test_interrupted(capsys, tmp_path, monkeypatch):
    "Ctrl-C shows the runs that are done"
    made, learner = [], pictures.learner
    def breaks(*args):
        made.append(args)
        if len(made) == 3: raise KeyboardInterrupt # the first is for the estimate
        return learner(*args)
    monkeypatch.setattr(pictures, 'learner', breaks)
    args = [*SHORT, '--opts', 'sgd', 'adam', '--plot', tmp_path/'p.png', '--json', tmp_path/'r.json']
    with pytest.raises(SystemExit) as e: run(capsys, *args)
    out = capsys.readouterr().out
    assert e.value.code == 130 and [r[0] for r in rows(out)] == ['sgd'] and 'Interrupted' in out and '--resume' in out
    assert [r[0] for r in rows(run(capsys, *args, '--resume'))] == ['sgd', 'adam'] and len(made) == 5


@pytest.mark.slow
@pytest.mark.skipif('OPTIMCB_DATA' not in os.environ, reason='OPTIMCB_DATA names no folder with imagenette2-160.tgz')
def test_a_killed_run_on_imagenette_goes_on_to_the_same_table(tmp_path):
    "5 % of it; the second run is killed in its middle"
    with tarfile.open(Path(os.environ['OPTIMCB_DATA'])/'imagenette2-160.tgz') as tar: tar.extractall(tmp_path/'home'/'data', filter='data')
    args = ['--data', 'imagenette', '--pct', '0.05', '--opts', 'momentum', 'adam', '--epochs', '1', '--size', '32', '--workers', '0']
    env = {**os.environ, 'FASTAI_HOME': str(tmp_path/'home')}
    def start(*more): return subprocess.Popen([sys.executable, EXAMPLES/'imagenette.py', *args, *more], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    file, whole = tmp_path/'r.json', start()
    expected = rows(whole.communicate()[0])
    killed = start('--json', file.name)
    while not file.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    kept = json.loads(file.read_text())['runs']
    assert [o['opt'] for o in kept] == ['momentum']
    out = start('--json', file.name, '--resume').communicate()[0]
    assert [r[:6] for r in rows(out)] == [r[:6] for r in expected] and len(expected) == 2 # all but the seconds
    assert json.loads(file.read_text())['runs'][0] == kept[0]


def test_names():
    assert common.decay_of('adam_l2', common.OPTS['adam_l2']) == common.decay_of('momentum', common.OPTS['momentum']) == 'l2'
    assert common.decay_of('adamw', common.OPTS['adamw']) == 'decoupled'


def test_the_wide_resnet_and_its_parameters():
    import torch
    from models import wrn_22
    model = wrn_22(10)
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19 # 1 + 3 groups of 3 blocks of 2
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10) and sum(p.numel() for p in model.parameters()) > 9e6
