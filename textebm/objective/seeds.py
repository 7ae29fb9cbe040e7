"""Classes given by phrases instead of labels: what the seeds say of each text, and self-training from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from textebm.errors import RecipeError

Words = Callable[[str], list[str]]
ROUNDS, CONFIDENT = 3, 0.3  # of self-training; the share of each class's guesses that teach the next round
KEPT = 0.5  # the last guess must be so probable to be a target
MOST = 20_000  # words


def parse_seeds(lines: Sequence[str], option: str) -> dict[str, list[str]]:
    """``["joy: happy, what a great day", "none:"]`` as phrases by class; a class without phrases is what no phrase of
    another tells. Raises RecipeError."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, colon, phrases = line.partition(":")
        name = name.strip()
        if not colon or not name or name in found:
            raise RecipeError(f"{option}: {line!r}: expected a class of its own, a colon, and phrases between commas")
        found[name] = [phrase.strip() for phrase in phrases.split(",") if phrase.strip()]
    if len(found) < 2 or sum(not phrases for phrases in found.values()) > 1:
        raise RecipeError(f"{option}: needs two classes or more, of which one may be without phrases")
    return found


def lexicon_scores(texts: Sequence[str], seeds: Mapping[str, Sequence[str]], words: Words) -> NDArray[np.float64]:
    """How much of each class's phrases each text holds, (n, K): TF-IDF of their words, 0 where none."""
    vectorizer = TfidfVectorizer(analyzer=words, max_features=MOST, sublinear_tf=True)
    rows = vectorizer.fit_transform([*texts, *(" ".join(phrases) for phrases in seeds.values())])
    prototypes = rows[len(texts) :]
    prototypes.data[:] = np.where(prototypes.data > 0, 1.0, 0.0)  # a seed is a seed, however rare
    return np.asarray((rows[: len(texts)] @ prototypes.T).todense())


def prototype_scores(
    points: NDArray[np.floating], seeds: Mapping[str, Sequence[str]], embed: Callable[[Sequence[str]], NDArray]
) -> NDArray[np.float64]:
    """Cosine of each text's point (n, d) with the nearest phrase of each class, above its mean over texts, (n, K)."""
    columns = []
    for phrases in seeds.values():
        if not phrases:
            columns.append(np.zeros(len(points)))
            continue
        likeness = (points @ np.asarray(embed(phrases)).T).max(1)
        columns.append(likeness - likeness.mean())
    return np.stack(columns, axis=1)


def seeded_classes(
    scores: NDArray[np.floating], features: csr_matrix | NDArray[np.floating], *, rest: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """The class of each text, (n,), −1 where no guess is sure enough to teach.

    Self-training (Scudder 1965): the most confident guesses by *scores* (n, K) teach a logistic regression on
    *features* (n, p), whose own most confident guesses teach the next. rest: the class without seeds, which begins with
    the texts of the least scores.
    """
    n, count = scores.shape
    guess, sure = scores.argmax(1), np.sort(scores, axis=1)
    margin = sure[:, -1] - sure[:, -2] if count > 1 else sure[:, -1]
    guess, margin = np.where(sure[:, -1] > 0, guess, -1), np.where(sure[:, -1] > 0, margin, -np.inf)
    if rest is not None:
        others = [k for k in range(count) if k != rest]
        best = scores[:, others].max(1)
        plain = best <= np.quantile(best, CONFIDENT)
        guess, margin = np.where(plain, rest, guess), np.where(plain, -best, margin)
    for _ in range(ROUNDS):
        taught = _most_confident(guess, margin, count)
        if len(np.unique(guess[taught])) < 2:
            return np.where(np.isin(np.arange(n), taught), guess, -1).astype(np.int64)
        with threadpool_limits(1):
            learner = LogisticRegression(max_iter=200, class_weight="balanced", random_state=seed)
            learner.fit(features[taught], guess[taught])
        p = learner.predict_proba(features)
        guess, margin = learner.classes_[p.argmax(1)], p.max(1)
    return np.where(margin >= KEPT, guess, -1).astype(np.int64)


def _most_confident(guess: NDArray[np.integer], margin: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The rows of the surest guesses of each class."""
    kept = []
    for value in range(count):
        own = np.flatnonzero((guess == value) & np.isfinite(margin))
        kept.append(own[np.argsort(-margin[own], kind="stable")][: int(np.ceil(len(own) * CONFIDENT))])
    return np.sort(np.concatenate(kept))
