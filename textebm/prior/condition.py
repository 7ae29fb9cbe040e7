"""What a draw of the prior is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

Symbols = Mapping[str, Tensor]  # head -> class of each row (B,), −1 = not conditioned on


@dataclass(frozen=True)
class Condition:
    """What tilts F for each row: ``strength · Σ_h log p(y^h | u, t)``.

    symbols: head -> class (B,), −1 where that row is free. Strength 1 is Bayes' rule.
    """

    symbols: Symbols = field(default_factory=dict)
    strength: float = 1.0

    @property
    def free(self) -> bool:
        """Nothing is asked: the prior itself."""
        return not self.symbols

    def rows(self, chosen: slice) -> Condition:
        return replace(self, symbols={head: classes[chosen] for head, classes in self.symbols.items()})

    def repeated(self, times: int) -> Condition:
        """The rows, *times* over: (B, …) -> (times · B, …)."""
        return replace(self, symbols={head: classes.repeat(times) for head, classes in self.symbols.items()})


FREE = Condition()
