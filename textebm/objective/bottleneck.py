"""The information bottleneck on the symbol posterior."""

from __future__ import annotations

import torch
from torch import Tensor


def symbol_mutual_information(logits: Tensor) -> Tensor:
    """I(z; y) = H(mean_b p(y|z_b)) − mean_b H(p(y|z_b)), nats, of a batch. logits (B, K) -> ().

    Maximised, it makes each code certain and all codes used (Pang & Wu 2021, section 3.3). At most ln K and ln B.
    """
    log_p = logits.log_softmax(-1)
    log_mean = torch.logsumexp(log_p, dim=0) - torch.log(torch.tensor(float(len(logits)), device=logits.device))
    marginal_entropy = -(log_mean.exp() * log_mean).sum()
    conditional_entropy = -(log_p.exp() * log_p).sum(-1).mean()
    return marginal_entropy - conditional_entropy
