"The results that a stepper may return besides a dict of state."


__all__ = ['ONE_STEP', 'once', 'stop']


ONE_STEP = frozenset({'update'})  # names that live for one step, whichever stepper returns them


class once(dict):
    """Values for the rest of the step: later steppers see them, but they are never stored or saved.

    `return once(lr=lr/2)` shadows state and hyper-parameters named `lr` until the step ends.
    """


class stop(dict):
    """New state that ends this parameter's step: `return stop(count=count + 1)`.

    Later steppers are not called."""
