"""A run that was killed, stopped or damaged and then resumed ends in the same bits as one that was not."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import recipe, run, start, write_recipe

from textebm.errors import RunInUseError, TextEBMError
from textebm.runs import checkpoint
from textebm.runs.lock import RunLock

FORKS = multiprocessing.get_context("forkserver")

# Dropout draws from the global random numbers, word dropout and noise from the trainer's own; sampling by cluster needs
# the last epoch's clusters; recovery adapts its chain while it trains.
PLAIN = ("decoder.word_dropout=0.2", "encoder.dropout=0.1", "encoder.num_layers=2")
RECOVERY = (
    "prior.learning=recovery",
    "prior.steps=2",
    "objective.cluster_sampling=true",
    "decoder.dropout=0.1",
    "training.stages=[{name: autoencoder, steps: 16}, {name: prior, steps: 7}, {name: joint, steps: 14}]",
    "training.checkpoint_every=3",
)
LAYERS = ("prior.kind=hierarchical_diffusion_energy",)  # the noise of each layer's posterior depends on those above
SHORT_RUN = ("inference.kind=short_run", "inference.steps=2")  # chains in training, and noise of each text without
REFINED = ("inference.kind=refined", "inference.steps=2", "prior.kind=joint_energy", "decoder.dropout=0.1")


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    """Children fork from a server that has this project loaded: a run then takes a second."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # another test module's, with less in it
    FORKS.set_forkserver_preload(["forked"])
    yield


def job(directory: Path, overrides: Sequence[str], resume: bool, death: Any, environment: Mapping[str, str]) -> None:
    """In the child: train, and die or be interrupted as *death* = (where, step, signal) says."""
    os.environ.update(environment)
    import torch

    from textebm.model.files import save
    from textebm.runs import train as runs
    from textebm.training.loop import Trainer

    torch.set_num_threads(1)
    log = open(directory.parent / f"{directory.name}.log", "a")
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        runs._conclude = lambda model, _recipe, _corpus, where, *_: save(model, where)  # no evaluation
        if death is not None:
            arrange(death, Trainer, runs)
        try:
            runs.train(recipe(*overrides), out=directory, resume=resume, quiet=True)
        except TextEBMError as error:
            print(f"error: {error}", file=log, flush=True)
            os._exit(2)


def arrange(death: tuple[str, int, int], trainer: Any, runs: Any) -> None:
    from textebm.training import classes

    where, step, number = death

    def die() -> None:
        os.kill(os.getpid(), number)

    if where == "step":  # computed, but neither logged nor saved
        steps = trainer.steps

        def stopping(self: Any) -> Iterator[Any]:
            for each in steps(self):
                if each.number == step:
                    die()
                yield each

        trainer.steps = stopping
    elif where == "logged":  # the health line is written, its checkpoint is not
        write = runs.MetricsLog.write

        def writing(self: Any, at: int, values: Any) -> None:
            write(self, at, values)
            if at >= step:
                die()

        runs.MetricsLog.write = writing
    elif where == "saving":  # files written, not yet published
        publish = runs.checkpoint._publish

        def publishing(temporary: Path, final: Path) -> None:
            if int(final.name.removeprefix("step-")) >= step:
                die()
            publish(temporary, final)

        runs.checkpoint._publish = publishing
    elif where == "clustering":
        classes.Classes.find = lambda self, means: die()
    else:
        raise AssertionError(where)


def child(
    directory: Path, overrides: Sequence[str] = (), *, resume: bool = False, death: Any = None, ranks: int = 1
) -> list[int]:
    """Exit codes of a run in *ranks* processes (a signal counts negative)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        environment = {}
        if ranks > 1:
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        mine = death if rank == ranks - 1 else None  # the last process is the one in trouble
        texts = {name: str(value) for name, value in environment.items()}
        processes.append(FORKS.Process(target=job, args=(directory, overrides, resume, mine, texts)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)  # a busy machine may take long
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
    assert None not in codes, log_of(directory)
    return [code for code in codes if code is not None]


def log_of(directory: Path) -> str:
    return (directory.parent / f"{directory.name}.log").read_text()


def remains(directory: Path) -> dict[str, bytes]:
    """Every byte that a run leaves, the clock's apart. The manifest has the checksums of weights, optimiser, random
    numbers, clusters and position at the last step."""
    newest = sorted((directory / "checkpoints").iterdir())[-1]
    names = ["metrics.jsonl", "model.safetensors", "config.json", "tokenizer.json", "recipe.yaml"]
    return {newest.name: (newest / "manifest.json").read_bytes()} | {
        name: (directory / name).read_bytes() for name in names
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, bytes]]:
    found = {}
    for overrides in (PLAIN, RECOVERY, LAYERS, SHORT_RUN, REFINED):
        directory = tmp_path_factory.mktemp("unbroken") / "run"
        assert child(directory, overrides) == [0], log_of(directory)
        found[overrides] = remains(directory)
    return found


DEATHS = {
    "mid-epoch, epoch boundary, prior stage": (PLAIN, [("step", 6), ("step", 10), ("step", 31)]),
    "at the seams": (PLAIN, [("logged", 7), ("saving", 12), ("clustering", 0), ("logged", 26), ("saving", 38)]),
    "recovery, jointly": (RECOVERY, [("step", 11), ("saving", 21), ("step", 35)]),
    "layers": (LAYERS, [("step", 12), ("step", 31)]),
    "short runs": (SHORT_RUN, [("step", 12), ("step", 31)]),
    "refined": (REFINED, [("step", 12), ("step", 31)]),
    "anywhere": (PLAIN, [("step", step) for step in sorted(random.Random(7).sample(range(5, 39), 3))]),
}


@pytest.mark.parametrize("name", DEATHS)
def test_killed_and_resumed_is_the_unbroken_run(
    name: str, tmp_path: Path, unbroken: dict[tuple[str, ...], dict[str, bytes]]
) -> None:
    overrides, deaths = DEATHS[name]
    directory = tmp_path / "run"
    for attempt, (where, step) in enumerate(deaths):
        codes = child(directory, overrides, resume=attempt > 0, death=(where, step, signal.SIGKILL))
        assert codes == [-signal.SIGKILL], log_of(directory)
    assert child(directory, overrides, resume=True) == [0], log_of(directory)
    assert len(re.findall("resumed at step", log_of(directory))) >= len(deaths) - 1
    found = remains(directory)
    assert [each for each in unbroken[overrides] if found.get(each) != unbroken[overrides][each]] == []
    hidden = [path.name for path in (directory / "checkpoints").iterdir() if path.name.startswith(".")]
    assert hidden == [], "a later save clears what a dead process left"


def test_stopped_by_signals_and_resumed_is_the_unbroken_run(
    tmp_path: Path, unbroken: dict[tuple[str, ...], dict[str, bytes]]
) -> None:
    directory = tmp_path / "run"
    for attempt, (number, step) in enumerate([(signal.SIGTERM, 2), (signal.SIGINT, 13), (signal.SIGTERM, 30)]):
        assert child(directory, PLAIN, resume=attempt > 0, death=("step", step, number)) == [0], log_of(directory)
        found = checkpoint.latest(directory)
        assert found is not None and found.step == step, "nothing is lost"
        assert not (directory / "model.safetensors").exists()
    assert child(directory, PLAIN, resume=True) == [0], log_of(directory)
    assert remains(directory) == unbroken[PLAIN]


@pytest.mark.parametrize("file", ["process_0.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(
    file: str, tmp_path: Path, unbroken: dict[tuple[str, ...], dict[str, bytes]]
) -> None:
    directory = tmp_path / "run"
    assert child(directory, PLAIN, death=("step", 23, signal.SIGKILL)) == [-signal.SIGKILL]
    newest = sorted((directory / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000020"
    data = bytearray((newest / file).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / file).write_bytes(data)
    assert child(directory, PLAIN, resume=True) == [0], log_of(directory)
    assert "damaged checkpoint passed over" in log_of(directory) and "resumed at step 16 of 38" in log_of(directory)
    assert remains(directory) == unbroken[PLAIN]


def test_resume_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert child(directory, PLAIN, death=("step", 9, signal.SIGTERM)) == [0]
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert child(directory, (*PLAIN, "training.batch_size=33"), resume=True) == [2]
    assert "trained with another recipe (training.batch_size: 32 → 33)" in log_of(directory)
    assert child(directory, PLAIN) == [2]
    assert "is not empty" in log_of(directory)
    with RunLock(directory):
        assert child(directory, PLAIN, resume=True) == [2]
    assert f"in use by process {os.getpid()}" in log_of(directory)
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {directory / ".lock"}
    for path in (directory / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    assert child(directory, PLAIN, resume=True) == [2]
    assert "no usable checkpoint" in log_of(directory)
    with pytest.raises(RunInUseError), RunLock(directory), RunLock(directory):
        pass


# ------------------------------------------------------------------------------------------------------ two processes


@pytest.mark.parametrize("overrides", [PLAIN, RECOVERY, LAYERS], ids=["score matching", "recovery", "layers"])
def test_two_processes_stop_together_and_resume_to_the_same_bits(overrides: tuple[str, ...], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert child(whole, overrides, ranks=2) == [0, 0], log_of(whole)
    for attempt, step in enumerate((8, 19) if overrides == PLAIN else (18,)):
        codes = child(broken, overrides, ranks=2, resume=attempt > 0, death=("step", step, signal.SIGTERM))
        assert codes == [0, 0], log_of(broken)
        found = checkpoint.latest(broken)
        assert found is not None and found.step == step
        assert {"process_0", "process_1"} <= set(found.groups)
    assert child(broken, overrides, resume=True) == [2], "another number of processes"
    assert "saved with 2 processes and would resume with 1" in log_of(broken)
    assert child(broken, overrides, resume=True, ranks=2) == [0, 0], log_of(broken)
    first, second = remains(whole), remains(broken)
    assert [name for name in first if first[name] != second.get(name)] == []


SHORT = "training.stages=[{name: autoencoder, steps: 6}, {name: prior, steps: 4}]"
EACH = ("training.evaluate_every=1",)


def losses(directory: Path) -> list[float]:
    """The loss of every step, as the run has logged it."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


DOUBLED = ("training.batch_size=64", "training.prior_batch_size=128")
DRAWS = ("decoder.word_dropout=0.2", "encoder.dropout=0.1")  # and every stage's noise


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.size=289", "objective.free_bits=0.1", "objective.mutual_information_weight=1"),  # unequal last parts
        # A last batch of one sentence. Standardised, it would be by running statistics, and these follow a bias whose
        # gradient is rounding and nothing else.
        ("data.size=257", "latent.standardize=false"),
        ("prior.learning=recovery", "prior.steps=2", "prior.metropolis=true", "objective.cluster_sampling=true"),
        ("prior.kind=hierarchical_diffusion_energy", "objective.contrastive_weight=0.5"),
        ("latent.segments=4", "encoder.tie_embedding=true"),
        ("inference.kind=short_run", "inference.steps=2", "prior.kind=energy"),
    ],
    ids=["score matching", "a part of none", "recovery", "layers and views", "segments", "short runs"],
)
def test_two_processes_do_what_one_does_with_twice_the_batch(overrides: tuple[str, ...], tmp_path: Path) -> None:
    stages = "training.stages=[{name: autoencoder, steps: 7}, {name: prior, steps: 4}, {name: joint, steps: 4}]"
    overrides = (*EACH, *DRAWS, stages, *overrides)
    assert child(tmp_path / "two", overrides, ranks=2) == [0, 0], log_of(tmp_path / "two")
    assert child(tmp_path / "one", (*overrides, *DOUBLED)) == [0], log_of(tmp_path / "one")
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(one) == 15 and one[0] != pytest.approx(one[5], rel=1e-2)
    # sums of floats come in another order: half of the steps agree well, and none may be far off
    assert two == pytest.approx(one, rel=1e-3)
    assert np.median(np.abs(np.array(two) / np.array(one) - 1)) < 1e-4


def test_accumulated_batches_do_what_one_of_twice_the_size_does(tmp_path: Path) -> None:
    """Where there are no statistics of the batch."""
    overrides = (
        *EACH,
        *DRAWS,
        SHORT,
        "latent.standardize=false",
        "objective.mutual_information_weight=0",
        "heads=[{name: code, classes: 3}]",
    )
    assert child(tmp_path / "two", (*overrides, "training.accumulate=2")) == [0], log_of(tmp_path / "two")
    assert child(tmp_path / "one", (*overrides, *DOUBLED)) == [0], log_of(tmp_path / "one")
    assert child(tmp_path / "other", overrides) == [0], log_of(tmp_path / "other")
    two, one, other = (losses(tmp_path / name) for name in ("two", "one", "other"))
    # sums of floats come in another order: half of the steps agree well, and none may be far off
    assert two == pytest.approx(one, rel=1e-3)
    assert np.median(np.abs(np.array(two) / np.array(one) - 1)) < 1e-4
    assert other != pytest.approx(one, rel=5e-2), "half the batch is something else"


@pytest.mark.slow
def test_a_launcher_runs_two_processes_into_one_directory(tmp_path: Path) -> None:
    config = write_recipe(tmp_path / "tiny.yaml", *RECOVERY)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "textebm"]
    done = run("train", config, "--out", tmp_path / "run", python=launch)
    assert done.returncode == 0, done.stderr
    expected = {"model.safetensors", "evaluation.json", "metrics.jsonl", "recipe.yaml", "README.md"}
    assert expected <= {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "run"}
    assert done.stderr.count("evaluating") == 1 and done.stdout.count("The run lies in") == 1
    from textebm import TextEBM

    assert len(TextEBM.from_pretrained(tmp_path / "run").generate(2)) == 2


# ------------------------------------------------------------------------------------------- through the command line


def test_a_running_directory_is_in_use_and_sigterm_leaves_it_whole(tmp_path: Path) -> None:
    config = write_recipe(tmp_path / "tiny.yaml", "training.stages=[{name: autoencoder, steps: 100000}]")
    directory = tmp_path / "run"
    first = start("train", config, "--out", directory)
    try:
        deadline = time.monotonic() + 60
        while checkpoint.latest(directory) is None if directory.exists() else True:
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()[1]
            time.sleep(0.2)
        second = run("train", config, "--out", directory, "--resume")
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert re.search(rf"^error: .* in use by process {first.pid} on ", second.stderr, re.MULTILINE)
        first.send_signal(signal.SIGTERM)
        output, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, errors
    assert "stopped and saved" in errors and "Traceback" not in errors and output == ""
    assert "--resume" in errors.splitlines()[-1]
    found = checkpoint.latest(directory)
    assert found is not None and f"stopped at step {found.step} of 100000" in errors
