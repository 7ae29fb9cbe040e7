"""Both proposals on densities whose moments are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from textebm.prior.sampler import ChainResult, langevin, potential_and_gradient, semi_implicit, tame

N = 20_000
# F(w) = h·w − k w²/2 on N(m, s²): precision 1/s² + k, mean (m/s² + h)/precision
H, K, M, S = 1.5, 2.0, -0.5, 0.8
PRECISION = 1 / S**2 + K
MEAN, VARIANCE = (M / S**2 + H) / PRECISION, 1 / PRECISION


def quadratic(w: Tensor) -> Tensor:
    return (H * w - 0.5 * K * w.square()).sum(-1)


def flat(w: Tensor) -> Tensor:
    return 0.0 * w.sum(-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference(seed: int = 9) -> tuple[Tensor, Tensor]:
    mean = torch.full((N, 2), M)
    return mean, mean + S * torch.empty(N, 2).normal_(generator=generator(seed))


def assert_moments(w: Tensor, mean: float, variance: float, tolerance: float = 0.02) -> None:
    """40,000 draws: standard errors below .004 and .005."""
    assert w.mean().item() == pytest.approx(mean, abs=tolerance)
    assert w.var().item() == pytest.approx(variance, abs=tolerance)


def test_metropolis_semi_implicit_is_exact() -> None:
    mean, start = reference()
    for rho, steps in ((0.9, 60), (0.5, 25)):
        result = semi_implicit(quadratic, start, mean, S, rho, steps, generator=generator(), metropolis=True)
        assert_moments(result.w, MEAN, VARIANCE)
        assert 0.4 < result.acceptance.mean() < 0.999
        assert result.acceptance.shape == (N,) and result.evaluations == steps + 1
        again = semi_implicit(quadratic, result.w, mean, S, rho, 5, generator=generator(1), metropolis=True)
        assert_moments(again.w, MEAN, VARIANCE)  # and stays


def test_metropolis_langevin_is_exact() -> None:
    mean, start = reference()
    result = langevin(quadratic, start, mean, S, 0.8, 50, generator=generator(), metropolis=True)
    assert_moments(result.w, MEAN, VARIANCE)
    assert 0.4 < result.acceptance.mean() < 0.999


def test_uncorrected_semi_implicit_approaches_as_rho_rises() -> None:
    """The proposal is linear here: w' − m = c (w − m) + b + noise with c = ρ − (1−ρ) s² k, so its limit is known."""
    mean, start = reference()
    errors = []
    for rho, steps in ((0.3, 30), (0.8, 60), (0.97, 300)):
        result = semi_implicit(quadratic, start, mean, S, rho, steps, generator=generator(), tamed=False)
        c = rho - (1 - rho) * S**2 * K
        limit = (1 - rho**2) * S**2 / (1 - c * c)
        assert_moments(result.w, MEAN, limit)
        errors.append(abs(limit - VARIANCE))
    assert errors[0] > 0.05 > errors[1] > errors[2] and errors[2] < 0.01


def test_uncorrected_langevin_approaches_as_its_step_falls() -> None:
    mean, start = reference()
    result = langevin(quadratic, start, mean, S, 0.2, 300, generator=generator())
    factor = 1 - 0.5 * (0.2 * S) ** 2 * PRECISION
    assert_moments(result.w, MEAN, (0.2 * S) ** 2 / (1 - factor**2))
    assert (0.2 * S) ** 2 / (1 - factor**2) == pytest.approx(VARIANCE, abs=0.01)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("metropolis", [False, True])
def test_without_potential_the_gaussian_is_invariant(rho: float, metropolis: bool) -> None:
    mean, start = reference()
    result = semi_implicit(flat, start, mean, S, rho, 7, generator=generator(), metropolis=metropolis)
    assert_moments(result.w, M, S**2)
    torch.testing.assert_close(result.acceptance, torch.ones(N), atol=1e-4, rtol=0)
    correlation = ((result.w - M) * (start - M)).mean() / S**2
    assert correlation.item() == pytest.approx(rho**7, abs=0.03)  # each step forgets by ρ, neither less nor more


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_with_the_right_spread_an_uncorrected_chain_is_exact(rho: float) -> None:
    """κ s² = 1/(1/s² + k): the proposal's Gaussian then has the target's own variance, and nothing is rejected."""
    mean, start = reference()
    result = semi_implicit(
        quadratic,
        start,
        mean,
        S,
        rho,
        1 if rho == 0 else 30,
        spread=VARIANCE / S**2,
        generator=generator(),
        tamed=False,
    )
    assert_moments(result.w, MEAN, VARIANCE)
    torch.testing.assert_close(result.acceptance, torch.ones(N), atol=1e-4, rtol=0)


def test_another_spread_has_its_own_curvature_and_noise() -> None:
    """w' − m = c (w − m) + b + noise of variance (1 − ρ²) v, c = ρ − (1 − ρ)(v (k + 1/s²) − 1), with v = κ s²."""
    mean, start = reference()
    spread, rho = torch.tensor([0.5, 1.3]), 0.5
    plain = semi_implicit(quadratic, start, mean, S, rho, 30, spread=spread, generator=generator(), tamed=False).w
    exact = semi_implicit(quadratic, start, mean, S, rho, 30, spread=spread, generator=generator(), metropolis=True).w
    for place, v in enumerate((0.5 * S**2, 1.3 * S**2)):
        c = rho - (1 - rho) * (v * PRECISION - 1)
        limit = (1 - rho**2) * v / (1 - c * c)
        assert abs(limit - VARIANCE) > 0.01, "the test must be able to fail"
        assert_moments(plain[:, place], MEAN, limit)
        assert_moments(exact[:, place], MEAN, VARIANCE)


def test_rows_may_differ_in_rho_and_stddev() -> None:
    mean = torch.zeros(N, 2)
    stddev = torch.where(torch.arange(N) % 2 == 0, 0.5, 2.0)[:, None]
    rho = torch.where(torch.arange(N) % 2 == 0, 0.2, 0.6)[:, None]
    w = semi_implicit(quadratic, mean, mean, stddev, rho, 60, generator=generator(), metropolis=True).w
    for row, s in ((0, 0.5), (1, 2.0)):
        precision = 1 / s**2 + K
        assert_moments(w[row::2], H / precision, 1 / precision, tolerance=0.03)


@pytest.mark.parametrize("metropolis", [False, True])
def test_same_seed_same_bits(metropolis: bool) -> None:
    mean, start = reference()

    def run(seed: int) -> tuple[ChainResult, ChainResult]:
        return (
            semi_implicit(quadratic, start, mean, S, 0.7, 5, generator=generator(seed), metropolis=metropolis),
            langevin(quadratic, start, mean, S, 0.3, 5, generator=generator(seed), metropolis=metropolis),
        )

    torch.manual_seed(1)
    first = run(3)
    torch.manual_seed(2)  # the global state has no part in it
    for one, same, other in zip(first, run(3), run(4), strict=True):
        assert torch.equal(one.w, same.w) and torch.equal(one.acceptance, same.acceptance)
        assert not torch.equal(one.w, other.w)


def test_tame_clips_only_what_is_too_long() -> None:
    drift = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(tame(drift, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    limits = torch.tensor([[2.5], [0.1], [1.0]])
    torch.testing.assert_close(tame(drift, limits), torch.tensor([[1.5, 2.0], [0.06, 0.08], [0.0, 0.0]]))


def test_tamed_steps_stay_finite_on_a_steep_potential() -> None:
    def steep(w: Tensor) -> Tensor:
        return -w.pow(4).sum(-1) * 100

    mean, start = torch.zeros(200, 3), torch.full((200, 3), 2.0)
    wild = semi_implicit(steep, start, mean, 1.0, 0.5, 10, generator=generator(), tamed=False)
    tamed = semi_implicit(steep, start, mean, 1.0, 0.5, 10, generator=generator())
    assert not torch.isfinite(wild.w).all()
    assert tamed.w.norm(dim=-1).max() < 3 * math.sqrt(3) + 1


def test_a_broken_potential_is_never_accepted() -> None:
    def broken(w: Tensor) -> Tensor:
        return torch.where(w[:, 0] > 0, math.nan * w[:, 0], 0 * w[:, 0])

    start = -torch.ones(500, 1)
    result = semi_implicit(broken, start, torch.zeros(500, 1), 1.0, 0.5, 20, generator=generator(), metropolis=True)
    assert (result.w <= 0).all()


def test_potential_and_gradient_are_detached() -> None:
    w = torch.randn(4, 2, generator=generator(), requires_grad=True)
    with torch.no_grad():
        value, gradient = potential_and_gradient(quadratic, w)
    assert not value.requires_grad and not gradient.requires_grad and w.grad is None
    torch.testing.assert_close(gradient, H - K * w.detach())
