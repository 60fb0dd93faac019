"Execute a step: eagerly, by torch's list functions, as C, or as Triton."

ENGINES = ('auto', 'eager', 'foreach', 'fused')
