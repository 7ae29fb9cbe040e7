"""What is known of each sentence's class for each head: given labels, and clusters found in posterior means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textebm.model.objective import Targets
from textebm.objective.clustering import Cells, find_clusters

Rows = NDArray[np.int64]


class Classes:
    """Clusters are found in the posterior means of a *sample* of the n rows: all of them, unless there are many. Rows
    beside it get the cluster of the nearest centre when their own mean is known.

    codes: the heads that clusters teach, and how many each has. residual: clusters say nothing that labels say already.
    drawn: a row's last cluster is remembered, for drawing by it. features: points (n, k) in which a head's clusters are
    found instead, once and in all rows, or its classes themselves (n,), −1 where unknown.
    """

    def __init__(
        self,
        n: int,
        sample: Rows,
        dim: int,
        labels: Mapping[str, NDArray[np.integer]],
        codes: Mapping[str, int],
        *,
        components: int,
        residual: bool = True,
        drawn: bool = False,
        seed: int = 0,
        features: Mapping[str, NDArray[Any]] | None = None,
    ):
        self.sample, self.labels, self.codes = sample, dict(labels), dict(codes)
        self.all, self.features = len(sample) == n, dict(features or {})
        assert self.all or not self.features
        self.components, self.residual, self.drawn, self.seed = components, residual, drawn, seed
        self.means = np.zeros((len(sample), dim), dtype=np.float32)  # of this epoch
        self.clusters: dict[str, NDArray[np.int64]] = {}  # of the rows of the sample, −1 where none is known
        self.cells: dict[str, Cells] = {}  # of other rows
        # where each row was in the last epoch, and where it has been in this one
        self.found = np.full(n if drawn and not self.all else 0, -1, dtype=np.int16)
        self.finding = self.found.copy()

    def targets(self, rows: Rows, device: torch.device) -> Targets:
        """The classes of these rows, or what tells them from their posterior means."""

        def known(classes: NDArray[np.integer]) -> Tensor:
            return torch.from_numpy(classes.astype(np.int64)).to(device)

        labels = {name: known(classes[rows]) for name, classes in self.labels.items()}
        if self.all:
            return {**labels, **{name: known(classes[rows]) for name, classes in self.clusters.items()}}

        def from_means(means: Tensor) -> dict[str, Tensor]:
            points, explained = means.float().cpu().numpy(), self._explained(rows)
            return {**labels, **{name: known(cells.assign(points, explained)) for name, cells in self.cells.items()}}

        return from_means

    def remember(self, rows: Rows, means: NDArray[np.float32]) -> None:
        """The posterior means of a batch, (B,) and (B, d)."""
        if self.all:
            self.means[rows] = means
            return
        places = np.searchsorted(self.sample, rows).clip(max=len(self.sample) - 1)
        kept = self.sample[places] == rows
        self.means[places[kept]] = means[kept]
        if self.drawn and self.cells:
            self.finding[rows] = next(iter(self.cells.values())).assign(means, self._explained(rows))

    def take_means(self) -> NDArray[np.float32]:
        """The sample's means of an epoch that is over, 0 where no batch held the row."""
        means, self.means = self.means, np.zeros_like(self.means)
        return means

    def find(self, means: NDArray[np.float32]) -> None:
        """New clusters, named after the old ones; means (rows of the sample, d), 0 where none is known. Clusters in a
        head's own features do not change, and are found once."""
        for name, classes in self.codes.items():
            points, previous = self.features.get(name), self.clusters.get(name)
            if points is None:
                seen = (
                    np.abs(means).sum(1) > 0
                )  # a row that no batch held this epoch keeps its old cluster, or has none
                points = means
            elif previous is None:
                seen = np.ones(len(points), dtype=bool)
            else:
                continue
            if points.ndim == 1:
                self.clusters[name] = points.astype(np.int64)
                continue
            if not seen.any():
                continue
            assignment = np.full(len(points), -1, dtype=np.int64) if previous is None else previous.copy()
            assignment[seen], self.cells[name] = find_clusters(
                points[seen],
                classes,
                components=self.components,
                seed=self.seed,
                previous=None if previous is None else previous[seen],
                labels=self._explained(self.sample[seen]),
            )
            self.clusters[name] = assignment
        if len(self.finding):
            self.finding[self.sample] = next(iter(self.clusters.values()))

    def begin_epoch(self) -> None:
        self.found[:] = self.finding

    def drawn_by(self) -> NDArray[np.integer] | None:
        """The clusters that this epoch's rows are drawn by, (n,), if they are drawn so and there are any."""
        if not self.drawn or not self.clusters:
            return None
        return next(iter(self.clusters.values())) if self.all else self.found

    def _explained(self, rows: Rows) -> Sequence[NDArray[np.integer]] | None:
        return [each[rows] for each in self.labels.values()] if self.residual else None

    # -- resuming ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Groups of tensors, as a checkpoint has them."""
        epoch: dict[str, NDArray[Any]] = {"means": self.means, "found": self.found, "finding": self.finding}
        cells = {f"{name}.{part}": value for name, of in self.cells.items() for part, value in vars(of).items()}
        groups: dict[str, Mapping[str, NDArray[Any]]] = {"clusters": self.clusters, "cells": cells, "epoch": epoch}
        return {group: {k: torch.from_numpy(v) for k, v in values.items()} for group, values in groups.items()}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        arrays = {
            group: {name: values.numpy().copy() for name, values in tensors[group].items()}
            for group in ("clusters", "cells", "epoch")
        }
        self.clusters = arrays["clusters"]
        self.means, self.found, self.finding = (arrays["epoch"][name] for name in ("means", "found", "finding"))
        parts = dict[str, dict[str, Any]]()
        for name, values in arrays["cells"].items():
            head, _, part = name.rpartition(".")
            parts.setdefault(head, {})[part] = values
        self.cells = {head: Cells(**of) for head, of in parts.items()}
