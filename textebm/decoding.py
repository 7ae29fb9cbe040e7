"""From latents to token ids: greedy, sampling and beam search over any decoder of `textebm.networks.decoder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from textebm.errors import TextEBMError
from textebm.networks.decoder import Decoder, FindsBestWord


@dataclass(frozen=True)
class DecodingOptions:
    decoding: Literal["greedy", "sample", "beam"] = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 4
    max_tokens: int = 40

    def check(self) -> None:
        """Raises TextEBMError for a value out of range."""
        ranges = {
            "decoding must be greedy, sample or beam": self.decoding in ("greedy", "sample", "beam"),
            "temperature must be above 0": self.temperature > 0,
            "top_k must be at least 0 (0 = all words)": self.top_k >= 0,
            "top_p must lie in (0, 1]": 0 < self.top_p <= 1,
            "num_beams must lie between 1 and 2000": 1 <= self.num_beams <= 2000,
            "max_tokens must be at least 1": self.max_tokens >= 1,
        }
        wrong = [rule for rule, holds in ranges.items() if not holds]
        if wrong:
            raise TextEBMError("; ".join(wrong))


def decode_tokens(
    decoder: Decoder, z: Tensor, tokenizer: PreTrainedTokenizerFast, options: DecodingOptions,
    generator: torch.Generator | None = None,
) -> list[list[int]]:  # fmt: skip
    """Token ids of each latent's sentence, without <bos> and <eos>. z (B, d)"""
    if len(z) == 0:
        return []
    if options.decoding == "beam":
        return _beam(decoder, z, tokenizer, options)
    return _one_by_one(decoder, z, tokenizer, options, generator)


def _never(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """<pad> and <bos> are not words; <eos> is how a sentence ends, and <unk> is a word of some corpora."""
    return [tokenizer.pad_token_id, tokenizer.bos_token_id]


def _warpers(options: DecodingOptions) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if options.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k > 0:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1.0:
        warpers.append(TopPLogitsWarper(options.top_p))
    return warpers


def _one_by_one(
    decoder: Decoder, z: Tensor, tokenizer: PreTrainedTokenizerFast, options: DecodingOptions,
    generator: torch.Generator | None,
) -> list[list[int]]:  # fmt: skip
    """Greedy or sampled. Finished sentences leave the batch, so that a long one does not make all wait."""
    eos, never, warpers = tokenizer.eos_token_id, _never(tokenizer), _warpers(options)
    output = torch.full((len(z), options.max_tokens), eos, dtype=torch.long, device=z.device)
    rows = torch.arange(len(z), device=z.device)
    tokens = torch.full_like(rows, tokenizer.bos_token_id)
    state = decoder.start(z)
    alive = torch.ones_like(rows, dtype=torch.bool)
    quick = decoder if options.decoding == "greedy" and isinstance(decoder, FindsBestWord) else None
    best_word = None if quick is None else quick.best_word(never)

    def choose(logits: Tensor, before: Tensor) -> Tensor:
        logits = logits.float()
        logits[:, never] = -torch.inf
        if options.decoding == "greedy":
            return logits.argmax(-1)
        probabilities = warpers(cast("torch.LongTensor", before), logits).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    for position in range(options.max_tokens):
        if quick is not None and best_word is not None:
            hidden, state = quick.advance(tokens, z, state)
            tokens = best_word(hidden)
        else:
            logits, state = decoder.step(tokens, z, state)
            tokens = choose(logits, output[rows, :position])
        tokens = torch.where(alive, tokens, eos)
        output[rows, position] = tokens
        alive = alive & (tokens != eos)
        count = int(alive.sum())
        if count == 0:
            break
        if count <= 0.75 * len(rows):  # shrinking at every end would copy the state too often
            rows, tokens, z = rows[alive], tokens[alive], z[alive]
            state = tuple(part[alive] for part in state)
            alive = alive[alive]
    return [row[: row.index(eos)] if eos in row else row for row in output.tolist()]


def _beam(decoder: Decoder, z: Tensor, tokenizer: PreTrainedTokenizerFast, options: DecodingOptions) -> list[list[int]]:
    """Beam search; the winner has the highest log-probability a token, the end included."""
    b, beams, eos, never = len(z), options.num_beams, tokenizer.eos_token_id, _never(tokenizer)
    z = z.repeat_interleave(beams, dim=0)  # (B·K, d)
    state = decoder.start(z)
    tokens = torch.full((b * beams,), tokenizer.bos_token_id, dtype=torch.long, device=z.device)
    output = torch.full((b * beams, 0), eos, dtype=torch.long, device=z.device)
    score = torch.full((b, beams), -torch.inf, device=z.device)
    score[:, 0] = 0.0  # all beams start equal: let one speak
    length = torch.zeros(b, beams, device=z.device)
    finished = torch.zeros(b, beams, dtype=torch.bool, device=z.device)
    for _ in range(options.max_tokens):
        logits, state = decoder.step(tokens, z, state)
        logits = logits.float()
        logits[:, never] = -torch.inf
        log_p = logits.log_softmax(-1).view(b, beams, -1)
        only_end = torch.full_like(log_p, -torch.inf)
        only_end[..., eos] = 0.0  # a finished beam stays as it is
        log_p = torch.where(finished[..., None], only_end, log_p)
        vocabulary = log_p.shape[-1]
        score, flat = (score[..., None] + log_p).view(b, -1).topk(beams, dim=-1)
        parent, word = flat // vocabulary, flat % vocabulary  # (B, K)
        length = length.gather(1, parent) + ~finished.gather(1, parent)
        finished = finished.gather(1, parent) | (word == eos)
        index = (torch.arange(b, device=z.device)[:, None] * beams + parent).flatten()
        state = tuple(part[index] for part in state)
        tokens = word.flatten()
        output = torch.cat([output[index], tokens[:, None]], dim=1)
        if bool(finished.all()):
            break
    best = (score / length.clamp_min(1)).argmax(-1)
    rows = output.view(b, beams, -1)[torch.arange(b, device=z.device), best].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]
