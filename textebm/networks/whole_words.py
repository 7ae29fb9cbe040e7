"""A text as the bag of its whole words, whatever pieces a tokenizer cuts them into, and whatever their capitals.

A network that reads few texts learns by heart which pieces went with which label. Here each word has a vector in the
latent itself, and the posterior's mean is their sum, weighted as in TF-IDF: what logistic regression on TF-IDF has for
each class, a word has for each coordinate. A layer between them would move all words at once and lose that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from textebm.networks.dropout import Dropout
from textebm.networks.encoder import EncoderHeads
from textebm.networks.posterior import Head
from textebm.networks.view import ViewHead

LENGTH = 2.0  # of a text's weights: at 1 the decoder is slow to hear the latent, at 5 labels are learned by heart
WORDS = 20_000  # that have a vector, the commonest
BASE = 1_000_003  # of the polynomial hash, modulo 2⁶⁴
OTHER, LETTERS, DIGITS = 0, 1, 2
NONE = torch.iinfo(torch.long).max  # the hash of no word
ROWS = 4096  # texts that are hashed at once


class WholeWordsEncoder(EncoderHeads):
    """Its features are the sum over a text's known words of weight times vector, (B, d); weights have length `LENGTH`.

    pieces: of each token id its text, "" for special ones, and whether a word begins with it. A word is a run of
    letters or of digits; its hash does not depend on the pieces. Which words are known, and their document frequencies,
    `fit` says. dropout: share of the words hidden in training.
    """

    keys: Tensor  # of each token (V,): its hash,
    powers: Tensor  # by what it multiplies the hash of what stands before it in a word,
    kinds: Tensor  # OTHER, LETTERS or DIGITS,
    begins: Tensor  # and whether a word begins with it
    known: Tensor  # (WORDS,) hashes, ascending
    inverse_frequency: Tensor  # (WORDS,) idf

    def __init__(
        self, pieces: Sequence[tuple[str, bool]], dim: int, *, head: Head | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        read = [(*_hash(text.lower()), _kind(text), begins or not text) for text, begins in pieces]
        for name, values in zip(("keys", "powers", "kinds", "begins"), zip(*read, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.register_buffer("known", torch.full((WORDS,), NONE))
        self.register_buffer("inverse_frequency", torch.ones(WORDS))
        self.embedding: nn.Module | None = nn.Embedding(WORDS, dim)
        nn.init.normal_(self.embedding.weight, std=0.01)  # a word that training hardly met says hardly anything
        self.hide = Dropout(dropout)
        self.num_features = dim
        self.head = head
        self.view: ViewHead | None = None

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, d)."""
        assert self.embedding is not None
        hashes, ends = self.hashes(tokens, lengths)
        row = torch.searchsorted(self.known, hashes).clamp_max(WORDS - 1)
        ends = ends & (self.known[row] == hashes)
        weights = self.hide(tf_idf(row, ends, self.inverse_frequency))
        features: Tensor = (self.embedding(row) * (LENGTH * weights)[..., None]).sum(1)
        return features.float()

    def hashes(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The hash of the word that ends at each place, and whether one does. tokens (B, T), lengths (B,) -> (B, T)"""
        outside = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
        kind, starts = self.kinds[tokens].masked_fill(outside, OTHER), self.begins[tokens]
        starts[:, 1:] |= kind[:, 1:] != kind[:, :-1]
        key, power = self.keys[tokens], self.powers[tokens]
        hashes, running = torch.empty_like(key), torch.zeros_like(key[:, 0])
        for place in range(tokens.shape[1]):
            running = torch.where(starts[:, place], key[:, place], running * power[:, place] + key[:, place])
            hashes[:, place] = running
        ends = torch.ones_like(starts)
        ends[:, :-1] = starts[:, 1:]
        return hashes, ends & (kind != OTHER)

    @torch.no_grad()
    def fit(self, texts: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take the words and their frequencies from the training texts (tokens (B, T), lengths (B,)): the commonest
        `WORDS`, idf log((1 + n) / (1 + df)) + 1."""
        n, holding = 0, dict[int, int]()
        for tokens, lengths in texts:
            hashes, ends = self.hashes(tokens, lengths)
            text = torch.arange(len(tokens))[:, None].expand_as(hashes)
            pairs = torch.stack([hashes[ends], text[ends]]).unique(dim=1)
            words, counts = pairs[0].unique(return_counts=True)
            for word, count in zip(words.tolist(), counts.tolist(), strict=True):
                holding[word] = holding.get(word, 0) + count
            n += len(tokens)
        kept = sorted(sorted(holding, key=lambda word: (-holding[word], word))[:WORDS])
        self.known.fill_(NONE)[: len(kept)] = torch.tensor(kept, dtype=torch.long)
        counts = torch.tensor([holding[word] for word in kept])
        self.inverse_frequency[: len(kept)] = ((1 + n) / (1 + counts)).log() + 1


def tf_idf(words: Tensor, counted: Tensor, inverse_frequency: Tensor) -> Tensor:
    """The weight of each place: its word's (1 + log tf) · idf, shared by the places where the word stands.

    words (B, T): which word; counted (B, T); inverse_frequency (V,) -> (B, T), 0 where not counted; Σ over words of the
    squares is 1.
    """
    present = counted.float()
    times = torch.zeros(len(words), len(inverse_frequency), device=words.device)
    times = times.scatter_add_(1, words, present).gather(1, words).clamp_min(1)  # (B, T): tf of the word here
    weight = (1 + times.log()) * inverse_frequency[words] * present
    norm = (weight.square() / times).sum(-1, keepdim=True).sqrt().clamp_min(1e-6)
    return weight / times / norm


def _hash(text: str) -> tuple[int, int]:
    key, power = 0, 1
    for letter in text:
        key, power = (key * BASE + ord(letter)) % 2**64, power * BASE % 2**64
    return key - 2**64 * (key >= 2**63), power - 2**64 * (power >= 2**63)


def _kind(text: str) -> int:
    """Characters beyond ASCII count as letters: a byte-level piece has them for any byte of one."""
    if text.isascii() and text.isdigit():
        return DIGITS
    return LETTERS if any(letter.isalnum() or not letter.isascii() for letter in text) else OTHER
