"""What the codes of each head are found in, where that is not the latent: made once, from the training texts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from textebm.errors import CorpusError, RecipeError
from textebm.model.bases import split_revision
from textebm.model.build import build_heads
from textebm.model.latent_text_model import SymbolHead
from textebm.networks.sentence_encoder import SentenceEncoder
from textebm.objective.answers import answer_features
from textebm.objective.features import content_features, count_classes, mix
from textebm.objective.seeds import lexicon_scores, parse_seeds, prototype_scores, seeded_classes
from textebm.recipe.implementation import import_class
from textebm.recipe.schema import Head, Recipe
from textebm.text.cache import cache_root, cached_as
from textebm.text.history import COLUMN
from textebm.text.words import content_words, subject_words

log = logging.getLogger(__name__)

Labels = Mapping[str, NDArray[np.integer]]
NO_CONTENT = "hardly a training text has a content word"
MIXED = {"content": 1.0, "sentence": 1.0, "answer": 1.0}


class Features:
    """The features of one training split, each made once. labels: what the supervised heads are taught."""

    def __init__(self, rows: Dataset, recipe: Recipe, labels: Labels) -> None:
        self.rows, self.recipe, self.labels = rows, recipe, labels
        self.texts: list[str] = list(rows["text"])
        self._made: dict[str, NDArray[np.float32]] = {}
        self._encoder: SentenceEncoder | None = None

    def of(self, head: Head) -> NDArray[Any] | None:
        """What *head* is found in: points (n, k), or for a seeded head the classes (n,); None: posterior means, or a
        head that is taught labels. Raises RecipeError and CorpusError."""
        if head.labels is not None:
            return None
        if head.seeds:
            return self._seeded(head)
        options = self.recipe.objective
        if head.features is None and options.cluster_implementation:
            return self._own()
        name = head.features or options.cluster_features
        if name == "latent":
            return None
        points = self._mixed(head.classes or 20) if name == "mixed" else self._points(name)
        if points.shape[1]:
            return points
        if head.features is not None:
            raise CorpusError(f"heads.{head.name}.features: {NO_CONTENT}; set it to latent")
        log.warning("objective.cluster_features: %s; the codes of %r are found in the latent", NO_CONTENT, head.name)
        return None

    def _own(self) -> NDArray[np.float32]:
        """What the user's own function says of each text, (n, k)."""
        option, name = "objective.cluster_implementation", str(self.recipe.objective.cluster_implementation)
        points = np.asarray(import_class(option, name)(self.texts, seed=self.recipe.seed), dtype=np.float32)
        if points.ndim != 2 or len(points) != len(self.texts) or not np.isfinite(points).all():
            raise RecipeError(f"{option}: expected finite numbers of shape ({len(self.texts)}, k), got {points.shape}")
        return points

    def _points(self, name: str) -> NDArray[np.float32]:
        if name not in self._made:
            make = {"answer": self._answers, "content": self._content, "sentence": self._sentences}[name]
            self._made[name] = make()
        return self._made[name]

    def _content(self) -> NDArray[np.float32]:
        labels = list(self.labels.values()) if self.recipe.objective.cluster_residual else []
        return content_features(self.texts, subject_words, labels=labels, seed=self.recipe.seed)

    def _sentences(self) -> NDArray[np.float32]:
        options = self.recipe.objective
        key = [hashlib.sha256("\n".join(self.texts).encode()).hexdigest(), self._source, *options.sentence_layer]

        def build(folder: Path) -> None:
            np.save(folder / "sentences.npy", self.encoder(self.texts), allow_pickle=False)

        def read(folder: Path) -> NDArray[np.float32]:
            return np.asarray(np.load(folder / "sentences.npy", allow_pickle=False))

        return cached_as("sentences", key, build, cache_root(), read, ())

    @property
    def _source(self) -> str:
        source = self.recipe.objective.sentence_encoder or self.recipe.encoder.pretrained
        if source is None:
            raise RecipeError("objective.sentence_encoder: is missing; give a directory or a Hub id")
        return source

    @property
    def encoder(self) -> SentenceEncoder:
        """Loaded where it is first needed: a run whose sentences are in the cache never does."""
        if self._encoder is None:
            layer = self.recipe.objective.sentence_layer
            source, revision = split_revision(self._source)
            option = "objective.sentence_encoder"
            self._encoder = SentenceEncoder(source, layer=layer, option=option, revision=revision)
        return self._encoder

    def _answers(self) -> NDArray[np.float32]:
        """`answer_features`; the pairs are each sentence and the turn just before it."""
        histories = self.rows[COLUMN] if COLUMN in self.rows.column_names else [()] * len(self.texts)
        pairs = [(history[-1], text) for history, text in zip(histories, self.texts, strict=True) if history]
        if not pairs:
            raise CorpusError(
                "objective.cluster_features=answer: no training sentence has a turn before it; set it to latent"
            )
        return answer_features(self.texts, pairs)

    def _mixed(self, classes: int) -> NDArray[np.float32]:
        weights = parse_mix(self.recipe.objective.cluster_mix)
        blocks = [(weight, self._points(name)) for name, weight in weights.items()]
        known = [(weight, points) for weight, points in blocks if points.shape[1]]
        return mix(known, classes, seed=self.recipe.seed) if known else blocks[0][1]

    def _seeded(self, head: Head) -> NDArray[np.int64]:
        seeds = parse_seeds(head.seeds, f"heads.{head.name}.seeds")
        rest = next((place for place, phrases in enumerate(seeds.values()) if not phrases), None)
        if self.recipe.objective.sentence_encoder or self.recipe.encoder.pretrained:
            points: NDArray[np.floating] = self._points("sentence")
            scores = prototype_scores(points, seeds, self.encoder)
        else:
            points, scores = self._content_of_all(), lexicon_scores(self.texts, seeds, content_words)
        return seeded_classes(scores, points, rest=rest, seed=self.recipe.seed)

    def _content_of_all(self) -> NDArray[np.float32]:
        """Content, labels' words included: what a class named by words may share with them."""
        return content_features(self.texts, content_words, seed=self.recipe.seed)


def found_in(rows: Dataset, recipe: Recipe, labels: Labels) -> tuple[Recipe, dict[str, NDArray[Any]]]:
    """The recipe with the number of classes of every head, and what the codes of each head are found in, if it is not
    the latent. Raises RecipeError and CorpusError."""
    features, found, heads = Features(rows, recipe, labels), dict[str, NDArray[Any]](), []
    for head in recipe.heads:
        points = features.of(head)
        if points is not None:
            found[head.name] = points
        if head.classes == 0:
            if points is None:
                raise RecipeError(
                    f"heads.{head.name}.classes: auto needs features that do not change in training; set "
                    "objective.cluster_features to content, sentence, answer or mixed"
                )
            head = head.model_copy(update={"classes": count_classes(points, seed=recipe.seed)})
        heads.append(head)
    return recipe.model_copy(update={"heads": tuple(heads)}), found


def named_heads(recipe: Recipe, label_names: Mapping[str, Sequence[str]]) -> dict[str, SymbolHead]:
    """`build_heads`, and the classes of the heads whose seeds name them."""
    heads = build_heads(recipe, label_names)
    for head in recipe.heads:
        if head.seeds:
            classes = tuple(parse_seeds(head.seeds, f"heads.{head.name}.seeds"))
            heads[head.name] = replace(heads[head.name], classes=classes)
    return heads


def parse_mix(parts: tuple[str, ...]) -> dict[str, float]:
    """``("content=1", "sentence=0.5")`` as weights; all of `MIXED` but answers unless given. Raises RecipeError."""
    found = {}
    for part in parts or ("content=1", "sentence=1"):
        name, _, weight = part.partition("=")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            found[name] = -1.0
        if name not in MIXED or not 0 < found[name] < 1e6:
            raise RecipeError(
                f"objective.cluster_mix: {part!r}: expected NAME or NAME=WEIGHT above 0, of {', '.join(MIXED)}"
            )
    return found
