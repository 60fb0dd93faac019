"Hyper-parameters: values and their ranges, torch's names for them, and live views of a group."
from optimcb._compat.renamed import old_names

__getattr__ = old_names('hypers')
