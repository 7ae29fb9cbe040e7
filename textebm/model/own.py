"""Networks of the user's own, which a recipe names as ``package.module:Class`` (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from textebm.errors import RecipeError
from textebm.recipe.implementation import import_class
from textebm.recipe.schema import Decoder, Encoder

ENCODER = ("num_features", "features")
DECODER = ("hidden", "nll", "start", "step")
ENERGY = ("head_sizes", "view_size", "logits_and_view", "sum_heads")


def own_network(option: str, name: str, sizes: Mapping[str, Any], methods: Sequence[str]) -> Any:
    """An object of the class that *option* names, made from *sizes* by keyword. Raises RecipeError where it cannot be
    made, is no module, or lacks one of *methods*."""
    made = import_class(option, name)
    try:
        network = made(**sizes)
    except TypeError as error:
        raise RecipeError(f"{option}: {name} does not take {', '.join(sizes)} ({error})") from error
    if missing := [method for method in methods if not hasattr(network, method)]:
        raise RecipeError(f"{option}: {name} has no {', '.join(missing)}; docs/extending.md says what it must do")
    if not isinstance(network, nn.Module):
        raise RecipeError(f"{option}: {name} is no torch.nn.Module")
    return network


def sizes_of(options: Encoder | Decoder, vocabulary_size: int) -> dict[str, Any]:
    """What an encoder or decoder of the user's own is made from."""
    return {
        "vocabulary_size": vocabulary_size,
        "embedding_size": options.embedding_size,
        "hidden_size": options.hidden_size,
        "num_layers": options.num_layers,
        "dropout": options.dropout,
    }
