"Errors of steppers."


__all__ = ['MissingName', 'StepperError', 'WrongReturn', 'not_so']


def not_so(
    labels:list # Names of steppers
) -> str:
    "Say that they do not do what was asked for."
    return f"{', '.join(labels)} {'do' if len(labels) > 1 else 'does'}n't"


class StepperError(TypeError):
    "A stepper does what no engine can do anything with."


class MissingName(StepperError):
    "A stepper needs a name that is neither a hyper-parameter nor anything that an earlier stepper made."


class WrongReturn(StepperError):
    "A stepper returns something of which nothing would be kept: neither a dict nor None."
