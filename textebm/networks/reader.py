"""A pretrained network that reads for the encoder: its states in place of an embedding's vectors, or pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from textebm.networks.pretrained import Pretrained, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]
Retokenize = Callable[[Sequence[Ids]], Sequence[Ids]]
Pooling = Literal["mean", "first", "last"]
CACHE_BYTES = 1 << 30  # of states kept from a network at rest; rows beyond that are computed anew


class Reader(Pretrained):
    """The hidden states of a pretrained network at one of its layers, or at several, side by side.

    layer: 0 is its embedding, −1 its last. pad: the id behind a sentence's end in what the network reads. retokenize:
    rows of our ids to rows of its own, where it has another tokenizer. At rest each row is computed once.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        *,
        pad: int,
        tune: Tuning = "lora",
        rank: int = 8,
        layer: Sequence[int] = (-1,),
        retokenize: Retokenize | None = None,
        pooling: Pooling | None = None,
    ):
        super().__init__(network, tune=tune, rank=rank)
        self.pad, self.layer, self.retokenize, self.pooling = pad, tuple(layer), retokenize, pooling
        self.size = len(self.layer) * int(network.config.hidden_size)
        self._kept: dict[Ids, Tensor] | None = {} if tune == "rest" else None
        self._room = CACHE_BYTES

    def _apply(self, *args: Any, **kwargs: Any) -> Reader:
        """Another device or precision: what was kept is of the former."""
        super()._apply(*args, **kwargs)
        if self._kept:
            self._kept, self._room = {}, CACHE_BYTES
        return self

    def forward(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        """tokens (B, T), lengths (B,) -> for each row its states (T', H), or with `pooling` one vector (H,)."""
        rows = [tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        if self._kept is None:
            return self._read(rows)
        new = [row for row in dict.fromkeys(rows) if row not in self._kept]
        read: dict[Ids, Tensor] = {}
        if new:
            with torch.no_grad():
                read = dict(zip(new, self._read(new), strict=True))
        out = [self._kept[row] if row in self._kept else read[row] for row in rows]
        for row, states in read.items():
            self._room -= states.numel() * states.element_size()
            if self._room > 0:
                self._kept[row] = states.clone()
        return out

    def _read(self, rows: Sequence[Ids]) -> list[Tensor]:
        rows = rows if self.retokenize is None else self.retokenize(rows)
        device = next(self.network.parameters()).device
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad).to(device)
        counts = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(ids.shape[1], device=device) < counts[:, None]
        last = self.layer == (-1,)
        out = self.network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=not last)
        layers = [out.last_hidden_state] if last else [out.hidden_states[each] for each in self.layer]
        states: Tensor = torch.cat(layers, dim=-1).float()
        if self.pooling == "mean":
            return list((states * mask[..., None]).sum(1) / counts[:, None])
        if self.pooling is not None:
            at = torch.zeros_like(counts) if self.pooling == "first" else counts - 1
            return list(states[torch.arange(len(rows), device=device), at])
        return [row[:count] for row, count in zip(states, counts.tolist(), strict=True)]


class ContextualEmbedding(nn.Module):
    """A reader's states mapped to *size*, in place of an embedding's vectors."""

    def __init__(self, reader: Reader, size: int):
        super().__init__()
        self.reader = reader
        self.project = nn.Linear(reader.size, size)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T), lengths (B,) -> words (B, T', E), and how many each row has, (B,)."""
        rows = self.reader(tokens, lengths)
        counts = torch.tensor([len(row) for row in rows], device=tokens.device)
        return self.project(pad_sequence(rows, batch_first=True)), counts


class WidthMatched(nn.Module):
    """Another network's embedding, mapped to the width that is read. It is owned, and trained, by that network."""

    def __init__(self, embedding: nn.Embedding, size: int):
        super().__init__()
        self.embedding = embedding
        self.project = nn.Linear(embedding.embedding_dim, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> (B, T, E)."""
        words: Tensor = self.project(self.embedding(tokens))
        return words
