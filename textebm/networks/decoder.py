"""Decoders: p(x|z), teacher-forced for training and step by step for generation.

One protocol: ``hidden(inputs, z)`` -> (B, T, E) states ready for the output layer; ``nll(hidden, targets)``;
``start(z)`` -> state and ``step(tokens, z, state)`` -> (logits, state), or ``advance`` -> (hidden, state) where the
logits are not wanted in full. A state is a flat tuple of tensors whose first
dimension is the batch, so that a caller can drop or reorder sentences with ``index_select``.
The latent enters as the initial state and as an input at every step. The output layer shares the embedding's weights
(Press & Wolf 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.dropout import Dropout
from textebm.networks.recurrent import Cell, RecurrentLayer
from textebm.networks.segments import SegmentAttention, in_segments
from textebm.networks.softmax import linear_cross_entropy
from textebm.networks.transformer import TransformerBlock, sinusoidal_positions

DecoderState = tuple[Tensor, ...]


class Decoder(Protocol):
    """What training (`hidden`, `nll`) and generation (`start`, `step`) ask of a decoder."""

    def hidden(self, inputs: Tensor, z: Tensor, /) -> Tensor: ...

    def nll(self, hidden: Tensor, targets: Tensor, /) -> Tensor: ...

    def start(self, z: Tensor, /) -> DecoderState: ...

    def step(self, tokens: Tensor, z: Tensor, state: DecoderState, /) -> tuple[Tensor, DecoderState]: ...


@runtime_checkable
class Advances(Protocol):
    """What a quicker way to write asks beside: the state without its logits, and the output layer by itself."""

    def word_inputs(self) -> Tensor: ...

    def advance(
        self, tokens: Tensor, z: Tensor, state: DecoderState, /, words: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]: ...

    def output_layer(self) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class CountsWords(Protocol):
    """A decoder to which the order of words does not matter."""

    def bag_nll(self, counts: Tensor, z: Tensor, /) -> Tensor: ...


def _embedding(vocabulary_size: int, size: int) -> nn.Embedding:
    embedding = nn.Embedding(vocabulary_size, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)  # the output layer's weight too: logits start near unit scale
    return embedding


def _rungs(latent_layers: Sequence[int], num_layers: int) -> list[slice]:
    """The part of z that each recurrent layer reads: one layer of the latent each, top first. The last recurrent layer
    takes all that are left; recurrent layers beyond the last latent layer read that one again."""
    ends = torch.tensor(latent_layers).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    rungs = [slice(starts[i], ends[i]) for i in (min(i, len(ends) - 1) for i in range(num_layers))]
    return [*rungs[:-1], slice(rungs[-1].start, ends[-1])]


class WritesWords(nn.Module):
    """The output layer's part of a decoder, which shares the embedding's weights."""

    embedding: nn.Embedding
    output_bias: nn.Parameter

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (V, E) and bias (V,) of the logits of what `advance` gives."""
        return self.embedding.weight, self.output_bias

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden (N, E), targets (N,) -> −log p(target), (N,) nats."""
        return linear_cross_entropy(hidden, *self.output_layer(), targets)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (…, E) -> (…, V)."""
        return F.linear(hidden, *self.output_layer())

    def step(self: Advances, tokens: Tensor, z: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> logits (B, V) and the next state."""
        hidden, state = self.advance(tokens, z, state)
        return F.linear(hidden, *self.output_layer()), state


class LatentPrefix(nn.Linear):
    """The latent as positions before the first word. segments: with several, each of these parts of the latent
    (segmented: the sizes of its layers, by default one) is a position, by one shared map, which also reads what stands
    behind the latent, a context."""

    def __init__(self, latent_dim: int, hidden_size: int, *, segments: int = 1, segmented: Sequence[int] = ()):
        segmented = tuple(segmented) or (latent_dim,)
        dim = sum(segmented)
        super().__init__(dim // segments + latent_dim - dim, hidden_size)
        self.segments, self.segmented, self.dim = segments, segmented, dim

    def forward(self, z: Tensor) -> Tensor:
        """z (B, d) -> (B, M, H)."""
        parts = in_segments(z[:, : self.dim], self.segmented, self.segments)
        context = z[:, None, self.dim :].expand(-1, self.segments, -1)
        return super().forward(torch.cat([parts, context], dim=-1))


class RecurrentDecoder(WritesWords):
    """Recurrent layers that read the latent as initial state and at every step.

    latent_layers: sizes of the latent's layers, top first; then they enter as a ladder, the top one at the first
    recurrent layer (`_rungs`; arXiv 2310.09604). By default every recurrent layer reads the whole latent.
    skip: the latent also goes straight to the output layer, beside the last recurrent state (Dieng et al. 2019,
    "Avoiding latent variable collapse with generative skip models"): what it says of the words at large need not pass
    through the recurrence.
    segments: with several, the last recurrent state also looks up these parts of the latent (`SegmentAttention`);
    segmented: the sizes of the latent's layers, by default one. The keys and values stand behind the recurrent states
    in a `DecoderState`.
    """

    initial_seen: Tensor

    def __init__(
        self,
        cell: Cell,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        latent_dim: int,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        latent_layers: Sequence[int] = (),
        skip: bool = False,
        segments: int = 1,
        segmented: Sequence[int] = (),
        num_heads: int = 4,
    ):
        super().__init__()
        self.embedding = _embedding(vocabulary_size, embedding_size)
        self.rungs = _rungs(latent_layers, num_layers) if latent_layers else [slice(0, latent_dim)] * num_layers
        layers = [
            RecurrentLayer(cell, (embedding_size if i == 0 else hidden_size) + rung.stop - rung.start, hidden_size)
            for i, rung in enumerate(self.rungs)
        ]
        self.layers = cast("Sequence[RecurrentLayer]", nn.ModuleList(layers))
        self.initial = nn.Linear(latent_dim, sum(layer.num_states for layer in self.layers) * hidden_size)
        seen = torch.zeros_like(self.initial.weight)  # a layer's initial state sees its part of the latent, too
        for rows, rung in zip(seen.chunk(num_layers), self.rungs, strict=True):
            rows[:, rung] = 1
        self.register_buffer("initial_seen", seen, persistent=False)
        self.skip = skip
        self.project = nn.Linear(hidden_size + (latent_dim if skip else 0), embedding_size)
        self.attention: SegmentAttention | None = None
        if segments > 1:
            self.attention = SegmentAttention(
                segmented or (latent_dim,), segments, hidden_size, embedding_size, num_heads=num_heads
            )
        self.dropout = Dropout(dropout)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))

    def start(self, z: Tensor) -> DecoderState:
        """z (B, d) -> the initial state, one (B, H) tensor for each state of each layer; then the segments' entries."""
        states = torch.tanh(F.linear(z, self.initial.weight * self.initial_seen, self.initial.bias))
        entries = () if self.attention is None else self.attention.entries(z)
        return (*states.chunk(states.shape[-1] // self.layers[0].hidden_size, dim=-1), *entries)

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T) token ids, z (B, d) -> (B, T, E)."""
        x = self.dropout(self.embedding(inputs))
        latent = z[:, None].expand(-1, x.shape[1], -1)
        states, entries = self._by_layer(self.start(z))
        for layer, rung, state in zip(self.layers, self.rungs, states, strict=True):
            x = self.dropout(layer(torch.cat([x, latent[..., rung].to(x.dtype)], dim=-1), state))
        return self._projected(x, latent, entries)

    def _projected(self, x: Tensor, latent: Tensor, entries: Sequence[Tensor]) -> Tensor:
        """The last recurrent state (B, T, H), with `skip` the latent (B, T, d), and what of the segments' entries the
        state looks up, as the output layer reads them."""
        told: Tensor = self.project(torch.cat([x, latent.to(x.dtype)], dim=-1) if self.skip else x)
        return told if self.attention is None else told + self.attention(x, *entries)

    def word_inputs(self) -> Tensor:
        """What each word gives to the first layer's gates, (V, G·H): a product less in each step of `advance`. It pays
        where more words will be written than there are."""
        return self.layers[0].project_first(self.embedding.weight)

    def advance(
        self, tokens: Tensor, z: Tensor, state: DecoderState, words: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> hidden (B, E), ready for the output layer, and the next state. words: `word_inputs`,
        if they are there."""
        x = self.embedding(tokens) if words is None else words[tokens]
        new: list[Tensor] = []
        states, entries = self._by_layer(state)
        for layer, rung, layer_state in zip(self.layers, self.rungs, states, strict=True):
            latent = z[:, rung].to(x.dtype)
            if words is not None and not new:
                layer_state = layer.advance(layer.add_last(x, latent), layer_state)
            else:
                layer_state = layer.step(torch.cat([x, latent], dim=-1), layer_state)
            new.extend(layer_state)
            x = layer_state[0]
        return self._projected(x[:, None], z[:, None], entries)[:, 0], (*new, *entries)

    def _by_layer(self, state: Sequence[Tensor]) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """The states of each layer, and the segments' entries."""
        count, end = self.layers[0].num_states, self.layers[0].num_states * len(self.layers)
        return [tuple(state[i : i + count]) for i in range(0, end, count)], tuple(state[end:])


class TransformerDecoder(WritesWords):
    """Causal Transformer. The latent is a prefix position (the initial state), or one for each segment
    (`LatentPrefix`), and is added at every step."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        latent_dim: int,
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        segments: int = 1,
        segmented: Sequence[int] = (),
    ):
        super().__init__()
        self.segments = segments
        self.embedding = _embedding(vocabulary_size, embedding_size)
        self.inputs = nn.Linear(embedding_size, hidden_size)
        self.prefix = LatentPrefix(latent_dim, hidden_size, segments=segments, segmented=segmented)
        self.every_step = nn.Linear(latent_dim, hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, embedding_size)
        self.dropout = Dropout(dropout)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T) token ids, z (B, d) -> (B, T, E)."""
        words = self.inputs(self.embedding(inputs)) + self.every_step(z)[:, None]
        x = torch.cat([self.prefix(z).to(words.dtype), words], dim=1)
        x = self.dropout(x + sinusoidal_positions(x.shape[1], x.shape[2], device=x.device))
        for block in self.blocks:
            x, _ = block(x, causal=True)
        return self.project(self.norm(x[:, self.segments :]))

    def start(self, z: Tensor) -> DecoderState:
        """The keys and values of the latent prefix, two tensors (B, heads, M, D/heads) a block."""
        x = self.prefix(z)
        return self._run(x + sinusoidal_positions(x.shape[1], x.shape[2], device=x.device), None, causal=True)[1]

    def word_inputs(self) -> Tensor:
        """What each word gives to the first block, (V, H)."""
        return self.inputs(self.embedding.weight)

    def advance(
        self, tokens: Tensor, z: Tensor, state: DecoderState, words: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> hidden (B, E), ready for the output layer, and the grown cache. words:
        `word_inputs`, if they are there."""
        x = self.inputs(self.embedding(tokens)) if words is None else words[tokens]
        x = (x + self.every_step(z))[:, None]
        offset = state[0].shape[2]
        x = x + sinusoidal_positions(1, x.shape[2], offset=offset, device=x.device)
        x, state = self._run(x, state)
        return self.project(self.norm(x[:, 0])), state

    def _run(self, x: Tensor, state: DecoderState | None, *, causal: bool = False) -> tuple[Tensor, DecoderState]:
        new: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            past = None if state is None else (state[2 * i], state[2 * i + 1])
            x, cache = block(x, past=past, causal=causal)
            new.extend(cache)
        return x, tuple(new)
