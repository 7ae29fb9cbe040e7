"""Rows of the results page, made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import run, write_recipe
from textebm.errors import TextEBMError
from textebm.evaluation.metric import Evaluation
from textebm.recipe.read import load_recipe
from textebm.runs import reproduce as module
from textebm.runs.reproduce import EXPERIMENTS, Expected, Experiment, reproduce, standing


def measured(value: float) -> Evaluation:
    result = Evaluation(seed=0)
    result.add("kl", value, 10)
    return result


def test_a_mean_over_seeds_is_within_its_tolerance_or_apart() -> None:
    two = [measured(1.0), measured(2.0)]
    here = standing(Expected("kl", 1.6, 0.2), two)
    assert here.mean == 1.5 and here.within and here.as_row()["stddev"] == pytest.approx(0.5**0.5)
    assert not standing(Expected("kl", 1.8, 0.2), two).within
    missing = standing(Expected("wkl", 1.0, 9.0), two)
    assert missing.mean is None and not missing.within


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_is_a_recipe_that_loads(name: str) -> None:
    experiment = EXPERIMENTS[name]
    load_recipe(experiment.recipe, [*experiment.overrides, "seed=1"])
    assert experiment.expected and all(each.tolerance > 0 for each in experiment.expected)


def test_an_experiment_is_trained_once_a_seed_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", "training.stages=[{name: autoencoder, steps: 2}]")
    monkeypatch.setitem(module.EXPERIMENTS, "tiny", Experiment("tiny", str(path), (Expected("kl", 0.0, 1e6),)))
    said: list[str] = []
    first = reproduce("tiny", out=tmp_path / "runs", say=said.append)
    again = reproduce("tiny", out=tmp_path / "runs", say=said.append)
    assert first == again and first[0].within and len(said) == 1 and "seed=0" in said[0]


def test_the_command_lists_and_refuses() -> None:
    listed = run("reproduce", "list", "--json")
    assert {row["name"] for row in json.loads(listed.stdout)} == set(EXPERIMENTS)
    with pytest.raises(TextEBMError, match="did you mean 'quickstart'"):
        reproduce("quickstar")
