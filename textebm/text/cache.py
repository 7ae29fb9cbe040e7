"""Corpora converted to Arrow, and the token ids of large ones, memory-mapped.

What a reader yields is written once under the cache ($TEXTEBM_CACHE, else ~/.cache/textebm). The folder's name is a
hash of the files' contents, the options and our own reading code, so that a changed file is read again; a folder is
published by one rename, so that it is whole or absent, and its files' checksums are verified whenever it is opened: a
damaged one is built again. Any of them may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, NamedSplit
from filelock import FileLock

from textebm.errors import CorpusError
from textebm.files import file_digest
from textebm.text.readers import Row

log = logging.getLogger(__name__)

CHUNK = 2000  # rows in memory while writing
CHECKSUMS = "checksums.json"
# the code that a converted corpus depends on
MODULES = ("corpora", "lines", "readers", "published", "natural", "splits", "history", "grammar")

T = TypeVar("T")


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where converted corpora are kept: *cache_dir*, $TEXTEBM_CACHE or ~/.cache/textebm."""
    if chosen := cache_dir or os.environ.get("TEXTEBM_CACHE"):
        return Path(chosen).expanduser()
    try:
        return Path.home() / ".cache" / "textebm"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / "textebm-cache"


class SplitWriter:
    """Writes rows to one Arrow file, a chunk at a time."""

    def __init__(self, path: Path, features: Features) -> None:
        self.path, self.schema, self.rows, self.count = path, features.arrow_schema, list[Row](), 0

    def __enter__(self) -> SplitWriter:
        self.file = pa.OSFile(str(self.path), "wb")
        self.stream = pa.ipc.new_stream(self.file, self.schema)
        return self

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.count += 1
        if len(self.rows) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        self.stream.write_batch(pa.RecordBatch.from_pylist(self.rows, schema=self.schema))
        self.rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows and error is None:
            self._flush()
        self.stream.close()
        self.file.close()


def write_split(path: Path, features: Features, rows: Iterable[Row]) -> None:
    with SplitWriter(path, features) as writer:
        for row in rows:
            writer.add(row)
    if not writer.count:
        raise CorpusError(f"{path.stem}: no sentences")


def content_hashes(paths: Iterable[Path]) -> list[str]:
    """A hash of each file's bytes (not its name or time). Raises CorpusError."""
    digests = []
    for path in paths:
        try:
            digests.append(file_digest(path))
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    return digests


def cached(corpus: str, key: object, build: Callable[[Path], None], root: Path) -> DatasetDict:
    """The splits that *build* writes into a folder, from the cache where they are there already."""
    return cached_as(corpus, key, build, root, _open, MODULES)


def cached_as(
    name: str,
    key: object,
    build: Callable[[Path], None],
    root: Path,
    open_folder: Callable[[Path], T],
    modules: Iterable[str],
) -> T:
    """What *open_folder* makes of a folder that *build* writes. modules: those of ours that its content depends on.

    A folder that differs from its checksums is built again, with a warning. Of several processes one builds. An
    intact folder is all that a read-only cache needs. Raises CorpusError where the cache must be written and cannot.
    """
    code = content_hashes(Path(__file__).with_name(f"{module}.py") for module in modules)
    digest = hashlib.sha256(json.dumps([key, code], sort_keys=True, default=str).encode()).hexdigest()[:20]
    folder = root / f"{name}-{digest}"
    if _intact(folder):
        return open_folder(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"):
            if not _intact(folder):  # otherwise another process built it meanwhile
                if folder.is_dir():
                    log.warning("%s: damaged, and built again", folder)
                    shutil.rmtree(folder)
                _build(folder, build)
    except (OSError, pa.ArrowException) as error:
        _refuse(root, error)
    return open_folder(folder)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(building)
        (building / CHECKSUMS).write_text(json.dumps(_checksums(building)), encoding="utf-8")
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def _intact(folder: Path) -> bool:
    """Whether a folder holds the very files that were written there."""
    if not folder.is_dir():
        return False
    try:
        return bool(json.loads((folder / CHECKSUMS).read_bytes()) == _checksums(folder))
    except (OSError, ValueError, RecursionError):
        return False


def _refuse(root: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "strerror", None) or str(error)
    raise CorpusError(
        f"the cache {str(root)!r} cannot be written ({reason}); set TEXTEBM_CACHE to a folder with room"
    ) from error


def _open(folder: Path) -> DatasetDict:
    paths = {path.stem: path for path in folder.glob("*.arrow")}
    order = [split for split in ("train", "validation", "test", "judge") if split in paths]
    return DatasetDict({split: Dataset.from_file(str(paths[split]), split=NamedSplit(split)) for split in order})
