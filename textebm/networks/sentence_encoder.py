"""Sentences as points, by a published encoder that rests: what its layers say of a sentence's words, averaged.

Which layer decides what a point tells: the first ones know a sentence's form, the last ones its subject.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from textebm.errors import RecipeError, refused_by_library
from textebm.networks.pretrained import check_layers, load_encoder

ROWS, TOKENS = 256, 8192  # at most, of a batch


class SentenceEncoder:
    """A transformers encoder from a directory or the Hub. layer: which hidden states are averaged, 0 the words' own
    vectors, −1 the last; several stand beside each other. max_tokens: of a sentence, the rest is not read.
    revision: of the Hub's. Raises RecipeError naming *option*."""

    def __init__(
        self,
        source: str,
        *,
        layer: Sequence[int] = (-1,),
        max_tokens: int = 64,
        option: str = "a sentence encoder",
        revision: str | None = None,
    ) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerBase

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source, use_fast=True, trust_remote_code=False, revision=revision or "main"
            )
        except Exception as error:  # not found, offline, gated, malformed: transformers raises many kinds
            if not refused_by_library(error):
                raise
            told = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise RecipeError(f"{option}: {source!r} has no tokenizer that can be loaded: {told}") from error
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.network = load_encoder(
            source, vocabulary_size=len(tokenizer), positions=max_tokens, option=option, revision=revision
        )
        self.max_tokens = max_tokens
        self.layers = int(self.network.config.num_hidden_layers)
        self.layer = check_layers(self.network, layer, source=source, option=option)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d of all layers), each of length 1."""
        return self.read(texts, self.layer).reshape(len(texts), -1) / np.float32(len(self.layer) ** 0.5)

    @torch.no_grad()
    def read(self, texts: Sequence[str], layers: Sequence[int]) -> NDArray[np.float32]:
        """Several layers at once, (n, len(layers), d), each of length 1; a sentence's does not depend on its batch."""
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        found = np.zeros((len(texts), len(layers), self.network.config.hidden_size), dtype=np.float32)
        pad, start = self.tokenizer.pad_token_id or 0, 0
        device = self.network.device
        while start < len(order):
            rows = order[start : start + ROWS]
            rows = rows[: max(1, TOKENS // max(len(tokens[rows[-1]]), 1))]
            start += len(rows)
            width = max(1, max(len(tokens[row]) for row in rows))
            ids = torch.tensor([[*tokens[row], *[pad] * (width - len(tokens[row]))] for row in rows], device=device)
            mask = torch.tensor([[1] * len(tokens[r]) + [0] * (width - len(tokens[r])) for r in rows], device=device)
            states = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            for place, layer in enumerate(layers):
                mean = (states[layer] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
                found[rows, place] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return found
