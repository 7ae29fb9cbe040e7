"""What a draw of the prior is asked to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

# head -> class of each row (B,) int64, −1 = not conditioned on; or the classes that may be (B, K) bool, one row of all
# True = not conditioned on
Symbols = Mapping[str, Tensor]


def log_probability_of(logits: Tensor, asked: Tensor) -> Tensor:
    """log p(y ∈ asked), (B,), of logits (B, K): 0 in the rows where nothing is asked. asked as in `Symbols`."""
    log_p = logits.log_softmax(-1)
    if asked.dtype == torch.bool:
        return torch.where(asked.all(-1), 0.0, log_p.masked_fill(~asked, -torch.inf).logsumexp(-1))
    return torch.where(asked >= 0, log_p.gather(-1, asked.clamp_min(0)[:, None])[:, 0], 0.0)


@dataclass(frozen=True)
class Tilt:
    """A linear reading of noisy latents, and what is asked of it: weight · log p(y ∈ asked | u, t) is added to F.

        p(y | u, t) = softmax(W_t u + b_t)

    slopes (T, K, d), offsets (T, K); asked (B,) or (B, K) as in `Symbols`.
    """

    slopes: Tensor
    offsets: Tensor
    asked: Tensor
    weight: float = 1.0

    def value(self, u: Tensor, level: Tensor) -> Tensor:
        """What is added to F at u (B, d), level (B,). (B,)"""
        logits = torch.einsum("bkd,bd->bk", self.slopes[level], u) + self.offsets[level]
        return self.weight * log_probability_of(logits, self.asked)


@dataclass(frozen=True)
class Condition:
    """What tilts F for each row: ``strength · Σ_h log p(y^h | u, t) + like_strength · κ_t Σ_i cos(g(u, t), c_i)``, and
    what *tilts* add.

    symbols: head -> class (B,), −1 where that row is free, or several classes (B, K); weights: of some heads, instead
    of *strength*. like (B, C): Σ_i c_i, the sum of the unit views of the
    examples (`prior.guidance`). Strengths of 1 are Bayes' rule. context (B, C'): what F itself is a function of; it
    tilts nothing, and a conditional energy net needs it.
    """

    symbols: Symbols = field(default_factory=dict)
    strength: float = 1.0
    like: Tensor | None = None
    like_strength: float = 1.0
    context: Tensor | None = None
    tilts: tuple[Tilt, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Nothing is asked: the prior itself."""
        return not self.symbols and self.like is None and not self.tilts

    @property
    def symbols_only(self) -> bool:
        """Nothing but symbols tilts F: its gradient has a closed form (`prior.fixed`)."""
        return self.like is None and not self.tilts

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
            tilts=tuple(replace(tilt, asked=change(tilt.asked)) for tilt in self.tilts),
        )


FREE = Condition()
