"""What a trained model reads in texts: posteriors, symbols, losses.

The latents that are given and taken are u, before the transport. All randomness comes from ``seed``. *contexts* are the
turns before each text (`textebm.use.contexts`); they may be left out where the texts are `Turn`s, which know theirs, as
what the model itself writes does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.hardware import rows_at_once
from textebm.notebook import html_table, track
from textebm.prior.condition import Condition, log_probability_of
from textebm.prior.likelihood import log_prob_bound
from textebm.text.batches import TokenBatch, collate_texts
from textebm.use.contexts import Contexts, DialogueContext, contexts_of_texts, read_contexts

if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE = 256


@dataclass(frozen=True)
class Encoding:
    """mean, stddev (n, d); probabilities[head] (n, K); codes[head] (n,), the most probable class. CPU tensors.

    classes[head]: the K names; `labels` has those of the texts.
    """

    mean: Tensor
    stddev: Tensor
    probabilities: dict[str, Tensor]
    codes: dict[str, Tensor]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, list[str]]:
        """The name of each text's most probable class, by head."""
        return {head: [self._name(head, code) for code in codes.tolist()] for head, codes in self.codes.items()}

    def numpy(self) -> dict[str, NDArray[Any]]:
        """``mean``, ``stddev`` (n, d), and for each head ``HEAD`` (n,) and ``HEAD probabilities`` (n, K)."""
        heads = {head: codes.numpy() for head, codes in self.codes.items()}
        heads |= {f"{head} probabilities": p.numpy() for head, p in self.probabilities.items()}
        return {"mean": self.mean.numpy(), "stddev": self.stddev.numpy(), **heads}

    def frame(self) -> pd.DataFrame:
        """A pandas table, one row a text: for each head its class and the probability of that (``HEAD p``), then the
        latent's means ``z0``, ``z1``, …"""
        import pandas as pd

        columns: dict[str, Any] = {}
        for head, labels in self.labels.items():
            columns |= {head: labels, f"{head} p": self.probabilities[head].max(-1).values.numpy()}
        means = {f"z{i}": column for i, column in enumerate(self.mean.numpy().T)}
        return pd.DataFrame({**columns, **means})

    def __len__(self) -> int:
        return len(self.mean)

    def __repr__(self) -> str:
        heads = ", ".join(f"{head} ({p.shape[1]})" for head, p in self.probabilities.items()) or "none"
        return f"Encoding({len(self)} texts, {self.mean.shape[1]} dimensions; heads: {heads})"

    def _repr_html_(self) -> str:
        rows = [(head, max(set(own), key=own.count), len(set(own))) for head, own in self.labels.items() if own]
        return html_table(repr(self), rows, ("head", "most frequent", "classes in use"))

    def _name(self, head: str, code: int) -> str:
        return self.classes[head][code] if head in self.classes else str(code)


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


def over_texts(
    model: LatentTextModel,
    texts: Sequence[str],
    context: DialogueContext | None,
    compute: Callable[[TokenBatch, Tensor | None], tuple[Tensor, ...]],
    *empty: Tensor,
    batch_size: int | None = None,
) -> tuple[Tensor, ...]:
    """What *compute* gives for all texts, in their order, on the CPU.

    compute: a batch (B), whose index has the places of its texts, and its context vectors (B, C) -> tensors (B, …);
    *empty* has one of each of them with no rows. Texts of one length are computed together, so that batches have little
    padding. Raises TextEBMError.
    """
    if batch_size is not None and batch_size < 1:
        raise TextEBMError(f"batch_size must be at least 1, got {batch_size}")
    size = batch_size or rows_at_once(model.device, BATCH_SIZE, gpu=1)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    columns = [[each] for each in empty]
    with model.evaluating():
        for start in track(range(0, len(order), size), "reading"):
            rows = order[start : start + size]
            batch = collate_texts([texts[i] for i in rows], model.tokenizer, model.max_tokens)
            batch = replace(batch, index=torch.tensor(rows)).to(model.device)
            vectors = None if context is None else context.vectors[rows]
            for column, value in zip(columns, compute(batch, vectors), strict=True):
                column.append(value.cpu())
    inverse = torch.tensor(order, dtype=torch.long).argsort()
    return tuple(torch.cat(column)[inverse] for column in columns)


@torch.no_grad()
def encode(
    model: LatentTextModel,
    texts: Sequence[str],
    *,
    batch_size: int | None = None,
    refine: int = 0,
    seed: int = 0,
    contexts: Contexts | None = None,
) -> Encoding:
    """Posterior means and symbol posteriors p(y|z) at the means; see `textebm.TextEBM.encode`."""
    _check_refine(refine)
    context = contexts_of_texts(model, texts, contexts)

    def posterior(batch: TokenBatch, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        q = model.posterior(batch, seed=seed, refine=refine, context=vectors)
        return q.mean, q.stddev

    empty = torch.zeros(0, model.prior.dim)
    mean, stddev = over_texts(model, texts, context, posterior, empty, empty, batch_size=batch_size)
    with model.evaluating():
        probabilities = _symbol_probabilities(model, mean, context)
    codes = {name: p.argmax(-1) for name, p in probabilities.items()}
    return Encoding(mean, stddev, probabilities, codes, {name: model.head(name).classes for name in codes})


@torch.no_grad()
def posterior_draws(
    model: LatentTextModel,
    texts: Sequence[str],
    *,
    contexts: Contexts | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """One draw of q(u|x) for each text, (n, d) on the CPU."""
    generator = torch.Generator(model.device).manual_seed(seed)
    context = contexts_of_texts(model, texts, contexts)

    def draw(batch: TokenBatch, vectors: Tensor | None) -> tuple[Tensor]:
        return (model.posterior(batch, generator, context=vectors).draw(generator).u,)

    (draws,) = over_texts(model, texts, context, draw, torch.zeros(0, model.prior.dim), batch_size=batch_size)
    return draws


@torch.no_grad()
def symbol_probabilities(model: LatentTextModel, z: Tensor, *, contexts: Contexts | None = None) -> dict[str, Tensor]:
    """p(y^h | z) of each head, (n, K_h) on the CPU. z (n, d)"""
    check_width(model, z)
    return _symbol_probabilities(model, z, read_contexts(model, contexts, len(z)))


def _symbol_probabilities(model: LatentTextModel, z: Tensor, context: DialogueContext | None) -> dict[str, Tensor]:
    logits = model.prior.symbol_logits(z.to(model.device), context=None if context is None else context.vectors)
    heads = {name: f.softmax(-1).cpu() for name, f in logits.items()}
    return heads | {name: attribute.probabilities(z.cpu()) for name, attribute in model.attributes.items()}


@torch.no_grad()
def views(model: LatentTextModel, texts: Sequence[str], *, batch_size: int | None = None) -> Tensor:
    """The contrastive views of the texts, (n, C), on the CPU. Raises TextEBMError without guidance."""
    encoder = model.encoder
    if isinstance(encoder, ShortRun) or encoder.view is None:
        raise TextEBMError(
            "this model has no contrastive views to be like examples by: train it with "
            "objective.contrastive_weight above 0 (0.3, say)"
        )

    def view(batch: TokenBatch, _: Tensor | None) -> tuple[Tensor]:
        return (encoder.views(encoder.features(batch.tokens, batch.lengths)),)

    (seen,) = over_texts(model, texts, None, view, torch.zeros(0, model.prior.energy.view_size), batch_size=batch_size)
    return seen


def certainty(
    model: LatentTextModel, texts: Sequence[str], symbols: Mapping[str, Tensor], *, contexts: Contexts | None = None
) -> Tensor:
    """(n,) the least probability that the encoder gives, over the heads of *symbols*, to what is asked of each text: a
    class (n,), −1 asks nothing, or any of several classes (n, K)."""
    probabilities, least = encode(model, texts, contexts=contexts).probabilities, torch.ones(len(texts))
    for name, asked in symbols.items():
        least = torch.minimum(least, log_probability_of(probabilities[name].log(), asked.cpu()).exp())
    return least


def classify(
    model: LatentTextModel,
    texts: Sequence[str],
    head: str,
    *,
    contexts: Contexts | None = None,
    batch_size: int | None = None,
) -> Classification:
    """The most probable class of each text. Raises TextEBMError for an unknown head."""
    classes = model.head(head).classes
    probabilities = encode(model, texts, batch_size=batch_size, contexts=contexts).probabilities[head]
    return Classification([classes[i] for i in probabilities.argmax(-1).tolist()], probabilities)


@torch.no_grad()
def elbo_terms(
    model: LatentTextModel,
    texts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    refine: int = 0,
    contexts: Contexts | None = None,
) -> ElboTerms:
    """−log p(x|z) at one posterior draw and KL(q ‖ p) of each text, nats; see `textebm.TextEBM.elbo_terms`."""
    _check_refine(refine)
    generator, prior = torch.Generator(model.device).manual_seed(seed), model.prior
    context = contexts_of_texts(model, texts, contexts)

    def terms(batch: TokenBatch, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        draw = model.posterior(batch, seed=seed, refine=refine, context=vectors).draw(generator)
        u, q = draw.u, draw.given
        nll = model.reconstruction_nll(batch, u, context=vectors)
        kl = q.kl_to_standard_normal().sum(-1)
        if prior.num_levels > 0:
            log_p = log_prob_bound(prior, u, condition=Condition(context=vectors), generator=generator)
            kl = q.log_prob(u) - log_p  # entropy and cross-entropy at the same draw
        elif prior.explicit is not None:
            kl = kl - prior.explicit.log_ratio(u)
        return nll, kl, batch.lengths - 1

    empty, no_tokens = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return ElboTerms(*over_texts(model, texts, context, terms, empty, empty, no_tokens, batch_size=batch_size))


@torch.no_grad()
def reconstruction_losses(
    model: LatentTextModel,
    texts: Sequence[str],
    *,
    latents: Tensor | None = None,
    batch_size: int | None = None,
    contexts: Contexts | None = None,
) -> Tensor:
    """−log p(x|z) of each text at its posterior mean or at *latents* (n, d), nats a sentence, (n,) on the CPU."""
    if latents is not None and latents.shape != (len(texts), model.prior.dim):
        raise TextEBMError(f"expected latents of shape ({len(texts)}, {model.prior.dim}), got {tuple(latents.shape)}")

    def loss(batch: TokenBatch, vectors: Tensor | None) -> tuple[Tensor]:
        if latents is None:
            u = model.posterior(batch, context=vectors).mean
        else:
            u = latents[batch.index.cpu()].to(model.device)
        return (model.reconstruction_nll(batch, u, context=vectors),)

    context = contexts_of_texts(model, texts, contexts)
    (losses,) = over_texts(model, texts, context, loss, torch.zeros(0), batch_size=batch_size)
    return losses


@torch.no_grad()
def energies(model: LatentTextModel, z: Tensor, level: int = 0, *, contexts: Contexts | None = None) -> Tensor:
    """−F(z, t) at level t, (n,) on the CPU: low where the prior finds z likely (beyond its reference). z (n, d)"""
    check_width(model, z)
    if not 0 <= level < max(1, model.prior.num_levels):
        raise TextEBMError(f"level must lie between 0 and {model.prior.num_levels - 1} for this model, got {level}")
    context = read_contexts(model, contexts, len(z))
    condition = Condition(context=None if context is None else context.vectors)
    with model.evaluating():
        levels = torch.full((len(z),), level, dtype=torch.long, device=model.device)
        return -model.prior.potential(z.to(model.device), levels, condition).cpu()


def check_width(model: LatentTextModel, latents: Tensor) -> None:
    """Raises TextEBMError for latents that are not (n, d)."""
    if latents.ndim != 2 or latents.shape[1] != model.prior.dim:
        raise TextEBMError(f"expected latents of shape (n, {model.prior.dim}), got {tuple(latents.shape)}")


def _check_refine(steps: int) -> None:
    if steps < 0:
        raise TextEBMError(f"refine is a number of steps, 0 or more, got {steps}")
