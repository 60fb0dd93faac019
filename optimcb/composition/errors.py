"Errors of steppers."

__all__ = ['MissingName', 'StepperError', 'WrongReturn', 'not_so']


def not_so(
    labels:list # Names of steppers
) -> str:
    "Say that they do not do what was asked for."
    return f"{', '.join(labels)} {'do' if len(labels) > 1 else 'does'}n't"


class StepperError(TypeError):
    "A stepper that no engine can run."


class MissingName(StepperError):
    """A stepper needs a name that is neither a hyper-parameter nor anything that an earlier stepper made.

    It knows the `composition`, the `stepper`, the `names` that it lacks, and the `values` that were there:
    `diagnosis.suggestions` says what to do."""
    def __init__(self,
        message:str, # What is missing
        composition=None, # The steppers
        stepper=None, # The one that lacks something
        names:list=(), # What it lacks
        values:dict|None=None # What there is
    ):
        super().__init__(message)
        self.composition, self.stepper = composition, stepper
        self.names, self.values = list(names), values or {}

    def __reduce__(self): return MissingName, self.args


class WrongReturn(StepperError):
    "A stepper returns neither a dict nor None, so that its result would be lost."
