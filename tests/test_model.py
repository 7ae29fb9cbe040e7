"""The objective: finite, named terms; padding and missing labels count for nothing; every parameter learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import network, objective_of, splits
from tiny import recipe as tiny_recipe
from torch import Tensor

from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import LatentBatch
from textebm.objective.schedules import Weights
from textebm.text.batches import TokenBatch, collate, special_ids

GRU = ("encoder.kind=gru", "decoder.kind=gru")
LSTM = ("encoder.kind=lstm", "decoder.kind=lstm", "encoder.num_layers=2", "decoder.num_layers=2")
TRANSFORMER = ("encoder.kind=transformer", "decoder.kind=transformer")
LABELS = {"sentiment": 2, "topic": 6, "code": 5}


def batch_of(n: int = 24) -> TokenBatch:
    tokenizer, read, _ = splits(tiny_recipe())
    return collate(read["train"].store, np.arange(n), {}, **special_ids(tokenizer))


def targets_of(n: int, missing: bool = False) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    drawn = {name: torch.from_numpy(rng.integers(0, classes, n)) for name, classes in LABELS.items()}
    return {name: torch.full_like(each, -1) for name, each in drawn.items()} if missing else drawn


def padded(batch: TokenBatch, extra: int, filler: int) -> TokenBatch:
    columns = torch.full((len(batch), extra), filler)
    tokens = torch.cat([batch.tokens, columns], dim=1)
    tokens[:, : batch.tokens.shape[1]][~batch.mask] = filler
    return replace(batch, tokens=tokens)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stage", ["autoencoder", "joint"])
@pytest.mark.parametrize("learning", ["score_matching", "recovery"])
def test_terms_are_named_finite_and_end_in_the_loss(stage: str, learning: str) -> None:
    model = network(f"prior.learning={learning}")
    objective = objective_of(model, batch_of(), stage, Weights(), targets_of(24), seeded())
    expected = {"reconstruction", "cross_entropy_sentiment", "cross_entropy_topic", "cross_entropy_code"}
    expected |= {"mutual_information_code", "loss"}
    if stage == "autoencoder":
        expected |= {"kl"}
    else:
        expected |= {"contrast", "acceptance", "potential"} if learning == "recovery" else {"score_error", "potential"}
    assert set(objective.terms) == expected
    assert all(torch.isfinite(term) and term.shape == () for term in objective.terms.values())
    assert objective.terms["loss"] is objective.loss


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    model = network()
    weights = Weights(kl=0.5, supervised=2.0, cluster=3.0, mutual_information=0.25)
    terms = objective_of(model, batch_of(), "autoencoder", weights, targets_of(24), seeded()).terms
    by_hand = (
        terms["reconstruction"]
        + 0.5 * terms["kl"]
        + 2.0 * (terms["cross_entropy_sentiment"] + terms["cross_entropy_topic"])
        + 3.0 * terms["cross_entropy_code"]
        - 0.25 * terms["mutual_information_code"]
    )
    assert terms["loss"].item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_the_gaussian_kl_is_the_closed_form() -> None:
    model = network("prior.kind=gaussian").eval()
    objective = objective_of(model, batch_of(), "autoencoder", Weights(), None, seeded())
    posterior = objective.posterior
    normal = torch.distributions.Normal(0.0, 1.0)
    by_torch = torch.distributions.kl_divergence(torch.distributions.Normal(posterior.mean, posterior.stddev), normal)
    assert objective.terms["kl"].item() == pytest.approx(by_torch.sum(-1).mean().item(), rel=1e-5)


def test_free_bits_are_a_floor_on_each_dimension() -> None:
    model = network("prior.kind=gaussian").eval()
    terms = [
        objective_of(model, batch_of(), "autoencoder", Weights(free_bits=bits), None, seeded()).terms
        for bits in (0.0, 50.0)
    ]
    assert terms[0]["kl"] == terms[1]["kl"]
    assert (terms[1]["loss"] - terms[0]["loss"]).item() == pytest.approx(8 * 50.0 - terms[0]["kl"].item(), rel=1e-4)


@pytest.mark.parametrize("networks", [GRU, LSTM, TRANSFORMER], ids=["gru", "lstm", "transformer"])
def test_padding_is_inert(networks: tuple[str, ...]) -> None:
    model = network(*networks).eval()
    batch = batch_of()
    pad, unk = model.tokenizer.pad_token_id, model.tokenizer.unk_token_id
    plain = objective_of(model, batch, "autoencoder", Weights(), targets_of(24), seeded())
    for other in (padded(batch, 5, pad), padded(batch, 5, unk)):  # whatever stands there
        wide = objective_of(model, other, "autoencoder", Weights(), targets_of(24), seeded())
        for name, term in plain.terms.items():
            assert wide.terms[name].item() == pytest.approx(term.item(), rel=1e-5), name
    z = plain.posterior.mean
    alone = [model.reconstruction_nll(batch_rows(batch, i), z[i : i + 1]).item() for i in range(len(batch))]
    torch.testing.assert_close(model.reconstruction_nll(batch, z), torch.tensor(alone), rtol=1e-4, atol=1e-4)


def batch_rows(batch: TokenBatch, i: int) -> TokenBatch:
    """Sentence *i* alone, without padding."""
    length = int(batch.lengths[i])
    return TokenBatch(batch.tokens[i : i + 1, :length], batch.lengths[i : i + 1], {}, batch.index[i : i + 1])


def test_a_uniform_decoder_costs_log_v_a_word() -> None:
    model = network().eval()
    torch.nn.init.zeros_(model.decoder.embedding.weight)
    batch = batch_of()
    nll = model.reconstruction_nll(batch, torch.zeros(24, 8))
    torch.testing.assert_close(
        nll, (batch.lengths - 1) * np.log(len(model.tokenizer)), rtol=1e-5, atol=0, check_dtype=False
    )


COMBINATIONS = [
    ("diffusion_energy", "score_matching", GRU, True),
    ("diffusion_energy", "recovery", LSTM, False),
    ("energy", "score_matching", TRANSFORMER, False),
    ("energy", "recovery", GRU, True),
    ("gaussian_mixture", "score_matching", LSTM, True),
    ("gaussian", "recovery", TRANSFORMER, False),
    ("diffusion_energy", "score_matching", TRANSFORMER, True),
    ("joint_energy", "score_matching", LSTM, True),
    ("joint_energy", "recovery", GRU, False),
    ("hierarchical_diffusion_energy", "score_matching", GRU, True),
    ("hierarchical_diffusion_energy", "recovery", LSTM + ("decoder.ladder=true",), True),
]


@pytest.mark.parametrize(("kind", "learning", "networks", "standardize"), COMBINATIONS)
def test_every_parameter_gets_a_gradient_over_the_stages(
    kind: str, learning: str, networks: tuple[str, ...], standardize: bool
) -> None:
    model = network(f"prior.kind={kind}", f"prior.learning={learning}", *networks, f"latent.standardize={standardize}")
    batch, targets = batch_of(), targets_of(24)
    posterior = model.encoder(batch.tokens, batch.lengths)
    latents = LatentBatch(posterior.unpacked(posterior.packed.detach()), targets)
    touched: dict[str, set[str]] = {}
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-2
    )  # some layers start at zero: what follows them learns later
    for step in range(3):
        for stage in ("autoencoder", "prior", "joint"):
            optimizer.zero_grad(set_to_none=True)
            given = latents if stage == "prior" else batch
            objective_of(model, given, stage, Weights(mutual_information=0.1), targets, seeded(step)).loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and parameter.grad.abs().sum() > 0:
                    assert torch.isfinite(parameter.grad).all(), name
                    touched.setdefault(stage, set()).add(name)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    everything = {name for name, _ in model.named_parameters()}
    if standardize:  # batch normalisation takes a constant shift of the means away again
        everything.remove("encoder.head.mean.bias")
    if kind in ("gaussian", "gaussian_mixture", "energy", "diffusion_energy"):
        assert not [name for name in everything if "transport" in name]
    else:
        assert not [name for name in touched["prior"] if "transport" in name], "it belongs to the generator"
    assert touched["autoencoder"] | touched["prior"] | touched["joint"] >= everything
    text = {name for name in everything if name.startswith(("encoder.", "decoder."))}
    assert touched["autoencoder"] >= text
    assert not touched["prior"] & text, "the prior stage leaves encoder and decoder alone"


def test_missing_labels_contribute_nothing() -> None:
    model = network()
    objective = objective_of(model, batch_of(), "autoencoder", Weights(), targets_of(24, missing=True), seeded())
    assert all(objective.terms[f"cross_entropy_{name}"] == 0 for name in LABELS)
    none = objective_of(model, batch_of(), "autoencoder", Weights(), None, seeded())
    assert none.loss == objective.loss

    some = targets_of(24)
    some["sentiment"][6:] = -1
    half = objective_of(model, batch_of(), "autoencoder", Weights(), some, seeded()).terms["cross_entropy_sentiment"]
    logits = model.prior.symbol_logits(
        objective_of(model, batch_of(), "autoencoder", Weights(), None, seeded()).posterior.sample(seeded())
    )
    by_hand = torch.nn.functional.cross_entropy(logits["sentiment"][:6], some["sentiment"][:6])
    assert half.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_word_dropout_acts_in_training_only() -> None:
    plain, dropping = network(), network("decoder.word_dropout=0.9")
    batch, z = batch_of(), torch.randn(24, 8, generator=seeded())
    for model in (plain, dropping):
        model.eval()
    assert torch.equal(plain.reconstruction_nll(batch, z), dropping.reconstruction_nll(batch, z, seeded()))
    for model in (plain, dropping):
        model.train()
    assert torch.equal(plain.reconstruction_nll(batch, z), plain.reconstruction_nll(batch, z, seeded()))
    assert not torch.allclose(plain.reconstruction_nll(batch, z), dropping.reconstruction_nll(batch, z, seeded()))
    assert torch.equal(
        dropping.reconstruction_nll(batch, z, seeded(1)), dropping.reconstruction_nll(batch, z, seeded(1))
    )


@pytest.mark.parametrize("kind", ["diffusion_energy", "hierarchical_diffusion_energy"])
def test_bfloat16_is_close_and_keeps_the_prior_in_float32(kind: str) -> None:
    model = network(f"prior.kind={kind}").train()
    plain = objective_of(model, batch_of(), "joint", Weights(), targets_of(24), seeded())
    model = network(f"prior.kind={kind}").train()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective_of(model, batch_of(), "joint", Weights(), targets_of(24), seeded())
    assert mixed.loss.dtype == torch.float32 and mixed.posterior.mean.dtype == torch.float32
    for name, term in plain.terms.items():
        assert mixed.terms[name].item() == pytest.approx(term.item(), rel=0.03, abs=0.03), name


def test_a_model_is_a_function_of_its_seed() -> None:
    def losses(model: LatentTextModel) -> list[float]:
        return [
            objective_of(model, batch_of(), "joint", Weights(), targets_of(24), seeded(s)).loss.item()
            for s in (0, 0, 1)
        ]

    first, second = losses(network().eval()), losses(network().eval())
    assert first == second
    assert first[0] == first[1] != first[2]


def test_the_encoder_learns_the_unknown_word_by_hiding_words() -> None:
    """The training text holds no <unk>; its embedding has a gradient only where words are hidden, in training alone."""

    def gradient(share: float, training: bool) -> Tensor:
        model = network(f"encoder.word_dropout={share}").train(training)
        objective_of(model, batch_of(), "autoencoder", Weights(), targets_of(24), seeded()).loss.backward()
        assert model.encoder.embedding.weight.grad is not None
        return model.encoder.embedding.weight.grad[model.tokenizer.unk_token_id]

    assert gradient(0.3, True).abs().sum() > 0
    assert not gradient(0.0, True).any() and not gradient(0.3, False).any()


def test_hidden_words_are_neither_the_first_nor_the_end() -> None:
    model, batch = network(), batch_of()
    hidden = model.hide_words(batch.tokens, 1.0, seeded())
    unk, eos = model.tokenizer.unk_token_id, model.tokenizer.eos_token_id
    kept = hidden == batch.tokens
    assert kept[:, 0].all() and kept[batch.tokens == eos].all()
    assert (hidden[:, 1:][batch.tokens[:, 1:] != eos] == unk).all()
