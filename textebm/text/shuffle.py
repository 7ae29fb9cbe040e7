"""A random order of many rows that takes no memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGE = 200_000  # rows of which more than a number or two is kept in memory
ROUNDS = 6


@dataclass(frozen=True)
class Shuffle:
    """A permutation of 0 … n − 1, a pure function of the seed: `shuffle[positions]` are the rows that stand there.

    A Feistel network over the next power of four, repeated until a value falls below n ("cycle walking", Black &
    Rogaway 2002).
    """

    n: int
    seed: int | Sequence[int] = 0

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        return np.random.default_rng(self.seed).integers(2**64, size=ROUNDS, dtype=np.uint64)

    def __getitem__(self, positions: ArrayLike) -> NDArray[np.int64]:
        places = np.asarray(positions)
        if places.size and not (0 <= places.min() and places.max() < self.n):
            raise IndexError(f"positions from {places.min()} to {places.max()} of {self.n}")
        values = self._network(places.astype(np.uint64))
        while (outside := values >= self.n).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(max(1, -(-(self.n - 1).bit_length() // 2)))
        mask = (np.uint64(1) << half) - np.uint64(1)
        left, right = values >> half, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
