"""What a trained model reads in texts: posteriors, symbols, losses.

`Reading` is the half of `TextEBM` that takes texts in; `textebm.use.writing` is the half that gives them out. The
latents that both take and give are u, before the transport. All randomness comes from ``seed``.

A model of dialogues also reads the turns before each text: *contexts*, a history for each row, is a list of turns
(oldest first) or one text (`textebm.text.history`). It may be left out where the texts are `Turn`s, which know theirs,
as what the model itself writes does. Other models refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.errors import TextEBMError, did_you_mean
from textebm.model.inference import Refinement, Score, ShortRun, still, text_noise
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.posterior import Posterior
from textebm.networks.pretrained import PretrainedDecoder
from textebm.prior.condition import Condition
from textebm.prior.likelihood import Annealing, log_prob_bound
from textebm.prior.prior import LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.text.batches import TokenBatch, collate_texts
from textebm.use.contexts import Contexts, Dialogue, Encoder, Given, check_list
from textebm.use.likelihood import NllInterval, Progress, fit_scaling, nll_interval

Decoder = RecurrentDecoder | TransformerDecoder | PretrainedDecoder


@dataclass(frozen=True)
class SymbolHead:
    """A discrete variable of the prior. column: the label column it was taught, None for codes that were found."""

    name: str
    classes: tuple[str, ...]
    column: str | None = None

    def index(self, value: str | int) -> int:
        """The class's number. Raises TextEBMError for one that does not exist."""
        if str(value) in self.classes:
            return self.classes.index(str(value))
        if isinstance(value, int) and 0 <= value < len(self.classes):
            return value
        raise TextEBMError(f"symbol {self.name!r} has no class {str(value)!r}{did_you_mean(str(value), self.classes)}")


@dataclass(frozen=True)
class Encoding:
    """mean, stddev (n, d); probabilities[head] (n, K); codes[head] (n,), the most probable class. CPU tensors."""

    mean: Tensor
    stddev: Tensor
    probabilities: dict[str, Tensor]
    codes: dict[str, Tensor]


@dataclass(frozen=True)
class Classification:
    """labels: class name of each text; probabilities (n, K) in the order of the head's classes."""

    labels: list[str]
    probabilities: Tensor


@dataclass(frozen=True)
class ElboTerms:
    """Of each text, nats: reconstruction_nll (n,), kl (n,) on its safe (upper) side; num_tokens (n,) counts <eos>."""

    reconstruction_nll: Tensor
    kl: Tensor
    num_tokens: Tensor


class Reading(Dialogue):
    """The methods of `TextEBM` that take texts in. It has these parts, and gives −log p(x|z)."""

    encoder: Encoder
    decoder: Decoder
    prior: LatentPrior
    tokenizer: PreTrainedTokenizerFast
    heads: dict[str, SymbolHead]
    max_tokens: int
    refinement: Refinement | None
    reconstruction_nll: Callable[..., Tensor]

    @property
    def layers(self) -> tuple[int, ...]:
        """Dimensions of the latent's layers, top first; layer numbers count from 1, the lowest."""
        return self.prior.layers

    @property
    def guided(self) -> bool:
        """Whether the model can generate by example (trained with contrastive guidance)."""
        return self.encoder.view is not None

    # -- inference -----------------------------------------------------------------------------------------------

    def posterior(
        self,
        batch: TokenBatch,
        generator: torch.Generator | None = None,
        *,
        seed: int = 0,
        learned_prior: bool = True,
        refine: int = 0,
        features: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Posterior:
        """q(u|x): the encoder's, or the end of a short run, whose noise is the generator's or that of text and seed.

        learned_prior: whether a chain's target has the prior as it is now, or N(0, I). refine: steps uphill from there.
        features: the encoder's, where they are known. context (B, C): what the turns before say.
        """
        if isinstance(self.encoder, ShortRun):
            shape = (self.encoder.steps, len(batch), self.prior.dim)
            noise = (
                text_noise(batch.tokens, batch.lengths, shape[0], shape[2], seed)
                if generator is None
                else torch.randn(shape, device=self.device, generator=generator)
            )
            posterior = self.encoder(lambda rows: self.posterior_score(batch.rows(rows), learned_prior), noise)
        else:
            features = self.encoder.features(batch.tokens, batch.lengths) if features is None else features
            posterior = self.encoder.posterior(features, context)
        if refine:
            chain = self.refinement or Refinement()
            posterior = chain.mode(self.posterior_score(batch, learned_prior, context), posterior, refine)
        return posterior

    def posterior_score(self, batch: TokenBatch, learned_prior: bool = True, context: Tensor | None = None) -> Score:
        """∇_u log p(x, u | c) of the batch's texts as a function of u: no dropout, no gradient in any parameter."""
        condition = Condition(context=context).detached

        def score(u: Tensor) -> Tensor:
            with still(self):
                _, gradient = potential_and_gradient(
                    lambda w: -self.reconstruction_nll(batch, w, context=condition.context), u
                )
                level = torch.zeros(len(u), dtype=torch.long, device=u.device)
                return gradient + (self.prior.score(u, level, condition) if learned_prior else -u)

        return score

    # -- texts in ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 256,
        *,
        refine: int = 0,
        seed: int = 0,
        contexts: Contexts | None = None,
    ) -> Encoding:
        """Posterior means and symbol posteriors p(y|z) at the means.

        refine: move each mean by so many gradient steps on log p(x|z) + log p(z); a step costs a pass of the decoder
        and its gradient. seed: of the chains of a model without an encoder; a text's do not depend on its batch.
        """
        _check_refine(refine)
        given = self._read_given(texts, contexts)
        means, stddevs = [], []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch, context in self._batches(texts, rows, given, batch_size):
                posterior = self.posterior(batch, seed=seed, refine=refine, context=context)
                means.append(posterior.mean.cpu())
                stddevs.append(posterior.stddev.cpu())
            empty = torch.zeros(0, self.prior.dim)
            mean = torch.cat(means)[inverse] if means else empty
            stddev = torch.cat(stddevs)[inverse] if stddevs else empty
            probabilities = self._symbol_probabilities(mean, given)
        codes = {name: p.argmax(-1) for name, p in probabilities.items()}
        return Encoding(mean, stddev, probabilities, codes)

    @torch.no_grad()
    def posterior_draws(
        self, texts: Sequence[str], *, contexts: Contexts | None = None, seed: int = 0, batch_size: int = 256
    ) -> Tensor:
        """One draw of q(u|x) for each text, (n, d) on the CPU."""
        generator, draws = self._generator(seed), [torch.zeros(0, self.prior.dim)]
        given = self._read_given(texts, contexts)
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch, context in self._batches(texts, rows, given, batch_size):
                draws.append(self.posterior(batch, generator, context=context).draw(generator).u.cpu())
        return torch.cat(draws)[inverse]

    @torch.no_grad()
    def symbol_probabilities(self, z: Tensor, *, contexts: Contexts | None = None) -> dict[str, Tensor]:
        """p(y^h | z) of each head, (n, K_h) on the CPU. z (n, d)"""
        return self._symbol_probabilities(z, self._given(contexts, len(z)))

    def _symbol_probabilities(self, z: Tensor, given: Given | None) -> dict[str, Tensor]:
        logits = self.prior.symbol_logits(z.to(self.device), context=None if given is None else given.vectors)
        return {name: f.softmax(-1).cpu() for name, f in logits.items()}

    @torch.no_grad()
    def views(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """The contrastive views of the texts, (n, C), on the CPU. Raises TextEBMError without guidance."""
        if isinstance(self.encoder, ShortRun) or self.encoder.view is None:
            raise TextEBMError(
                "this model has no contrastive views to be like examples by: train it with "
                "objective.contrastive_weight above 0 (0.3, say)"
            )
        found = [torch.zeros(0, self.prior.energy.view_size)]
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch, _ in self._batches(texts, rows, None, batch_size):
                found.append(self.encoder.views(self.encoder.features(batch.tokens, batch.lengths)).cpu())
        return torch.cat(found)[inverse]

    def certainty(
        self, texts: Sequence[str], symbols: Mapping[str, Tensor], *, contexts: Contexts | None = None
    ) -> Tensor:
        """(n,) the least probability that the encoder gives, over the heads of *symbols*, to the class (n,) asked of
        each text; −1 asks nothing."""
        probabilities, least = self.encode(texts, contexts=contexts).probabilities, torch.ones(len(texts))
        for name, classes in symbols.items():
            wanted = classes.cpu()
            found = probabilities[name].gather(-1, wanted.clamp_min(0)[:, None])[:, 0]
            least = torch.where(wanted >= 0, torch.minimum(least, found), least)
        return least

    def classify(self, texts: Sequence[str], head: str, *, contexts: Contexts | None = None) -> Classification:
        """The most probable class of each text. Raises TextEBMError for an unknown head."""
        name = self._head(head).name
        probabilities = self.encode(texts, contexts=contexts).probabilities[name]
        labels = [self.heads[head].classes[i] for i in probabilities.argmax(-1).tolist()]
        return Classification(labels, probabilities)

    @torch.no_grad()
    def elbo_terms(
        self,
        texts: Sequence[str],
        *,
        seed: int = 0,
        batch_size: int = 256,
        refine: int = 0,
        contexts: Contexts | None = None,
    ) -> ElboTerms:
        """−log p(x|z) at one posterior draw and KL(q ‖ p) of each text, nats.

        The KL is closed for N(0, I), one Monte Carlo draw for a mixture; for an energy-based prior one draw with the
        partition functions bounded on the safe side by reverse annealed importance sampling (`prior.likelihood`).
        refine: of q moved as in `encode`, its standard deviation kept; the bound of another, still valid q.
        """
        _check_refine(refine)
        given, generator = self._read_given(texts, contexts), self._generator(seed)
        nll, kl, lengths = [], [], []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch, context in self._batches(texts, rows, given, batch_size):
                draw = self.posterior(batch, seed=seed, refine=refine, context=context).draw(generator)
                u, posterior = draw.u, draw.given
                nll.append(self.reconstruction_nll(batch, u, context=context).cpu())
                divergence = posterior.kl_to_standard_normal().sum(-1)
                if self.prior.num_levels > 0:
                    condition = Condition(context=context)
                    log_p = log_prob_bound(self.prior, u, condition=condition, generator=generator)
                    divergence = posterior.log_prob(u) - log_p  # entropy and cross-entropy at the same draw
                elif self.prior.explicit is not None:
                    divergence = divergence - self.prior.explicit.log_ratio(u)
                kl.append(divergence.cpu())
                lengths.append(batch.lengths.cpu() - 1)
        if not nll:
            return ElboTerms(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        return ElboTerms(torch.cat(nll)[inverse], torch.cat(kl)[inverse], torch.cat(lengths)[inverse])

    def nll_interval(
        self,
        texts: Sequence[str],
        *,
        draws: int = 16,
        temperatures: int = 4,
        burn_in: int = 4,
        chains: int = 1,
        seed: int = 0,
        batch_size: int = 1024,
        progress: Progress | None = None,
        scaling_texts: Sequence[str] = (),
        q_steps: int = 0,
    ) -> NllInterval:
        """Lower and upper −log p(x) of each text, nats: what they promise, and when, stands in `use.likelihood`.

        More draws, temperatures (of each log Z_t) and chains (averaged) narrow it. batch_size counts draws.
        scaling_texts: other sentences (validation), on which the scale and the width of q are fitted first
        (`scoring.fit_scaling`): worth much where the model was trained with a KL weight below 1.
        q_steps: gradient steps on each text's own q (`scoring.fit_posterior`), about as dear as a training step each;
        worth more again.
        """
        if self.context_encoder is not None:  # the top level's log Z, shared by all rows there, is a function of c
            raise TextEBMError("likelihood intervals are not there for models of dialogues; elbo_terms bounds them")
        annealing = Annealing(temperatures, burn_in, chains)
        with self._evaluating():
            scaling = fit_scaling(self, scaling_texts, seed=seed) if len(scaling_texts) else None
            return nll_interval(
                self,
                texts,
                draws=draws,
                annealing=annealing,
                seed=seed,
                batch_size=batch_size,
                progress=progress,
                scaling=scaling,
                q_steps=q_steps,
            )

    @torch.no_grad()
    def reconstruction_losses(
        self, texts: Sequence[str], batch_size: int = 256, *, contexts: Contexts | None = None
    ) -> Tensor:
        """−log p(x|z) of each text at its posterior mean, nats a sentence, (n,) on the CPU."""
        given, losses = self._read_given(texts, contexts), []
        with self._evaluating():
            rows, inverse = _by_length(texts)
            for batch, context in self._batches(texts, rows, given, batch_size):
                mean = self.posterior(batch, context=context).mean
                losses.append(self.reconstruction_nll(batch, mean, context=context).cpu())
        return torch.cat(losses)[inverse] if losses else torch.zeros(0)

    @torch.no_grad()
    def energies(self, z: Tensor, level: int = 0, *, contexts: Contexts | None = None) -> Tensor:
        """−F(z, t) at level t, (n,) on the CPU: low where the prior finds z likely (beyond its reference). z (n, d)"""
        given = self._given(contexts, len(z))
        condition = Condition(context=None if given is None else given.vectors)
        with self._evaluating():
            levels = torch.full((len(z),), level, dtype=torch.long, device=self.device)
            return -self.prior.potential(z.to(self.device), levels, condition).cpu()

    def decoder_input(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """[z, c] with z = T(u), what the decoder reads: (B, d + C)."""
        with torch.autocast(u.device.type, enabled=False):
            z = self.prior.transport(u)
        return z if context is None else torch.cat([z, context], dim=-1)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _head(self, name: str) -> SymbolHead:
        if name not in self.heads:
            known = did_you_mean(name, self.heads) if self.heads else "; this model has none"
            raise TextEBMError(f"unknown symbol {name!r}{known}")
        return self.heads[name]

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def _batches(
        self, texts: Sequence[str], rows: list[int], given: Given | None, batch_size: int
    ) -> Iterator[tuple[TokenBatch, Tensor | None]]:
        """The *rows* of *texts*, and c of each."""
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            batch = collate_texts([texts[i] for i in chosen], self.tokenizer, self.max_tokens).to(self.device)
            yield batch, None if given is None else given.vectors[chosen]


def _check_refine(steps: int) -> None:
    if steps < 0:
        raise TextEBMError(f"refine is a number of steps, 0 or more, got {steps}")


def _by_length(texts: Sequence[str]) -> tuple[list[int], Tensor]:
    """Rows in order of length, so that batches have little padding, and the permutation that undoes it."""
    check_list(texts)
    rows = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    inverse = torch.empty(len(rows), dtype=torch.long)
    inverse[torch.tensor(rows, dtype=torch.long)] = torch.arange(len(rows))
    return rows, inverse
