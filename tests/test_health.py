"""The alarms: each fires on its own trouble and is silent on a healthy run."""

from __future__ import annotations

import pytest
import torch
from tiny import network, recipe, splits, trainer

from textebm.model.latent_text_model import LatentTextModel
from textebm.training.health import Health, measure_health

ALARMS = {"posterior collapse", "few active units", "code collapse", "energy divergence", "chain stuck"}


def health(model: LatentTextModel, stage: str = "autoencoder") -> Health:
    return measure_health(model, splits(recipe())[1]["validation"], stage=stage)  # type: ignore[arg-type]


def names(found: Health) -> set[str]:
    return {warning.partition(":")[0] for warning in found.warnings}


def test_a_healthy_short_run_is_silent() -> None:
    worker = trainer(
        "data.max_tokens=12",
        "encoder.hidden_size=48",
        "decoder.hidden_size=48",
        "latent.max_stddev=0.3",
        "objective.kl_weight=0.2",
        "training.learning_rate=1e-2",
        "training.prior_learning_rate=1e-2",
        "training.stages=[{name: autoencoder, steps: 150}, {name: prior, steps: 120}]",
    )
    for step in worker.steps():
        if step.stage_step == step.stage.steps:
            found = worker.health()
            assert found.warnings == [], found.values
    assert found.values["reliance"] > 0.2 and found.values["kl_per_unit_used"] == 8
    assert {"energy_magnitude", "acceptance", "codes_in_use", "accuracy_sentiment"} <= found.values.keys()


SHAPES = {
    "lstm, standardised": ("encoder.kind=lstm", "decoder.kind=lstm"),
    "transformer": ("encoder.kind=transformer", "decoder.kind=transformer", "latent.standardize=false"),
    "segments": ("latent.segments=2", "latent.standardize=false"),
    "layers": ("latent.layers=[4,4]", "prior.transport=ladder", "latent.standardize=false"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_collapse_alarm_tells_a_collapsed_run_from_a_healthy_one(shape: str) -> None:
    def trained_health(*overrides: str) -> Health:
        worker = trainer(
            *("data.max_tokens=8", "prior.kind=gaussian", "heads=[]", "training.learning_rate=1e-2"),
            "training.stages=[{name: autoencoder, steps: 60}]",
            *SHAPES[shape],
            *overrides,
        )
        for _ in worker.steps():
            pass
        return worker.health()

    healthy = trained_health("objective.kl_weight=0.1", "latent.max_stddev=0.3")
    collapsed = trained_health("objective.kl_weight=50", "objective.kl_schedule=constant", "latent.max_stddev=null")
    assert "posterior collapse" not in names(healthy), healthy.values
    assert "posterior collapse" in names(collapsed), collapsed.values
    assert collapsed.values["reliance"] < 0.01 < 0.05 < healthy.values["reliance"]


def test_a_decoder_that_ignores_the_latent_raises_the_collapse_alarm() -> None:
    model = network()
    hidden = model.decoder.hidden
    model.decoder.hidden = lambda inputs, z: hidden(inputs, torch.zeros_like(z))  # type: ignore[method-assign]
    found = health(model)
    assert found.values["reliance"] == pytest.approx(0, abs=1e-4)
    assert "posterior collapse" in names(found)
    warning = next(each for each in found.warnings if each.startswith("posterior collapse"))
    assert "decoder.word_dropout" in warning and "objective.kl_weight" in warning, "says what to change"


def test_constant_posteriors_raise_the_unit_alarm() -> None:
    model = network("latent.standardize=false", "latent.max_stddev=null")
    for parameter in model.encoder.head.mean.parameters():
        torch.nn.init.zeros_(parameter)
    found = health(model)
    assert found.values["kl_per_unit_used"] == 0 and "few active units" in names(found)


def test_one_code_for_all_raises_the_code_alarm() -> None:
    model = network()
    torch.nn.init.zeros_(model.prior.energy.outputs.weight)
    model.prior.energy.outputs.bias.data[-1] = 9.0
    assert "code collapse" in names(health(model, "prior"))
    assert "code collapse" not in names(health(model)), "codes are learned after the first clustering"


def test_a_steep_potential_raises_the_energy_alarm() -> None:
    model = network()
    torch.nn.init.normal_(model.prior.energy.outputs.weight, std=1e4)
    found = health(model, "prior")
    assert found.values["energy_magnitude"] > 1000
    assert "energy divergence" in names(found)


def test_a_chain_that_does_not_move_raises_an_alarm() -> None:
    model = network("prior.kind=energy", "prior.steps=5", "prior.sampler=langevin", "prior.step_size=3")
    assert "chain stuck" in names(health(model, "prior"))


def test_samples_far_from_the_posteriors_raise_an_alarm() -> None:
    model = network("latent.standardize=false", "latent.max_stddev=0.1", "prior.kind=energy")
    torch.nn.init.zeros_(model.prior.energy.outputs.weight)  # samples of N(0, I), posteriors near one point
    torch.nn.init.zeros_(model.encoder.head.mean.weight)
    assert "prior off the posterior" in names(health(model, "prior"))


def test_health_is_measured_without_a_trace() -> None:
    model = network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert health(model, "prior") == health(model, "prior")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
