import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from optimcb.engines import c_compiler

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(o) for o in HERE.iterdir() if o.is_dir() and o.name[0] not in '._')] # tests use pieces of others
torch.set_num_threads(1) # tensors are small here, and threads that wait for each other are slow on a busy machine
torch.manual_seed(0)
settings.register_profile('repeatable', derandomize=True)
settings.load_profile('repeatable')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "A cache of one's own, and nothing built yet"
    monkeypatch.setenv('OPTIMCB_CACHE_DIR', str(tmp_path/'cache'))
    c_compiler.forget()
    yield tmp_path/'cache'
    monkeypatch.undo()
    c_compiler.forget()


@pytest.fixture(params=['one look', "Python's passes"])
def looking(request, monkeypatch):
    "How a step finds what has changed: in C, or as without a compiler"
    def lacks(plan): raise c_compiler.CantBuild('no compiler')
    if request.param != 'one look': monkeypatch.setattr('optimcb.engines.plan.OnePass', lacks)
