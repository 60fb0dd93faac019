"Record a step: steppers run on tracers, and their operations on tensors become a program."
