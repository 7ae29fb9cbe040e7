"""Contrastive guidance: the views, their density given the latent, and generation by example."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import network, objective_of, sentences, trained, trainer, untrained
from torch import Tensor
from torch.nn import functional as F

from textebm.errors import TextEBMError
from textebm.evaluation.likeness import likeness
from textebm.evaluation.metric import UndefinedMetricError
from textebm.model.auxiliary_terms import view_term
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.networks.view import ViewHead
from textebm.objective.contrastive import simclr_loss
from textebm.objective.schedules import Weights
from textebm.prior.condition import Condition
from textebm.prior.guidance import view_loss
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior, concentration
from textebm.prior.sampling import sample
from textebm.text.batches import collate_texts

GUIDED = ("objective.contrastive_weight=0.5",)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- views -----------------------------------------------------------------------------------------------------------


def test_simclr_by_hand() -> None:
    """Two sentences with orthogonal views, both readings alike: a view sees its twin at cosine 1, two others at 0."""
    views = torch.eye(2)
    t = 0.5
    expected = math.log(math.exp(1 / t) + 2) - 1 / t
    assert simclr_loss(views, views, temperature=t).item() == pytest.approx(expected, abs=1e-6)
    negatives = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.6, 0.8]])
    rows = [math.log(math.exp(1 / t) + 2 + math.exp(-1 / t) + 1 + math.exp(x / t)) - 1 / t for x in (0.6, 0.8)]
    found = simclr_loss(views, views, negatives, temperature=t).item()
    assert found == pytest.approx(sum(rows) / 2, abs=1e-6)


def test_simclr_is_least_where_readings_agree_and_sentences_differ() -> None:
    g = generator()
    views = F.normalize(torch.randn(16, 8, generator=g), dim=-1)
    agreeing, mixed = simclr_loss(views, views), simclr_loss(views, views.roll(1, 0))
    alike = simclr_loss(views[:1].expand(16, 8), views[:1].expand(16, 8))
    assert agreeing < alike < mixed
    assert alike.item() == pytest.approx(math.log(31), abs=1e-5)


def test_view_head_gives_points_on_the_sphere_and_two_readings_differ() -> None:
    head, features = ViewHead(6, 3), torch.randn(5, 6, generator=generator())
    torch.testing.assert_close(head(features).norm(dim=-1), torch.ones(5))
    assert not torch.equal(head(features), head(features))  # its dropout
    head.eval()
    assert torch.equal(head(features), head(features))


# -- the density of a view given the latent --------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.5, 3.0, 20.0])
def test_guidance_leaves_the_marginal_unchanged(kappa: float) -> None:
    """∫ p(u) exp(κ cos(g(u), c)) dc over the circle, by quadrature, is p(u) times one number for all u."""
    net = EnergyNet(2, 1, {}, hidden_size=16, num_blocks=1, view_size=2)
    angle = torch.arange(4000).double() / 4000 * 2 * torch.pi
    circle = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (4000, 2)
    u = torch.randn(50, 2, generator=generator())
    _, view = net.logits_and_view(u, torch.zeros(50, dtype=torch.long))
    assert view is not None
    joint = (kappa * F.normalize(view.double(), dim=-1) @ circle.t()).exp()  # (50, 4000)
    integral = joint.mean(-1) * 2 * torch.pi
    torch.testing.assert_close(integral, integral.mean().expand(50), rtol=1e-6, atol=0)
    assert integral[0].item() == pytest.approx(2 * math.pi * float(torch.special.i0(torch.tensor(kappa))), rel=1e-5)


@pytest.mark.parametrize("kappa", [2.0, 10.0, 40.0])
def test_concentration_is_that_of_draws_from_the_density(kappa: float) -> None:
    """On the sphere of R³ the cosine's mean is coth κ − 1/κ (Langevin's function), exactly."""
    resultant = torch.tensor(1 / math.tanh(kappa) - 1 / kappa)
    assert float(concentration(resultant, 3)) == pytest.approx(kappa, rel=0.15)
    assert float(concentration(torch.tensor(-0.2), 3)) == 0


def test_view_loss_is_minus_the_cosine_and_remembers_it_by_level() -> None:
    prior = LatentPrior(2, EnergyNet(2, 3, {}, view_size=2), NoiseSchedule(log_snr_ladder(3, 4, -3)))
    view, target = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    level = torch.tensor([0, 2])
    assert view_loss(prior, view, target, level).item() == pytest.approx(-(1 + 0.8) / 2)
    weight = torch.tensor([1.0, 0.5])
    assert view_loss(prior, view, target, level, weight).item() == pytest.approx(-(1 + 0.4) / 2)
    for _ in range(4000):
        view_loss(prior, view, target, level)
    torch.testing.assert_close(prior.view_cosine, torch.tensor([1.0, 0.0, 0.8]), atol=0.01, rtol=0)
    prior.eval()
    before = prior.view_cosine.clone()
    view_loss(prior, -view, target, level)
    assert torch.equal(prior.view_cosine, before)


class Direction(EnergyNet):
    """F = 0 and g(u) = u: p(u | c) ∝ N(u; 0, I) exp(s κ u·c/‖u‖)."""

    def logits_and_view(
        self, u: Tensor, level: Tensor, context: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        return [torch.zeros(len(u), 1) + 0 * u[:, :1]], u


@pytest.mark.parametrize("strength, examples", [(1.0, [[1.0, 0.0]]), (0.5, [[1.0, 0.0], [0.0, 1.0]])])
def test_sampling_by_example_equals_rejection(strength: float, examples: list[list[float]]) -> None:
    prior = LatentPrior(
        2,
        Direction(2, 1, {}, view_size=2),
        NoiseSchedule(log_snr_ladder(1, 4, -3)),
        chain=ChainSettings(steps=60, metropolis=True),
    )
    prior.rho.fill_(0.6)
    prior.view_cosine.fill_(0.6)
    like = torch.tensor(examples).sum(0)
    kappa = float(concentration(prior.view_cosine, 2)[0])
    u = sample(
        prior, 8000, condition=Condition(like=like.expand(8000, 2), like_strength=strength), generator=generator()
    ).z
    draws = torch.randn(200_000, 2, generator=generator(1))
    log_weight = strength * kappa * (F.normalize(draws, dim=-1) @ like - like.norm())
    kept = draws[torch.rand(len(draws), generator=generator(2)).log() < log_weight]
    assert len(kept) > 8000
    torch.testing.assert_close(u.mean(0), kept.mean(0), atol=0.04, rtol=0)
    torch.testing.assert_close(u.T.cov(), kept.T.cov(), atol=0.06, rtol=0)
    free = sample(prior, 8000, generator=generator()).z
    assert (free.mean(0) - kept.mean(0)).norm() > 0.3


def test_condition_carries_the_examples_row_by_row() -> None:
    asked = Condition({"y": torch.arange(4)}, 2.0, torch.arange(8.0).view(4, 2), 3.0)
    part = asked.rows(slice(1, 3))
    assert part.symbols["y"].tolist() == [1, 2] and part.like is not None and part.like.tolist() == [[2, 3], [4, 5]]
    twice = asked.repeated(2)
    assert twice.symbols["y"].tolist() == [0, 1, 2, 3] * 2 and twice.like is not None and len(twice.like) == 8
    assert (part.strength, part.like_strength) == (2.0, 3.0) and not asked.free and not Condition(like=part.like).free


def test_layers_add_their_views() -> None:
    net = LayeredEnergyNet((2, 3), 2, {"y": 2}, hidden_size=8, num_blocks=1, view_size=4)
    z, level = torch.randn(5, 5, generator=generator()), torch.tensor([0, 1, 0, 1, 0])
    _, view = net.logits_and_view(z, level)
    parts = [*z.split((2, 3), -1), z]  # the last net reads all layers
    views = [each.logits_and_view(part, level)[1] for each, part in zip(net.layers, parts, strict=True)]
    assert view is not None
    torch.testing.assert_close(view, torch.stack([each for each in views if each is not None]).sum(0))


# -- the whole model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["autoencoder", "joint"])
def test_every_part_of_the_guidance_learns(stage: str) -> None:
    model = network(*GUIDED).train()
    batch = collate_texts(list(sentences(12)), model.tokenizer, 16)
    objective = objective_of(model, batch, stage, Weights(), {}, generator())
    assert {"contrastive", "view_cosine"} <= set(objective.terms)
    assert -1 <= float(objective.terms["view_cosine"].detach()) <= 1
    objective.loss.backward()
    for part in (model.encoder.view, model.prior.energy.view):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    # the view is a target for the prior: −E cos alone gives h nothing
    model.zero_grad()
    features = model.encoder.features(batch.tokens, batch.lengths)
    means, views = model.encoder.posterior(features).mean, model.encoder.views(features).detach()
    view_term(model, means, views, None, {}).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.view.parameters())


def test_without_guidance_nothing_is_there() -> None:
    model = untrained()
    assert not model.guided and model.encoder.view is None and model.prior.energy.view is None
    assert not any("view" in name for name in model.network.state_dict())
    with pytest.raises(TextEBMError, match="objective.contrastive_weight"):
        model.generate(2, like=["they loved it"])


@pytest.mark.parametrize(
    "kind",
    ["gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy"],
)
def test_every_prior_can_be_asked_by_example(kind: str) -> None:
    model = untrained(*GUIDED, f"prior.kind={kind}", "prior.steps=3", "prior.chain_precision=float32")
    model.prior.view_cosine.fill_(0.5)
    example = list(sentences(2))
    free, near = model.sample_latents(6, seed=1), model.sample_latents(6, like=example[:1], seed=1)
    both = model.sample_latents(6, like=example, symbols={"sentiment": 1}, seed=1)
    assert torch.isfinite(near).all() and not torch.equal(free, near) and not torch.equal(near, both)
    if "gaussian" not in kind:  # a closed-form prior is drawn from directly when nothing is asked
        nothing = model.sample_latents(6, like=example, like_strength=0.0, seed=1)
        torch.testing.assert_close(nothing, free, atol=1e-4, rtol=1e-4)


def test_training_makes_samples_like_their_examples() -> None:
    """The independent check: the views of what is generated lie nearer to the example's than chance does."""
    model = trained(*GUIDED, "training.stages=[{name: autoencoder, steps: 60}, {name: prior, steps: 60}]")
    examples = list(sentences(20))
    views = model.views(examples)
    assert float(model.prior.view_cosine[0]) > 0.1
    level = torch.zeros(16, dtype=torch.long)
    nearer = 0.0
    for i, example in enumerate(examples):
        cosines = []
        for like in ([example], []):
            z = model.sample_latents(16, like=like, like_strength=3.0, seed=i)
            with torch.no_grad():
                _, view = model.prior.energy.logits_and_view(z, level)
            cosines.append(float((F.normalize(view, dim=-1) @ views[i]).mean()))
        nearer += (cosines[0] - cosines[1]) / len(examples)
    assert nearer > 0.1


def test_guided_training_resumes_bit_for_bit() -> None:
    whole, first, second = trainer(*GUIDED), trainer(*GUIDED), trainer(*GUIDED)
    torch.manual_seed(5)  # of the views' dropout
    for _ in whole.steps():
        pass
    torch.manual_seed(5)
    for step in first.steps():
        if step.number == 31:  # in the prior stage, where the views are cached
            break
    tensors, state = first.state()
    second.restore(tensors, state)
    for _ in second.steps():
        pass
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


# -- the measure -----------------------------------------------------------------------------------------------------


class Parrot:
    """Repeats its example; without one it says a word of its own."""

    def generate(self, n: int, /, *, like: object = (), seed: int = 0) -> list[str]:
        assert isinstance(like, (list, tuple))
        return [like[0]] * n if like else ["zebra"] * n


def test_likeness_of_a_parrot() -> None:
    examples = ["red apple", "green pear", "blue plum"]
    found = likeness(Parrot(), examples, ["red apple", "red pear", "zebra"], [*examples, "zebra"], per_example=3)
    assert (found.generated, found.free, found.real, found.n) == (pytest.approx(1.0), 0.0, 0.0, 9)
    # "red pear" shares one of two words; all words are equally rare: cosine 1/2
    assert found.reconstruction == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-6)
    with pytest.raises(UndefinedMetricError):
        likeness(Parrot(), ["one"], ["one"], ["one"])
