"""A split of a corpus as the arrays that training reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from textebm.errors import CorpusError
from textebm.objective.answers import answer_features
from textebm.recipe import Head
from textebm.text.history import COLUMN, history_store
from textebm.text.tokenizer import TokenStore


@dataclass(frozen=True)
class Split:
    """Sentences as token ids, and for each label column the class of each sentence, (n,) int64, −1 where missing.
    contexts: the turns before each sentence, for a model that reads them. answers: what of each sentence tells the
    next turn, (n, k), for codes that are found there."""

    store: TokenStore
    labels: dict[str, NDArray[np.int64]]
    contexts: TokenStore | None = None
    answers: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.store)


def read_split(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, max_tokens: int, *, context_turns: int = 0,
    context_tokens: int = 0, answers: bool = False,
) -> Split:  # fmt: skip
    """Encode a split. Sentences that are empty after tokenising are kept: they are an end of sentence alone.

    context_turns: how many of the turns before each sentence to encode, at most context_tokens tokens of them.
    answers: find what of a turn tells its answer. Raises CorpusError where nothing answers anything.
    """
    labels = {
        name: np.asarray(rows[name], dtype=np.int64)
        for name, feature in rows.features.items()
        if isinstance(feature, ClassLabel)
    }
    contexts = None
    if context_turns:
        contexts = history_store(rows[COLUMN], tokenizer, turns=context_turns, max_tokens=context_tokens)
    found = _answers(rows) if answers else None
    return Split(TokenStore.build(rows["text"], tokenizer, max_tokens), labels, contexts, found)


def _answers(rows: Dataset) -> NDArray[np.float32]:
    """`answer_features` of each sentence; the pairs are each sentence and the turn just before it."""
    texts = list(rows["text"])
    pairs = [(history[-1], text) for history, text in zip(rows[COLUMN], texts, strict=True) if history]
    if not pairs:
        raise CorpusError(
            "objective.cluster_features=answer: no training sentence has a turn before it; set it to latent"
        )
    return answer_features(texts, pairs)


def words_of(rows: Dataset, context_turns: int = 0) -> Iterator[str]:
    """The texts that a tokenizer is made from: the sentences, and what each one answers if contexts are read."""
    yield from rows["text"]
    if context_turns:
        yield from (history[-1] for history in rows[COLUMN] if history)


def label_names(rows: Dataset) -> dict[str, list[str]]:
    """The classes of each label column."""
    return {name: feature.names for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}


def known_labels(split: Split, heads: Mapping[str, Head], seed: int) -> dict[str, NDArray[np.int64]]:
    """What each supervised head may see: its column, with all but `label_limit` labels hidden (−1), chosen by seed."""
    known = {}
    for name, head in heads.items():
        if head.labels is None:
            continue
        labels = split.labels[head.labels].copy()
        if head.label_limit is not None:
            present = np.flatnonzero(labels >= 0)
            shown = np.random.default_rng(seed).permutation(present)[: head.label_limit]
            hidden = np.setdiff1d(present, shown)
            labels[hidden] = -1
        known[name] = labels
    return known
