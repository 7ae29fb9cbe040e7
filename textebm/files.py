"""The one way files are written and read: whole or not at all, JSON and safetensors, checksums, nothing that can run.

Three kinds of file are told apart. A file *of ours* (in a run directory, in a saved model) has one writer and is
replaced by a rename; links that lie there are replaced, never followed. An *output* goes where a user says: a link is
followed to its target, and a device or a pipe is written to, not replaced. A *log* grows by lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from textebm.errors import DivergenceError, FileError

if TYPE_CHECKING:
    from torch import Tensor

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

# --- writing ----------------------------------------------------------------------------------------------------------


def write_new(path: Path, data: bytes) -> None:
    """Write *data* to a file that does not exist yet and force it to disk. What a dead process left under that name
    goes first; a link there is removed and not followed. Raises OSError."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk: a rename is durable only after this. Raises OSError."""
    if sys.platform == "win32":
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file of ours by *data*; a reader, or whoever comes after a crash, sees the old file or the new one.

    The caller is the directory's only writer. Raises FileError.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            write_new(temporary, _bytes(data))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        refuse(path, error)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log in one write; it outlives this process, however that ends. Raises FileError."""
    try:
        # Opened each time: no handle to leak into forks, none that points to a replaced file.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_FOLLOW, 0o666)
        with open(handle, "ab", buffering=0) as file:
            file.write(line.encode() + b"\n")
    except OSError as error:
        refuse(path, error)


def check_output(path: Path) -> None:
    """Raises FileError, before any work is done for it, where an output cannot be written."""
    try:
        target = path.resolve()
        if target.is_dir():
            raise FileError(f"cannot write {str(path)!r}: it is a directory")
        if not target.parent.is_dir():
            raise FileError(f"cannot write {str(path)!r}: its folder does not exist")
        place = target if target.exists() and not target.is_file() else target.parent
        if not os.access(place, os.W_OK):
            raise FileError(f"cannot write {str(path)!r}: no permission in {str(place)!r}")
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links; a NUL in the name
        raise FileError(f"cannot write {str(path)!r}: {error}") from None


@contextlib.contextmanager
def output(path: Path) -> Iterator[IO[bytes]]:
    """A file that a user named. It is the old one until all of the new one is written. Raises FileError.

    A link is followed and its target replaced; into a device, a pipe or an open file (/dev/stdout) is written.
    """
    check_output(path)
    target = path.resolve()
    if str(path).startswith(("/dev/", "/proc/")) or (target.exists() and not target.is_file()):
        with _refusing(path), open(os.open(path, os.O_WRONLY), "wb") as file:
            yield file
        return
    # A name of its own: two processes may write the same output.
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.new")
    with _refusing(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
            with open(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(handle)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def text_output(path: Path) -> Iterator[IO[str]]:
    """`output` for UTF-8 text, its line ends as they are written; ``-`` is standard output."""
    if str(path) == "-":
        yield sys.stdout
        return
    with output(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="", write_through=True)
        yield file
        file.flush()
        file.detach()


def write_output(path: Path, data: bytes | str) -> None:
    """`output` of what is at hand. Raises FileError."""
    with output(path) as file:
        file.write(_bytes(data))


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader has left, which is no trouble
    except OSError as error:
        refuse(path, error)


def refuse(path: Path, error: OSError) -> NoReturn:
    """Raises FileError in place of *error*: the disk is full, or there is no permission."""
    raise FileError(
        f"cannot write {str(path)!r}: {error.strerror or error}; check free space and permissions"
    ) from error


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode("utf-8", errors="replace")


# --- JSON -------------------------------------------------------------------------------------------------------------


def json_bytes(value: Any) -> bytes:
    """The one form of a JSON value whose bytes have a checksum."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True).encode()


def finite(value: Any) -> Any:
    """The same value with None for each number that is not finite, since JSON has none, and text for each key."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(data: bytes | str, name: str, kind: type = dict) -> Any:
    """A JSON value of the Python type *kind*. Raises FileError, in one line, for what is none, however deep."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FileError(f"{name} is not valid JSON") from None
    if not isinstance(value, kind):
        raise FileError(f"{name} is not a JSON {'object' if kind is dict else kind.__name__}")
    return value


def read_bytes(path: Path) -> bytes:
    """What a regular file (or a link to one) holds. Raises FileError, which names the file without its folder."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"{path.name} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path.name} cannot be read ({error.strerror or error})") from error


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds. Raises FileError."""
    try:
        return parse_json(read_bytes(path), path.name, kind)
    except FileError as error:
        raise FileError(f"{path.parent}: {error}") from error


# --- checksums --------------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits, read piece by piece. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(data: bytes) -> dict[str, Any]:
    """What `read_verified` expects of a file that holds *data*."""
    return {"size": len(data), "sha256": digest(data)}


def read_verified(path: Path, expected: Any) -> bytes:
    """The bytes of *path* if they have the recorded size and SHA-256: the very bytes that were checked are used.

    Raises FileError, which names the file without its folder.
    """
    if not isinstance(expected, dict) or not {"size", "sha256"} <= expected.keys():
        raise FileError(f"no checksum is recorded for {path.name}")
    data = read_bytes(path)
    if data.startswith(b"version https://git-lfs"):
        raise FileError(f"{path.name} is a Git LFS pointer; fetch the file itself (`git lfs pull`)")
    if len(data) != expected["size"]:
        raise FileError(f"{path.name} has {len(data)} bytes where {expected['size']} were written")
    if digest(data) != expected["sha256"]:
        raise FileError(f"{path.name} is damaged (its SHA-256 differs from the recorded one)")
    return data


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name as safetensors."""
    import safetensors.torch

    # A copy of each: safetensors refuses tensors that share memory (tied weights, views).
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(copies)


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """What `tensor_bytes` was given, on the CPU, by name. Raises FileError."""
    import safetensors.torch

    try:
        return dict(sorted(safetensors.torch.load(data).items()))  # it has an order of its own each time
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(f"not a readable safetensors file ({error})") from error


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises DivergenceError, naming the first tensor that holds a NaN or an infinity."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise DivergenceError(f"{what}: {name} holds {bad:,} of {value.numel():,} values that are not finite")
