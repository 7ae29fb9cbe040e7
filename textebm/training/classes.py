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
    """Clusters are found in the posterior means of a *sample* of the rows, in ascending order: of all, unless there are
    many. A row's class is the cluster of the nearest centre to its own mean.

    labels: (n,) each, −1 where unknown. codes: the heads that clusters teach, and how many each has. residual: clusters
    say nothing that labels say already. features: points (n, k) in which a head's clusters are found instead, once, 0
    where nothing is known; or its classes themselves (n,), −1 where unknown.
    """

    def __init__(
        self,
        sample: Rows,
        dim: int,
        labels: Mapping[str, NDArray[np.integer]],
        codes: Mapping[str, int],
        *,
        components: int,
        residual: bool = True,
        seed: int = 0,
        features: Mapping[str, NDArray[Any]] | None = None,
    ):
        self.sample, self.labels, self.codes, self.features = sample, dict(labels), dict(codes), dict(features or {})
        self.components, self.residual, self.seed = components, residual, seed
        self.means = np.zeros((len(sample), dim), dtype=np.float32)  # of the sample, in this epoch
        self.clusters: dict[str, NDArray[np.int64]] = {}  # of the sample, −1 where none is known
        self.cells: dict[str, Cells] = {}

    def targets(self, rows: Rows, device: torch.device) -> Targets:
        """The classes of these rows, or what tells them from their posterior means."""

        def known(classes: NDArray[np.integer]) -> Tensor:
            return torch.from_numpy(classes.astype(np.int64)).to(device)

        told = {name: known(classes[rows]) for name, classes in self.labels.items()}
        told |= {name: known(self.features[name][rows]) for name in self.clusters if name not in self.cells}
        if not self.cells:
            return told

        def from_means(means: Tensor) -> dict[str, Tensor]:
            own, explained = means.detach().float().cpu().numpy(), self._explained(rows)
            points = {name: self.features[name][rows] if name in self.features else own for name in self.cells}
            classes = {name: of.assign(points[name], explained) for name, of in self.cells.items()}
            return told | {name: known(np.where(points[name].any(1), each, -1)) for name, each in classes.items()}

        return from_means

    def remember(self, rows: Rows, means: NDArray[np.float32]) -> None:
        """The posterior means of a batch, (B,) and (B, d)."""
        places = np.searchsorted(self.sample, rows).clip(max=len(self.sample) - 1)
        kept = self.sample[places] == rows
        self.means[places[kept]] = means[kept]

    def take_means(self) -> NDArray[np.float32]:
        """The sample's means of an epoch that is over, 0 where no batch held the row."""
        means, self.means = self.means, np.zeros_like(self.means)
        return means

    def find(self, means: NDArray[np.float32], *, latents: bool = True) -> None:
        """New clusters, named after the old ones; means (rows of the sample, d), 0 where none is known. Clusters in a
        head's own features do not change, and are found once. latents: whether those of the other heads are due."""
        for name, classes in self.codes.items():
            previous, own = self.clusters.get(name), self.features.get(name)
            if (own is None and not latents) or (own is not None and previous is not None):
                continue
            points = means if own is None else own[self.sample]
            if points.ndim == 1:
                self.clusters[name] = points.astype(np.int64)
                continue
            # a row that no batch held this epoch keeps its old cluster, or has none; neither has one without features
            seen = points.any(1)
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

    def _explained(self, rows: Rows) -> Sequence[NDArray[np.integer]] | None:
        return [each[rows] for each in self.labels.values()] if self.residual else None

    # -- resuming ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Groups of tensors, as a checkpoint has them."""
        cells = {f"{name}.{field}": value for name, of in self.cells.items() for field, value in vars(of).items()}
        groups: dict[str, Mapping[str, NDArray[Any]]] = {
            "clusters": self.clusters,
            "cells": cells,
            "epoch": {"means": self.means},
        }
        return {group: {k: torch.from_numpy(v) for k, v in values.items()} for group, values in groups.items()}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what `state` gave."""
        arrays = {
            group: {name: values.numpy().copy() for name, values in tensors[group].items()}
            for group in ("clusters", "cells", "epoch")
        }
        self.clusters, self.means = arrays["clusters"], arrays["epoch"]["means"]
        fields = dict[str, dict[str, Any]]()
        for name, values in arrays["cells"].items():
            head, _, field = name.rpartition(".")
            fields.setdefault(head, {})[field] = values
        self.cells = {head: Cells(**of) for head, of in fields.items()}
