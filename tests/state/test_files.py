"State in files: everything comes back as it was, and a file is either whole or refused."
import builtins
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import copies, params, set_grads
from torch import nn

import optimcb as oc
from optimcb import Optimizer, load_state, save_state
from optimcb.state import files


@pytest.fixture(params=['.pt', '.safetensors'])
def path(request, tmp_path):
    if request.param == '.safetensors': pytest.importorskip('safetensors')
    return tmp_path/f'opt{request.param}'


def advance(opt, ps, steps):
    for i in steps:
        set_grads(ps, i)
        opt.step()


def same(a, b):
    "Equal values of equal types, to the bit and to the stride"
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and files._crc32(a) == files._crc32(b)
    if isinstance(a, dict): return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@pytest.mark.parametrize('engine', ['eager', 'auto'])
@pytest.mark.parametrize('algo', [oc.Adam, partial(oc.SGD, mom=0.9), oc.NAdam, oc.ranger], ids=['adam', 'sgd', 'nadam', 'ranger'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_goes_on_bit_for_bit(path, algo, engine, dtype):
    ps = params([(3, 4), (5,), (2, 3, 2, 2), (), (0,)], dtype=dtype)
    ps[2] = nn.Parameter(ps[2].detach().to(memory_format=torch.channels_last))
    opt = algo([ps[:1], ps[1:]], lr=slice(1e-3, 0.1+0.2))
    opt.engine = engine
    opt.state[ps[0]]['do_wd'] = False
    advance(opt, ps, range(4))
    save_state(opt, str(path))
    qs = copies(ps)
    other = algo([qs[:1], qs[1:]], lr=5.)
    other.engine = engine
    assert load_state(other, str(path)) is None
    assert same(opt.state_dict(), other.state_dict()) and other.state[qs[0]]['do_wd'] is False
    advance(opt, ps, range(4, 9))
    advance(other, qs, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(ps, qs))


def test_everything_keeps_its_type(path):
    names = ('float64', 'float32', 'float16', 'bfloat16', 'complex64', 'complex128', 'bool', 'uint8', 'int8', 'int16', 'int32', 'int64',
             'uint16', 'uint32', 'uint64', 'float8_e4m3fn', 'float8_e5m2', 'float8_e8m0fnu')
    dtypes = [getattr(torch, k) for k in names if hasattr(torch, k)] # torch 2.6 lacks the last one
    odd = torch.arange(24.).reshape(2, 3, 4)
    extra = {
        'tensors': [torch.tensor([0, 1, 1, 0, 1], dtype=torch.uint8).repeat(16)[:64].view(d) if d != torch.bool else torch.tensor([True, False]) for d in dtypes],
        'scalars': [torch.tensor(1.5), torch.tensor(3, dtype=torch.int64), torch.tensor(True), torch.tensor(1+2j, dtype=torch.complex128)],
        'layouts': [odd.permute(2, 0, 1), odd.transpose(0, 1), odd[:, ::2], odd[..., 1], torch.ones(1, 3).expand(2, 3), torch.zeros(0, 3), torch.zeros(3, 0).t()],
        'numbers': [0.1+0.2, 1e-320, -0., float('inf'), -float('inf'), float('nan'), 5, -2**70, True, False, None],
        'containers': ((1, (2.,)), [], (), {}, [[()]], {'a': {'b': {}}}), 'text': ['', 'naïve\n"\x00', '!tensor'],
        'keys': {1: 'a', '1': 'b', None: 'c', (1, 2.): 'd', True and 2.5: 'e', '!tensor': ['x'], 'a.b': torch.ones(1), 'a': {'b': torch.zeros(1)}},
        '!tuple': [1], 'model': nn.BatchNorm1d(3).state_dict()}
    opt = Optimizer(params([(2,)]), lambda p, seen=None: {'seen': (p.grad > 0, [1, None], 'a')}, lr=0.1)
    advance(opt, opt.param_lists[0], range(1))
    save_state(opt, path, extra=extra)
    other = Optimizer(params([(2,)]), opt.cbs, lr=0.5)
    back = load_state(other, path)
    assert [k for k, v in files.copied(extra).items() if not same(v, back[k])] == [] and same(opt.state_dict(), other.state_dict())
    back['layouts'][0].add_(1) # what comes back is nobody else's


def test_a_type_of_a_later_torch_is_said(monkeypatch, tmp_path):
    path = tmp_path/'a.safetensors'
    pytest.importorskip('safetensors')
    monkeypatch.setattr(files, '_is_native', lambda dtype: False)
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path, extra=[torch.ones(4, dtype=torch.float8_e5m2)])
    before = opt.state_dict()
    monkeypatch.setattr(torch, 'float8_e5m2', None)
    with pytest.raises(ValueError, match=r'float8_e5m2, which torch \S+ lacks. Load it with the torch that saved it'):
        load_state(opt, path)
    assert same(opt.state_dict(), before)


def test_tied_and_aliased_tensors_are_saved_apart(path):
    t = torch.ones(3)
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path, extra=[t, t, t[:2]])
    assert same(load_state(opt, path), [t, t, t[:2]])


def test_safetensors_are_flat_and_named(tmp_path):
    library = pytest.importorskip('safetensors.torch')
    model = nn.Linear(2, 3)
    opt = oc.Adam(model.parameters(), lr=0.1)
    advance(opt, list(model.parameters()), range(1))
    for m, names in ((None, ['state.0', 'state.1']), (model, ['weight', 'bias'])):
        save_state(opt, tmp_path/'a.safetensors', model=m)
        assert set(library.load_file(tmp_path/'a.safetensors')) == {f'{n}.{k}' for n in (names if m else '01')
                                                                    for k in ('grad_avg', 'sqr_avg')}


def test_goes_by_the_models_names(path):
    model, other = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    opt = oc.Adam(model.parameters(), lr=0.1)
    advance(opt, list(model.parameters()), range(2))
    save_state(opt, path, model=model)
    assert 'param_names' not in opt.param_groups[0]
    back = oc.Adam([list(other[1].parameters()), list(other[0].parameters())], lr=0.5)
    load_state(back, path, model=other)
    assert same(oc.named_state(opt, model), {k: oc.named_state(back, other)[k] for k in oc.named_state(opt, model)}) and list(back.hypers.itemgot('lr')) == [0.1, 0.1]
    with pytest.raises(ValueError, match='opt.*2 parameter groups|opt.*1 parameter groups'): load_state(back, path)
    part = oc.Adam(other[1].parameters(), lr=0.5)
    with pytest.warns(UserWarning, match=r'Left: 0.bias, 0.weight'): load_state(part, path, model=other)
    with pytest.raises(ValueError, match='not in the model'): save_state(opt, path, model=other)
    changed = oc.SGD(other.parameters(), lr=0.5, mom=0.9)
    with pytest.warns(UserWarning, match='Taken: grad_avg; left: sqr_avg, step'): load_state(changed, path, model=other)
    assert torch.equal(changed.state[other[1].bias]['grad_avg'], opt.state[model[1].bias]['grad_avg'])


def test_of_other_steppers_takes_what_fits(path):
    ps = params()
    opt = oc.Adam(ps, lr=0.1)
    advance(opt, ps, range(2))
    save_state(opt, path)
    other = oc.SGD(copies(ps), lr=0.5, mom=0.9)
    with pytest.warns(UserWarning, match='Taken: grad_avg; left: sqr_avg, step'): load_state(other, path)
    assert other.hypers[0]['lr'] == 0.1


def test_reads_what_torch_saved(tmp_path):
    ps = params()
    theirs = torch.optim.AdamW(ps, lr=0.1)
    advance(theirs, ps, range(2))
    torch.save(theirs.state_dict(), tmp_path/'a.pth')
    for algo, said in ((oc.AdamW, []), (oc.Lamb, ['torch.optim.Adam'])):
        opt = algo(copies(ps), lr=0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            assert load_state(opt, tmp_path/'a.pth') is None
        assert len(caught) == len(said) and all(s in str(w.message) for s, w in zip(said, caught)) and opt.state[opt.param_lists[0][0]]['step'] == 2
    ours = oc.AdamW(ps, lr=0.3)
    torch.save(ours.state_dict(), tmp_path/'b.pt')
    load_state(opt, tmp_path/'b.pt', model=nn.ParameterList(opt.param_lists[0]))
    assert opt.hypers[0]['lr'] == 0.3


def test_reads_what_fastai_saved(tmp_path):
    fo = pytest.importorskip('fastai.optimizer')
    ps = params()
    theirs = fo.Lookahead(fo.Adam(ps, lr=0.1))
    advance(theirs, ps, range(2))
    theirs.hypers[0]['mom'] = np.float64(0.8)
    torch.save(theirs.state_dict(), tmp_path/'a.pt')
    opt = oc.Lookahead(oc.Adam(copies(ps), lr=0.5))
    load_state(opt, tmp_path/'a.pt', model=nn.ParameterList(opt.param_lists[0]))
    assert opt.count == 2 and opt.state[opt.param_lists[0][0]]['step'] == 2 and opt.hypers[0]['lr'] == 0.1 and type(opt.hypers[0]['mom']) is float


# Damage

class Running:
    "An optimizer under way, and whether it is as it was"
    def __init__(self):
        self.ps = params([(3,), (2, 2)])
        self.opt = oc.Adam(self.ps, lr=0.5)
        advance(self.opt, self.ps, range(2))
        self.before, self.runner, self.states = self.opt.state_dict(), self.opt._running, [self.opt.state[p]
                                                                                           for p in self.ps]

    def is_as_it_was(self):
        return (same(self.before, self.opt.state_dict()) and self.opt._running is self.runner and 'x' not in self.opt.hyper_names
                and all(self.opt.state[p] is s for p, s in zip(self.ps, self.states)))


def saved(path):
    ps = params([(3,), (2, 2)])
    opt = Optimizer(ps, oc.Adam.cbs, lr=0.1)
    opt.set_hyper('x', 1.)
    advance(opt, ps, range(1))
    save_state(opt, path, extra={'model': ps[0].detach(), 'step': 7})
    return path.read_bytes()


def refused(running, path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError) as e: load_state(running.opt, path)
    assert str(path) in str(e.value) and running.is_as_it_was(), str(e.value)
    return str(e.value)


def test_a_file_that_is_cut_off_is_refused(path):
    running, data = Running(), saved(path)
    for n in {*range(0, len(data), len(data)//30), 1, 7, 8, 9, len(data)-1}: refused(running, path, data[:n])


def test_a_flipped_byte_is_refused_or_of_no_matter(path):
    running, data = Running(), saved(path)
    whole = files._read(path)
    noticed = 0
    for i in range(0, len(data), len(data)//120):
        damaged = bytearray(data)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        try: extra = load_state(running.opt, path)
        except ValueError as e:
            assert str(path) in str(e) and running.is_as_it_was()
            noticed += 1
        else: # in what nobody reads
            assert same(extra, whole['saved_extra']) and same(running.opt.state_dict()['state'], dict(whole['state'])) and running.opt.hypers[0]['lr'] == 0.1
            running = Running()
    assert noticed > 30
    at = data.find(whole['state'][1]['sqr_avg'].numpy().tobytes())
    assert 'checksum' in refused(running, path, data[:at] + bytes([data[at] ^ 1]) + data[at+1:])


def test_foreign_files_are_refused(path, tmp_path):
    class Code:
        def __reduce__(self): return exec, (f'open({str(tmp_path/"ran")!r}, "w")',)
    running = Running()
    with_code = tmp_path/'code.pt'
    torch.save({'state': {}, 'param_groups': Code()}, with_code)
    foreign = [b'', b'\0'*100, b'PK\3\4', b'hello'*50, pickle.dumps({'state': Code()}),
               with_code.read_bytes(), b'{"state": {}}']
    torch.save([1, 2], tmp_path/'list.pt')
    torch.save({'model': 1, 'opt': 2}, tmp_path/'model.pt')
    for data in [*foreign, (tmp_path/'list.pt').read_bytes(), (tmp_path/'model.pt').read_bytes()]:
        refused(running, path, data)
    if path.suffix == '.safetensors':
        import safetensors.torch
        assert 'no `optimcb`' in refused(running, path, safetensors.torch.save({'a': torch.ones(2)}))
    assert not (tmp_path/'ran').exists()


def test_of_another_model_is_refused(path):
    running = Running()
    save_state(oc.Adam(params([(4,), (2, 2)]), lr=0.1), path)
    assert 'shape [4] for parameter 0' in refused(running, path, path.read_bytes())


def test_what_a_file_cant_hold_is_refused_and_the_old_one_stays(path):
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path)
    before = path.read_bytes()
    for extra, where in (({'a': [object()]}, r"state\['saved_extra'\]\['a'\]\[0\] is <object"),
                         (nn.Linear(1, 1), 'Linear'), (torch.eye(2).to_sparse(), 'sparse_coo')):
        with pytest.raises(TypeError, match=where): save_state(opt, path, extra=extra)
    for name in ('opt', 'opt.safetensor', 'opt.bin'):
        with pytest.raises(ValueError, match='must end in .pt'): save_state(opt, path.with_name(name))
        with pytest.raises(ValueError, match='must end in .pt'): load_state(opt, path.with_name(name))
    with pytest.raises(FileNotFoundError): load_state(opt, path.with_name(f'none{path.suffix}'))
    with pytest.raises(FileNotFoundError): save_state(opt, path.parent/'none'/path.name)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_disk_that_is_full_leaves_the_old_file(path, monkeypatch):
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path)
    before = path.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    for name in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(files.os, name, full)
            with pytest.raises(OSError, match='No space'): save_state(opt, path, extra=1)
        assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_link_stays_a_link(path):
    opt = oc.SGD(params(), lr=0.1)
    link = path.with_name(f'link{path.suffix}')
    link.symlink_to(path)
    save_state(opt, link)
    assert link.is_symlink() and path.exists() and load_state(opt, link) is None


def test_without_safetensors_it_is_said(tmp_path, monkeypatch):
    real = builtins.__import__
    def missing(name, *args, **kwargs):
        if name.startswith('safetensors'): raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', missing)
    (tmp_path/'a.safetensors').write_bytes(b'1')
    for f in (save_state, load_state):
        with pytest.raises(ImportError, match='pip install safetensors'):
            f(oc.SGD(params(), lr=0.1), tmp_path/'a.safetensors')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_training_that_is_killed_again_and_again_goes_on_bit_for_bit(path):
    done = subprocess.run([sys.executable, str(Path(__file__).parents[1]/'interrupted.py'), str(path.parent), path.suffix], capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(Path(oc.__file__).parents[1]), 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0 and 'kills' in done.stdout, done.stdout + done.stderr


def test_a_file_that_is_replaced_while_it_is_read_is_one_of_both(path, monkeypatch):
    "The old file, to its end, whatever takes its name after it was opened"
    ps = params([(3,), (2, 2)])
    opt = oc.SGD(ps, lr=0.1, mom=0.9)
    save_state(opt, path, extra=dict(which='old', t=torch.ones(50)))
    old, real = path.read_bytes(), open
    def replaced(p, *args, **kwargs):
        f = real(p, *args, **kwargs)
        monkeypatch.undo() # for the save
        save_state(oc.SGD(ps, lr=0.2, mom=0.9), path,
                   extra=dict(which='new, and longer', t=torch.ones(5), u=torch.ones(500)))
        return f
    monkeypatch.setattr(files, 'open', replaced, raising=False)
    assert load_state(opt, path)['which'] == 'old' and opt.hypers[0]['lr'] == 0.1 and path.read_bytes() != old
    assert load_state(opt, path)['which'] == 'new, and longer' and opt.hypers[0]['lr'] == 0.2


def test_a_damaged_file_of_torch_is_refused(tmp_path):
    running, path = Running(), tmp_path/'a.pt'
    torch.save(running.before, path)
    data, at = path.read_bytes(), running.before['state'][1]['sqr_avg'].numpy().tobytes()
    i = data.find(at)
    assert 'checksum of' in refused(running, path, data[:i] + bytes([data[i] ^ 1]) + data[i+1:])
    data = saved(path)
    for key, other in ((b'saved_crc32', b'saved_crc33'), (b'saved_crc32', b'taved_crc32')):
        refused(running, path, data.replace(key, other))
    torch.save({**running.before, 'saved_extra': 1}, path)
    assert 'checksum' in refused(running, path, path.read_bytes())


@pytest.mark.parametrize('named', [False, True])
def test_torchs_file_goes_by_the_models_names(tmp_path, named):
    class Model(nn.Module):
        def __init__(self, **more):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)
            for k, m in more.items(): self.add_module(k, m)
    model, other = Model(), Model(head=nn.Linear(2, 1))
    theirs = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    advance(theirs, list(model.parameters()), range(2))
    torch.save(theirs.state_dict(), tmp_path/'a.pt')
    split = [[(k, p) if named else p for k, p in other.named_parameters() if k.startswith('head') == of_head]
             for of_head in (True, False)]
    opt = oc.AdamW([{'params': split[0], 'lr': 0.5}, {'params': split[1]}], lr=0.3)
    with pytest.warns(UserWarning, match=r'started afresh: head.bias, head.weight') as said:
        load_state(opt, tmp_path/'a.pt', model=other)
    assert len(said) == 1 and list(opt.hypers.itemgot('lr')) == [0.5, 0.1] and not opt.state.get(other.head.weight)
    assert all(torch.equal(opt.state[q]['grad_avg'], theirs.state[p]['exp_avg'])
               for p, q in zip(model.parameters(), other.parameters()))


def test_after_loading_a_file_with_names_a_group_without_can_be_added(path):
    model = nn.Linear(2, 3)
    save_state(oc.Adam(model.parameters(), lr=0.1), path, model=model)
    for m in (None, model):
        opt = oc.Adam(model.parameters(), lr=0.5)
        load_state(opt, path, model=m)
        opt.add_param_group({'params': params([(2,)])})
        assert len(opt.param_groups) == 2 and opt.hypers[0]['lr'] == 0.1


def test_a_file_with_strange_values_is_named(tmp_path):
    running, path = Running(), tmp_path/'a.pt'
    for lr in ('abc', (None, 1e-3)):
        sd = running.opt.state_dict()
        sd['param_groups'][0]['lr'] = lr
        torch.save(sd, path)
        assert 'must be a number' in refused(running, path, path.read_bytes())


def test_what_else_was_saved_is_said(tmp_path):
    running, path = Running(), tmp_path/'a.pt'
    torch.save({'model': {}, 'opt': running.before}, path)
    assert "torch.load(…)['opt']" in refused(running, path, path.read_bytes())
    torch.save(nn.Linear(1, 1), path)
    assert 'Save `opt.state_dict()`' in refused(running, path, path.read_bytes())


def test_what_cant_be_saved_is_said(path):
    opt, loop = oc.SGD(params(), lr=0.1), []
    loop.append(loop)
    with pytest.raises(ValueError, match='in itself'): save_state(opt, path, extra=loop)
    with pytest.raises(TypeError, match='torch.from_numpy'): save_state(opt, path, extra=np.ones(2))
    with pytest.raises(FileNotFoundError) as e: save_state(opt, path.parent/'none'/path.name)
    assert e.value.filename == str(path.parent/'none'/path.name) and '.tmp' not in str(e.value)


@pytest.mark.skipif(os.name != 'posix', reason='needs file modes')
def test_a_replaced_file_keeps_its_mode(path):
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path)
    path.chmod(0o640)
    save_state(opt, path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_error_in_writing_is_what_is_raised(path, monkeypatch):
    class Full:
        def __init__(self, *args): self.f, self.left = open(*args), 500
        def __enter__(self): return self
        def __exit__(self, *args): self.f.close()
        def __getattr__(self, k): return getattr(self.f, k)
        def write(self, data):
            self.left -= len(data)
            if self.left < 0: raise OSError(28, 'No space left on device')
            return self.f.write(data)
    opt = oc.SGD(params(), lr=0.1)
    save_state(opt, path)
    before = path.read_bytes()
    monkeypatch.setattr(files, 'open', Full, raising=False)
    with pytest.raises(OSError, match='No space'): save_state(opt, path, extra=torch.ones(1000))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
