"""What the children of a test fork from: all that a run loads, also what it loads late, out of the collector's way."""

import gc

import tiny  # noqa: F401
import torch._dynamo  # accelerate and the optimisers ask for both in the middle of a run
import torch.distributed.tensor  # noqa: F401

import textebm.runs.train  # noqa: F401

gc.collect()
gc.freeze()
