"Wrappers around a step: Lookahead, SAM, steps inside `backward`, Hessian estimates."
