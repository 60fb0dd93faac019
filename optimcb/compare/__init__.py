"""Compare optimizers on the same Learner and seeds: a table, curves with their spread, and a test.

- `training`: `compare` trains, one run after the other.
- `estimate`: how long that will take.
- `comparison`: the results. `runs_file`: finished runs in a file, from which `compare` goes on.
"""
from optimcb.compare.comparison import Comparison
from optimcb.compare.estimate import estimate_seconds
from optimcb.compare.training import compare

__all__ = ['Comparison', 'compare', 'estimate_seconds']
