"""An LSTM language model: what a model without latents gets, and the judge of fluency.

Embedding and output share their weights (Press & Wolf 2017; Inan et al. 2017), dropout stands at the inputs and outputs
of each layer (Zaremba et al. 2014). Sentences are independent, from <bos> to <eos>, as the latent models see them.
Trained with Adam on 95 % of the sentences that it is given; after an epoch without gain on the other 5 % the step is
divided by four, and after the second such epoch training ends. The best weights are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from textebm.evaluation.metric import UndefinedMetricError
from textebm.model.decoding import DecodingOptions, decode_tokens
from textebm.networks.dropout import Dropout
from textebm.networks.hardware import Precision, autocast, rows_at_once
from textebm.networks.recurrent import RecurrentLayer
from textebm.networks.softmax import linear_cross_entropy
from textebm.text.batches import BatchOrder, TokenBatch, collate, special_ids
from textebm.text.tokenizer import TokenStore, decode

HELD_OUT = 20  # every so many sentences decide when to stop
Progress = Callable[[str], None]


@dataclass(frozen=True)
class LanguageModelSettings:
    """Sizes and training of a `LanguageModel`; epochs is the most it may take."""

    embedding_size: int = 256
    hidden_size: int = 256
    num_layers: int = 1
    dropout: float = 0.3
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 4e-3
    mixed_precision: Precision = "no"


class LanguageModel(nn.Module):
    """p(x) = ∏ p(x_l | x_<l), with the protocol of `networks.decoder` for a latent of no dimensions."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, max_tokens: int, settings: LanguageModelSettings | None = None
    ):
        super().__init__()
        settings = settings or LanguageModelSettings()
        size, hidden = settings.embedding_size, settings.hidden_size
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.embedding = nn.Embedding(len(tokenizer), size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        layers = [RecurrentLayer("lstm", size if i == 0 else hidden, hidden) for i in range(settings.num_layers)]
        self.layers = cast("Sequence[RecurrentLayer]", nn.ModuleList(layers))
        self.project = nn.Linear(hidden, size)
        self.dropout = Dropout(settings.dropout)
        self.output_bias = nn.Parameter(torch.zeros(len(tokenizer)))

    @property
    def device(self) -> torch.device:
        return self.output_bias.device

    def forward(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """−log p of every word and <eos> of the batch, (N,) nats, and the sentence that each belongs to, (N,)."""
        inputs, words, places = batch.tokens[:, :-1], batch.tokens[:, 1:], batch.places
        x = self.dropout(self.embedding(inputs))  # (B, T, E)
        for layer in self.layers:
            x = self.dropout(layer(x))
        # (N, E); projected before it is chosen from: oneDNN keeps a kernel for each number of rows it meets
        hidden = self.project(x).flatten(0, 1).index_select(0, places)
        nll = linear_cross_entropy(hidden, self.embedding.weight, self.output_bias, words.flatten()[places])
        return nll, places // words.shape[1]

    def start(self, z: Tensor) -> tuple[Tensor, ...]:
        return tuple(state for layer in self.layers for state in layer.initial_state(len(z), self.output_bias))

    def step(self, tokens: Tensor, z: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """tokens (B,) -> logits (B, V) and the next state."""
        x, new = self.embedding(tokens), list[Tensor]()
        for i, layer in enumerate(self.layers):
            new.extend(layer.step(x, (state[2 * i], state[2 * i + 1])))
            x = new[-2]
        return F.linear(self.project(x), self.embedding.weight, self.output_bias), tuple(new)

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        """inputs (B, T) -> (B, T, E)."""
        x = self.embedding(inputs)
        for layer in self.layers:
            x = layer(x)
        return self.project(x)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, self.embedding.weight, self.output_bias, targets)

    @torch.no_grad()
    def score(self, texts: Sequence[str], batch_size: int = 256) -> TextScores:
        """−log p of each text, nats, <eos> included, and its tokens."""
        store = TokenStore.build(list(texts), self.tokenizer, self.max_tokens)
        order = np.argsort(store.lengths, kind="stable")
        nll = torch.zeros(len(store), dtype=torch.float64)
        self.eval()
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate(store, rows, {}, **special_ids(self.tokenizer)).to(self.device)
            values, sentence = self(batch)
            total = torch.zeros(len(batch), device=self.device).index_add_(0, sentence, values)
            nll[torch.from_numpy(rows)] = total.double().cpu()
        return TextScores(nll, torch.from_numpy(store.lengths + 1))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0, batch_size: int | None = None) -> list[str]:
        """n sentences from the model's own distribution, word by word; batch_size of them at a time, by default 512,
        on a GPU 4,096."""
        self.eval()
        generator = torch.Generator(self.device).manual_seed(seed)
        options, texts = DecodingOptions("sample", max_tokens=self.max_tokens), list[str]()
        rows = batch_size or rows_at_once(self.device, 512)
        for start in range(0, n, rows):
            nothing = torch.zeros(min(rows, n - start), 0, device=self.device)
            ids = decode_tokens(self, nothing, self.tokenizer, options, generator)
            texts += [decode(self.tokenizer, row) for row in ids]
        return texts


@dataclass(frozen=True)
class TextScores:
    """nll (n,) nats; num_tokens (n,) counts <eos>."""

    nll: Tensor
    num_tokens: Tensor

    @property
    def perplexity(self) -> float:
        """exp of the mean over all tokens. Undefined without a text."""
        if len(self.nll) == 0:
            raise UndefinedMetricError("there are no sentences")
        return math.exp(min(float(self.nll.sum()) / float(self.num_tokens.sum()), 700.0))

    @property
    def per_token(self) -> Tensor:
        return self.nll / self.num_tokens


def fit_language_model(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    *,
    settings: LanguageModelSettings | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    name: str = "language model",
) -> LanguageModel:
    """A language model of *texts*. Global random state is left as it was. Undefined for fewer than 40 sentences."""
    settings = settings or LanguageModelSettings()
    written = [text for text in texts if text.strip()]
    if len(written) < 2 * HELD_OUT:
        raise UndefinedMetricError(f"a language model needs at least {2 * HELD_OUT} sentences, got {len(written)}")
    store = TokenStore.build(written, tokenizer, max_tokens)
    chosen = np.random.default_rng(seed).permutation(len(store))
    held, rows = np.sort(chosen[: len(store) // HELD_OUT]), np.sort(chosen[len(store) // HELD_OUT :])
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):  # initial weights and dropout
        torch.manual_seed(seed)
        model = LanguageModel(tokenizer, max_tokens, settings).to(device)
        _train(model, store, rows, held, settings, seed, progress, name)
    return model.eval()


def _train(
    model: LanguageModel,
    store: TokenStore,
    rows: np.ndarray,
    held: np.ndarray,
    settings: LanguageModelSettings,
    seed: int,
    progress: Progress | None,
    name: str,
) -> None:
    ids = special_ids(model.tokenizer)
    order = BatchOrder(store.lengths[rows], settings.batch_size, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    best, kept, failures = math.inf, {}, 0
    for epoch in range(settings.epochs):
        model.train()
        for part in order.batches(epoch):
            batch = collate(store, rows[part], {}, **ids).to(model.device)
            with autocast(model.device, settings.mixed_precision):
                loss = model(batch)[0].mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            pieces = [held[start : start + 256] for start in range(0, len(held), 256)]
            values = torch.cat([model(collate(store, part, {}, **ids).to(model.device))[0] for part in pieces])
        loss_held = float(values.mean())
        if progress is not None:
            progress(f"{name}: epoch {epoch + 1}, held-out perplexity {math.exp(min(loss_held, 700)):.1f}")
        if loss_held < best - 1e-3:
            best, kept = loss_held, {key: value.detach().clone() for key, value in model.state_dict().items()}
            continue
        failures += 1
        if failures == 2:
            break
        for group in optimizer.param_groups:
            group["lr"] /= 4
    if kept:
        model.load_state_dict(kept)
