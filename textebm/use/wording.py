"""Sentences with words of one's own: a beginning, words that must occur, blanks to fill.

All three are draws of p(u) p(words | u): latents of the tilted prior, each chosen among several by the likelihood of
the words (sampling-importance resampling, Rubin 1987), then written with the words held in their places. A word that
must occur, and has no place yet, gets the one where it is likeliest; what follows is written on from it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from textebm.errors import TextEBMError
from textebm.model.decoding import DecodingOptions, decode_tokens, forbidden_ids, warped
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.decoder import Decoder
from textebm.networks.drawn_word import draw
from textebm.networks.hardware import rows_at_once
from textebm.text.tokenizer import TokenStore, unknown_words
from textebm.text.tokenizer import decode as decode_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

CANDIDATES = 32  # latents, one of which is chosen by the likelihood of a prompt
WRITTEN = 8  # the same where each is written out first: words that must occur, and blanks
FEW = 1.5  # effective ones below which the words are said to fit nothing that was drawn
BLANK = "___"
FINISHED = 4  # candidates that are written to their end where words must occur, of which the likeliest stays
LONGEST = 4  # tokens in a blank
PATTERNS = 16  # ways to fill several blanks with 1 … LONGEST tokens that are tried
FREE = -1  # a place where any word may stand


@dataclass(frozen=True)
class Wanted:
    """What each sentence shall be, beside its symbols. length: the fewest and the most words."""

    prompt: str | None = None
    containing: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    length: tuple[int, int] | None = None

    def check(self) -> None:
        """Raises TextEBMError for a length out of range, and for a word that is both."""
        if self.length is not None:
            whole = isinstance(self.length, Sequence) and all(type(each) is int for each in self.length)
            if not (whole and len(self.length) == 2 and 1 <= self.length[0] <= self.length[1]):
                raise TextEBMError(f"length is the fewest and the most words, such as (5, 9); got {self.length!r}")
        if both := set(self.containing) & set(self.without):
            raise TextEBMError(f"{', '.join(sorted(both))}: asked for and to be left out")

    def unmet(self, text: str) -> list[str]:
        """What *text* is not, in words; [] where all is met."""
        words, problems = text.split(), []
        if self.prompt is not None and not f"{text} ".startswith(f"{' '.join(self.prompt.split())} "):
            problems.append(f"does not begin with {self.prompt!r}")
        problems += [f"lacks {word!r}" for word in self.containing if not _within(word, words)]
        problems += [f"has {word!r}" for word in self.without if _within(word, words)]
        if self.length is not None and not self.length[0] <= len(words) <= self.length[1]:
            problems.append(f"has {len(words)} words, not {self.length[0]} to {self.length[1]}")
        return problems


def _within(phrase: str, words: Sequence[str]) -> bool:
    return f" {' '.join(phrase.split())} " in f" {' '.join(words)} "


def word_tokens(model: LatentTextModel, text: str, what: str, *, inner: bool = False) -> tuple[int, ...]:
    """The token ids of words at the start of a sentence, or *inner* ones, with the space before them if there is one.
    Raises TextEBMError where there are none, or the model does not know them."""
    if unknown := unknown_words(model.tokenizer, text, model.max_tokens):
        raise TextEBMError(f"{what} has words that the model does not know: {', '.join(unknown)}")
    store = TokenStore.build(["a", f"a{text}", text], model.tokenizer, model.max_tokens)
    before, both, ids = (store[row].tolist() for row in range(3))
    if inner and both[: len(before)] == before:
        ids = both[len(before) :]
    if not ids:
        raise TextEBMError(f"{what} has no words; leave it out")
    return tuple(ids)


@torch.no_grad()
def write_around(
    decoder: Decoder,
    z: Tensor,
    forced: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    options: DecodingOptions,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], Tensor, Tensor]:
    """The sentence of each latent with tokens held in their places: its ids without <bos> and <eos>, the log p of the
    held tokens, each given what stands before it and z, and log p(the sentence | z), nats, (B,) each.

    z (B, d); forced (B, L): a token id, or −1 where any may stand. A sentence ends after the last token that is held.
    """
    n, eos = len(z), tokenizer.eos_token_id
    forbidden = [*forbidden_ids(tokenizer), *options.banned]
    held = pad(forced, (0, max(0, options.max_tokens - forced.shape[1])), value=FREE)
    places = torch.arange(held.shape[1], device=z.device)
    last = torch.where(held >= 0, places, -1).amax(-1)
    tokens, state = torch.full((n,), tokenizer.bos_token_id, device=z.device), decoder.start(z)
    written, ended = list[Tensor](), torch.zeros(n, dtype=torch.bool, device=z.device)
    of_held, of_all = torch.zeros(n, device=z.device), torch.zeros(n, device=z.device)
    for place in range(held.shape[1]):
        logits, state = decoder.step(tokens, z, state)
        log_probs = logits.float().log_softmax(-1)
        here = held[:, place]
        allowed = log_probs.clone()
        allowed[:, forbidden] = -torch.inf
        allowed[place < last, eos] = -torch.inf
        if options.decoding == "greedy":
            free = allowed.argmax(-1)
        else:
            free = draw(warped(allowed, options).softmax(-1), generator)
        tokens = torch.where(here >= 0, here, torch.where(ended, eos, free))
        own = log_probs.gather(-1, tokens[:, None])[:, 0]
        of_held += torch.where(here >= 0, own, 0.0)
        of_all += torch.where(ended, 0.0, own)
        written.append(tokens)
        ended |= tokens == eos
        if bool(ended.all()):
            break
    rows = torch.stack(written, dim=1).tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows], of_held, of_all


def choose(log_p: Tensor, what: str, seed: int, count: int = 1) -> Tensor:
    """*count* different candidates of each row, drawn by weight exp(log_p), (n, K) -> (n, count); a warning where
    hardly any fits."""
    weights = log_p.softmax(-1)
    if len(weights) and (effective := float((1 / weights.square().sum(-1)).mean())) < FEW:
        logger.warning(
            "%s fits few latents: of %d draws %.1f count on average; control and variety may suffer",
            what,
            log_p.shape[1],
            effective,
        )
    generator = torch.Generator().manual_seed(seed)
    gumbel = -(-torch.rand(log_p.shape, generator=generator).clamp_min(1e-12).log()).log()
    return (log_p + gumbel).topk(count, dim=-1).indices  # Gumbel-top-k (Kool et al. 2019, arXiv 1903.06059)


@torch.no_grad()
def containing(
    model: LatentTextModel,
    u: Tensor,
    context: Tensor | None,
    words: Sequence[tuple[int, ...]],
    options: DecodingOptions,
    *,
    seed: int,
) -> list[str]:
    """Sentences with all of *words* (each the token ids of one) from n · K candidate latents u (n · K, d), K a row."""
    n, generator = len(u) // WRITTEN, torch.Generator(model.device).manual_seed(seed)
    start = len(options.prefix)
    with model.evaluating():
        z = model.decoder_input(u.to(model.device), context)
        size = rows_at_once(model.device, 512)
        texts = decode_tokens(model.decoder, z, model.tokenizer, options, generator, batch_size=size)
        fits = -prefix_losses(model, z, options.prefix)
        for word in words:
            fits += _best_places(model, z, texts, word, [start] * len(z))[1]
        picked = choose(fits.view(n, WRITTEN).cpu(), "what must occur", seed, FINISHED)  # (n, FINISHED)
        rows = (torch.arange(n)[:, None] * WRITTEN + picked).flatten().to(z.device)
        z, texts = z[rows], [texts[i] for i in rows.tolist()]
        log_p = torch.zeros(len(z), device=z.device)
        earliest = [start] * len(z)
        for _ in words:
            places = {word: _best_places(model, z, texts, word, earliest)[0].tolist() for word in words}
            beginnings = []
            for i, text in enumerate(texts):
                missing = [word for word in words if not _occurs(word, text)]
                first = min(missing, key=lambda word: int(places[word][i]), default=None)
                if first is not None:
                    text = [*text[: places[first][i]], *first]
                    earliest[i] = len(text)
                beginnings.append(text)
            held = _padded(beginnings, FREE).to(z.device)
            texts, _, log_p = write_around(model.decoder, z, held, model.tokenizer, options, generator)
    words_all = [all(_occurs(word, text) for word in words) for text in texts]
    mean = torch.tensor([len(text) + 1 for text in texts], device=z.device).reciprocal() * log_p
    mean = mean.masked_fill(~torch.tensor(words_all, dtype=torch.bool, device=z.device), -torch.inf)
    best = mean.view(n, FINISHED).argmax(-1).tolist()
    return [decode_ids(model.tokenizer, texts[i * FINISHED + k]) for i, k in enumerate(best)]


def prefix_losses(model: LatentTextModel, z: Tensor, prefix: Sequence[int]) -> Tensor:
    """−log p(the sentence begins with *prefix* | z), (B,) nats."""
    tokens = torch.tensor([model.tokenizer.bos_token_id, *prefix], device=z.device)
    if not prefix:
        return torch.zeros(len(z), device=z.device)
    hidden = model.decoder.hidden(tokens[:-1].expand(len(z), -1), z)  # (B, L, E)
    return model.decoder.nll(hidden.flatten(0, 1), tokens[1:].repeat(len(z))).view(len(z), -1).sum(-1).float()


def _occurs(word: Sequence[int], text: Sequence[int]) -> bool:
    return any(tuple(text[i : i + len(word)]) == tuple(word) for i in range(len(text) - len(word) + 1))


def _best_places(
    model: LatentTextModel, z: Tensor, texts: Sequence[list[int]], word: tuple[int, ...], earliest: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Where in each text, from *earliest* on and before its last token, the first token of *word* is likeliest, and
    log p of it there: (B,), (B,)."""
    bos = model.tokenizer.bos_token_id
    inputs = _padded([[bos, *text] for text in texts], model.tokenizer.pad_token_id).to(z.device)
    hidden = model.decoder.hidden(inputs, z)  # (B, T, E): what stands at place t follows inputs[: t + 1]
    target = torch.full((inputs.numel(),), word[0], device=z.device)
    log_p = -model.decoder.nll(hidden.flatten(0, 1), target).view(inputs.shape).float()
    place = torch.arange(inputs.shape[1], device=z.device)
    first = torch.tensor(earliest, device=z.device)[:, None]
    end = torch.tensor([len(text) for text in texts], device=z.device)[:, None]
    may = (place >= first) & ((place < end) | (place == first))
    value, best = log_p.masked_fill(~may, -torch.inf).max(-1)
    return best, value


@torch.no_grad()
def fill(
    model: LatentTextModel,
    u: Tensor,
    context: Tensor | None,
    pieces: Sequence[tuple[int, ...]],
    options: DecodingOptions,
    *,
    seed: int,
) -> list[str]:
    """Sentences of *pieces* (token ids) with 1 to 4 tokens between each two, from candidate latents u (n · K, d)."""
    n, generator = len(u) // WRITTEN, torch.Generator(model.device).manual_seed(seed)
    lengths = sorted(product(range(1, LONGEST + 1), repeat=len(pieces) - 1), key=sum)[:PATTERNS]
    patterns = [_pattern(pieces, each) for each in lengths]
    patterns = [each for each in patterns if len(each) < options.max_tokens]
    if not patterns:
        raise TextEBMError(f"the text with its blanks filled is longer than the model's {options.max_tokens} tokens")
    written, scores = [], []
    with model.evaluating():
        z = model.decoder_input(u.to(model.device), context)
        for pattern in patterns:
            end = [*pattern, model.tokenizer.eos_token_id]
            forced = torch.tensor(end, device=z.device).expand(len(z), -1)
            texts, _, log_p = write_around(model.decoder, z, forced, model.tokenizer, options, generator)
            written.append(texts)
            scores.append(log_p)
    fits = torch.stack(scores, dim=1).view(n, -1).cpu()  # (n, K · patterns)
    picked = choose(fits, "the text", seed)[:, 0]
    candidate, pattern_number = picked // len(patterns), picked % len(patterns)
    return [
        decode_ids(model.tokenizer, written[p][i * WRITTEN + k])
        for i, (k, p) in enumerate(zip(candidate.tolist(), pattern_number.tolist(), strict=True))
    ]


def _pattern(pieces: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[int]:
    """The pieces with so many free places between them."""
    pattern = list(pieces[0])
    for length, piece in zip(lengths, pieces[1:], strict=True):
        pattern += [FREE] * length + list(piece)
    return pattern


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=value)
