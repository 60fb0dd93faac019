"What users are told: checks, suggestions, explanations, formulas."
