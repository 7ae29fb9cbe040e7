"""A text stage that ends when its validation bound no longer falls keeps the weights that had the lowest one."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from tests.tiny import recipe, trainer
from textebm.runs.train import train
from textebm.training.health import Health
from textebm.training.loop import Step, Trainer
from textebm.training.patience import Patience


def test_the_best_weights_are_remembered_and_given_back() -> None:
    model, patience = torch.nn.Linear(1, 1), Patience(2)
    stops = []
    for number, bound in enumerate([9.0, 7.0, 8.0, 7.5]):
        torch.nn.init.constant_(model.weight, number)
        stops.append(patience.see(0, bound, model))
    assert stops == [False, False, False, True]
    other = Patience(2)
    other.restore(patience.state(), patience.weights)
    for each in (patience, other):
        torch.nn.init.constant_(model.weight, 3)
        assert each.give_back(model) and model.weight.item() == 1 and each.best == 7.0
        assert not each.give_back(model), "once"
    assert not patience.see(1, 100.0, model), "a new stage begins anew"
    assert not Patience(None).see(0, 1.0, model)


def test_a_stage_can_be_ended_between_two_steps() -> None:
    worker = trainer()
    numbers = []
    for step in worker.steps():
        numbers.append((step.stage.name, step.number, step.stage_step))
        if step.number == 3:
            worker.end_stage()
    assert numbers[:4] == [("autoencoder", n, n) for n in (1, 2, 3)] + [("prior", 27, 1)]
    assert worker.number == worker.total_steps == 38


def test_a_run_ends_its_text_stage_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    bounds = chain([30.0, 20.0, 25.0, 22.0], repeat(50.0))
    true_health = Trainer.health

    def health(self: Trainer) -> Health:
        measured = true_health(self)
        seen.append((self.number, self.model.decoder.embedding.weight.detach().clone()))
        return Health({**measured.values, "reconstruction_nll": next(bounds), "kl": 0.0}, [])

    monkeypatch.setattr(Trainer, "health", health)
    overrides = ["training.patience=2", "training.evaluate_every=5", "objective.kl_warmup=0", "evaluation.limit=5"]
    run = train(recipe(*overrides), out=tmp_path / "run", quiet=True)
    assert [number for number, _ in seen[:4]] == [5, 10, 15, 20]
    assert torch.equal(run.model.network.decoder.embedding.weight, seen[1][1])
    assert run.evaluation is not None


def test_a_resumed_run_keeps_the_same_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best line is at step 10; the run breaks off at 13 and goes on from the checkpoint of step 12."""
    true_health = Trainer.health

    def health(self: Trainer) -> Health:
        bound = {5: 30.0, 10: 20.0, 15: 25.0, 20: 22.0}.get(self.number, 50.0)
        return Health({**true_health(self).values, "reconstruction_nll": bound, "kl": 0.0}, [])

    def crash(step: Step) -> None:
        if step.number == 13:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "health", health)
    monkeypatch.setattr("textebm.runs.train._conclude", lambda *_: None)
    overrides = ["training.patience=2", "training.evaluate_every=5", "objective.kl_warmup=0"]
    chosen = recipe(*overrides, "training.checkpoint_every=3", "training.stages.1.steps=3")
    unbroken = train(chosen, out=tmp_path / "unbroken", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, out=tmp_path / "resumed", quiet=True, callbacks=[crash])
    resumed = train(chosen, out=tmp_path / "resumed", quiet=True, resume=True)
    first, second = (run.model.network.state_dict() for run in (unbroken, resumed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("unbroken", "resumed")]
    assert lines[0] == lines[1]
