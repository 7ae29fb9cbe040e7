"""Editing by the smallest change that is read: a latent moves until its *sentence* has the symbols asked for.

    z  ->  z + step · ∇ Σ_h log p(y^h | z) / |·|        until the encoder reads y off the decoded sentence

a counterfactual (Wachter, Mittelstadt & Russell 2018, arXiv 1711.00399) whose test is the text itself: a small step may
satisfy the heads, and change no word. The moved latent is decoded with the input in hand: words are replaced, inserted
and deleted only where that is likelier by *keep* nats each (`textebm.use.edit_search`). So what z does not say of the
input is not lost, as it is where the sentence is written from z alone, and where z objects, words change. Of the
sentences near the input that the search comes up with, the best that is read as asked is taken. A word that the model
does not know stays, and none is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.decoding import Decoding, DecodingOptions
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.hardware import rows_at_once
from textebm.prior.condition import Condition
from textebm.prior.nearest import ascend
from textebm.text.batches import collate_texts
from textebm.text.tokenizer import decode as decode_ids
from textebm.text.tokenizer import restore_words, unknown_words
from textebm.use.contexts import Contexts, contexts_of_texts
from textebm.use.edit_search import search_near, word_losses
from textebm.use.reading import certainty, encode
from textebm.use.steering import Steering, SymbolRequest, asked_of, condition_of
from textebm.use.writing import decode, denoise

KEEP = 6.0
CONFIDENCE = 0.99
STEPS, ROUNDS = 5, 24  # steps between two readings, and how often it reads before it gives up
TOGETHER = 8  # searches at once where few texts are left: rounds ahead, which cost little more than one


@torch.no_grad()
def edit(
    model: LatentTextModel,
    texts: Sequence[str],
    symbols: SymbolRequest,
    *,
    method: Literal["nearest", "denoise"] | None = None,
    keep: float | None = None,
    confidence: float | None = None,
    level: int | None = None,
    strength: float | None = None,
    seed: int = 0,
    decoding: Decoding = "greedy",
    contexts: Contexts | None = None,
) -> list[str]:
    """Each text rewritten under *symbols*; see `textebm.TextEBM.edit`."""
    if not symbols:
        raise TextEBMError("edit needs at least one symbol, such as {'sentiment': 'positive'}")
    context = contexts_of_texts(model, texts, contexts)
    histories = None if context is None else context.histories
    condition, _ = condition_of(model, Steering(symbols, strength), len(texts), context)
    if _is_nearest(method, decoding, keep=keep, confidence=confidence, level=level, strength=strength):
        edited = edit_nearest(
            model,
            texts,
            condition,
            asked_of(model, symbols, len(texts)),
            keep=KEEP if keep is None else keep,
            contexts=histories,
            confidence=CONFIDENCE if confidence is None else confidence,
        )
        return edited if context is None else context.turns(edited)
    z = encode(model, texts, contexts=histories).mean.to(model.device)
    z = denoise(model, z, level, condition, torch.Generator(model.device).manual_seed(seed))
    options = DecodingOptions(decoding, max_tokens=model.max_tokens)
    return decode(model, z.cpu(), options, seed=seed, contexts=histories)


def _is_nearest(
    method: str | None,
    decoding: str,
    *,
    keep: float | None,
    confidence: float | None,
    level: int | None,
    strength: float | None,
) -> bool:
    """Whether an edit is the nearest one. Raises TextEBMError for options of both ways, or out of range."""
    if method not in (None, "nearest", "denoise"):
        raise TextEBMError(f"method must be nearest or denoise, got {method!r}")
    of_denoise = {"level": level, "strength": strength}
    of_nearest = {"keep": keep, "confidence": confidence}
    nearest = method == "nearest" or (method is None and all(value is None for value in of_denoise.values()))
    strange = [name for name, value in (of_denoise if nearest else of_nearest).items() if value is not None]
    if strange:
        ways = ("nearest", "denoise") if nearest else ("denoise", "nearest")
        raise TextEBMError(f"{strange[0]} has no effect on an edit by {ways[0]}; it belongs to method={ways[1]!r}")
    if keep is not None and not 0 <= keep < math.inf:
        raise TextEBMError(f"keep must be a number of nats from 0 up, got {keep}")
    if confidence is not None and not 0 < confidence < 1:
        raise TextEBMError(f"confidence must lie between 0 and 1, got {confidence}")
    if nearest and decoding != "greedy":
        raise TextEBMError(f"an edit by nearest draws no words; decoding={decoding!r} needs method='denoise'")
    return nearest


def edit_nearest(
    model: LatentTextModel,
    texts: Sequence[str],
    condition: Condition,
    symbols: Mapping[str, Tensor],
    *,
    keep: float = KEEP,
    confidence: float = CONFIDENCE,
    contexts: Contexts | None = None,
) -> list[str]:
    """Each text with the least change, upwards in *condition*, after which the encoder gives every one of *symbols*
    (`steering.asked_of`) the probability *confidence*; where none does, the surest version. A text that reads so
    already comes back as it is."""
    z = encode(model, texts, contexts=contexts).mean.to(model.device)
    level = model.prior.num_levels // 2 if model.prior.symbol_levels == "all" else 0
    best, seen = list(texts), [{text} for text in texts]
    unknown = [unknown_words(model.tokenizer, text, model.max_tokens) for text in texts]
    surest = certainty(model, texts, symbols, contexts=contexts)
    waiting = torch.nonzero(surest < confidence)[:, 0]
    inputs = collate_texts(texts, model.tokenizer, model.max_tokens).to(model.device)
    losses = torch.zeros(inputs.tokens[:, 1:].shape, device=model.device)
    size = rows_at_once(model.device, 128, gpu=1)
    for rows in waiting.split(size):
        own = model.decoder_input(z[rows], condition.chosen(rows.to(model.device)).context)
        losses[rows] = word_losses(model.decoder, own, inputs.tokens[rows], model.tokenizer.eos_token_id)
    left = ROUNDS
    while left and len(waiting):
        rounds = min(left, max(1, TOGETHER // len(waiting)))
        left -= rounds
        near = list[tuple[int, str]]()  # of the same row the earlier round first, of a round the nearest
        for rows in waiting.split(size):
            asked, width, path = condition.chosen(rows.to(model.device)), int(inputs.lengths[rows].max()), []
            for _ in range(rounds):
                z[rows] = ascend(model.prior, z[rows], asked, level=level, steps=STEPS)
                path.append(model.decoder_input(z[rows], asked.context))
            tokens, own = inputs.tokens[rows, :width], losses[rows, : width - 1]
            versions = search_near(
                model.decoder, torch.cat(path), tokens.repeat(rounds, 1), own.repeat(rounds, 1), model.tokenizer, keep
            )
            for i, sentences in zip(rows.tolist() * rounds, versions, strict=True):
                for each in sentences:
                    text = restore_words(model.tokenizer, decode_ids(model.tokenizer, each.ids), unknown[i])
                    if text not in seen[i]:
                        seen[i].add(text)
                        near.append((i, text))
        places = torch.tensor([i for i, _ in near], dtype=torch.long)
        histories = None if contexts is None else [contexts[i] for i in places.tolist()]
        asked_here = {name: each[places.to(model.device)] for name, each in symbols.items()}
        read = certainty(model, [text for _, text in near], asked_here, contexts=histories).tolist()
        for (i, text), value in zip(near, read, strict=True):
            if value > surest[i] and surest[i] < confidence:
                best[i], surest[i] = text, value
        waiting = waiting[surest[waiting] < confidence]
    return best
