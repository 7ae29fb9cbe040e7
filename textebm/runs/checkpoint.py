"""Checkpoints and saved models that are whole or refused, never half, and that cannot run code.

A checkpoint is a directory `checkpoints/step-00000123/` of

    GROUP.safetensors   tensors by name, one file a group ("model", "optimizer", "random", ...)
    state.json          everything that is no tensor
    manifest.json       size and SHA-256 of the files above, and of itself

It is written under a hidden name, forced to disk, and renamed: readers see all of it or nothing. A run directory has
one writer (`RunLock` sees to that), so a hidden directory found while saving was left behind by a process that died.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from textebm.errors import CheckpointError, FileError
from textebm.files import (
    checksum,
    digest,
    json_bytes,
    parse_json,
    parse_tensors,
    read_verified,
    sync_directory,
    tensor_bytes,
    write_new,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINT_FORMAT = "textebm-checkpoint"

MANIFEST, STATE = "manifest.json", "state.json"
# Prefixes of hidden directories: being written; moved aside for one of the same step; being deleted.
NEW, REPLACED, OLD = ".new-", ".replaced-", ".old-"
STEP_NAME = re.compile(r"(\.replaced-)?step-([0-9]{8,})")
SUFFIX = ".safetensors"


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
            return parse_tensors(read_verified(self.path / name, self.files[name]))
        except FileError as error:
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
    contents = json_bytes(state)  # before touching the disk: a value that is no JSON is the caller's bug
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        files = {}
        for group, values in tensors.items():
            data = tensor_bytes(values)
            files[group + SUFFIX] = checksum(data)
            write_new(temporary / (group + SUFFIX), data)
        files[STATE] = checksum(contents)
        write_new(temporary / STATE, contents)
        sync_directory(temporary)
        write_new(temporary / MANIFEST, _manifest(step, files))
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
        except (CheckpointError, FileError) as error:
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
    return json_bytes({**body, "sha256": digest(json_bytes(body))})


def _verify(path: Path) -> Checkpoint:
    """Check every file of a checkpoint. The manifest must be, to the byte, what `_manifest` writes of its contents."""
    try:
        data = (path / MANIFEST).read_bytes()
        present = set(os.listdir(path))
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    manifest = parse_json(data, MANIFEST)
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
        read_verified(path / name, files[name])
    return Checkpoint(path, step, parse_json(read_verified(path / STATE, files[STATE]), STATE), files=files)


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
    if path.is_symlink() or path.is_file():  # not ours: what it points to is left alone
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
