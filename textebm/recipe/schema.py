"""The recipe: every choice of an experiment, typed, closed and frozen."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from textebm.recipe.model_options import (
    LAYERS,
    NAME_PATTERN,
    Decoder,
    Encoder,
    Head,
    Inference,
    Latent,
    Part,
    Tokenizer,
    layer_sizes,
    option,
)
from textebm.recipe.prior_options import Prior
from textebm.recipe.removed import without_removed
from textebm.recipe.run_options import Data, Evaluation, LanguageModel, Objective, Stage, Training

__all__ = [
    "LAYERS",
    "NAME_PATTERN",
    "Data",
    "Decoder",
    "Encoder",
    "Evaluation",
    "Head",
    "Inference",
    "LanguageModel",
    "Latent",
    "Objective",
    "Part",
    "Prior",
    "Recipe",
    "Stage",
    "Tokenizer",
    "Training",
    "layer_sizes",
]


class Recipe(Part):
    name: str = option(
        ..., "The run's name; the file's, unless it is given.", "copying a recipe.", pattern=NAME_PATTERN, max_length=80
    )
    description: str = option("", "A sentence for people: it stands in the list, the report and the card.", "copying.")
    seed: int = option(
        0, "Seed of everything random; the same seed gives the same run on one machine.", "repeating.", ge=0, lt=2**32
    )
    data: Data = Data()
    tokenizer: Tokenizer = Tokenizer()
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()
    latent: Latent = Latent()
    inference: Inference = Inference()
    heads: tuple[Head, ...] = ()
    prior: Prior = Prior()
    objective: Objective = Objective()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _drop_removed(cls, data: Any) -> Any:
        return without_removed(data)
