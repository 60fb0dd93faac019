"Measure steps on this machine, beside other libraries: `python -m optimcb.bench`."
from optimcb._compat.renamed import old_names

# Imported on first use
__all__ = ['Bench', 'SETS', 'environment', 'find', 'floor_bytes', 'main', 'table']

__getattr__ = old_names('bench')
