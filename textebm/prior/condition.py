"""What a draw of the prior is asked to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Symbols = Mapping[str, Tensor]  # head -> class of each row (B,), −1 = not conditioned on


@dataclass(frozen=True)
class Condition:
    """What tilts F for each row: ``strength · Σ_h log p(y^h | u, t) + like_strength · κ_t Σ_i cos(g(u, t), c_i)``.

    symbols: head -> class (B,), −1 where that row is free. like (B, C): Σ_i c_i, the sum of the unit views of the
    examples (`prior.guidance`). Strengths of 1 are Bayes' rule. context (B, C'): what F itself is a function of; it
    tilts nothing, and a conditional energy net needs it.
    """

    symbols: Symbols = field(default_factory=dict)
    strength: float = 1.0
    like: Tensor | None = None
    like_strength: float = 1.0
    context: Tensor | None = None

    @property
    def free(self) -> bool:
        """Nothing is asked: the prior itself."""
        return not self.symbols and self.like is None

    @property
    def symbols_only(self) -> bool:
        """Nothing but symbols tilts F: its gradient has a closed form (`prior.fixed`)."""
        return self.like is None

    @property
    def detached(self) -> Condition:
        """The same for chains and scores, which teach the context nothing."""
        return self if self.context is None else replace(self, context=self.context.detach())

    def rows(self, chosen: slice) -> Condition:
        return self._each(lambda x: x[chosen])

    def chosen(self, rows: Tensor) -> Condition:
        """The condition of these *rows* (n,), by number."""
        return self._each(lambda x: x[rows])

    def repeated(self, times: int) -> Condition:
        """The rows, *times* over: (B, …) -> (times · B, …)."""
        return self._each(lambda x: torch.cat([x] * times))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return replace(
            self,
            symbols={head: change(classes) for head, classes in self.symbols.items()},
            like=None if self.like is None else change(self.like),
            context=None if self.context is None else change(self.context),
        )


FREE = Condition()
