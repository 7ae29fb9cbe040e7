"""How far do a few labels go? Logistic regression from so many labelled training sentences, on TF-IDF and on posterior
means; means of three seeded choices. An encoder that was taught a column has seen more labels of it than the few: there
the row of the posterior means is left out, and the head's own accuracy stands for it (`symbols.head_accuracies`).
"""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting

NUMBERS = (200, 500, 2500)
CHOICES = 3


def measure(run: Setting, encoding: Encoding) -> None:
    for label in run.labels:
        run.progress(f"few labels of {label}")
        _few(run, encoding, label)


def _few(run: Setting, encoding: Encoding, label: str) -> None:
    train = run.corpus["train"]
    truth = np.array(run.data[label])
    test = np.flatnonzero(truth >= 0)
    if label not in train.features or not len(test):
        return
    labels = np.array(train[label])
    means = encoding.mean.numpy()
    taught = any(head.column == label for head in run.model.heads.values())
    if taught:
        run.result.note(f"few_labels_means_<number>_{label}: left out, the encoder was taught {label}")
    for number in NUMBERS:
        scores: dict[str, list[float]] = {"tfidf": [], "means": []}
        for choice in range(CHOICES):
            candidates = np.random.default_rng([run.seed, choice]).permutation(np.flatnonzero(labels >= 0))
            rows = [i for i in candidates.tolist()[: 2 * number] if train[i]["text"].strip()][:number]
            if len(rows) < number or len(set(labels[rows].tolist())) < 2:
                break
            texts = [train[i]["text"] for i in rows]
            words = make_pipeline(
                TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True),
                LogisticRegression(C=10.0, max_iter=1000),
            ).fit(texts, labels[rows])
            scores["tfidf"].append(float(words.score([run.texts[i] for i in test], truth[test])))
            if taught:
                continue
            latent = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            latent.fit(run.model.encode(texts).mean.numpy(), labels[rows])
            scores["means"].append(float(latent.score(means[test], truth[test])))
        for name, values in scores.items():
            if len(values) == CHOICES:
                run.result.add(f"few_labels_{name}_{number}_{label}", float(np.mean(values)), len(test))
    commonest = np.bincount(labels[labels >= 0]).argmax()
    run.result.add(f"few_labels_base_{label}", float((truth[test] == commonest).mean()), len(test))
