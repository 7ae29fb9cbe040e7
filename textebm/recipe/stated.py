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
        base = stated_source(encoder["pretrained"])
        reads = f"{base} encoder" if encoder.get("pooling") else f"{reads} on {base}"
    writer = decoder.get("pretrained")
    return f"{reads}, {stated_source(writer) if writer else decoder.get('kind', '?')} decoder"


def stated_source(name: str) -> str:
    """A Hub id, or of a path only the last part."""
    return PurePath(name).name if name.startswith(("/", ".", "~")) else name


PATHS = ("data.train", "data.validation", "data.test")
SOURCES = ("tokenizer.name", "encoder.pretrained", "decoder.pretrained", "objective.sentence_encoder")


def stated_options(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The recipe's options by their dotted names, those that are null left out. Of a path only the file's name, as what
    is stated goes to other people."""
    options: dict[str, Any] = {}
    for name, value in recipe.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            options |= stated_options(value, f"{dotted}.")
        elif dotted in PATHS and value is not None:
            parts = [value] if isinstance(value, str) else list(value)
            options[dotted] = ", ".join(PurePath(str(part)).name for part in parts)
        elif dotted in SOURCES and value is not None:
            options[dotted] = stated_source(value)
        elif value is not None and name != "description":
            options[dotted] = value
    return options
