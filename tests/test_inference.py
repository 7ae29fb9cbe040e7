"""Chains on the posterior, against a linear-Gaussian decoder whose posterior is known, and in whole models."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import network, objective_of, recipe, sentences, trainer, untrained
from torch import Tensor

from textebm.api import TextEBM
from textebm.errors import RecipeError, TextEBMError
from textebm.model.inference import Refinement, Score, ShortRun, frozen, langevin_kernel, text_noise
from textebm.networks.posterior import Posterior, PosteriorHead, TopDownHead
from textebm.objective.schedules import Weights
from textebm.text.batches import collate_texts

NOISE = 0.5  # of x = W u + NOISE · ε


class Linear:
    """x = W u + NOISE ε, u ~ N(0, I): p(u|x) = N(Λ⁻¹ Wᵀ x / NOISE², Λ⁻¹) with Λ = I + Wᵀ W / NOISE²."""

    def __init__(self, n: int = 400):
        generator = torch.Generator().manual_seed(3)
        self.w = torch.tensor([[1.0, 0.3], [-0.2, 0.6], [0.4, 0.1]])
        u = torch.randn(n, 2, generator=generator)
        self.x = u @ self.w.t() + NOISE * torch.randn(n, 3, generator=generator)
        self.precision = torch.eye(2) + self.w.t() @ self.w / NOISE**2
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.x @ self.w @ self.covariance / NOISE**2

    def log_joint(self, u: Tensor, rows: slice = slice(None)) -> Tensor:
        squared = ((self.x[rows] - u @ self.w.t()) / NOISE).square().sum(-1) + u.square().sum(-1)
        return -0.5 * squared - 3 * math.log(NOISE) - 2.5 * math.log(2 * math.pi)

    def score(self, rows: slice = slice(None)) -> Score:
        return lambda u: self.x[rows] @ self.w / NOISE**2 - u @ self.precision

    def evidence(self) -> Tensor:
        covariance = self.w @ self.w.t() + NOISE**2 * torch.eye(3)
        return torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(self.x)

    def bound(self, q: Posterior, generator: torch.Generator) -> float:
        u = q.sample(generator)
        return float((self.log_joint(u) - q.log_prob(u)).mean())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- refined ----------------------------------------------------------------------------------------------------------


def test_refined_draws_approach_the_true_posterior() -> None:
    linear = Linear(4000)
    q = Posterior(torch.zeros_like(linear.mean), torch.full_like(linear.mean, 0.4))
    generator, misfit, covariances = seeded(), [], []
    for steps in (2, 10, 100):
        chain = Refinement(steps=steps, step_size=0.5)
        error = chain.kernel(linear.score(), q.draw(generator), generator).sample(generator) - linear.mean
        covariances.append(error.t() @ error / len(error))
        misfit.append(float((covariances[-1] - linear.covariance).norm()))
    assert misfit[0] > 3 * misfit[1] > 3 * misfit[2]
    assert torch.allclose(covariances[-1], linear.covariance, atol=0.02)
    assert float(error.mean(0).abs().max()) < 0.02


def test_uphill_steps_close_the_gap_of_a_bad_encoder_and_never_pass_the_evidence() -> None:
    linear = Linear()
    stddev = linear.precision.diagonal().rsqrt().expand_as(linear.mean)
    q = Posterior(linear.mean + 1.0, stddev)
    bounds = [linear.bound(q, seeded())]
    for steps in (1, 4, 30):
        moved = Refinement().mode(linear.score(), q, steps)
        assert torch.equal(moved.stddev, q.stddev)
        bounds.append(linear.bound(moved, seeded()))
    assert bounds == sorted(bounds) and bounds[-1] - bounds[0] > 1
    # what is left is the correlation that a diagonal Gaussian lacks: KL(q ‖ p) = ½ Σ log Λ_ii − ½ log|Λ|
    left = 0.5 * float(linear.precision.diagonal().log().sum() - torch.logdet(linear.precision))
    assert float(linear.evidence().mean()) - bounds[-1] == pytest.approx(left, abs=0.06)


@pytest.mark.parametrize("kind", ["one layer", "top down"])
def test_the_encoder_taught_by_refined_latents_becomes_the_posterior(kind: str) -> None:
    linear = Linear()
    torch.manual_seed(0)
    options = {"standardize": False, "max_stddev": None}
    head = PosteriorHead(3, 2, **options) if kind == "one layer" else TopDownHead(3, (1, 1), **options)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    generator = seeded()
    for step in range(500):
        q = head(linear.x)
        draw = q.draw(generator)
        refined = Refinement(steps=4, step_size=0.6).kernel(linear.score(), draw, generator).sample(generator)
        loss = -q.log_prob(refined).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 500)
        optimizer.step()
    head.eval()
    with torch.no_grad():
        q = head(linear.x)
        assert float((q.mean - linear.mean).square().mean().sqrt()) < 0.08
        draw = torch.stack([q.sample(generator) - linear.mean for _ in range(50)]).flatten(0, 1)
    # forward KL: the marginal variances, not the smaller conditional ones; the chain's step adds up to a tenth
    found = draw.var(0)
    assert torch.allclose(found, linear.covariance.diagonal(), rtol=0.2)
    if kind == "top down":  # which also knows how the coordinates hang together
        correlation = float(torch.corrcoef(draw.t())[0, 1])
        true = float(linear.covariance[0, 1] / linear.covariance.diagonal().prod().sqrt())
        assert correlation == pytest.approx(true, abs=0.08) and abs(true) > 0.1


def test_log_prob_is_the_density_of_the_draw() -> None:
    torch.manual_seed(0)
    head = TopDownHead(5, (2, 3), standardize=False)
    for step in head.steps:
        torch.nn.init.normal_(step[-1].weight)
    q = head(torch.randn(7, 5))
    draw = q.draw(seeded())
    given = torch.distributions.Normal(draw.given.mean, draw.given.stddev)
    assert torch.allclose(q.log_prob(draw.u), given.log_prob(draw.u).sum(-1), atol=1e-5)


# --- short run --------------------------------------------------------------------------------------------------------


def short_run_bound(linear: Linear, run: ShortRun, generator: torch.Generator) -> Tensor:
    noise = torch.randn(run.steps, len(linear.x), 2, generator=generator)
    q = run(linear.score, noise)
    u = q.sample(generator)
    return linear.log_joint(u) - q.log_prob(u)


@pytest.mark.parametrize("start", [0.02, 1.8])
def test_learned_steps_improve_the_bound_from_bad_initial_values(start: float) -> None:
    linear = Linear()
    evidence = float(linear.evidence().mean())
    run = ShortRun(2, 6, start)
    generator = seeded()
    with torch.no_grad():
        before = float(short_run_bound(linear, run, seeded(9)).mean())
    optimizer = torch.optim.Adam(run.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (-short_run_bound(linear, run, generator).mean()).backward()
        optimizer.step()
    run.eval()
    with torch.no_grad():
        after = float(short_run_bound(linear, run, seeded(9)).mean())
        noise = torch.randn(run.steps, len(linear.x), 2, generator=seeded(5))
        error = run(linear.score, noise).sample(seeded(6)) - linear.mean
    assert before < evidence - 1.0
    assert evidence - 0.45 < after < evidence
    assert float(error.mean(0).abs().max()) < 0.1
    # the path's own spread comes on top of the last step's Gaussian: draws are wider than the posterior, within limits
    ratio = error.var(0) / linear.covariance.diagonal()
    assert bool((ratio > 0.9).all()) and bool((ratio < 1.8).all())


def test_the_gradient_in_the_steps_is_that_of_the_unrolled_chain() -> None:
    linear = Linear(5)
    score = linear.score()
    sizes = torch.full((4, 1, 2), 0.3, requires_grad=True)
    start, noise = torch.randn(5, 2, generator=seeded()), torch.randn(3, 5, 2, generator=seeded(1))
    ours = torch.autograd.grad(langevin_kernel(score, start, sizes, noise).mean.square().sum(), sizes)[0]
    u = start
    for place in range(4):
        drift = 0.5 * sizes[place].square() * (linear.x @ linear.w / NOISE**2 - u @ linear.precision)
        drift = drift * (sizes[place].norm() / drift.norm(dim=-1, keepdim=True)).clamp_max(1)
        u = u + drift + (sizes[place] * noise[place] if place < 3 else 0)
    exact = torch.autograd.grad(u.square().sum(), sizes)[0]
    assert torch.allclose(ours, exact, rtol=1e-3, atol=1e-3)


def test_one_row_in_eight_teaches_the_steps_and_all_rows_take_the_same_ones() -> None:
    linear = Linear(17)
    run = ShortRun(2, 3, 0.4)
    noise = torch.randn(3, 17, 2, generator=seeded())
    taught = run(linear.score, noise)
    assert [bool(torch.autograd.grad(m.sum(), run.log_size, retain_graph=True)[0].any()) for m in taught.mean] == (
        [True] * 3 + [False] * 14
    )
    run.eval()
    assert torch.allclose(run(linear.score, noise).mean, taught.mean, atol=1e-6)


# --- in the whole model -----------------------------------------------------------------------------------------------

SHORT = ("inference.kind=short_run", "inference.steps=3")
REFINED = ("inference.kind=refined", "inference.steps=2")
KINDS = ("gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy")


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_gradient_of_the_joint_density_without_dropout(kind: str, learned: bool) -> None:
    model = network(f"prior.kind={kind}", "prior.num_levels=null", "decoder.dropout=0.3", "decoder.word_dropout=0.5")
    for parameter in model.prior.transport.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = collate_texts(sentences(3), model.tokenizer, model.max_tokens)
    level = torch.zeros(3, dtype=torch.long)

    def log_joint(u: Tensor) -> Tensor:
        if not learned:
            log_prior = -0.5 * u.square().sum(-1)
        else:
            log_prior = model.prior.potential(u, level)
        return log_prior - model.reconstruction_nll(batch, u)

    model.train()
    u = torch.randn(3, 8, generator=seeded())
    found = model.posterior_score(batch, learned)(u)
    if learned:
        found = found - model.prior.reference_score(u, level)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        for place in range(8):
            step = 1e-2 * torch.eye(8)[place]
            slope = (log_joint(u + step) - log_joint(u - step)) / 2e-2
            assert torch.allclose(found[:, place], slope, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("inference", [SHORT, REFINED], ids=["short run", "refined"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_prior_trains_and_serves(inference: tuple[str, ...], kind: str) -> None:
    stages = "training.stages=[{name: autoencoder, steps: 3}, {name: prior, steps: 2}, {name: joint, steps: 3}]"
    worker = trainer(*inference, f"prior.kind={kind}", "prior.num_levels=null", stages)
    before = {name: value.clone() for name, value in worker.model.state_dict().items()}
    for step in worker.steps():
        assert all(math.isfinite(value) for value in step.values.values())
        if step.stage.name != "prior" and inference is REFINED:
            assert {"refined_reconstruction", "encoder_cross_entropy"} <= step.values.keys()
    moved = {name.split(".")[0] for name, value in worker.model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"encoder", "decoder", "prior"}
    assert all(math.isfinite(value) for value in worker.health().values.values())
    model, texts = TextEBM(worker.model.eval()), list(sentences(6))
    for refine in (0, 2):
        terms = model.elbo_terms(texts, refine=refine)
        assert bool((terms.reconstruction_nll + terms.kl).isfinite().all())
    assert len(model.reconstruct(texts, refine=1)) == len(model.edit(texts, {"sentiment": "positive"})) == 6
    assert model.classify(texts, "sentiment").probabilities.shape == (6, 2)


@pytest.mark.parametrize("learning", ["score_matching", "recovery"])
def test_a_seed_decides_everything(learning: str) -> None:
    stages = "training.stages=[{name: autoencoder, steps: 3}, {name: joint, steps: 2}]"
    runs = []
    for _ in range(2):
        worker = trainer(*SHORT, f"prior.learning={learning}", stages)
        for _ in worker.steps():
            pass
        runs.append(worker.model.state_dict())
    assert all(value.equal(runs[1][name]) for name, value in runs[0].items())


def test_a_text_does_not_depend_on_its_batch_but_on_the_seed() -> None:
    model, texts = untrained(*SHORT), list(sentences(5))
    together = model.encode(texts)
    alone = torch.cat([model.encode([text]).mean for text in texts])
    assert torch.allclose(together.mean, alone, atol=1e-5)
    assert torch.equal(together.mean, model.encode(texts).mean)
    assert not torch.allclose(together.mean, model.encode(texts, seed=1).mean, atol=1e-2)
    padded = collate_texts(texts, model.tokenizer, model.max_tokens)
    one = collate_texts(texts[:1], model.tokenizer, model.max_tokens)
    noise = text_noise(padded.tokens, padded.lengths, 3, 4, 7)
    assert torch.equal(noise[:, :1], text_noise(one.tokens, one.lengths, 3, 4, 7))
    assert abs(float(text_noise(padded.tokens, padded.lengths, 500, 8, 0).std()) - 1) < 0.02


def test_refining_is_uphill_and_an_amortized_model_can_do_it_too() -> None:
    model, texts = untrained(), list(sentences(8))

    def log_joint(refine: int) -> float:
        mean = model.encode(texts, refine=refine).mean
        batch = collate_texts(texts, model.tokenizer, model.max_tokens)
        with torch.no_grad():
            level = torch.zeros(len(texts), dtype=torch.long)
            prior = model.prior.potential(mean, level) - 0.5 * mean.square().sum(-1)
            return float((prior - model.network.reconstruction_nll(batch, mean)).mean())

    assert log_joint(0) < log_joint(3) < log_joint(20)
    assert torch.equal(model.encode(texts, refine=3).stddev, model.encode(texts).stddev)
    with pytest.raises(TextEBMError, match="refine must be a whole number from 0 up"):
        model.encode(texts, refine=-1)


def test_a_short_run_has_no_encoder_and_is_saved_and_loaded(tmp_path: object) -> None:
    model = untrained(*SHORT)
    assert [name for name in model.network.state_dict() if name.startswith("encoder.")] == ["encoder.log_size"]
    model.save_pretrained(str(tmp_path))
    loaded = TextEBM.from_pretrained(str(tmp_path))
    assert torch.equal(loaded.encode(list(sentences(3))).mean, model.encode(list(sentences(3))).mean)


def test_frozen_gives_back_what_it_took() -> None:
    model = network(*REFINED, "decoder.dropout=0.3").train()
    model.prior.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not model.decoder.dropout.training and not any(p.requires_grad for p in model.parameters())
        _ = 1 / 0
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_encoder_alone_gets_the_encoders_loss() -> None:
    model = network(*REFINED, "inference.elbo_weight=0").train()
    batch = collate_texts(sentences(8), model.tokenizer, model.max_tokens)
    objective = objective_of(model, batch, "autoencoder", Weights(), {}, seeded())
    encoder = torch.autograd.grad(objective.loss, list(model.encoder.parameters()), retain_graph=True)
    alone = torch.autograd.grad(objective.terms["encoder_cross_entropy"], list(model.encoder.parameters()))
    for ours, cross_entropy in zip(encoder, alone, strict=True):
        assert torch.allclose(ours, cross_entropy, atol=1e-5)


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inference.steps=3"], "inference.steps: has no effect with kind 'amortized'"),
        (["inference.kind=short_run", "inference.elbo_weight=1"], "or use kind: refined"),
        (["inference.kind=refined", "inference.step_size=2.5"], "must be at most 2"),
        (["inference.kind=refined", "inference.steps=0"], "must be at least 1"),
        (["inference.kind=short_run", "objective.contrastive_weight=0.3"], "views are read off an encoder"),
        (["inference.kind=refined", "training.stages=[{name: prior, steps: 3}]"], "add an autoencoder or joint stage"),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(*overrides)
    assert message in str(caught.value)


def test_what_the_recipe_leaves_open() -> None:
    refinement = network("inference.kind=refined").refinement
    assert refinement == Refinement(5, 0.7, 1.0)
    encoder = network("inference.kind=short_run").encoder
    assert isinstance(encoder, ShortRun) and encoder.steps == 10
    assert torch.allclose(encoder.log_size.exp(), torch.tensor(0.3))
