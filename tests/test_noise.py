"""The ladder of noise levels: its algebra, and its closed forms against sums and draws written out here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from textebm.prior.noise import NoiseSchedule, Reference, log_snr_ladder, published_ladder

REFERENCES: tuple[Reference, ...] = ("stationary", "flat")
LADDERS = {"log-snr 4": log_snr_ladder(4, 4.0, -3.0), "published 6": published_ladder(6), "one": torch.ones(1)}
N = 100_000


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_algebra(ladder: str, reference: Reference) -> None:
    schedule = NoiseSchedule(LADDERS[ladder], reference)
    a, sigma = schedule.step_a, schedule.step_sigma
    torch.testing.assert_close(a.square() + sigma.square(), torch.ones_like(a), atol=1e-6, rtol=0)
    torch.testing.assert_close(a[:-1].cumprod(0), schedule.alpha_bar[1:], atol=1e-6, rtol=1e-5)
    assert schedule.reverse_scale[-1] == 0 and schedule.reverse_stddev[-1] == 1, "the top level starts from N(0, I)"
    scale, stddev = (a, sigma) if reference == "stationary" else (1 / a, sigma / a)
    torch.testing.assert_close(schedule.reverse_scale[:-1], scale[:-1])
    torch.testing.assert_close(schedule.reverse_stddev[:-1], stddev[:-1])
    assert not schedule.state_dict(), "the ladder is the recipe's, not the checkpoint's"


@pytest.mark.parametrize("bad", [[], [0.9, 0.5], [1.0, 1.0], [1.0, 0.5, 0.6], [[1.0]]])
def test_bad_ladders_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must start at 1 and fall strictly"):
        NoiseSchedule(torch.tensor(bad))


def test_published_ladder_figures() -> None:
    """Yu et al. 2022 with T = 6: β linear from 1e−4 to 2e−2, every hundredth. The products are written out here."""
    ladder = published_ladder(6)
    assert ladder[0] == 1
    product, expected = 1.0, {}
    for i in range(1000):
        product *= 1 - (1e-4 + (2e-2 - 1e-4) * i / 999)
        expected[i] = product
    for level in range(1, 6):
        assert ladder[level].square() == pytest.approx(expected[100 * level], rel=1e-9)
    assert ladder[-1].square() == pytest.approx(0.078, abs=0.002)
    assert published_ladder(1).tolist() == [1.0]


def test_log_snr_ladder() -> None:
    ladder = log_snr_ladder(5, 4.0, -2.0)
    snr = (ladder[1:].square() / (1 - ladder[1:].square())).log()
    torch.testing.assert_close(snr, torch.tensor([4.0, 2.0, 0.0, -2.0]).double())
    assert ladder[0] == 1 and log_snr_ladder(1, 4.0, -2.0).tolist() == [1.0]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_diffusing_at_once_equals_steps(level: int) -> None:
    schedule = NoiseSchedule(log_snr_ladder(4, 4.0, -3.0))
    u0 = torch.tensor([2.0, -1.0]).expand(N, 2)
    once = schedule.diffuse(u0, torch.full((N,), level), normal(N, 2, seed=1))
    steps = u0
    for t in range(level):
        steps = schedule.forward_step(steps, torch.full((N,), t), normal(N, 2, seed=2 + t))
    alpha = schedule.alpha_bar[level]
    for draws in (once, steps):  # standard errors are below .0032 and .0045
        torch.testing.assert_close(draws.mean(0), alpha * u0[0], atol=0.015, rtol=0)
        torch.testing.assert_close(draws.var(0), (1 - alpha.square()).expand(2), atol=0.02, rtol=0)
    assert torch.equal(schedule.diffuse(u0, torch.zeros(N, dtype=torch.long), normal(N, 2)), u0)


@pytest.mark.parametrize("levels", [1, 2, 6, 16])
def test_stationary_reverse_without_potential_keeps_the_standard_normal(levels: int) -> None:
    schedule = NoiseSchedule(log_snr_ladder(levels, 4.0, -3.0), "stationary")
    variance = 0.0
    for t in reversed(range(levels)):
        variance = float(schedule.reverse_scale[t] ** 2 * variance + schedule.reverse_stddev[t] ** 2)
        assert variance == pytest.approx(1.0, abs=1e-5)


def test_flat_reverse_without_potential_has_its_closed_form_variance() -> None:
    """u_t = (u_{t+1} + σ ε)/a: v_t = (v_{t+1} + σ²)/a² from v_top = 1, so v_0 = 2/ᾱ_top² − 1."""
    schedule = NoiseSchedule(log_snr_ladder(4, 4.0, -3.0), "flat")
    u = normal(N, 1)
    for t in (2, 1, 0):
        u = schedule.reverse_scale[t] * u + schedule.reverse_stddev[t] * normal(N, 1, seed=t + 1)
    assert u.var().item() == pytest.approx(float(2 / schedule.alpha_bar[-1] ** 2 - 1), rel=0.03)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("ladder", LADDERS)
def test_expected_log_reference_is_its_defining_sum(reference: Reference, ladder: str) -> None:
    """E over the forward chain of Σ_t log N(u_t; c u_{t+1}, s²) − log N(u_{t+1}; a u_t, σ²), and log N(top; 0, 1)."""
    alpha_bar = LADDERS[ladder]
    schedule = NoiseSchedule(alpha_bar, reference)
    for z in (torch.tensor([0.0, 0.0]), torch.tensor([1.5, -0.7])):
        u = z.expand(N, 2)
        total = torch.zeros(N)
        for t in range(len(alpha_bar) - 1):
            a = float(alpha_bar[t + 1] / alpha_bar[t])
            sigma = math.sqrt(1 - a * a)
            new = a * u + sigma * normal(N, 2, seed=10 + t)
            c, s = (a, sigma) if reference == "stationary" else (1 / a, sigma / a)
            total += (Normal(c * new, s).log_prob(u) - Normal(a * u, sigma).log_prob(new)).sum(-1)
            u = new
        total += Normal(0, 1).log_prob(u).sum(-1)
        assert schedule.expected_log_reference(z[None]).item() == pytest.approx(
            total.mean().item(), abs=float(5 * total.std() / math.sqrt(N)) + 1e-4
        )


def test_reference_score() -> None:
    u, level = normal(3, 2), torch.tensor([0, 1, 2])
    schedule = {reference: NoiseSchedule(log_snr_ladder(3, 4.0, -3.0), reference) for reference in REFERENCES}
    assert torch.equal(schedule["stationary"].reference_score(u, level), -u)
    flat = schedule["flat"].reference_score(u, level)
    assert torch.equal(flat, torch.stack([torch.zeros(2), torch.zeros(2), -u[2]]))
