"""The likeliest sentence near another: what an edit writes once its latent has moved.

    argmax_y  log p(y | z) − d(x, y)

d is an edit distance in words (Levenshtein 1966): a word replaced or inserted costs *keep* nats, a word deleted *keep*
and what it costs where it stands under the input's own latent z₀, −log p(x_j | x_1 … x_{j−1}, z₀), so that no word is
left out for being rare. The search is a beam over pairs of a sentence begun and a place in the input, ranked by what
they have cost and by what the rest of the input would cost if it were copied, so that sentences which have come further
in the input and others are compared fairly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from textebm.model.decoding import forbidden_ids
from textebm.networks.decoder import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEAMS = 6
MARGIN = 3.0  # nats below the best at which a sentence is no longer near
SKIPPED = 3  # words of the input that may be deleted before one that is copied


@dataclass(frozen=True)
class Near:
    """A sentence near the input, its token ids without <bos> and <eos>. value: log p(y|z) − d(x, y), nats."""

    ids: list[int]
    value: float


@torch.no_grad()
def search_near(
    decoder: Decoder,
    z: Tensor,
    inputs: Tensor,
    losses: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    keep: float,
    beams: int = BEAMS,
) -> list[list[Near]]:
    """For each latent the best sentences near its input, at most *beams*, none 3 nats below the first, which is best.

    z (B, d); inputs (B, T) with <bos>, <eos> and padding; losses (B, T − 1), of their words under z₀ (`word_losses`).
    An <unk> of the input stays, and no other is written. Words are deleted before one that is copied and at the end.
    """
    n, width, device = len(inputs), inputs.shape[1], inputs.device
    eos, unk = tokenizer.eos_token_id, tokenizer.unk_token_id
    own = inputs[:, 1:]
    length = (own == eos).int().argmax(-1)  # (B,), words of the input
    copying = word_losses(decoder, z, inputs, eos)
    ahead = pad(-copying.masked_fill(own == unk, 0.0).flip(-1).cumsum(-1).flip(-1), (0, 1))  # (B, T)
    before = pad((losses + keep).cumsum(-1), (1, 0))  # (B, T), of deleting all words before a place
    unknown = (own == unk) & (torch.arange(width - 1, device=device) < length[:, None])
    fixed = pad(unknown.long().cumsum(-1), (1, 0))  # (B, T), unknown words before a place
    forbidden = torch.tensor([*forbidden_ids(tokenizer), unk], device=device)
    rows = torch.arange(n, device=device)[:, None]  # (B, 1)
    shift = torch.arange(SKIPPED + 1, device=device)

    state, tokens = decoder.start(z.repeat_interleave(beams, dim=0)), inputs[:, :1].expand(n, beams).flatten()
    z = z.repeat_interleave(beams, dim=0)
    place = torch.zeros(n, beams, dtype=torch.long, device=device)
    value = torch.full((n, beams), -torch.inf, device=device)
    value[:, 0] = 0.0  # all beams begin alike
    ended = torch.zeros(n, beams, dtype=torch.bool, device=device)
    written = torch.zeros(n, beams, 0, dtype=torch.long, device=device)
    for _ in range(2 * width):
        logits, state = decoder.step(tokens, z, state)
        logits = logits.float()
        logits[:, forbidden] = -torch.inf
        log_p = logits.log_softmax(-1).view(n, beams, -1)

        target = place[..., None] + shift  # (B, K, S): the words of the input that may be copied next
        there = target < length[:, None, None]
        word = own[rows[..., None], target.clamp_max(width - 2)]
        copied = log_p.gather(-1, word).masked_fill(word == unk, 0.0)
        copied = copied - before[rows[..., None], target.clamp_max(width - 1)] + before[rows, place][..., None]
        passed = fixed[rows[..., None], target.clamp_max(width - 1)] - fixed[rows, place][..., None]
        copied = copied.masked_fill(~there | (passed > 0), -torch.inf)

        stop = log_p[..., eos] - before[rows, length[:, None]] + before[rows, place]
        stop = stop.masked_fill(fixed[rows, length[:, None]] > fixed[rows, place], -torch.inf)
        stop = torch.where(ended, 0.0, stop)

        log_p[..., eos] = -torch.inf
        free, words = log_p.topk(min(beams, log_p.shape[-1]), dim=-1)  # (B, K, K)
        replaceable = there[..., 0] & ~unknown[rows, place.clamp_max(width - 2)]
        replaced = (free - keep).masked_fill(~replaceable[..., None], -torch.inf)
        written_on = torch.cat([copied, replaced, free - keep], dim=-1).masked_fill(ended[..., None], -torch.inf)
        moves = torch.cat([written_on, stop[..., None]], dim=-1)
        end = torch.full_like(word[..., :1], eos)
        ids = torch.cat([word, words, words, end], dim=-1)
        here = place[..., None].expand_as(words)
        places = torch.cat([target + 1, here + 1, here, torch.full_like(end, width)], dim=-1).clamp_max(width - 1)

        values = value[..., None] + moves
        ranks = values + ahead[rows[..., None], places]
        best = ranks.flatten(1).topk(beams, dim=-1).indices
        parent, move = best // moves.shape[-1], best % moves.shape[-1]
        value = values.flatten(1).gather(1, best)
        place, chosen = places[rows, parent, move], ids[rows, parent, move]
        ended = ended.gather(1, parent) | (chosen == eos)
        written = torch.cat([written[rows, parent], chosen[..., None]], dim=-1)
        index = (rows * beams + parent).flatten()
        state, tokens = tuple(each[index] for each in state), chosen.flatten()
        surest = value.masked_fill(~ended, -torch.inf).amax(-1, keepdim=True)
        if bool((ended | value.isneginf() | (value < surest - MARGIN)).all()):  # values only fall
            break
    return [
        _sorted(words, values, eos)
        for words, values in zip(written.tolist(), value.masked_fill(~ended, -torch.inf).tolist(), strict=True)
    ]


def _sorted(words: list[list[int]], values: list[float], eos: int) -> list[Near]:
    """The sentences that ended, each once, the best first."""
    best = dict[tuple[int, ...], float]()
    for row, value in sorted(zip(words, values, strict=True), key=lambda each: -each[1]):
        if eos in row and value > float("-inf") and value >= max(values) - MARGIN:
            best.setdefault(tuple(row[: row.index(eos)]), value)
    return [Near(list(ids), value) for ids, value in best.items()]


def word_losses(decoder: Decoder, z: Tensor, inputs: Tensor, eos: int) -> Tensor:
    """−log p(x_j | x_1 … x_{j−1}, z) of every word and the end, nats, 0 after it. z (B, d), inputs (B, T) with <bos> ->
    (B, T − 1)."""
    targets = inputs[:, 1:]
    hidden = decoder.hidden(inputs[:, :-1], z)
    losses = decoder.nll(hidden.flatten(0, 1), targets.flatten()).view(targets.shape).float()
    ends = (targets == eos).cumsum(-1) - (targets == eos).int()  # before a place
    return losses.masked_fill(ends > 0, 0.0)
