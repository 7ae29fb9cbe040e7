"""Python values to tensors and JSON and back, exactly: optimisers and random numbers in checkpoints without pickle."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textebm.errors import CheckpointError

logger = logging.getLogger(__name__)


def pack(value: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples of numbers, strings, tensors and arrays into (tensors, JSON value).

    `unpack` gives back an equal value: tuples stay tuples, integer keys integers, floats the same bits. Made for
    `Optimizer.state_dict()`, schedulers and generators. Raises TypeError for anything else, such as an object.
    """
    tensors: dict[str, Tensor] = {}

    def walk(item: Any, path: str) -> Any:
        match item:
            case None | bool() | int() | float() | str():
                return item
            case Tensor():
                name = path or "value"
                while name in tensors:  # {"a.b": …} beside {"a": {"b": …}}
                    name += "'"
                tensors[name] = item
                return {"tensor": name}
            case np.ndarray():
                return {"array": item.tolist(), "dtype": str(item.dtype)}
            case list() | tuple():
                return {type(item).__name__: [walk(each, f"{path}.{i}") for i, each in enumerate(item)]}
            case dict():
                pairs = [[walk(k, path), walk(v, f"{path}.{k}" if path else str(k))] for k, v in item.items()]
                return {"dict": pairs}
        raise TypeError(f"cannot be kept without pickle: {path or 'the value'} is a {type(item).__name__}")

    packed = walk(value, "")
    return tensors, packed


def unpack(tensors: Mapping[str, Tensor], packed: Any) -> Any:
    """The value that `pack` split. Raises CheckpointError if the two do not belong together."""
    try:
        match packed:
            case {"tensor": name}:
                return tensors[name]
            case {"array": values, "dtype": dtype}:
                return np.array(values, dtype=np.dtype(dtype))
            case {"list": values}:
                return [unpack(tensors, each) for each in values]
            case {"tuple": values}:
                return tuple(unpack(tensors, each) for each in values)
            case {"dict": pairs}:
                return {unpack(tensors, key): unpack(tensors, value) for key, value in pairs}
            case None | bool() | int() | float() | str():
                return packed
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the state does not fit its tensors ({error!r})") from error
    raise CheckpointError(f"the state holds a value of unknown form: {str(packed)[:80]}")


def pack_random(
    generators: Mapping[str, torch.Generator] | None = None,
    numpy_generators: Mapping[str, np.random.Generator] | None = None,
) -> tuple[dict[str, Tensor], Any]:
    """The state of this process's random numbers as (tensors, JSON value): Python, NumPy and PyTorch (CPU, every CUDA
    device) globally, and of the given generators by name."""
    return pack(
        {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "generators": {name: each.get_state() for name, each in (generators or {}).items()},
            "numpy_generators": {name: each.bit_generator.state for name, each in (numpy_generators or {}).items()},
        }
    )


def unpack_random(
    tensors: Mapping[str, Tensor],
    packed: Any,
    generators: Mapping[str, torch.Generator] | None = None,
    numpy_generators: Mapping[str, np.random.Generator] | None = None,
) -> None:
    """Put the state that `pack_random` took back in place, in the given generators too (in place, by name).

    Raises CheckpointError if a generator was not saved. With another number of CUDA devices than when saved, a warning
    says that the resumed run is no longer the same bit for bit.
    """
    state = unpack(tensors, packed)
    try:
        for name, generator in (generators or {}).items():
            generator.set_state(state["generators"][name])
        for name, numpy_generator in (numpy_generators or {}).items():
            numpy_generator.bit_generator.state = state["numpy_generators"][name]
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for device, cuda_state in enumerate(state["cuda"][:devices]):
            torch.cuda.set_rng_state(cuda_state, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the saved random state does not fit this run ({error!r})") from error
    if devices != len(state["cuda"]):
        logger.warning(
            "saved with %d CUDA devices, resumed with %d: the run continues, but not bit for bit as an unbroken one",
            len(state["cuda"]),
            devices,
        )
