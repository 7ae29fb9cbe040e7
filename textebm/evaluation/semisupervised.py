"""How far do a few labels go? Logistic regression from so many labelled training sentences, on TF-IDF and on posterior
means, beside what the model's own p(y|z) says with the labels that its recipe showed it. Means of three seeded choices.
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
    for head in run.labelled:
        column = run.model.heads[head].column
        if column not in run.data.features:
            continue
        truth = np.array(run.data[column])
        known = truth >= 0
        if known.any():
            right = encoding.codes[head].numpy()[known] == truth[known]
            run.result.add(f"head_accuracy_{head}", float(right.mean()), int(known.sum()))
            shown = run.label_limits.get(head)
            limit = "all labels of train" if shown is None else f"{shown:,} labels"
            run.result.settings[f"head_accuracy_{head}"] = f"p(y|z) of a model that saw {limit}"
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
            latent = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            latent.fit(run.model.encode(texts).mean.numpy(), labels[rows])
            scores["means"].append(float(latent.score(means[test], truth[test])))
        for name, values in scores.items():
            if len(values) == CHOICES:
                run.result.add(f"few_labels_{name}_{number}_{label}", float(np.mean(values)), len(test))
    commonest = np.bincount(labels[labels >= 0]).argmax()
    run.result.add(f"few_labels_base_{label}", float((truth[test] == commonest).mean()), len(test))
