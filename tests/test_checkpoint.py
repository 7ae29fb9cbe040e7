"""A checkpoint is the old one or the new one, never half; damage is noticed; what comes back is what went in."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textebm.errors import CheckpointError
from textebm.model.files import TOKENIZER_FILES, publish_model, read_model
from textebm.runs import checkpoint
from textebm.runs.checkpoint import latest, save

# Children fork from a clean server that has torch loaded: quick to start, and no threads of this process in them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "textebm.model.files", "textebm.runs.checkpoint"])


def content(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """What the tests save at a step: everything depends on it, so that a mixture of two steps shows."""
    generator = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(64, 64, generator=generator) for name in ("a", "b")}
    return {"model": weights, "optimizer": {"step": torch.tensor(float(step))}}


def is_whole(found: checkpoint.Checkpoint) -> bool:
    expected = content(found.step)
    same = [
        torch.equal(found.tensors(group)[name], value) for group in expected for name, value in expected[group].items()
    ]
    return all(same) and found.state == {"step": found.step}


def published(directory: Path) -> list[str]:
    return sorted(os.listdir(directory / "checkpoints"))


# ------------------------------------------------------------------------------------------------------ save and latest


def test_save_then_latest_is_equal_bit_for_bit(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    tensors = {
        "model": {"tied.a": tied, "tied.b": tied, "view": tied[1:].T, "parameter": torch.nn.Parameter(tied.clone())},
        "kinds": {
            "bfloat16": torch.randn(5).bfloat16(),
            "int64": torch.tensor([2**62]),
            "bool": torch.tensor([True, False]),
            "scalar": torch.tensor(-0.0, dtype=torch.float64),
            "empty": torch.empty(0, 3),
            "special": torch.tensor([float("nan"), float("inf"), 1e-45]),
        },
        "nothing": {},
    }
    state = {"epoch": 3, "best": 0.1 + 0.2, "list": [1, None, "ü\ud7ff\U0001f600"], "huge": 2**127 + 1}
    path = save(tmp_path, 123, tensors, state, keep=2)
    assert path == tmp_path / "checkpoints" / "step-00000123"
    found = latest(tmp_path)
    assert found is not None and (found.step, found.state, found.path, found.problems) == (123, state, path, ())
    assert found.groups == ("kinds", "model", "nothing")
    for group, values in tensors.items():
        loaded = found.tensors(group)
        assert loaded.keys() == values.keys()
        for name, value in values.items():
            assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape
            assert (
                loaded[name].numpy(force=True).tobytes() == value.detach().contiguous().numpy().tobytes()
                if (value.dtype != torch.bfloat16)
                else torch.equal(loaded[name], value)
            )
    with pytest.raises(CheckpointError, match="no tensors named 'optimiser'; it has kinds, model, nothing"):
        found.tensors("optimiser")


def test_loaded_tensors_can_be_written_to(tmp_path: Path) -> None:
    save(tmp_path, 1, content(1), {}, keep=1)
    found = latest(tmp_path)
    assert found is not None
    found.tensors("model")["a"].zero_()
    assert torch.equal(found.tensors("model")["a"], content(1)["model"]["a"])


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    assert latest(tmp_path) is None and latest(tmp_path / "nowhere") is None
    for name in (".new-step-00000007", ".old-step-00000001", ".replaced-step-00000002"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "half").write_text("x")
    for step in (10, 20, 30, 100):
        save(tmp_path, step, content(step), {"step": step}, keep=2)
    assert published(tmp_path) == ["step-00000030", "step-00000100"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5, content(5), {"try": 1}, keep=1)
    save(tmp_path, 5, content(5), {"try": 2}, keep=1)
    found = latest(tmp_path)
    assert found is not None and found.state == {"try": 2} and published(tmp_path) == ["step-00000005"]


def test_a_checkpoint_moved_aside_is_still_found(tmp_path: Path) -> None:
    path = save(tmp_path, 5, content(5), {"step": 5}, keep=1)
    path.rename(path.with_name(".replaced-" + path.name))
    found = latest(tmp_path)
    assert found is not None and is_whole(found)


def test_steps_beyond_a_resumed_one_do_not_outlive_it(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step, content(step), {"step": step}, keep=3)
    (tmp_path / "checkpoints" / "step-00000020" / "state.json").write_text("{}")
    found = latest(tmp_path)
    assert found is not None and found.step == 10
    save(tmp_path, 15, content(15), {"step": 15}, keep=1)
    assert published(tmp_path) == ["step-00000015"]


def test_wrong_arguments_are_the_callers_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep >= 1"):
        save(tmp_path, 1, {}, {}, keep=0)
    with pytest.raises(ValueError, match="named by letters"):
        save(tmp_path, 1, {"../up": {}}, {}, keep=1)
    with pytest.raises(TypeError):
        save(tmp_path, 1, {}, {"object": object()}, keep=1)
    assert latest(tmp_path) is None


# --------------------------------------------------------------------------------------------------------------- damage


def test_every_bit_flip_and_truncation_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(0)
    caplog.set_level(logging.ERROR)  # hundreds of warnings, as it should be
    for step in (1, 2):
        save(tmp_path, step, content(step), {"step": step}, keep=2)
    newest = tmp_path / "checkpoints" / "step-00000002"
    names = sorted(os.listdir(newest))
    assert names == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    for trial in range(400):
        victim = newest / names[trial % len(names)]
        original = victim.read_bytes()
        if trial < 200:
            damaged = bytearray(original)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            damaged = bytearray(original[: chance.randrange(len(original))])
        victim.write_bytes(damaged)
        found = latest(tmp_path)
        assert found is not None and found.step == 1, (trial, victim.name)
        assert len(found.problems) == 1 and "step-00000002" in found.problems[0]
        victim.write_bytes(original)
    found = latest(tmp_path)
    assert found is not None and found.step == 2 and is_whole(found)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda new, old: (new / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda new, old: (new / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda new, old: (new / "extra.safetensors").write_bytes(b""), "extra.safetensors does not belong to it"),
        (lambda new, old: shutil.copy(old / "model.safetensors", new), "model.safetensors is damaged"),
        (lambda new, old: shutil.copy(old / "manifest.json", new), "holds step 1: the directory was renamed"),
        (lambda new, old: (new / "manifest.json").write_text("{"), "manifest.json is not valid JSON"),
        (lambda new, old: (new / "manifest.json").write_text("[" * 100_000), "manifest.json is not valid JSON"),
        (lambda new, old: (new / "manifest.json").write_text("[]"), "manifest.json is not a JSON object"),
        (lambda new, old: (new / "manifest.json").write_text("{}"), "not that of a textebm checkpoint"),
        (lambda new, old: [path.unlink() for path in new.iterdir()], "manifest.json cannot be read"),
    ],
)
def test_damage_is_named_and_the_previous_checkpoint_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, reason: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step, content(step), {"step": step}, keep=2)
    root = tmp_path / "checkpoints"
    damage(root / "step-00000002", root / "step-00000001")
    found = latest(tmp_path)
    assert found is not None and found.step == 1 and is_whole(found)
    assert len(found.problems) == 1 and reason in found.problems[0]
    assert reason in caplog.text


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        save(tmp_path, 1, content(1), {}, keep=1)
    with pytest.raises(CheckpointError, match="format version 2, where this textebm reads 1"):
        latest(tmp_path)


def test_all_damaged_is_an_error_that_names_each(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step, content(step), {}, keep=2) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)start again.*step-00000002: state.json.*step-00000001: state.json"):
        latest(tmp_path)


def test_damage_after_latest_is_noticed_when_loading(tmp_path: Path) -> None:
    save(tmp_path, 1, content(1), {}, keep=1)
    found = latest(tmp_path)
    assert found is not None
    (found.path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="model.safetensors has 0 bytes"):
        found.tensors("model")


# -------------------------------------------------------------------------------------------------------- sudden deaths


def _save_for_ever(directory: str, first: int) -> None:
    for step in range(first, sys.maxsize):
        save(directory, step, content(step), {"step": step}, keep=2)


def test_kill_at_random_moments_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    chance = random.Random(1)
    save(tmp_path, 0, content(0), {"step": 0}, keep=2)
    step, unfinished = 0, 0
    for _ in range(30):
        child = FORKS.Process(target=_save_for_ever, args=(str(tmp_path), step + 1), daemon=True)
        child.start()
        while max(name for name in published(tmp_path) if name.startswith("step-")) <= f"step-{step:08d}":
            time.sleep(0.001)
            assert child.is_alive()
        time.sleep(chance.uniform(0, 0.03))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        unfinished += any(name.startswith(".") for name in published(tmp_path))
        found = latest(tmp_path)
        assert found is not None and not found.problems and found.step > step and is_whole(found)
        step = found.step
    assert unfinished >= 5  # the kills did fall into saving
    save(tmp_path, step + 1, content(step + 1), {"step": step + 1}, keep=2)
    assert not any(name.startswith(".") for name in published(tmp_path)) and len(published(tmp_path)) == 2


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.fsync")


def _die_at(count: int, action: Any, directory: str, *arguments: Any) -> None:
    """Call *action* and die, as by a power cut, at its *count*-th change or sync of a file."""
    left = count

    def tick(event: str, details: Any = ()) -> None:
        nonlocal left
        if event in EVENTS and (event != "open" or str(details[0]).startswith(directory)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync
    os.fsync = lambda handle: (fsync(handle), tick("os.fsync"))[0]
    sys.addaudithook(tick)
    action(directory, *arguments)


def _save_step(directory: str, step: int, attempt: int) -> None:
    save(directory, step, content(step), {"step": step, "attempt": attempt}, keep=1)


def deaths(action: Any, *arguments: Any) -> Iterator[int]:
    """Run *action* in children that die at boundary 1, 2, ... until one survives; yields each one's exit code."""
    count = 0
    while True:
        count += 1
        child = FORKS.Process(target=_die_at, args=(count, action, *arguments), daemon=True)
        child.start()
        child.join()
        yield child.exitcode
        if child.exitcode == 0:
            return


@pytest.mark.parametrize("step", [8, 7])  # 7: the step that is there already is replaced
def test_kill_at_every_boundary_leaves_the_old_or_the_new(tmp_path: Path, step: int) -> None:
    _save_step(str(tmp_path), 7, 0)
    seen = set()
    codes = []
    for code in deaths(_save_step, str(tmp_path), step, 1):
        found = latest(tmp_path)
        assert found is not None and not found.problems
        assert found.state in ({"step": 7, "attempt": 0}, {"step": step, "attempt": 1})
        assert torch.equal(found.tensors("model")["a"], content(found.step)["model"]["a"])
        seen.add(found.state["attempt"])
        codes.append(code)
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL} and len(codes) > 15
    assert seen == {0, 1} and published(tmp_path) == [f"step-{step:08d}"]


def _publish(directory: str, number: int) -> None:
    files = {name: f"{name} of {number}".encode() for name in TOKENIZER_FILES}
    publish_model(directory, content(number)["model"], {"number": number}, files)


def test_kill_at_every_boundary_leaves_the_old_or_the_new_model(tmp_path: Path) -> None:
    _publish(str(tmp_path), 0)
    seen = []
    for _ in deaths(_publish, str(tmp_path), 1):
        model = read_model(tmp_path)
        number = model.config["number"]
        assert torch.equal(model.tensors["a"], content(number)["model"]["a"])
        assert model.files == {name: f"{name} of {number}".encode() for name in TOKENIZER_FILES}
        seen.append(number)
        if len(seen) % 2:  # start from the old one again, or go on from where the dead one left
            _publish(str(tmp_path), 0)
    assert set(seen) == {0, 1} and len(seen) > 10
    assert sorted(os.listdir(tmp_path)) == sorted(["config.json", "model.safetensors", *TOKENIZER_FILES])


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int) -> None:
    save(tmp_path, 1, content(1), {"step": 1}, keep=1)
    for function in ("fsync", "rename", "mkdir"):
        real = getattr(os, function)
        for failing in range(1, 30):
            calls = 0

            def refuse(*arguments: Any, real: Any = real, failing: int = failing, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing:
                    raise OSError(trouble, os.strerror(trouble))
                return real(*arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(os, function, refuse)
                try:
                    save(tmp_path, 2, content(2), {"step": 2}, keep=2)
                except CheckpointError as error:
                    assert os.strerror(trouble) in str(error) and "step-00000002" in str(error)
            found = latest(tmp_path)
            assert found is not None and not found.problems and is_whole(found)
            assert not any(name.startswith(".new") for name in published(tmp_path))
            if calls < failing:
                break
            shutil.rmtree(tmp_path / "checkpoints" / "step-00000002", ignore_errors=True)
        assert found.step == 2 and failing > 1
        shutil.rmtree(tmp_path / "checkpoints" / "step-00000002")


# --------------------------------------------------------------------------------------------------------- saved models


def same(left: Any, right: Any) -> None:
    """Equal in value and type, all the way down."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and np.array_equal(left, right)
    else:
        assert left == right or left != left


def test_model_comes_back_as_published(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    config = {"recipe": {"betas": (0.9, 0.99), "tiny": 1e-300}, "heads": [{"name": "sentiment", "column": None}]}
    for number in (1, 2):
        publish_model(tmp_path, content(number)["model"], config)
    tensors, read, _ = read_model(tmp_path)
    same(tensors, content(2)["model"])
    assert read == json.loads(json.dumps(config))
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["format"] == "textebm" and saved["format_version"] == 1


def _edit(path: Path, change: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: shutil.rmtree(d), "no such directory"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe{"), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "not that of a textebm model"),
        (lambda d: _edit(d, lambda c: c.update(format_version=2)), "format version 2, where this textebm reads 1"),
        (lambda d: _edit(d, lambda c: c.update(number=9)), "config.json was changed"),
        (lambda d: _edit(d, lambda c: c.pop("checksums")), "config.json was changed"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 50), "model.safetensors has 50 bytes"),
        (lambda d: os.truncate(d / "model.safetensors", 1000), "model.safetensors has 1000 bytes"),
        (lambda d: (d / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1"), "Git LFS"),
    ],
)
def test_a_model_that_is_not_whole_is_one_clear_sentence(tmp_path: Path, damage: Any, reason: str) -> None:
    directory = tmp_path / "model"
    publish_model(directory, content(1)["model"], {"number": 1})
    damage(directory)
    with pytest.raises(CheckpointError, match=reason) as raised:
        read_model(directory)
    assert str(directory) in str(raised.value) and "\n" not in str(raised.value)


def test_every_bit_flip_of_the_weights_is_refused(tmp_path: Path) -> None:
    chance = random.Random(2)
    publish_model(tmp_path, content(1)["model"], {"number": 1})
    original = (tmp_path / "model.safetensors").read_bytes()
    for _ in range(200):
        damaged = bytearray(original)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            read_model(tmp_path)


def test_a_model_reformatted_by_hand_is_still_read(tmp_path: Path) -> None:
    publish_model(tmp_path, content(1)["model"], {"number": 1, "b": 2, "a": 3})
    _edit(tmp_path, lambda config: None)
    assert read_model(tmp_path)[1]["number"] == 1
    with pytest.raises(ValueError, match="its own: format"):
        publish_model(tmp_path, {}, {"format": "mine"})
