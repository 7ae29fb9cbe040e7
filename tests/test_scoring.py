"""The likelihood interval holds log p(x) where it is known: closed forms, integrals on a grid in 1 and 2 dimensions.

The "text" is a number (or two) with a Gaussian decoder, so that p(x) = ∫ N(x; W T(u), r²) p(u) du can be worked out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from tiny import sentences, trained, untrained
from torch import Tensor
from torch.distributions import Normal

from textebm.errors import TextEBMError
from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Affine, Draw, Posterior
from textebm.prior.explicit import GaussianMixture, StandardNormal
from textebm.prior.likelihood import Annealing, chain_log_weights
from textebm.prior.noise import NoiseSchedule, Reference, log_snr_ladder
from textebm.prior.prior import LatentPrior
from textebm.prior.transport import Ladder
from textebm.text.batches import TokenBatch, collate_texts
from textebm.use.likelihood import NllInterval, bounds_from_weights, fit_posterior, fit_scaling, importance_weights

torch.set_num_threads(1)
NOISE = 0.7  # of the decoder
GRID = torch.linspace(-7, 7, 701).double()
STEP = float(GRID[1] - GRID[0])
PLAIN = Annealing()
THETA = (0.8, -0.6, 0.7)


class HandSet(EnergyNet):
    def __init__(self, dim: int, levels: int, potential: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(dim, levels, {}, hidden_size=2, num_blocks=1)
        self.given = potential

    def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return [self.given(u, level)]


def wave(u: Tensor, level: Tensor) -> Tensor:
    return torch.tensor(THETA)[level][:, None] * torch.sin(2 * u)


def interval(
    prior: LatentPrior,
    x: Tensor,
    q: Posterior,
    *,
    draws: int,
    annealing: Annealing = PLAIN,
    rows: int = 400,
    decode: Callable[[Tensor], Tensor] = lambda z: z,
) -> NllInterval:
    """Of one x (m,) and its posterior q (1, d), *rows* times over: the mean is the expectation that bounds promise."""
    g = torch.Generator().manual_seed(0)
    wide = Posterior(q.mean.expand(rows, -1), q.stddev.expand(rows, -1))
    drawn = [wide.draw(g) for _ in range(draws)]
    nll = torch.stack([-Normal(decode(prior.transport(each.u)), NOISE).log_prob(x).sum(-1) for each in drawn])
    return bounds_from_weights(*importance_weights(prior, drawn, nll, annealing, g), g)


def near(value: Tensor, truth: float, *, side: str, slack: float = 3.5) -> None:
    error = slack * float(value.std()) / math.sqrt(len(value))
    assert error < 0.12, "the test must be able to fail"
    mean = float(value.mean())
    assert mean > truth - error if side == "upper" else mean < truth + error, (mean, truth, error)


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_closed_form_priors_with_a_linear_gaussian_decoder(kind: str) -> None:
    """x = W z + noise: p(x) is N(0, W Wᵀ + r²), or a mixture of such."""
    torch.manual_seed(1)
    w = torch.tensor([[1.0, -0.5], [0.3, 0.8]])
    explicit = StandardNormal() if kind == "normal" else GaussianMixture(3, 2)
    prior = LatentPrior(2, EnergyNet(2, 1, {}), NoiseSchedule(torch.ones(1)), explicit=explicit)
    x = torch.tensor([0.9, -0.4])
    if isinstance(explicit, GaussianMixture):
        with torch.no_grad():
            explicit.log_stddev.fill_(-0.4)
        means, scale, mass = explicit.mean @ w.t(), explicit.log_stddev[0].exp(), explicit.logits.softmax(0).log()
    else:
        means, scale, mass = torch.zeros(1, 2), torch.ones(2), torch.zeros(1)
    covariance = w @ torch.diag(scale.square()) @ w.t() + NOISE**2 * torch.eye(2)
    each = torch.distributions.MultivariateNormal(means.detach(), covariance.detach()).log_prob(x)
    truth = -float(torch.logsumexp(mass.detach() + each, 0))
    q = Posterior(torch.tensor([[0.6, -0.6]]), torch.tensor([[0.6, 0.6]]))  # not the true posterior
    gaps = []
    for draws in (4, 16, 128):
        found = interval(prior, x, q, draws=draws, decode=lambda z: z @ w.t(), rows=2000)
        near(found.upper, truth, side="upper")
        near(found.lower, truth, side="lower")
        gaps.append(float(found.width.mean()))
    assert gaps[0] > 1.5 * gaps[1] > 3 * gaps[2] > 0
    assert float(found.upper.mean()) == pytest.approx(truth, abs=0.02)
    # without a posterior draw among them both ends are above: with one draw of q, by KL(q || posterior)
    plain = interval(prior, x, q, draws=1, decode=lambda z: z @ w.t(), rows=2000)
    assert float(plain.lower.mean()) > truth + 0.02


def three_levels(reference: Reference) -> LatentPrior:
    prior = LatentPrior(1, HandSet(1, 3, wave), NoiseSchedule(log_snr_ladder(3, 1.0, -1.0), reference))
    prior.rho.fill_(0.5)
    return prior


def density_on_grid(schedule: NoiseSchedule) -> Tensor:
    """log p(u_0) on the grid, by passing the density down the levels."""
    top = schedule.num_levels - 1
    tilted = THETA[top] * torch.sin(2 * GRID) + Normal(0.0, 1.0).log_prob(GRID)
    density = (tilted - torch.logsumexp(tilted, 0)).exp() / STEP
    for t in reversed(range(top)):
        kernel = Normal(float(schedule.reverse_scale[t]) * GRID[:, None], float(schedule.reverse_stddev[t]))
        tilted = THETA[t] * torch.sin(2 * GRID) + kernel.log_prob(GRID)  # (u_{t+1}, u_t)
        rows = (tilted - torch.logsumexp(tilted, dim=1, keepdim=True)).exp() / STEP
        density = (rows * density[:, None]).sum(0) * STEP
    return density.log()


@pytest.mark.parametrize("reference", ["stationary", "flat"])
def test_three_levels_against_the_integral(reference: Reference) -> None:
    prior = three_levels(reference)
    log_p = density_on_grid(prior.schedule)
    for point in (-0.9, 0.4):
        x = torch.tensor([point])
        truth = -float(torch.logsumexp(log_p + Normal(GRID, NOISE).log_prob(x.double()), 0) + math.log(STEP))
        q = Posterior(0.6 * x[None], torch.tensor([[0.5]]))
        widths = {}
        for draws, annealing in ((16, Annealing(1, 10)), (16, Annealing(8, 10))):
            found = interval(prior, x, q, draws=draws, annealing=annealing, rows=1500)
            near(found.upper, truth, side="upper")
            near(found.lower, truth, side="lower")
            widths[draws, annealing.temperatures] = float(found.width.mean())
        assert widths[16, 1] > 1.5 * widths[16, 8] > 0
        tight = interval(prior, x, q, draws=64, annealing=Annealing(12, 10, 8), rows=60)
        assert float(tight.upper.mean()) == pytest.approx(truth, abs=0.12)
        assert truth - 0.2 < float(tight.lower.mean()) < truth + 0.03


def test_the_chains_average_is_the_density_itself() -> None:
    """E[w] = p(u_0) though the chain's own bound is below it: averaging weights removes that gap."""
    prior = three_levels("stationary")
    log_p = density_on_grid(prior.schedule)
    g = torch.Generator().manual_seed(0)
    for point in (-0.8, 1.2):
        u = torch.full((20_000, 1), point)
        annealing = Annealing(6, 30)
        weights = chain_log_weights(prior, u, annealing, generator=g)
        truth = float(log_p[(GRID - point).abs().argmin()])
        averaged = float(torch.logsumexp(weights.safe, 0) - math.log(len(u)))
        assert averaged == pytest.approx(truth, abs=0.03)
        assert float(weights.safe.mean()) < averaged - 0.08


def test_two_layers_behind_a_ladder_against_a_grid_in_two_dimensions() -> None:
    torch.manual_seed(3)
    ladder = Ladder((1, 1), 8)
    for step in ladder.steps:
        torch.nn.init.normal_(step[-1].weight, std=0.7)
    net = HandSet(2, 1, lambda z, t: 0.8 * torch.sin(2 * z[:, :1]) * z[:, 1:].tanh())
    prior = LatentPrior(2, net, NoiseSchedule(torch.ones(1)), transport=ladder, layers=(1, 1))
    prior.rho.fill_(0.5)
    axis = torch.linspace(-6, 6, 241)
    u = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z = ladder(u)
        level = torch.zeros(len(u), dtype=torch.long)
        tilted = prior.potential(u, level) + Normal(0.0, 1.0).log_prob(u).sum(-1)
        x = torch.tensor([0.8, -0.5])
        joint = tilted + Normal(z, NOISE).log_prob(x).sum(-1)
        truth = -float(torch.logsumexp(joint, 0) - torch.logsumexp(tilted, 0))
        q = Posterior(torch.tensor([[0.5, -0.2]]), torch.tensor([[0.7, 0.7]]))
        found = interval(prior, x, q, draws=16, annealing=Annealing(6, 10), rows=800)
        near(found.upper, truth, side="upper")
        near(found.lower, truth, side="lower")
        assert -0.02 < float(found.width.mean()) < 0.25


def test_more_chains_narrow_a_wide_step() -> None:
    net = HandSet(3, 2, lambda u, t: 1.2 * torch.cos(2 * u).sum(-1, keepdim=True))
    prior = LatentPrior(3, net, NoiseSchedule(log_snr_ladder(2, -1.0, -1.5)))
    prior.rho.fill_(0.5)
    x, q = torch.tensor([0.2, 0.1, -0.3]), Posterior(torch.zeros(1, 3), torch.full((1, 3), 0.5))
    one, eight = (
        interval(prior, x, q, draws=4, annealing=Annealing(2, 5, chains), rows=400).width.mean() for chains in (1, 8)
    )
    assert float(eight) < 0.8 * float(one)


def test_weights_that_are_equal_give_their_value() -> None:
    found = bounds_from_weights(torch.full((6, 3), -2.0), torch.full((6, 3), -2.0))
    torch.testing.assert_close(found.upper, torch.full((3,), 2.0))
    torch.testing.assert_close(found.lower, torch.full((3,), 2.0))
    torch.testing.assert_close(found.effective_draws, torch.full((3,), 6.0))


PRIORS = {
    "gaussian": (),
    "gaussian_mixture": (),
    "energy": ("prior.num_levels=null",),
    "diffusion_energy": (),
    "joint_energy": ("prior.num_levels=null",),
    "hierarchical_diffusion_energy": (),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_every_prior_has_an_interval_of_text(kind: str) -> None:
    model = untrained(f"prior.kind={kind}", *PRIORS[kind])
    texts = list(sentences(12))
    seen: list[tuple[int, int]] = []
    found = model.nll_interval(texts, draws=4, temperatures=3, seed=1, progress=lambda i, n: seen.append((i, n)))
    assert found.lower.shape == found.upper.shape == found.width.shape == (12,)
    assert torch.isfinite(found.upper).all() and float(found.width.mean()) > -0.3
    assert found.num_tokens.tolist() == [len(text.split()) + 1 for text in texts] and seen[-1] == (12, 12)
    assert ((found.effective_draws >= 1) & (found.effective_draws <= 4.001)).all()
    again = model.nll_interval(texts, draws=4, temperatures=3, seed=1)
    assert torch.equal(again.upper, found.upper)
    terms = model.elbo_terms(texts)
    assert float(found.upper.mean()) < float((terms.reconstruction_nll + terms.kl).mean()) + 0.5


def test_batches_of_any_size_estimate_the_same() -> None:
    model, texts = trained(), list(sentences(30))
    small = model.nll_interval(texts, draws=8, seed=0, batch_size=16)
    large = model.nll_interval(texts, draws=8, seed=3, batch_size=4096)
    assert float(small.upper.mean()) == pytest.approx(float(large.upper.mean()), abs=0.6)
    assert model.nll_interval([], draws=2).upper.shape == (0,)
    with pytest.raises(TextEBMError, match="draws must be a whole number from 1 up"):
        model.nll_interval(texts, draws=0)


def test_draw_is_what_log_q_reads() -> None:
    q = Posterior(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    expected = Normal(q.mean, q.stddev).log_prob(torch.tensor([[0.5, 0.5]])).sum(-1)
    draw = Draw(torch.tensor([[0.5, 0.5]]), q)
    torch.testing.assert_close(draw.given.log_prob(draw.u), expected)


class LinearGaussian(torch.nn.Module):
    """A "sentence" of n words is the number n/4 − 1 in both coordinates, seen through N(u, NOISE²); its q is off."""

    device, max_tokens = torch.device("cpu"), 16

    def __init__(self, explicit: bool):
        super().__init__()
        self.tokenizer = trained().tokenizer
        given = StandardNormal() if explicit else None
        self.prior = LatentPrior(
            2, HandSet(2, 1, lambda u, t: 0 * u[:, :1]), NoiseSchedule(torch.ones(1)), explicit=given
        )

    def x(self, batch: TokenBatch) -> Tensor:
        return (batch.lengths.float()[:, None] / 4 - 1).expand(-1, 2)

    def posterior(self, batch: TokenBatch, generator: torch.Generator | None = None) -> Posterior:
        return Posterior(self.x(batch), torch.tensor([0.2, 0.9]).expand(len(batch), -1))

    def reconstruction_nll(self, batch: TokenBatch, u: Tensor) -> Tensor:
        return -Normal(u, NOISE).log_prob(self.x(batch)).sum(-1)


@pytest.mark.parametrize("explicit", [True, False])
def test_scaling_finds_the_posterior_of_a_linear_gaussian_decoder(explicit: bool) -> None:
    """p(u|x) = N(x / (1 + r²), r² / (1 + r²)) for a decoder of noise r under N(0, 1)."""
    texts = [" ".join(["the"] * (1 + i % 9)) for i in range(200)]
    found = fit_scaling(LinearGaussian(explicit), texts, steps=200)  # type: ignore[arg-type]
    variance = NOISE**2 / (1 + NOISE**2)
    torch.testing.assert_close(found.scale, torch.full((2,), 1 / (1 + NOISE**2)), atol=0.04, rtol=0)
    expected = math.sqrt(variance) / torch.tensor([0.2, 0.9])
    torch.testing.assert_close(found.spread / expected, torch.ones(2), atol=0.08, rtol=0)


@pytest.mark.parametrize("explicit", [True, False])
def test_each_texts_own_q_finds_the_posterior_of_a_linear_gaussian_decoder(explicit: bool) -> None:
    model = LinearGaussian(explicit)
    batch = collate_texts(list(sentences(30)), model.tokenizer, 16)
    start = model.posterior(batch)
    start = Posterior(start.mean + torch.linspace(-0.5, 0.5, 30)[:, None], start.stddev)  # wrong, each its own way
    found = fit_posterior(model, batch, start, steps=400, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    torch.testing.assert_close(found.mean, model.x(batch) / (1 + NOISE**2), atol=0.06, rtol=0)
    stddev = torch.full((30, 2), NOISE / math.sqrt(1 + NOISE**2))
    torch.testing.assert_close(found.stddev / stddev, torch.ones(30, 2), atol=0.12, rtol=0)


@pytest.mark.parametrize("kind", ["diffusion_energy", "joint_energy"])
def test_a_fitted_q_gives_a_tighter_bound_and_is_only_a_q(kind: str) -> None:
    """A posterior trained far too narrow: its bound gains by scaling and by steps on each text. A width that is wrong
    in the same way for all texts is scaling's to mend: the steps alone reach less, and after it they change little.
    What the texts are encoded to does not change, nor does the model."""
    extra = ("prior.num_levels=null",) if kind == "joint_energy" else ()
    model = trained(f"prior.kind={kind}", "objective.kl_weight=0.02", *extra)
    texts = list(sentences(40))
    before = model.encode(texts).mean
    weights = [(each.clone(), each.requires_grad, each.grad is None) for each in model.network.parameters()]

    def upper(scaling_texts: Sequence[str] = (), q_steps: int = 0) -> float:
        found = model.nll_interval(texts[:20], draws=4, seed=0, scaling_texts=scaling_texts, q_steps=q_steps)
        return float(found.upper.mean())

    plain, scaled, own, both = upper(), upper(texts[20:]), upper((), 40), upper(texts[20:], 40)
    assert scaled < plain - 0.5 and own < plain - 0.5, (plain, scaled, own, both)
    assert both < own - 0.2 and abs(both - scaled) < 0.5, (plain, scaled, own, both)
    assert torch.equal(model.encode(texts).mean, before)
    for (value, *state), now in zip(weights, model.network.parameters(), strict=True):
        assert torch.equal(value, now) and state == [now.requires_grad, now.grad is None]
    with pytest.raises(TextEBMError, match="q_steps must be a whole number from 0 up"):
        upper((), -1)


def test_a_moved_top_down_posterior_moves_every_layer() -> None:
    model = untrained("prior.kind=joint_energy", "prior.num_levels=null")
    batch = collate_texts(list(sentences(5)), model.tokenizer, 16)
    with torch.no_grad():
        q = model.network.posterior(batch)
        scale, spread, none = torch.linspace(0.5, 1.2, 8), torch.linspace(2.0, 0.7, 8), torch.zeros(8)
        scaled = q.moved(Affine(scale, none, spread))
        same = q.moved(Affine(torch.ones(8), none, torch.ones(8)))
        torch.testing.assert_close(same.mean, q.mean)
        draw = scaled.draw(torch.Generator().manual_seed(0))
        torch.testing.assert_close(scaled.given(draw.u).mean, draw.given.mean)
        torch.testing.assert_close(draw.given.mean[:, :4], scale[:4] * q.mean[:, :4])  # the top sees no layer above
        torch.testing.assert_close(draw.given.stddev[:, :4], spread[:4] * q.stddev[:, :4])
        below = q.given(draw.u)  # the unscaled Gaussian of the lower layer at the same layers above
        torch.testing.assert_close(draw.given.mean[:, 4:], scale[4:] * below.mean[:, 4:])
        # for each text its own, and one move after another
        shift = torch.linspace(-1, 1, 40).view(5, 8)
        twice = scaled.moved(Affine(torch.full((8,), 2.0), shift, torch.full((8,), 0.5)))
        second = twice.given(draw.u)
        torch.testing.assert_close(second.mean, 2 * draw.given.mean + shift)
        torch.testing.assert_close(second.stddev, 0.5 * draw.given.stddev)
        torch.testing.assert_close(twice.draw(torch.Generator().manual_seed(0)).given.mean[:, :4], second.mean[:, :4])
