"Check and explain compositions: warnings, suggestions, explanations, formulas."
