"""Geometric clustering: k-means on posterior means gives the targets of an unsupervised symbol head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

FIT_ROWS = 20_000  # enough to place a few hundred centres; every row is then assigned
MINI_BATCH_ROWS = 200_000


def cluster_latents(
    means: NDArray[np.float32], classes: int, *, components: int, seed: int, whiten: bool = False,
    previous: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Cluster of each posterior mean, (n, d) -> (n,) int64 in 0 … classes − 1.

    PCA to *components* dimensions, L2 normalisation, k-means. Whitening, as published, gives directions of noise the
    weight of directions of meaning; where the means are standardised already it lost the topics of the embedded corpus
    altogether (AMI .00 with it, .60 without, 16 components of 16). With *previous* (n,) the new clusters are named
    after the old ones that they share most rows with, so that a head's targets do not permute between epochs. There are
    fewer clusters than *classes* if there are fewer rows.
    """
    rng = np.random.default_rng(seed)
    fit = means if len(means) <= FIT_ROWS else means[np.sort(rng.choice(len(means), FIT_ROWS, replace=False))]
    pca = PCA(min(components, *fit.shape), whiten=whiten, random_state=seed).fit(fit)
    clusters = min(classes, len(fit))
    kind = KMeans if len(means) <= MINI_BATCH_ROWS else MiniBatchKMeans
    with threadpool_limits(1):  # threads' sums arrive in any order: several would not repeat exactly
        kmeans = kind(clusters, n_init=10 if clusters <= 32 else 3, random_state=seed).fit(_unit(pca.transform(fit)))
        assignment = kmeans.predict(_unit(pca.transform(means))).astype(np.int64)
    return assignment if previous is None else align(assignment, previous, classes)


def without_labels(means: NDArray[np.float32], labels: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """What of the posterior means the given label columns do not explain: least-squares residuals, (n, d) -> (n, d).

    Codes found in the residuals say something new, instead of naming again what a supervised head knows (embedded
    corpus: AMI of 6 codes with the unlabelled topic .60, against .00 without this). labels: (n,) each, −1 where
    unknown.
    """
    columns = [np.ones((len(means), 1), dtype=means.dtype)]
    for values in labels:
        columns.append((values[:, None] == np.arange(values.max(initial=-1) + 1)).astype(means.dtype))
    design = np.concatenate(columns, axis=1)
    return means - design @ np.linalg.lstsq(design, means, rcond=None)[0]


def align(assignment: NDArray[np.int64], previous: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Rename clusters so that as many rows as possible keep their name (Hungarian assignment on the counts). (n,)

    Rows whose *previous* is negative say nothing.
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    known = previous >= 0
    np.add.at(counts, (assignment[known], previous[known]), 1)
    _, renamed = linear_sum_assignment(counts, maximize=True)
    return renamed[assignment].astype(np.int64)


def _unit(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
