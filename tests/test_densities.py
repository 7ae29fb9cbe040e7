"""The bench of known densities: its truths against integrals, its figures against known samples."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from typer.testing import CliRunner

from textebm.cli import app
from textebm.densities.bench import bench, measure, squared_mmd, train
from textebm.densities.settings import SETTINGS, Setting, build_prior, setting_of
from textebm.densities.targets import TARGETS, Pinwheel, Target, circle, target_of
from textebm.errors import TextEBMError

PLANE = ("gaussians", "ring", "pinwheel", "release-gaussians", "release-pinwheel")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the truths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANE)
def test_density_integrates_to_one_and_is_that_of_its_draws(name: str) -> None:
    """On a grid: ∫ p = 1, and the entropy −∫ p log p is the mean of −log p over draws."""
    target = target_of(name)
    axis = torch.linspace(-4.5, 4.5, 451)
    grid = torch.cartesian_prod(axis, axis)
    log_p, cell = target.log_prob(grid).double(), (axis[1] - axis[0]).item() ** 2
    log_p = torch.where(log_p.isfinite(), log_p, -1e3)
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1, abs=2e-3)
    entropy = -(log_p.exp() * log_p).sum().item() * cell
    assert -target.log_prob(target.sample(50_000, generator())).mean().item() == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("name", PLANE)
def test_draws_follow_the_density(name: str) -> None:
    """The probability of each cell of a coarse partition, by draws and by the integral of the density."""
    target = target_of(name)
    axis = torch.linspace(-4, 4, 401)
    middle = (axis[1:] + axis[:-1]) / 2
    points = torch.cartesian_prod(middle, middle)
    mass = (target.log_prob(points).exp() * 0.02**2).view(8, 50, 8, 50).sum((1, 3))
    x = target.sample(100_000, generator())
    cell = ((x + 4).floor().long()).clamp(0, 7)
    found = torch.bincount(cell[:, 0] * 8 + cell[:, 1], minlength=64).view(8, 8) / len(x)
    torch.testing.assert_close(found, mass, atol=0.006, rtol=0)


def test_mixture_equals_torch_distributions_and_diffuses_as_its_draws() -> None:
    target = circle(3, modes=4, stddev=0.25)
    parts = Independent(Normal(target.means, 0.25), 1)
    exact = MixtureSameFamily(Categorical(torch.ones(4)), parts)
    x = torch.randn(50, 3, generator=generator())
    torch.testing.assert_close(target.log_prob(x), exact.log_prob(x))
    alpha, smoothing = 0.8, 0.1
    wider = Independent(Normal(alpha * target.means, math.sqrt(1 - 0.64 + 0.64 * (0.25**2 + 0.01))), 1)
    diffused = MixtureSameFamily(Categorical(torch.ones(4)), wider)
    found = target.diffused_log_prob(x, torch.full((50,), alpha), smoothing)
    torch.testing.assert_close(found, diffused.log_prob(x))


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_modes_have_equal_mass_and_the_stated_variance(name: str) -> None:
    target: Target = target_of(name)
    found = target.deviations(target.sample(40_000, generator()))
    mass = torch.bincount(found.mode, minlength=target.modes) / 40_000 * target.modes
    assert mass.min() > 0.94 and mass.max() < 1.06
    stated = {
        "ring": [0.1],
        "pinwheel": [0.35, 0.1],
        "release-pinwheel": [0.3, 0.1],
        "release-gaussians": [0.174] * 2,
    }.get(name, [0.3] * target.dim)
    stddev = found.residual.square().mean(0).sqrt()
    torch.testing.assert_close(stddev, torch.tensor(stated), rtol=0.03, atol=0)


def test_pinwheel_arms_unwind() -> None:
    """A point on the spine of arm k, at the norm it was wound by, deviates only along the arm."""
    target = Pinwheel()
    r = 1.5
    for arm in range(5):
        angle = torch.tensor(2 * math.pi * arm / 5 + target.twist * r)
        x = r * torch.stack([angle.cos(), angle.sin()])[None]
        found = target.deviations(x)
        assert found.mode.item() == arm
        torch.testing.assert_close(found.residual, torch.tensor([[r - target.reach, 0.0]]), atol=1e-5, rtol=0)


# -- what is measured ----------------------------------------------------------------------------------------------


def test_measured_figures_of_known_samples() -> None:
    """Samples with a third more mass in one mode, deviations 1.2 times too wide in the plane and .9 across."""
    target = circle(4, modes=3)
    reference = target.sample(60_000, generator())
    mode = torch.multinomial(torch.tensor([4.0, 3.0, 2.0]), 60_000, replacement=True, generator=generator(1))
    noise = torch.randn(60_000, 4, generator=generator(2)) * torch.tensor([1.2, 1.2, 0.9, 0.9]) * 0.3
    found = measure(target, target.means[mode] + noise, reference, 7)
    assert (found.mass_least, found.mass_most) == pytest.approx((2 / 3, 4 / 3), rel=0.02)
    assert found.in_plane == pytest.approx(1.44, rel=0.03) and found.across == pytest.approx(0.81, rel=0.03)
    assert found.variance == pytest.approx((1.44 + 0.81) / 2, rel=0.03)
    expected = target.log_prob(target.means[mode] + noise).mean().item()
    assert found.log_density == pytest.approx(expected) and found.evaluations == 7 and found.mmd > 1


def test_squared_mmd_is_unbiased_and_sees_a_shift() -> None:
    """Zero on average for equal distributions; of a shifted normal, the closed form of each Gaussian kernel."""
    x = [torch.randn(400, 2, generator=generator(seed)) for seed in range(40)]
    zero = torch.tensor([squared_mmd(a, b) for a, b in zip(x[:20], x[20:], strict=True)])
    assert abs(zero.mean()) < 3 * zero.std() / math.sqrt(20)
    a, b = torch.randn(3000, 1, generator=generator(1)), torch.randn(3000, 1, generator=generator(2)) + 1
    width = torch.pdist(b[:500]).median().item()

    def expected(shift: float, w: float) -> float:  # E k(x, y), x − y ~ N(shift, 2)
        return w / math.sqrt(w**2 + 2) * math.exp(-(shift**2) / (2 * (w**2 + 2)))

    exact = sum(2 * expected(0, f * width) - 2 * expected(1, f * width) for f in (0.5, 1.0, 2.0))
    assert squared_mmd(a, b) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"num_levels": "12"}])
def test_the_sampler_is_right_where_the_potential_is(options: dict[str, str]) -> None:
    """48 evaluations at most: masses, and the variance in every direction, within 5 % of the truth; also with more."""
    row = bench("mixture8", circle(8), "exact", setting_of("exact", options), samples=8192)
    (outcome,) = row.outcomes
    assert outcome.draws.evaluations <= 48 and not outcome.diverged
    for draws in (outcome.draws, outcome.doubled):
        assert 0.88 < draws.mass_least and draws.mass_most < 1.12
        for ratio in (draws.variance, draws.in_plane, draws.across):
            assert ratio == pytest.approx(1, abs=0.05)
    assert outcome.draws.log_density == pytest.approx(row.exact.log_density, abs=0.15)


@pytest.mark.parametrize("prior", [name for name in SETTINGS if name != "exact"])
def test_every_prior_trains_on_a_target_and_repeats(prior: str) -> None:
    setting = setting_of(prior, {"hidden_size": "16", "steps": "2"})
    rows = [bench("ring", target_of("ring"), prior, setting, iterations=12, samples=100) for _ in range(2)]
    assert rows[0].outcomes[0].draws == pytest.approx(rows[1].outcomes[0].draws, nan_ok=True) or (
        rows[0].outcomes[0].draws.mmd == rows[1].outcomes[0].draws.mmd
    )
    assert math.isfinite(rows[0].mean("mmd")) and rows[0].diverged == 0


def test_the_closed_form_mixture_learns_the_mixture() -> None:
    trained = train(setting_of("gaussian_mixture", {"learning_rate": "0.02"}), circle(2), iterations=1500)
    reference = circle(2).sample(20_000, generator(5))
    found = measure(circle(2), trained.draw(8192, generator=generator(1))[0], reference)
    assert 0.8 < found.mass_least and found.mass_most < 1.2 and found.variance == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_score_matching_comes_near_the_truth_and_twice_the_steps_do_not_hurt() -> None:
    """Half the training of the docs' table, whose goal is .1 in the plane too."""
    row = bench("mixture8", circle(8), "diffusion_energy", Setting(), iterations=2000)
    least, most = row.masses()
    assert row.mean("evaluations") <= 48 and row.diverged == 0 and 0.8 < least and most < 1.2
    assert row.mean("variance") == pytest.approx(1, abs=0.1) and row.mean("in_plane") == pytest.approx(1, abs=0.2)
    assert row.mean("in_plane", doubled=True) < row.mean("in_plane") + 0.04


def test_a_standardized_prior_begins_as_the_targets_gaussian() -> None:
    """Before F is learned its draws have the target's variance in every dimension, not N(0, I)'s."""
    setting = setting_of("energy", {"standardize": "true", "learning_rate": "1e-9", "hidden_size": "8"})
    trained = train(setting, circle(8), iterations=1)
    x, _ = trained.draw(8192, generator=generator(1))
    torch.testing.assert_close(x.std(0), circle(8).sample(50_000, generator()).std(0), rtol=0.05, atol=0)


def test_divergence_is_counted_and_left_out() -> None:
    setting = setting_of("energy-recovery", {"hidden_size": "8", "learning_rate": "1e30", "steps": "1"})
    row = bench("ring", target_of("ring"), "energy-recovery", setting, iterations=30, samples=200)
    assert row.diverged == 1 and math.isnan(row.mean("variance")) and math.isnan(row.masses()[0])


def test_the_same_seed_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    build_prior(Setting(), circle(2), smoothing=0.03, seed=3)
    assert torch.equal(before, torch.get_rng_state())


# -- mistakes and the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "changes", "words"),
    [
        ("diffusion_enery", {}, "did you mean 'diffusion_energy'"),
        ("energy", {"step": "3"}, "did you mean 'steps'"),
        ("energy", {"steps": "3.5"}, "steps: expected a whole number, got '3.5'"),
        ("energy", {"steps": "0"}, "steps must be at least 1"),
        ("energy", {"metropolis": "yes"}, "metropolis: unknown value 'yes'"),
        ("energy", {"start": "tweedy"}, "did you mean 'tweedie'"),
        ("energy", {"acceptance": "1"}, "acceptance must lie between 0 and 1"),
        ("diffusion_energy", {"log_snr_max": "-9"}, "log_snr_max must be greater"),
        ("diffusion_energy", {"input_scale": "0"}, "input_scale must be greater than 0"),
    ],
)
def test_mistakes_are_named(prior: str, changes: dict[str, str], words: str) -> None:
    with pytest.raises(TextEBMError, match=words):
        setting_of(prior, changes)


def test_changes_are_read() -> None:
    setting = setting_of("energy", {"steps": "3", "metropolis": "false", "start": "reference", "step_size": "0.2"})
    assert (setting.steps, setting.metropolis, setting.start, setting.step_size) == (3, False, "reference", 0.2)


def test_the_releases_network_has_one_hidden_layer_and_its_own_classes() -> None:
    net = build_prior(setting_of("energy-release"), target_of("release-pinwheel"), smoothing=0.03).energy
    assert [tuple(p.shape) for name, p in net.named_parameters() if "weight" in name and "level" not in name] == [
        (200, 2),
        (8, 200),
    ]
    plain, wide = (
        build_prior(setting_of("energy", {"input_scale": scale}), circle(2), smoothing=0.03).energy
        for scale in ("1", "4")
    )
    torch.testing.assert_close(wide.inputs.weight, 4 * plain.inputs.weight)


def test_exact_needs_a_mixture() -> None:
    with pytest.raises(TextEBMError, match="standardize=false"):
        build_prior(setting_of("exact", {"standardize": "true"}), circle(2), smoothing=0.03)
    with pytest.raises(TextEBMError, match="--target gaussians, mixture8, mixture40 or release"):
        build_prior(setting_of("exact"), target_of("ring"), smoothing=0.03)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["densities", *arguments])


def test_command_prints_the_table_and_json() -> None:
    quick = ("--target", "ring", "--prior", "gaussian", "--iterations", "1", "--samples", "200")
    plain = invoke(*quick)
    assert plain.exit_code == 0, plain.output
    assert "(exact draws)" in plain.stdout and "0 of 1" in plain.stdout
    found = json.loads(invoke(*quick, "--json").stdout)
    assert found[0]["target"] == "ring" and found[0]["outcomes"][0]["draws"]["across"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "rign"), "unknown target 'rign'; did you mean 'ring'"),
        (("steps",), "expected OPTION=VALUE"),
        (("--set", "steps"), "expected OPTION=VALUE"),
        (("--target", "ring", "--prior", "exact", "--iterations", "1"), "Gaussian mixtures alone"),
    ],
)
def test_command_refuses_in_a_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2 and words in done.stderr


def test_figures_without_matplotlib_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "textebm.densities.figures.find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    done = invoke("--target", "ring", "--prior", "gaussian", "--iterations", "1", "--out", str(tmp_path))
    assert done.exit_code == 2 and "pip install 'textebm[figures]'" in done.stderr


def test_figures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    quick = ("--target", "pinwheel", "--prior", "gaussian_mixture", "--iterations", "5", "--samples", "200")
    done = invoke(*quick, "--out", str(tmp_path / "figures"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figures" / "pinwheel-gaussian_mixture.png").read_bytes()[:4] == b"\x89PNG"
