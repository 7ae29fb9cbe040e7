"""Views of a sentence that two stochastic readings agree on (SimCLR, Chen et al. 2020; with an energy-based model's own
samples as further negatives: CLEL, Lee et al. 2023, arXiv 2303.03023, here for text)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Contrastive:
    """weight of the terms; temperature of SimCLR; share of words hidden in the second reading; how many of the model's
    own sentences are among a batch's negatives."""

    weight: float = 1.0
    temperature: float = 0.1
    word_dropout: float = 0.2
    negatives: int = 16


def simclr_loss(first: Tensor, second: Tensor, negatives: Tensor | None = None, *, temperature: float = 0.1) -> Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1), nats a view: each of the 2B views has to find its twin among all others and
    the *negatives* (M, C), views of the model's own samples. first, second (B, C), all of unit length -> ()."""
    b = len(first)
    views = torch.cat([first, second])  # (2B, C)
    similarity = views @ (views if negatives is None else torch.cat([views, negatives])).t() / temperature
    rows = torch.arange(2 * b, device=views.device)
    similarity = similarity.index_put((rows, rows), similarity.new_tensor(float("-inf")))  # not itself
    return F.cross_entropy(similarity, rows.roll(b))
