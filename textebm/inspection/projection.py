"""Two dimensions to look at: PCA, t-SNE, UMAP of posterior means, with prior samples among them; seeded, stored."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from textebm.errors import TextEBMError

VERSION = 1
MIN_FOR_TSNE = 20
Plane = NDArray[np.float64]
NOTES = {
    "tsne": "t-SNE: near stays near; distances between groups and the axes mean little",
    "umap": "UMAP: near stays near; the axes mean nothing, distances between groups little",
}


@dataclass(frozen=True)
class Layout:
    """One map. points (n, 2): the sentences; samples (m, 2): the prior's samples; note: what the axes are."""

    points: Plane
    samples: Plane
    note: str


@dataclass(frozen=True)
class Projection:
    """Maps by name ("pca", "tsne", "umap"), and the key of what they were made from."""

    key: str
    layouts: dict[str, Layout]

    def to_json(self) -> dict[str, Any]:
        layouts = {
            name: {"points": each.points.tolist(), "samples": each.samples.tolist(), "note": each.note}
            for name, each in self.layouts.items()
        }
        return {"version": VERSION, "key": self.key, "layouts": layouts}

    @classmethod
    def from_json(cls, data: Any) -> Projection:
        """What `to_json` gave. Raises ValueError for anything else."""
        try:
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}")
            layouts = {
                str(name): Layout(_plane(each["points"]), _plane(each["samples"]), str(each["note"]))
                for name, each in data["layouts"].items()
            }
            return cls(str(data["key"]), layouts)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a stored projection: {error!r}") from None


def projection_key(identity: str, texts: Sequence[str], num_samples: int, seed: int) -> str:
    """A digest of what a map is made from: the model's *identity* (its checksum), sentences, samples and seed."""
    stated = json.dumps([VERSION, identity, seed, num_samples, list(texts)])
    return hashlib.sha256(stated.encode()).hexdigest()


def project(
    mean: NDArray[np.floating[Any]],
    samples: NDArray[np.floating[Any]],
    *,
    key: str = "",
    seed: int = 0,
    tsne: bool = True,
    umap: bool = False,
    known: Projection | None = None,
) -> Projection:
    """Maps of the posterior means (n, d) and prior samples (m, d), rounded to what a screen shows.

    PCA is fitted on the means alone, so that a sample far from all of them lies far from them on the map too. t-SNE
    (van der Maaten & Hinton 2008) and, if it is asked for, UMAP (McInnes, Healy & Melville 2018) place both together.
    They are left out where there are too few points or all are one. known: maps of the same points that are there
    already; they stay as they are. Raises TextEBMError where UMAP is asked for and not installed.
    """
    if umap:
        find_umap()
    mean, samples = mean.astype(np.float64), samples.astype(np.float64)
    if mean.ndim != 2 or samples.ndim != 2 or mean.shape[1] != samples.shape[1] or len(mean) == 0:
        raise ValueError(f"expected means (n, d) and samples (m, d) with n > 0, got {mean.shape} and {samples.shape}")
    layouts = dict(known.layouts) if known is not None else {"pca": _pca(mean, samples)}
    together = np.concatenate([mean, samples])
    if len(together) >= MIN_FOR_TSNE and together.var(0).sum() > 1e-12:
        for name, asked, place in (("tsne", tsne, _tsne), ("umap", umap, _umap)):
            if asked and name not in layouts:
                placed = place(together, seed)
                layouts[name] = Layout(_rounded(placed[: len(mean)]), _rounded(placed[len(mean) :]), NOTES[name])
    return Projection(key, layouts)


def find_umap() -> Any:
    """UMAP's class. Raises TextEBMError where it is not installed."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise TextEBMError(f"a UMAP map needs umap-learn ({error}): pip install 'textebm[umap]'") from None
    return UMAP


def _pca(mean: NDArray[np.floating[Any]], samples: NDArray[np.floating[Any]]) -> Layout:
    number = min(2, *mean.shape)
    if mean.var(0).sum() <= 1e-12:  # all means are one point; the middle of the map
        return Layout(np.zeros((len(mean), 2)), np.zeros((len(samples), 2)), "PCA: all posterior means are one point")
    fit = PCA(number, svd_solver="full").fit(mean)
    points, others = np.zeros((len(mean), 2)), np.zeros((len(samples), 2))
    points[:, :number] = fit.transform(mean)
    if len(samples):
        others[:, :number] = fit.transform(samples)
    shares = fit.explained_variance_ratio_
    return Layout(_rounded(points), _rounded(others), f"PCA: the two axes carry {shares.sum():.0%} of the variance")


def _tsne(points: NDArray[np.floating[Any]], seed: int) -> Plane:
    perplexity = min(30.0, (len(points) - 1) / 3)
    # PCA start: large structure survives (Kobak & Berens 2019)
    start = "pca" if points.shape[1] > 1 else "random"
    fit = TSNE(2, perplexity=perplexity, init=start, random_state=seed, max_iter=500, angle=0.7, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a dimension without variance
        placed = np.asarray(fit.fit_transform(points), dtype=np.float64)
    return placed if np.isfinite(placed).all() else np.zeros((len(points), 2))


def _umap(points: NDArray[np.floating[Any]], seed: int) -> Plane:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread, as it says each time
        fit = find_umap()(n_neighbors=min(15, len(points) - 1), min_dist=0.1, random_state=seed, n_jobs=1)
        placed = np.asarray(fit.fit_transform(points.astype(np.float32)), dtype=np.float64)
    return placed if np.isfinite(placed).all() else np.zeros((len(points), 2))


def _rounded(points: Plane) -> Plane:
    """Four digits beyond the largest coordinate: less than a pixel."""
    largest = float(np.abs(points).max(initial=0.0))
    digits = 4 - math.ceil(math.log10(largest)) if largest > 0 else 4
    return points.round(digits) + 0.0  # no minus zero


def _plane(rows: Any) -> Plane:
    points = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("points that are not finite")
    return points


def nearest(points: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """The *count* other rows nearest to each in Euclidean distance, the nearest first; fewer where there are fewer.
    points (n, d) -> (n, count)"""
    count = min(count, len(points) - 1)
    if count < 1:
        return np.zeros((len(points), 0), dtype=np.int64)
    x = points.astype(np.float64)
    squares, found = (x**2).sum(1), []
    for start in range(0, len(x), 1024):  # so many rows against all, at once
        far = squares[None] - 2 * x[start : start + 1024] @ x.T
        far[np.arange(len(far)), np.arange(start, start + len(far))] = np.inf
        close = np.argpartition(far, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(far, close, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(close, order, 1))
    return np.concatenate(found)
