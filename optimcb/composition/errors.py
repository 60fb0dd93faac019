"The errors that steppers cause."

__all__ = ['MissingName', 'StepperError', 'WrongReturn', 'not_so']


def not_so(
    labels:list # Names of steppers
) -> str:
    "Return 'a, b don't', or 'a doesn't' for a single name."
    return f"{', '.join(labels)} {'do' if len(labels) > 1 else 'does'}n't"


class StepperError(TypeError):
    "A stepper that no engine can run."


class MissingName(StepperError):
    """A stepper needs a name that is neither a hyper-parameter nor a result of an earlier stepper.

    The error holds the `composition`, the `stepper`, the missing `names` and the known `values`:
    `diagnosis.suggestions` derives from them how to fix it."""
    def __init__(self,
        message:str, # What is missing
        composition=None, # The steppers
        stepper=None, # The stepper that failed
        names:list=(), # The missing names
        values:dict|None=None # The known values by name
    ):
        super().__init__(message)
        self.composition, self.stepper = composition, stepper
        self.names, self.values = list(names), values or {}

    def __reduce__(self): return MissingName, self.args


class WrongReturn(StepperError):
    "A stepper returns neither a dict nor None, so its result would be lost."
