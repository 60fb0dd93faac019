"""Where a step is executed. What a step means is `optimcb.composition`.

An engine is a module with `step(composition, work)`, `work` being a list of `(parameter, state, hyper-parameters)`.
"""
