"""From latents to token ids: greedy, sampling and beam search over any decoder of `textebm.networks.decoder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.networks.best_word import BestWord
from textebm.networks.decoder import Advances, Decoder, DecoderState
from textebm.networks.drawn_word import DrawnWord, draw
from textebm.notebook import track
from textebm.text.tokenizer import writes_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Advance = Callable[[Tensor, Tensor, DecoderState], tuple[Tensor, DecoderState]]  # tokens, z, state
Choose = Callable[[Tensor, Tensor], Tensor]  # what `Advance` found, the words before (B, t) -> (B,)

FULL = 0.95  # share of a batch below which finished sentences leave it: a copy of the state costs little beside a step


Decoding = Literal["greedy", "sample", "beam"]


@dataclass(frozen=True)
class DecodingOptions:
    """How words are chosen. greedy: the most probable word each time; sample: by temperature, top-k and top-p; beam:
    the best of num_beams by mean log-probability a word. max_tokens: the length at which a sentence is cut.
    prefix: token ids that each sentence begins with; banned: ids that are never chosen."""

    decoding: Decoding = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 4
    max_tokens: int = 40
    prefix: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()

    def check(self) -> None:
        """Raises TextEBMError for a value out of range."""
        ranges = {
            "decoding must be greedy, sample or beam": self.decoding in ("greedy", "sample", "beam"),
            "temperature must be above 0": self.temperature > 0,
            "top_k must be at least 0 (0 = all words)": self.top_k >= 0,
            "top_p must lie in (0, 1]": 0 < self.top_p <= 1,
            "num_beams must lie between 1 and 2000": 1 <= self.num_beams <= 2000,
            "max_tokens must be at least 1": self.max_tokens >= 1,
            "a prompt goes with decoding greedy or sample": not self.prefix or self.decoding != "beam",
            "the prompt must be shorter than max_tokens": not self.prefix or len(self.prefix) < self.max_tokens,
        }
        wrong = [rule for rule, holds in ranges.items() if not holds]
        if wrong:
            raise TextEBMError("; ".join(wrong))


def decode_tokens(
    decoder: Decoder,
    z: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    options: DecodingOptions,
    generator: torch.Generator | None = None,
    *,
    batch_size: int | None = None,
) -> list[list[int]]:
    """Token ids of each latent's sentence, without <bos> and <eos>, *batch_size* (default: all) at a time. z (B, d)"""
    if len(z) == 0:
        return []
    parts = track(z.split(batch_size or len(z)), "writing")
    if options.decoding == "beam":
        return [row for part in parts for row in _beam(decoder, part, tokenizer, options)]
    advance, choose = _writer(decoder, tokenizer, options, generator, len(z))
    return [row for part in parts for row in _one_by_one(decoder, part, tokenizer, options, advance, choose)]


def forbidden_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """<pad>, <bos>, what else a pretrained tokenizer has for other tasks, and <unk> where the training text does not
    hold it as a word; <eos> is how a sentence ends."""
    words = {tokenizer.eos_token_id, *([tokenizer.unk_token_id] if writes_unknown(tokenizer) else [])}
    return sorted(set(tokenizer.all_special_ids) - words)


def warped(logits: Tensor, options: DecodingOptions) -> Tensor:
    """Logits at a temperature, with those outside the top k, and then outside the smallest set of words that has
    probability top_p (Holtzman et al. 2020), at −∞. logits (B, V)"""
    logits = logits / options.temperature
    if options.top_k > 0:
        least = logits.topk(min(options.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if options.top_p < 1.0:
        ascending, order = logits.sort(descending=False)
        outside = ascending.softmax(-1).cumsum(-1) <= 1 - options.top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return logits


def _writer(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    options: DecodingOptions,
    generator: torch.Generator | None,
    n: int,
) -> tuple[Advance, Choose]:
    """The next state with what the word is chosen from, and the choice, greedy or drawn; what stays the same over *n*
    sentences is done here."""
    forbidden = [*forbidden_ids(tokenizer), *options.banned]
    greedy = options.decoding == "greedy"
    if isinstance(decoder, Advances) and (greedy or not (options.top_k or options.top_p < 1)):
        # as many steps as words pay for the product with all words; most sentences end half-way
        pays = n * options.max_tokens // 2 > 2 * len(tokenizer)
        advance = partial(decoder.advance, words=decoder.word_inputs()) if pays else decoder.advance
        if greedy:
            best = BestWord(*decoder.output_layer(), forbidden)
            return advance, lambda hidden, before: best(hidden)
        drawn = DrawnWord(*decoder.output_layer(), forbidden, options.temperature)
        return advance, lambda hidden, before: drawn(hidden, generator)

    def choose(logits: Tensor, before: Tensor) -> Tensor:
        logits = logits.float()
        logits[:, forbidden] = -torch.inf
        if greedy:
            return logits.argmax(-1)
        return draw(warped(logits, options).softmax(-1), generator)

    return decoder.step, choose


def _one_by_one(
    decoder: Decoder,
    z: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    options: DecodingOptions,
    advance: Advance,
    choose: Choose,
) -> list[list[int]]:
    """Finished sentences leave the batch, so that a long one does not make all wait."""
    eos = tokenizer.eos_token_id
    output = torch.full((len(z), options.max_tokens), eos, dtype=torch.long, device=z.device)
    rows = torch.arange(len(z), device=z.device)
    tokens = torch.full_like(rows, tokenizer.bos_token_id)
    state = decoder.start(z)
    alive = torch.ones_like(rows, dtype=torch.bool)
    for position in range(options.max_tokens):
        found, state = advance(tokens, z, state)
        if position < len(options.prefix):
            tokens = torch.full_like(tokens, options.prefix[position])
        else:
            tokens = torch.where(alive, choose(found, output[rows, :position]), eos)
        output[rows, position] = tokens
        alive = alive & (tokens != eos)
        count = int(alive.sum())
        if count == 0:
            break
        if count <= FULL * len(rows):
            rows, tokens, z = rows[alive], tokens[alive], z[alive]
            state = tuple(part[alive] for part in state)
            alive = alive[alive]
    return [row[: row.index(eos)] if eos in row else row for row in output.tolist()]


def _beam(decoder: Decoder, z: Tensor, tokenizer: PreTrainedTokenizerFast, options: DecodingOptions) -> list[list[int]]:
    """Beam search; the winner has the highest log-probability a token, the end included."""
    b, beams, eos = len(z), options.num_beams, tokenizer.eos_token_id
    forbidden = [*forbidden_ids(tokenizer), *options.banned]
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
        logits[:, forbidden] = -torch.inf
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
