"""Lines of UTF-8 text, from a file or a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from textebm.errors import CorpusError

Report = Callable[[int, str], None]  # (line, what is wrong)

MAX_LINE = 16 * 1024 * 1024  # bytes; a longer "line" is no line of text
BLOCK = 1 << 20  # bytes read at once

BINARY = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x89PNG": "png",
    b"%PDF": "pdf",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


def check_not_empty(path: Path) -> None:
    """Raise CorpusError when *path* is missing or has no bytes."""
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CorpusError(f"{path}: the file is empty")


def check_text_file(path: Path) -> None:
    """Raise CorpusError when *path* is missing, empty or plainly no text."""
    check_not_empty(path)
    with opened(path) as file:
        head = file.read(4096)
    if not head.strip() and len(head) < 4096:
        raise CorpusError(f"{path}: the file is empty")
    for magic, kind in BINARY.items():
        if head.startswith(magic):
            raise CorpusError(f"{path}: this is {kind}, not UTF-8 text; convert or unpack it first")
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\v" for byte in head)
    if controls > len(head) // 10:
        raise CorpusError(f"{path}: this is a binary file, not UTF-8 text")


def opened(path: Path) -> IO[bytes]:
    """The file's bytes. Raises CorpusError where it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error


def text_lines(path: Path, report: Report | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file, without line ends. ``\\n``, ``\\r\\n`` and a lone ``\\r`` end a line."""
    check_text_file(path)
    with opened(path) as file:
        yield from decoded_lines(file, str(path), report)


def decoded_lines(stream: IO[bytes], name: str, report: Report | None = None) -> Iterator[str]:
    """The same of an open stream, such as standard input: a line is yielded as soon as it is complete."""
    problem = report or raiser(name)
    for number, raw in enumerate(_byte_lines(stream, name), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problem(number, f"not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})")
            line = raw.decode("utf-8", errors="replace")
        if "\0" in line:
            problem(number, "a NUL byte")
            line = line.replace("\0", "")
        yield line


def _byte_lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)  # read1 does not wait for a whole block of a pipe
    pending, number = b"", 0
    try:
        while block := read(BLOCK):
            lines = (pending + block).splitlines(keepends=True)
            # the last one may go on, or its "\r" may be half of a line end
            pending = b"" if lines[-1].endswith(b"\n") else lines.pop()
            for line in lines:
                yield line.rstrip(b"\r\n")
            number += len(lines)
            if len(pending) > MAX_LINE:
                raise CorpusError(
                    f"{name}, line {number + 1}: longer than {MAX_LINE} bytes; expected one sentence or row a line"
                )
    except OSError as error:
        raise CorpusError(f"{name}: cannot be read: {error.strerror}") from error
    if pending:
        yield pending.rstrip(b"\r\n")


def raiser(name: str | Path) -> Report:
    def fail(line: int, message: str) -> None:
        raise CorpusError(f"{name}, line {line}: {message}")

    return fail
