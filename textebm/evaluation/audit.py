"""Likelihood estimators in use, on a language whose entropy is known: on which side of −log p(x) each is, how far off.

The embedded language is finite and every sentence has one derivation, so the entropy of its sentences is known exactly.
No model's mean −log p(x) is below it: an estimator that reports less reports what cannot be. What a model's own −log
p(x) is, no formula says; the reference is the middle of an interval with many more draws and temperatures, whose width
is reported.

| estimator | side of −log p(x) |
|---|---|
| one-sample ELBO, partition functions by reverse annealing | above |
| … by forward annealing (the pair brackets the ELBO) | none |
| … by averaging e^F over draws of the reference (Yu et al. 2022 and others) | none; log Ẑ is below log Z |
| IWAE (Burda, Grosse & Salakhutdinov 2016), reverse annealing | above |
| a posterior fitted to each text under one noise draw, reported with the same draw | none |
| … the same posterior with a fresh draw | above |
| a posterior fitted to each text under fresh draws, reported with a fresh draw | above |
| the interval (`textebm.use.likelihood`) | one end on each side |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.inference import frozen
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.posterior import Affine, Draw, Posterior
from textebm.prior.learning import score_cross_entropy
from textebm.prior.likelihood import log_prob_bound
from textebm.prior.prior import LatentPrior, explicit_log_prob
from textebm.text import grammar
from textebm.text.batches import TokenBatch, collate_texts
from textebm.use.likelihood import NllInterval, fit_posterior, nll_interval

if TYPE_CHECKING:
    from textebm.api import TextEBM

FIT_RATE = 0.1
SCALING_SENTENCES = 500


@dataclass(frozen=True)
class Estimate:
    """nats: the mean over the sentences; difference: that less the reference, ± its standard error. side: where theory
    puts the estimator's mean: "above" −log p(x), "below" it, or "none"."""

    name: str
    nats: float
    difference: float
    error: float
    side: str

    @property
    def holds(self) -> bool:
        """Nothing seen speaks against the side that theory gives (three standard errors)."""
        sign = {"above": 1, "below": -1, "none": 0}[self.side]
        return sign * self.difference > -3 * self.error - 1e-6


@dataclass(frozen=True)
class Audit:
    """entropy: of the language, nats a sentence. reference: the model's −log p(x), the middle of its own interval of
    reference_width. coverage: the share of *groups* of group_size sentences whose mean reference lies in their mean
    interval; coverage_with_error: in that interval, two standard errors of its draws wider at either end."""

    estimates: tuple[Estimate, ...]
    entropy: float
    reference: float
    reference_width: float
    coverage: float
    coverage_with_error: float
    groups: int
    group_size: int
    sentences: int

    def as_dict(self) -> dict[str, Any]:
        rows = [
            {**asdict(each), "holds": each.holds, "below_entropy": each.nats < self.entropy} for each in self.estimates
        ]
        return {**asdict(self), "estimates": rows}


@dataclass(frozen=True)
class Effort:
    """What is spent: draws and temperatures of IWAE and of the interval, reference_* of the reference; fit_steps on
    each text's posterior; averaged: draws of the reference over which e^F is averaged."""

    draws: int = 16
    temperatures: int = 4
    reference_draws: int = 64
    reference_temperatures: int = 16
    fit_steps: int = 60
    averaged: int = 16


def language_entropy() -> float:
    """−Σ p log p over the embedded language, nats a sentence: factors, templates and phrases are drawn uniformly."""
    combinations = list(grammar.combinations())
    nats = [
        math.log(len(combinations) * len(grammar.templates(factors))) + sum(math.log(len(slot)) for slot in template)
        for factors in combinations
        for template in grammar.templates(factors)
    ]
    return sum(nats) / len(nats)  # each combination has as many templates


def audit(
    model: TextEBM,
    *,
    sentences: int = 200,
    groups: int = 200,
    group_size: int = 20,
    effort: Effort = Effort(),
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> Audit:
    """Every estimator on *sentences* fresh draws of the embedded language. Raises TextEBMError for a model of another
    corpus, and for more sentences in a group than there are."""
    recipe = model.recipe or {}
    if recipe.get("data", {}).get("corpus") != "grammar":
        raise TextEBMError(
            "an audit needs the embedded language, whose entropy is known: give a run of corpus 'grammar', such as "
            "the quickstart's"
        )
    if not 0 < group_size <= sentences or groups < 1:
        raise TextEBMError(f"groups need 1 to {sentences} sentences, as many as are audited; got {group_size}")
    network = model.network
    drawn = [example.text for example in grammar.generate(sentences + SCALING_SENTENCES, seed + 1)]
    texts, others = drawn[:sentences], drawn[sentences:]
    values: dict[str, Tensor] = {}
    with network.evaluating():
        generator = torch.Generator(network.device).manual_seed(seed)
        pieces: list[dict[str, Tensor]] = []
        for batch in _batches(network, texts):
            progress(f"estimators, {sum(len(each['elbo']) for each in pieces)} of {sentences} sentences")
            pieces.append(_one_draw(network, batch, effort, generator, seed))
        values = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def interval(message: str, draws: int, temperatures: int, *, fitted: bool, seed: int) -> NllInterval:
        return nll_interval(
            network,
            texts,
            draws=draws,
            temperatures=temperatures,
            burn_in=temperatures,
            seed=seed,
            scaling_texts=others if fitted else (),
            q_steps=effort.fit_steps if fitted else 0,
            progress=lambda done, n: progress(f"{message}, {done} of {n} sentences"),
        )

    iwae = interval("IWAE", effort.draws, effort.temperatures, fitted=False, seed=seed)
    ours = interval("interval", effort.draws, effort.temperatures, fitted=True, seed=seed + 1)
    best = interval("reference", effort.reference_draws, effort.reference_temperatures, fitted=True, seed=seed + 2)
    reference = (best.lower + best.upper) / 2
    values |= {"iwae": iwae.upper, "lower": ours.lower, "upper": ours.upper}
    within = with_errors(ours, effort.draws)

    def covered(errors: float) -> float:
        return coverage(within, reference, groups=groups, group_size=group_size, errors=errors, seed=seed)

    return Audit(
        tuple(_estimate(label.format(effort), values[name], reference, side) for name, label, side in ROWS),
        entropy=language_entropy(),
        reference=float(reference.mean()),
        reference_width=float(best.width.mean()),
        coverage=covered(0.0),
        coverage_with_error=covered(2.0),
        groups=groups,
        group_size=group_size,
        sentences=sentences,
    )


ROWS = (
    ("elbo", "one-sample ELBO, reverse annealing", "above"),
    ("forward", "one-sample ELBO, forward annealing", "none"),
    ("averaged", "one-sample ELBO, average of e^F over {0.averaged} draws", "none"),
    ("iwae", "IWAE, {0.draws} draws, reverse annealing", "above"),
    ("same_noise", "posterior fitted to one noise draw, the same draw", "none"),
    ("fresh_noise", "posterior fitted to one noise draw, a fresh draw", "above"),
    ("fitted", "posterior fitted to fresh draws, a fresh draw", "above"),
    ("lower", "interval, lower end", "below"),
    ("upper", "interval, upper end", "above"),
)


@dataclass(frozen=True)
class GroupInterval:
    """Ends of each sentence's interval (n,), nats, and the standard error of either end by its draws."""

    lower: Tensor
    upper: Tensor
    error: Tensor


def with_errors(interval: NllInterval, draws: int) -> GroupInterval:
    """The error of the log of a mean of *draws* weights by the delta method, √(1/effective draws − 1/draws): the ends
    are bounds on average, and a few sentences leave some of that noise."""
    variance = (1 / interval.effective_draws.double() - 1 / draws).clamp_min(0)
    return GroupInterval(interval.lower.double(), interval.upper.double(), variance.sqrt())


def coverage(
    interval: GroupInterval, truth: Tensor, *, groups: int, group_size: int, errors: float = 0.0, seed: int = 0
) -> float:
    """The share of random groups of sentences whose mean *truth* (n,) lies within their mean interval, *errors*
    standard errors wider at either end."""
    rng, inside = np.random.default_rng(seed), 0
    for _ in range(groups):
        rows = torch.from_numpy(rng.permutation(len(truth))[:group_size])
        slack = errors * interval.error[rows].square().sum().sqrt() / group_size
        low, high = interval.lower[rows].mean() - slack, interval.upper[rows].mean() + slack
        inside += bool(low <= truth[rows].double().mean() <= high)
    return inside / groups


def _estimate(name: str, values: Tensor, reference: Tensor, side: str) -> Estimate:
    difference = (values - reference).double()
    error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return Estimate(name, float(values.double().mean()), float(difference.mean()), error, side)


def _batches(model: LatentTextModel, texts: Sequence[str], size: int = 100) -> Iterator[TokenBatch]:
    for start in range(0, len(texts), size):
        yield collate_texts(texts[start : start + size], model.tokenizer, model.max_tokens).to(model.device)


@torch.no_grad()
def _one_draw(
    model: LatentTextModel, batch: TokenBatch, effort: Effort, generator: torch.Generator, seed: int
) -> dict[str, Tensor]:
    """The estimators of one posterior draw a sentence, (B,) nats each, on the CPU."""
    prior, posterior = model.prior, model.posterior(batch, generator)

    def bound(draw: Draw, log_p: Tensor) -> Tensor:
        return (model.reconstruction_nll(batch, draw.u) + draw.given.log_prob(draw.u) - log_p).cpu()

    def safe(draw: Draw) -> Tensor:
        return bound(draw, log_prob_bound(prior, draw.u, generator=generator))

    draw = posterior.draw(generator)
    overfitted = fit_to_one_draw(model, batch, posterior, steps=effort.fit_steps, noise_seed=seed)
    fitted = fit_posterior(model, batch, posterior, steps=effort.fit_steps, generator=generator)
    return {
        "elbo": safe(draw),
        "forward": bound(draw, log_prob_bound(prior, draw.u, direction="forward", generator=generator)),
        "averaged": bound(draw, averaged_log_prob(prior, draw.u, effort.averaged, generator)),
        "same_noise": safe(overfitted.draw(torch.Generator(model.device).manual_seed(seed))),
        "fresh_noise": safe(overfitted.draw(generator)),
        "fitted": safe(fitted.draw(generator)),
    }


def fit_to_one_draw(
    model: LatentTextModel, batch: TokenBatch, posterior: Posterior, *, steps: int, noise_seed: int
) -> Posterior:
    """*posterior* moved, for each text, by *steps* of Adam on its bound at one and the same noise draw.

    What a release of this model family does to report its likelihood. With the noise held, widening q costs nothing as
    long as the mean makes up for it, and the bound at that draw rises without limit.
    """
    width = posterior.stddev.detach()
    free = torch.zeros(2, *width.shape, device=width.device, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=FIT_RATE)

    def moved(move: Tensor) -> Posterior:
        return posterior.moved(Affine(torch.ones_like(move[0]), width * move[0], move[1].exp()))

    with torch.enable_grad(), frozen(model):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / steps)
            q = moved(free)
            u = q.sample(torch.Generator(model.device).manual_seed(noise_seed))
            explicit = model.prior.explicit is not None
            log_p = explicit_log_prob(model.prior, u) if explicit else score_cross_entropy(model.prior, u)
            optimizer.zero_grad()
            (model.reconstruction_nll(batch, u) + q.log_prob(u) - log_p).sum().backward()
            optimizer.step()
    return moved(free.detach())


@torch.no_grad()
def averaged_log_prob(prior: LatentPrior, u: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
    """log p(u_0 … u_{T−1})/q(u_1 … u_{T−1} | u_0) of one draw of the forward chain a row, with every Z_t the average of
    e^F over *draws* of its Gaussian. log of an average is below log Z in expectation (Jensen), so that log p comes out
    too high: the more, the further e^F varies. u (B, d) -> (B,) nats."""
    if prior.explicit is not None:
        return explicit_log_prob(prior, u)
    schedule, n = prior.schedule, len(u)
    log_p = schedule.expected_log_reference(u)
    for t in range(schedule.num_levels):
        level = torch.full((n,), t, dtype=torch.long, device=u.device)
        u_next, mean, stddev = u, torch.zeros_like(u), schedule.reverse_stddev[t]
        if t < schedule.num_levels - 1:
            u_next = schedule.forward_step(u, level, torch.empty_like(u).normal_(generator=generator))
            mean = schedule.reverse_scale[t] * u_next
        log_z = torch.logsumexp(
            torch.stack(
                [
                    prior.potential(mean + stddev * torch.empty_like(u).normal_(generator=generator), level)
                    for _ in range(draws)
                ]
            ),
            0,
        ) - math.log(draws)
        log_p = log_p + prior.potential(u, level) - log_z
        u = u_next
    return log_p
