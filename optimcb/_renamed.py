"""Functions whose name or module has changed since earlier versions.

Old imports still work, and old files and pickles still load."""
import re
import warnings
from collections.abc import Callable
from importlib import import_module

__all__ = ['LABELS', 'current_label', 'old_names']

RENAMED = { # by module under `optimcb`: each old name and its current place
    'steppers': {
        'ascend': 'sharpness.ascend',
        'average_rate': 'rates.average_rate',
        'bound_by_average': 'rates.bound_by_average',
        'bound_rate': 'rates.bound_rate',
        'direction': 'sgd.descent_direction',
        'free_start': 'averages.schedule_free_start',
        'free_step': 'averages.schedule_free_step',
        'free_warm_up': 'averages.schedule_free_warmup',
        'free_weight': 'averages.schedule_free_weight',
        'nadam_mom': 'adam.nadam_mom',
        'precise': 'norms.at_least_float32',
        'rate_update': 'rates.rate_update',
        'rectification': 'adam.rectification',
        'rms_rate': 'rates.rms_rate',
        'share_d': 'parameter_free.sync_d',
        'slow_vectors': 'muon.scale_vector_lr',
        'take_back': 'parts.undo_step',
        'turn_back': 'soap.project_back',
        'turn_grad': 'soap.project_grad',
    },
}
LABELS = {} # by old name, the current name
for names in RENAMED.values(): LABELS.update({old: new.rpartition('.')[2] for old, new in names.items()})


def old_names(
    package:str # Package under `optimcb` that had the functions
) -> Callable:
    "Make a module's `__getattr__` that finds functions under their old names, and warns once for each."
    def find(name, level=3):
        if name not in RENAMED[package]:
            raise AttributeError(f"module 'optimcb.{package}' has no attribute {name!r}")
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
    label:str # Name of a stepper, perhaps with options, from a state dict
) -> str:
    "Return the label that this version uses."
    return re.sub(r'^\w+', lambda m: LABELS.get(m[0], m[0]), label)
