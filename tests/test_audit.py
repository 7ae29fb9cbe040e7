"""The audit: the language's entropy, each estimator's side where it can be worked out, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny import sentences, trained, untrained
from torch import Tensor
from typer.testing import CliRunner

from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.evaluation.audit import (
    Effort,
    audit,
    averaged_log_prob,
    coverage,
    fit_to_one_draw,
    language_entropy,
    with_errors,
)
from textebm.networks.energy import EnergyNet
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.noise import NoiseSchedule
from textebm.prior.prior import LatentPrior
from textebm.text import grammar
from textebm.text.batches import collate_texts
from textebm.use.likelihood import NllInterval

TINY = Effort(draws=2, temperatures=2, reference_draws=4, reference_temperatures=2, fit_steps=8, averaged=2)


def test_the_entropy_is_below_that_of_equal_chances() -> None:
    """At most ln 241,632; a template of s sentences is drawn in 1 of 288 cases, each of its sentences in 1 of s."""
    sizes = [
        math.prod(len(slot) for slot in template)
        for factors in grammar.combinations()
        for template in grammar.templates(factors)
    ]
    assert len(sizes) == 288 and sum(sizes) == grammar.language_size() == 241_632
    expected = sum(math.log(288 * size) / 288 for size in sizes)
    assert language_entropy() == pytest.approx(expected) and expected < math.log(241_632)
    assert expected > math.log(241_632) - 1


class Slope(EnergyNet):
    def all_logits(self, u: Tensor, level: Tensor, context: Tensor | None = None) -> list[Tensor]:
        return [2 * u]


def test_averaging_e_to_the_f_flatters_and_less_with_more_draws() -> None:
    """F = 2u on N(0, 1): log Z = 2. One draw has E log Ẑ = 0, so that log p is 2 nats too high on average."""
    prior = LatentPrior(1, Slope(1, 1, {}, hidden_size=2, num_blocks=1), NoiseSchedule(torch.ones(1)))
    u = torch.linspace(-1, 1, 4000)[:, None]
    exact = 2 * u[:, 0] + standard_normal_log_prob(u) - 2
    generator = torch.Generator().manual_seed(0)
    excess = [float((averaged_log_prob(prior, u, draws, generator) - exact).mean()) for draws in (1, 8, 64)]
    assert excess[0] == pytest.approx(2, abs=0.15) and excess[0] > excess[1] + 0.5 > excess[2] + 0.7 > 0.7


def test_coverage_counts_groups() -> None:
    low, high = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([2.0, 2.0, 6.0])
    ones = torch.ones(3)
    interval = with_errors(NllInterval(low, high, ones.long(), 4 * ones), 4)
    assert interval.error.tolist() == [0, 0, 0]
    assert coverage(interval, torch.tensor([1.0, 1.0, 5.5]), groups=20, group_size=2) == 1
    assert coverage(interval, torch.tensor([3.0, 3.0, 7.0]), groups=20, group_size=3) == 0
    assert 0.4 < coverage(interval, torch.tensor([1.0, 1.0, 9.0]), groups=300, group_size=1) < 0.9
    noisy = with_errors(NllInterval(low, high, ones.long(), ones), 4)  # one draw has all the weight: √(1 − 1/4)
    slack = 2 * math.sqrt(0.75 / 3)
    for beyond, inside in ((slack - 0.01, 1), (slack + 0.01, 0)):
        assert coverage(noisy, high + beyond, groups=3, group_size=3, errors=2.0) == inside


def test_a_posterior_fitted_to_one_draw_flatters_itself_there() -> None:
    model = trained().network
    before = [parameter.clone() for parameter in model.parameters()]
    batch = collate_texts(list(sentences(20)), model.tokenizer, model.max_tokens)
    with model.evaluating(), torch.no_grad():
        start = model.posterior(batch)
    fitted = fit_to_one_draw(model, batch, start, steps=60, noise_seed=3)

    def loss(seed: int) -> float:
        with model.evaluating(), torch.no_grad():
            u = fitted.sample(torch.Generator().manual_seed(seed))
            nll = model.reconstruction_nll(batch, u) - standard_normal_log_prob(u)
            return float((nll + fitted.log_prob(u)).mean())

    assert loss(3) < loss(4) - 3, "the draw that it was fitted to against another one"
    assert float((fitted.stddev / start.stddev).mean()) > 1.5
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_audit_of_a_tiny_model() -> None:
    found = audit(trained(), sentences=8, groups=10, group_size=4, effort=TINY)
    rows = {each.name: each for each in found.estimates}
    assert len(rows) == 9 and found.entropy == pytest.approx(language_entropy()) and 0 <= found.coverage <= 1
    assert all(math.isfinite(each.nats) and each.error >= 0 for each in rows.values())
    fitted_draw = rows["posterior fitted to one noise draw, the same draw"]
    assert fitted_draw.nats < rows["posterior fitted to one noise draw, a fresh draw"].nats
    assert json.loads(json.dumps(found.as_dict()))["estimates"][0]["below_entropy"] is False


def test_an_audit_needs_the_embedded_language() -> None:
    other = untrained()
    other.network.recipe = None
    with pytest.raises(TextEBMError, match="corpus 'grammar'"):
        audit(other)
    with pytest.raises(TextEBMError, match="as many as are audited; got 30"):
        audit(untrained(), sentences=20, group_size=30)


def test_the_command_prints_every_estimator(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path / "model")
    small = ("--sentences", "6", "--groups", "3", "--group-size", "2", "--draws", "2", "--reference-draws", "2")
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "model"), *small, "--fit-steps", "2"])
    assert done.exit_code == 0, done.output
    assert "entropy of the language\t" in done.stdout and "interval, upper end" in done.stdout
    assert "3 groups of 2 of the 6 sentences" in done.stderr
    refused = CliRunner().invoke(app, ["audit", str(tmp_path / "model"), "--sentences", "3"])
    assert refused.exit_code == 2 and "groups need 1 to 3 sentences" in refused.stderr
