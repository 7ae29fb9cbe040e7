"""The base density that F starts from: closed forms, the fit, and the prior that has one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Posterior
from textebm.prior.base import BaseMixture
from textebm.prior.condition import Condition
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.fixed import FixedPotential, fixed_potential
from textebm.prior.learning import recovery, score_matching
from textebm.prior.likelihood import log_prob_bound
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.prior.sampling import calibrate, sample
from textebm.prior.transport import Ladder

DIM, LEVELS, ROWS = 4, 6, 7


def truth() -> MixtureSameFamily:
    """Two correlated Gaussians."""
    mean = torch.tensor([[1.2, -0.5, 0.0, 0.4], [-1.0, 0.6, 0.3, -0.3]])
    turn = torch.linalg.qr(torch.randn(2, DIM, DIM, generator=torch.Generator().manual_seed(3)))[0]
    covariance = turn @ torch.diag(torch.tensor([0.05, 0.2, 0.6, 1.5])) @ turn.transpose(-1, -2)
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), MultivariateNormal(mean, covariance))


def fitted(schedule: NoiseSchedule, components: int = 2, rows: int = 20_000) -> BaseMixture:
    torch.manual_seed(0)
    base = BaseMixture(components, DIM, schedule)
    base.fit(truth().sample((rows,)).numpy(), seed=0)
    return base


def ladder(levels: int = LEVELS, reference: str = "stationary") -> NoiseSchedule:
    return NoiseSchedule(log_snr_ladder(levels, 4.0, -3.0), reference)  # type: ignore[arg-type]


def prior(schedule: NoiseSchedule, base: BaseMixture | None, **options: object) -> LatentPrior:
    torch.manual_seed(1)
    net = EnergyNet(DIM, schedule.num_levels, {"code": 3}, hidden_size=16, num_blocks=1)
    return LatentPrior(DIM, net, schedule, base=base, **options).eval()  # type: ignore[arg-type]


def diffused(base: BaseMixture, alpha: Tensor) -> MixtureSameFamily:
    covariance = base.axes @ torch.diag_embed(base.variance) @ base.axes.transpose(-1, -2)
    noisy = alpha.square() * covariance + (1 - alpha.square()) * torch.eye(DIM)
    return MixtureSameFamily(Categorical(base.weight), MultivariateNormal(alpha * base.mean, noisy))


@pytest.mark.parametrize("reference", ["stationary", "flat"])
def test_log_ratio_is_the_diffused_mixtures(reference: str) -> None:
    schedule = ladder(reference=reference)
    base, u = fitted(schedule), torch.randn(ROWS, DIM)
    for t in range(LEVELS):
        expected = diffused(base, schedule.alpha_bar[t]).log_prob(u)
        if reference == "stationary" or t == LEVELS - 1:
            expected = expected - standard_normal_log_prob(u)
        torch.testing.assert_close(base.log_ratio(u, torch.full((ROWS,), t)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", ["stationary", "flat"])
@pytest.mark.parametrize("shared", [True, False])
def test_gradient_is_autograds(shared: bool, reference: str) -> None:
    base, u = fitted(ladder(reference=reference)), torch.randn(ROWS, DIM, requires_grad=True)
    level = torch.tensor(2) if shared else torch.arange(ROWS) % LEVELS
    value, gradient = base.at(level).value_and_gradient(u)
    torch.testing.assert_close(gradient, torch.autograd.grad(value.sum(), u)[0])


def test_an_unfitted_base_is_the_reference() -> None:
    base, u, level = BaseMixture(3, DIM, ladder()), torch.randn(ROWS, DIM), torch.arange(ROWS) % LEVELS
    torch.testing.assert_close(base.log_ratio(u, level), torch.zeros(ROWS), rtol=0, atol=1e-5)


def test_the_fit_finds_the_density() -> None:
    exact, base = truth(), fitted(ladder())
    u = exact.sample((4000,))
    found = diffused(base, torch.tensor(1.0)).log_prob(u)
    assert (exact.log_prob(u) - found).mean() < 0.02
    assert (exact.log_prob(u) - standard_normal_log_prob(u)).mean() > 1.0
    drawn = base.sample(20_000, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), exact.mean, rtol=0, atol=0.04)
    torch.testing.assert_close(drawn.var(0), exact.variance, rtol=0.05, atol=0.02)
    assert base.sample(0, 0).shape == sample(prior(ladder(), base), 0).z.shape == (0, DIM)
    noisy = base.sample(20_000, 3, torch.Generator().manual_seed(0))
    alpha = ladder().alpha_bar[3]
    expected = alpha.square() * exact.variance + 1 - alpha.square()
    torch.testing.assert_close(noisy.var(0), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_few_latents_give_a_wide_base_of_few_components(rows: int) -> None:
    base = BaseMixture(5, DIM, ladder())
    latents = np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32)
    base.fit(latents, seed=0)
    if rows > 1:
        assert (base.weight > 0).sum() == max(1, min(5, rows // (4 * DIM)))
    assert 0.2 < base.variance.min() <= base.variance.max() < 3
    assert torch.isfinite(base.log_ratio(torch.randn(ROWS, DIM), torch.arange(ROWS) % LEVELS)).all()


def test_the_fit_repeats_and_travels_with_the_prior() -> None:
    one, other = fitted(ladder()), fitted(ladder())
    for name, buffer in one.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name))
    source, target = prior(ladder(), one), prior(ladder(), BaseMixture(2, DIM, ladder()))
    target.load_state_dict(source.state_dict())
    u, level = torch.randn(ROWS, DIM), torch.arange(ROWS) % LEVELS
    assert torch.equal(source.potential(u, level), target.potential(u, level))


@pytest.mark.parametrize("condition", [Condition(), Condition({"code": torch.arange(ROWS) % 4 - 1}, 2.0)])
def test_a_chain_sees_the_base_too(condition: Condition) -> None:
    of, u, level = prior(ladder(), fitted(ladder())), torch.randn(ROWS, DIM), torch.arange(ROWS) % LEVELS
    torch.nn.init.normal_(of.energy.outputs.weight)  # type: ignore[union-attr]
    potential = fixed_potential(of, level, condition)
    assert isinstance(potential, FixedPotential)
    value, gradient = potential_and_gradient(potential, u)
    expected = potential_and_gradient(lambda w: of.potential(w, level, condition), u)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient, expected[1])
    torch.testing.assert_close(potential(u), expected[0])


@pytest.mark.parametrize("levels", [1, LEVELS, 12])
def test_with_a_network_of_zeros_the_prior_is_the_mixture(levels: int) -> None:
    schedule = ladder(levels)
    base = fitted(schedule)
    steps = ChainSettings(steps=40 if levels == 1 else 4, metropolis=True)
    of, generator = prior(schedule, base, chain=steps), torch.Generator().manual_seed(0)
    exact = diffused(base, torch.tensor(1.0))
    mean = exact.sample((4000,))
    for _ in range(30):  # what training sees of the score, which sets the chains' widths
        score_matching(of, Posterior(mean, torch.full_like(mean, 1e-3)), generator)
    calibrate(of, generator=generator)
    u = sample(of, 8000, generator=generator).z
    torch.testing.assert_close(u.mean(0), exact.mean, rtol=0, atol=0.06)
    torch.testing.assert_close(u.T.cov(), exact.sample((40_000,)).T.cov(), rtol=0, atol=0.08)
    assert abs(exact.log_prob(u).mean() + exact_entropy(exact)) < 0.1
    some = exact.sample((500,))
    bounds = [
        log_prob_bound(of, some, direction=direction, temperatures=20, generator=generator).mean()
        for direction in ("reverse", "forward")
    ]
    assert bounds[0] - 0.1 < exact.log_prob(some).mean() < bounds[1] + 0.4


def exact_entropy(of: MixtureSameFamily) -> float:
    return -float(of.log_prob(of.sample((40_000,))).mean())


def test_score_matching_starts_at_the_mixtures_error() -> None:
    """The loss of a network of zeros is E‖τ ∇log b_t + ε‖²/d."""
    schedule = ladder()
    of, torch_generator = prior(schedule, fitted(schedule)), torch.Generator().manual_seed(0)
    mean = truth().sample((4000,))
    posterior = Posterior(mean, torch.full_like(mean, 0.1))
    with_base = score_matching(of, posterior, torch_generator).loss.mean()
    without = score_matching(prior(schedule, None), posterior, torch_generator).loss.mean()
    assert with_base < without - 0.05
    matching = score_matching(of, posterior, torch_generator)
    assert torch.equal(matching.potential, torch.zeros(len(mean)))  # the base's own value is not penalised
    (gradient,) = torch.autograd.grad(with_base, of.energy.outputs.weight)  # type: ignore[union-attr]
    assert gradient.norm() > 1e-3  # the network learns beside the base


def test_recovery_has_the_base_in_its_contrast_and_not_in_its_penalty() -> None:
    schedule = ladder()
    base = fitted(schedule)
    of = prior(schedule, base, potential_penalty=1.0)
    z = truth().sample((64,))
    terms = recovery(of, z, torch.Generator().manual_seed(0))
    assert terms.magnitude.mean() > 0.1  # |F|, the base's
    (gradient,) = torch.autograd.grad(terms.energy_loss.mean(), of.energy.outputs.bias)  # type: ignore[union-attr]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-4)


def test_a_ladder_has_its_base_in_noise_space() -> None:
    schedule = ladder()
    base = fitted(schedule)
    of = prior(schedule, base, transport=Ladder((2, 2), 8), layers=(2, 2))
    u, level = torch.randn(ROWS, DIM), torch.arange(ROWS) % LEVELS
    torch.testing.assert_close(of.potential(u, level), base.log_ratio(u, level))
