"""How far do a few labels go? Logistic regression from so many labelled training sentences, on TF-IDF and on posterior
means; means of three seeded choices. An encoder that was taught a column has seen more labels of it than the few: there
the row of the posterior means is left out, and the head's own accuracy stands for it (`symbols.add_head_accuracies`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textebm.evaluation.state import EvaluationState
from textebm.text.history import texts_of
from textebm.text.words import WORD_PATTERN

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

NUMBERS = (200, 500, 2500)
CHOICES = 3


def add_few_labels(state: EvaluationState, encoding: Encoding) -> None:
    for label in state.labels:
        state.progress(f"few labels of {label}")
        _add_few_labels(state, encoding.mean.numpy(), label)


def _add_few_labels(state: EvaluationState, means: np.ndarray, label: str) -> None:
    train, (test, truth) = state.corpus["train"], state.known(label)
    if label not in train.features or not len(test):
        return
    taught = label in state.labelled.values()
    if taught:
        state.result.note(f"few_labels_means_<number>_{label}: left out, the encoder was taught {label}")
    labels, test_texts = np.array(train[label]), [state.texts[i] for i in test]
    for number in NUMBERS:
        scores: dict[str, list[float]] = {"tfidf": [], "means": []}
        for choice in range(CHOICES):
            candidates = np.random.default_rng([state.seed, choice]).permutation(np.flatnonzero(labels >= 0))
            rows = [i for i in candidates.tolist()[: 2 * number] if train[i]["text"].strip()][:number]
            if len(rows) < number or len(set(labels[rows].tolist())) < 2:
                break
            texts = [train[i]["text"] for i in rows]
            words = make_pipeline(
                TfidfVectorizer(token_pattern=WORD_PATTERN, ngram_range=(1, 2), sublinear_tf=True),
                LogisticRegression(C=10.0, max_iter=1000),
            ).fit(texts, labels[rows])
            scores["tfidf"].append(float(words.score(test_texts, truth)))
            if not taught:
                latent = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                latent.fit(state.model.encode(texts_of(train.select(rows))).mean.numpy(), labels[rows])
                scores["means"].append(float(latent.score(means[test], truth)))
        for name, values in scores.items():
            if len(values) == CHOICES:
                state.result.add(f"few_labels_{name}_{number}_{label}", float(np.mean(values)), len(test))
    commonest = np.bincount(labels[labels >= 0]).argmax()
    state.result.add(f"few_labels_base_{label}", float((truth == commonest).mean()), len(test))
