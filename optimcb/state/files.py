"State in files: written whole or not at all, and checked whole before anything is loaded."
import json
import math
import os
import secrets
import shutil
import zipfile
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from fastcore.foundation import L
from torch import Tensor

from optimcb._boundary import entry
from optimcb._tensors import is_dtensor
from optimcb.state.state_dict import copied, names_of, ours

__all__ = ['load_state', 'save_state']


@entry
def save_state(
    opt, # Optimizer
    path, # File that is written or replaced: `.pt` or `.pth`, in torch's format, or `.safetensors`
    *,
    model=None, # Model whose names of the parameters are saved with the state; default: the names that `opt` was made with
    extra=None # What else to save: tensors, numbers, strings, None, in dicts, lists and tuples, as `dict(model=model.state_dict(), step=step)`
):
    """Save the state of `opt`. The old file stays whole until all of the new one is on the disk; a kill may leave a hidden `.tmp` file beside it.

    The state is copied once, to the CPU; for `.safetensors` there is all of the file in memory, too. Of `extra` the values are saved, not what is hung on
    them, as `_metadata` on the state dict of a model.
    Raises `ValueError` for another kind of file, for sharded state and for what is in itself, `TypeError` for what a file can't hold,
    `ImportError` if safetensors is not there, `OSError` if the file can't be written."""
    path = Path(path)
    write, _ = _format(path)
    sd = opt.state_dict_on('cpu') if hasattr(opt, 'state_dict_on') else opt.state_dict()
    for g, names in zip(sd['param_groups'], names_of(opt, model) or ()): g['param_names'] = names
    try:
        if extra is not None: sd['saved_extra'] = copied(extra, 'cpu')
        _check_plain(sd, 'state')
    except RecursionError: raise ValueError("what is to be saved is nested too deep. Is there something in itself?") from None
    _write(path, write, {**sd, 'saved_crc32': _crc32(sd)})


@entry
def load_state(
    opt, # Optimizer that goes on from it
    path, # A file of `save_state`, or of `torch.save(opt.state_dict(), path)`, also of an optimizer of fastai or torch
    *,
    model=None # Model that has the parameters, which are then found by its names; default: the names that `opt` was made with
):
    """Go on from the state in a file, as `Optimizer.load_state_dict` does. Returns the `extra` that was saved with it, on the CPU.

    Raises `ValueError`, and changes nothing, for a file that is damaged or is of something else; `OSError` if it can't be read."""
    path = Path(path)
    sd = _read(path)
    try:
        if not isinstance(sd, dict): raise ValueError(f"it holds {type(sd).__name__}, not a state dict.")
        crc = sd.pop('saved_crc32', None)
        if crc != _crc32(sd) if crc is not None else 'saved_extra' in sd:
            raise ValueError("the file is damaged: its checksum doesn't match. Load an older one.")
        extra = sd.pop('saved_extra', None)
        if model is not None: sd['names_here'] = names_of(ours(getattr(opt, 'optimizer', opt)), model) # for `unpack`
        opt.load_state_dict(sd)
    except (TypeError, ValueError) as e: raise ValueError(f"{path}: {e}") from None
    return extra


# Reading and writing

def _format(path):
    if path.suffix not in FORMATS: raise ValueError(f"{path}: the name must end in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix]


def _read(path):
    _, from_file = _format(path)
    with open(path, 'rb') as f: # once: the next moment it may be another one
        try: return from_file(f)
        except ImportError: raise
        except Exception as e:
            why = e if type(e) is ValueError else type(e).__name__
            raise ValueError(f"{path} is damaged, or no state was saved in it ({why}).") from None


def _write(path, write, content):
    "Write beside the old file, and take its place when everything is on the disk"
    named, path = path, Path(os.path.realpath(path))
    new = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    try:
        with open(new, 'xb') as f:
            write(content, f)
            f.flush()
            os.fsync(f.fileno())
        with suppress(OSError): shutil.copymode(path, new) # there is perhaps no old one
        os.replace(new, path)
    except BaseException as e:
        new.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.filename == str(new): e.filename = str(named)
        raise
    if os.name == 'posix':
        with suppress(OSError): # some file systems have no such thing
            folder = os.open(path.parent, os.O_RDONLY)
            try: os.fsync(folder)
            finally: os.close(folder)


# What can be in a file

def _check_plain(o, where):
    "Raise an error for what can't be read again"
    if isinstance(o, Tensor):
        if is_dtensor(o): raise ValueError(f"{where} is sharded over processes. Save it with torch.distributed.checkpoint.")
        if o.layout is not torch.strided: raise TypeError(f"{where} is a tensor of layout {o.layout}, which a file can't hold. Make it dense.")
    elif isinstance(o, dict):
        for k, v in o.items():
            _check_plain(k, f'a key of {where}')
            _check_plain(v, f'{where}[{k!r}]')
    elif type(o) in (list, tuple):
        for i, v in enumerate(o): _check_plain(v, f'{where}[{i}]')
    elif type(o) not in (str, bool, int, float, type(None)):
        raise TypeError(f"{where} is {o!r:.80} ({type(o).__name__}). A file holds tensors, numbers, strings, None, dicts, lists and tuples."
                        f"{' Take `torch.from_numpy` of it.' if isinstance(o, np.ndarray) else ''}")


def _crc32(o, crc=0) -> int:
    "A checksum of values, types and layouts"
    if isinstance(o, Tensor):
        crc = zlib.crc32(_bytes_of(o).numpy(), crc)
        said = f'{o.dtype}{tuple(o.shape)}{_strides(o)}'
    elif isinstance(o, (dict, list, tuple)):
        for v in (x for kv in o.items() for x in kv) if isinstance(o, dict) else o: crc = _crc32(v, crc)
        said = f"{'dict' if isinstance(o, dict) else type(o).__name__}{len(o)}"
    else: said = repr(o)
    return zlib.crc32(said.encode(), crc)


def _bytes_of(t) -> Tensor: return t.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
def _strides(t) -> list|None: return None if t.stride() == torch.empty(t.shape, device='meta').stride() else list(t.stride())


# torch's format

def _to_pt(content, f):
    try: torch.save(content, f)
    except RuntimeError as e:
        if e.__context__ is None: raise
        raise e.__context__ from None # an error in writing, which torch's own hides


FASTAIS = [L, np.float64().__reduce__()[0], np.dtype, *(getattr(np.dtypes, k) for k in np.dtypes.__all__)] # types in what fastai saves, which run no code


def _from_pt(f):
    try:
        with torch.serialization.safe_globals(FASTAIS): sd = torch.load(f, map_location='cpu', weights_only=True)
    except UnpicklingError: raise ValueError("it holds other objects than a state dict does. Save `opt.state_dict()`") from None
    if not (isinstance(sd, dict) and 'saved_crc32' in sd) and zipfile.is_zipfile(f): # torch doesn't look at the checksums that it writes
        with zipfile.ZipFile(f) as z: bad = z.testzip()
        if bad:
            raise ValueError(f"the checksum of {bad} doesn't match: it was changed, "
                             "or saved under `torch.serialization.set_crc32_options(False)`")
    return sd


# safetensors: tensors under flat names, and all else as JSON, in which what JSON doesn't have is a dict with one key that begins with an exclamation mark

def _library():
    try: import safetensors.torch # noqa: I001
    except ImportError: raise ImportError("`.safetensors` files need a package: `pip install safetensors`. Or take a `.pt` file.") from None
    return safetensors


def _to_safetensors(content, f):
    library, tensors = _library(), {}
    names = {i: k for g in content['param_groups'] for i, k in zip(g['params'], g.get('param_names', map(str, g['params'])))}
    states = [[_as_json(i, '', tensors), _as_json(s, names.get(i, f'state.{i}'), tensors)] for i, s in content['state'].items()]
    tree = {'state': {'!dict': states}, **{k: _as_json(v, k, tensors) for k, v in content.items() if k != 'state'}}
    f.write(library.torch.save(tensors, {'optimcb': json.dumps(tree, allow_nan=False)}))


def _from_safetensors(f):
    library, data = _library(), f.read()
    tensors = library.torch.load(data)
    tree = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')]).get('__metadata__', {}).get('optimcb')
    if tree is None: raise ValueError("it has no `optimcb` in its metadata")
    return {'saved_crc32': -1, **_from_json(json.loads(tree), tensors)}


def _as_json(o, name, tensors):
    "`o` as JSON; its tensors go into `tensors`, under names that begin with `name`"
    if isinstance(o, Tensor):
        while name in tensors: name += '_'
        native = _is_native(o.dtype)
        tensors[name] = o.contiguous() if native else _bytes_of(o)
        return {'!tensor': [name, _strides(o), *([] if native else [str(o.dtype).removeprefix('torch.'), list(o.shape)])]}
    if isinstance(o, float) and not math.isfinite(o): return {'!float': repr(o)}
    if isinstance(o, list): return [_as_json(v, f'{name}.{i}', tensors) for i, v in enumerate(o)]
    if isinstance(o, tuple): return {'!tuple': [_as_json(v, f'{name}.{i}', tensors) for i, v in enumerate(o)]}
    if not isinstance(o, dict): return o
    pairs = [[_as_json(k, name, tensors), _as_json(v, f'{name}.{k}', tensors)] for k, v in o.items()]
    return dict(pairs) if all(isinstance(k, str) and k[:1] != '!' for k in o) else {'!dict': pairs}


def _from_json(o, tensors):
    "What `_as_json` was given"
    if isinstance(o, list): return [_from_json(v, tensors) for v in o]
    if not isinstance(o, dict): return o
    match list(o.items()):
        case [['!tensor', [name, strides, *other]]]: return _laid_out(tensors[name], strides, *other)
        case [['!float', v]]: return float(v)
        case [['!tuple', v]]: return tuple(_from_json(v, tensors))
        case [['!dict', v]]: return {_from_json(k, tensors): _from_json(x, tensors) for k, x in v}
    return {k: _from_json(v, tensors) for k, v in o.items()}


def _laid_out(t, strides, dtype=None, shape=None) -> Tensor:
    if dtype is not None:
        known = getattr(torch, dtype, None)
        if known is None: raise ValueError(f"the file has a tensor of {dtype}, which torch {torch.__version__} lacks. Load it with the torch that saved it.")
        t = t.clone().view(known).reshape(shape)
    return t.clone() if strides is None else torch.empty_strided(t.shape, strides, dtype=t.dtype).copy_(t)


@cache
def _is_native(dtype) -> bool:
    "Does safetensors know this type, both ways?"
    try: return bool(_library().torch.load(_library().torch.save({'t': torch.empty(0, dtype=dtype)})))
    except Exception: return False


FORMATS = {'.pt': (_to_pt, _from_pt), '.pth': (_to_pt, _from_pt), '.safetensors': (_to_safetensors, _from_safetensors)}
