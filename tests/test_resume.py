"""A run that was killed, stopped or damaged and then resumed ends in the same bits as one that was not."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import recipe, run, start, write_recipe

from textebm.errors import RunInUseError, TextEBMError
from textebm.runs import checkpoint
from textebm.runs.lock import RunLock

FORKS = multiprocessing.get_context("forkserver")

# Dropout draws from the global random numbers, word dropout and noise from the trainer's own; recovery
# adapts its chain while it trains.
PLAIN = ("decoder.word_dropout=0.2", "encoder.dropout=0.1", "encoder.num_layers=2")
RECOVERY = (
    "prior.learning=recovery",
    "prior.steps=2",
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

    from textebm.runs import train as runs
    from textebm.training.loop import Trainer

    torch.set_num_threads(1)
    log = open(directory.parent / f"{directory.name}.log", "a")
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        runs._conclude = lambda model, _recipe, _corpus, where, *_: model.save_pretrained(where)  # no evaluation
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
        classes.Classes.find = lambda self, means, **due: die()
    else:
        raise AssertionError(where)


def child(
    directory: Path, overrides: Sequence[str] = (), *, resume: bool = False, death: Any = None, ranks: int = 1
) -> list[int]:
    """Exit codes of a run in *ranks* processes (a signal counts negative)."""
    # the last process is the one in trouble
    each = [(directory, overrides, resume, death if rank == ranks - 1 else None) for rank in range(ranks)]
    codes = spawn(job, each)
    assert None not in codes, log_of(directory)
    return [code for code in codes if code is not None]


def spawn(target: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[int | None]:
    """Exit codes of a process for each of the arguments, which train together if there are several."""
    ranks = len(arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank, own in enumerate(arguments):
        environment = dict[str, object]()
        if ranks > 1:
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        texts = {name: str(value) for name, value in environment.items()}
        processes.append(FORKS.Process(target=target, args=(*own, texts)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)  # a busy machine may take long
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
    return codes


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


class Unbroken(dict[tuple[str, ...], dict[str, bytes]]):
    """What a run with these overrides leaves that nothing stopped; each is trained when it is asked for first."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __missing__(self, overrides: tuple[str, ...]) -> dict[str, bytes]:
        directory = self.folder / str(len(self))
        assert child(directory, overrides) == [0], log_of(directory)
        self[overrides] = remains(directory)
        return self[overrides]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(tmp_path_factory.mktemp("unbroken"))


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
def test_killed_and_resumed_is_the_unbroken_run(name: str, tmp_path: Path, unbroken: Unbroken) -> None:
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


def test_stopped_by_signals_and_resumed_is_the_unbroken_run(tmp_path: Path, unbroken: Unbroken) -> None:
    directory = tmp_path / "run"
    for attempt, (number, step) in enumerate([(signal.SIGTERM, 2), (signal.SIGINT, 13), (signal.SIGTERM, 30)]):
        assert child(directory, PLAIN, resume=attempt > 0, death=("step", step, number)) == [0], log_of(directory)
        found = checkpoint.latest(directory)
        assert found is not None and found.step == step, "nothing is lost"
        assert not (directory / "model.safetensors").exists()
    assert child(directory, PLAIN, resume=True) == [0], log_of(directory)
    assert remains(directory) == unbroken[PLAIN]


@pytest.mark.parametrize("file", ["process_0.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over(file: str, tmp_path: Path, unbroken: Unbroken) -> None:
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


def keep_gradients(file: Path, environment: Mapping[str, str]) -> None:
    """In the child: the gradient of the last step of an epoch, and what this process's own rows should add to it."""
    os.environ.update(environment)
    import torch
    from safetensors.torch import save_file
    from tiny import objective_of, trainer

    from textebm.model.build import build_weights

    torch.set_num_threads(1)
    worker = trainer("data.size=269", "training.gradient_clip=1e9", "training.stages=[{name: autoencoder, steps: 5}]")
    step, parameters = worker._step, dict(worker.model.named_parameters())

    def watched(stage: Any, batches: Any) -> Any:
        ((batch, share),) = batches
        if len(batch) == 32:
            worker.stage_step += 1
            return None
        noise, buffers = worker.generator.get_state(), {k: v.clone() for k, v in worker.model.named_buffers()}
        weights = build_weights(worker.recipe.objective, worker.stage_step / 5)
        targets = worker.classes.targets(batch.index.numpy(), worker.device)
        worker.model.train()
        (objective_of(worker.model, batch, "autoencoder", weights, targets, worker.generator).loss * share).backward()
        own = {name: each.grad.clone() for name, each in parameters.items() if each.grad is not None}
        worker.generator.set_state(noise)
        worker.model.load_state_dict(buffers, strict=False)
        worker.optimizer.step = lambda: None  # type: ignore[method-assign]
        step(stage, batches)
        taken = {f"step.{name}": each.grad for name, each in parameters.items() if each.grad is not None}
        rows, noise = {"rows": batch.index}, {"noise": worker.generator.get_state()}
        save_file({**rows, **noise, **taken, **{f"own.{name}": each for name, each in own.items()}}, file)
        return None

    worker._step = watched  # type: ignore[method-assign]
    for _ in worker.steps():
        pass


def test_the_gradient_of_two_processes_is_the_mean_over_their_rows(tmp_path: Path) -> None:
    files = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    assert spawn(keep_gradients, [(file,) for file in files]) == [0, 0]
    first, second = (load_file(file) for file in files)
    assert [len(first["rows"]), len(second["rows"])] == [7, 6]
    assert not set(first["rows"].tolist()) & set(second["rows"].tolist())
    assert not torch.equal(first["noise"], second["noise"]), "each draws for itself"
    names = [name.removeprefix("own.") for name in first if name.startswith("own.")]
    assert len(names) > 10
    for name in names:
        torch.testing.assert_close(first[f"step.{name}"], second[f"step.{name}"], rtol=0, atol=0)
        torch.testing.assert_close(first[f"step.{name}"], first[f"own.{name}"] + second[f"own.{name}"])


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
