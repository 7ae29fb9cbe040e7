"""A recipe in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def stated_prior(prior: Mapping[str, Any]) -> str:
    """A recipe's prior in a few words."""
    kind = str(prior.get("kind", "?"))
    levels = f", {prior['num_levels']} levels" if "diffusion" in kind and prior.get("num_levels") else ""
    return f"{kind.replace('_', ' ')}{levels}"


def stated_networks(recipe: Mapping[str, Any]) -> str:
    """`gru encoder on bert, transformer decoder`."""
    encoder, decoder = recipe.get("encoder", {}), recipe.get("decoder", {})
    reads = f"{encoder.get('kind', '?')} encoder"
    if encoder.get("pretrained"):
        reads += f" on {stated_source(encoder['pretrained'])}"
    writer = decoder.get("pretrained")
    return f"{reads}, {stated_source(writer) if writer else decoder.get('kind', '?')} decoder"


def stated_source(name: str) -> str:
    """A Hub id, or of a path only the last part."""
    return PurePath(name).name if name.startswith(("/", ".", "~")) else name
