"""Promises about whole runs: kills and resumes, signals, numbers that go wrong, disks, secrets, the network."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from textebm.errors import DivergenceError, TextEBMError
from textebm.files import check_finite
from textebm.runs import checkpoint

from .files import TROUBLES, failing_at
from .promise import ended, in_child, promise

STEPS = 14
SMALL = (
    "training.stages=[{name: autoencoder, steps: 6}, {name: prior, steps: 4}, {name: joint, steps: 4}]",
    "training.checkpoint_every=3",
    "decoder.word_dropout=0.2",
    "data.size=200",
)


def train(directory: Path, *, resume: bool = False, overrides: tuple[str, ...] = (), at: Any = None) -> None:
    """A run without health lines and evaluation. at: (phase, step, action) to do something in the middle of it."""
    from tiny import recipe

    from textebm.model.files import save
    from textebm.runs import train as runs
    from textebm.training.health import Health

    torch.set_num_threads(1)
    same = {"reconstruction_nll": 0.0, "kl": 0.0}
    runs.Trainer.health = lambda self: Health(same, [])  # type: ignore[method-assign]
    runs._conclude = lambda model, *rest: save(getattr(model, "network", model), directory)
    if at is not None:
        arrange(runs, *at)
    runs.train(recipe(*SMALL, *overrides), out=directory, resume=resume, quiet=True)


def arrange(runs: Any, phase: str, step: int, action: Callable[[Any], None]) -> None:
    """Do *action* in a phase of a run: at a step, before a checkpoint is published, while k-means works, and so on."""
    if phase == "step":
        steps = runs.Trainer.steps

        def stopping(self: Any) -> Iterator[Any]:
            for each in steps(self):
                if each.number == step:
                    action(self)
                yield each

        runs.Trainer.steps = stopping
        return
    from textebm.training import classes

    places = {
        "reading": (runs, "build_corpus"),
        "building": (runs, "build_model"),
        "clustering": (classes.Classes, "find"),
        "saving": (runs.checkpoint, "_publish"),
        "concluding": (runs, "_conclude"),
    }
    owner, name = places[phase]
    real = getattr(owner, name)

    def acting(*arguments: Any, **options: Any) -> Any:
        setattr(owner, name, real)  # once: a second Ctrl-C leaves without saving
        action(None)
        return real(*arguments, **options)

    setattr(owner, name, acting)


def send(number: int) -> Callable[[Any], None]:
    return lambda _: os.kill(os.getpid(), number)


def remains(directory: Path) -> str:
    """A hash of every byte that a run leaves, the clock's apart."""
    newest = sorted((directory / "checkpoints").glob("step-*"))[-1]
    names = ["metrics.jsonl", "model.safetensors", "config.json", "tokenizer.json", "recipe.yaml", "checksums.json"]
    paths = [newest / "manifest.json", *(directory / name for name in names)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def unbroken(folder: Path) -> str:
    assert ended(in_child(partial(train, folder / "unbroken"), folder / "log")) == 0, (folder / "log").read_text()
    return remains(folder / "unbroken")


@promise("resume is exact", "killed at three random steps, resumed each time, equal by hash", stated=50, short=0)
def resumed(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    expected = unbroken(folder)
    for attempt in range(count):
        directory = folder / str(attempt)
        deaths = sorted(chance.sample(range(1, STEPS + 1), 3))
        for number, step in enumerate(deaths):
            at = (chance.choice(["step", "step", "saving"]), step, send(signal.SIGKILL))
            ended(in_child(partial(train, directory, resume=number > 0, at=at), folder / "log"))
        code = ended(in_child(partial(train, directory, resume=True), folder / "log"))
        same = code == 0 and remains(directory) == expected
        yield None if same else f"killed at {deaths}: exit {code}, other bytes"
        shutil.rmtree(directory)


@promise("Ctrl-C and SIGTERM save and leave", "a signal in each phase, then resumed, equal by hash", stated=40, short=0)
def signals(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    expected = unbroken(folder)
    phases = ["reading", "building", "step", "step", "saving", "clustering", "concluding"]
    for attempt in range(count):
        phase, number = phases[attempt % len(phases)], chance.choice([signal.SIGINT, signal.SIGTERM])
        step = chance.randrange(1, STEPS)
        directory = folder / str(attempt)
        code = ended(in_child(partial(train, directory, at=(phase, step, send(number))), folder / "log"))
        what = f"{number.name} while {phase} (step {step})"
        begun = phase not in ("reading", "building")
        if not begun and (code == 0 or directory.exists()):
            yield f"{what}: exit {code}, before there was anything to save"
            continue
        found = checkpoint.latest(directory) if begun else None
        if begun and (code != 0 or found is None or (phase == "step" and found.step != step)):
            yield f"{what}: exit {code}, {found and found.step}"
            continue
        code = ended(in_child(partial(train, directory, resume=True), folder / "log"))
        yield None if code == 0 and remains(directory) == expected else f"{what}: other bytes after resuming"
        shutil.rmtree(directory)


@promise("same seed, same bits", "runs of one recipe and seed, equal by hash", stated=5, short=0)
def repeated(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    expected = unbroken(folder)
    for attempt in range(count):
        ended(in_child(partial(train, folder / str(attempt)), folder / "log"))
        yield None if remains(folder / str(attempt)) == expected else "other bytes"


@promise(
    "numbers never go silently wrong", "NaN or infinity in a weight, moment or buffer: never saved", stated=300, short=5
)
def poisoned(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from tiny import trainer

    for _ in range(count):
        worker = trainer(*SMALL)
        bad = chance.choice([float("nan"), float("inf"), -float("inf")])
        at, group, name = chance.randrange(1, STEPS), chance.choice(["model", "model", "optimizer"]), ""
        caught = False
        try:
            for step in worker.steps():
                tensors, _ = worker.state()
                for each in ("model", "optimizer"):
                    check_finite(tensors[each], "saving")  # as a run does before it saves
                if step.number == at:
                    names = [
                        key for key, value in tensors[group].items() if value.is_floating_point() and value.numel()
                    ]
                    name = chance.choice(names)
                    tensors[group][name].view(-1)[chance.randrange(tensors[group][name].numel())] = bad
        except DivergenceError:
            caught = True
        good = all(bool(value.isfinite().all()) for value in worker.model.state_dict().values())
        yield None if caught or good else f"{group}: {name} of {bad} at step {at} went unnoticed"


@promise("numbers never go silently wrong", "NaN or infinity in each term and each gradient", stated=120, short=6)
def terms(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from tiny import trainer

    for attempt in range(count):
        worker = trainer(*SMALL)
        bad, at = chance.choice([float("nan"), float("inf")]), chance.randrange(2, STEPS)
        gradient, name = attempt % 2 == 0, ""
        parameters = [each for each in worker.model.parameters() if each.requires_grad]
        check, handles = worker._check, []
        try:
            for step in worker.steps():
                if step.number == at - 1 and gradient:
                    hit = lambda grad, bad=bad: torch.full_like(grad, bad)  # noqa: E731
                    handles = [each.register_hook(hit) for each in chance.sample(parameters, 6)]
                elif step.number == at - 1:

                    def wrong(values: dict[str, float], bad: float = bad, check: Any = check) -> None:
                        nonlocal name
                        name = chance.choice(sorted(values))
                        check({**values, name: bad})

                    worker._check = wrong  # type: ignore[method-assign]
                elif step.number >= at and (name or gradient):
                    used = not gradient or any(
                        each.grad is not None and not each.grad.isfinite().all() for each in parameters
                    )
                    if used:
                        yield f"step {at}: {name or 'a gradient'} of {bad} went unnoticed"
                        break
            else:
                yield None  # a parameter that this stage does not move
        except DivergenceError as error:
            # A gradient shows in the first step that moves its parameter, a term at once.
            named = "gradient" in str(error) if gradient else name in str(error) and f"step {at}" in str(error)
            yield None if named else f"not named: {error}"
        for handle in handles:
            handle.remove()


@promise(
    "a disk that refuses loses nothing",
    "ENOSPC, EIO, EACCES, EROFS at an operation of a whole run",
    stated=120,
    short=0,
)
def refused_run(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    expected = unbroken(folder)
    for attempt in range(count):
        operation, trouble = chance.randrange(1, 190), chance.choice(TROUBLES)
        directory, log = folder / str(attempt), folder / f"{attempt}.log"

        def failing(operation: int = operation, trouble: int = trouble, directory: Path = directory) -> None:
            with failing_at(operation, trouble, directory):
                train(directory)

        code = ended(in_child(failing, log))
        text = log.read_text()
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        one = code == 0 or (code == 2 and len(lines) == 1 and "Traceback" not in text)
        again = ended(in_child(partial(train, directory, resume=True), log))
        same = again == 0 and remains(directory) == expected
        yield (
            None if one and same else f"{os.strerror(trouble)} at {operation}: exit {code}, then {again}: {text[-300:]}"
        )
        shutil.rmtree(directory, ignore_errors=True)


SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
    "MY_PASSWORD",
)


@promise("secrets stay out", "tokens in the environment: in no file, log or page of a run", stated=6, short=0)
def secrets(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    marks = {name: f"canary-{chance.randrange(10**12)}" for name in SECRETS}

    def whole_run() -> None:
        os.environ.update(marks)
        from tiny import recipe

        import textebm

        textebm.train(recipe(*SMALL, "evaluation.limit=10"), out=folder / "run")

    code = ended(in_child(whole_run, folder / "log"))
    files = [path for path in [*(folder / "run").rglob("*"), folder / "log"] if path.is_file()]
    for name, mark in marks.items():
        told = [path.name for path in files if mark.encode() in path.read_bytes()]
        yield None if code == 0 and not told else f"{name}: exit {code}, in {told}"


@promise("works offline", "a run, its report and 20 sentences with every connection refused", stated=1, short=0)
def offline(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    def refuse(self: Any, address: Any) -> None:
        os._exit(77)

    def all_of_it() -> None:
        socket.socket.connect = refuse  # type: ignore[assignment, method-assign]
        socket.getaddrinfo = lambda *_, **__: os._exit(77)  # type: ignore[assignment]
        from tiny import recipe

        import textebm

        textebm.train(recipe(*SMALL, "evaluation.limit=10"), out=folder / "run").model.generate(20)

    code = ended(in_child(all_of_it, folder / "log"))
    yield None if code == 0 and (folder / "run" / "report.html").exists() else f"exit {code} (77: a connection)"


@promise("a variable of the launcher changes no weight", "ACCELERATE_… variables set, equal by hash", stated=4, short=0)
def launcher(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    expected = unbroken(folder)
    for number, (name, value) in enumerate(
        {
            "ACCELERATE_MIXED_PRECISION": "bf16",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
            "ACCELERATE_DYNAMO_BACKEND": "inductor",
            "ACCELERATE_DOWNCAST_BF16": "true",
        }.items()
    ):

        def with_variable(name: str = name, value: str = value, number: int = number) -> None:
            os.environ[name] = value
            train(folder / str(number))

        code = ended(in_child(with_variable, folder / "log"))
        yield None if code == 0 and remains(folder / str(number)) == expected else f"{name}={value}: exit {code}"


@promise(
    "saved is what was trained", "every public method before and after saving, in another process", stated=1, short=0
)
def saved(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    import json

    from test_pretrained import everything
    from tiny import trained

    import textebm

    model = trained(*SMALL)
    model.save_pretrained(folder / "model")
    expected = json.loads(json.dumps(everything(model)))

    def elsewhere() -> None:
        found = json.loads(json.dumps(everything(textebm.TextEBM.from_pretrained(folder / "model"))))
        wrong = [name for name in expected if found[name] != expected[name]]
        if wrong:
            raise TextEBMError(", ".join(wrong))

    code = ended(in_child(elsewhere, folder / "log"))
    yield None if code == 0 else (folder / "log").read_text()[-300:]
