"""What every encoder, decoder, energy network and inference must do, ours and a user's own.

A class of your own is one more case: docs/extending.md says how, and these tests say what.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tiny import recipe, trainer, untrained
from textebm.api import TextEBM
from textebm.errors import RecipeError
from textebm.networks.decoder import DecoderState, WritesWords
from textebm.networks.energy import EnergyNet
from textebm.recipe.implementation import code_allowed
from textebm.text.batches import TokenBatch, collate_texts

HERE = "tests.test_contract"
sys.modules.setdefault(HERE, sys.modules[__name__])  # the module that the recipes below name is this one


class MeanOfWords(nn.Module):
    """An encoder of a user's own: the mean of the words' vectors."""

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, num_layers: int, dropout: float):
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, embedding_size)
        self.out = nn.Linear(embedding_size, hidden_size)
        self.num_features = hidden_size

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[..., None]
        return torch.tanh(self.out((self.words(tokens) * mask).sum(1) / lengths[:, None]))


class Bigrams(WritesWords):
    """A decoder of a user's own: the next word from the last one and the latent."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        latent_dim: int,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.latent = nn.Linear(latent_dim, embedding_size)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))

    def hidden(self, inputs: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(self.embedding(inputs) + self.latent(z)[:, None])

    def start(self, z: Tensor) -> DecoderState:
        return ()

    def step(self, tokens: Tensor, z: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        return self.logits(torch.tanh(self.embedding(tokens) + self.latent(z))), state


class Halved(EnergyNet):
    """An energy network of a user's own: half of ours."""

    def logits_and_view(
        self, u: Tensor, level: Tensor, context: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        logits, view = super().logits_and_view(u, level, context)
        return [0.5 * each for each in logits], view


def lengths_of_texts(texts: list[str], *, seed: int) -> np.ndarray[Any, Any]:
    """Cluster features of a user's own."""
    noise = np.random.default_rng(seed).normal(size=(len(texts), 2))
    return np.array([[len(text.split()), 0] for text in texts]) + 0.01 * noise


ENCODERS = {
    "gru": (),
    "lstm": ("encoder.kind=lstm",),
    "transformer": ("encoder.kind=transformer",),
    "bag_of_words": ("encoder.kind=bag_of_words",),
    "whole_words": ("encoder.kind=whole_words",),
    "own": (f"encoder.implementation={HERE}:MeanOfWords",),
}
DECODERS = {
    "gru": (),
    "lstm": ("decoder.kind=lstm",),
    "transformer": ("decoder.kind=transformer",),
    "bag_of_words": ("decoder.kind=bag_of_words",),
    "skip": ("decoder.skip=true",),
    "own": (f"decoder.implementation={HERE}:Bigrams",),
}
PRIORS = {
    "gaussian": ("prior.kind=gaussian",),
    "gaussian_mixture": ("prior.kind=gaussian_mixture", "prior.components=3"),
    "energy": ("prior.kind=energy", "prior.steps=3"),
    "diffusion_energy": (),
    "joint_energy": ("prior.kind=joint_energy", "prior.steps=3"),
    "hierarchical_diffusion_energy": ("prior.kind=hierarchical_diffusion_energy", "prior.num_levels=3"),
    "own": (f"prior.implementation={HERE}:Halved",),
}
INFERENCES = {
    "amortized": (),
    "refined": ("inference.kind=refined", "inference.steps=2"),
    "short_run": ("inference.kind=short_run", "inference.steps=2"),
}
CASES = [
    pytest.param(overrides, id=f"{part}-{name}")
    for part, cases in {"encoder": ENCODERS, "decoder": DECODERS, "prior": PRIORS, "inference": INFERENCES}.items()
    for name, overrides in cases.items()
]
TEXTS = ["the movie was good", "i loved the pasta and the staff", "we will visit", "the movie was bad"]


@pytest.fixture(autouse=True)
def permission() -> Iterator[None]:
    with code_allowed():
        yield


def batch_of(model: TextEBM, texts: list[str]) -> TokenBatch:
    return collate_texts(texts, model.tokenizer, model.max_tokens)


def widened(batch: TokenBatch, pad: int, by: int = 3) -> TokenBatch:
    tokens = torch.cat([batch.tokens, torch.full((len(batch), by), pad)], dim=1)
    return TokenBatch(tokens, batch.lengths, batch.labels, batch.index)


@pytest.mark.parametrize("overrides", CASES)
def test_padding_and_the_rest_of_the_batch_change_nothing(overrides: tuple[str, ...]) -> None:
    model = untrained(*overrides)
    batch, one = batch_of(model, TEXTS), batch_of(model, TEXTS[:1])
    u = torch.randn(len(TEXTS), model.prior.dim, generator=torch.Generator().manual_seed(0))
    nll = model.network.reconstruction_nll(batch, u)
    torch.testing.assert_close(model.network.reconstruction_nll(widened(batch, model.tokenizer.pad_token_id), u), nll)
    torch.testing.assert_close(model.network.reconstruction_nll(one, u[:1]), nll[:1])
    means = model.encode(TEXTS).mean
    torch.testing.assert_close(model.encode(TEXTS[:1]).mean, means[:1], atol=1e-4, rtol=1e-4)
    assert means.shape == (len(TEXTS), model.prior.dim) and means.isfinite().all()


@pytest.mark.parametrize("overrides", CASES)
def test_every_parameter_learns(overrides: tuple[str, ...]) -> None:
    """Of the joint objective, or where a stage has its own, of the two stages."""
    worker = trainer(*overrides, "training.stages=[{name: autoencoder, steps: 2}, {name: prior, steps: 2}]")
    begin = {name: value.detach().clone() for name, value in worker.model.named_parameters()}
    for step in worker.steps():
        assert all(np.isfinite(value) for value in step.values.values())
    still = [name for name, value in worker.model.named_parameters() if torch.equal(value, begin[name])]
    assert not still, f"two steps of each stage moved neither of {still}"


@pytest.mark.parametrize("overrides", CASES)
def test_what_is_saved_is_what_is_loaded(overrides: tuple[str, ...], tmp_path: Path) -> None:
    model = untrained(*overrides)
    model.save_pretrained(tmp_path / "model")
    loaded = TextEBM.from_pretrained(tmp_path / "model")
    z = torch.randn(3, model.prior.dim, generator=torch.Generator().manual_seed(1))
    assert loaded.decode(z) == model.decode(z)
    assert loaded.generate(3, seed=2) == model.generate(3, seed=2)
    batch = batch_of(model, TEXTS)
    torch.testing.assert_close(
        loaded.network.reconstruction_nll(batch, z[[0, 1, 2, 0]]),
        model.network.reconstruction_nll(batch, z[[0, 1, 2, 0]]),
    )


@pytest.mark.parametrize("overrides", [case for case in CASES if "prior" in str(case.id)])
def test_a_potential_is_a_number_a_row_and_knows_its_symbols(overrides: tuple[str, ...]) -> None:
    prior = untrained(*overrides).prior
    u = torch.randn(4, prior.dim, generator=torch.Generator().manual_seed(0))
    level = torch.zeros(4, dtype=torch.long)
    value = prior.potential(u, level)
    assert value.shape == (4,) and value.isfinite().all()
    logits = prior.symbol_logits(u)
    assert {name: each.shape for name, each in logits.items()} == {"sentiment": (4, 2), "topic": (4, 6), "code": (4, 5)}


def test_clusters_may_be_found_in_features_of_ones_own() -> None:
    from textebm.model.build import build_corpus
    from textebm.runs.train import build_trainer

    chosen = recipe(f"objective.cluster_implementation={HERE}:lengths_of_texts")
    worker = build_trainer(chosen, build_corpus(chosen.data))
    points = worker.train.features["code"]
    assert points.shape == (300, 2)
    texts = build_corpus(chosen.data)["train"]["text"]
    assert points[7, 0] == pytest.approx(len(texts[7].split()), abs=0.1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("encoder.implementation=no.such.module:Net", "cannot be imported"),
        (f"encoder.implementation={HERE}:MeanOfWord", "did you mean 'MeanOfWords'"),
        (f"encoder.implementation={HERE}:Bigrams", "does not take"),
        (f"encoder.implementation={HERE}:lengths_of_texts", "does not take"),
        (f"decoder.implementation={HERE}:MeanOfWords", "does not take"),
    ],
)
def test_a_class_that_cannot_serve_is_refused_in_a_sentence(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        untrained(override)


def test_code_is_not_run_without_permission(tmp_path: Path) -> None:
    override = f"encoder.implementation={HERE}:MeanOfWords"
    untrained(override).save_pretrained(tmp_path / "model")
    from textebm.recipe import implementation

    token = implementation._allowed.set(False)
    try:
        with pytest.raises(RecipeError, match="--allow-code"):
            TextEBM.from_pretrained(tmp_path / "model")
        with pytest.raises(RecipeError, match="would be run"):
            untrained(override)
    finally:
        implementation._allowed.reset(token)


@pytest.mark.parametrize("name", ["mine.py", "/tmp/mine.py:Net", "a:b:c", "os", "a b:C", ":Net"])
def test_only_a_module_and_a_class_can_be_named(name: str) -> None:
    with pytest.raises(RecipeError, match="expected package.module:Class"):
        recipe(f"encoder.implementation='{name}'")
