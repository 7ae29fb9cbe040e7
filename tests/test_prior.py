"""The prior: what it samples, learns and tells the encoder, against integrals, rejection and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Posterior
from textebm.prior.condition import Condition
from textebm.prior.explicit import GaussianMixture, StandardNormal, standard_normal_log_prob
from textebm.prior.learning import recovery, score_cross_entropy, score_matching, symbol_cross_entropy
from textebm.prior.noise import NoiseSchedule, Reference, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior, explicit_log_prob
from textebm.prior.sampling import calibrate, perturb, sample

Start = Literal["tweedie", "reference"]
REFERENCES: tuple[Reference, ...] = ("stationary", "flat")
STARTS: tuple[Start, ...] = ("tweedie", "reference")
CORRECTED = ChainSettings(steps=40, metropolis=True, start="reference")


class HandSet(EnergyNet):
    """An energy net whose logits are a given function: (u (B, d), level (B,)) -> (B, Σ_h K_h)."""

    def __init__(self, dim: int, levels: int, heads: Mapping[str, int], logits: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(dim, levels, heads, hidden_size=2, num_blocks=1)
        self.given = logits

    def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return list(self.given(u, level).split(list(self.head_sizes.values()) or [1], dim=-1))


def ladder(levels: int, reference: Reference = "stationary") -> NoiseSchedule:
    return NoiseSchedule(log_snr_ladder(levels, 3.0, -2.0), reference)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same_distribution(a: Tensor, b: Tensor, tolerance: float) -> None:
    """Deciles of two samples of one dimension agree in probability: |F_a − F_b| there (a Kolmogorov–Smirnov bound)."""
    points = torch.quantile(torch.cat([a, b]), torch.linspace(0.1, 0.9, 9))
    gap = ((a[:, None] <= points).float().mean(0) - (b[:, None] <= points).float().mean(0)).abs().max()
    assert gap < tolerance


# -- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 6])
@pytest.mark.parametrize("start", STARTS)
def test_zero_net_samples_the_standard_normal(levels: int, start: Start) -> None:
    net = EnergyNet(2, levels, {"code": 3}, hidden_size=8, num_blocks=1)
    prior = LatentPrior(2, net, ladder(levels), chain=ChainSettings(start=start))
    drawn = sample(prior, 20_000, generator=generator())
    torch.testing.assert_close(drawn.z.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.z.T.cov(), torch.eye(2), atol=0.04, rtol=0)
    assert drawn.z[:, 0].pow(4).mean().item() == pytest.approx(3.0, abs=0.3)
    torch.testing.assert_close(drawn.acceptance, torch.ones(levels), atol=1e-4, rtol=0)
    assert drawn.evaluations == levels * (3 + 1)  # the Tweedie start reuses the last gradient of the level above


def gaussian_potential(schedule: NoiseSchedule, mean: float, variance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The F that makes the prior exactly N(mean, variance): level t's log-density, less its reference's."""

    def logits(u: Tensor, level: Tensor) -> Tensor:
        alpha = schedule.alpha_bar[level][:, None]
        log_p = Normal(alpha * mean, (1 - alpha**2 + alpha**2 * variance).sqrt()).log_prob(u)
        flat = (level < schedule.num_levels - 1)[:, None] & torch.tensor(schedule.reference == "flat")
        return log_p - torch.where(flat, 0.0, Normal(0.0, 1.0).log_prob(u))

    return logits


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_exact_potential_samples_its_gaussian(levels: int, start: Start, reference: Reference) -> None:
    schedule = ladder(levels, reference)
    net = HandSet(1, levels, {}, gaussian_potential(schedule, 0.7, 0.2))
    chain = ChainSettings(start=start, steps=60, metropolis=True)
    prior = LatentPrior(1, net, schedule, chain=chain)
    z = sample(prior, 10_000, generator=generator()).z
    assert z.mean().item() == pytest.approx(0.7, abs=0.03)
    assert z.var().item() == pytest.approx(0.2, abs=0.02)
    level = torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(prior.score(z[:5], level), (0.7 - z[:5]) / 0.2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reference", REFERENCES)
def test_tweedie_start_centres_the_chain(reference: Reference) -> None:
    """With the exact score and no step taken, level t starts at the posterior mean E[u_t | u_{t+1}], plus noise."""
    schedule = NoiseSchedule(torch.tensor([1.0, 0.6]), reference)
    prior = LatentPrior(
        1, HandSet(1, 2, {}, gaussian_potential(schedule, 0.7, 0.2)), schedule, chain=ChainSettings(steps=0)
    )
    a, sigma = float(schedule.step_a[0]), float(schedule.step_sigma[0])
    for value, clipped in ((-0.2, False), (-3.0, True)):
        u = torch.full((20_000, 1), value)
        z = sample(prior, len(u), start=(1, u), generator=generator()).z
        posterior_mean = (0.7 / 0.2 + a * value / sigma**2) / (1 / 0.2 + a**2 / sigma**2)
        reference_mean = float(schedule.reverse_scale[0]) * value
        limit = float(schedule.reverse_stddev[0])  # the shift is never longer than s √d
        assert (posterior_mean - reference_mean > limit) is clipped
        expected = reference_mean + limit if clipped else posterior_mean
        assert z.mean().item() == pytest.approx(expected, abs=0.03)
        assert expected - reference_mean > 0.5


def test_sampling_from_a_middle_level() -> None:
    """F = 0 and the stationary reference: u_0 given u_t is N(ᾱ_t u_t, 1 − ᾱ_t²)."""
    prior = LatentPrior(1, EnergyNet(1, 4, {}, hidden_size=4, num_blocks=1), ladder(4))
    u = torch.full((20_000, 1), 1.7)
    for level in (0, 2):
        drawn = sample(prior, len(u), start=(level, u), generator=generator())
        alpha = float(prior.schedule.alpha_bar[level])
        assert drawn.z.mean().item() == pytest.approx(alpha * 1.7, abs=0.03)
        assert drawn.z.var().item() == pytest.approx(1 - alpha**2, abs=0.03)
        assert drawn.acceptance.isnan().tolist() == [t >= level for t in range(4)]


def test_same_seed_same_bits() -> None:
    prior = LatentPrior(2, HandSet(2, 3, {}, lambda u, t: u.sin().sum(-1, keepdim=True)), ladder(3))
    one, same, other = (sample(prior, 50, generator=generator(seed)).z for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_calibration_reaches_the_target_acceptance() -> None:
    net = HandSet(4, 3, {}, lambda u, t: -4 * u.square().sum(-1, keepdim=True))
    prior = LatentPrior(4, net, ladder(3), chain=ChainSettings(steps=5, acceptance=0.8, start="reference"))
    calibrate(prior, n=500, generator=generator())
    acceptance = sample(prior, 2000, generator=generator(1)).acceptance
    torch.testing.assert_close(acceptance, torch.full((3,), 0.8), atol=0.06, rtol=0)
    assert ((prior.rho > 0) & (prior.rho < 1)).all()


@pytest.mark.parametrize("reference", REFERENCES)
def test_training_learns_the_spread_of_each_level(reference: Reference) -> None:
    """Of N(0.3, v): Var(u_t | u_{t+1}) = v_t σ²/(a² v_t + σ²), v_t = ᾱ_t² v + 1 − ᾱ_t². Few steps then suffice."""
    schedule, variance, noise = ladder(5, reference), 0.09, generator()
    potential = gaussian_potential(schedule, 0.3, variance)
    net = HandSet(4, 5, {}, lambda u, t: potential(u, t).sum(-1, keepdim=True))
    prior = LatentPrior(4, net, schedule, chain=ChainSettings(steps=4, metropolis=True))
    for _ in range(220):
        mean = 0.3 + (variance - 0.01) ** 0.5 * torch.empty(200, 4).normal_(generator=noise)
        score_matching(prior, Posterior(mean, torch.full_like(mean, 0.1)), noise)
    calibrate(prior, n=400, generator=noise)
    v = schedule.alpha_bar.square() * variance + 1 - schedule.alpha_bar.square()
    a, sigma = schedule.step_a[:-1], schedule.step_sigma[:-1]
    exact = v[:-1] * sigma**2 / (a**2 * v[:-1] + sigma**2)
    learned = prior.spread[:-1].mean(-1) * schedule.reverse_stddev[:-1] ** 2
    torch.testing.assert_close(learned, exact, atol=0, rtol=0.05)
    drawn = sample(prior, 10_000, generator=generator(1))
    assert drawn.z.var().item() == pytest.approx(variance, rel=0.04 if reference == "stationary" else 0.12)


def test_a_prior_saved_before_it_observed_scores_loads() -> None:
    prior = LatentPrior(2, EnergyNet(2, 3, {}, hidden_size=4, num_blocks=1), ladder(3))
    old = {name: value for name, value in prior.state_dict().items() if name != "score_square"}
    prior.load_state_dict(old)
    torch.testing.assert_close(prior.spread, torch.ones(3, 2))


# -- conditioning --------------------------------------------------------------------------------------------------


def two_heads(u: Tensor, level: Tensor) -> Tensor:
    """Bounded logits, different at each level: head a has two classes, head b three."""
    x, rise = u[:, 0], 1.0 + 0.5 * level
    a = torch.stack([2 * torch.tanh(2 * x), -torch.tanh(x)], dim=-1)
    b = torch.stack([torch.cos(2 * x), rise * torch.sin(x), 0 * x], dim=-1)
    return torch.cat([a, b], dim=-1)


def by_rejection(prior: LatentPrior, symbols: dict[str, int], strength: float, n: int) -> Tensor:
    """Exact draws, level by level, by rejection from the Gaussian; the tilt is written out here."""
    schedule, g = prior.schedule, generator(77)

    def tilt(w: Tensor, t: int) -> Tensor:
        a, b = two_heads(w, torch.full((len(w),), t)).split([2, 3], dim=-1)
        value = a.exp().mean(-1).log() + b.exp().mean(-1).log()
        if prior.symbol_levels == "all" or t == 0:
            for head, logits in (("a", a), ("b", b)):
                if head in symbols:
                    value = value + strength * (logits[:, symbols[head]] - logits.exp().sum(-1).log())
        return value

    u = torch.zeros(n, 1)
    for t in reversed(range(schedule.num_levels)):
        mean, stddev = schedule.reverse_scale[t] * u, schedule.reverse_stddev[t]
        new, todo = torch.empty_like(u), torch.arange(n)
        highest = tilt(torch.linspace(-12, 12, 4801)[:, None], t).max() + 0.01
        while len(todo):
            w = mean[todo] + stddev * torch.randn(len(todo), 1, generator=g)
            take = torch.rand(len(todo), generator=g).log() < tilt(w, t) - highest
            new[todo[take]] = w[take]
            todo = todo[~take]
        u = new
    return u[:, 0]


@pytest.mark.parametrize(
    "levels, symbol_levels, symbols, strength",
    [  # every pair of values of the four
        (1, "all", {}, 1.0),
        (3, "first", {}, 1.0),
        (3, "all", {"a": 0}, 1.0),
        (1, "first", {"a": 0}, 1.0),
        (3, "all", {"a": 0, "b": 1}, 1.0),
        (1, "first", {"a": 0, "b": 1}, 1.0),
        (3, "first", {"b": 2}, 3.0),
        (1, "all", {"b": 2}, 3.0),
    ],
)
def test_conditional_samples_equal_rejection(
    levels: int, symbol_levels: Literal["all", "first"], symbols: dict[str, int], strength: float
) -> None:
    net = HandSet(1, levels, {"a": 2, "b": 3}, two_heads)
    prior = LatentPrior(1, net, ladder(levels), chain=CORRECTED, symbol_levels=symbol_levels)
    prior.rho.fill_(0.6)
    n = 6000
    classes = {head: torch.full((n,), k) for head, k in symbols.items()}
    z = sample(prior, n, condition=Condition(classes, strength), generator=generator()).z[:, 0]
    assert_same_distribution(z, by_rejection(prior, symbols, strength, n), tolerance=0.035)
    if symbols and (levels == 1 or symbol_levels == "all"):  # and the symbols do something
        free = sample(prior, n, generator=generator(5)).z[:, 0]
        assert (z.mean() - free.mean()).abs() + (z.std() - free.std()).abs() > 0.05


def test_symbols_at_all_levels_and_at_the_first_differ() -> None:
    net = HandSet(1, 3, {"a": 2, "b": 3}, two_heads)
    classes = {"a": torch.zeros(6000, dtype=torch.long)}
    means = [
        sample(
            LatentPrior(1, net, ladder(3), chain=CORRECTED, symbol_levels=levels),
            6000,
            condition=Condition(classes),
            generator=generator(),
        ).z.mean()
        for levels in ("all", "first")
    ]
    assert means[0] > means[1] + 0.1


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_conditioned_potential(strength: float) -> None:
    net = HandSet(1, 2, {"a": 2, "b": 3}, two_heads)
    u, level = torch.linspace(-2, 2, 6)[:, None], torch.tensor([0, 1, 0, 1, 0, 1])
    classes = {"a": torch.tensor([0, 1, -1, -1, 1, 0]), "b": torch.tensor([-1, 2, -1, 1, 0, -1])}
    a, b = two_heads(u, level).split([2, 3], dim=-1)
    for symbol_levels in ("all", "first"):
        prior = LatentPrior(1, net, ladder(2), symbol_levels=symbol_levels)
        expected = a.exp().mean(-1).log() + b.exp().mean(-1).log()
        for row in range(6):
            for head, logits in (("a", a), ("b", b)):
                k = int(classes[head][row])
                if k >= 0 and (symbol_levels == "all" or level[row] == 0):
                    expected[row] += strength * logits[row].softmax(-1)[k].log()
        torch.testing.assert_close(
            prior.potential(u, level, Condition(classes, strength)), expected, atol=1e-5, rtol=1e-5
        )


def test_minus_one_and_strength_zero_are_unconditioned() -> None:
    prior = LatentPrior(1, HandSet(1, 3, {"a": 2, "b": 3}, two_heads), ladder(3))
    free = sample(prior, 500, generator=generator()).z
    nothing = {"a": torch.full((500,), -1)}
    assert torch.equal(sample(prior, 500, condition=Condition(nothing), generator=generator()).z, free)
    some = {"a": torch.zeros(500, dtype=torch.long)}
    assert torch.equal(sample(prior, 500, condition=Condition(some, 0.0), generator=generator()).z, free)
    assert not torch.equal(sample(prior, 500, condition=Condition(some), generator=generator()).z, free)


# -- closed-form priors --------------------------------------------------------------------------------------------


def mixture() -> tuple[GaussianMixture, MixtureSameFamily]:
    torch.manual_seed(0)
    explicit = GaussianMixture(3, 2)
    with torch.no_grad():
        explicit.logits.copy_(torch.tensor([0.5, -0.3, 0.0]))
        explicit.mean.copy_(torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.0]]))
        explicit.log_stddev.copy_(torch.tensor([[-1.0, -0.5], [-0.2, -0.7], [0.1, 0.0]]))
    components = Independent(Normal(explicit.mean.detach(), explicit.log_stddev.detach().exp()), 1)
    return explicit, MixtureSameFamily(Categorical(logits=explicit.logits.detach()), components)


def test_mixture_density_equals_torch_distributions() -> None:
    explicit, expected = mixture()
    z = torch.randn(50, 2, generator=generator()) * 2
    reference = MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(z)
    torch.testing.assert_close(standard_normal_log_prob(z), reference)
    torch.testing.assert_close(explicit.log_ratio(z), expected.log_prob(z) - reference, atol=1e-5, rtol=1e-5)
    prior = LatentPrior(2, EnergyNet(2, 1, {}), ladder(1), explicit=explicit)
    torch.testing.assert_close(explicit_log_prob(prior, z), expected.log_prob(z), atol=1e-5, rtol=1e-5)
    assert prior.num_levels == 0 and LatentPrior(2, EnergyNet(2, 1, {}), ladder(1)).num_levels == 1
    assert torch.equal(StandardNormal().log_ratio(z), torch.zeros(50))
    score = prior.score(z, torch.zeros(50, dtype=torch.long))
    leaf = z.clone().requires_grad_(True)
    torch.testing.assert_close(score, torch.autograd.grad(expected.log_prob(leaf).sum(), leaf)[0], atol=1e-4, rtol=1e-4)


def test_mixture_samples_have_its_moments() -> None:
    explicit, expected = mixture()
    with torch.no_grad():
        z = explicit.sample(40_000, 2, device=torch.device("cpu"), generator=generator())
    torch.testing.assert_close(z.mean(0), expected.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), expected.variance, atol=0.05, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_mixture_tilted_by_a_symbol_equals_rejection(strength: float) -> None:
    explicit, expected = mixture()

    def logits(u: Tensor, level: Tensor) -> Tensor:
        return torch.stack([2 * u[:, 0] + u[:, 1], -u[:, 0]], dim=-1)

    prior = LatentPrior(
        2,
        HandSet(2, 1, {"y": 2}, logits),
        ladder(1),
        explicit=explicit,
        chain=ChainSettings(steps=150, metropolis=True),
    )
    prior.rho.fill_(0.7)
    z = sample(
        prior, 6000, condition=Condition({"y": torch.ones(6000, dtype=torch.long)}, strength), generator=generator()
    ).z
    torch.manual_seed(3)
    draws = expected.sample((60_000,))
    chosen = logits(draws, torch.zeros(0)).log_softmax(-1)[:, 1]
    draws = draws[torch.rand(len(draws)).log() < strength * chosen]
    assert len(draws) > 5000
    for dimension in range(2):
        assert_same_distribution(z[:, dimension], draws[:, dimension], tolerance=0.04)
    free = sample(prior, 6000, condition=Condition({"y": torch.full((6000,), -1)}), generator=generator(1)).z
    for dimension in range(2):  # the chain with no symbol chosen is the mixture itself
        assert_same_distribution(free[:, dimension], expected.sample((20_000,))[:, dimension], tolerance=0.04)


def test_standard_normal_tilted_by_a_symbol() -> None:
    """Two classes with logits ±z and strength 1: p(z | y) ∝ N(z; 0, 1) · sigmoid(2 z), by integration."""
    net = HandSet(1, 1, {"y": 2}, lambda u, t: torch.cat([u, -u], dim=-1))
    first = Condition({"y": torch.zeros(20_000, dtype=torch.long)})
    prior = LatentPrior(1, net, ladder(1), explicit=StandardNormal(), chain=ChainSettings(steps=40, metropolis=True))
    z = sample(prior, 20_000, condition=first, generator=generator()).z
    grid = torch.linspace(-8, 8, 4001).double()
    density = torch.sigmoid(2 * grid) * torch.exp(-grid.square() / 2)
    density /= density.sum()
    mean = (density * grid).sum()
    assert z.mean().item() == pytest.approx(float(mean), abs=0.03)
    assert z.var().item() == pytest.approx(float((density * (grid - mean) ** 2).sum()), abs=0.03)
    start = torch.full((20_000, 1), -1.0)
    moved = perturb(prior, start, first, steps=60, generator=generator())
    assert moved.mean().item() == pytest.approx(float(mean), abs=0.03)
    nearly = perturb(prior, start, first, steps=1, generator=generator())
    assert -1 < nearly.mean() < -0.5


def test_a_single_draw_is_resampled_among_its_own_candidates() -> None:
    """One row, no chain: the weights are over the 32 candidates. p(z | y) ∝ N(z; 0, 1) sigmoid(2 z)³ by integration."""
    net = HandSet(1, 1, {"y": 2}, lambda u, t: torch.cat([u, -u], dim=-1))
    prior = LatentPrior(1, net, ladder(1), explicit=StandardNormal(), chain=ChainSettings(steps=0))
    asked, g = Condition({"y": torch.zeros(1, dtype=torch.long)}, 3.0), generator()
    z = torch.cat([sample(prior, 1, condition=asked, generator=g).z for _ in range(1000)])
    grid = torch.linspace(-8, 8, 4001).double()
    density = torch.sigmoid(2 * grid) ** 3 * torch.exp(-grid.square() / 2)
    mean = float((density * grid).sum() / density.sum())
    assert mean > 0.7 and z.mean().item() == pytest.approx(mean, abs=0.08)


# -- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim, reference", [(1, "flat"), (2, "stationary")])
def test_score_matching_learns_the_diffused_mixture(dim: int, reference: Reference) -> None:
    """Two modes in the first dimension, N(0, .5²) in the others; the score of every level is in closed form."""
    torch.manual_seed(0)
    g, levels, modes, stddev = generator(), 4, torch.tensor([-1.2, 0.8]), 0.35
    prior = LatentPrior(dim, EnergyNet(dim, levels, {}, hidden_size=48, num_blocks=2), ladder(levels, reference))
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)

    def means(n: int) -> Tensor:
        first = modes[(torch.rand(n, generator=g) < 0.7).long()]  # weights .3 and .7
        return torch.stack([first] + [0.5 * torch.randn(n, generator=g) for _ in range(dim - 1)], dim=-1)

    iterations = 500
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - i / iterations)
        mean = means(256)
        matching = score_matching(prior, Posterior(mean, torch.full_like(mean, stddev)), g)
        optimizer.zero_grad()
        matching.loss.mean().backward()
        optimizer.step()
    for t in range(levels):
        alpha = prior.schedule.alpha_bar[t]
        tau = (1 - alpha**2 + alpha**2 * stddev**2).sqrt()
        mean = means(2000)
        u = alpha * mean + tau * torch.randn(mean.shape, generator=g)
        variances = torch.full((2, dim), float(tau**2 + alpha**2 * 0.25))
        variances[:, 0] = tau**2
        centres = torch.zeros(2, dim)
        centres[:, 0] = alpha * modes
        truth = MixtureSameFamily(
            Categorical(torch.tensor([0.3, 0.7])), Independent(Normal(centres, variances.sqrt()), 1)
        )
        leaf = u.clone().requires_grad_(True)
        (expected,) = torch.autograd.grad(truth.log_prob(leaf).sum(), leaf)
        score = prior.score(u, torch.full((len(u),), t))
        error = (tau * (score - expected)).square().mean().sqrt()
        assert error < 0.12, f"level {t}: {error:.3f}"
        if t < levels - 1:  # and F = 0 is far away
            untrained = prior.schedule.reference_score(u, torch.full((len(u),), t))
            assert (tau * (untrained - expected)).square().mean().sqrt() > 0.2


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_score_error_of_a_zero_net_by_hand(reference: Reference) -> None:
    """u = ᾱ μ + τ ε, τ² = 1 − ᾱ² + ᾱ² s². Stationary (and at the top) the score is −u: E (ε − τ u)² is
    (1 − τ²)² + τ² ᾱ² μ²; flat below the top it is 0 and the error ε² has the mean 1."""
    schedule = NoiseSchedule(torch.tensor([1.0, 0.6]), reference)
    prior = LatentPrior(1, HandSet(1, 2, {}, lambda u, t: 0 * u), schedule)
    mean, stddev = 1.5, 0.4
    matching = score_matching(
        prior, Posterior(torch.full((60_000, 1), mean), torch.full((60_000, 1), stddev)), generator()
    )
    for level, alpha in enumerate((1.0, 0.6)):
        tau = 1 - alpha**2 + alpha**2 * stddev**2
        expected = 1.0 if reference == "flat" and level == 0 else (1 - tau) ** 2 + tau * alpha**2 * mean**2
        found = matching.loss.detach()[matching.noisy.level == level]
        assert found.mean().item() == pytest.approx(expected, abs=5 * float(found.std()) / math.sqrt(len(found)))


@pytest.mark.parametrize("learn", [score_matching, recovery])
def test_only_training_moves_the_chains_buffers(learn: Callable[..., object]) -> None:
    prior = LatentPrior(2, EnergyNet(2, 3, {}, hidden_size=4, num_blocks=1), ladder(3))
    z = torch.randn(40, 2, generator=generator())
    batch = Posterior(2 * z, 0.1 + 0 * z) if learn is score_matching else 2 * z

    def moves(*, training: bool) -> bool:
        before = {name: value.clone() for name, value in prior.named_buffers()}
        learn(prior.train(training), batch, generator())
        return any(not torch.equal(value, before[name]) for name, value in prior.named_buffers())

    assert not moves(training=False) and moves(training=True)


GRID = torch.linspace(-9, 9, 1801).double()  # for densities in one dimension
STEP = float(GRID[1] - GRID[0])


def integrate(values: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """∫ values(w) N(w; mean, stddev²) dw on the grid; values (G,), mean (…, 1)."""
    return (values * torch.exp(Normal(mean, stddev).log_prob(GRID))).sum(-1) * STEP


def exact_bound(schedule: NoiseSchedule, theta: Tensor, z: float) -> tuple[Tensor, Tensor]:
    """E Σ_t [F(u_t, t) − log Z_t] + the reference's terms for F = θ_t sin 2u, and the same without the log Z_t, by
    quadrature. Only the marginals of u_t and u_{t+1} given z enter."""
    levels, alpha = schedule.num_levels, schedule.alpha_bar.double()
    top_alpha = alpha[-1]
    if schedule.reference == "stationary":
        reference = Normal(0.0, 1.0).log_prob(torch.tensor(z).double())
    else:
        second_moment = top_alpha**2 * z**2 + 1 - top_alpha**2
        reference = top_alpha.log() - 0.5 * second_moment - 0.5 * math.log(2 * math.pi)
    positive, partition = reference.clone(), torch.zeros(()).double()
    for t in range(levels):
        potential = theta[t] * torch.sin(2 * GRID)
        spread = (1 - alpha[t] ** 2).sqrt()
        if t == 0:
            positive = positive + theta[0] * math.sin(2 * z)
        else:
            positive = positive + integrate(potential, alpha[t] * z, spread)
        scale, stddev = schedule.reverse_scale[t].double(), schedule.reverse_stddev[t].double()
        if t == levels - 1:
            partition = partition + integrate(potential.exp(), torch.zeros(1).double(), stddev).log()
        else:
            log_z = integrate(potential.exp(), (scale * GRID)[:, None], stddev).log()  # at every u_{t+1} of the grid
            inside = GRID.abs() < 5  # beyond, scale · u leaves the grid; no mass is there
            log_z = torch.where(inside, log_z, torch.zeros(()).double())
            partition = partition + integrate(log_z, alpha[t + 1] * z, (1 - alpha[t + 1] ** 2).sqrt())
    return positive - partition, positive


@pytest.mark.parametrize("levels, reference", [(1, "stationary"), (3, "stationary"), (3, "flat")])
def test_recovery_gradients_equal_those_of_the_exact_bound(levels: int, reference: Reference) -> None:
    schedule = NoiseSchedule(log_snr_ladder(levels, 1.0, -1.0), reference)
    theta = nn.Parameter(torch.tensor([1.2, -0.8, 0.9])[:levels].clone())
    net = HandSet(1, levels, {}, lambda u, t: theta[t][:, None] * torch.sin(2 * u))
    n, point, h = 40_000, 0.6, 1e-3

    def finite_differences(which: int) -> float:
        up, down = (exact_bound(schedule, theta.detach().double(), point + sign * h)[which] for sign in (1, -1))
        return float((up - down) / (2 * h))

    exact_theta = theta.detach().double().requires_grad_(True)
    (energy_gradient,) = torch.autograd.grad(-exact_bound(schedule, exact_theta, point)[0].sum(), exact_theta)
    found = {}
    for encoder_gradient in ("full", "positive_only"):
        prior = LatentPrior(
            1,
            net,
            schedule,
            potential_penalty=0.0,
            encoder_gradient=encoder_gradient,
            chain=ChainSettings(steps=30, metropolis=True),
        )
        prior.rho.fill_(0.5)
        z = torch.full((n, 1), point, requires_grad=True)
        contrast = recovery(prior, z, generator())
        assert contrast.energy_loss.shape == contrast.encoder_term.shape == contrast.contrast.shape == (n,)
        (theta_gradient,) = torch.autograd.grad(contrast.energy_loss.mean(), theta)
        (z_gradient,) = torch.autograd.grad(contrast.encoder_term.sum(), z)
        error = float(z_gradient.std() / math.sqrt(n)) if levels > 1 else 0.0
        exact = finite_differences(0 if encoder_gradient == "full" else 1)
        assert z_gradient.mean().item() == pytest.approx(exact, abs=4.5 * error + 1e-3)
        assert error < 0.02, "the test must be able to fail"
        torch.testing.assert_close(theta_gradient.double(), energy_gradient, atol=0.03, rtol=0)
        found[encoder_gradient] = z_gradient.mean().item()
    if levels > 1:  # what published code drops matters
        assert abs(found["full"] - found["positive_only"]) > 0.1
    else:
        assert found["full"] == pytest.approx(found["positive_only"], abs=1e-5)


def test_recovery_penalty_weighs_the_squares_of_both_potentials() -> None:
    net = HandSet(1, 1, {}, lambda u, t: 0 * u + 2.0)
    prior = LatentPrior(1, net, ladder(1), potential_penalty=0.1)
    contrast = recovery(prior, torch.zeros(3, 1), generator())
    torch.testing.assert_close(contrast.energy_loss, torch.full((3,), 0.1 * (4 + 4)))
    torch.testing.assert_close(contrast.contrast, torch.zeros(3))
    torch.testing.assert_close(contrast.magnitude, torch.full((3,), 2.0))


def test_recovery_learns_a_shifted_gaussian() -> None:
    torch.manual_seed(0)
    prior = LatentPrior(
        2, EnergyNet(2, 3, {}, hidden_size=32, num_blocks=1), ladder(3), chain=ChainSettings(steps=6, start="reference")
    )
    optimizer, g = torch.optim.Adam(prior.parameters(), lr=5e-3), generator()
    centre, stddev = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.8])
    for i in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - i / 400)
        optimizer.zero_grad()
        recovery(prior, centre + stddev * torch.randn(256, 2, generator=g), g).energy_loss.mean().backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
    for factor in (1, 4):  # a density, not a short-run generator: more steps change nothing
        z = sample(prior, 4000, steps_factor=factor, generator=g).z
        torch.testing.assert_close(z.mean(0), centre, atol=0.18, rtol=0)
        torch.testing.assert_close(z.std(0), stddev, atol=0.15, rtol=0)


@pytest.mark.parametrize("reference", REFERENCES)
def test_score_cross_entropy_moves_along_the_score(reference: Reference) -> None:
    schedule = ladder(3, reference)
    prior = LatentPrior(1, HandSet(1, 3, {}, gaussian_potential(schedule, 0.7, 0.2)), schedule)
    z = torch.linspace(-1, 2, 5)[:, None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(score_cross_entropy(prior, z).sum(), z)
    torch.testing.assert_close(gradient, (0.7 - z.detach()) / 0.2, atol=1e-4, rtol=1e-4)


def test_symbol_cross_entropy_skips_what_is_missing() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, -5.0], [0.0, 0.0]])
    classes = torch.tensor([1, -1, 0])
    known = [-math.log(0.75), math.log(2.0)]
    assert symbol_cross_entropy(logits, classes).item() == pytest.approx(sum(known) / 2)
    weighted = symbol_cross_entropy(logits, classes, torch.tensor([2.0, 7.0, 0.5]))
    assert weighted.item() == pytest.approx((2 * known[0] + 0.5 * known[1]) / 2)
    nothing = symbol_cross_entropy(logits.requires_grad_(True), torch.full((3,), -1))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and logits.grad.abs().max() == 0


def test_symbol_posterior_is_the_energy_nets_at_level_zero() -> None:
    prior = LatentPrior(1, HandSet(1, 3, {"a": 2, "b": 3}, two_heads), ladder(3))
    z = torch.linspace(-1, 1, 4)[:, None]
    expected = two_heads(z, torch.zeros(4, dtype=torch.long))
    named = prior.symbol_logits(z)
    torch.testing.assert_close(torch.cat([named["a"], named["b"]], dim=-1), expected)
