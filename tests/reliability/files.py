"""Promises about single files: kills, damage, code in files, disks that refuse, locks."""

from __future__ import annotations

import builtins
import errno
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from textebm.errors import TextEBMError
from textebm.model.files import TOKENIZER_FILES, publish_model, read_model
from textebm.runs import checkpoint
from textebm.runs.directory import read_recorded, write_recorded

from .promise import ended, in_child, promise


def tensors(number: int) -> dict[str, torch.Tensor]:
    """What is saved as *number*: everything depends on it, so that a mixture of two shows."""
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(48, 48, generator=generator) for name in ("a", "b")}


def save_checkpoint(folder: Path, number: int) -> None:
    checkpoint.save(folder, number, {"model": tensors(number)}, {"number": number}, keep=2)


def save_model(folder: Path, number: int) -> None:
    files = {name: f"{name} {number}".encode() for name in TOKENIZER_FILES}
    publish_model(folder / "model", tensors(number), {"number": number}, files)


def save_recorded(folder: Path, number: int) -> None:
    write_recorded(folder, "evaluation.json", json.dumps([number] * 200))


def whole(folder: Path) -> int | str:
    """The number of the newest checkpoint, or what is wrong with it."""
    found = checkpoint.latest(folder)
    if found is None or found.problems:
        return f"no whole checkpoint: {found.problems if found else 'none at all'}"
    expected = tensors(found.step)
    same = all(torch.equal(value, expected[name]) for name, value in found.tensors("model").items())
    return found.step if same and found.state == {"number": found.step} else "a mixture of two checkpoints"


def whole_model(folder: Path) -> int | str:
    model = read_model(folder / "model")
    number = model.config["number"]
    same = all(torch.equal(value, tensors(number)[name]) for name, value in model.tensors.items())
    same = same and model.files == {name: f"{name} {number}".encode() for name in TOKENIZER_FILES}
    return number if same else "a mixture of two models"


def whole_recorded(folder: Path) -> int | str:
    values = json.loads(read_recorded(folder, "evaluation.json"))
    return values[0] if values == values[:1] * 200 else "a mixture of two files"


KINDS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], int | str]]] = {
    "checkpoint": (save_checkpoint, whole),
    "model": (save_model, whole_model),
    "recorded file": (save_recorded, whole_recorded),
}

# --- kills ------------------------------------------------------------------------------------------------------------


@promise("old or new, never half", "`kill -9` at random moments of saving", stated=200, short=12)
def random_kills(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    save, look = KINDS["checkpoint"]
    save(folder, 0)
    number = 0
    for _ in range(count):

        def for_ever(first: int = number + 1) -> None:
            for step in range(first, sys.maxsize):
                save(folder, step)

        child = in_child(for_ever)
        while not any(path.name > f"step-{number:08d}" for path in (folder / "checkpoints").glob("step-*")):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        ended(child)
        seen = look(folder)
        yield seen if isinstance(seen, str) else None
        number = seen if isinstance(seen, int) else number
    save(folder, number + 1)
    left = [path.name for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    yield f"left behind: {left}" if left else None


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fsync")


def die_at(count: int, folder: Path, action: Callable[[], None]) -> None:
    """Do it and die, as by a power cut, at the *count*-th change or sync of a file under *folder*."""
    left = count

    def tick(event: str, details: Any = ()) -> None:
        nonlocal left
        if event in EVENTS and (event != "open" or str(details[0]).startswith(str(folder))):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync
    os.fsync = lambda handle: (fsync(handle), tick("fsync"))[0]  # type: ignore[assignment]
    sys.addaudithook(tick)
    action()


@promise("old or new, never half", "`kill -9` at every file operation of a save over another", stated=1, short=1)
def boundary_kills(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    for name, (save, look) in KINDS.items():
        for boundary in range(1, 200):
            place = folder / name / str(boundary)
            place.mkdir(parents=True)
            save(place, 1)
            code = ended(in_child(partial(die_at, boundary, place, partial(save, place, 2))))
            try:
                seen = look(place)
            except TextEBMError as error:
                seen = str(error)
            yield None if seen in (1, 2) and (code != 0 or seen == 2) else f"{name}, operation {boundary}: {seen}"
            save(place, 3)  # the next save works, and leaves nothing of the dead one
            left = [path.name for path in place.rglob(".*")]
            yield None if look(place) == 3 and not left else f"{name}, operation {boundary}: left {left}"
            shutil.rmtree(place)
            if code == 0:
                break


# --- disks ------------------------------------------------------------------------------------------------------------

TROUBLES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


@contextmanager
def failing_at(count: int, trouble: int, folder: Path) -> Iterator[list[int]]:
    """The *count*-th operation that writes under *folder* fails with *trouble*. Gives a list of one: how many were."""
    seen = [0]
    kept = {name: getattr(os, name) for name in ("open", "replace", "rename", "mkdir", "fsync")}
    kept_open = builtins.open

    def checked(real: Any, writes: Callable[..., bool]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if writes(*arguments, **options):
                seen[0] += 1
                if seen[0] == count:
                    raise OSError(trouble, os.strerror(trouble), str(arguments[0]))
            return real(*arguments, **options)

        return call

    def ours(path: Any, *rest: Any, **options: Any) -> bool:
        return str(path).startswith(str(folder))

    def opened(path: Any, mode: Any = "r", *rest: Any, **options: Any) -> bool:
        writing = bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else any(c in mode for c in "wax+")
        return ours(path) and writing

    tests = {"open": opened, "fsync": lambda *_: True, "replace": ours, "rename": ours, "mkdir": ours}
    try:
        for name, real in kept.items():
            setattr(os, name, checked(real, tests[name]))
        builtins.open = checked(kept_open, opened)
        yield seen
    finally:
        for name, real in kept.items():
            setattr(os, name, real)
        builtins.open = kept_open


@promise(
    "a disk that refuses loses nothing", "ENOSPC, EIO, EACCES, EROFS at each operation of a save", stated=1, short=1
)
def refusing_disk(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    for name, (save, look) in KINDS.items():
        for trouble in TROUBLES:
            for operation in range(1, 200):
                place = folder / name / f"{trouble}-{operation}"
                place.mkdir(parents=True)
                save(place, 1)
                what = f"{name}, {errno.errorcode[trouble]} at operation {operation}"
                done, wrong = True, None
                with failing_at(operation, trouble, place) as seen:
                    try:
                        save(place, 2)
                    except TextEBMError as error:
                        done, text = False, str(error)
                        wrong = None if os.strerror(trouble) in text and "\n" not in text else f"{what}: {text}"
                    except OSError as error:
                        done, wrong = False, f"{what}: {error!r}"
                found = look(place)
                if wrong is None and (found not in (1, 2) or (done and found != 2)):
                    wrong = f"{what}: {found}"
                yield wrong
                shutil.rmtree(place)
                if seen[0] < operation:
                    break


@promise(
    "a disk that refuses loses nothing", "a write cut short by the kernel (a limit of file size)", stated=100, short=6
)
def short_writes(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    for attempt in range(count):
        name, (save, look) = chance.choice(list(KINDS.items()))
        place = folder / str(attempt)
        place.mkdir()
        save(place, 1)
        limit = chance.randrange(40_000 if name != "recorded file" else 900)

        def limited(save: Any = save, place: Path = place, limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save(place, 2)

        code = ended(in_child(limited))
        seen = look(place)
        fine = (code, seen) in ((0, 2), (2, 1), (2, 2))
        yield None if fine else f"{name} at {limit} bytes: exit {code}, then {seen}"
        shutil.rmtree(place)
