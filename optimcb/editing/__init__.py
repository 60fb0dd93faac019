"Change a list of steppers: by hand (`edit`), or with parts that know where they belong (`wrap`)."
from optimcb._compat.renamed import old_names

__getattr__ = old_names('editing')
