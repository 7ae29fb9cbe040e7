"""Rows of the corpora as they lie on disk: files in, dictionaries out, one row at a time.

A reader yields ``{"text": …, label: …}`` and holds no more than a line (or a dialogue) in memory. Whatever cannot be
read is a CorpusError that names the file and the line; `check.py` passes a `Report` instead and goes on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from textebm.errors import CorpusError, did_you_mean
from textebm.text.history import COLUMN, parse_history

Row = dict[str, Any]
Report = Callable[[int, str], None]  # (line, what is wrong)

ACTS = ("inform", "question", "directive", "commissive")  # written 1..4
EMOTIONS = ("none", "anger", "disgust", "fear", "happiness", "sadness", "surprise")  # written 0..6
SENTIMENTS = ("negative", "positive")  # written .0 and .1

MAX_LINE = 16 * 1024 * 1024  # bytes; a longer "line" is no line of text
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


# Text files


def check_text_file(path: Path) -> None:
    """Raise CorpusError when *path* is missing, empty or plainly no text."""
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.strip() and len(head) < 4096:
        raise CorpusError(f"{path}: the file is empty")
    for magic, kind in BINARY.items():
        if head.startswith(magic):
            raise CorpusError(f"{path}: this is {kind}, not UTF-8 text; convert or unpack it first")
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\v" for byte in head)
    if controls > len(head) // 10:
        raise CorpusError(f"{path}: this is a binary file, not UTF-8 text")


def text_lines(path: Path, report: Report | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file, without line ends. A line is ended by ``\\n`` or ``\\r\\n`` alone."""
    check_text_file(path)
    problem = report or _raiser(path)
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE):
            number += 1
            if len(raw) == MAX_LINE:
                raise CorpusError(
                    f"{path}, line {number}: longer than {MAX_LINE} bytes; expected one sentence or row a line"
                )
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem(number, f"not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})")
                line = raw.decode("utf-8", errors="replace")
            if "\0" in line:
                problem(number, "a NUL byte")
                line = line.replace("\0", "")
            yield line.rstrip("\r\n")


def _raiser(path: Path) -> Report:
    def fail(line: int, message: str) -> None:
        raise CorpusError(f"{path}, line {line}: {message}")

    return fail


# The built-in corpora


def ptb_rows(folder: Path, split: str) -> Iterator[Row]:
    """Penn Treebank sentences as Mikolov prepared them."""
    path = folder / f"ptb.{'valid' if split == 'validation' else split}.txt"
    return ({"text": text} for line in text_lines(path) if (text := one_line(line)))


def yelp_rows(folder: Path, split: str) -> Iterator[Row]:
    """Yelp sentences; both sentiments are merged in proportion, so that any prefix has the shares of the whole."""
    name = "dev" if split == "validation" else split

    def labelled(sentiment: int) -> Iterator[tuple[float, int, Row]]:
        lines = list(text_lines(folder / f"sentiment.{name}.{sentiment}"))
        # The references are in the order of the test sentences: "source <tab> human rewrite".
        rewrites = list(text_lines(folder / f"reference.{sentiment}")) if name == "test" else []
        if rewrites and len(rewrites) != len(lines):
            raise CorpusError(
                f"{folder}: sentiment.test.{sentiment} has {len(lines)} lines, reference.{sentiment} {len(rewrites)}; "
                "expected as many"
            )
        for number, line in enumerate(lines):
            row: Row = {"text": one_line(line), "sentiment": sentiment}
            if rewrites:
                row["reference"] = one_line(rewrites[number].partition("\t")[2])
            if row["text"]:
                yield (number + 0.5) / len(lines), sentiment, row

    return (row for _, _, row in merge(labelled(0), labelled(1), key=lambda item: item[:2]))


QUOTES = str.maketrans(
    {"’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "—": "-", "–": "-", "。": ".", "、": ",", "\x7f": None}
)
APART = re.compile(r"(?<=\w) ?' ?(?=(?:s|t|m|re|ve|d|ll|am|clock)\b)")  # it ' s, don ' t, o ' clock
NEGATION = re.compile(r"(?<=\w)n't\b")
CLITIC = re.compile(r"(?<=\w)'(?=(?:s|m|re|ve|d|ll)\b)")
TOKEN = re.compile(
    r"""
    (?:https?://|www\.)[\w./-]*\w | \S+@\w+(?:\.\w+)+   # addresses
    | (?<!\w)(?:[a-z]\.){2,}                            # p.m.  u.s.
    | \d+(?:[.,:]\d+)+(?!\w)                            # 6:30  1,000  3.5
    | n't | '(?:s|m|re|ve|d|ll)\b                       # do n't, it 's: as in Penn Treebank and Yelp
    | \w+(?:['-]\w+)*                                   # words, with hyphens and apostrophes inside
    | \.{2,} | [^\w\s]                                  # an ellipsis; any other sign by itself
    """,
    re.VERBOSE,
)


def tokenize(text: str) -> str:
    """Lower-case *text* and set every token apart by one space.

    Punctuation stands alone, also where two sentences were run together ("right.But" -> "right . but"); typographic
    quotes become plain; contractions are joined and then split as in Penn Treebank ("don ’ t" -> "do n't", "it ' s"
    -> "it 's"). Numbers, times, abbreviations with points, hyphenated words and addresses stay whole.
    """
    text = APART.sub("'", text.lower().translate(QUOTES))
    return " ".join(TOKEN.findall(CLITIC.sub(" '", NEGATION.sub(" n't", text))))


def dailydialog_rows(folder: Path, split: str, warn: Callable[[str], None]) -> Iterator[Row]:
    """DailyDialog, one row a turn: text, act, emotion, and the dialogue's earlier turns as context.

    A dialogue with more turns than labels (one of the release) keeps its labelled turns; *warn* is told.
    """
    names = ("dialogues", "dialogues_act", "dialogues_emotion")
    paths = [folder / split / f"{name}_{split}.txt" for name in names]
    for number, lines in enumerate(zip_longest(*map(text_lines, paths)), start=1):
        if None in lines:
            raise CorpusError(
                f"{folder / split}: the files of dialogues, acts and emotions differ in their number of lines"
            )
        turns = lines[0].strip().removesuffix("__eou__").split("__eou__")
        try:
            acts = [int(label) - 1 for label in lines[1].split()]
            emotions = [int(label) for label in lines[2].split()]
            if not all(0 <= act < len(ACTS) for act in acts) or not all(0 <= e < len(EMOTIONS) for e in emotions):
                raise ValueError
        except ValueError as error:
            raise CorpusError(f"{folder / split}, line {number}: expected acts of 1..4 and emotions of 0..6") from error
        labelled = min(len(acts), len(emotions))
        if len(acts) != len(emotions) or labelled > len(turns):
            raise CorpusError(
                f"{paths[0]}, line {number}: {len(turns)} turns, {len(acts)} acts, {len(emotions)} emotions"
            )
        if labelled < len(turns):
            warn(f"{paths[0]}, line {number}: {len(turns)} turns, {labelled} labels; turns without label are left out")
        context: list[str] = []
        for turn, act, emotion in zip(turns, acts, emotions, strict=False):
            if text := tokenize(turn):
                yield {"text": text, "context": list(context), "act": act, "emotion": emotion}
                context.append(text)


# Your own files


def file_columns(path: Path, report: Report | None = None) -> list[str]:
    """The column names of a csv, tsv, jsonl (of its first 1000 rows) or parquet file; ``text`` for a txt file."""
    kind = file_kind(path)
    if kind == "txt":
        return ["text"]
    if kind == "parquet":
        return list(_parquet(path).schema_arrow.names)
    if kind == "jsonl":
        rows = islice(_jsonl_rows(path, report or _raiser(path)), 1000)
        return list(dict.fromkeys(key for _, row in rows for key in row))
    header = next(csv.reader(text_lines(path, report), delimiter="\t" if kind == "tsv" else ","), [])
    if len(set(header)) != len(header):
        raise CorpusError(f"{path}: two columns have the same name; the header is {', '.join(header)}")
    return header


def file_kind(path: Path) -> str:
    """``txt``, ``csv``, ``tsv``, ``jsonl`` or ``parquet``, by suffix."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise CorpusError(f"{path}: unknown kind of file{did_you_mean(kind, KINDS)}")
    return kind


def file_rows(
    path: Path,
    text_column: str,
    label_columns: tuple[str, ...] = (),
    report: Report | None = None,
    context_column: str | None = None,
) -> Iterator[tuple[int, Row]]:
    """(line, {"text", labels as strings or None, "context" as a list of turns}) of one file; "context" only with a
    *context_column*. The text's white space is made single spaces.

    Line numbers count from 1 as an editor does; for parquet they are row numbers. Rows without text are yielded with
    "".
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "txt":
        if label_columns:
            raise CorpusError(f"{path}: txt has no columns, so no label {label_columns[0]!r}; use csv, tsv or jsonl")
        if context_column is not None:
            raise CorpusError(f"{path}: txt has no columns, so no context {context_column!r}; use jsonl, csv or tsv")
        return ((n, {"text": one_line(line)}) for n, line in enumerate(text_lines(path, report), start=1))
    if kind == "parquet":
        check_not_empty(path)
    else:
        check_text_file(path)
    columns = file_columns(path, report and (lambda line, message: None))  # the rows themselves tell every problem once
    wanted = [text_column, *label_columns, *([] if context_column is None else [context_column])]
    for column in wanted:
        if column not in columns:
            raise CorpusError(f"{path}: no column {column!r}{did_you_mean(column, columns)}")
    problem = report or _raiser(path)
    return _chosen(_ROWS[kind](path, problem, wanted), text_column, label_columns, context_column, problem)


def table_columns(path: Path, columns: Sequence[str]) -> dict[str, list[str | None]]:
    """*columns* of a csv, tsv, jsonl or parquet file as strings, None where a value is missing. Raises CorpusError."""
    path = Path(path)
    if file_kind(path) == "txt":
        raise CorpusError(f"{path}: txt has no columns; use csv, tsv, jsonl or parquet")
    (check_not_empty if file_kind(path) == "parquet" else check_text_file)(path)
    known = file_columns(path)
    for column in columns:
        if column not in known:
            raise CorpusError(f"{path}: no column {column!r}{did_you_mean(column, known)}")
    found: dict[str, list[str | None]] = {column: [] for column in columns}
    for number, row in _ROWS[file_kind(path)](path, _raiser(path), list(columns)):
        for column, values in found.items():
            try:
                values.append(label_text(row.get(column)))
            except ValueError as error:
                raise CorpusError(f"{path}, line {number}: column {column!r}: {error}") from None
    return found


def check_not_empty(path: Path) -> None:
    """Raise CorpusError when *path* is missing or has no bytes."""
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CorpusError(f"{path}: the file is empty")


def _chosen(
    rows: Iterator[tuple[int, Row]],
    text_column: str,
    label_columns: tuple[str, ...],
    context_column: str | None,
    problem: Report,
) -> Iterator[tuple[int, Row]]:
    for number, row in rows:
        text = row.get(text_column)
        if text is None:
            text = ""
        if not isinstance(text, str):
            problem(number, f"column {text_column!r} holds {type(text).__name__}, not text")
            continue
        try:
            text.encode()  # JSON may spell half of a surrogate pair, which no UTF-8 file can hold
            labels = {column: label_text(row.get(column)) for column in label_columns}
            found: Row = {"text": one_line(text.replace("\0", "")), **labels}
            if context_column is not None:
                found[COLUMN] = [turn.replace("\0", "") for turn in parse_history(row.get(context_column))]
                "".join(found[COLUMN]).encode()
            yield number, found
        except UnicodeEncodeError:
            problem(number, "a lone surrogate, which is not Unicode text")
        except ValueError as error:
            problem(number, str(error))


def label_text(value: object) -> str | None:
    """A label as its class name; None when missing. Whole floats read as integers, so that "1.0" and 1 are one
    class."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"a label is a string or a number, not {type(value).__name__}")
    return one_line(str(value)) or None


def _csv_rows(path: Path, problem: Report, wanted: list[str]) -> Iterator[tuple[int, Row]]:
    lines = text_lines(path, problem)
    # strict: a stray quote is an error at its line, instead of silently swallowing the rows up to the next quote.
    reader = csv.reader(lines_with_ends(lines), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header = next(reader)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem(reader.line_num, f"{error}; quotes inside a quoted text are doubled")
            continue
        if fields and len(fields) != len(header):
            problem(reader.line_num, f"{len(fields)} fields, the header has {len(header)}; quote texts with separators")
        elif fields:
            yield reader.line_num, dict(zip(header, fields, strict=True))


def lines_with_ends(lines: Iterator[str]) -> Iterator[str]:
    """The csv module keeps line breaks inside quotes only when the lines have them."""
    return (line + "\n" for line in lines)


def _jsonl_rows(path: Path, problem: Report, wanted: list[str] | None = None) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text_lines(path, problem), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem(number, f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problem(number, "expected one JSON object a line")


def _parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: not a readable parquet file: {error}") from error


def _parquet_rows(path: Path, problem: Report, wanted: list[str]) -> Iterator[tuple[int, Row]]:
    file = _parquet(path)
    try:
        columns = list(dict.fromkeys(wanted))
        batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=4096, columns=columns))
        yield from enumerate(chain.from_iterable(batches), start=1)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: damaged parquet file: {error}") from error


_ROWS = {"csv": _csv_rows, "tsv": _csv_rows, "jsonl": _jsonl_rows, "parquet": _parquet_rows}
