"""Geometric clustering: k-means on posterior means gives the targets of an unsupervised symbol head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

Number = TypeVar("Number", bound=np.floating)

FIT_ROWS = 20_000  # enough to place a few hundred centres; every row is then assigned
MINI_BATCH_ROWS = 200_000


def cluster_latents(
    means: NDArray[np.float32], classes: int, *, components: int, seed: int, previous: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Cluster of each posterior mean, (n, d) -> (n,) int64 in 0 … classes − 1.

    PCA to *components* dimensions, L2 normalisation, k-means; no whitening, which published code has: it gives
    directions of noise the weight of directions of meaning (AMI with the topics of the embedded corpus .00 with it, .60
    without). With *previous* (n,) the new clusters are named
    after the old ones that they share most rows with, so that a head's targets do not permute between epochs. There are
    fewer clusters than *classes* if there are fewer rows.
    """
    found = find_clusters(means, classes, components=components, seed=seed, previous=previous)
    return found[0]


@dataclass(frozen=True)
class Cells:
    """Clusters as regions: what gives a row that was not there when they were found the cluster of the nearest centre.

    effects (1 + Σ sizes, d): what the labels explain (`label_effects`), sizes: classes of each; origin (d,) and axes
    (d, p): of the components; centres (K, p); names (K,): each one's cluster.
    """

    origin: NDArray[np.floating]
    axes: NDArray[np.floating]
    centres: NDArray[np.floating]
    names: NDArray[np.int64]
    effects: NDArray[np.floating]
    sizes: NDArray[np.int64]

    def assign(
        self, means: NDArray[np.floating], labels: Sequence[NDArray[np.integer]] | None = None
    ) -> NDArray[np.int64]:
        """means (n, d), labels (n,) each as when they were found -> (n,)"""
        if labels is not None:
            means = without_labels(means, labels, self.sizes, self.effects)
        points = _unit((means - self.origin) @ self.axes)
        distance = np.square(self.centres).sum(1) - 2 * points @ self.centres.T
        return self.names[distance.argmin(1)]


def find_clusters(
    means: NDArray[np.float32],
    classes: int,
    *,
    components: int,
    seed: int,
    previous: NDArray[np.integer] | None = None,
    labels: Sequence[NDArray[np.integer]] | None = None,
) -> tuple[NDArray[np.int64], Cells]:
    """`cluster_latents` of what the *labels* leave unexplained, and the cells."""
    sizes = [int(values.max(initial=-1)) + 1 for values in labels or ()]
    effects: NDArray[np.floating] = np.zeros((0, means.shape[1]))
    if labels is not None:
        effects = label_effects(means, labels, sizes)
        means = without_labels(means, labels, sizes, effects)
    rng = np.random.default_rng(seed)
    fit = means if len(means) <= FIT_ROWS else means[np.sort(rng.choice(len(means), FIT_ROWS, replace=False))]
    pca = PCA(min(components, *fit.shape), random_state=seed).fit(fit)
    clusters = min(classes, len(fit))
    kind = KMeans if len(means) <= MINI_BATCH_ROWS else MiniBatchKMeans
    with threadpool_limits(1):  # threads' sums arrive in any order: several would not repeat exactly
        kmeans = kind(clusters, n_init=10 if clusters <= 32 else 3, random_state=seed).fit(_unit(pca.transform(fit)))
        assignment = kmeans.predict(_unit(pca.transform(means))).astype(np.int64)
    names = np.arange(classes) if previous is None else renaming(assignment, previous, classes)
    places = pca.mean_, pca.components_.T, kmeans.cluster_centers_
    cells = Cells(*places, names[:clusters], effects, np.array(sizes, dtype=np.int64))
    return names[assignment], cells


def label_effects(
    means: NDArray[np.floating], labels: Sequence[NDArray[np.integer]], sizes: Sequence[int]
) -> NDArray[np.floating]:
    """What the given labels explain of the posterior means by least squares, (1 + Σ sizes, d): an offset, and the
    effect of each class of each label. labels: (n,) each, −1 where unknown.

    Codes found in the residuals say something new, instead of naming again what a supervised head knows (embedded
    corpus: AMI of 6 codes with the unlabelled topic .60, against .00 without this).
    """
    effects: NDArray[np.floating] = np.linalg.lstsq(_design(means, labels, sizes), means, rcond=None)[0]
    return effects


def without_labels(
    means: NDArray[Number], labels: Sequence[NDArray[np.integer]], sizes: Iterable[int], effects: NDArray[np.floating]
) -> NDArray[Number]:
    """What the labels leave of the posterior means. (n, d) -> (n, d)"""
    return means - (_design(means, labels, sizes) @ effects).astype(means.dtype, copy=False)


def _design(
    means: NDArray[np.floating], labels: Sequence[NDArray[np.integer]], sizes: Iterable[int]
) -> NDArray[np.floating]:
    """A column of ones, and one for each class of each label. (n, 1 + Σ sizes)"""
    columns = [values[:, None] == np.arange(size) for values, size in zip(labels, sizes, strict=True)]
    return np.concatenate([np.ones((len(means), 1)), *columns], axis=1).astype(means.dtype)


def align(assignment: NDArray[np.int64], previous: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Rename clusters so that as many rows as possible keep their name (Hungarian assignment on the counts). (n,)

    Rows whose *previous* is negative say nothing.
    """
    return renaming(assignment, previous, classes)[assignment]


def renaming(assignment: NDArray[np.int64], previous: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """The new name of each cluster, (classes,): of `align`."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    known = previous >= 0
    np.add.at(counts, (assignment[known], previous[known]), 1)
    _, renamed = linear_sum_assignment(counts, maximize=True)
    return renamed.astype(np.int64)


def _unit(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
