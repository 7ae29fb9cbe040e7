"""What the training objective has beside the bound: symbols, their noisy readings, and contrastive views.

Each function takes (B, …) tensors and gives a weighted loss (), nats a sentence; the unweighted terms are entered in
*terms* under the names that a step reports.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from textebm.model.decoding import DecodingOptions, decode_tokens
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.hardware import rows_at_once
from textebm.objective.bottleneck import symbol_mutual_information
from textebm.objective.contrastive import simclr_loss
from textebm.objective.schedules import Weights
from textebm.prior.condition import Condition
from textebm.prior.guidance import view_loss
from textebm.prior.learning import Noisy, symbol_cross_entropy
from textebm.prior.sampling import sample
from textebm.text.batches import TokenBatch, collate_texts
from textebm.text.tokenizer import decode as decode_ids


def symbol_terms(
    model: LatentTextModel,
    u: Tensor,
    context: Tensor | None,
    targets: Mapping[str, Tensor],
    weights: Weights,
    terms: dict[str, Tensor],
) -> Tensor:
    """Heads at level 0: cross-entropy to labels and clusters, and the bottleneck I(z; y) of the unsupervised ones."""
    loss = u.new_zeros(())
    if not model.heads:
        return loss
    logits = model.prior.symbol_logits(u, context=context)
    for name, head in model.heads.items():
        supervised = head.column is not None
        if name in targets:
            terms[f"cross_entropy_{name}"] = symbol_cross_entropy(logits[name], targets[name])
            loss = loss + (weights.supervised if supervised else weights.cluster) * terms[f"cross_entropy_{name}"]
        if not supervised:
            terms[f"mutual_information_{name}"] = symbol_mutual_information(logits[name])
            loss = loss - weights.mutual_information * terms[f"mutual_information_{name}"]
    return loss


def noisy_terms(
    model: LatentTextModel, noisy: Noisy, targets: Mapping[str, Tensor], views: Tensor | None, weights: Weights
) -> Tensor:
    """−log p(y | u_t, t) and −cos(g(u_t, t), c) at uniformly drawn levels, weighted by the signal left, ᾱ_t²."""
    signal = model.prior.schedule.alpha_bar[noisy.level].square()
    loss = signal.new_zeros(())
    for name, classes in targets.items():
        weight = weights.cluster if model.heads[name].column is None else weights.supervised
        loss = loss + weight * symbol_cross_entropy(noisy.logits[name], classes, signal)
    if model.contrastive is not None and noisy.view is not None and views is not None:
        loss = loss + model.contrastive.weight * view_loss(model.prior, noisy.view, views, noisy.level, signal)
    return loss


def contrastive_terms(
    model: LatentTextModel,
    batch: TokenBatch,
    features: Tensor,
    u: Tensor,
    context: Tensor | None,
    terms: dict[str, Tensor],
    generator: torch.Generator | None,
    *,
    learned_prior: bool,
) -> Tensor:
    """Two readings of each sentence that must agree (SimCLR), and the view's density given the latent.

    learned_prior: whether the model's own sentences, which are further negatives, are drawn from the prior or N(0, I).
    """
    options, encoder = model.contrastive, model.encoder
    assert options is not None and not isinstance(encoder, ShortRun)
    tokens = model.hide_words(batch.tokens, options.word_dropout, generator)
    negatives = None
    if options.negatives > 0:
        negatives = _negative_views(model, options.negatives, context, learned_prior, generator)
    first, second = encoder.views(features), encoder.views(encoder.features(tokens, batch.lengths))
    terms["contrastive"] = simclr_loss(first, second, negatives, temperature=options.temperature)
    return options.weight * (terms["contrastive"] + view_term(model, u, first.detach(), context, terms))


@torch.no_grad()
def _negative_views(
    model: LatentTextModel, n: int, context: Tensor | None, learned_prior: bool, generator: torch.Generator | None
) -> Tensor:
    """Views of n sentences that the model writes, (n, C). context (B, D): each answers one of the batch's histories."""
    assert not isinstance(model.encoder, ShortRun)
    if context is not None:
        context = context.detach()[torch.arange(n, device=context.device) % len(context)]
    u = torch.empty(n, model.prior.dim, device=model.device).normal_(generator=generator)
    if learned_prior:
        u = sample(model.prior, n, condition=Condition(context=context), generator=generator).z
    was_training = model.training
    model.eval()
    try:
        z, rows = model.decoder_input(u, context), rows_at_once(model.device, 512)
        options = DecodingOptions(max_tokens=model.max_tokens)
        ids = decode_tokens(model.decoder, z, model.tokenizer, options, batch_size=rows)
    finally:
        model.train(was_training)
    texts = [decode_ids(model.tokenizer, row) for row in ids]
    own = collate_texts(texts, model.tokenizer, model.max_tokens).to(model.device)
    with torch.enable_grad():
        return model.encoder.views(model.encoder.features(own.tokens, own.lengths))


def view_term(
    model: LatentTextModel, u: Tensor, views: Tensor, context: Tensor | None, terms: dict[str, Tensor]
) -> Tensor:
    """−E cos(g(z, 0), c): all that p(c | z) adds to the bound, up to its constant. u (B, d), views (B, C)"""
    level = torch.zeros(len(u), dtype=torch.long, device=u.device)
    _, view = model.prior.energy.logits_and_view(model.prior.transport(u), level, context)
    assert view is not None
    loss = view_loss(model.prior, view, views, level)
    terms["view_cosine"] = -loss
    return loss
