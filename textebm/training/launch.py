"""The processes that train together, as a launcher started them."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, TorchDynamoPlugin

from textebm.errors import TextEBMError

# What divides a model among processes; here each holds all of it.
SHARDING = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")


def make_accelerator() -> Accelerator:
    """Accelerate with the launcher's processes and device, and nothing else of its variables.

    Precision, accumulation and compilation are the recipe's to say: a variable that happens to be set must not change
    the weights. Raises TextEBMError where the model is to be divided, and where this process set up Accelerate before
    in another precision.
    """
    for name in SHARDING:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise TextEBMError(f"ACCELERATE_USE_{name} is set, but models are trained undivided here; unset it")
    try:
        return Accelerator(
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(backend="no"),
            # no stage uses every parameter
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except ValueError as error:
        raise TextEBMError(f"Accelerate is set up in this process already, and otherwise: {error}") from None
