"""Promises about what others leave: damaged files, files that would run code, links, and other runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from textebm.errors import RunInUseError, TextEBMError
from textebm.files import digest, json_bytes, write_atomically, write_output
from textebm.model.files import TOKENIZER_FILES, load, read_model
from textebm.recipe.read import load_recipe
from textebm.runs import checkpoint
from textebm.runs.directory import read_recorded, write_recorded
from textebm.runs.evaluate import read_evaluation
from textebm.runs.lock import RunLock

from .files import save_checkpoint, save_model, save_recorded
from .promise import ended, in_child, promise

# --- damage -----------------------------------------------------------------------------------------------------------


@promise("damage is noticed", "bits flipped, files cut short, missing, swapped, added", stated=2000, short=150)
def damage(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    for number in (1, 2):
        save_checkpoint(folder, number)
    save_model(folder, 1)
    save_recorded(folder, 1)
    save_model(folder / "other", 2)
    newest, other = folder / "checkpoints" / "step-00000002", folder / "checkpoints" / "step-00000001"
    victims = [*newest.iterdir(), *(folder / "model").iterdir(), folder / "evaluation.json", folder / "checksums.json"]
    for _ in range(count):
        path = chance.choice(victims)
        before = path.read_bytes()
        how = chance.choice(["flip", "flip", "cut", "cut", "missing", "swapped"])
        if how == "flip":
            data = bytearray(before)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
        elif how == "cut":
            path.write_bytes(before[: chance.randrange(len(before))])
        elif how == "missing":
            path.unlink()
        else:
            twin = other / path.name if path.parent == newest else folder / "other" / "model" / path.name
            path.write_bytes(twin.read_bytes() if twin.is_file() else b"{}")
        yield noticed(folder, path, newest, how)
        path.write_bytes(before)


def noticed(folder: Path, path: Path, newest: Path, how: str) -> str | None:
    """None where the damage of *path* is refused, and what was good is still there."""
    missed = f"{path.name}, {how}: read as if nothing had happened"
    if path.parent == newest:
        found = checkpoint.latest(folder)
        fine = found is not None and found.step == 1 and len(found.problems) == 1
        return None if fine else missed
    try:
        if path.parent.name == "model":
            read_model(folder / "model")
        else:
            read_recorded(folder, "evaluation.json")
    except TextEBMError as error:
        return None if "\n" not in str(error) else f"{path.name}, {how}: more than one line"
    # A file that is gone altogether is of an earlier textebm, which had none.
    return None if path.name == "checksums.json" and how == "missing" else missed


# --- code in files ----------------------------------------------------------------------------------------------------


class Canary:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def payloads(canary: Path) -> dict[str, bytes]:
    """Files that run code, or eat the machine, in readers that trust them."""
    evil = pickle.dumps(Canary(canary))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", evil)
        file.writestr("archive/version", "3")
    command = f"touch {canary}"
    code = {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}, "tokenizer_class": "evil.Tokenizer", "class": "evil:Model"}
    aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
    )
    return {
        "pickle": evil,
        "torch archive": archive.getvalue(),
        "yaml tag": f"!!python/object/apply:os.system ['{command}']\n".encode(),
        "yaml tag in an option": f"name: !!python/object/apply:os.system ['{command}']\n".encode(),
        "alias bomb": aliases.encode(),
        "json of code": json.dumps(code).encode(),
        "deep json": b"[" * 200_000,
        "deep objects": b'{"a":' * 100_000,
        "long number": b"9" * 100_000,
        "header bomb": (2**62).to_bytes(8, "little") + b"{" * 100,
        "header of lies": (lambda h: len(h).to_bytes(8, "little") + h)(
            b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
        ),
        "nothing": b"",
        "zeros": bytes(4096),
        "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }


def sealed(model: Path, name: str, data: bytes) -> None:
    """Put *data* into a saved model with the checksums that belong to it, as whoever means harm can."""
    (model / name).write_bytes(data)
    config = json.loads((model / "config.json").read_bytes())
    config["checksums"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (model / "config.json").write_text(json.dumps(config))


@promise(
    "no file can run code", "malicious models, checkpoints, recipes and results with a canary", stated=81, short=81
)
def malice(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    from tiny import untrained

    canary = folder / "canary"
    model = folder / "saved"
    untrained().save_pretrained(model)
    (folder / "evil.py").write_text(f"import os\nos.system('touch {canary}')\n")
    sys.path.insert(0, str(folder))
    try:
        for kind, data in payloads(canary).items():
            for name in ("model.safetensors", "config.json", *TOKENIZER_FILES):
                place = folder / "victim"
                shutil.copytree(model, place)
                if name == "config.json":
                    (place / name).write_bytes(data)
                else:
                    sealed(place, name, data)
                # Names of classes in a tokenizer's options are not read, so they do no harm.
                harmless = kind == "json of code" and name == "tokenizer_config.json"
                yield unmoved(canary, f"{kind} as {name}", partial(load, place), refused=not harmless)
                shutil.rmtree(place)
            for name, read in (
                ("recipe.yaml", load_recipe),
                ("evaluation.json", lambda path: read_evaluation(path.parent)),
                ("state.json", lambda path: checkpoint.latest(path.parents[2])),
            ):
                path = folder / "run" / "checkpoints" / "step-00000001" / name
                if name != "state.json":
                    path = folder / "run" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name == "state.json":
                    files = {name: {"size": len(data), "sha256": digest(data)}}
                    body = {"format": "textebm-checkpoint", "format_version": 1, "step": 1, "files": files}
                    manifest = json_bytes({**body, "sha256": digest(json_bytes(body))})
                    (path.parent / "manifest.json").write_bytes(manifest)
                path.write_bytes(data)
                harmless = kind == "json of code" and name == "state.json"
                yield unmoved(canary, f"{kind} as {name}", partial(read, path), refused=not harmless)
        config = json.loads((model / "config.json").read_bytes())
        for name in ("../../../../../etc/passwd", "/dev/zero", "/dev/random"):
            config["checksums"][name] = {"size": 1, "sha256": "0"}
        (model / "config.json").write_text(json.dumps(config))
        yield unmoved(canary, "names outside the model", partial(load, model))
    finally:
        sys.path.remove(str(folder))


def unmoved(canary: Path, what: str, read: Callable[[], object], refused: bool = True) -> str | None:
    began = time.monotonic()
    try:
        read()
    except TextEBMError:
        pass
    except Exception as error:
        return f"{what}: {type(error).__name__}: {str(error)[:200]}"
    else:
        if refused:
            return f"{what}: read as if it were one of ours"
    if canary.exists():
        canary.unlink()
        return f"{what}: code ran"
    return f"{what}: took {time.monotonic() - began:.0f} s" if time.monotonic() - began > 20 else None


# --- locks and outputs ------------------------------------------------------------------------------------------------


@promise(
    "two runs cannot share a directory", "four processes race for one lock; holders are killed", stated=400, short=40
)
def locks(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    def worker(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(count // 4):
            with suppress(RunInUseError), RunLock(folder):
                holder = os.open(folder / "holder", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                os.close(holder)
                time.sleep(own.uniform(0, 0.002))
                os.unlink(folder / "holder")
                os.write(log, b".")
            time.sleep(own.uniform(0, 0.002))

    log = os.open(folder / "held", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    codes = [ended(child) for child in [in_child(partial(worker, seed)) for seed in range(4)]]
    held = os.path.getsize(folder / "held")
    os.close(log)
    yield from [None if code == 0 else "two held the lock at once" for code in codes]
    yield None if held >= 4 else "nobody got the lock"
    for _ in range(count // 10):
        ready, done = os.pipe()

        def hold(done: int = done) -> None:
            with RunLock(folder):
                os.write(done, b"!")
                time.sleep(60)

        child = in_child(hold)
        os.read(ready, 1)
        try:
            with RunLock(folder):
                problem: str | None = "a held lock was given away"
        except RunInUseError as error:
            problem = None if f"process {child} on" in str(error) else f"the holder is not named: {error}"
        os.kill(child, signal.SIGKILL)
        ended(child)
        os.close(ready)
        os.close(done)
        with RunLock(folder):  # a dead process holds none
            yield problem


@promise(
    "nothing outside is written to", "links, pipes and devices as outputs and in a run directory", stated=120, short=20
)
def links(count: int, folder: Path, chance: random.Random) -> Iterator[str | None]:
    outside = folder / "outside"
    for attempt in range(count):
        outside.write_text("precious")
        run = folder / str(attempt)
        run.mkdir()
        name = chance.choice(
            ["report.html", ".report.html.new", ".lock", "recipe.yaml", "checksums.json", "config.json"]
        )
        link = run / name
        if chance.random() < 0.5:
            link.symlink_to(outside)
        else:
            os.mkfifo(link)
        with suppress(TextEBMError):
            if name == ".lock":
                child = in_child(lambda run=run: RunLock(run).__enter__())  # type: ignore[misc]
                deadline = time.monotonic() + 20
                while os.waitpid(child, os.WNOHANG)[0] == 0:
                    if time.monotonic() > deadline:
                        os.kill(child, signal.SIGKILL)
                    time.sleep(0.005)
            elif name == "recipe.yaml":
                write_recorded(run, name, "name: x")
            else:
                write_atomically(run / "report.html", "page")
        yield None if outside.read_text() == "precious" else f"{name}: written through a link"
        write_output(Path(os.devnull), "x")
        yield None if os.path.exists(os.devnull) and not os.path.isfile(os.devnull) else "the device was replaced"
        shutil.rmtree(run)
