"What a stepper may return besides a dict of state."


__all__ = ['ONE_STEP', 'once', 'stop']


ONE_STEP = frozenset({'update'})  # names that live for one step, whichever stepper returns them


class once(dict):
    """Values that live until the end of the step: seen by the steppers that follow, never stored or saved.

    A stepper that returns `once(lr=lr/2)` shadows state and hyper-parameters of those names for the rest
    of the step.
    """


class stop(dict):
    """State, and the end of this parameter's step: `return stop(count=count + 1)`.

    The steppers that follow are not called."""
