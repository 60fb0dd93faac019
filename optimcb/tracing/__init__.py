"A step, written down: steppers run on tracers, and what they do to tensors becomes a program."
