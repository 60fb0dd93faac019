"The main job runs: on digits, on a folder, on the real Imagenette where it is at hand; and says in one line what is wrong."
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.error import URLError

import pytest

pytest.importorskip('fastai')
EXAMPLES = Path(__file__).parent.parent/'examples'
sys.path.insert(0, str(EXAMPLES))

import imagenette  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
SMALL = ['--pct', '0.1', '--epochs', '1', '--size', '16', '--workers', '0']


def run(capsys, *args):
    imagenette.main([*map(str, args)])
    return capsys.readouterr().out


def rows(out):
    return [line.split() for line in out[out.index('optimizer  '):].splitlines()[1:] if line.strip() and 'drawn' not in line]


def test_digits(capsys, tmp_path):
    out = run(capsys, *SMALL, '--opts', 'sgd', 'ranger', '--plot', tmp_path/'losses.png')
    assert [r[0] for r in rows(out)] == ['sgd', 'ranger'] and all(len(r) == 6 and 0 <= float(r[4][:-1]) <= 100
                                                                  for r in rows(out))
    assert (tmp_path/'losses.png').read_bytes().startswith(b'\x89PNG')
    again = run(capsys, *SMALL, '--opts', 'ranger', '--plot', tmp_path/'losses.png')
    assert rows(again)[0][1:5] == rows(out)[1][1:5] # the seed fixes weights, batches and augmentation, whoever trained before


@pytest.mark.slow
def test_a_folder_and_a_found_learning_rate(capsys, tmp_path):
    data = imagenette.digits_folder(tmp_path/'data')
    assert sum(1 for _ in data.rglob('*.png')) == 1797
    out = run(capsys, *SMALL, '--data', data, '--opts', 'momentum', '--lr', 'find', '--bs', '16', '--plot',
              tmp_path/'losses.png')
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
    def share(files, *args): return imagenette.share(files, imagenette.arguments(args))
    few = share(files, '--pct', '0.2')
    assert [f.parent.as_posix() for f in few] == ['train/a', 'train/a', 'train/b', 'train/b', 'val/a', 'val/a', 'val/b', 'val/b']
    assert few == share(files[::-1], '--pct', '0.2') != share(files, '--pct', '0.2', '--seed', '1')
    assert len(share(files, '--pct', '0.001')) == 4


def test_no_network_is_one_line(monkeypatch):
    import fastai.data.external
    def untar_data(*args, **kwargs): raise URLError('Name or service not known')
    monkeypatch.setattr(fastai.data.external, 'untar_data', untar_data)
    with pytest.raises(SystemExit, match="imagenette.py: Imagenette can't be downloaded .*Is there a network"):
        imagenette.main(['--data', 'imagenette'])
