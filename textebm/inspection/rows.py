"""The sentences that are looked at, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray

from textebm.errors import CorpusError
from textebm.text.history import texts_of


@dataclass(frozen=True)
class LabelColumn:
    """classes: the names; values (n,) int64, -1 where the label is missing."""

    classes: tuple[str, ...]
    values: NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """n sentences with a word, and the label columns of the corpus. total: sentences of the split before the choice."""

    texts: list[str]
    labels: dict[str, LabelColumn]
    total: int

    def __len__(self) -> int:
        return len(self.texts)


def choose_rows(dataset: Dataset, *, limit: int | None = None, seed: int = 0) -> Rows:
    """The sentences with a word, or a seeded choice of *limit* of them in the order of the file (which may be sorted
    by label). Raises CorpusError if there is none.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    texts = texts_of(dataset)
    written = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
    if len(written) == 0:
        raise CorpusError("no sentence with a word to look at; choose a split that has text")
    if limit is not None and limit < len(written):
        written = np.sort(np.random.default_rng(seed).choice(written, limit, replace=False))
    labels = {
        name: LabelColumn(tuple(feature.names), np.asarray(dataset[name], dtype=np.int64)[written])
        for name, feature in dataset.features.items()
        if isinstance(feature, ClassLabel)
    }
    return Rows([texts[i] for i in written], labels, len(texts))
