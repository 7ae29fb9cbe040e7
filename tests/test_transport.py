"""The ladder: a bijection with the determinant it says, under which bounds do not change; and what lives in layers."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from tiny import sentences, untrained
from torch import Tensor, nn
from torch.distributions import Normal

from textebm.errors import TextEBMError
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.networks.posterior import Posterior, TopDownHead
from textebm.prior.explicit import GaussianMixture
from textebm.prior.learning import recovery, score_matching
from textebm.prior.likelihood import Direction, log_prob_bound
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior, explicit_log_prob
from textebm.prior.sampling import calibrate, sample
from textebm.prior.transport import Identity, Ladder, Transport, resting


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(sizes: tuple[int, ...], seed: int = 0, scale: float = 0.6) -> Ladder:
    """A ladder with weights of some size, far from the identity."""
    torch.manual_seed(seed)
    ladder = Ladder(sizes, 16)
    for parameter in ladder.parameters():
        nn.init.normal_(parameter, std=scale)
    return ladder


def jacobian_log_det(transport: Transport, u: Tensor) -> Tensor:
    """log|det ∂T/∂u| of each row, from autograd's Jacobian alone."""
    rows = torch.func.vmap(torch.func.jacrev(transport))(u)
    return torch.linalg.slogdet(rows).logabsdet


# -- the map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4,), (1, 1), (2, 3, 1), (3, 1, 2, 2)])
def test_the_ladder_is_a_bijection_with_its_determinant(sizes: tuple[int, ...]) -> None:
    ladder = bent(sizes).double()
    u = 1.5 * torch.randn(20, sum(sizes), generator=generator()).double()
    z = ladder(u)
    torch.testing.assert_close(ladder.inverse(z), u, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ladder.log_det(u), jacobian_log_det(ladder, u), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(z[:, : sizes[0]], u[:, : sizes[0]])  # the top layer is its noise
    if len(sizes) > 1:
        assert (z - u).abs().max() > 0.5 and ladder.log_det(u).std() > 0.1
        assert ladder.log_det(100 * u).abs().max() <= 1.5 * sum(sizes[1:]) + 1e-6, "log s is bounded"
        lower = torch.cat([u[:, : -sizes[-1]], u[:, -sizes[-1] :] + 1], dim=-1)
        assert torch.equal(ladder(lower)[:, : -sizes[-1]], z[:, : -sizes[-1]]), "no layer sees those below it"


def test_a_fresh_ladder_and_the_identity_change_nothing() -> None:
    u = torch.randn(5, 6)
    for transport in (Ladder((2, 4)), Identity()):
        assert torch.equal(transport(u), u) and torch.equal(transport.inverse(u), u)
        assert torch.equal(transport.log_det(u), torch.zeros(5))
    for wrong in ((), (2, 0)):
        with pytest.raises(ValueError, match="layers of at least one dimension"):
            Ladder(wrong)


def test_a_resting_module_passes_gradients_on_and_keeps_none() -> None:
    ladder, u = bent((2, 2)), torch.randn(3, 4, requires_grad=True)
    with resting(ladder):
        ladder(u).square().sum().backward()
    assert u.grad is not None and all(p.grad is None and p.requires_grad for p in ladder.parameters())


# -- bounds: in u, against integrals over z --------------------------------------------------------------------------

SIDE = torch.linspace(-14, 14, 421).double()
GRID = torch.cartesian_prod(SIDE, SIDE)
CELL = float(SIDE[1] - SIDE[0]) ** 2


def log_integral(values: Tensor) -> Tensor:
    return torch.logsumexp(values, dim=0) + math.log(CELL)


def two_layers(levels: int = 1) -> LatentPrior:
    """A prior in two dimensions, a layer each, whose potentials and ladder are far from nothing."""
    torch.manual_seed(1)
    energy = LayeredEnergyNet((1, 1), levels, {"code": 3}, hidden_size=12, num_blocks=1)
    for net in energy.layers:
        nn.init.normal_(net.outputs.weight, std=0.4)
    schedule = NoiseSchedule(log_snr_ladder(levels, 3.0, -2.0))
    chain = ChainSettings(steps=60, metropolis=True, start="reference")
    prior = LatentPrior(2, energy, schedule, transport=bent((1, 1), scale=0.35), layers=(1, 1), chain=chain).double()
    prior.rho.fill_(0.7)
    return prior


def zeros(points: Tensor) -> Tensor:
    return torch.zeros(len(points), dtype=torch.long)


@torch.no_grad()
def test_the_bound_in_u_is_the_bound_in_z() -> None:
    """log p(x) by an integral over z, with autograd's determinant, less the ELBO by an integral over u, is the KL from
    q(z|x) to the true posterior by an integral over z. Nothing but the map is shared."""
    prior, decoder_noise, x = two_layers(), 0.8, torch.tensor([0.9, -0.4]).double()
    q = Normal(torch.tensor([0.3, -0.2]).double(), torch.tensor([0.5, 0.7]).double())

    def log_likelihood(z: Tensor) -> Tensor:  # p(x|z): x = z bent once more, and noise
        return Normal(z + 0.3 * z.sin(), decoder_noise).log_prob(x).sum(-1)

    def log_tilted(u: Tensor) -> Tensor:
        potential = prior.energy.potential(prior.transport(u), zeros(u))
        return potential + Normal(0.0, 1.0).log_prob(u).sum(-1)

    log_z = log_integral(log_tilted(GRID))  # the normaliser, over u
    log_q = q.log_prob(GRID).sum(-1)
    weight = log_q.exp() * CELL
    elbo = (weight * (log_likelihood(prior.transport(GRID)) - log_q + log_tilted(GRID) - log_z)).sum()
    kl_u = (weight * (log_q - log_tilted(GRID) + log_z)).sum()

    u = prior.transport.inverse(GRID)  # from here on the grid is one of z
    determinant = jacobian_log_det(prior.transport, u)
    log_p_z, log_q_z = log_tilted(u) - log_z - determinant, q.log_prob(u).sum(-1) - determinant
    assert log_integral(log_p_z).exp().item() == pytest.approx(1.0, abs=1e-3)
    evidence = log_integral(log_p_z + log_likelihood(GRID))
    posterior = log_p_z + log_likelihood(GRID) - evidence
    gap = (log_q_z.exp() * CELL * (log_q_z - posterior)).sum()
    assert (evidence - elbo).item() == pytest.approx(gap.item(), abs=2e-3)
    assert gap > 0.05
    kl_z = (log_q_z.exp() * CELL * (log_q_z - log_p_z)).sum()
    assert kl_u.item() == pytest.approx(kl_z.item(), abs=2e-3)
    assert kl_u > 0.1


@torch.no_grad()
def test_densities_of_z_need_the_determinant() -> None:
    prior = two_layers()
    z = torch.tensor([[0.2, -0.5], [1.0, 0.8], [-1.2, 0.3]]).double()
    u = prior.transport.inverse(z)
    potential = prior.energy.potential(prior.transport(GRID), zeros(GRID))
    log_z = log_integral(potential + Normal(0.0, 1.0).log_prob(GRID).sum(-1))
    exact = prior.energy.potential(z, zeros(z)) + Normal(0.0, 1.0).log_prob(u).sum(-1) - log_z

    def log_density(prior: LatentPrior, z: Tensor, direction: Direction = "reverse") -> Tensor:
        u = prior.transport.inverse(z)
        return log_prob_bound(prior, u, direction=direction) - prior.transport.log_det(u)

    for direction in ("forward", "reverse"):  # one level: all of its randomness is log Z's, which is fixed
        found = log_density(prior, z, direction)
        torch.testing.assert_close(found, exact - jacobian_log_det(prior.transport, u), atol=0.03, rtol=0)
    assert (exact - log_density(prior, z)).abs().max() > 0.1
    mixture = LatentPrior(2, prior.energy, prior.schedule, transport=prior.transport, explicit=GaussianMixture(3, 2))
    mixture = mixture.double()
    assert log_integral(log_density(mixture, GRID)).exp().item() == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(log_prob_bound(mixture, u), explicit_log_prob(mixture, u))


# -- the potential, layer by layer -----------------------------------------------------------------------------------


def test_layered_potential_is_the_sum_of_its_layers() -> None:
    torch.manual_seed(0)
    net = LayeredEnergyNet((2, 3, 1), 2, {"a": 4, "b": 2, "c": 3}, head_layers={"a": 2, "c": 0}, hidden_size=8)
    z, level = torch.randn(7, 6), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    assert net.potential(z, level).abs().max() < 1e-6, "zero logits must mean F = 0"
    for each in net.layers:
        nn.init.normal_(each.outputs.weight)
    assert [list(each.head_sizes) for each in net.layers] == [["c"], [], ["a"], ["b"]]  # the last one reads all of z
    parts = [*z.split([2, 3, 1], dim=-1), z]
    by_layer = [each.potential(part, level) for each, part in zip(net.layers, parts, strict=True)]
    torch.testing.assert_close(net.potential(z, level), torch.stack(by_layer).sum(0))
    logits = net(z, level)
    assert {name: f.shape[-1] for name, f in logits.items()} == {"a": 4, "b": 2, "c": 3}
    assert list(logits) == ["a", "b", "c"] == list(net.head_sizes)
    torch.testing.assert_close(logits["a"], net.layers[2](parts[2], level)["a"])
    torch.testing.assert_close(logits["b"], net.layers[3](z, level)["b"])
    torch.testing.assert_close(logits["c"], net.layers[0](parts[0], level)["c"])
    assert len(LayeredEnergyNet((2, 3), 1, {"a": 2}, head_layers={"a": 1}).layers) == 2  # no head, no such net


def test_learning_moves_the_potential_and_leaves_the_transport() -> None:
    prior = two_layers(3).float()
    posterior = Posterior(torch.randn(16, 2), torch.full((16, 2), 0.3))
    score_matching(prior, posterior, generator()).loss.mean().backward()
    assert all(p.grad is not None for p in prior.energy.parameters())
    assert all(p.grad is None for p in prior.transport.parameters())
    recovery(prior, posterior.mean, generator()).energy_loss.mean().backward()  # here the bound's own gradient does
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.transport.parameters())


# -- the posterior, top down -----------------------------------------------------------------------------------------


def head_of(sizes: tuple[int, ...], **options: float | bool) -> TopDownHead:
    torch.manual_seed(0)
    head = TopDownHead(6, sizes, hidden_size=8, **options)  # type: ignore[arg-type]
    nn.init.normal_(head.raw_stddev.weight, std=0.3)
    for step in head.steps:
        for parameter in step.parameters():
            nn.init.normal_(parameter, std=0.6)
    return head.eval()


def test_a_layer_sees_those_above_it_and_not_those_below() -> None:
    head = head_of((2, 3, 1), max_stddev=0.8)
    posterior = head(torch.randn(5, 6))
    with torch.no_grad():
        draw = posterior.draw(generator())
        again = head.descend(posterior.raw, (draw.u - draw.given.mean) / draw.given.stddev)
        torch.testing.assert_close(again.u, draw.u)
        still = head.descend(posterior.raw, torch.zeros(5, 6))
    assert torch.equal(still.u, posterior.mean) and torch.equal(still.given.stddev, posterior.stddev)
    assert torch.equal(draw.given.mean[:, :2], posterior.mean[:, :2])
    assert ((draw.given.mean[:, 2:] - posterior.mean[:, 2:]).abs() > 1e-3).all()
    assert posterior.stddev.max() < 0.8 and draw.given.stddev.max() < 0.8
    assert posterior.kl_to_standard_normal().shape == (5, 6) and posterior.entropy().shape == (5,)
    torch.testing.assert_close(posterior.unpacked(posterior.packed[1:3]).mean, posterior.mean[1:3])


def test_a_fresh_head_is_independent_layer_by_layer() -> None:
    torch.manual_seed(0)
    posterior = TopDownHead(6, (2, 3)).eval()(torch.randn(4, 6))
    assert torch.equal(posterior.draw(generator()).given.mean, posterior.mean)


@torch.no_grad()
def test_the_kl_along_draws_is_the_kl() -> None:
    """E_q Σ_l KL(q(u^l | u^{>l}, x) ‖ N(0, I)) against E_q[log q − log N], both by Monte Carlo."""
    head = head_of((1, 2))
    draw = head(torch.randn(1, 6).expand(40_000, 6)).draw(generator())
    log_q = Normal(draw.given.mean, draw.given.stddev).log_prob(draw.u).sum(-1)
    plain = (log_q - Normal(0.0, 1.0).log_prob(draw.u).sum(-1)).mean()
    assert draw.given.kl_to_standard_normal().sum(-1).mean().item() == pytest.approx(plain.item(), abs=0.04)
    assert draw.given.entropy().mean().item() == pytest.approx(-log_q.mean().item(), abs=0.04)


@pytest.mark.parametrize("alpha", [1.0, 0.95, 0.4])
@torch.no_grad()
def test_the_score_of_a_diffused_top_down_posterior(alpha: float) -> None:
    """Stein's identity, E[h(u) ∇log q_t(u|x)] = −E[∇h(u)], holds for any unbiased estimate of the score."""
    head, n = head_of((1, 1), max_stddev=0.9), 200_000
    posterior = head(torch.randn(1, 6).expand(n, 6))
    found = posterior.diffused(torch.full((n, 1), alpha), generator())
    estimate = -found.noise / found.tau
    assert estimate.mean(0).abs().max() < 0.03
    for i in range(2):
        for j in range(2):
            h, slope = torch.sin(2 * found.u[:, j]), 2 * torch.cos(2 * found.u[:, j])
            expected = -slope.mean() if i == j else torch.zeros(())
            assert (estimate[:, i] * h).mean().item() == pytest.approx(expected.item(), abs=0.04), (i, j)


def test_one_layer_from_the_top_is_the_gaussian_posterior() -> None:
    """The general estimate of the score, where it must be the closed one."""
    head = head_of((3,), max_stddev=0.9)
    posterior = head(torch.randn(50, 6))
    alpha = torch.linspace(0.1, 1, 50)[:, None]
    found = posterior.diffused(alpha, generator())
    assert torch.allclose(found.tau**2, 1 - alpha**2 + alpha**2 * posterior.stddev**2)
    score = -(found.u - alpha * posterior.mean) / found.tau**2
    torch.testing.assert_close(-found.noise / found.tau, score, atol=1e-4, rtol=1e-4)


def test_top_down_statistics() -> None:
    head = head_of((2, 3)).train()
    features = torch.randn(400, 6) @ torch.randn(6, 6) + 3
    draw = head(features).draw(generator())
    torch.testing.assert_close(draw.given.mean.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(draw.given.mean.var(0, unbiased=False), torch.ones(5), atol=1e-2, rtol=0)
    before = head.norms[1].running_mean.clone()
    assert torch.isfinite(head(features[:1]).draw().u).all()
    head.posterior(head(features).packed).diffused(torch.ones(400, 1))
    assert torch.equal(head.norms[1].running_mean, before), "only draws of a training batch teach the statistics"
    head.eval()
    for _ in range(2):
        head.absorb_statistics(head(features))
        mean = head(features).mean.detach().double()
        torch.testing.assert_close(mean.mean(0), torch.zeros(5).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(mean.var(0, unbiased=False), torch.ones(5).double(), atol=1e-5, rtol=0)


# -- holding the upper layers ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["semi_implicit", "langevin"])
def test_resampling_one_level_is_the_exact_conditional(sampler: Literal["semi_implicit", "langevin"]) -> None:
    prior = two_layers()
    prior.chain = ChainSettings(sampler=sampler, steps=150, step_size=0.6, metropolis=True)
    held = torch.full((8000, 1), 0.8).double()
    u = sample(prior, 8000, held=held, generator=generator()).z
    assert torch.equal(u[:, :1], held)
    line = torch.stack([torch.full_like(SIDE, 0.8), SIDE], dim=-1)
    log_p = prior.energy.potential(prior.transport(line), zeros(line)) + Normal(0.0, 1.0).log_prob(SIDE)
    p = log_p.softmax(0)
    mean = (p * SIDE).sum()
    assert u[:, 1].mean().item() == pytest.approx(mean.item(), abs=0.04)
    assert u[:, 1].var().item() == pytest.approx((p * (SIDE - mean) ** 2).sum().item(), abs=0.05)


def test_resampling_through_levels_keeps_what_is_held() -> None:
    energy = EnergyNet(3, 4, {}, hidden_size=4, num_blocks=1)
    prior = LatentPrior(3, energy, NoiseSchedule(log_snr_ladder(4, 3.0, -2.0)))
    held = torch.randn(20_000, 2, generator=generator(1))
    u = sample(prior, 20_000, held=held, generator=generator()).z  # F = 0: the rest is N(0, 1) and knows nothing of it
    assert torch.equal(u[:, :2], held)
    torch.testing.assert_close(torch.cat([u.mean(0)[2:], u.var(0)[2:]]), torch.tensor([0.0, 1.0]), atol=0.03, rtol=0)
    assert u.T.corrcoef()[2, :2].abs().max() < 0.03


def test_resampling_through_levels_follows_what_is_held() -> None:
    """Two coordinates with correlation .8 and the exact potentials: given 1.5 the other is N(1.2, .36). The sampler's
    own discretisation leaves it a correlation r (free samples), so compare with N(1.5 r, 1 − r²)."""
    schedule = NoiseSchedule(log_snr_ladder(8, 5.0, -4.0))

    class Exact(EnergyNet):
        def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
            r = 0.8 * schedule.alpha_bar[level].square()  # the correlation at that level, unit variances
            x, y = u[:, 0], u[:, 1]
            ratio = (x * x - 2 * r * x * y + y * y) / (1 - r * r) - x * x - y * y
            return [(-0.5 * ratio - 0.5 * torch.log1p(-r * r))[:, None]]

    prior = LatentPrior(2, Exact(2, 8, {}), schedule, chain=ChainSettings(steps=2, acceptance=0.9))
    calibrate(prior, generator=generator())
    r = float(sample(prior, 8000, generator=generator()).z.T.corrcoef()[0, 1])
    assert r > 0.7
    u = sample(prior, 8000, held=torch.full((8000, 1), 1.5), generator=generator()).z[:, 1]
    assert u.mean().item() == pytest.approx(1.5 * r, rel=0.1)
    assert u.var().item() == pytest.approx(1 - r * r, rel=0.1)


@pytest.mark.parametrize("kind", ["joint_energy", "hierarchical_diffusion_energy", "gaussian"])
def test_generating_from_a_layer_down(kind: str) -> None:
    model = untrained(f"prior.kind={kind}", "latent.layers=[3,4,1]", "prior.transport=ladder", "prior.steps=2")
    assert model.layers == (3, 4, 1) and isinstance(model.prior.transport, Ladder)
    mean = model.encode(list(sentences(4))).mean
    free = model.sample_latents(4, seed=1)
    for layer, kept in ((1, 7), (2, 3), (3, 0)):
        own = model.sample_latents(4, resample_from_layer=layer, latents=mean, seed=1)
        assert torch.equal(own[:, :kept], mean[:, :kept]) and ((own[:, kept:] - mean[:, kept:]).abs() > 1e-6).all()
        shared = model.sample_latents(4, resample_from_layer=layer, seed=1, symbols={"sentiment": 1})
        assert torch.equal(shared[:, :kept], shared[:1, :kept].expand(4, -1))
        assert len(shared[:, kept:].unique(dim=0)) == 4
        assert len(model.generate(2, resample_from_layer=layer, latents=mean[:1])) == 2
        assert model.sample_latents(0, resample_from_layer=layer).shape == (0, 8)
    assert len(free.unique(dim=0)) == 4
    for layer, message in ((0, "from 1 up, got int 0"), (4, "between 1 and 3 for this model, got 4")):
        with pytest.raises(TextEBMError, match=message):
            model.generate(1, resample_from_layer=layer)
    with pytest.raises(TextEBMError, match="they need resample_from_layer"):
        model.generate(4, latents=mean)
    with pytest.raises(TextEBMError, match=r"expected latents of shape \(1, 8\) or \(3, 8\), got \(4, 8\)"):
        model.generate(3, resample_from_layer=1, latents=mean)
