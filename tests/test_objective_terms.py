"""The training loss is the weighted sum of its terms, in every stage; each number worked by hand.

The energy network's last layer is a bias alone here: F is one constant, its gradient 0, and the score that of N(0, I).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import network, objective_of, recipe, splits, trainer
from torch import Tensor

from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import LatentBatch
from textebm.networks.posterior import Posterior
from textebm.objective.schedules import Weights
from textebm.prior.prior import LatentPrior
from textebm.text.batches import TokenBatch, collate, special_ids

ROWS, DIM, LEVELS, PENALTY = 6, 8, 4, 0.05
WEIGHTS = Weights(kl=0.3, supervised=2.0, cluster=5.0, mutual_information=0.7)
CLASSES = {
    "sentiment": torch.tensor([0, 1, 1, 0, -1, 1]),
    "topic": torch.tensor([-1, -1, 2, -1, -1, 0]),
    "code": torch.tensor([4, 0, 2, 2, 1, 3]),
}


def batch() -> TokenBatch:
    tokenizer, read, _ = splits(recipe())
    return collate(read["train"].store, np.arange(ROWS), {}, **special_ids(tokenizer))


def constant(prior: LatentPrior) -> float:
    """Make F the same everywhere; what it then is."""
    outputs = prior.energy.outputs
    torch.nn.init.zeros_(outputs.weight)
    with torch.no_grad():
        outputs.bias.copy_(torch.linspace(-1, 2, len(outputs.bias)))
    sizes = list(prior.energy.head_sizes.values())
    return sum(float(head.logsumexp(0)) - math.log(len(head)) for head in outputs.bias.detach().split(sizes))


def model(*overrides: str) -> LatentTextModel:
    return network(f"prior.potential_penalty={PENALTY}", "objective.mutual_information_weight=0.7", *overrides).train()


def cross_entropies(prior: LatentPrior) -> dict[str, Tensor]:
    """−log p(y) of each known class, which depends on no latent here."""
    sizes = prior.energy.head_sizes
    heads = dict(zip(sizes, prior.energy.outputs.bias.detach().split(list(sizes.values())), strict=True))
    return {name: -heads[name].log_softmax(0)[classes.clamp_min(0)] for name, classes in CLASSES.items()}


def symbols_at_level_0(prior: LatentPrior) -> float:
    """Weighted cross-entropies; I(z; y) is 0, as p(y|z) is the same for every z."""
    nll = cross_entropies(prior)
    known = {name: float(nll[name][classes >= 0].mean()) for name, classes in CLASSES.items()}
    return 2.0 * (known["sentiment"] + known["topic"]) + 5.0 * known["code"]


def test_the_joint_loss_is_the_weighted_sum_of_its_terms() -> None:
    net = model()
    value = constant(net.prior)
    found = objective_of(net, batch(), "joint", WEIGHTS, CLASSES, torch.Generator().manual_seed(3))
    q = found.posterior
    assert q is not None
    u = q.draw(torch.Generator().manual_seed(3)).u
    entropy = (q.stddev.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1).mean()
    log_prior = -u.square().sum(-1).mean()  # u · ∇log N(u; 0, I)
    expected = (
        found.terms["reconstruction"]
        + DIM * (found.terms["score_error"] + PENALTY * value**2)
        - 0.3 * (entropy + log_prior)
        + symbols_at_level_0(net.prior)
    )
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.terms["potential"].item() == pytest.approx(abs(value), rel=1e-5)


def test_the_joint_loss_counts_information_between_latents_and_codes() -> None:
    net = model("objective.mutual_information_weight=0.7")
    seed = torch.Generator()
    more, none = (
        objective_of(net, batch(), "joint", weights, {}, seed.manual_seed(3))
        for weights in (Weights(mutual_information=0.7), Weights(mutual_information=0.0))
    )
    information = more.terms["mutual_information_code"].item()
    assert information > 0.01
    assert none.loss.item() - more.loss.item() == pytest.approx(0.7 * information, rel=1e-3)


def latents() -> LatentBatch:
    generator = torch.Generator().manual_seed(1)
    mean, stddev = torch.randn(ROWS, DIM, generator=generator), 0.2 + torch.rand(ROWS, DIM, generator=generator)
    return LatentBatch(Posterior(mean, stddev), CLASSES)


def noisy_symbols(prior: LatentPrior, level: Tensor) -> float:
    """Cross-entropies at noisy latents, each times the square of the signal that is left at its level, ᾱ²."""
    nll, signal = cross_entropies(prior), prior.schedule.alpha_bar[level].square()
    weight = {"sentiment": 2.0, "topic": 2.0, "code": 5.0}
    return sum(weight[name] * float((signal * nll[name])[classes >= 0].mean()) for name, classes in CLASSES.items())


def test_the_prior_loss_by_score_matching_is_the_weighted_sum_of_its_terms() -> None:
    net, held = model(), latents()
    value = constant(net.prior)
    found = objective_of(net, held, "prior", WEIGHTS, None, torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    held.posterior.sample(again)
    level = torch.randint(LEVELS, (ROWS,), generator=again)
    assert len(level.unique()) > 1
    alpha = net.prior.schedule.alpha_bar[level][:, None]
    noise = torch.randn(ROWS, DIM, generator=again)
    tau = (1 - alpha.square() + alpha.square() * held.posterior.stddev.square()).sqrt()
    score = -(alpha * held.posterior.mean + tau * noise)
    error = (tau * score + noise).square().mean()
    assert found.terms["score_error"].item() == pytest.approx(error.item(), rel=1e-5)
    expected = DIM * (error.item() + PENALTY * value**2) + symbols_at_level_0(net.prior)
    assert found.loss.item() == pytest.approx(expected + noisy_symbols(net.prior, level), rel=1e-5)


def test_the_prior_loss_by_recovery_is_the_weighted_sum_of_its_terms() -> None:
    net = model("prior.learning=recovery", "prior.symbol_levels=first")
    value = constant(net.prior)
    found = objective_of(net, latents(), "prior", WEIGHTS, None, torch.Generator().manual_seed(4))
    # F is as large on data as on samples; a level below the top stands for the three of them
    expected = 2 * PENALTY * value**2 * LEVELS + symbols_at_level_0(net.prior)
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    assert found.terms["contrast"].item() == pytest.approx(0, abs=1e-5)


def test_the_encoder_follows_the_bound_and_not_the_score_matching_error() -> None:
    """Its gradient is that of reconstruction − H − log p alone: F learns from posteriors that are held."""
    net = model("heads=[]")
    parameters = [each for each in net.encoder.parameters() if each.requires_grad]
    loss = objective_of(net, batch(), "joint", WEIGHTS, {}, torch.Generator().manual_seed(3)).loss
    ours = torch.autograd.grad(loss, parameters)
    text, again = batch(), torch.Generator().manual_seed(3)
    q = net.posterior(text, again)
    u = q.draw(again).u
    leaf = u.detach().requires_grad_(True)
    potential = net.prior.potential(leaf, torch.zeros(ROWS, dtype=torch.long)).sum() - 0.5 * leaf.square().sum()
    (score,) = torch.autograd.grad(potential, leaf)
    assert (score + leaf).abs().max() > 0.01, "F says something"
    bound = (
        net.reconstruction_nll(text, u).mean()
        - 0.3 * q.stddev.log().sum(-1).mean()
        - 0.3 * (u * score.detach()).sum(-1).mean()
    )
    for mine, theirs in zip(ours, torch.autograd.grad(bound, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------ clusters as targets


@pytest.mark.parametrize("residual", [True, False])
def test_residual_clusters_say_what_the_labels_leave(residual: bool) -> None:
    """Means with a wide axis that is the label and a narrow one that is not."""
    worker = trainer("heads.2.classes=2", f"objective.cluster_residual={str(residual).lower()}")
    rng = np.random.default_rng(0)
    label = worker.classes.labels["sentiment"]
    hidden = rng.integers(2, size=len(label))
    means = 0.1 * rng.normal(size=(len(label), DIM))
    means[:, 0] += 4 * label - 2
    means[:, 1] += 2 * hidden - 1
    worker.classes.find(means.astype(np.float32))
    found = worker.classes.clusters["code"]
    agreement = {
        name: max(np.mean(found == other), np.mean(found != other))
        for name, other in {"label": label, "hidden": hidden}.items()
    }
    assert agreement["hidden" if residual else "label"] > 0.99
    assert agreement["label" if residual else "hidden"] < 0.65


def test_clusters_teach_from_cluster_start_on() -> None:
    worker = trainer("objective.cluster_start=0.5", "training.stages=[{name: autoencoder, epochs: 4}]")
    taught = ["cross_entropy_code" in step.values for step in worker.steps()]
    assert taught == [step >= 20 for step in range(40)], "the first clustering after half of the stage's four epochs"
