import sys
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1) # tensors are small here, and threads that wait for each other are slow on a busy machine
torch.manual_seed(0)
settings.register_profile('repeatable', derandomize=True)
settings.load_profile('repeatable')
