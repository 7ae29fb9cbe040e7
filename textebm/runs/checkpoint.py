"""Checkpoints and saved models that are whole or refused, never half, and that cannot run code.

A checkpoint is a directory `checkpoints/step-00000123/` of

    GROUP.safetensors   tensors by name, one file a group ("model", "optimizer", "random", ...)
    state.json          everything that is no tensor
    manifest.json       size and SHA-256 of the files above, and of itself

It is written under a hidden name, forced to disk, and renamed: readers see all of it or nothing. A run directory has
one writer (`RunLock` sees to that), so a hidden directory found while saving was left behind by a process that died.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from textebm.errors import CheckpointError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINT_FORMAT = "textebm-checkpoint"
MODEL_FORMAT = "textebm"

MANIFEST, STATE, WEIGHTS, CONFIG = "manifest.json", "state.json", "model.safetensors", "config.json"
PENDING_WEIGHTS = ".model.safetensors.pending"
# Prefixes of hidden directories: being written; moved aside for one of the same step; being deleted.
NEW, REPLACED, OLD = ".new-", ".replaced-", ".old-"
STEP_NAME = re.compile(r"(\.replaced-)?step-([0-9]{8,})")
SUFFIX = ".safetensors"


# ---------------------------------------------------------------------------------------------------------------- files


def write_file(path: Path, data: bytes) -> None:
    """Write *data* to a new *path* and force it to disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk: a rename is durable only after this."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace *path* by *data*; a reader, or whoever comes after a crash, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        write_file(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # A copy of each: safetensors refuses tensors that share memory (tied weights, views).
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(copies)


def _from_bytes(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(sorted(safetensors.torch.load(data).items()))  # it has an order of its own each time
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"not a readable safetensors file ({error})") from error


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True).encode()


def _parse_json(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_verified(path: Path, expected: Any) -> bytes:
    """The bytes of *path* if they have the recorded size and SHA-256. The very bytes that were checked are used."""
    if not isinstance(expected, dict) or not {"size", "sha256"} <= expected.keys():
        raise CheckpointError(f"no checksum is recorded for {path.name}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error.strerror})") from error
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path.name} is a Git LFS pointer; fetch the file itself (`git lfs pull`)")
    if len(data) != expected["size"]:
        raise CheckpointError(f"{path.name} has {len(data)} bytes where {expected['size']} were written")
    if _digest(data) != expected["sha256"]:
        raise CheckpointError(f"{path.name} is damaged (its SHA-256 differs from the recorded one)")
    return data


def _record(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": _digest(data)}


# ---------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was verified.

    `state` is what `save` was given; `problems` names the newer checkpoints that were refused, and why.
    """

    path: Path
    step: int
    state: dict[str, Any]
    problems: tuple[str, ...] = ()
    files: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names that `tensors` knows."""
        return tuple(sorted(name.removesuffix(SUFFIX) for name in self.files if name.endswith(SUFFIX)))

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Load a group's tensors to the CPU. Raises CheckpointError for an unknown group or bytes changed since."""
        if group not in self.groups:
            raise CheckpointError(f"{self.path}: no tensors named {group!r}; it has {', '.join(self.groups) or 'none'}")
        name = group + SUFFIX
        try:
            return _from_bytes(_read_verified(self.path / name, self.files[name]))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


def save(
    directory: Path | str,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Publish a checkpoint of *step* under `directory/checkpoints` and return its path.

    Afterwards the newest *keep* checkpoints up to *step* remain. Those of later steps go: they belong to a history that
    was left when an earlier checkpoint was resumed, and would otherwise be taken for the latest. *state* holds JSON
    values. Raises CheckpointError if the disk refuses (full, read-only); the earlier checkpoints are then untouched.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"save: step must be >= 0 and keep >= 1, got step={step} and keep={keep}")
    for group in tensors:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", group):
            raise ValueError(f"save: a group is named by letters, digits, '-' and '_', got {group!r}")
    root = Path(directory) / "checkpoints"
    final = root / f"step-{step:08d}"
    temporary = root / (NEW + final.name)
    contents = _json_bytes(state)  # before touching the disk: a value that is no JSON is the caller's bug
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        files = {}
        for group, values in tensors.items():
            data = _to_bytes(values)
            files[group + SUFFIX] = _record(data)
            write_file(temporary / (group + SUFFIX), data)
        files[STATE] = _record(contents)
        write_file(temporary / STATE, contents)
        sync_directory(temporary)
        write_file(temporary / MANIFEST, _manifest(step, files))
        sync_directory(temporary)
        _publish(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: saving failed: {error.strerror or error}; earlier checkpoints are untouched. "
            "Check free space and permissions, then resume."
        ) from error
    try:
        _prune(root, step, keep)
    except OSError as error:
        logger.warning("%s: older checkpoints could not be removed: %s", root, error.strerror or error)
    return final


def latest(directory: Path | str) -> Checkpoint | None:
    """The newest checkpoint under `directory/checkpoints` that verifies; None if there never was one.

    A damaged one (changed, cut short, a file missing, added or swapped) is refused with a warning and the one before it
    is taken. Raises CheckpointError, naming each, if all are damaged.
    """
    problems: list[str] = []
    for path in _candidates(Path(directory) / "checkpoints"):
        try:
            checkpoint = _verify(path)
        except CheckpointError as error:
            problems.append(f"{path}: {error}")
            logger.warning("checkpoint refused: %s: %s", path, error)
            continue
        return Checkpoint(checkpoint.path, checkpoint.step, checkpoint.state, tuple(problems), checkpoint.files)
    if problems:
        listing = "\n  ".join(problems)
        raise CheckpointError(f"no usable checkpoint; start again without resuming. Refused:\n  {listing}")
    return None


def _manifest(step: int, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    body = {"format": CHECKPOINT_FORMAT, "format_version": FORMAT_VERSION, "step": step, "files": files}
    return _json_bytes({**body, "sha256": _digest(_json_bytes(body))})


def _verify(path: Path) -> Checkpoint:
    """Check every file of a checkpoint. The manifest must be, to the byte, what `_manifest` writes of its contents."""
    try:
        data = (path / MANIFEST).read_bytes()
        present = set(os.listdir(path))
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    manifest = _parse_json(data, MANIFEST)
    if manifest.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{MANIFEST} is not that of a textebm checkpoint")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"format version {manifest.get('format_version')!r}, where this textebm reads {FORMAT_VERSION}"
        )
    step, files = manifest.get("step"), manifest.get("files")
    if not isinstance(step, int) or not isinstance(files, dict) or data != _manifest(step, files):
        raise CheckpointError(f"{MANIFEST} is damaged (its SHA-256 differs from the recorded one)")
    if path.name.removeprefix(REPLACED) != f"step-{step:08d}":
        raise CheckpointError(f"holds step {step}: the directory was renamed or swapped")
    if missing := sorted({STATE, *files} - present):
        raise CheckpointError(f"{', '.join(missing)} is missing")
    if extra := sorted(present - files.keys() - {MANIFEST}):
        raise CheckpointError(f"{', '.join(extra)} does not belong to it")
    for name in files.keys() - {STATE}:
        _read_verified(path / name, files[name])
    return Checkpoint(path, step, _parse_json(_read_verified(path / STATE, files[STATE]), STATE), files=files)


def _candidates(root: Path) -> list[Path]:
    """Published checkpoints, newest first; one that was moved aside comes just after the one of its step."""
    if not root.is_dir():
        return []
    try:
        entries = list(root.iterdir())
    except OSError as error:
        raise CheckpointError(f"{root}: cannot be read ({error.strerror})") from error
    found = [(match, path) for path in entries if (match := STEP_NAME.fullmatch(path.name)) and path.is_dir()]
    found.sort(key=lambda pair: (int(pair[0][2]), pair[0][1] is None), reverse=True)
    return [path for _, path in found]


def _publish(temporary: Path, final: Path) -> None:
    """Rename into place. A checkpoint of the same step steps aside under a name that `latest` still reads."""
    aside = final.with_name(REPLACED + final.name)
    if final.exists():
        _remove(aside)
        os.rename(final, aside)
    os.rename(temporary, final)
    sync_directory(final.parent)


def _prune(root: Path, step: int, keep: int) -> None:
    published = [path for path in _candidates(root) if not path.name.startswith(".")]
    kept = [path for path in published if int(path.name.removeprefix("step-")) <= step][:keep]
    for path in set(published) - set(kept):
        aside = path.with_name(OLD + path.name)
        _remove(aside)
        os.rename(path, aside)  # so that a checkpoint half deleted is not taken for a damaged one
    for path in root.iterdir():
        if path.name.startswith((NEW, REPLACED, OLD)):
            _remove(path)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


# --------------------------------------------------------------------------------------------------------- saved models


def publish_model(directory: Path | str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write model.safetensors and config.json into *directory*, other files in it left alone.

    The two change together: weights are written aside first, the rename of config.json decides, and `read_model` takes
    the weights from aside if the process dies before they are renamed too. Raises CheckpointError if the disk refuses.
    """
    directory = Path(directory)
    weights, pending = directory / WEIGHTS, directory / PENDING_WEIGHTS
    data = _to_bytes(tensors)
    kept = json.loads(_json_bytes(config))  # as `read_model` will see it: tuples are lists, keys are strings
    header = {
        "format": MODEL_FORMAT,
        "format_version": FORMAT_VERSION,
        "checksums": {WEIGHTS: _record(data), "config": _digest(_json_bytes(kept))},
    }
    if clash := header.keys() & kept.keys():
        raise ValueError(f"publish_model: these names are its own: {', '.join(sorted(clash))}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if pending.exists():
            _settle(directory)
        write_file(pending, data)
        sync_directory(directory)
        write_atomically(directory / CONFIG, _json_bytes({**header, **kept}))
        os.replace(pending, weights)
        sync_directory(directory)
    except OSError as error:
        raise CheckpointError(
            f"{directory}: saving the model failed: {error.strerror or error}; check free space and permissions"
        ) from error


def read_model(directory: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `publish_model` was given: (tensors on the CPU, config).

    Raises CheckpointError, in one sentence, for a directory or file that is missing, cut short, damaged, of a later
    format or not textebm's.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; expected a run directory or a saved model")
    try:
        config = _parse_json((directory / CONFIG).read_bytes(), CONFIG)
        if config.pop("format", None) != MODEL_FORMAT:
            raise CheckpointError(f"{CONFIG} is not that of a textebm model")
        version = config.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise CheckpointError(f"saved in format version {version!r}, where this textebm reads {FORMAT_VERSION}")
        checksums = config.pop("checksums", None)
        if not isinstance(checksums, dict) or checksums.get("config") != _digest(_json_bytes(config)):
            raise CheckpointError(f"{CONFIG} was changed after it was saved (its SHA-256 differs)")
        return _from_bytes(_read_weights(directory, checksums.get(WEIGHTS))), config
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory}: no {CONFIG}; expected a saved model, or a run whose training has finished"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{directory}: {CONFIG} cannot be read ({error.strerror})") from error
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error


def _read_weights(directory: Path, expected: Any) -> bytes:
    try:
        return _read_verified(directory / WEIGHTS, expected)
    except CheckpointError:
        if not (directory / PENDING_WEIGHTS).exists():
            raise
        return _read_verified(directory / PENDING_WEIGHTS, expected)


def _settle(directory: Path) -> None:
    """End what a killed `publish_model` began, so that its weights are not overwritten while config.json needs them."""
    pending = directory / PENDING_WEIGHTS
    try:
        recorded = _parse_json((directory / CONFIG).read_bytes(), CONFIG)["checksums"][WEIGHTS]
        _read_verified(pending, recorded)
    except (OSError, KeyError, TypeError, CheckpointError):
        pending.unlink()  # config.json never named these weights
    else:
        os.replace(pending, directory / WEIGHTS)
