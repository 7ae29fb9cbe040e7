"""Labels filled in by naive Bayes and EM."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny import recipe, splits
from textebm.errors import RecipeError
from textebm.objective.semi_supervised import bag_of_tokens, estimate_labels
from textebm.training.data import known_labels


def corpus(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts of six words; class k uses words 30k … 30k + 29 and, in a third of its places, any."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=n)
    own, any_word = 30 * classes[:, None] + rng.integers(30, size=(n, 6)), rng.integers(90, size=(n, 6))
    tokens = np.where(rng.random((n, 6)) < 1 / 3, any_word, own)
    return tokens.ravel(), np.arange(0, 6 * n + 1, 6), classes


def test_few_labels_and_many_texts_tell_nearly_all_labels() -> None:
    tokens, offsets, classes = corpus()
    shown = np.concatenate([np.flatnonzero(classes == k)[:3] for k in range(3)])
    labels = np.full(len(classes), -1)
    labels[shown] = classes[shown]
    told = estimate_labels(bag_of_tokens(tokens, offsets), labels, 3)
    assert (told[shown] == classes[shown]).all() and (told == classes).mean() > 0.93
    alone = estimate_labels(bag_of_tokens(tokens, offsets)[shown], labels[shown], 3)
    assert (alone == classes[shown]).all()


def test_known_labels_stay_and_none_are_invented() -> None:
    tokens, offsets, classes = corpus()
    counts = bag_of_tokens(tokens, offsets)
    wrong = (classes + 1) % 3
    assert (estimate_labels(counts, wrong, 3) == wrong).all()
    assert (estimate_labels(counts, np.full(len(classes), -1), 3) == -1).all()


def test_words_of_one_text_or_of_every_text_do_not_count() -> None:
    counts = bag_of_tokens(
        np.array([0, 1, 1, 0, 2, 0, 1]), np.array([0, 3, 5, 7])
    )  # 0 in three texts, 1 in two, 2 in one
    assert counts.toarray().tolist() == [[2.0], [0.0], [1.0]]


def test_a_head_may_have_its_missing_labels_filled_in() -> None:
    chosen = recipe("heads.1.estimate_labels=true")
    train = splits(recipe())[1]["train"]
    heads = {head.name: head for head in chosen.heads}
    known = known_labels(train, heads, chosen.seed)["topic"]
    limited = known_labels(train, {head.name: head for head in recipe().heads}, chosen.seed)["topic"]
    assert (limited >= 0).sum() == 30 and (known >= 0).all()
    assert (known[limited >= 0] == limited[limited >= 0]).all()
    with pytest.raises(RecipeError, match="heads.2.estimate_labels: needs labels"):
        recipe("heads.2.estimate_labels=true")
