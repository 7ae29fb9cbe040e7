"""What each layer of a latent says of a label that people gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textebm.evaluation.metric import UndefinedMetricError


def layer_probes(
    means: ArrayLike, labels: ArrayLike, layers: Sequence[int], *, seed: int = 0
) -> tuple[list[float], float, int]:
    """What each layer of the latent alone says of a label: the accuracy of a logistic regression on that layer's
    posterior means.

    means (n, d), labels (n,), negative where missing; layers: dimensions, top first. Fitted on a random half of the
    labelled sentences, measured on the other. Gives the accuracies in the order of *layers*, the share of the commonest
    label of the fitted half in the other (what no information gives), and how many sentences were measured. Undefined
    unless each half has ten sentences and the fitted one two labels.
    """
    means, labels = np.asarray(means, dtype=np.float64), np.asarray(labels)
    if means.ndim != 2 or means.shape != (len(labels), sum(layers)):
        raise ValueError(f"expected means of shape ({len(labels)}, {sum(layers)}), got {means.shape}")
    present = np.random.default_rng(seed).permutation(np.flatnonzero(labels >= 0))
    fitted, measured = present[: len(present) // 2], present[len(present) // 2 :]
    if len(fitted) < 10 or len(np.unique(labels[fitted])) < 2:
        raise UndefinedMetricError("too few labelled sentences to fit a probe and to measure it")
    accuracies = []
    for layer in np.split(means, np.cumsum(layers)[:-1], axis=1):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(layer[fitted], labels[fitted])
        accuracies.append(float(probe.score(layer[measured], labels[measured])))
    commonest = np.bincount(labels[fitted]).argmax()
    return accuracies, float((labels[measured] == commonest).mean()), len(measured)
