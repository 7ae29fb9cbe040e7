"""Editing by the smallest change that is read: a latent moves until its *sentence* has the symbols asked for.

    z  ->  z + step · ∇ Σ_h log p(y^h | z) / |·|        until the encoder reads y off the decoded sentence

a counterfactual (Wachter, Mittelstadt & Russell 2018, arXiv 1711.00399) whose test is the text itself: a small step may
satisfy the heads, and change no word. The moved latent is decoded with the input in hand: at each place the input's own
word stays unless another is likelier by *keep* nats. So what z does not say of the input is not lost, as it is where
the sentence is written from z alone, and where z objects, words change. Places are those of the input: an edit replaces
words, and shortens or lengthens only from where it ends differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.networks.decoder import Decoder
from textebm.networks.drawn_word import draw
from textebm.prior.condition import Condition
from textebm.prior.nearest import ascend
from textebm.text.batches import collate_texts
from textebm.text.tokenizer import decode as decode_ids

if TYPE_CHECKING:
    from textebm.use.contexts import Contexts
    from textebm.use.writing import Generation

KEEP = 6.0
CONFIDENCE = 0.95
DRAWS = 8  # of a new sentence, where the first is not read as asked
STEPS, ROUNDS = 5, 24  # steps between two readings, and how often it reads before it gives up


def rewrite(
    model: Generation,
    texts: Sequence[str],
    condition: Condition,
    *,
    keep: float = KEEP,
    confidence: float = CONFIDENCE,
    decoding: Literal["greedy", "sample"] = "greedy",
    seed: int = 0,
    contexts: Contexts | None = None,
    batch_size: int = 512,
) -> list[str]:
    """Each text with the least change after which the encoder gives every symbol of *condition* the probability
    *confidence*; where none does, the surest version. A text that reads so already comes back as it is."""
    generator = torch.Generator(model.device).manual_seed(seed)
    z = model.encode(texts, contexts=contexts).mean.to(model.device)
    level = model.prior.num_levels // 2 if model.prior.symbol_levels == "all" else 0
    best, current = list(texts), list(texts)
    surest = model.certainty(texts, condition.symbols, contexts=contexts)
    waiting = torch.nonzero(surest < confidence)[:, 0]
    for _ in range(ROUNDS):
        if not len(waiting):
            break
        for start in range(0, len(waiting), batch_size):
            rows = waiting[start : start + batch_size]
            here = condition.chosen(rows.to(model.device))
            z[rows] = ascend(model.prior, z[rows], here, level=level, steps=STEPS)
            batch = collate_texts([texts[i] for i in rows], model.tokenizer, model.max_tokens).to(model.device)
            given = model.decoder_input(z[rows], here.context)
            ids = decode_near(model.decoder, given, batch.tokens, model.tokenizer, keep, decoding, generator)
            for i, row in zip(rows.tolist(), ids, strict=True):
                current[i] = decode_ids(model.tokenizer, row)
        histories = None if contexts is None else [contexts[i] for i in waiting]
        symbols = condition.chosen(waiting.to(model.device)).symbols
        found = model.certainty([current[i] for i in waiting], symbols, contexts=histories)
        for i, value in zip(waiting.tolist(), found.tolist(), strict=True):
            if value > surest[i]:
                best[i], surest[i] = current[i], value
        waiting = waiting[found < confidence]
    return best


def surest(
    write: Callable[[list[int] | None, int], list[str]],
    n: int,
    certainty: Callable[[list[int], list[str]], Tensor],
    confidence: float,
    seed: int,
) -> list[str]:
    """n sentences, each drawn again until it is read as asked. write(rows, seed): new sentences for these rows (None:
    all); certainty(rows, texts) (len(rows),): how surely they read so."""
    best = write(None, seed)
    waiting, sure = list(range(n)), [-1.0] * n
    found = best
    for attempt in range(DRAWS):
        values = certainty(waiting, found).tolist() if waiting else []
        for i, text, value in zip(waiting, found, values, strict=True):
            if value > sure[i]:
                best[i], sure[i] = text, value
        waiting = [i for i in waiting if sure[i] < confidence]
        if not waiting or attempt == DRAWS - 1:
            break
        found = write(waiting, seed + 104_729 * (attempt + 1))
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
    """Token ids of each latent's sentence, the logit of the input's own token raised by *keep* at each place.

    z (B, d); inputs (B, T) with <bos>, <eos> and padding. A sentence ends where it did, or within T places more.
    """
    n, width = inputs.shape
    pad, bos, eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    rows, state, tokens = torch.arange(n, device=z.device), decoder.start(z), inputs[:, 0]
    written, ended = [], torch.zeros(n, dtype=torch.bool, device=z.device)
    for place in range(1, 2 * width):
        logits, state = decoder.step(tokens, z, state)
        logits = logits.float()
        logits[:, [pad, bos]] = -torch.inf
        if place < width:
            own = inputs[:, place]
            logits[rows, own] += torch.where(own == pad, 0.0, keep)
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
