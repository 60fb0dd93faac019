"Where a program is executed: eagerly, by torch's list functions, as C, or as Triton."

ENGINES = ('auto', 'eager', 'foreach', 'fused')
