"""TextEBM: encoder, decoder, prior and tokenizer, and the objective that trains them, term by term.

    ELBO(x) = E_q [ log p(x|z) ] + H(q(z|x)) + E_q [ log p(z) ]

with p(z) the latent energy-based prior of `textebm.prior.prior`. The code writes it for u, z = T(u): H and log p change
by the same log-determinant, so the bound is the same (`textebm.prior.transport`). Three ways through it, chosen by the
training stage:

- "autoencoder": the prior is N(0, I), whichever will be learned: systems share this stage and differ in their prior.
- "prior": encoder and decoder rest; F is learned on the posterior by score matching or by recovery.
- "joint": everything; the encoder follows the learned prior.

To these the symbol heads add: cross-entropy to labels (supervised) or clusters (unsupervised), and the bottleneck
I(z; y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.generation import Generation
from textebm.networks.encoder import Posterior
from textebm.objective.bottleneck import symbol_mutual_information
from textebm.objective.schedules import free_bits
from textebm.prior.learning import (
    Recovery,
    ScoreMatching,
    recovery,
    score_cross_entropy,
    score_matching,
    symbol_cross_entropy,
)  # fmt: skip
from textebm.prior.prior import LatentPrior
from textebm.prior.transport import resting
from textebm.reading import Decoder, Encoder, SymbolHead
from textebm.text.batches import TokenBatch

StageName = Literal["autoencoder", "prior", "joint"]


@dataclass(frozen=True)
class Weights:
    """What each term counts for, per sentence. kl is the current value of its schedule."""

    kl: float = 1.0
    free_bits: float = 0.0
    supervised: float = 1.0
    cluster: float = 1.0
    mutual_information: float = 0.0


@dataclass(frozen=True)
class LatentBatch:
    """Posteriors of a batch, encoded before: what the "prior" stage trains on."""

    posterior: Posterior
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss and its terms, each () and in nats a sentence; posterior (B, d) of a text batch."""

    loss: Tensor
    terms: dict[str, Tensor]
    posterior: Posterior | None = None


class TextEBM(Generation):
    """A sequence VAE with a latent energy-based prior. Generation, editing and encoding: `textebm.generation`."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, prior: LatentPrior, tokenizer: PreTrainedTokenizerFast,
        heads: Mapping[str, SymbolHead], *, max_tokens: int = 40, word_dropout: float = 0.0,
        learning: Literal["score_matching", "recovery"] = "score_matching", recipe: dict[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.tokenizer = tokenizer
        self.heads = dict(heads)
        self.max_tokens = max_tokens
        self.word_dropout = word_dropout
        self.learning = learning
        self.recipe = recipe

    def forward(
        self, batch: TokenBatch | LatentBatch, stage: StageName, weights: Weights,
        targets: Mapping[str, Tensor] | None = None, generator: torch.Generator | None = None,
    ) -> Objective:  # fmt: skip
        """The objective of one batch. targets: class of each sentence for each head (B,), −1 where unknown."""
        if isinstance(batch, LatentBatch):
            return self.prior_objective(batch, weights, generator)
        return self.text_objective(batch, stage, weights, targets or {}, generator)

    # -- stages "autoencoder" and "joint" ------------------------------------------------------------------------

    def text_objective(
        self, batch: TokenBatch, stage: StageName, weights: Weights, targets: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> Objective:  # fmt: skip
        posterior: Posterior = self.encoder(batch.tokens, batch.lengths)
        draw = posterior.draw(generator)
        u = draw.u
        reconstruction = self.reconstruction_nll(batch, u, generator).mean()
        with torch.autocast(u.device.type, enabled=False):  # the prior's terms are small and want float32
            terms = {"reconstruction": reconstruction}
            kl = draw.given.kl_to_standard_normal()
            if stage == "autoencoder" or self.prior.explicit is not None:
                terms["kl"] = kl.sum(-1).mean()
                divergence = free_bits(kl, weights.free_bits)
                if stage == "joint":  # closed-form prior: its log-ratio to N(0, I), at one draw, corrects the KL
                    assert self.prior.explicit is not None
                    log_ratio = self.prior.explicit.log_ratio(u).mean()
                    terms["kl"], divergence = terms["kl"] - log_ratio, divergence - log_ratio
                loss = reconstruction + weights.kl * divergence
            else:
                prior_loss, encoder_term = self._joint_prior_terms(posterior, u, terms, generator)
                loss = reconstruction + prior_loss - weights.kl * (draw.given.entropy().mean() + encoder_term)
            loss = loss + self._symbol_terms(u, targets, weights, terms)
        return Objective(loss, {**terms, "loss": loss}, posterior)

    def reconstruction_nll(self, batch: TokenBatch, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """−log p(x|z) at z = T(u), nats per sentence, the end of the sentence included. u (B, d) -> (B,)"""
        with torch.autocast(u.device.type, enabled=False):
            z = self.prior.transport(u)
        inputs, words = batch.tokens[:, :-1], batch.tokens[:, 1:]  # (B, T−1)
        if self.training and self.word_dropout > 0:
            drop = torch.rand(inputs.shape, device=inputs.device, generator=generator) < self.word_dropout
            drop[:, 0] = False
            inputs = inputs.masked_fill(drop, self.tokenizer.unk_token_id)
        mask = batch.mask[:, 1:]
        hidden = self.decoder.hidden(inputs, z)[mask]  # (words, E): padding never meets the softmax
        nll = self.decoder.nll(hidden, words[mask])
        sentence = torch.arange(len(z), device=z.device)[:, None].expand_as(words)[mask]
        return torch.zeros(len(z), device=z.device).index_add_(0, sentence, nll)

    def _joint_prior_terms(
        self, posterior: Posterior, u: Tensor, terms: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of the energy net, and the term whose gradient moves the encoder along log p(u)."""
        if self.learning == "recovery":
            contrast = recovery(self.prior, u, generator)
            _record(contrast, terms)
            return contrast.energy_loss.mean(), contrast.encoder_term.mean()
        matching = score_matching(self.prior, posterior.unpacked(posterior.packed.detach()), generator)
        return self._matching_loss(matching, terms), score_cross_entropy(self.prior, u).mean()

    def _matching_loss(self, matching: ScoreMatching, terms: dict[str, Tensor]) -> Tensor:
        """The score error, and a small pull of each level's free constant in F towards zero."""
        terms.update(score_error=matching.loss.mean(), potential=matching.potential.abs().mean())
        return matching.loss.mean() + self.prior.potential_penalty * matching.potential.mean().square()

    # -- stage "prior" -------------------------------------------------------------------------------------------

    def prior_objective(self, batch: LatentBatch, weights: Weights, generator: torch.Generator | None) -> Objective:
        """Encoder and decoder rest, and with the decoder its transport."""
        with resting(self.prior.transport):
            return self._prior_objective(batch, weights, generator)

    def _prior_objective(self, batch: LatentBatch, weights: Weights, generator: torch.Generator | None) -> Objective:
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            u = batch.posterior.sample(generator)
        noisy: tuple[dict[str, Tensor], Tensor] | None = None
        if self.prior.explicit is not None:
            loss = terms["prior_nll"] = -self.prior.explicit.log_ratio(u).mean()
        elif self.learning == "recovery":
            contrast = recovery(self.prior, u, generator)
            loss = contrast.energy_loss.mean()
            _record(contrast, terms)
        else:
            matching = score_matching(self.prior, batch.posterior, generator)
            loss = self._matching_loss(matching, terms)
            noisy = matching.logits, matching.level
        if self.prior.symbol_levels == "all" and self.prior.num_levels > 1:
            loss = loss + self._noisy_symbol_loss(noisy or self._noisy_logits(u, generator), batch.targets, weights)
        loss = loss + self._symbol_terms(u, batch.targets, weights, terms)
        return Objective(loss, {**terms, "loss": loss})

    def _noisy_logits(self, u: Tensor, generator: torch.Generator | None) -> tuple[dict[str, Tensor], Tensor]:
        """The heads' logits at u_t of a uniformly drawn level, and the level (B,)."""
        level = torch.randint(self.prior.schedule.num_levels, (len(u),), device=u.device, generator=generator)
        u_t = self.prior.schedule.diffuse(u, level, torch.empty_like(u).normal_(generator=generator))
        return self.prior.symbol_logits(u_t, level), level

    def _noisy_symbol_loss(
        self, noisy: tuple[dict[str, Tensor], Tensor], targets: Mapping[str, Tensor], weights: Weights
    ) -> Tensor:
        """Cross-entropy of p(y | u_t, t) at uniformly drawn levels, weighted by the signal that is left, ᾱ_t²."""
        logits, level = noisy
        signal = self.prior.schedule.alpha_bar[level].square()
        loss = signal.new_zeros(())
        for name, classes in targets.items():
            weight = weights.cluster if self.heads[name].column is None else weights.supervised
            loss = loss + weight * symbol_cross_entropy(logits[name], classes, signal)
        return loss

    # -- symbols -------------------------------------------------------------------------------------------------

    def _symbol_terms(
        self, u: Tensor, targets: Mapping[str, Tensor], weights: Weights, terms: dict[str, Tensor]
    ) -> Tensor:
        """Heads at level 0: labels, clusters, and the bottleneck of the unsupervised ones."""
        loss = u.new_zeros(())
        if not self.heads:
            return loss
        logits = self.prior.symbol_logits(u)
        for name, head in self.heads.items():
            supervised = head.column is not None
            if name in targets:
                terms[f"cross_entropy_{name}"] = symbol_cross_entropy(logits[name], targets[name])
                loss = loss + (weights.supervised if supervised else weights.cluster) * terms[f"cross_entropy_{name}"]
            if not supervised:
                terms[f"mutual_information_{name}"] = symbol_mutual_information(logits[name])
                loss = loss - weights.mutual_information * terms[f"mutual_information_{name}"]
        return loss

    # -- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path) -> TextEBM:
        """A model from a run directory, a saved model or a Hub id. Raises CheckpointError."""
        from textebm import pretrained

        return pretrained.load(name)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors, config.json, tokenizer files and a model card."""
        from textebm import pretrained

        pretrained.save(self, directory)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes; returns the address."""
        from textebm import pretrained

        return pretrained.push(self, repo_id, private=private)


def _record(recovery: Recovery, terms: dict[str, Tensor]) -> None:
    """What the guards and the health line watch while F is learned by recovery."""
    terms.update(
        contrast=recovery.contrast.mean(), potential=recovery.magnitude.mean(), acceptance=recovery.acceptance.mean()
    )
