"Save and load: state dicts, files, state of `torch.optim`, averaged weights."
