"Results of one section, on the disk as soon as they are there."
import json
import os
import traceback
from pathlib import Path

__all__ = ['Results', 'read']

# Words of errors after which a CUDA context can't be used any more
SPOILT = ('CUDA error', 'illegal memory access', 'misaligned address', 'device-side assert',
          'unspecified launch failure', 'CUBLAS_STATUS', 'an illegal')


class Results:
    """The items of a section: a dict for each, with an 'error' if it failed.

    An item that was begun and isn't there when the file is read again has ended the process."""
    def __init__(self,
        path:Path # JSON file
    ):
        self.path, self.items, self.begun = path, {}, None
        if path.exists():
            found = json.loads(path.read_text())
            self.items = found['items']
            if found['begun']: self.items[found['begun']] = {'error': 'the process ended in it'}

    def attempt(self,
        name:str, # Name of the item
        f, # Returns a dict
        *args
    ) -> dict:
        """Return the result of `f`, or its error; from the file if it is there.

        An error that spoils the CUDA context ends the process: a new one goes on with the next item."""
        if name in self.items: return self.items[name]
        self.begun = name
        self._save()
        try: res, is_spoilt = f(*args), False
        except Exception as e:
            traceback.print_exc()
            text = ' '.join(f'{type(e).__name__}: {e}'.split())
            frames = traceback.extract_tb(e.__traceback__)[-3:]
            place = ' < '.join(f'{Path(o.filename).name}:{o.lineno}' for o in reversed(frames))
            res, is_spoilt = {'error': f'{text[:400]} [{place}]'}, any(o in text for o in SPOILT)
        self.items[name], self.begun = res, None
        self._save()
        if is_spoilt: os._exit(3)
        return res

    def _save(self):
        "Write to another file first: the process may be killed at any time"
        new = self.path.with_suffix('.new')
        new.write_text(json.dumps(dict(items=self.items, begun=self.begun), default=_as_json))
        new.replace(self.path)


def _as_json(x): return x.item() if getattr(x, 'numel', int)() == 1 else str(x)


def read(
    path:Path, # JSON file of a section
    status:str # How the section ended
) -> dict:
    "Return the items of a section that has ended."
    try: found = json.loads(path.read_text())
    except (OSError, ValueError): return {}
    if found['begun']: found['items'][found['begun']] = {'error': f'not finished: {status}'}
    return found['items']
