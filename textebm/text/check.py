"""What `textebm data check` and `textebm data list` tell."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textebm.errors import CorpusError
from textebm.text import grammar
from textebm.text.corpora import FILES, MAX_CLASSES, SOURCES, find_corpus, sort_labels
from textebm.text.readers import file_rows

MAX_PROBLEMS = 20
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Problem:
    """Something wrong at a line of the file (a row, for parquet)."""

    line: int
    message: str


@dataclass(frozen=True)
class FileReport:
    """What is in a file. Lengths are counted in white-space-separated words."""

    path: str
    rows: int
    empty_rows: int
    duplicates: int  # rows whose text stood in an earlier row
    length_quantiles: dict[str, int]
    tokens: int
    vocabulary: int  # distinct words
    vocabulary_size: int
    coverage: float  # share of the tokens that the most frequent `vocabulary_size` words make up
    label_counts: dict[str, int]
    missing_labels: int
    problems: tuple[Problem, ...]  # the first MAX_PROBLEMS
    num_problems: int

    @property
    def ok(self) -> bool:
        """Whether training would read the file as it is."""
        return self.num_problems == 0 and self.rows > self.empty_rows

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}


def check_file(
    path: str | Path, text_column: str = "text", label_column: str | None = None, vocabulary_size: int = 10000
) -> FileReport:
    """Read a txt, csv, tsv, jsonl or parquet file to its end and report on it; problems by line do not stop it.

    Raises CorpusError for what cannot be read at all: missing, empty or binary file, a column that is not there.
    """
    path = Path(path)
    problems: list[Problem] = []
    num_problems = 0

    def problem(line: int, message: str) -> None:
        nonlocal num_problems
        num_problems += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(Problem(line, message))

    words: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    lengths: list[int] = []
    seen: set[bytes] = set()  # digests: the texts themselves may not fit in memory
    rows = empty = duplicates = missing = 0
    columns = (label_column,) if label_column is not None else ()
    for _, row in file_rows(path, text_column, columns, problem):
        rows += 1
        tokens = row["text"].split()
        if not tokens:
            empty += 1
            continue
        words.update(tokens)
        lengths.append(len(tokens))
        digest = hashlib.blake2b(row["text"].encode(), digest_size=12).digest()
        duplicates += digest in seen
        seen.add(digest)
        if label_column is not None:
            if row[label_column] is None:
                missing += 1
            else:
                labels[row[label_column]] += 1
            if len(labels) > MAX_CLASSES:
                raise CorpusError(f"{path}: column {label_column!r} has over {MAX_CLASSES} distinct values: no label")
    if label_column is not None and not labels and rows > empty:
        problem(0, f"column {label_column!r} has no values")
    total = sum(lengths)
    covered = sum(count for _, count in words.most_common(vocabulary_size))
    cuts = np.quantile(lengths, QUANTILES, method="higher") if lengths else np.zeros(len(QUANTILES))
    return FileReport(
        path=str(path),
        rows=rows,
        empty_rows=empty,
        duplicates=duplicates,
        length_quantiles={f"{q:.0%}": int(cut) for q, cut in zip(QUANTILES, cuts, strict=True)},
        tokens=total,
        vocabulary=len(words),
        vocabulary_size=vocabulary_size,
        coverage=covered / total if total else 0.0,
        label_counts={label: labels[label] for label in sort_labels(labels)},
        missing_labels=missing,
        problems=tuple(problems),
        num_problems=num_problems,
    )


def table(report: FileReport) -> Table:
    """The report as a rich table."""
    grid = Table(title=escape(report.path), show_header=False, title_justify="left")
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("rows", f"{report.rows:,} ({report.empty_rows:,} empty, {report.duplicates:,} duplicates)")
    grid.add_row("words a row", ", ".join(f"{name} {cut}" for name, cut in report.length_quantiles.items()))
    grid.add_row("words", f"{report.tokens:,}, {report.vocabulary:,} distinct")
    grid.add_row("coverage", f"{report.coverage:.2%} of the words by the {report.vocabulary_size:,} most frequent")
    if report.label_counts or report.missing_labels:
        shown = [f"{escape(label)}: {count:,}" for label, count in list(report.label_counts.items())[:30]]
        more = len(report.label_counts) - len(shown)
        shown += [f"… and {more} more"] if more else []
        grid.add_row("labels", "\n".join([*shown, f"missing: {report.missing_labels:,}"]))
    lines = [f"line {found.line}: {escape(found.message)}" for found in report.problems]
    if report.num_problems > len(lines):
        lines.append(f"… and {report.num_problems - len(lines):,} more")
    grid.add_row("problems", "\n".join(lines) or "none")
    return grid


def render(report: FileReport, width: int = 120) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


LABELS = {"ptb": (), "dailydialog": ("act", "emotion"), "yelp": ("sentiment",)}


def list_corpora(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Each corpus: name, found (its folder, "embedded", or None), sentences (train, or None), labels, source."""
    listed: list[dict[str, Any]] = [
        {
            "name": "grammar",
            "found": "embedded",
            "sentences": grammar.language_size(),
            "labels": list(grammar.FACTORS),
            "source": "generated",
        }
    ]
    for name in FILES:
        entry = {"name": name, "found": None, "sentences": None, "labels": list(LABELS[name]), "source": SOURCES[name]}
        try:
            folder = find_corpus(name, data_dir)
        except CorpusError:
            listed.append(entry)
            continue
        listed.append(entry | {"found": str(folder), "sentences": _count(name, folder)})
    return listed


def _count(name: str, folder: Path) -> int:
    """Training sentences, counted as the readers do."""
    if name == "dailydialog":
        return len((folder / "train" / "dialogues_act_train.txt").read_bytes().split())
    paths = {"ptb": ["ptb.train.txt"], "yelp": ["sentiment.train.0", "sentiment.train.1"]}[name]
    return sum(sum(1 for line in (folder / path).open("rb") if line.strip()) for path in paths)
