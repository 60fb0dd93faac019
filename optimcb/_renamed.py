"Names of earlier versions of functions that have another name now, so that imports work and files and pickles load."
import re
import warnings
from collections.abc import Callable
from importlib import import_module

__all__ = ['LABELS', 'current_label', 'old_names']

RENAMED = { # by module under `optimcb`: old names, and where each is now
    'steppers': {
        'ascend': 'sharpness.ascend',
        'direction': 'sgd.descent_direction',
        'free_start': 'averages.schedule_free_start',
        'free_step': 'averages.schedule_free_step',
        'free_warm_up': 'averages.schedule_free_warmup',
        'free_weight': 'averages.schedule_free_weight',
        'nadam_mom': 'adam.nadam_mom',
        'precise': 'norms.at_least_float32',
        'rectification': 'adam.rectification',
        'share_d': 'parameter_free.sync_d',
        'slow_vectors': 'muon.scale_vector_lr',
        'take_back': 'parts.undo_step',
        'turn_back': 'soap.project_back',
        'turn_grad': 'soap.project_grad',
    },
}
LABELS = {old: new.rpartition('.')[2] for names in RENAMED.values() for old, new in names.items()}


def old_names(
    package:str # Package under `optimcb` whose functions were renamed
) -> Callable:
    "Make a module's `__getattr__` that finds functions under their old names, and warns once for each."
    def find(name, level=3):
        if name not in RENAMED[package]: raise AttributeError(f"module 'optimcb.{package}' has no attribute {name!r}")
        module, _, new = RENAMED[package][name].rpartition('.')
        if new != name: _warn(name, new, level)
        return getattr(import_module(f'optimcb.{package}.{module}'), new)
    return find


WARNED = set()


def _warn(old, new, level):
    if old in WARNED: return
    WARNED.add(old)
    warnings.warn(f"`{old}` is called `{new}` now.", DeprecationWarning, stacklevel=level)


def current_label(
    label:str # Name of a stepper, perhaps with options, as a state dict has it
) -> str:
    "The label as this version has it."
    return re.sub(r'^\w+', lambda m: LABELS.get(m[0], m[0]), label)
