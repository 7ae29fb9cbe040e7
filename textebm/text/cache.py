"""Corpora converted to Arrow, and the token ids of large ones, memory-mapped.

What a reader yields is written once under the cache ($TEXTEBM_CACHE, else ~/.cache/textebm). The folder's name is a
hash of the files' contents, the options and our own reading code, so that a changed file is read again; a folder is
published by one rename, so that it is whole or absent, also when two processes build it at once. Any of them may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, NamedSplit

from textebm.errors import CorpusError
from textebm.text.readers import Row

CHUNK = 2000  # rows in memory while writing
MODULES = ("corpora", "readers", "published", "splits", "history", "grammar")  # what a converted corpus depends on

T = TypeVar("T")


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where converted corpora are kept: *cache_dir*, $TEXTEBM_CACHE or ~/.cache/textebm."""
    return Path(cache_dir or os.environ.get("TEXTEBM_CACHE") or Path.home() / ".cache" / "textebm")


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
    """A hash of each file's bytes (not its name or time)."""
    digests = []
    for path in paths:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    return digests


def cached(corpus: str, key: object, build: Callable[[Path], None], root: Path) -> DatasetDict:
    """The splits that *build* writes into a folder, from the cache where they are there already."""
    return cached_as(
        corpus, key, build, root, _open, ("corpora", "readers", "published", "splits", "history", "grammar")
    )


def cached_as(
    name: str,
    key: object,
    build: Callable[[Path], None],
    root: Path,
    open_folder: Callable[[Path], T],
    modules: Iterable[str],
) -> T:
    """What *open_folder* makes of a folder that *build* writes. modules: those of ours that its content depends on."""
    code = content_hashes(Path(__file__).with_name(f"{module}.py") for module in modules)
    digest = hashlib.sha256(json.dumps([key, code], sort_keys=True, default=str).encode()).hexdigest()[:20]
    folder = root / f"{name}-{digest}"
    if folder.is_dir():
        try:
            return open_folder(folder)
        except (pa.ArrowException, OSError):
            shutil.rmtree(folder, ignore_errors=True)  # damaged from outside: build it again
    try:
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    except OSError as error:
        raise CorpusError(f"{root}: the cache cannot be written ({error.strerror}); set TEXTEBM_CACHE") from error
    try:
        build(building)
        try:
            os.rename(building, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_folder(folder)


def _open(folder: Path) -> DatasetDict:
    paths = {path.stem: path for path in folder.glob("*.arrow")}
    if not paths:
        raise OSError(f"{folder} is empty")
    order = [split for split in ("train", "validation", "test", "judge") if split in paths]
    return DatasetDict({split: Dataset.from_file(str(paths[split]), split=NamedSplit(split)) for split in order})
