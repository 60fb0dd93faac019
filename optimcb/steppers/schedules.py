"Hyper-parameters as functions of the step."
from optimcb.composition.results import once
from optimcb.composition.roles import part
from optimcb.composition.traits import stepper

__all__ = ['route_lr', 'count_steps', 'schedule']


@stepper
def route_lr(p,
    lr, # Learning rate
    lr_scale=1., # Factor of `lr`
    **kwargs):
    "Multiply `lr` by `lr_scale`, for this step; comes first."
    if lr_scale != 1: return once(lr=lr * lr_scale)


@stepper
@part('first')
def count_steps(p,
    count=0, # State: steps done; `scheduled` gives it its name
    **kwargs):
    "Count the steps of each parameter, for `schedule`."
    return {'count': count + 1}


@stepper(sets_hyper=True)
@part('first')
def schedule(p,
    hyper, # The hyper-parameter: `scheduled` gives it its name
    count, # State: steps done, this one included
    of_step=float, # Function of the count that returns a factor, or of count and value that returns the value
    takes_value=False, # Does `of_step` take the value, too?
    **kwargs):
    "Replace `hyper` by its scheduled value, for this step; comes first."
    return once(hyper=of_step(count, hyper) if takes_value else hyper * of_step(count))
