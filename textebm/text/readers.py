"""Rows of a user's own files: files in, dictionaries out, one row at a time.

A reader yields ``{"text": …, label: …}`` and holds no more than a line in memory. Whatever cannot be read is a
CorpusError that names the file and the line; `check.py` passes a `Report` instead and goes on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from textebm.errors import CorpusError, did_you_mean
from textebm.text.history import COLUMN, parse_history

Row = dict[str, Any]
Report = Callable[[int, str], None]  # (line, what is wrong)

MAX_LINE = 16 * 1024 * 1024  # bytes; a longer "line" is no line of text
BLOCK = 1 << 20  # bytes read at once
KINDS = ("txt", "csv", "tsv", "jsonl", "parquet")

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


def one_line(text: str) -> str:
    """*text* with every run of white space made one space."""
    return " ".join(text.split())


# Lines


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
    problem = report or _raiser(name)
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


def _raiser(name: str | Path) -> Report:
    def fail(line: int, message: str) -> None:
        raise CorpusError(f"{name}, line {line}: {message}")

    return fail


# Rows


def file_kind(path: Path) -> str:
    """``txt``, ``csv``, ``tsv``, ``jsonl`` or ``parquet``, by suffix."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise CorpusError(f"{path}: unknown kind of file{did_you_mean(kind, KINDS)}")
    return kind


def file_columns(path: Path) -> list[str]:
    """The named columns of a csv, tsv, jsonl (of all its rows) or parquet file; ``text`` for a txt file."""
    path = Path(path)
    kind = file_kind(path)
    if kind == "txt":
        return ["text"]
    if kind == "parquet":
        return list(_parquet(path).schema_arrow.names)
    if kind == "jsonl":
        return list(dict.fromkeys(key for _, row in _jsonl_rows(path, _raiser(path)) for key in row))
    return [name for name in _header(path)[0] if name]


def file_rows(
    path: Path,
    text_column: str,
    label_columns: Iterable[str] = (),
    report: Report | None = None,
    context_column: str | None = None,
    group_column: str | None = None,
) -> Iterator[tuple[int, Row]]:
    """(line, {"text", labels as strings or None, "context" as a list of turns}) of one file; "context" only with a
    *context_column*, "group" (a string) only with a *group_column*. The text's white space is made single spaces.

    Line numbers count from 1 as an editor does; for parquet they are row numbers. Rows without text are yielded with
    "". In jsonl a column may begin in any row: that it is nowhere is said after the last one.
    """
    path = Path(path)
    kind = file_kind(path)
    labels = tuple(label_columns)
    named = {"label": labels[:1], "context": (context_column,), "group": (group_column,)}
    if kind == "txt":
        for role, (column, *_) in ((role, columns or (None,)) for role, columns in named.items()):
            if column is not None:
                raise CorpusError(f"{path}: txt has no columns, so no {role} {column!r}; use csv, tsv or jsonl")
        return ((n, {"text": one_line(line)}) for n, line in enumerate(text_lines(path, report), start=1))
    wanted = [text_column, *labels, *(column for column in (context_column, group_column) if column is not None)]
    problem = report or _raiser(path)
    if kind == "jsonl":
        check_text_file(path)
        rows = _with_columns(_jsonl_rows(path, problem), wanted, path)
    elif kind == "parquet":
        _require(wanted, file_columns(path), path)
        rows = _parquet_rows(path, problem, wanted)
    else:
        header, first = _header(path)
        _require(wanted, [name for name in header if name], path)
        rows = _table_rows(path, header, first, problem)
    return _chosen(rows, text_column, labels, context_column, group_column, problem)


def _require(wanted: Iterable[str], columns: Iterable[str], path: Path) -> None:
    columns = list(columns)
    for column in wanted:
        if column in columns:
            continue
        other = next((sign for sign in ";\t|" if len(columns) == 1 and sign in columns[0]), None)
        if other is not None:
            shown = "tab" if other == "\t" else repr(other)
            raise CorpusError(
                f"{path}: no column {column!r}: the columns are separated by {shown}, not by what the suffix "
                f"{path.suffix} says; convert the file, or name a tab-separated one .tsv"
            )
        raise CorpusError(f"{path}: no column {column!r}{did_you_mean(column, columns)}")


def _with_columns(rows: Iterator[tuple[int, Row]], wanted: list[str], path: Path) -> Iterator[tuple[int, Row]]:
    """The same rows; after the last one CorpusError where a wanted column was in none."""
    columns: dict[str, None] = {}
    for number, row in rows:
        columns.update(dict.fromkeys(row))
        yield number, row
    if columns:
        _require(wanted, columns, path)


def _chosen(
    rows: Iterator[tuple[int, Row]],
    text_column: str,
    label_columns: tuple[str, ...],
    context_column: str | None,
    group_column: str | None,
    problem: Report,
) -> Iterator[tuple[int, Row]]:
    for number, row in rows:
        text = row.get(text_column)
        if text is None or text != text:  # NaN is how a table says "missing"
            text = ""
        if not isinstance(text, str):
            problem(number, f"column {text_column!r} holds {type(text).__name__}, not text")
            continue
        try:
            text.encode()  # JSON may spell half of a surrogate pair, which no UTF-8 file can hold
            chosen: Row = {"text": one_line(text.replace("\0", ""))}
            chosen |= {column: label_text(row.get(column)) for column in label_columns}
            if context_column is not None:
                chosen[COLUMN] = [turn.replace("\0", "") for turn in parse_history(row.get(context_column))]
                "".join(chosen[COLUMN]).encode()
            if group_column is not None:
                chosen["group"] = label_text(row.get(group_column)) or f"row {number}"  # a row without one: its own
            yield number, chosen
        except UnicodeEncodeError:
            problem(number, "a lone surrogate, which is not Unicode text")
        except ValueError as error:
            problem(number, str(error))


WHOLE = re.compile(r"[+-]?\d+\.0*")


def label_text(value: object) -> str | None:
    """A label as its class name; None when missing (None, NaN, "", "nan").

    One table gives the same classes in every format: 1.0, "1.0" and 1 are the class "1", True and "True" are "true".
    Other strings stay as they are ("01" is not "1"). Raises ValueError for what is no string or number.
    """
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"a label is a string or a number, not {type(value).__name__}")
    text = one_line(str(value).replace("\0", ""))
    text.encode()
    if WHOLE.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return {"": None, "nan": None, "NaN": None, "True": "true", "False": "false"}.get(text, text)


# csv and tsv


def _header(path: Path) -> tuple[list[str], int]:
    """(column names, "" where a column has none; the line after the header)."""
    lines = text_lines(path, lambda line, message: None)  # the rows themselves tell every problem once
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if file_kind(path) == "tsv":
            header = _tsv_fields(line, None)
        else:
            try:
                header = next(csv.reader([line], strict=True))
            except csv.Error as error:
                raise CorpusError(f"{path}, line {number}: the header cannot be read: {error}") from error
        header = [one_line(name) for name in header]
        names = [name for name in header if name]
        if len(set(names)) != len(names):
            raise CorpusError(f"{path}: two columns have the same name; the header is {', '.join(names)}")
        return header, number + 1
    raise CorpusError(f"{path}: the file is empty")


def _table_rows(path: Path, header: list[str], first: int, problem: Report) -> Iterator[tuple[int, Row]]:
    fields_of = _tsv_rows if file_kind(path) == "tsv" else _csv_rows
    for number, fields in fields_of(path, len(header), first, problem):
        while len(fields) > len(header) and not fields[-1]:
            fields.pop()  # unnamed trailing columns
        if len(fields) != len(header):
            cure = "a tsv has one row a line" if file_kind(path) == "tsv" else "quote texts with separators"
            problem(number, f"{len(fields)} fields, the header has {len(header)}; {cure}")
        else:
            yield number, {name: field for name, field in zip(header, fields, strict=True) if name}


def _tsv_rows(path: Path, columns: int, first: int, problem: Report) -> Iterator[tuple[int, list[str]]]:
    """A line is a row, so that no quote can join several. Quotes around a field, as spreadsheets write them, are taken
    off where the line then has as many fields as the header."""
    for number, line in enumerate(text_lines(path, problem), start=1):
        if number >= first and line:
            yield number, _tsv_fields(line, columns)


def _tsv_fields(line: str, columns: int | None) -> list[str]:
    if '"' in line:
        with suppress(csv.Error):
            fields = next(csv.reader([line], delimiter="\t", strict=True))
            if columns is None or len(fields) == columns:
                return fields
    return line.split("\t")


def _csv_rows(path: Path, columns: int, first: int, problem: Report) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # the module's own limit is 131,072 characters
    lines = (line + "\n" for number, line in enumerate(text_lines(path, problem), start=1) if number >= first)
    # strict: a stray quote is an error at its line, instead of silently swallowing the rows up to the next quote.
    reader = csv.reader(lines, strict=True)
    while True:
        begins = first + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            ends = first - 1 + reader.line_num
            swallowed = f" (a quote that opens there is open until line {ends})" if ends > begins else ""
            problem(begins, f"{error}{swallowed}; quotes inside a quoted text are doubled")
            continue
        if fields:
            yield begins, fields


# jsonl and parquet


def _jsonl_rows(path: Path, problem: Report) -> Iterator[tuple[int, Row]]:
    begun = False
    for number, line in enumerate(text_lines(path, problem), start=1):
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            raise CorpusError(f"{path}: a JSON array; write one object a line")
        begun = True
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem(number, f"not JSON: {error}; write one object a line")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problem(number, "expected one JSON object a line")


def _parquet(path: Path) -> Any:
    check_not_empty(path)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: not a readable parquet file: {error}") from error


def _parquet_rows(path: Path, problem: Report, wanted: list[str]) -> Iterator[tuple[int, Row]]:
    file, number = _parquet(path), 0
    try:
        for batch in file.iter_batches(batch_size=4096, columns=list(dict.fromkeys(wanted))):
            try:
                rows: list[Row | None] = batch.to_pylist()
            except UnicodeDecodeError:
                rows = [_decoded(batch.slice(place, 1)) for place in range(len(batch))]
            for row in rows:
                number += 1
                if row is None:
                    problem(number, "not UTF-8")
                else:
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: damaged parquet file: {error}") from error


def _decoded(row: pa.RecordBatch) -> Row | None:
    with suppress(UnicodeDecodeError):
        return dict(row.to_pylist()[0])
    return None
