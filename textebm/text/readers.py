"""Rows of a user's own files: files in, dictionaries out, one row at a time.

A reader yields ``{"text": …, label: …}`` and holds no more than a line in memory. Whatever cannot be read is a
CorpusError that names the file and the line; `check.py` passes a `Report` instead and goes on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from textebm.errors import CorpusError, did_you_mean
from textebm.text.history import COLUMN, parse_history
from textebm.text.lines import MAX_LINE, Report, check_not_empty, check_text_file, raiser, text_lines

Row = dict[str, Any]

KINDS = ("txt", "csv", "tsv", "jsonl", "parquet")


def one_line(text: str) -> str:
    """*text* with every run of white space made one space."""
    return " ".join(text.split())


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
        return list(dict.fromkeys(key for _, row in _jsonl_rows(path, raiser(path)) for key in row))
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
    problem = report or raiser(path)
    return _chosen(_rows(path, kind, wanted, problem), text_column, labels, context_column, group_column, problem)


def table_columns(path: Path, columns: Sequence[str]) -> dict[str, list[str | None]]:
    """*columns* of a csv, tsv, jsonl or parquet file as strings, None where a value is missing. Raises CorpusError."""
    path = Path(path)
    if file_kind(path) == "txt":
        raise CorpusError(f"{path}: txt has no columns; use csv, tsv, jsonl or parquet")
    values: dict[str, list[str | None]] = {column: [] for column in columns}
    for number, row in _rows(path, file_kind(path), list(columns), raiser(path)):
        for column, of in values.items():
            try:
                of.append(label_text(row.get(column)))
            except ValueError as error:
                raise CorpusError(f"{path}, line {number}: column {column!r}: {error}") from None
    return values


def _rows(path: Path, kind: str, wanted: list[str], problem: Report) -> Iterator[tuple[int, Row]]:
    """(line, the row's columns) of a file with columns, among them all *wanted*; else CorpusError."""
    if kind == "jsonl":
        check_text_file(path)
        return _with_columns(_jsonl_rows(path, problem), wanted, path)
    if kind == "parquet":
        _require(wanted, file_columns(path), path)
        return _parquet_rows(path, problem, wanted)
    header, first = _header(path)
    _require(wanted, [name for name in header if name], path)
    return _table_rows(path, header, first, problem)


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
