"""Bounds of log Z and of log p(z) are on the right side, tight where they can be, and exact where F = 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from textebm.densities.bench import train
from textebm.densities.settings import setting_of
from textebm.densities.targets import Mixture
from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Posterior
from textebm.prior.explicit import GaussianMixture, standard_normal_log_prob
from textebm.prior.likelihood import Annealing, anneal, chain_log_weights, log_prob_bound, top_log_partition
from textebm.prior.noise import NoiseSchedule, Reference, log_snr_ladder
from textebm.prior.prior import LatentPrior

REFERENCES: tuple[Reference, ...] = ("stationary", "flat")
H, K, M, S = 2.0, 3.0, 0.5, 0.9  # F(w) = h·w − k w²/2 on N(m, s²)


def quadratic(w: Tensor) -> Tensor:
    return (H * w - 0.5 * K * w.square()).sum(-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class HandSet(EnergyNet):
    def __init__(self, levels: int, potential: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(1, levels, {}, hidden_size=2, num_blocks=1)
        self.given = potential

    def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return [self.given(u, level)]


@pytest.mark.parametrize("dim", [1, 4])
def test_annealing_brackets_a_known_partition(dim: int) -> None:
    """log E e^F per dimension: (h + m/s²)²/(2 (k + 1/s²)) − m²/(2 s²) − ½ log(1 + k s²)."""
    precision = K + 1 / S**2
    truth = dim * ((H + M / S**2) ** 2 / (2 * precision) - M**2 / (2 * S**2) - 0.5 * math.log(1 + K * S**2))
    n = 4000
    mean = torch.full((n, dim), M)
    tilted = Normal((H + M / S**2) / precision, precision**-0.5)
    torch.manual_seed(0)
    start = tilted.sample((n, dim))
    gaps = []
    for temperatures in (1, 4, 40):
        low = anneal(
            quadratic, mean, S, direction="forward", temperatures=temperatures, rho=0.6, generator=generator()
        ).log_z
        high = anneal(
            quadratic,
            mean,
            S,
            direction="reverse",
            temperatures=temperatures,
            rho=0.6,
            start=start,
            generator=generator(1),
        ).log_z
        error = 4 * float(low.std() + high.std()) / math.sqrt(n)
        assert low.mean() < truth + error / 2 and high.mean() > truth - error / 2
        gaps.append(float(high.mean() - low.mean()))
        # e^low (and e^−high of the reverse) are unbiased: the averages meet the truth itself
        if temperatures == 40:
            assert (torch.logsumexp(low, 0) - math.log(n)).item() == pytest.approx(truth, abs=0.05 * dim)
            assert (math.log(n) - torch.logsumexp(-high, 0)).item() == pytest.approx(truth, abs=0.05 * dim)
    assert gaps[0] > 2 * gaps[1] > 8 * gaps[2] > 0


def test_reverse_annealing_needs_a_start() -> None:
    with pytest.raises(ValueError, match="pass start"):
        anneal(quadratic, torch.zeros(2, 1), 1.0, direction="reverse", temperatures=2, rho=0.5)


def test_partition_of_a_constant_is_the_constant() -> None:
    for direction in ("forward", "reverse"):
        found = anneal(
            lambda w: 0 * w.sum(-1) + 1.7,
            torch.zeros(5, 2),
            1.0,
            direction=direction,
            temperatures=7,
            rho=0.5,
            start=torch.zeros(5, 2),
            generator=generator(),
        ).log_z
        torch.testing.assert_close(found, torch.full((5,), 1.7))


# -- F = 0 gives the Gaussian VAE back ---------------------------------------------------------------------------------


def gaussian_prior(levels: int, reference: Reference, dim: int = 3) -> LatentPrior:
    net = EnergyNet(dim, levels, {"code": 4}, hidden_size=8, num_blocks=1)
    return LatentPrior(dim, net, NoiseSchedule(log_snr_ladder(levels, 3.0, -2.0), reference))


def kl_by_cubature(posterior: Posterior, log_p: Callable[[Tensor], Tensor]) -> Tensor:
    """E_q[log q − log p] for one posterior, exact for quadratic log-densities: 2 d points at mean ± √d · stddev."""
    d = posterior.mean.shape[-1]
    offsets = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)])
    z = posterior.mean + posterior.stddev * offsets
    log_q = Normal(posterior.mean, posterior.stddev).log_prob(z).sum(-1)
    return (log_q - log_p(z)).mean()


@pytest.mark.parametrize("levels, reference", [(1, "stationary"), (1, "flat"), (6, "stationary"), (16, "stationary")])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_zero_net_gives_the_closed_form_kl(levels: int, reference: Reference, direction: str) -> None:
    prior = gaussian_prior(levels, reference)
    posterior = Posterior(torch.tensor([[0.5, -1.0, 0.0]]), torch.tensor([[0.3, 0.8, 1.5]]))
    found = kl_by_cubature(posterior, lambda z: log_prob_bound(prior, z, direction=direction, generator=generator()))
    torch.testing.assert_close(found, posterior.kl_to_standard_normal().sum(), atol=2e-5, rtol=1e-6)
    z = torch.randn(20, 3, generator=generator())
    torch.testing.assert_close(
        log_prob_bound(prior, z, generator=generator()), standard_normal_log_prob(z), atol=1e-5, rtol=0
    )


def test_zero_net_with_the_flat_reference_bounds_its_gaussian() -> None:
    """There F = 0 is N(0, 2/ᾱ² − 1), and the bound by the forward chain is below its density, equal on neither side."""
    prior = gaussian_prior(6, "flat", dim=1)
    stddev = float((2 / prior.schedule.alpha_bar[-1] ** 2 - 1).sqrt())
    z = torch.linspace(-3, 3, 13)[:, None]
    bound = log_prob_bound(prior, z, generator=generator())
    torch.testing.assert_close(bound, prior.schedule.expected_log_reference(z), atol=1e-5, rtol=0)
    assert (bound <= Normal(0.0, stddev).log_prob(z)[:, 0]).all()


def test_closed_form_prior_is_exact() -> None:
    torch.manual_seed(0)
    mixture = GaussianMixture(3, 2)
    prior = LatentPrior(2, EnergyNet(2, 1, {}), NoiseSchedule(torch.ones(1)), explicit=mixture)
    z = torch.randn(9, 2)
    with torch.no_grad():
        expected = torch.logsumexp(mixture.log_components(z), dim=-1) - math.log(2 * math.pi)
    torch.testing.assert_close(log_prob_bound(prior, z), expected)


# -- three levels, a hand-set potential, one dimension: everything by integration --------------------------------------

GRID = torch.linspace(-8, 8, 801).double()
STEP = float(GRID[1] - GRID[0])
THETA = (0.8, -0.6, 0.7)


def wave(u: Tensor, t: int) -> Tensor:
    return THETA[t] * torch.sin(2 * u)


def exact_log_prob(schedule: NoiseSchedule) -> tuple[Tensor, list[Tensor]]:
    """log p_0 on the grid by passing the density down the levels, and log Z_t at every u_{t+1} of the grid."""
    top = schedule.num_levels - 1
    tilted = wave(GRID, top) + Normal(0.0, 1.0).log_prob(GRID)
    log_z = [torch.logsumexp(tilted, 0) + math.log(STEP)]
    density = (tilted - log_z[0]).exp()
    for t in reversed(range(top)):
        kernel = Normal(float(schedule.reverse_scale[t]) * GRID[:, None], float(schedule.reverse_stddev[t]))
        tilted = wave(GRID, t) + kernel.log_prob(GRID)  # (u_{t+1}, u_t)
        log_z.insert(0, torch.logsumexp(tilted, dim=1) + math.log(STEP))
        density = ((tilted - log_z[0][:, None]).exp() * density[:, None]).sum(0) * STEP
    return density.log(), log_z


def exact_bound(schedule: NoiseSchedule, log_z: list[Tensor], z: float) -> float:
    """E over the forward chain from z of log p(u_0 … u_top)/q(u_1 … u_top | z): what `log_prob_bound` estimates."""
    total = float(schedule.expected_log_reference(torch.tensor([[z]], dtype=torch.float64)))
    top, alpha = schedule.num_levels - 1, schedule.alpha_bar.double()

    def expectation(values: Tensor, t: int) -> float:
        if t == 0:
            return float(values[(GRID - z).abs().argmin()])
        weights = Normal(alpha[t] * z, (1 - alpha[t] ** 2).sqrt()).log_prob(GRID).exp()
        return float((values * weights).sum() * STEP)

    for t in range(top):
        total += expectation(wave(GRID, t), t) - expectation(log_z[t], t + 1)
    return total + expectation(wave(GRID, top), top) - float(log_z[top])


@pytest.mark.parametrize("reference", REFERENCES)
def test_bounds_of_a_three_level_prior(reference: Reference) -> None:
    schedule = NoiseSchedule(log_snr_ladder(3, 1.0, -1.0), reference)
    log_p, log_z = exact_log_prob(schedule)
    if reference == "stationary":
        assert log_p.exp().sum().item() * STEP == pytest.approx(1.0, abs=1e-4)
    theta = torch.tensor(THETA)
    prior = LatentPrior(1, HandSet(3, lambda u, t: theta[t][:, None] * torch.sin(2 * u)), schedule)
    prior.rho.fill_(0.5)
    n = 12_000
    for point in (-0.8, 0.3, 1.2):
        z = torch.full((n, 1), point)
        truth = exact_bound(schedule, log_z, point)
        assert truth < float(log_p[(GRID - point).abs().argmin()]), "the chain's bound is below log p(z)"
        estimates = {}
        for direction in ("forward", "reverse"):
            for temperatures in (2, 60):
                values = log_prob_bound(prior, z, direction=direction, temperatures=temperatures, generator=generator())
                estimates[direction, temperatures] = float(values.mean())
                noise = 4 * float(values.std()) / math.sqrt(n)
                assert noise < 0.08, "the test must be able to fail"
                if direction == "reverse":  # log Z from above: log p from below, the safe side
                    assert values.mean() < truth + noise
                else:
                    assert values.mean() > truth - noise
        assert estimates["reverse", 2] < estimates["reverse", 60] < truth + 0.01
        assert estimates["forward", 2] > estimates["forward", 60] > truth - 0.01
        assert estimates["forward", 60] - estimates["reverse", 60] < 0.25
        assert estimates["forward", 2] - estimates["reverse", 2] > 0.5


# -- the exact F of two narrow modes: the bound's own error ------------------------------------------------------------


def bimodal(dim: int, levels: int) -> tuple[LatentPrior, Mixture]:
    """Modes ±.95 in every dimension, .3 wide: unit variance, as standardised latents have it."""
    target = Mixture(torch.tensor([-0.95, 0.95])[:, None].expand(2, dim).contiguous(), 0.3)
    setting = setting_of("exact", {"num_levels": str(levels)})
    return train(setting, target, smoothing=0.0).prior.eval(), target


@pytest.mark.parametrize("dim, tolerance", [(2, 0.25), (16, 0.5)])
def test_the_exact_potential_of_two_narrow_modes_is_bounded_closely(dim: int, tolerance: float) -> None:
    """Begun at the reference's Gaussian the safe bound lost .35 nats in 2 dimensions and 5.3 in 16."""
    prior, target = bimodal(dim, 8)
    z = target.sample(600, generator(2))
    truth = target.log_prob(z)
    low = truth - log_prob_bound(prior, z, generator=generator())
    high = truth - log_prob_bound(prior, z, direction="forward", generator=generator())
    error = 3 * float(low.std()) / math.sqrt(len(z))
    assert -error < float(low.mean()) < tolerance and -tolerance < float(high.mean()) < error
    weights = chain_log_weights(prior, z, Annealing(10, 10), generator=generator())  # the same path
    assert float((truth - weights.safe).mean()) == pytest.approx(float(low.mean()), abs=2 * error)
    assert float((truth - weights.flattering).mean()) == pytest.approx(float(high.mean()), abs=2 * error)


# -- the top level's normaliser: one number a model --------------------------------------------------------------------


def two_modes_in_the_plane() -> tuple[LatentPrior, float]:
    """One level with F = two bumps away from the origin, and its log Z by integration."""
    centres = torch.tensor([[1.2, 0.4], [-1.0, -0.8]])

    def potential(u: Tensor, t: Tensor) -> Tensor:
        return torch.logsumexp(3 - 4 * (u[:, None] - centres).square().sum(-1), -1, keepdim=True)

    prior = LatentPrior(2, HandSet(1, potential), NoiseSchedule(torch.ones(1)))
    prior.dim = 2
    prior.rho.fill_(0.8)
    axis = torch.linspace(-6, 6, 601)
    grid = torch.cartesian_prod(axis, axis)
    tilted = potential(grid, grid)[:, 0] + Normal(0.0, 1.0).log_prob(grid).sum(-1)
    return prior, float(torch.logsumexp(tilted.double(), 0)) + 2 * math.log(float(axis[1] - axis[0]))


def test_the_tops_normaliser_is_on_its_side_and_knows_no_text() -> None:
    """Reverse chains from posterior draws of outliers, where F is low, put it below log Z: on the unsafe side."""
    prior, truth = two_modes_in_the_plane()
    upper, lower = (float(each) for each in top_log_partition(prior))
    assert truth - 0.1 < lower < truth + 0.005 and truth - 0.005 < upper < truth + 0.1
    outliers = torch.tensor([4.0, -4.0]) + 0.1 * torch.randn(40, 2, generator=generator())
    potential = prior.energy.potential
    moved = anneal(
        lambda w: potential(w, torch.zeros(len(w), dtype=torch.long)),
        torch.zeros(40, 2),
        1.0,
        direction="reverse",
        temperatures=10,
        rho=0.8,
        start=outliers,
        generator=generator(),
    ).log_z
    assert -(torch.logsumexp(-moved, 0) - math.log(40)) < truth - 0.5, "what this test is about"
    inliers = torch.tensor([[1.2, 0.4], [-1.0, -0.8]]).repeat(20, 1)
    for u in (outliers, inliers):
        exact = potential(u, torch.zeros(40, dtype=torch.long)) + standard_normal_log_prob(u) - truth
        together = log_prob_bound(prior, u, generator=generator())
        assert (together < exact + 0.005).all() and (together > exact - 0.1).all()
        each = torch.cat([log_prob_bound(prior, row[None]) for row in u])
        torch.testing.assert_close(each, together)


def test_the_tops_normaliser_is_kept_until_a_weight_changes() -> None:
    torch.manual_seed(0)
    prior = LatentPrior(2, EnergyNet(2, 1, {}, hidden_size=8, num_blocks=1), NoiseSchedule(torch.ones(1)))
    first, kept = top_log_partition(prior), prior.top_log_z
    assert torch.equal(top_log_partition(prior)[0], first[0]) and prior.top_log_z is kept
    assert "top_log_z" not in prior.state_dict()
    with torch.no_grad():
        prior.energy.outputs.bias.add_(1.0)  # F + 1: log Z + 1
    torch.testing.assert_close(top_log_partition(prior)[0], first[0] + 1)


def test_bounds_bracket_log_p_of_a_well_learned_prior() -> None:
    """When the reverse transitions are the forward ones' exact reversal, the chain's bound is log p(z) itself."""
    schedule = NoiseSchedule(log_snr_ladder(3, 1.0, -1.0))

    def log_ratio(u: Tensor, level: Tensor) -> Tensor:
        alpha = schedule.alpha_bar[level][:, None]
        stddev = (1 - alpha**2 + alpha**2 * 0.3).sqrt()
        modes = [Normal(alpha * c, stddev).log_prob(u) + math.log(w) for c, w in ((-1.0, 0.4), (0.9, 0.6))]
        return torch.logsumexp(torch.stack(modes), 0) - Normal(0.0, 1.0).log_prob(u)

    prior = LatentPrior(1, HandSet(3, log_ratio), schedule)
    prior.rho.fill_(0.5)
    for point in (-1.1, 0.0, 1.3):
        z = torch.full((8000, 1), point)
        truth = float(log_ratio(z[:1], torch.zeros(1, dtype=torch.long)) + Normal(0.0, 1.0).log_prob(z[:1]))
        low, high = (
            float(log_prob_bound(prior, z, direction=side, temperatures=20, generator=generator()).mean())
            for side in ("reverse", "forward")
        )
        assert low - 0.03 < truth < high + 0.03
        assert high - low < 0.15
