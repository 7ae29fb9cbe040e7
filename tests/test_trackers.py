"""Health lines in experiment trackers, with one that only listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from tiny import recipe

import textebm
from textebm.errors import TextEBMError
from textebm.runs import train as runs
from textebm.runs.trackers import trackers

SHORT = ("training.stages=[{name: autoencoder, steps: 8}]", "heads=[]", "prior.kind=gaussian")


class Listener:
    """What Accelerate asks of a tracker, which writes into the run at once, as TensorBoard's does."""

    requires_logging_directory = True
    heard: list[Any] = []

    def __init__(self, run_name: str, logging_dir: str) -> None:
        (Path(logging_dir) / "events").write_text(run_name)
        self.heard.append((run_name, logging_dir))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.heard.append(values)

    def log(self, values: dict[str, float], step: int) -> None:
        self.heard.append((step, values))

    def finish(self) -> None:
        self.heard.append("finished")


def test_a_run_tells_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Listener)
    monkeypatch.setattr(Listener, "heard", heard := [])
    monkeypatch.setattr(runs, "_conclude", lambda *arguments: None)  # no evaluation
    textebm.train(recipe(*SHORT, "training.trackers=[tensorboard]"), out=tmp_path / "run", quiet=True)
    (name, place), options, *lines, last = heard
    assert (name, place, last) == ("tiny", str(tmp_path / "run"), "finished")
    assert options["training.batch_size"] == 32 and options["training.trackers"] == "['tensorboard']"
    assert [step for step, _ in lines] == [7, 8]  # evaluate_every is 7
    assert {"train_loss", "kl"} <= set(lines[0][1]) and all(isinstance(v, float | int) for v in lines[0][1].values())


def test_a_tracker_that_is_missing_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(TextEBMError, match="wandb is not installed here: pip install wandb"):
        with trackers(["wandb"], recipe(), tmp_path):
            pass
