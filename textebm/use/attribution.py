"""Why this code? Each word's part in log p(y|z) at the posterior mean of its text, and whether those parts hold.

Two answers: what log p loses when a word is left out, and integrated gradients (Sundararajan, Taly & Yan 2017) from a
text of unknown words, whose parts add up to what the words change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from textebm.errors import TextEBMError, did_you_mean
from textebm.model.inference import ShortRun, frozen
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.encoder import OwnEncoder, SentenceEncoder
from textebm.networks.hardware import rows_at_once
from textebm.networks.reader import ContextualEmbedding
from textebm.networks.whole_words import WholeWordsEncoder
from textebm.text.batches import collate_texts
from textebm.use.contexts import Contexts, DialogueContext, contexts_of_texts

Method = Literal["integrated_gradients", "leave_one_out"]
METHODS: tuple[Method, ...] = ("integrated_gradients", "leave_one_out")
POINTS = 24  # of the Gauss-Legendre quadrature along the path: the parts then add up to a few thousandths of a nat
ROWS = 256


@dataclass(frozen=True)
class Attribution:
    """Why *text* has class *name* of a head. words: its tokens as the model reads them (rare ones as they are unknown);
    parts: what each adds to log p, nats; log_probability of the class; baseline: log p of a text of as many unknown
    words, so that baseline + Σ parts = log_probability, None for leave_one_out, whose parts need not add up."""

    text: str
    name: str
    words: tuple[str, ...]
    parts: tuple[float, ...]
    log_probability: float
    baseline: float | None


@dataclass(frozen=True)
class Deletion:
    """How much log p falls, on average over n texts, without the words of largest parts, and without as many others
    drawn at random: nats. A sound attribution has a much larger fall."""

    top: float
    random: float
    n: int


def attribute(
    model: LatentTextModel,
    texts: Sequence[str],
    head: str,
    *,
    method: Method = "integrated_gradients",
    classes: Sequence[int] | None = None,
    contexts: Contexts | None = None,
) -> list[Attribution]:
    """Each word's part in log p(y|z) of the most probable class of each text, or of *classes* (n,).

    Raises TextEBMError for an unknown head or method, and for integrated gradients of a model that does not read
    vectors of tokens.
    """
    symbol = model.head(head)
    if method not in METHODS:
        raise TextEBMError(f"unknown method {method!r}{did_you_mean(method, METHODS)}")
    if method == "integrated_gradients" and not reads_vectors(model):
        raise TextEBMError("this model reads no vectors of its tokens, along which to integrate; ask for leave_one_out")
    context = contexts_of_texts(model, texts, contexts)
    found = []
    with model.evaluating(), frozen(model):
        rows = _token_rows(model, texts)
        log_p = _log_probabilities(model, rows, head, context)
        chosen = log_p.argmax(-1) if classes is None else torch.as_tensor(classes)
        for row, text in enumerate(texts):
            kind, own = int(chosen[row]), None if context is None else context.vectors[row : row + 1]
            if method == "leave_one_out":
                parts, baseline = _leave_one_out(model, rows[row], head, kind, own), None
            else:
                parts, baseline = _integrate(model, rows[row], head, kind, own)
            words = model.tokenizer.convert_ids_to_tokens(rows[row])
            found.append(
                Attribution(text, symbol.classes[kind], tuple(words), parts, float(log_p[row, kind]), baseline)
            )
    return found


def reads_vectors(model: LatentTextModel) -> bool:
    """Whether the encoder reads vectors of tokens, along which a gradient can be integrated."""
    encoder = model.encoder
    if isinstance(encoder, ShortRun | OwnEncoder | SentenceEncoder | WholeWordsEncoder):
        return False
    return not isinstance(encoder.embedding, ContextualEmbedding)


def usual_method(model: LatentTextModel) -> Method:
    """Integrated gradients where they can be had, else what is lost without each word."""
    return "integrated_gradients" if reads_vectors(model) else "leave_one_out"


def deletion_test(
    model: LatentTextModel,
    texts: Sequence[str],
    head: str,
    *,
    method: Method = "integrated_gradients",
    words: int = 2,
    draws: int = 5,
    contexts: Contexts | None = None,
    seed: int = 0,
) -> Deletion:
    """Delete the *words* of largest parts, and as many drawn at random (the mean of several *draws*), from each text
    that has more words than that; see `Deletion`. Undefined numbers (NaN) where none has."""
    rng, context = np.random.default_rng(seed), contexts_of_texts(model, texts, contexts)
    found = attribute(model, texts, head, method=method, contexts=contexts)
    kept = [row for row, each in enumerate(found) if len(each.words) > words]
    with model.evaluating(), frozen(model):
        rows = _token_rows(model, texts)
        kinds = [model.head(head).classes.index(found[row].name) for row in kept]
        before = torch.tensor([found[row].log_probability for row in kept])

        def fall(places: Sequence[Sequence[int]]) -> float:
            shorter = [
                [token for place, token in enumerate(rows[row]) if place not in set(out)]
                for row, out in zip(kept, places, strict=True)
            ]
            own = None if context is None else context.vectors[kept]
            after = _log_probabilities(model, shorter, head, None, own)[torch.arange(len(kept)), kinds]
            return float((before - after).mean())

        top = fall([np.argsort(-np.array(found[row].parts), kind="stable")[:words].tolist() for row in kept])
        random = [
            fall([rng.choice(len(rows[row]), words, replace=False).tolist() for row in kept]) for _ in range(draws)
        ]
    return Deletion(top, float(np.mean(random)), len(kept))


def _token_rows(model: LatentTextModel, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without bos and eos."""
    batch = collate_texts(list(texts), model.tokenizer, model.max_tokens)
    return [ids[1 : n - 1].tolist() for ids, n in zip(batch.tokens, batch.lengths.tolist(), strict=True)]


def _padded(model: LatentTextModel, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """tokens (B, T) with bos and eos, lengths (B,)."""
    tokenizer, width = model.tokenizer, max(map(len, rows), default=0) + 2
    filled = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
    tokens = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in filled]
    lengths = torch.tensor([len(row) for row in filled], device=model.device)
    return torch.tensor(tokens, device=model.device, dtype=torch.long), lengths


@torch.no_grad()
def _log_probabilities(
    model: LatentTextModel,
    rows: Sequence[Sequence[int]],
    head: str,
    context: DialogueContext | None,
    vectors: Tensor | None = None,
) -> Tensor:
    """log p(y|z) of texts given as ids, (n, K) on the CPU. vectors (n, C): of their contexts."""
    vectors = context.vectors if context is not None else vectors
    found = [torch.zeros(0, len(model.head(head).classes))]
    size = rows_at_once(model.device, ROWS, gpu=1)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        tokens, lengths = _padded(model, rows[part])
        own = None if vectors is None else vectors[part]
        if isinstance(model.encoder, ShortRun):
            batch = collate_texts([""] * len(tokens), model.tokenizer, model.max_tokens).to(model.device)
            batch = type(batch)(tokens, lengths, {}, batch.index)
            mean = model.posterior(batch, context=own).mean
        else:
            mean = model.encoder.posterior(model.encoder.features(tokens, lengths), own).mean
        found.append(_logits(model, mean, head, own).log_softmax(-1).cpu())
    return torch.cat(found)


def _logits(model: LatentTextModel, mean: Tensor, head: str, context: Tensor | None) -> Tensor:
    """Of a symbol or an attribute at latents (n, d): (n, K)."""
    if head in model.attributes:
        return model.attributes[head].logits(mean)
    return model.prior.symbol_logits(mean, context=context)[head]


def _leave_one_out(
    model: LatentTextModel, row: Sequence[int], head: str, kind: int, vector: Tensor | None
) -> tuple[float, ...]:
    variants = [list(row), *([*row[:place], *row[place + 1 :]] for place in range(len(row)))]
    vectors = None if vector is None else vector.expand(len(variants), -1)
    log_p = _log_probabilities(model, variants, head, None, vectors)[:, kind]
    return tuple((log_p[0] - log_p[1:]).tolist())


def _integrate(
    model: LatentTextModel, row: Sequence[int], head: str, kind: int, vector: Tensor | None
) -> tuple[tuple[float, ...], float]:
    """Σ over quadrature points a of the gradient at b + a (e − b), times e − b, and log p at b: e are the words'
    vectors, b those of as many unknown words between the same bos and eos."""
    encoder = model.encoder
    assert not isinstance(encoder, ShortRun | OwnEncoder | SentenceEncoder | WholeWordsEncoder)
    tokens, lengths = _padded(model, [row, [model.tokenizer.unk_token_id] * len(row)])
    with torch.no_grad():
        (own, unknown), _ = encoder.embed(tokens, lengths)  # (T, E) each
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    places = torch.tensor([0.0, *((nodes + 1) / 2)], dtype=own.dtype, device=own.device)
    points = (unknown + places[:, None, None] * (own - unknown)).requires_grad_(True)  # (1 + points, T, E)
    context = None if vector is None else vector.expand(len(points), -1)
    mean = encoder.posterior(encoder.read(points, lengths[:1].expand(len(points))), context).mean
    log_p = _logits(model, mean, head, context).log_softmax(-1)[:, kind]
    (gradient,) = torch.autograd.grad(log_p[1:].sum(), points)
    weight = torch.tensor(weights / 2, dtype=own.dtype, device=own.device)
    parts = ((gradient[1:] * weight[:, None, None]).sum(0) * (own - unknown)).sum(-1)
    return tuple(parts[1 : 1 + len(row)].tolist()), float(log_p[0].detach())
