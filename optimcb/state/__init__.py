"What is saved and loaded: state dicts, files, state of `torch.optim`, averaged weights."
