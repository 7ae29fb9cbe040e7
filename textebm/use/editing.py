"""Editing by the smallest change that is read: a latent moves until its *sentence* has the symbols asked for.

    z  ->  z + step · ∇ Σ_h log p(y^h | z) / |·|        until the encoder reads y off the decoded sentence

a counterfactual (Wachter, Mittelstadt & Russell 2018, arXiv 1711.00399) whose test is the text itself: a small step may
satisfy the heads, and change no word. The moved latent is decoded with the input in hand: at each place the input's own
word stays unless another is likelier by *keep* nats. So what z does not say of the input is not lost, as it is where
the sentence is written from z alone, and where z objects, words change. Places are those of the input: an edit replaces
words, and shortens or lengthens only from where it ends differently. A word that the model does not know stays in its
place, and none is written where there was none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.errors import TextEBMError
from textebm.model.decoding import Decoding, DecodingOptions, forbidden_ids
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.decoder import Decoder
from textebm.networks.drawn_word import draw
from textebm.prior.condition import Condition
from textebm.prior.nearest import ascend
from textebm.text.batches import collate_texts
from textebm.text.tokenizer import decode as decode_ids
from textebm.text.tokenizer import restore_words, unknown_words
from textebm.use.contexts import Contexts, contexts_of_texts
from textebm.use.reading import certainty, encode
from textebm.use.steering import Steering, SymbolRequest, asked_of, condition_of
from textebm.use.writing import decode, denoise

KEEP = 6.0
CONFIDENCE = 0.95
STEPS, ROUNDS = 5, 24  # steps between two readings, and how often it reads before it gives up


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
            seed=seed,
            contexts=histories,
            confidence=CONFIDENCE if confidence is None else confidence,
            decoding=cast("Literal['greedy', 'sample']", decoding),
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
    if nearest and decoding == "beam":
        raise TextEBMError("an edit by nearest decodes greedily or by sampling; beam needs method='denoise'")
    return nearest


def edit_nearest(
    model: LatentTextModel,
    texts: Sequence[str],
    condition: Condition,
    symbols: Mapping[str, Tensor],
    *,
    keep: float = KEEP,
    confidence: float = CONFIDENCE,
    decoding: Literal["greedy", "sample"] = "greedy",
    seed: int = 0,
    contexts: Contexts | None = None,
    batch_size: int = 512,
) -> list[str]:
    """Each text with the least change, upwards in *condition*, after which the encoder gives every one of *symbols*
    (`steering.asked_of`) the probability *confidence*; where none does, the surest version. A text that reads so
    already comes back as it is."""
    generator = torch.Generator(model.device).manual_seed(seed)
    z = encode(model, texts, contexts=contexts).mean.to(model.device)
    level = model.prior.num_levels // 2 if model.prior.symbol_levels == "all" else 0
    best, current = list(texts), list(texts)
    unknown = [unknown_words(model.tokenizer, text, model.max_tokens) for text in texts]
    surest = certainty(model, texts, symbols, contexts=contexts)
    waiting = torch.nonzero(surest < confidence)[:, 0]
    for _ in range(ROUNDS):
        if not len(waiting):
            break
        for start in range(0, len(waiting), batch_size):
            rows = waiting[start : start + batch_size]
            asked = condition.chosen(rows.to(model.device))
            z[rows] = ascend(model.prior, z[rows], asked, level=level, steps=STEPS)
            batch = collate_texts([texts[i] for i in rows], model.tokenizer, model.max_tokens).to(model.device)
            inputs = model.decoder_input(z[rows], asked.context)
            ids = decode_near(model.decoder, inputs, batch.tokens, model.tokenizer, keep, decoding, generator)
            for i, row in zip(rows.tolist(), ids, strict=True):
                current[i] = restore_words(model.tokenizer, decode_ids(model.tokenizer, row), unknown[i])
        histories = None if contexts is None else [contexts[i] for i in waiting]
        asked_here = {name: each[waiting.to(model.device)] for name, each in symbols.items()}
        read = certainty(model, [current[i] for i in waiting], asked_here, contexts=histories)
        for i, value in zip(waiting.tolist(), read.tolist(), strict=True):
            if value > surest[i]:
                best[i], surest[i] = current[i], value
        waiting = waiting[read < confidence]
    return best


@torch.no_grad()
def decode_near(
    decoder: Decoder,
    z: Tensor,
    inputs: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    keep: float,
    decoding: Literal["greedy", "sample"] = "greedy",
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Token ids of each latent's sentence, the logit of the input's own token raised by *keep* at each place; an <unk>
    of the input stays, and no other is written.

    z (B, d); inputs (B, T) with <bos>, <eos> and padding. A sentence ends where it did, or within T places more.
    """
    n, width = inputs.shape
    eos, unk = tokenizer.eos_token_id, tokenizer.unk_token_id
    forbidden = [*forbidden_ids(tokenizer), unk]
    rows, state, tokens = torch.arange(n, device=z.device), decoder.start(z), inputs[:, 0]
    written, ended = [], torch.zeros(n, dtype=torch.bool, device=z.device)
    for place in range(1, 2 * width):
        logits, state = decoder.step(tokens, z, state)
        logits = logits.float()
        logits[:, forbidden] = -torch.inf
        if place < width:
            own = inputs[:, place]
            logits[rows, own] += keep  # after the end that is <pad>, which stays forbidden
            unknown = own == unk
            logits[unknown] = -torch.inf
            logits[unknown, unk] = 0.0
        if decoding == "greedy":
            tokens = logits.argmax(-1)
        else:
            tokens = draw(logits.softmax(-1), generator)
        written.append(tokens)
        ended |= tokens == eos
        if bool(ended.all()):
            break
    ids = torch.stack(written, dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in ids]
