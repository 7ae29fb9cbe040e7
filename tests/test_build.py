"""Recipe to components: each value reaches the part that it names."""

from __future__ import annotations

import pytest
import torch
from tiny import network, recipe, splits

from textebm.model import build
from textebm.model.latent_text_model import SymbolHead
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.encoder import RecurrentEncoder, TransformerEncoder
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.networks.posterior import PosteriorHead, TopDownHead
from textebm.prior.explicit import GaussianMixture, StandardNormal
from textebm.prior.transport import Identity, Ladder


@pytest.mark.parametrize(
    ("kind", "explicit", "levels", "learned", "steps"),
    [
        ("gaussian", StandardNormal, 1, 0, 40),
        ("gaussian_mixture", GaussianMixture, 1, 0, 40),
        ("energy", type(None), 1, 1, 40),
        ("diffusion_energy", type(None), 16, 16, 2),
        ("joint_energy", type(None), 1, 1, 40),
        ("hierarchical_diffusion_energy", type(None), 8, 8, 2),
    ],
)
def test_the_kinds_of_prior(kind: str, explicit: type, levels: int, learned: int, steps: int) -> None:
    prior = network(f"prior.kind={kind}", "prior.num_levels=null", "prior.steps=null").prior
    assert isinstance(prior.explicit, explicit)
    assert (prior.schedule.num_levels, prior.num_levels, prior.chain.steps) == (levels, learned, steps)


def test_prior_options_arrive() -> None:
    prior = network(
        "prior.sampler=langevin",
        "prior.step_size=0.25",
        "prior.acceptance=0.7",
        "prior.metropolis=true",
        "prior.start=reference",
        "prior.symbol_levels=first",
        "prior.strength=1.5",
        "prior.potential_penalty=0.5",
        "prior.encoder_gradient=positive_only",
        "prior.reference=flat",
        "prior.schedule=published",
    ).prior
    chain = prior.chain
    assert (chain.sampler, chain.steps, chain.step_size, chain.acceptance) == ("langevin", 2, 0.25, 0.7)
    assert (chain.metropolis, chain.start) == (True, "reference")
    assert (prior.symbol_levels, prior.strength, prior.potential_penalty) == ("first", 1.5, 0.5)
    assert (prior.encoder_gradient, prior.schedule.reference) == ("positive_only", "flat")
    assert not torch.equal(prior.schedule.alpha_bar, network().prior.schedule.alpha_bar)


def test_layers_arrive() -> None:
    plain = network()
    assert isinstance(plain.prior.transport, Identity) and plain.prior.layers == (8,)
    assert isinstance(plain.encoder.head, PosteriorHead) and isinstance(plain.prior.energy, EnergyNet)
    for kind in ("joint_energy", "hierarchical_diffusion_energy"):
        model = network(f"prior.kind={kind}", "prior.num_levels=null", "latent.dim=9")
        assert model.prior.layers == (4, 5) and isinstance(model.prior.transport, Ladder)
        assert model.prior.transport.sizes == (4, 5)
        assert isinstance(model.prior.energy, LayeredEnergyNet) and isinstance(model.encoder.head, TopDownHead)
    # independent N(0, I) and a ladder decoder (arXiv 2310.09604), and a head in each layer
    model = network(
        "prior.kind=joint_energy",
        "prior.num_levels=null",
        "prior.transport=identity",
        "latent.layers=[2,6]",
        "decoder.ladder=true",
        "decoder.num_layers=2",
        "heads.0.layer=1",
        "heads.1.layer=2",
    )
    assert isinstance(model.prior.transport, Identity) and isinstance(model.decoder, RecurrentDecoder)
    assert [(rung.start, rung.stop) for rung in model.decoder.rungs] == [(0, 2), (2, 8)]
    assert isinstance(model.prior.energy, LayeredEnergyNet)
    assert [list(net.head_sizes) for net in model.prior.energy.layers] == [["topic"], ["sentiment"], ["code"]]


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
def test_the_kinds_of_network(kind: str) -> None:
    model = network(f"encoder.kind={kind}", f"decoder.kind={kind}", "latent.standardize=false")
    expected = (
        (TransformerEncoder, TransformerDecoder) if kind == "transformer" else (RecurrentEncoder, RecurrentDecoder)
    )
    assert (type(model.encoder), type(model.decoder)) == expected
    assert model.encoder.head is not None and model.encoder.head.norm is None
    assert model.decoder.embedding.weight.shape == (len(model.tokenizer), 12)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_kinds_of_tokenizer(kind: str) -> None:
    tokenizer = build.build_tokenizer(recipe(f"tokenizer.kind={kind}", "tokenizer.vocabulary_size=300"), ["a b", "b c"])
    assert tokenizer.decode(tokenizer("b a")["input_ids"]).strip() == "b a"


def test_heads_take_their_classes_from_the_corpus_or_count_them() -> None:
    heads = build.build_heads(recipe(), {"sentiment": ["negative", "positive"], "topic": ["a", "b"]})
    assert heads["sentiment"] == SymbolHead("sentiment", ("negative", "positive"), "sentiment")
    assert heads["code"] == SymbolHead("code", ("0", "1", "2", "3", "4"), None)
    assert list(heads) == ["sentiment", "topic", "code"]


def test_weights_follow_their_schedule() -> None:
    objective = recipe("objective.kl_weight=0.8", "objective.kl_warmup=0.5", "objective.free_bits=0.1").objective
    assert [build.build_weights(objective, at).kl for at in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.4, 0.8, 0.8])
    weights = build.build_weights(objective, 1.0)
    assert (weights.free_bits, weights.supervised, weights.cluster, weights.mutual_information) == (0.1, 1, 1, 0.1)


@pytest.mark.parametrize("kind", ["gaussian_mixture", "diffusion_energy", "hierarchical_diffusion_energy"])
def test_a_model_is_rebuilt_from_its_config(kind: str) -> None:
    model = network(f"prior.kind={kind}")
    again = build.rebuild_model(build.model_config(model), model.tokenizer)
    again.load_state_dict(model.state_dict())
    assert again.heads == model.heads and again.recipe == model.recipe and again.max_tokens == model.max_tokens
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_the_seed_decides_the_initial_weights() -> None:
    first, second, other = network(), network(), network("seed=1")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.decoder.embedding.weight, other.decoder.embedding.weight)
    assert len(splits(recipe())[0]) == len(first.tokenizer)
