"""What the training objective has beside the bound: symbols, their noisy readings, and contrastive views.

`Companions` holds these terms for `textebm.api.TextEBM`, each named after what it is in the report of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textebm.model.inference import ShortRun
from textebm.networks.posterior import Posterior
from textebm.objective.bottleneck import symbol_mutual_information
from textebm.objective.contrastive import Contrastive, simclr_loss
from textebm.objective.schedules import Weights
from textebm.prior.condition import Condition
from textebm.prior.guidance import view_loss
from textebm.prior.learning import Noisy, symbol_cross_entropy
from textebm.prior.sampling import sample
from textebm.text.batches import TokenBatch, collate_texts
from textebm.use.decoding import DecodingOptions
from textebm.use.writing import Generation

StageName = Literal["autoencoder", "prior", "joint"]
# Class of each sentence for each head (B,), −1 where unknown; or what tells it from the posterior means (B, d).
Targets = Mapping[str, Tensor] | Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LatentBatch:
    """Posteriors of a batch, encoded before, and its context (B, C): what the "prior" stage trains on."""

    posterior: Posterior
    targets: Mapping[str, Tensor]
    views: Tensor | None = None  # (B, C) of unit length
    context: Tensor | None = None


class Companions(Generation):
    """The terms beside the bound. (B, …) tensors in, () out, nats a sentence."""

    contrastive: Contrastive | None

    def _symbol_terms(
        self,
        u: Tensor,
        context: Tensor | None,
        targets: Mapping[str, Tensor],
        weights: Weights,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Heads at level 0: labels, clusters, and the bottleneck of the unsupervised ones."""
        loss = u.new_zeros(())
        if not self.heads:
            return loss
        logits = self.prior.symbol_logits(u, context=context)
        for name, head in self.heads.items():
            supervised = head.column is not None
            if name in targets:
                terms[f"cross_entropy_{name}"] = symbol_cross_entropy(logits[name], targets[name])
                loss = loss + (weights.supervised if supervised else weights.cluster) * terms[f"cross_entropy_{name}"]
            if not supervised:
                terms[f"mutual_information_{name}"] = symbol_mutual_information(logits[name])
                loss = loss - weights.mutual_information * terms[f"mutual_information_{name}"]
        return loss

    def _noisy_terms(self, noisy: Noisy, batch: LatentBatch, weights: Weights) -> Tensor:
        """−log p(y | u_t, t) and −cos(g(u_t, t), c) at uniformly drawn levels, weighted by the signal left, ᾱ_t²."""
        signal = self.prior.schedule.alpha_bar[noisy.level].square()
        loss = signal.new_zeros(())
        for name, classes in batch.targets.items():
            weight = weights.cluster if self.heads[name].column is None else weights.supervised
            loss = loss + weight * symbol_cross_entropy(noisy.logits[name], classes, signal)
        if self.contrastive is not None and noisy.view is not None and batch.views is not None:
            loss = loss + self.contrastive.weight * view_loss(self.prior, noisy.view, batch.views, noisy.level, signal)
        return loss

    def _contrastive_terms(
        self,
        options: Contrastive,
        batch: TokenBatch,
        features: Tensor,
        u: Tensor,
        context: Tensor | None,
        stage: StageName,
        terms: dict[str, Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Two readings of each sentence that must agree (SimCLR), and the view's density given the latent."""
        assert not isinstance(self.encoder, ShortRun)
        tokens = self._with_words_hidden(batch.tokens, options.word_dropout, generator)
        negatives = None
        if options.negatives > 0:  # the model's own sentences: the autoencoder's are those of N(0, I)
            given = None if context is None else context.detach()
            if given is not None:  # each in the context of a sentence
                given = given[torch.arange(options.negatives, device=u.device) % len(given)]
            negatives = self._negative_views(options.negatives, given, stage, generator)
        first, second = self.encoder.views(features), self.encoder.views(self.encoder.features(tokens, batch.lengths))
        terms["contrastive"] = simclr_loss(first, second, negatives, temperature=options.temperature)
        return options.weight * (terms["contrastive"] + self._view_term(u, first.detach(), terms, context))

    def _negative_views(
        self, n: int, context: Tensor | None, stage: StageName, generator: torch.Generator | None
    ) -> Tensor:
        """Views of n sentences that the model writes in these contexts (n, C). (n, C)"""
        assert not isinstance(self.encoder, ShortRun)
        drawn = torch.empty(n, self.prior.dim, device=self.device).normal_(generator=generator)
        if stage == "joint":
            drawn = sample(self.prior, n, condition=Condition(context=context), generator=generator).z
        texts = self._decode(drawn, context, None, DecodingOptions(max_tokens=self.max_tokens), seed=0)
        own = collate_texts(texts, self.tokenizer, self.max_tokens).to(self.device)
        return self.encoder.views(self.encoder.features(own.tokens, own.lengths))

    def _view_term(self, u: Tensor, views: Tensor, terms: dict[str, Tensor], context: Tensor | None = None) -> Tensor:
        """−E cos(g(z, 0), c): all that p(c | z) adds to the bound, up to its constant. u (B, d), views (B, C)"""
        level = torch.zeros(len(u), dtype=torch.long, device=u.device)
        _, view = self.prior.energy.logits_and_view(self.prior.transport(u), level, context)
        assert view is not None
        loss = view_loss(self.prior, view, views, level)
        terms["view_cosine"] = -loss
        return loss

    def _with_words_hidden(self, tokens: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
        """tokens (B, T) with about *share* of them <unk>, the first of each sentence never."""
        hidden = torch.rand(tokens.shape, device=tokens.device, generator=generator) < share
        hidden[:, 0] = False
        return tokens.masked_fill(hidden, self.tokenizer.unk_token_id)
