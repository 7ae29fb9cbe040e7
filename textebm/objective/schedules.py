"""Weights that change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """What each term counts for, per sentence. kl is the current value of its schedule."""

    kl: float = 1.0
    free_bits: float = 0.0
    supervised: float = 1.0
    cluster: float = 1.0
    mutual_information: float = 0.0


def kl_weight(
    schedule: Literal["constant", "linear", "cyclical"],
    progress: float,
    *,
    weight: float,
    warmup: float,
    cycles: int = 4,
) -> float:
    """The weight of the KL at *progress* (0 … 1) through the stage.

    linear: from 0 to *weight* over the first *warmup* (Bowman et al. 2016). cyclical: the same ramp in each of
    *cycles* equal cycles (Fu et al. 2019).
    """
    if schedule == "constant" or warmup == 0:
        return weight
    if schedule == "cyclical":
        progress = math.fmod(progress * cycles, 1.0) if progress < 1 else 1.0
    return weight * min(1.0, progress / warmup)


def free_bits(kl_per_dimension: Tensor, floor: float) -> Tensor:
    """Σ_d max(floor, mean_b KL_d), nats a sentence (Kingma et al. 2016, eq. 15). (B, d) -> ()"""
    return kl_per_dimension.mean(0).clamp_min(floor).sum()


def learning_rate_factor(step: int, total: int, *, warmup: int = 100, final: float = 0.02) -> float:
    """Linear warm-up, then a cosine to *final* at the end of the stage (Loshchilov & Hutter 2017)."""
    warmup = min(warmup, max(total // 10, 1))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(total - warmup, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
