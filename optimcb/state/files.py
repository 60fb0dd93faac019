"Files of state: saved completely or not at all, and checked completely before anything is loaded."
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

from optimcb._compat.boundary import entry
from optimcb._compat.dtensors import is_dtensor
from optimcb.state.copies import copied, ours
from optimcb.state.param_names import names_of

__all__ = ['load_state', 'save_state']


@entry
def save_state(
    opt, # Optimizer
    path, # File to write or replace: `.pt` or `.pth`, in torch's format, or `.safetensors`
    *,
    model=None, # Model to take parameter names from; default: the names that `opt` was made with
    extra=None # Anything else to save, such as `dict(model=model.state_dict(), step=step)`
):
    """Save the state of `opt` to a file.

    An old file is replaced only after the new one is completely on the disk; a process that is killed may
    leave a hidden `.tmp` file. The state is copied once, to the CPU; a `.safetensors` file takes as much
    memory again. `extra` may consist of tensors, numbers, strings, None, dicts, lists and tuples; attributes
    of these, such as `_metadata` of a model's state dict, are not saved.
    Raises `ValueError` for another suffix, for sharded state and for an object that contains itself,
    `TypeError` for objects that a file can't hold, `ImportError` without safetensors, `OSError` if the
    file can't be written."""
    path = Path(path)
    write, _ = _format(path)
    sd = opt.state_dict_on('cpu') if hasattr(opt, 'state_dict_on') else opt.state_dict()
    for g, names in zip(sd['param_groups'], names_of(opt, model) or ()): g['param_names'] = names
    try:
        if extra is not None: sd['saved_extra'] = copied(extra, 'cpu')
        _check_plain(sd, 'state')
    except RecursionError:
        raise ValueError("the state or `extra` is nested too deep. Does an object contain itself?") from None
    _write(path, write, {**sd, 'saved_crc32': _crc32(sd)})


@entry
def load_state(
    opt, # Optimizer to load the state into
    path, # File of `save_state`, or of `torch.save(opt.state_dict(), path)`, also with fastai or torch
    *,
    model=None # Model to take parameter names from; default: the names that `opt` was made with
):
    """Load state from a file, like `Optimizer.load_state_dict`.

    Returns the `extra` that was saved with it, with tensors on the CPU.

    Raises `ValueError`, without changing anything, for a damaged file or other contents; `OSError` if the
    file can't be read."""
    path = Path(path)
    sd = _read(path)
    try:
        if not isinstance(sd, dict): raise ValueError(f"it holds {type(sd).__name__}, not a state dict.")
        crc = sd.pop('saved_crc32', None)
        is_damaged = crc != _crc32(sd) if crc is not None else 'saved_extra' in sd
        if is_damaged: raise ValueError("the file is damaged: its checksum doesn't match. Load an older one.")
        extra = sd.pop('saved_extra', None)
        if model is not None: # for `unpack`
            sd['names_here'] = names_of(ours(getattr(opt, 'optimizer', opt)), model)
        opt.load_state_dict(sd)
    except (TypeError, ValueError) as e: raise ValueError(f"{path}: {e}") from None
    return extra


# Reading and writing

def _format(path):
    if path.suffix not in FORMATS: raise ValueError(f"{path}: the name must end in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix]


def _read(path):
    _, from_file = _format(path)
    with open(path, 'rb') as f: # open it only once: it may be replaced at any time
        try: return from_file(f)
        except ImportError: raise
        except Exception as e:
            why = e if type(e) is ValueError else type(e).__name__
            raise ValueError(f"{path} is damaged, or no state was saved in it ({why}).") from None


def _write(path, write, content):
    "Write a new file, then replace the old one when everything is on the disk."
    named, path = path, Path(os.path.realpath(path))
    new = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    try:
        with open(new, 'xb') as f:
            write(content, f)
            f.flush()
            os.fsync(f.fileno())
        with suppress(OSError): shutil.copymode(path, new) # if there is an old one
        os.replace(new, path)
    except BaseException as e:
        new.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.filename == str(new): e.filename = str(named)
        raise
    if os.name == 'posix':
        with suppress(OSError): # some file systems can't do that
            folder = os.open(path.parent, os.O_RDONLY)
            try: os.fsync(folder)
            finally: os.close(folder)


# Contents of a file

def _check_plain(o, where):
    "Raise `ValueError` or `TypeError` for an object that could not be loaded again."
    if isinstance(o, Tensor):
        if is_dtensor(o):
            raise ValueError(f"{where} is sharded over processes. Save it with torch.distributed.checkpoint.")
        if o.layout is not torch.strided:
            raise TypeError(f"{where} is a tensor of layout {o.layout}, which a file can't hold. Make it "
                            "dense.")
    elif isinstance(o, dict):
        for k, v in o.items():
            _check_plain(k, f'a key of {where}')
            _check_plain(v, f'{where}[{k!r}]')
    elif type(o) in (list, tuple):
        for i, v in enumerate(o): _check_plain(v, f'{where}[{i}]')
    elif type(o) not in (str, bool, int, float, type(None)):
        hint = ' Take `torch.from_numpy` of it.' if isinstance(o, np.ndarray) else ''
        raise TypeError(f"{where} is {o!r:.80} ({type(o).__name__}). A file holds tensors, numbers, "
                        f"strings, None, dicts, lists and tuples.{hint}")


def _crc32(o, crc=0) -> int:
    "Return a checksum of values, types and layouts."
    if isinstance(o, Tensor):
        crc = zlib.crc32(_bytes_of(o).numpy(), crc)
        text = f'{o.dtype}{tuple(o.shape)}{_strides(o)}'
    elif isinstance(o, (dict, list, tuple)):
        values = (x for kv in o.items() for x in kv) if isinstance(o, dict) else o
        for v in values: crc = _crc32(v, crc)
        text = f"{'dict' if isinstance(o, dict) else type(o).__name__}{len(o)}"
    else: text = repr(o)
    return zlib.crc32(text.encode(), crc)


def _bytes_of(t) -> Tensor: return t.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _strides(t) -> list|None:
    "Return the strides of a tensor, or None if it is contiguous."
    contiguous = torch.empty(t.shape, device='meta').stride()
    return None if t.stride() == contiguous else list(t.stride())


# torch's format

def _to_pt(content, f):
    try: torch.save(content, f)
    except RuntimeError as e:
        if e.__context__ is None: raise
        raise e.__context__ from None # an error in writing, which torch's own hides


NUMPYS = [np.float64().__reduce__()[0], np.dtype, *(getattr(np.dtypes, k) for k in np.dtypes.__all__)]
FASTAIS = [L, *NUMPYS] # types that fastai saves; loading them runs no code


def _from_pt(f):
    try:
        with torch.serialization.safe_globals(FASTAIS):
            sd = torch.load(f, map_location='cpu', weights_only=True)
    except UnpicklingError:
        raise ValueError("it holds other objects than a state dict does. Save `opt.state_dict()`") from None
    has_checksum = isinstance(sd, dict) and 'saved_crc32' in sd
    if not has_checksum and zipfile.is_zipfile(f): # torch writes checksums but doesn't check them
        with zipfile.ZipFile(f) as z: bad = z.testzip()
        if bad:
            raise ValueError(f"the checksum of {bad} doesn't match: it was changed, "
                             "or saved under `torch.serialization.set_crc32_options(False)`")
    return sd


# safetensors: tensors under flat names, everything else as JSON.
# Types that JSON lacks become a dict with a single key that begins with `!`

def _library():
    try: import safetensors.torch # noqa: I001
    except ImportError:
        raise ImportError("`.safetensors` files need a package: `pip install safetensors`. "
                          "Or take a `.pt` file.") from None
    return safetensors


def _to_safetensors(content, f):
    library, tensors = _library(), {}
    names, states = {}, []
    for g in content['param_groups']:
        names.update(zip(g['params'], g.get('param_names', map(str, g['params']))))
    for i, s in content['state'].items():
        states.append([_as_json(i, '', tensors), _as_json(s, names.get(i, f'state.{i}'), tensors)])
    others = {k: _as_json(v, k, tensors) for k, v in content.items() if k != 'state'}
    tree = {'state': {'!dict': states}, **others}
    f.write(library.torch.save(tensors, {'optimcb': json.dumps(tree, allow_nan=False)}))


def _from_safetensors(f):
    library, data = _library(), f.read()
    tensors = library.torch.load(data)
    n_header = int.from_bytes(data[:8], 'little')
    tree = json.loads(data[8:8 + n_header]).get('__metadata__', {}).get('optimcb')
    if tree is None: raise ValueError("it has no `optimcb` in its metadata")
    return {'saved_crc32': -1, **_from_json(json.loads(tree), tensors)}


def _as_json(o, name, tensors):
    "Return `o` as JSON; put its tensors into `tensors`, under names that begin with `name`."
    if isinstance(o, Tensor):
        while name in tensors: name += '_'
        native = _is_native(o.dtype)
        tensors[name] = o.contiguous() if native else _bytes_of(o)
        other = [] if native else [str(o.dtype).removeprefix('torch.'), list(o.shape)]
        return {'!tensor': [name, _strides(o), *other]}
    if isinstance(o, float) and not math.isfinite(o): return {'!float': repr(o)}
    if isinstance(o, list): return [_as_json(v, f'{name}.{i}', tensors) for i, v in enumerate(o)]
    if isinstance(o, tuple): return {'!tuple': [_as_json(v, f'{name}.{i}', tensors) for i, v in enumerate(o)]}
    if not isinstance(o, dict): return o
    pairs = [[_as_json(k, name, tensors), _as_json(v, f'{name}.{k}', tensors)] for k, v in o.items()]
    return dict(pairs) if all(isinstance(k, str) and k[:1] != '!' for k in o) else {'!dict': pairs}


def _from_json(o, tensors):
    "Undo `_as_json`."
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
        if known is None:
            raise ValueError(f"the file has a tensor of {dtype}, which torch {torch.__version__} lacks. "
                             "Load it with the torch that saved it.")
        t = t.clone().view(known).reshape(shape)
    return t.clone() if strides is None else torch.empty_strided(t.shape, strides, dtype=t.dtype).copy_(t)


@cache
def _is_native(dtype) -> bool:
    "Can safetensors save and load this dtype?"
    try:
        library = _library()
        return bool(library.torch.load(library.torch.save({'t': torch.empty(0, dtype=dtype)})))
    except Exception: return False


FORMATS = {
    '.pt': (_to_pt, _from_pt),
    '.pth': (_to_pt, _from_pt),
    '.safetensors': (_to_safetensors, _from_safetensors)}
