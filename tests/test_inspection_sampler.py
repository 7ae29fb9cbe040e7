"""Effective sample sizes and energies by level, against chains whose autocorrelation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import sentences, trained, untrained

from textebm.inspection import sampler
from textebm.inspection.paths import layers
from textebm.inspection.rows import Rows
from textebm.prior.explicit import StandardNormal


def test_a_chain_without_potential_forgets_at_its_own_rate() -> None:
    """F = 0: the sampler's step is w' = m + φ (w − m) + noise, φ = 1 − κ (1 − ρ) with κ the spread of the level."""
    model = untrained("prior.metropolis=false")
    for parameter in model.prior.energy.parameters():
        torch.nn.init.zeros_(parameter)
    model.prior.rho.copy_(torch.tensor([0.0, 0.5, 0.5, 0.8]))
    variance = model.prior.schedule.step_sigma[:-1].square()
    kappa = torch.tensor([0.4, 1.0, 0.3, 1.0])  # κ_t = (1 − σ² E score²)/a² below the top, where it is 1
    model.prior.score_square[1:] = ((1 - kappa[:-1] * (1 - variance)) / variance)[:, None]
    torch.testing.assert_close(model.prior.spread, kappa[:, None].expand(4, 8))
    found = sampler.chains(model, [None, 0.9, 1.0, None])
    assert [chain.level for chain in found] == [0, 1, 2, 3] and found[1].acceptance == 0.9
    for chain, phi in zip(found, (0.6, 0.5, 0.85, 0.8), strict=True):
        assert chain.ess_position == pytest.approx(100 * (1 - phi) / (1 + phi), rel=0.2)
        assert chain.ess_energy == pytest.approx(100 / 120)  # F never moves: one draw in all


@pytest.mark.parametrize("overrides", [(), ("prior.sampler=langevin",), ("prior.kind=energy",)])
def test_chains_repeat_and_leave_the_model_alone(overrides: tuple[str, ...]) -> None:
    model = untrained(*overrides)
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    one, two = (sampler.chains(model, [None] * 4, seed=3) for _ in range(2))
    assert one == two and len(one) == model.prior.num_levels and model.network.training
    assert all(0 < chain.ess_position <= 100 and 0 < chain.ess_energy <= 100 for chain in one)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_a_closed_form_prior_has_no_chains() -> None:
    model = untrained("prior.kind=gaussian")
    assert isinstance(model.prior.explicit, StandardNormal) and sampler.chains(model, []) == []
    path = model.sample_path(20).path
    assert path is not None and sampler.energies(model, path[0], path[0], path) == []  # F = 0 everywhere


def test_energies_of_equal_and_of_different_densities() -> None:
    model = trained()
    path = model.sample_path(600, seed=0).path
    assert path is not None
    twins = model.sample_latents(600, seed=1)
    same = sampler.energies(model, twins, twins, path)
    assert [each.level for each in same] == [0, 1, 2, 3]
    for each in same:
        assert all(sum(shares) == pytest.approx(1) for shares in (each.means, each.draws, each.samples))
        assert each.low < each.high and each.signal == pytest.approx(float(model.prior.schedule.alpha_bar[each.level]))
    assert same[0].overlap > same[0].chance_overlap - 0.08  # draws of one density, by two seeds
    far = sampler.energies(model, 6 * twins, 6 * twins, path)[0]
    assert far.overlap < 0.6 < far.chance_overlap
    again = sampler.energies(model, twins, twins, path)
    assert again == same


def test_the_first_bin_and_the_last_hold_what_lies_beyond() -> None:
    shares = sampler._shares(np.array([-9.0, 0.1, 0.6, 99.0]), np.array([0.0, 0.5, 1.0]))
    assert shares.tolist() == [0.5, 0.5]


def test_posterior_draws() -> None:
    model, texts = trained(), list(sentences(30))
    encoding = model.encode(texts)
    draws = torch.stack([model.posterior_draws(texts, seed=seed) for seed in range(200)])
    error = (draws.mean(0) - encoding.mean) / encoding.stddev * 200**0.5  # standard normal
    assert error.abs().mean() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.15)
    assert (draws.std(0) / encoding.stddev).mean() == pytest.approx(1, abs=0.03)
    assert model.posterior_draws([]).shape == (0, 8)


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["joint_energy", "hierarchical_diffusion_energy"])
def test_layers_of_a_hierarchical_model(kind: str) -> None:
    model = untrained(f"prior.kind={kind}")
    texts = list(sentences(40))
    found = layers(model, Rows(texts, {}, 40))
    assert found is not None and [layer.number for layer in found.layers] == [1, 2]
    assert sum(layer.size for layer in found.layers) == model.prior.dim and set(found.sentences) <= set(texts)
    for layer in found.layers:
        assert len(layer.texts) == 3 and all(len(versions) == 3 for versions in layer.texts)
        assert 0 <= layer.words <= 1 and set(layer.kept) == set(found.heads) == {"sentiment", "topic", "code"}
    assert layers(model, Rows(texts, {}, 40)) == found
    # what is shown is what the model writes when it is asked
    latents = model.encode(list(found.sentences)).mean
    held = model.sample_latents(3, resample_from_layer=1, latents=latents)
    top = model.layers[0]
    assert torch.equal(held[:, :top], latents[:, :top]) and not torch.equal(held[:, top:], latents[:, top:])


def test_one_layer_has_no_layers_to_show() -> None:
    assert layers(trained(), Rows(list(sentences(4)), {}, 4)) is None
