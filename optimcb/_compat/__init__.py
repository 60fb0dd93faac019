"What the library needs from Python, from torch, and from the code around an optimizer."
