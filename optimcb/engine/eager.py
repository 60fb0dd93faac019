"The engine that defines what the others must give: it calls the steppers on each parameter in turn."

__all__ = ['step']


def step(
    composition, # `Composition` to run
    work:list # `(p, state, hypers)` of each parameter that has a gradient
) -> None:
    "Run the composition on each parameter. What steppers do to a gradient is undone after the parameter's step."
    for p, state, hypers in work:
        grad = p.grad
        p.grad = grad.clone()
        try: composition.run(p, state, hypers)
        finally: p.grad = grad
