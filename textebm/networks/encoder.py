"""Encoders: (tokens, lengths) -> the approximate posterior q(z|x), or q(z|x, c) with a context c.

Every encoder is a body that turns tokens into one feature vector, and a `PosteriorHead`, which sees the context beside
the features. Padding is inert: no feature depends on what stands behind a sentence's end. A `ContextEncoder` is such a
body too, for the turns before the sentence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from textebm.networks.dropout import Dropout
from textebm.networks.posterior import Head, Posterior
from textebm.networks.reader import ContextualEmbedding, Reader
from textebm.networks.recurrent import Cell, RecurrentLayer, reverse_within
from textebm.networks.segments import SegmentPooling
from textebm.networks.transformer import TransformerBlock, sinusoidal_positions
from textebm.networks.view import ViewHead


class EncoderHeads(nn.Module):
    """A body, which reads words, and what is read off its features."""

    embedding: nn.Module | None
    head: Head | None
    view: ViewHead | None

    def embed(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T), lengths (B,) -> words (B, T', E), and how many each row has, (B,): another number where a
        pretrained network reads the text in its own tokens."""
        assert self.embedding is not None
        if isinstance(self.embedding, ContextualEmbedding):
            return self.embedding(tokens, lengths)
        return self.embedding(tokens), lengths

    @abstractmethod
    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""

    def forward(self, tokens: Tensor, lengths: Tensor, context: Tensor | None = None) -> Posterior:
        return self.posterior(self.features(tokens, lengths), context)

    def posterior(self, features: Tensor, context: Tensor | None = None) -> Posterior:
        """q(u|x, c) from features (B, F) and the context (B, C)."""
        assert self.head is not None
        return self.head(features if context is None else torch.cat([features, context], dim=-1))

    def views(self, features: Tensor) -> Tensor:
        """Contrastive views, (B, C) of unit length."""
        assert self.view is not None
        return self.view(features)


def _embedding(vocabulary_size: int, size: int) -> nn.Module | None:
    """tokens (B, T) -> words (B, T, E). Whoever builds an encoder may put another such module in its place, or a
    `ContextualEmbedding`."""
    return nn.Embedding(vocabulary_size, size) if vocabulary_size else None


class RecurrentEncoder(EncoderHeads):
    """GRU or LSTM layers in one or two directions; the feature is the mean and the last output of each direction.

    vocabulary_size 0: no embedding of its own, it can only `read` words that are embedded. segments: with several the
    feature is one for each of them instead (`SegmentPooling`).
    """

    def __init__(
        self,
        cell: Cell,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        head: Head | None = None,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        segments: int = 1,
    ):
        super().__init__()
        self.embedding = _embedding(vocabulary_size, embedding_size)
        directions = 2 if bidirectional else 1
        layers = [
            nn.ModuleList(
                RecurrentLayer(cell, embedding_size if layer == 0 else directions * hidden_size, hidden_size)
                for _ in range(directions)
            )
            for layer in range(num_layers)
        ]
        self.layers = cast("Sequence[Sequence[RecurrentLayer]]", nn.ModuleList(layers))
        self.dropout = Dropout(dropout)
        self.pooling = SegmentPooling(directions * hidden_size, segments) if segments > 1 else None
        self.num_features = max(2, segments) * directions * hidden_size
        self.head = head
        self.view: ViewHead | None = None

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        assert self.embedding is not None
        return self.read(*self.embed(tokens, lengths))

    def read(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words (B, T, E), lengths (B,) -> (B, F)."""
        mask = torch.arange(words.shape[1], device=words.device) < lengths[:, None]  # (B, T)
        x = self.dropout(words)
        for directions in self.layers:
            outputs = [directions[0](x)]
            if len(directions) == 2:
                outputs.append(reverse_within(directions[1](reverse_within(x, lengths)), lengths))
            x = self.dropout(torch.cat(outputs, dim=-1))
        if self.pooling is not None:
            return self.pooling(x, lengths)
        x = x.float()
        average = (x * mask[..., None]).sum(1) / lengths[:, None]
        rows = torch.arange(len(x), device=x.device)
        last = [x[rows, lengths - 1, : directions[0].hidden_size]]
        if len(directions) == 2:
            last.append(x[:, 0, directions[0].hidden_size :])
        return torch.cat([average, *last], dim=-1)


class TransformerEncoder(EncoderHeads):
    """Bidirectional Transformer; the feature is the masked mean and the output at <bos>. vocabulary_size and segments
    as above."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        head: Head | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        segments: int = 1,
    ):
        super().__init__()
        self.embedding = _embedding(vocabulary_size, embedding_size)
        self.inputs = nn.Linear(embedding_size, hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout)
        self.pooling = SegmentPooling(hidden_size, segments) if segments > 1 else None
        self.num_features = max(2, segments) * hidden_size
        self.head = head
        self.view: ViewHead | None = None

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        assert self.embedding is not None
        return self.read(*self.embed(tokens, lengths))

    def read(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words (B, T, E), lengths (B,) -> (B, F)."""
        mask = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        x = self.inputs(words)
        x = self.dropout(x + sinusoidal_positions(x.shape[1], x.shape[2], device=x.device))
        for block in self.blocks:
            x, _ = block(x, mask=mask[:, None, None, :])
        x = self.norm(x).float()
        if self.pooling is not None:
            return self.pooling(x, lengths)
        average = (x * mask[..., None]).sum(1) / lengths[:, None]
        return torch.cat([average, x[:, 0]], dim=-1)


class SentenceEncoder(EncoderHeads):
    """A pretrained sentence encoder: the posterior is read straight off its pooled states, normalised.

    reader: with a pooling.
    """

    def __init__(self, reader: Reader, *, head: Head | None = None):
        super().__init__()
        self.reader = reader
        self.norm = nn.LayerNorm(reader.size)
        self.num_features = reader.size
        self.embedding: nn.Module | None = None  # for a history, where there is one
        self.head = head
        self.view: ViewHead | None = None

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        features: Tensor = self.norm(torch.stack(self.reader(tokens, lengths)))
        return features


class OwnEncoder(EncoderHeads):
    """An encoder whose *body* is a user's own module, with `num_features` and ``features(tokens, lengths)``."""

    def __init__(self, body: OwnBody):
        super().__init__()
        self.body = body
        self.num_features = body.num_features
        self.embedding: nn.Module | None = None
        self.head: Head | None = None
        self.view: ViewHead | None = None

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        return self.body.features(tokens, lengths).float()


class OwnBody(Protocol):
    """What an encoder of a user's own must have: it reads tokens from <bos> to <eos>, and padding changes nothing."""

    num_features: int

    def features(self, tokens: Tensor, lengths: Tensor, /) -> Tensor: ...


class EncoderBody(Protocol):
    """What a `ContextEncoder` reads with."""

    num_features: int

    def read(self, words: Tensor, lengths: Tensor, /) -> Tensor: ...


class ContextEncoder(nn.Module):
    """The turns before a sentence -> c (B, C), within ±1: a *body* that reads them in the encoder's embedding.

    turns, max_tokens: how much of a history it is given (`textebm.text.history`).
    """

    def __init__(self, body: EncoderBody, size: int, *, turns: int, max_tokens: int):
        super().__init__()
        self.body = body
        self.size, self.turns, self.max_tokens = size, turns, max_tokens
        self.project = nn.Linear(body.num_features, size)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words (B, T, E), the embedded history, lengths (B,) -> (B, C)."""
        features = self.body.read(words, lengths)
        with torch.autocast(features.device.type, enabled=False):
            return torch.tanh(self.project(features.float()))
