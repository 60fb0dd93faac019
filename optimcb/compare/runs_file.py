"Finished runs of `compare` in a JSON file, from which it goes on."
import json
import os
import re
from collections.abc import Mapping
from math import isfinite
from numbers import Real
from pathlib import Path

import numpy as np

__all__ = ['OtherRuns', 'RunsFile']


class OtherRuns(ValueError):
    "Raised for a file that holds runs of other arguments, or something else than runs."


class RunsFile:
    """Runs and the settings that they share, in a file that is replaced as a whole after each run.

    Numbers that aren't finite are written as strings, because JSON has none."""
    def __init__(self,
        path, # Where the file is, or will be
        settings:dict # What all runs in it have in common
    ):
        """Read the file if it exists.

        Raises `OtherRuns` if it holds something else, or runs of other settings, and
        `FileNotFoundError` if there is no folder for it."""
        self.path, self.settings = Path(path), _as_json(settings)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder '{self.path.parent}' for the file '{self.path}'.")
        self.runs = self._read() if self.path.exists() else []

    def _read(self):
        try:
            content = json.loads(self.path.read_text())
            there, runs = content['settings'], [_to_run(o) for o in content['runs']]
        except (ValueError, TypeError, KeyError) as e:
            raise OtherRuns(f"'{self.path}' holds no runs of `compare` ({type(e).__name__}: {e}). "
                            "Pass another file.") from None
        _check_same(self.path, 'the runs', there, self.settings)
        return runs

    def find(self, opt, seed, how) -> dict|None:
        """Return the finished run of optimizer `opt` with `seed`, if it is there.

        Raises `OtherRuns` if it was trained in another way than `how`."""
        for run in self.runs:
            if (run['opt'], run['seed']) != (opt, seed): continue
            _check_same(self.path, f"the run of {opt!r} with seed {seed}", run['how'], _as_json(how))
            return run

    def add(self, run):
        "Add a finished run, and write the file."
        self.runs.append(run)
        content = {'settings': self.settings, 'runs': [_as_json(o) for o in self.runs]}
        new = self.path.with_name(f'.{self.path.name}.{os.getpid()}.tmp')
        try:
            new.write_text(json.dumps(content, indent=1) + '\n')
            os.replace(new, self.path)
        finally:
            new.unlink(missing_ok=True)


def _check_same(path, what, there, here):
    different = [k for k in {**there, **here} if there.get(k) != here.get(k)]
    if not different: return
    k = different[0]
    raise OtherRuns(f"{what} in '{path}' had another `{k}`: {there.get(k)!r:.80}, not {here.get(k)!r:.80}. "
                    "Pass another file, or the same arguments.")


def _as_json(o):
    "Return `o` in JSON's types"
    if isinstance(o, Mapping): return {str(k): _as_json(v) for k, v in o.items()}
    if isinstance(o, np.ndarray): o = o.tolist()
    if isinstance(o, (list, tuple)): return [_as_json(v) for v in o]
    if o is None or isinstance(o, (str, bool, int)): return o
    if isinstance(o, np.bool_): return bool(o)
    if not isinstance(o, Real): return _described(o)
    return float(o) if isfinite(o) else str(float(o))


def _described(o) -> str:
    "Return what tells an object from another in each process, so without its address"
    return getattr(o, '__name__', None) or re.sub(r' at 0x\w+', '', str(o))


def _to_run(o) -> dict:
    "Return a run as `compare` makes them"
    rows = [{k: float(v) for k, v in row.items()} for row in o['rows']]
    losses = np.array([float(v) for v in o['losses']])
    return {**o, 'rows': rows, 'losses': losses, 'state_bytes': float(o['state_bytes'])}
