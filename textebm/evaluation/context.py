"""What the turns before a sentence are worth to a model of dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textebm.text.history import Turn, histories_of

if TYPE_CHECKING:
    from textebm.evaluation.protocols import Model


def with_others_histories(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Each text with the history of another, by one seeded circle through all of them."""
    histories, order = histories_of(texts), np.random.default_rng(seed).permutation(len(texts))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [Turn(text, histories[other[i]]) for i, text in enumerate(texts)]


def context_gain(model: Model, texts: list[str], nll: float, kl: float, *, seed: int = 0) -> dict[str, float]:
    """How much the bound of *texts*, whose means nll and kl are, loses with shuffled histories: nats a sentence."""
    terms = model.elbo_terms(with_others_histories(texts, seed), seed=seed)
    reconstruction = float(terms.reconstruction_nll.double().mean()) - nll
    prior = float(terms.kl.double().mean()) - kl
    return {
        "context_gain": reconstruction + prior,
        "context_gain_reconstruction": reconstruction,
        "context_gain_kl": prior,
    }
