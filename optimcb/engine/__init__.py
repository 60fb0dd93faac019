"""Where a step is executed. What a step means is `optimcb.composition`.

`eager` calls the steppers on each parameter; it defines what the others must give. They record what the steppers do to
a stand-in (`trace`, `spelling`, `record`) as a `program`, once for all parameters that are alike (`plan`), and run that: `foreach` by
torch's functions for lists, `cpu` and `cuda` as one kernel. `runner` ties them together.
"""
from optimcb.engine.runner import CantRun, Runner

__all__ = ['CantRun', 'ENGINES', 'Runner']

ENGINES = ('auto', 'eager', 'foreach', 'fused')
