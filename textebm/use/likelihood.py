"""How likely is a text? An interval for −log p(x): importance sampling of everything that is latent.

K draws of u_0 ~ q(u_0 | x), each with one draw of the forward chain u_1 … u_{T−1}, have the weights

    w = p(x | u_0) p(u_0 … u_{T−1}) / (q(u_0 | x) q(u_1 … u_{T−1} | u_0)),        E[w] = p(x).

**Upper NLL (the safe side).** −log mean_k w_k with each 1/Z_t from reverse annealing. E[log mean_k w_k] ≤ log p(x) for
every K, and rises with K (IWAE; Burda, Grosse & Salakhutdinov 2016). It holds where reverse chains start from draws of
the model's conditionals; they start from posterior draws, moved by Metropolis-corrected steps.

**Lower NLL.** Draws of q alone bound log p(x) from below whatever is done about Z, so one of the averaged draws must
come from the posterior p(u | x): E[log mean_k w_k] ≥ log p(x) if u_1 ~ p(u | x) and u_2 … u_K ~ q (the idea of
bidirectional Monte Carlo; Grosse, Ghahramani & Adams 2015), and forward annealing can only raise it
(`prior.likelihood.chain_log_weights`). The posterior draw is chosen by weight from three quarters of the draws
(sampling-importance resampling, Rubin 1987) and averaged with the last quarter, each quarter in turn. It is a posterior
draw in the limit of many draws only: the lower end is a bound there, and an estimate of one at few draws (with one or
two it says little; `effective_draws` near 1 is the warning). The upper end is a bound at any number.

Both ends meet at −log p(x) as draws, temperatures and chains grow.

**Which q.** The bound holds for any. A model trained with a KL weight β < 1 has a q that is about √β as wide as the
posterior of its own decoder (where −log p(x|u) is quadratic, h s²/2 a coordinate: β-ELBO wants s² = β/h, the posterior
has 1/h), and means that no prior has pulled in. `fit_scaling` finds for each coordinate of q what to multiply mean and
standard deviation by, by ascent of the bound itself on other sentences. `fit_posterior` goes on from there with each
sentence by itself: worth two to three nats a sentence on the real corpora, for a few dozen training steps on each. The
draws that estimate the bound are others than those that fitted its q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.inference import frozen
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.hardware import rows_at_once
from textebm.networks.posterior import Affine
from textebm.prior.learning import score_cross_entropy
from textebm.prior.likelihood import Annealing, chain_log_weights
from textebm.prior.prior import LatentPrior, explicit_log_prob
from textebm.text.batches import TokenBatch, collate_texts

if TYPE_CHECKING:
    from textebm.networks.posterior import Draw, Posterior

FOLDS = 4
SCALING_STEPS, SCALING_ROWS, SCALING_RATE = 120, 64, 0.05
POSTERIOR_RATE = 0.1
Progress = Callable[[int, int], None]  # sentences done, sentences in all


@dataclass(frozen=True)
class NllInterval:
    """Of each text: lower and upper −log p(x), nats; num_tokens counts <eos>; effective_draws, of the draws of q, how
    many share the weight (1 … draws). Each (n,), on the CPU."""

    lower: Tensor
    upper: Tensor
    num_tokens: Tensor
    effective_draws: Tensor

    @property
    def width(self) -> Tensor:
        """(n,) nats. A single sentence's may be negative by chance; the mean is what the bounds speak of."""
        return self.upper - self.lower


def bounds_from_weights(safe: Tensor, flattering: Tensor, generator: torch.Generator | None = None) -> NllInterval:
    """The interval from log-weights (K, n) of K independent draws of each of n sentences; num_tokens is left 0."""
    k, n = safe.shape
    upper = math.log(k) - torch.logsumexp(safe, 0)
    share = (safe - torch.logsumexp(safe, 0)).exp()
    if k == 1:
        lower = -flattering[0]
    else:
        parts = []
        folds = torch.arange(k, device=safe.device) % min(FOLDS, k)
        for fold in range(min(FOLDS, k)):
            rest, other = safe[folds != fold], flattering[folds == fold]
            probability = (rest - torch.logsumexp(rest, 0)).exp().t()
            chosen = torch.multinomial(probability, 1, generator=generator).t()  # (1, n)
            together = torch.cat([flattering[folds != fold].gather(0, chosen), other])
            parts.append(math.log(len(together)) - torch.logsumexp(together, 0))
        lower = torch.stack(parts).mean(0)
    tokens = torch.zeros(n, dtype=torch.long)
    return NllInterval(lower.cpu(), upper.cpu(), tokens, (1 / share.square().sum(0)).cpu())


def fit_scaling(
    model: LatentTextModel, texts: Sequence[str], *, steps: int = SCALING_STEPS, rows: int = SCALING_ROWS, seed: int = 0
) -> Affine:
    """The scale and spread of q, (d,) each, under which the mean bound of *texts* is greatest; encoder, decoder and
    prior rest.

    Adam on log(scale) and log(spread).
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    logs = torch.zeros(2, model.prior.dim, device=model.device)
    written = sorted(texts, key=len)
    starts = range(0, max(1, len(written) - rows + 1))
    chosen = torch.randint(len(starts), (steps,), generator=torch.Generator().manual_seed(seed)).tolist()

    def batches() -> Iterator[tuple[TokenBatch, Posterior]]:
        for start in chosen:
            batch = collate_texts(written[start : start + rows], model.tokenizer, model.max_tokens).to(model.device)
            with torch.no_grad():
                posterior = model.posterior(batch, generator)
            yield batch, posterior

    def as_scaling(logs: Tensor) -> Affine:
        scale, spread = logs.exp()
        return Affine(scale, torch.zeros_like(scale), spread)

    return _climb(model, logs, as_scaling, batches(), steps, SCALING_RATE, generator)


def fit_posterior(
    model: LatentTextModel, batch: TokenBatch, posterior: Posterior, *, steps: int, generator: torch.Generator | None
) -> Posterior:
    """*posterior* with a mean and a standard deviation of its own for each text, by *steps* of ascent of its bound:
    what amortisation has cost is regained (semi-amortised inference; Kim et al. 2018, arXiv 1802.02550).

    Adam on the shift, in standard deviations, and the log of the spread; the gradient is `_climb`'s.
    """
    width = posterior.stddev.detach()
    both = torch.zeros(2, *width.shape, device=width.device)

    def as_move(both: Tensor) -> Affine:
        shift, log_spread = both
        return Affine(torch.ones_like(shift), width * shift, log_spread.exp())

    again = repeat((batch, posterior), steps)
    return posterior.moved(_climb(model, both, as_move, again, steps, POSTERIOR_RATE, generator))


def _climb(
    model: LatentTextModel,
    start: Tensor,
    as_move: Callable[[Tensor], Affine],
    batches: Iterable[tuple[TokenBatch, Posterior]],
    steps: int,
    rate: float,
    generator: torch.Generator | None,
) -> Affine:
    """The move of q that *steps* of Adam from *start* find, one of *batches* and one draw a text each; the rate falls
    to zero.

    The density q is held, only the draw moves: that gradient is unbiased as well, and without noise where q is the
    posterior (Roeder, Wu & Duvenaud 2017, arXiv 1703.09194). On Yelp it doubled what 40 steps on each text gain. The
    prior's part is its score at level 0 (`prior.learning.score_cross_entropy`), exact for one level and closed forms.
    """
    free = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=rate)
    with torch.enable_grad(), frozen(model):
        for step, (batch, posterior) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            u = posterior.moved(as_move(free)).sample(generator)
            log_q = posterior.moved(as_move(free.detach())).log_prob(u)
            loss = (model.reconstruction_nll(batch, u) + log_q - _log_prior_for_gradient(model.prior, u)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return as_move(free.detach())


def _log_prior_for_gradient(prior: LatentPrior, u: Tensor) -> Tensor:
    """(B,) whose gradient is that of log p(u)."""
    return score_cross_entropy(prior, u) if prior.explicit is None else explicit_log_prob(prior, u)


def importance_weights(
    prior: LatentPrior, draws: Sequence[Draw], nll: Tensor, annealing: Annealing, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Safe and flattering log-weights (K, B). draws: K of B sentences each; nll (K, B), −log p(x | u_0)."""
    u = torch.cat([draw.u for draw in draws])
    chain = chain_log_weights(prior, u, annealing, generator=generator)
    rest = -nll - torch.stack([draw.given.log_prob(draw.u) for draw in draws])
    return rest + chain.safe.view_as(nll), rest + chain.flattering.view_as(nll)


def nll_interval(
    model: LatentTextModel,
    texts: Sequence[str],
    *,
    draws: int = 16,
    temperatures: int = 4,
    burn_in: int = 4,
    chains: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    scaling_texts: Sequence[str] = (),
    q_steps: int = 0,
) -> NllInterval:
    """Lower and upper −log p(x) of each text, nats; see `textebm.TextEBM.nll_interval`. batch_size: rows at once, draws
    counted."""
    if model.reads_context:  # the top level's log Z, shared by all rows there, is a function of c
        raise TextEBMError("likelihood intervals are not there for models of dialogues; elbo_terms bounds them")
    if q_steps < 0:
        raise TextEBMError(f"q_steps must not be negative, got {q_steps}")
    batch_size = rows_at_once(model.device, 1024, gpu=1) if batch_size is None else batch_size
    if min(draws, temperatures, chains, batch_size) < 1 or burn_in < 0:
        raise TextEBMError(
            "draws, temperatures, chains and batch_size must be at least 1 and burn_in at least 0, got "
            f"{draws}, {temperatures}, {chains}, {batch_size} and {burn_in}"
        )
    with model.evaluating():
        scaling = fit_scaling(model, scaling_texts, seed=seed) if len(scaling_texts) else None
        annealing = Annealing(temperatures, burn_in, chains)
        return _interval(model, texts, draws, annealing, seed, batch_size, progress, scaling, q_steps)


@torch.no_grad()
def _interval(
    model: LatentTextModel,
    texts: Sequence[str],
    draws: int,
    annealing: Annealing,
    seed: int,
    batch_size: int,
    progress: Progress | None,
    scaling: Affine | None,
    q_steps: int,
) -> NllInterval:
    generator = torch.Generator(model.device).manual_seed(seed)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = max(1, batch_size // draws)
    batches = [[texts[i] for i in order[start : start + rows]] for start in range(0, len(order), rows)]
    pieces, done = [], 0
    for batch_texts in batches:
        batch = collate_texts(batch_texts, model.tokenizer, model.max_tokens).to(model.device)
        posterior = _scaled(model.posterior(batch, generator), scaling)
        if q_steps:
            posterior = fit_posterior(model, batch, posterior, steps=q_steps, generator=generator)
        drawn = [posterior.draw(generator) for _ in range(draws)]
        nll = torch.stack([model.reconstruction_nll(batch, draw.u) for draw in drawn])
        safe, flattering = importance_weights(model.prior, drawn, nll, annealing, generator)
        pieces.append(replace(bounds_from_weights(safe, flattering, generator), num_tokens=batch.lengths.cpu() - 1))
        done += len(batch)
        if progress is not None:
            progress(done, len(texts))
    inverse = torch.tensor(order, dtype=torch.long).argsort()
    empty = torch.zeros(0)
    return NllInterval(
        *(torch.cat([empty, *(getattr(each, field.name) for each in pieces)])[inverse] for field in fields(NllInterval))
    )


def _scaled(posterior: Posterior, scaling: Affine | None) -> Posterior:
    return posterior if scaling is None else posterior.moved(scaling)
