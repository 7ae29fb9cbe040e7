"""The files of a run that decide something: damage is said, changes are named, links and devices are respected."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe, save_trained, trained, trainer

from textebm.errors import CheckpointError, DivergenceError, FileError, RecipeError
from textebm.evaluation.metric import Evaluation
from textebm.files import append_line, check_output, parse_json, read_bytes, text_output, write_atomically, write_output
from textebm.model.files import _plain, save
from textebm.runs import checkpoint
from textebm.runs import evaluate as evaluations
from textebm.runs import train as runs
from textebm.runs.directory import begin_recipe, differences, read_recorded, record, resume_recipe, write_recorded
from textebm.runs.evaluate import read_evaluation
from textebm.runs.lock import RunLock
from textebm.terminal import plain

# --- checksums --------------------------------------------------------------------------------------------------------


def test_a_recorded_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recorded(tmp_path, "a.json", "old")
    replace = os.replace
    for failing in range(1, 4):  # checksums, the file, checksums
        calls = 0

        def refuse(*arguments: Any, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            with pytest.raises(FileError, match="No space left"):
                write_recorded(tmp_path, "a.json", f"new {failing}")
        assert read_recorded(tmp_path, "a.json") == (b"old" if failing < 3 else b"new 3")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "checksums.json"]


def test_damage_of_a_recorded_file_is_said(tmp_path: Path) -> None:
    write_recorded(tmp_path, "a.json", "{}")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"a\.json is damaged or was changed by hand"):
        read_recorded(tmp_path, "a.json")
    (tmp_path / "a.json").unlink()
    with pytest.raises(CheckpointError, match=r"a\.json is missing"):
        read_recorded(tmp_path, "a.json")
    text = (tmp_path / "checksums.json").read_text()
    (tmp_path / "checksums.json").write_text(text.replace('"size": 2', '"size": 3'))
    with pytest.raises(CheckpointError, match=r"checksums\.json is damaged"):
        read_recorded(tmp_path, "a.json")
    (tmp_path / "checksums.json").unlink()
    (tmp_path / "a.json").write_text("from before there were checksums")
    assert read_recorded(tmp_path, "a.json")


def test_a_log_may_grow_but_not_change(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    append_line(log, '{"step": 1}')
    record(tmp_path, log.name)
    append_line(log, '{"step": 2}')
    assert read_recorded(tmp_path, log.name) == b'{"step": 1}\n{"step": 2}\n'
    log.write_bytes(log.read_bytes().replace(b"1", b"3"))
    with pytest.raises(CheckpointError, match="damaged"):
        read_recorded(tmp_path, log.name)


# --- resume -----------------------------------------------------------------------------------------------------------


def test_what_differs_is_named_and_a_lower_rate_goes_on(tmp_path: Path) -> None:
    saved = recipe().model_dump(mode="json")
    begin_recipe(tmp_path, recipe())
    assert resume_recipe(tmp_path, recipe(), saved, write=True) == []
    lower = recipe("training.learning_rate=1e-4", "evaluation.samples=21")
    expected = ["training.learning_rate: 0.005 → 0.0001", "evaluation.samples: 20 → 21"]
    assert resume_recipe(tmp_path, lower, saved, write=False) == expected
    assert resume_recipe(tmp_path, recipe(), saved, write=False) == [], "nothing was written"
    assert resume_recipe(tmp_path, lower, saved, write=True) == expected
    assert resume_recipe(tmp_path, lower, None, write=True) == [], "recipe.yaml has the lower rate"
    for wrong in (saved, None):
        with pytest.raises(RecipeError, match=r"another recipe \(latent.dim: 8 → 9\): resume with its own"):
            resume_recipe(tmp_path, recipe("latent.dim=9"), wrong, write=True)
    assert differences({"a": [1], "b": {"c": None}}, {"a": [2], "b": {"c": 1}}) == [
        ("a", "a: [1] → [2]"),
        ("b.c", "b.c: null → 1"),
    ]


def test_a_damaged_recipe_is_one_line_and_put_back(tmp_path: Path) -> None:
    saved = recipe().model_dump(mode="json")
    begin_recipe(tmp_path, recipe())
    path = tmp_path / "recipe.yaml"
    before = path.read_text()
    path.write_text(before.replace("learning_rate: 0.005", "learning_rate: 0.001"))
    assert path.read_text() != before
    with pytest.raises(CheckpointError, match="damaged"):
        resume_recipe(tmp_path, recipe(), None, write=True)
    with pytest.raises(CheckpointError, match="It is put back as the last checkpoint has it") as raised:
        resume_recipe(tmp_path, recipe("training.learning_rate=0.001"), saved, write=True)
    assert "\n" not in str(raised.value) and path.read_text() == before
    assert resume_recipe(tmp_path, recipe(), saved, write=True) == []


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_conclude", lambda model, _recipe, _corpus, where, *_: save(model.network, where))


SHORT = ("training.stages=[{name: autoencoder, steps: 6}, {name: prior, steps: 6}]", "training.checkpoint_every=3")


@pytest.mark.parametrize("at", [4, 8])
def test_a_number_that_is_not_finite_is_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None, at: int
) -> None:
    """In the prior stage, too, where nobody looks at the encoder."""
    steps = runs.Trainer.steps
    chosen = ""

    def poisoned(self: Any) -> Any:
        nonlocal chosen
        for step in steps(self):
            if step.number == at:
                text = "decoder" if at < 6 else "encoder"
                chosen, value = next(pair for pair in self.model.named_parameters() if pair[0].startswith(text))
                with torch.no_grad():
                    value.view(-1)[0] = float("nan")
            yield step

    monkeypatch.setattr(runs.Trainer, "steps", poisoned)
    with pytest.raises(DivergenceError) as raised:
        runs.train(recipe(*SHORT), out=tmp_path / "run", quiet=True)
    if at > 6:
        assert f"not saved, the checkpoint before it is kept: model: {chosen} holds 1 of" in str(raised.value)
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None and found.step < at and not found.problems
    monkeypatch.setattr(runs.Trainer, "steps", steps)
    rate = "training.learning_rate=1e-4"
    runs.train(recipe(*SHORT, rate), out=tmp_path / "run", quiet=True, resume=True)
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None and found.step == 12


def test_a_model_that_is_not_finite_is_not_saved_over_a_good_one(tmp_path: Path) -> None:
    worker = trainer()
    model = worker.model
    save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    name, value = next(iter(model.named_parameters()))
    with torch.no_grad():
        value.view(-1)[0] = float("inf")
    with pytest.raises(CheckpointError, match=f"not saved: {name} holds 1 of"):
        save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_was_measured_is_shown_where_it_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Evaluation(0)
    measured.add("kl", 1.5, 3)
    save_trained(tmp_path / "run")
    monkeypatch.setattr(evaluations, "evaluate_model", lambda *_, **__: measured)
    with RunLock(tmp_path / "run"):
        found = evaluations.evaluate_run(tmp_path / "run")
    assert found.metrics and any("not kept in the run directory" in note and "in use" in note for note in found.notes)
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_labels_cannot_write_markup_into_the_card() -> None:
    assert _plain("<script>\n# a | `b`") == "\\<script\\> # a \\| \\`b\\`"


# --- links and devices ------------------------------------------------------------------------------------------------


def test_an_output_follows_links_and_writes_into_pipes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_output(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and os.listdir(tmp_path / "folder") == ["target"]
    (tmp_path / "dangling").symlink_to(tmp_path / "folder" / "absent")
    write_output(tmp_path / "dangling", "made")
    assert (tmp_path / "folder" / "absent").read_text() == "made"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_output(pipe, "through the pipe")
    reader.join(10)
    assert read == ["through the pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)
    with text_output(Path(os.devnull)) as file:
        file.write("gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(FileError, match="No space left"):
        write_output(Path("/dev/full"), "x")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, problem in {
        loop: "link",
        tmp_path: "it is a directory",
        tmp_path / "no" / "file": "its folder does not exist",
        tmp_path / "nul\0": "null",
    }.items():
        with pytest.raises(FileError, match=problem):
            check_output(path)


def test_an_output_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(KeyError), text_output(path) as file:
        file.write("half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_links_in_a_run_directory_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".report.html.new", "report.html", "metrics.jsonl"):
        (run / name).symlink_to(outside)
    with pytest.raises(Exception, match="a link"), RunLock(run):
        pass
    write_atomically(run / "report.html", "page")
    assert not (run / "report.html").is_symlink() and (run / "report.html").read_text() == "page"
    with pytest.raises(FileError):
        append_line(run / "metrics.jsonl", "{}")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / ".new-step-00000001").symlink_to(tmp_path, target_is_directory=True)
    checkpoint.save(run, 1, {"model": {"a": torch.zeros(1)}}, {}, keep=1)
    assert outside.read_text() == "precious" and sorted(os.listdir(tmp_path)) == ["precious", "run"]


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="pipe is not a regular file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(FileError, match="zero is not a regular file"):
        read_bytes(Path("/dev/zero"))


# --- wrong JSON -------------------------------------------------------------------------------------------------------

METRIC = {"value": 1.0, "unit": "nats", "higher_is_better": False, "n": 3}
WRONG = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "[]",
    "null",
    "9" * 5000,
    "{}",
    '{"metrics": {}}',
    '{"seed": "0", "metrics": {}}',
    '{"seed": 0, "metrics": []}',
    '{"seed": 0, "metrics": {}, "notes": [[]]}',
    *(
        json.dumps({"seed": 0, "metrics": {"kl": {**METRIC, **wrong}}})
        for wrong in (
            {"value": "1"},
            {"value": float("nan")},
            {"value": None},
            {"value": True},
            {"n": 1.5},
            {"more": 1},
        )
    ),
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_wrong_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match="make it with: textebm evaluate") as raised:
        read_evaluation(tmp_path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_saved_evaluation_comes_back(tmp_path: Path) -> None:
    evaluation = Evaluation(3, notes=["a"], sizes={"test": 3})
    evaluation.add("kl", 1.5, 3)
    write_recorded(tmp_path, "evaluation.json", evaluation.to_text())
    assert read_evaluation(tmp_path) == evaluation
    with pytest.raises(FileError, match="x is not a JSON list"):
        parse_json("{}", "x", list)


# --- terminal ---------------------------------------------------------------------------------------------------------


def test_control_characters_are_written_out() -> None:
    assert plain("a\tb\nc\x1b[31m\r\x9b5n\x7f é 東") == "a\tb\nc\\u001b[31m\\u000d\\u009b5n\\u007f é 東"


def test_closed_or_full_standard_output_is_no_traceback(tmp_path: Path) -> None:
    for redirection, code in ((">&-", 0), ("2>&-", 0), ("<&-", 0), (">/dev/full", 2)):
        command = f"{shlex.quote(sys.executable)} -m textebm recipes list {redirection}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == code and "Traceback" not in done.stderr, (redirection, done.stderr)


def test_a_trained_model_is_finite() -> None:
    assert all(
        bool(value.isfinite().all()) for value in trained().network.state_dict().values() if value.is_floating_point()
    )
