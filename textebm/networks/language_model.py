"""A pretrained causal language model that writes with a latent: keys and values in each of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from textebm.networks.decoder import DecoderState, LatentPrefix, WritesWords
from textebm.networks.pretrained import Pretrained, Tuning, run_cached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerwisePrefix(nn.Module):
    """The latent as keys and values in every attention layer (Li & Liang 2021, "Prefix-tuning", arXiv 2101.00190, with
    a prefix that depends on the latent): one position for each segment.

    initial (2L, heads, M, D): keys and values at z = 0, learned; those of an input that means nothing, so that the
    model begins as it was. The map of the latent begins at N(0, 0.02²).
    """

    def __init__(self, initial: Tensor, latent_dim: int, *, segmented: Sequence[int] = ()):
        super().__init__()
        layers, heads, segments, size = initial.shape
        self.shape = (layers, heads, size)
        self.initial = nn.Parameter(initial.clone())
        self.map = LatentPrefix(latent_dim, layers * heads * size, segments=segments, segmented=segmented)
        nn.init.normal_(self.map.weight, std=0.02)
        nn.init.zeros_(self.map.bias)

    def forward(self, z: Tensor) -> DecoderState:
        """z (B, d) -> 2L tensors (B, heads, M, D): each layer's keys, then its values."""
        told = self.map(z).unflatten(-1, self.shape).permute(2, 0, 3, 1, 4)  # (2L, B, heads, M, D)
        return tuple((told + self.initial[:, None]).unbind(0))


class PretrainedDecoder(WritesWords, Pretrained):
    """A causal language model behind a `LayerwisePrefix`.

    network: without its output layer; head: that layer, whose weights may be the words' vectors. bos: the id that
    begins a sentence here; first: the one that begins a text for the network, and is read in its place.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        head: nn.Linear,
        latent_dim: int,
        *,
        bos: int,
        first: int,
        tune: Tuning = "lora",
        rank: int = 8,
        segments: int = 1,
        segmented: Sequence[int] = (),
    ):
        tied = head.weight is cast("nn.Embedding", network.get_input_embeddings()).weight
        super().__init__(network, tune=tune, rank=rank)
        with torch.no_grad():
            start = self.embedding(torch.full((1, segments), first))
            initial = torch.cat(run_cached(network, start, ())[1])
        self.prefix = LayerwisePrefix(initial, latent_dim, segmented=segmented)
        self.bos, self.first = bos, first
        bias = torch.zeros(self.embedding.num_embeddings) if head.bias is None else head.bias.detach()
        self.output_bias = nn.Parameter(bias)
        head.register_parameter("bias", None)
        self.head = None if tied else head.requires_grad_(tune == "full")

    @property
    def embedding(self) -> nn.Embedding:  # type: ignore[override]  # which the network owns, under its own name
        return cast("nn.Embedding", self.network.get_input_embeddings())

    def output_layer(self) -> tuple[Tensor, Tensor]:
        weight = (self.embedding if self.head is None else self.head).weight
        return weight, self.output_bias.to(weight.dtype)

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T) token ids, z (B, d) -> (B, T, E)."""
        return run_cached(self.network, self._words(inputs), self.start(z))[0]

    def start(self, z: Tensor) -> DecoderState:
        """The keys and values of the latent's positions, two tensors (B, heads, M, D) a layer."""
        dtype = self.embedding.weight.dtype
        return tuple(each.to(dtype) for each in self.prefix(z))

    def word_inputs(self) -> Tensor:
        """Each word's vector, (V, E)."""
        return self.embedding.weight

    def advance(
        self, tokens: Tensor, z: Tensor, state: DecoderState, words: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """tokens (B,), z (B, d) -> hidden (B, E), ready for the output layer, and the grown cache."""
        hidden, state = run_cached(self.network, self._words(tokens[:, None]), state)
        return hidden[:, 0], state

    def _words(self, tokens: Tensor) -> Tensor:
        words: Tensor = self.embedding(torch.where(tokens == self.bos, self.first, tokens))
        return words
