"""Is the latent used, and how much does it know? All in nats, float64 inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from textebm.evaluation.metric import UndefinedMetricError
from textebm.networks.posterior import Posterior

USED_NATS = 0.05  # a unit with less is near the prior for every sentence
CHUNK_ELEMENTS = 4_000_000  # of the n x n matrix of log-densities: 32 MB at a time in float64


def circle(n: int, seed: int) -> Tensor:
    """For each of n places another one, by one seeded circle through all of them. (n,)"""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    others = torch.empty(n, dtype=torch.long)
    others[order] = order.roll(1)
    return others


def kl_per_unit(means: Tensor, stddevs: Tensor) -> Tensor:
    """KL(q(z_i|x) || N(0, 1)) of each dimension, nats, averaged over sentences; means and stddevs (n, d) -> (d,).

    With standardised means and standard deviations of at most s no unit is below (s² − ln s²) / 2, whatever the decoder
    does with it: there only `reliance` shows a collapse.
    """
    return Posterior(means.double(), stddevs.double()).kl_to_standard_normal().mean(0)


def mutual_information_xz(means: Tensor, stddevs: Tensor, *, seed: int = 0) -> float:
    """I(x; z) = E_x KL(q(z|x) || q(z)), nats, of n diagonal Gaussian posteriors; means and stddevs (n, d).

    q(z) is the aggregate of these n posteriors; the expectation takes one seeded draw from each. As in Hoffman &
    Johnson 2016 ("ELBO surgery"), where it is the information between z and the *index* of the sentence, a draw's own
    posterior stays in the aggregate. So the estimate is at most log n, and below the population's I(x; z) on average,
    near it only while that is well below log n. Time O(n² d), memory O(n d) plus one chunk.
    """
    n = len(means)
    if n < 2:
        raise UndefinedMetricError("information about which sentence it was needs at least two")
    mu, s = means.double().flatten(1).cpu(), stddevs.double().flatten(1).cpu()
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = mu + s * noise
    # log q(z_i|x_j) = -1/2 sum_d (z_i - mu_j)²/s_j² - sum_d log s_j (+ a constant that cancels), as three matrix
    # products. Centring first keeps the expanded square accurate.
    centre = mu.mean(dim=0)
    mu, z = mu - centre, z - centre
    precision = s.pow(-2)
    constant = -0.5 * (mu.square() * precision).sum(1) - s.log().sum(1)
    own = -0.5 * noise.square().sum(1) - s.log().sum(1)
    total = 0.0
    rows = max(1, CHUNK_ELEMENTS // n)
    for start in range(0, n, rows):
        chunk = z[start : start + rows]
        log_density = (chunk @ (mu * precision).T) - 0.5 * (chunk.square() @ precision.T) + constant
        index = torch.arange(len(chunk))
        log_density[index, start + index] = own[start : start + rows]  # exact where cancellation would hurt most
        log_aggregate = log_density.logsumexp(dim=1) - math.log(n)
        total += float((own[start : start + rows] - log_aggregate).sum())
    return total / n


def mutual_information_zy(probabilities: Tensor) -> float:
    """I(z; y) = H(mean p(y|z)) - mean H(p(y|z)), nats; probabilities (n, K), rows sum to 1. At most log K."""
    if len(probabilities) == 0:
        raise UndefinedMetricError("there are no sentences")
    p = probabilities.double()
    # The difference is never negative; rounding may make it so by an ulp.
    return max(float(_entropy(p.mean(dim=0)) - _entropy(p).mean()), 0.0) if bool(torch.isfinite(p).all()) else math.nan


def codes_in_use(codes: Tensor) -> list[int]:
    """The codes that occur in codes (n,), in ascending order."""
    return [int(code) for code in codes.unique(sorted=True)]


def code_perplexity(codes: Tensor) -> float:
    """exp of the entropy of the counts of codes (n,): the effective number of codes."""
    if len(codes) == 0:
        raise UndefinedMetricError("there are no sentences")
    counts = codes.unique(return_counts=True)[1].double()
    return float(_entropy(counts / counts.sum()).exp())


def latent_stddev(z: Tensor) -> float:
    """Root mean square over dimensions of the standard deviation over samples; z (n, d)."""
    if len(z) < 2:
        raise UndefinedMetricError("a standard deviation needs at least two samples")
    return float(z.double().flatten(1).var(dim=0, correction=0).mean().sqrt())


def aggregate_stddev(means: Tensor, stddevs: Tensor) -> float:
    """`latent_stddev` of the aggregated posterior: Var z = Var_x E[z|x] + E_x Var[z|x]; means and stddevs (n, d)."""
    if len(means) < 2:
        raise UndefinedMetricError("a standard deviation needs at least two sentences")
    mu, s = means.double().flatten(1), stddevs.double().flatten(1)
    return float((mu.var(dim=0, correction=0) + s.square().mean(dim=0)).mean().sqrt())


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(dim=-1)
