"""The loop: losses fall, labels and clusters arrive where they should, and bad numbers stop the run at once."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import recipe, splits, trainer

import textebm
from textebm.api import TextEBM
from textebm.errors import CheckpointError, CorpusError, DivergenceError, RecipeError
from textebm.model.build import build_weights
from textebm.model.objective import TrainingObjective
from textebm.networks import hardware
from textebm.runs import checkpoint
from textebm.runs import train as runs
from textebm.text.batches import collate_texts
from textebm.training.data import known_labels
from textebm.training.loop import Step, Trainer


def test_losses_fall_in_every_stage() -> None:
    worker = trainer(
        "training.stages=[{name: autoencoder, steps: 60}, {name: prior, steps: 80}, {name: joint, steps: 30}]",
        "training.prior_learning_rate=1e-2",
        "training.learning_rate=1e-2",
        "objective.kl_weight=0.1",
    )
    losses: dict[str, list[float]] = {}
    watched = {"autoencoder": "reconstruction", "prior": "loss", "joint": "reconstruction"}
    for step in worker.steps():
        losses.setdefault(step.stage.name, []).append(step.values[watched[step.stage.name]])
    assert {name: len(values) for name, values in losses.items()} == {"autoencoder": 60, "prior": 80, "joint": 30}
    for name, values in losses.items():
        share = 1.0 if name == "prior" else 0.95  # the prior's has a floor of its own: the noise
        assert np.mean(values[-10:]) < share * np.mean(values[:10]), name
    assert np.mean(losses["joint"]) < np.mean(losses["autoencoder"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("prior.kind=gaussian",),
        ("prior.kind=gaussian_mixture", "prior.components=3"),
        ("prior.kind=energy", "prior.learning=recovery", "prior.steps=3"),
        ("prior.learning=recovery", "encoder.kind=transformer", "decoder.kind=transformer"),
        ("training.mixed_precision=bf16", "decoder.kind=lstm"),
        ("heads=[]", "prior.spectral_norm=true", "tokenizer.kind=bpe", "tokenizer.vocabulary_size=300"),
        ("prior.kind=joint_energy", "prior.steps=3", "training.mixed_precision=bf16"),
        (
            "prior.kind=joint_energy",
            "prior.learning=recovery",
            "prior.steps=3",
            "prior.transport=identity",
            "decoder.ladder=true",
            "decoder.num_layers=2",
        ),
        ("prior.kind=hierarchical_diffusion_energy", "latent.layers=[2,3,3]", "heads.0.layer=1"),
        (
            "prior.kind=hierarchical_diffusion_energy",
            "prior.learning=recovery",
            "encoder.kind=transformer",
            "decoder.kind=transformer",
            "latent.standardize=false",
        ),
        ("prior.kind=gaussian", "latent.layers=[4,4]", "prior.transport=ladder"),
        ("latent.segments=4", "encoder.tie_embedding=true", "training.mixed_precision=bf16"),
        (
            "latent.segments=2",
            "prior.kind=joint_energy",
            "prior.steps=3",
            "decoder.ladder=true",
            "decoder.num_layers=2",
        ),
        ("latent.segments=2", "encoder.kind=transformer", "decoder.kind=transformer", "objective.contrastive_weight=1"),
        ("inference.kind=short_run", "inference.steps=2", "latent.segments=2", "encoder.tie_embedding=true"),
    ],
)
def test_every_system_trains_through_every_stage(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_bfloat16_products", lambda device: True)  # slow where they are not in hardware
    stages = "training.stages=[{name: autoencoder, epochs: 1.2}, {name: prior, steps: 3}, {name: joint, steps: 3}]"
    worker = trainer(stages, *overrides)
    assert [plan.steps for plan in worker.plan] == [12, 3, 3]
    for step in worker.steps():
        assert all(math.isfinite(value) for value in step.values.values())
    assert worker.number == worker.total_steps == 18
    assert all(math.isfinite(value) for value in worker.health().values.values())
    assert all(torch.isfinite(value).all() for value in worker.model.state_dict().values())


def test_bfloat16_is_used_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(precision: str) -> list[float]:
        worker = trainer("training.stages=[{name: autoencoder, steps: 3}]", f"training.mixed_precision={precision}")
        return [step.values["loss"] for step in worker.steps()]

    plain = losses("no")
    monkeypatch.setattr(hardware, "has_bfloat16_products", lambda device: False)
    assert losses("bf16") == plain == losses("no")
    monkeypatch.setattr(hardware, "has_bfloat16_products", lambda device: True)
    assert losses("no") == plain
    mixed = losses("bf16")
    assert mixed != plain and mixed == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("there", [True, False])
def test_a_run_says_when_it_trains_in_float32_instead(
    there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "has_bfloat16_products", lambda device: there)
    monkeypatch.setattr(runs, "_conclude", lambda *_: None)
    runs.train(
        recipe("training.stages=[{name: prior, steps: 1}]", "training.mixed_precision=bf16"), out=tmp_path, quiet=True
    )
    told = [line for line in capsys.readouterr().err.splitlines() if "in float32" in line]
    assert told == (
        [] if there else ["in float32: cpu has no bfloat16 products, which training.mixed_precision asks for"]
    )


def test_the_position_counts_steps_and_every_row_comes_once_an_epoch() -> None:
    worker = trainer("training.stages=[{name: autoencoder, epochs: 2}]")
    seen: list[int] = []
    original = worker._step

    def watched(stage: Any, batches: Any) -> Any:
        for batch, _ in batches:
            seen.extend(batch.index.tolist())
        return original(stage, batches)

    worker._step = watched  # type: ignore[method-assign]
    steps = list(worker.steps())
    assert [step.number for step in steps] == list(range(1, 21)) == [step.stage_step for step in steps]
    n = len(worker.train)
    assert sorted(seen[:n]) == sorted(seen[n:]) == list(range(n)) and seen[:n] != seen[n:]
    assert sum(step.tokens for step in steps) == 2 * int((worker.train.store.lengths + 1).sum())


def test_clusters_keep_their_names_from_epoch_to_epoch() -> None:
    worker = trainer("training.stages=[{name: autoencoder, epochs: 4}]", "training.learning_rate=1e-4")
    history = []
    for step in worker.steps():
        if step.stage_step % 10 == 1 and worker.classes.clusters:
            history.append(worker.classes.clusters["code"].copy())
    assert len(history) == 3
    for before, after in zip(history, history[1:], strict=False):
        assert set(np.unique(after)) <= set(range(5)) and len(after) == len(worker.train)
        assert (before == after).mean() > 0.5, "by chance it would be 0.2"


def test_the_prior_stage_clusters_what_it_trains_on() -> None:
    worker = trainer("training.stages=[{name: prior, steps: 2}]")
    assert worker.classes.clusters == {}
    list(worker.steps())
    assert sorted(np.unique(worker.classes.clusters["code"])) == [0, 1, 2, 3, 4]


def test_label_limit_hides_labels() -> None:
    train = splits(recipe())[1]["train"]
    heads = {head.name: head for head in recipe().heads}
    known = known_labels(train, heads, seed=0)
    assert list(known) == ["sentiment", "topic"]
    assert (known["sentiment"] == train.labels["sentiment"]).all()
    shown = known["topic"] >= 0
    assert shown.sum() == 30 and (known["topic"][shown] == train.labels["topic"][shown]).all()
    assert (train.labels["topic"] >= 0).all(), "the corpus itself is left alone"
    assert (known_labels(train, heads, seed=0)["topic"] == known["topic"]).all()
    assert (known_labels(train, heads, seed=1)["topic"] != known["topic"]).any()
    for limit, expected in ((0, 0), (10**6, len(train))):
        limited = {head.name: head for head in recipe(f"heads.1.label_limit={limit}").heads}
        assert (known_labels(train, limited, seed=0)["topic"] >= 0).sum() == expected


def poison(monkeypatch: pytest.MonkeyPatch, term: str, at: int, value: float) -> None:
    """Make *term* of step *at* a bad number, in the objective itself."""
    original, count = TrainingObjective.forward, [0]

    def forward(self: TrainingObjective, *given: object, **more: object) -> object:
        objective = original(self, *given, **more)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == at:
            objective.terms[term] = objective.terms[term] * value
        return objective

    monkeypatch.setattr(TrainingObjective, "forward", forward)


@pytest.mark.parametrize(
    ("term", "value", "at"),
    [
        ("reconstruction", math.nan, 11),
        ("kl", math.inf, 1),
        ("cross_entropy_topic", math.nan, 7),
        ("loss", -math.inf, 30),
    ],
)
def test_a_bad_number_stops_the_run_and_names_the_term(
    term: str, value: float, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, term, at, value)
    with pytest.raises(DivergenceError, match=rf"^step {at}: the term '{term}' is .*last good checkpoint is kept"):
        runs.train(recipe(), out=tmp_path / "run", quiet=True)
    found = checkpoint.latest(tmp_path / "run")
    if at <= 4:
        assert found is None
        return
    assert found is not None and found.step == (at - 1) // 4 * 4
    again = trainer()
    again.restore({group: found.tensors(group) for group in found.groups}, found.state)
    assert again.number == found.step
    assert all(torch.isfinite(value).all() for value in again.model.state_dict().values())


def test_a_bad_gradient_stops_the_run_before_the_weights_change() -> None:
    worker = trainer()
    weight = worker.model.decoder.embedding.weight
    weight.register_hook(lambda gradient: gradient * math.nan)
    before = weight.detach().clone()
    with pytest.raises(DivergenceError, match="step 1: the gradient is nan"):
        next(worker.steps())
    assert torch.equal(weight, before)


def test_a_latent_that_is_not_finite_ends_the_run_before_codes_are_found_in_it() -> None:
    worker = trainer()
    with pytest.raises(DivergenceError, match="a latent of the training text is nan"):
        for step in worker.steps():
            if step.number == 26:  # the last of the text's stage
                next(worker.model.encoder.parameters()).data[:] = math.nan


def test_a_runaway_potential_stops_the_run() -> None:
    worker = trainer("training.stages=[{name: prior, steps: 3}]")
    torch.nn.init.normal_(worker.model.prior.energy.outputs.weight, std=1e6)
    with pytest.raises(DivergenceError, match=r"\|F\| is .*prior.potential_penalty"):
        list(worker.steps())


def test_a_tied_embedding_is_one_parameter_and_learns_from_both() -> None:
    worker = trainer("encoder.tie_embedding=true", "latent.standardize=false")
    model = worker.model
    weight = model.decoder.embedding.weight
    assert model.encoder.embedding.weight is weight
    assert sum(parameter is weight for group in worker.optimizer.param_groups for parameter in group["params"]) == 1
    batch = collate_texts(["the pizza was bland .", "i loved the film ."], model.tokenizer, 16)
    model.encoder(batch.tokens, batch.lengths).mean.sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0


@pytest.mark.parametrize("overrides", [(), ("encoder.tie_embedding=true", "latent.segments=4")])
def test_state_then_restore_is_the_same_trainer(overrides: tuple[str, ...]) -> None:
    overrides = ("decoder.word_dropout=0.2", "encoder.dropout=0.1", *overrides)  # noise of its own, and the global one
    first = trainer(*overrides)
    steps = first.steps()
    for _ in range(13):
        next(steps)
    tensors, state = first.state()
    tensors = {group: {name: value.clone() for name, value in values.items()} for group, values in tensors.items()}
    state = json.loads(json.dumps(state))
    expected = [next(steps).values for _ in range(20)]
    second = trainer(*overrides)
    second.restore(tensors, state)
    assert [step.values for _, step in zip(range(20), second.steps(), strict=False)] == expected


def test_a_checkpoint_of_something_else_is_refused() -> None:
    def restored(saved: Trainer, target: Trainer) -> None:
        target.restore(*saved.state())

    with pytest.raises(CheckpointError, match="another model"):
        restored(trainer("latent.dim=4"), trainer())
    with pytest.raises(CheckpointError, match="300 rows and would resume with 100"):
        restored(trainer(), trainer("data.size=100"))
    with pytest.raises(CheckpointError, match="another version of textebm"):
        tensors, state = trainer().state()
        trainer().restore(tensors, {name: value for name, value in state.items() if name != "format"})


def test_looking_at_a_run_does_not_change_it() -> None:
    stages = "training.stages=[{name: autoencoder, steps: 4}, {name: prior, steps: 4}, {name: joint, steps: 4}]"
    alone, looked_at = trainer(stages), trainer(stages)
    for _ in zip(alone.steps(), looked_at.steps(), strict=True):
        looked_at.health()
    weights = alone.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in looked_at.model.state_dict().items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> textebm.runs.train.Run:
    directory = tmp_path_factory.mktemp("finished") / "run"
    steps: list[Step] = []
    run = runs.train(recipe(), out=directory, quiet=True, callbacks=[steps.append])
    assert [step.number for step in steps] == list(range(1, 39)), "a callback sees every step once, in order"
    assert all(step.values.keys() >= {"loss"} for step in steps)
    return run


def test_a_run_directory_holds_it_all(finished: runs.Run) -> None:
    expected = {"recipe.yaml", "model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "evaluation.json"}
    expected |= {"samples.txt", "README.md", "checkpoints"}
    assert expected <= {path.name for path in finished.directory.iterdir()}
    assert finished.evaluation is not None and not finished.model.network.training
    assert textebm.TextEBM.from_pretrained(finished.directory).generate(3, seed=0) == finished.model.generate(3, seed=0)
    assert "| metric" in (finished.directory / "README.md").read_text()


def test_metrics_do_not_depend_on_the_clock(finished: runs.Run, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 14, 21, 26, 28, 35, 38]
    assert [line["stage"] for line in lines] == ["autoencoder"] * 4 + ["prior"] * 3
    names = {name for line in lines for name in line}
    assert not {name for name in names if re.search(r"seconds?$|_time|speed|per_second", name)}
    assert {"train_loss", "reconstruction_nll", "kl", "reliance", "mutual_information_xz", "codes_in_use"} <= names
    again = runs.train(recipe(), out=tmp_path / "again", quiet=True)
    for name in ("metrics.jsonl", "model.safetensors", "config.json", "tokenizer.json", "recipe.yaml", "samples.txt"):
        assert (again.directory / name).read_bytes() == (finished.directory / name).read_bytes(), name


def test_a_finished_run_resumes_to_the_same_model(finished: runs.Run) -> None:
    before = (finished.directory / "model.safetensors").read_bytes()
    metrics = (finished.directory / "metrics.jsonl").read_bytes()
    again = runs.train(recipe(), out=finished.directory, resume=True, quiet=True)
    assert again.evaluation is not None and again.evaluation.to_json() == finished.evaluation.to_json()
    assert (finished.directory / "model.safetensors").read_bytes() == before
    assert (finished.directory / "metrics.jsonl").read_bytes() == metrics


def test_a_used_directory_and_another_recipe_are_refused(finished: runs.Run) -> None:
    with pytest.raises(CheckpointError, match="not empty"):
        runs.train(recipe(), out=finished.directory, quiet=True)
    before = {path: path.read_bytes() for path in finished.directory.iterdir() if path.is_file()}
    with pytest.raises(RecipeError, match="another recipe"):
        runs.train(recipe("training.batch_size=16"), out=finished.directory, resume=True, quiet=True)
    assert before == {path: path.read_bytes() for path in finished.directory.iterdir() if path.is_file()}


def test_a_run_may_start_from_anothers_autoencoder(finished: runs.Run, tmp_path: Path) -> None:
    only = "training.stages=[{name: prior, steps: 3}]"
    start = f"training.start_from={finished.directory}"
    begun = runs.train(recipe(start, only, "prior.kind=energy"), out=tmp_path / "energy", quiet=True)
    old, new = finished.model.network.state_dict(), begun.model.network.state_dict()
    kept = [name for name in new if name.startswith(("encoder.", "decoder."))]
    assert kept and all(torch.equal(old[name], new[name]) for name in kept)
    assert begun.evaluation is not None and finished.evaluation is not None
    bleu = "reconstruction_bleu"
    assert begun.evaluation.metrics[bleu].value == finished.evaluation.metrics[bleu].value
    for options, message in (
        (["prior.kind=joint_energy"], "encoder.head"),
        (["latent.dim=6"], "latent"),
        (["tokenizer.vocabulary_size=20"], "another vocabulary"),
        (["objective.contrastive_weight=1"], "encoder.view"),
        (["latent.segments=2"], "encoder"),
        (["encoder.tie_embedding=true"], "encoder.tie_embedding=false, here it is true"),
        (["training.start_from=nowhere"], "nowhere"),
    ):
        with pytest.raises(CheckpointError, match=message):
            runs.train(recipe(start, only, *options), out=tmp_path / "wrong", quiet=True)


def test_a_short_run_takes_the_decoder_alone(
    finished: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_conclude", lambda *_: None)
    start = [f"training.start_from={finished.directory}", "training.stages=[{name: autoencoder, steps: 1}]"]
    options = ["inference.kind=short_run", "inference.steps=2", "training.learning_rate=1e-9"]
    begun = runs.train(recipe(*start, *options), out=tmp_path / "short", quiet=True)
    old, new = finished.model.network.state_dict(), begun.model.network.state_dict()
    taken = [name for name in new if name.startswith("decoder.")]
    assert taken
    for name in taken:
        torch.testing.assert_close(old[name], new[name], atol=1e-6, rtol=0)


def test_evaluate_run_measures_again(finished: runs.Run) -> None:
    parts: list[str] = []
    evaluation = runs.evaluate_run(finished.directory, seed=0, progress=parts.append)
    assert finished.evaluation is not None
    assert evaluation.metrics == finished.evaluation.metrics and any("samples" in part for part in parts)


def test_too_few_sentences_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("one\ntwo\nthree\nfour\n")
    chosen = recipe("data.corpus=files", f"data.train={tmp_path / 'few.txt'}", "heads=[{name: code, classes: 2}]")
    with pytest.raises(CorpusError, match="train has 4 sentences; expected at least 5"):
        runs.train(chosen, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_signal_while_measuring_keeps_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = runs.evaluate_model

    def interrupted(*given: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given, **options)

    monkeypatch.setattr(runs, "evaluate_model", interrupted)
    stopped = runs.train(recipe(), out=tmp_path / "run", quiet=True)
    assert stopped.evaluation is None and not (tmp_path / "run" / "evaluation.json").exists()
    assert TextEBM.from_pretrained(tmp_path / "run").generate(2, seed=0) == stopped.model.generate(2, seed=0)
    monkeypatch.setattr(runs, "evaluate_model", evaluate)
    assert runs.train(recipe(), out=tmp_path / "run", resume=True, quiet=True).evaluation is not None


def test_accumulated_batches_make_one_step_of_all_their_sentences() -> None:
    one, two = trainer(), trainer("training.accumulate=2")
    assert two.plan[0].batches_per_epoch == -(-one.plan[0].batches_per_epoch // 2)
    total = sum(step.tokens for _, step in zip(range(two.plan[0].batches_per_epoch), two.steps(), strict=False))
    assert total == int(two.train.store.lengths.sum() + len(two.train)), "each sentence once an epoch, with its end"
    assert (abs(two.classes.means).sum(1) > 0).all(), "and its posterior mean was kept"


@pytest.mark.parametrize("stage", ["autoencoder", "prior", "joint"])
def test_the_gradient_of_an_accumulated_batch_is_the_mean_over_its_rows(stage: str) -> None:
    """The last batch of an epoch, whose shards are of 7 and 6 sentences."""
    worker = trainer(
        "data.size=269",
        "training.accumulate=2",
        "training.prior_batch_size=32",
        "training.gradient_clip=1e9",
        f"training.stages=[{{name: {stage}, steps: 9}}]",
    )
    step, held, gradients = worker._step, list[Any](), dict[str, torch.Tensor]()
    worker._step = lambda plan, batches: held.append((plan, batches)) or SimpleNamespace()  # type: ignore
    for _ in zip(range(5), worker.steps(), strict=False):
        pass
    sizes = [[len(batch.posterior.mean if stage == "prior" else batch) for batch, _ in step[1]] for step in held]
    last = sizes.index([7, 6])
    plan, batches = held[last]
    parameters = dict(worker.model.named_parameters())

    def keep() -> None:
        gradients.update({name: each.grad.clone() for name, each in parameters.items() if each.grad is not None})

    worker.optimizer.step = keep  # type: ignore
    noise = worker.generator.get_state()
    buffers = {name: each.clone() for name, each in worker.model.named_buffers()}
    values = step(plan, batches).values
    worker.generator.set_state(noise)
    worker.model.load_state_dict(buffers, strict=False)
    worker.stage_step -= 1  # the weights of a term depend on the position
    weights = build_weights(worker.recipe.objective, worker.stage_step / plan.steps)
    worker.optimizer.zero_grad()
    expected = 0.0
    for size, (batch, _) in zip(sizes[last], batches, strict=True):
        targets = worker.classes.targets(batch.index.numpy(), worker.device) if stage != "prior" else None
        loss = worker.wrapped(batch, stage, weights, targets, worker.generator).loss * size / 13
        loss.backward()
        expected += loss.item()
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert gradients and max(each.abs().max() for each in gradients.values()) > 0.01
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, parameters[name].grad, msg=lambda text, name=name: f"{name}: {text}")
