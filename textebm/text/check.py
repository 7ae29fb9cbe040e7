"""What `textebm data check` tells: rows, lengths, labels, problems by line, and what will hurt a model."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textebm.errors import CorpusError
from textebm.text.corpora import MAX_CLASSES
from textebm.text.finding import Finding
from textebm.text.readers import file_rows
from textebm.text.splits import NUMBER, sort_labels
from textebm.text.statistics import TextStatistics

MAX_PROBLEMS = 20
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
FEW = 20  # rows of a class below which its accuracy is noise
LITTLE = 1000  # texts below which a model learns them by heart


@dataclass(frozen=True)
class Problem:
    """Something wrong at a line of the file (a row, for parquet)."""

    line: int
    message: str


@dataclass(frozen=True)
class LabelReport:
    """counts: rows of each class. missing: rows without a label."""

    counts: dict[str, int]
    missing: int


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
    unknown: float  # share of held-out words outside the most frequent `vocabulary_size` of the other rows
    script: str  # of most letters, such as LATIN
    language: str | None
    labels: dict[str, LabelReport]
    problems: tuple[Problem, ...]  # the first MAX_PROBLEMS
    num_problems: int
    findings: tuple[Finding, ...]  # what can be read and will hurt a model

    @property
    def ok(self) -> bool:
        """Whether training would read the file as it is."""
        return self.num_problems == 0 and self.rows > self.empty_rows

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}


def check_file(
    path: str | Path,
    text_column: str = "text",
    label_columns: Sequence[str] = (),
    vocabulary_size: int = 10000,
    *,
    max_tokens: int = 40,
    group_column: str | None = None,
    against: Sequence[str | Path] = (),
) -> FileReport:
    """Read a txt, csv, tsv, jsonl or parquet file to its end and report on it; problems by line do not stop it.

    vocabulary_size, max_tokens: of a word tokenizer, for the shares of unknown words and of cut texts. against: other
    splits, whose texts should not stand in this file. Raises CorpusError for what cannot be read at all: missing,
    empty or binary file, a column that is not there.
    """
    path = Path(path)
    problems: list[Problem] = []
    num_problems = 0

    def problem(line: int, message: str) -> None:
        nonlocal num_problems
        num_problems += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(Problem(line, message))

    texts = TextStatistics()
    counts: dict[str, Counter[str]] = {column: Counter() for column in label_columns}
    missing = dict.fromkeys(label_columns, 0)
    groups: Counter[str] = Counter()
    rows = empty = 0
    for _, row in file_rows(path, text_column, label_columns, problem, group_column=group_column):
        rows += 1
        if not row["text"]:
            empty += 1
            continue
        texts.add(row["text"])
        if group_column is not None:
            groups[row["group"]] += 1
        for column, labels in counts.items():
            if row[column] is None:
                missing[column] += 1
            else:
                labels[row[column]] += 1
            if len(labels) > MAX_CLASSES:
                raise CorpusError(f"{path}: column {column!r} has over {MAX_CLASSES} distinct values: no label")
    for column, labels in counts.items():
        if not labels and rows > empty:
            problem(0, f"column {column!r} has no values")
    labelled = {
        column: LabelReport({label: labels[label] for label in sort_labels(labels)}, missing[column])
        for column, labels in counts.items()
    }
    cuts = np.quantile(texts.lengths, QUANTILES, method="higher") if texts.lengths else np.zeros(len(QUANTILES))
    findings = [*text_findings(texts, vocabulary_size, max_tokens), *label_findings(labelled)]
    findings += _leaks(texts, against, text_column)
    if groups:
        findings += _group_findings(groups)
    return FileReport(
        path=str(path),
        rows=rows,
        empty_rows=empty,
        duplicates=texts.duplicates,
        length_quantiles={f"{q:.0%}": int(cut) for q, cut in zip(QUANTILES, cuts, strict=True)},
        tokens=sum(texts.lengths),
        vocabulary=len(texts.all_words),
        vocabulary_size=vocabulary_size,
        coverage=texts.coverage(vocabulary_size),
        unknown=texts.unknown_share(vocabulary_size),
        script=next(iter(texts.scripts()), "none"),
        language=texts.language(),
        labels=labelled,
        problems=tuple(problems),
        num_problems=num_problems,
        findings=tuple(findings),
    )


def text_findings(texts: TextStatistics, vocabulary_size: int, max_tokens: int) -> Iterator[Finding]:
    """What of the texts will hurt a model with a word tokenizer of that size, and texts of that length."""
    n, words = max(1, texts.texts), max(1, sum(texts.lengths))
    if texts.unspaced():
        script = next(iter(texts.scripts()))
        yield Finding(
            "no_spaces",
            f"most letters are {script}, which writes no spaces between words",
            "tokenizer.kind=bpe",
            "a word tokenizer would take each text for one word",
        )
    elif (unknown := texts.unknown_share(vocabulary_size)) > 0.03:
        yield Finding(
            "unknown_words",
            f"{unknown:.1%} of the words of held-out rows are outside the {vocabulary_size:,} most frequent",
            "tokenizer.kind=bpe",
            "every word can then be read and written",
        )
    if texts.glued / words > 0.02:
        yield Finding(
            "glued_punctuation",
            f"{texts.glued / words:.1%} of the words have punctuation attached",
            "tokenizer.kind=bpe, or tokenizer.punctuation=apart with words",
            '"great!" and "great" are then one word',
        )
    distinct, lowered = texts.case_gain()
    if lowered < 0.93 * distinct:
        yield Finding(
            "mixed_case",
            f"{distinct:,} distinct words are {lowered:,} without regard to capitals",
            "tokenizer.lowercase=true",
            "if capitals need not be written, the rest is learned from more examples",
        )
    if texts.entities:
        yield Finding(
            "html",
            f"{texts.entities:,} rows ({texts.entities / n:.1%}) have HTML entities or tags",
            "tokenizer.html=true",
            '"&amp;" is then read as "&", "<br>" as a space',
        )
    if texts.misread:
        yield Finding(
            "misread",
            f"{texts.misread:,} rows look like UTF-8 that was read as another encoding (Ã©, â€™)",
            "write the file again from its source as UTF-8",
            "the letters cannot be recovered here",
        )
    if texts.addresses / n > 0.05:
        yield Finding(
            "addresses",
            f"{texts.addresses / n:.1%} of the rows have web addresses",
            "replace each by one word before training",
            "otherwise the model spends words on spelling them",
        )
    if (cut := texts.cut_share(max_tokens)) > 0.02:
        longest = int(np.quantile(texts.lengths, 0.98, method="higher"))
        yield Finding(
            "cut_texts",
            f"{cut:.1%} of the rows have more than {max_tokens} words and would lose their end",
            f"data.max_tokens={longest}" if longest <= 120 else "one sentence or paragraph a row",
            "only 2 % are cut then" if longest <= 120 else "so long a text does not fit one latent",
        )
    text, times = texts.commonest
    if texts.duplicates / n > 0.01:
        most = f', one of them {times:,} times: "{text[:60]}"' if times > 0.01 * n and times > 2 else ""
        yield Finding(
            "duplicates",
            f"{texts.duplicates:,} rows ({texts.duplicates / n:.1%}) repeat an earlier one{most}",
            "remove them before a split is drawn",
            "otherwise the same text is in train and in test",
        )
    if texts.texts < LITTLE:
        yield Finding(
            "little_text",
            f"{texts.texts:,} rows; below {LITTLE:,} a generator learns them by heart",
            "more text, or training.start_from=RUN of a model of similar text",
            "codes and classes can be learned from less, fluent sentences cannot",
        )


def label_findings(labels: dict[str, LabelReport]) -> Iterator[Finding]:
    """What of the label columns will hurt a head."""
    for column, report in labels.items():
        counts, total = report.counts, sum(report.counts.values())
        rare = [label for label, count in counts.items() if count < FEW]
        numbers = [label for label in counts if NUMBER.fullmatch(label)]
        if len(counts) == 1:
            yield Finding(
                "one_class",
                f"column {column!r} has one class, {next(iter(counts))!r}",
                f"leave {column!r} out of data.label_columns",
                "there is nothing to be told apart",
            )
        elif len(numbers) == len(counts) > 20 or any("." in label for label in numbers):
            yield Finding(
                "numeric_labels",
                f"column {column!r} has {len(counts)} numbers as classes; they look measured, not named",
                "write a few ranges instead, such as low, middle and high",
                "a head knows no order among classes",
            )
        elif counts and len(numbers) == len(counts):
            yield Finding(
                "numbered_classes",
                f"the classes of {column!r} are numbers ({', '.join(list(counts)[:8])})",
                "data.class_names, one list a column in this order",
                "reports and commands then show names",
            )
        if len(counts) > 1 and rare:
            shown = ", ".join(f"{label!r} {counts[label]}" for label in rare[:5])
            yield Finding(
                "rare_classes",
                f"{len(rare)} of {len(counts)} classes of {column!r} have under {FEW} rows ({shown})",
                "join them with others or leave their labels empty",
                "a head learns so few by heart",
            )
        if len(counts) > 1 and max(counts.values()) > 0.9 * total:
            label = max(counts, key=lambda each: counts[each])
            yield Finding(
                "one_sided",
                f"{max(counts.values()) / total:.1%} of the labels of {column!r} are {label!r}",
                "judge its head by balanced accuracy",
                f"always saying {label!r} is right as often",
            )


def _leaks(texts: TextStatistics, against: Sequence[str | Path], text_column: str) -> Iterator[Finding]:
    for path in map(Path, against):
        other = TextStatistics()
        for _, row in file_rows(path, text_column):
            if row["text"]:
                other.add(row["text"])
        if common := texts.common_texts(other):
            yield Finding(
                "leak",
                f"{common:,} rows ({common / max(1, texts.texts):.1%}) stand in {path}, too",
                f"remove them from one of the two; {other.common_texts(texts):,} of {other.texts:,} rows there",
                "otherwise what is measured on them was learned",
            )


def _group_findings(groups: Counter[str]) -> Iterator[Finding]:
    if max(groups.values()) == 1:
        yield Finding(
            "single_groups", "every row is a group of its own", "leave data.group_column out", "it has no effect"
        )
    elif max(groups.values()) > 0.5 * groups.total():
        name, count = groups.most_common(1)[0]
        yield Finding(
            "large_group",
            f"group {name!r} has {count / groups.total():.0%} of the rows",
            "another data.group_column, or files for each split",
            "it would fill validation or test alone",
        )


def table(report: FileReport) -> Table:
    """The report as a rich table."""
    grid = Table(title=escape(report.path), show_header=False, title_justify="left")
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("rows", f"{report.rows:,} ({report.empty_rows:,} empty, {report.duplicates:,} duplicates)")
    grid.add_row("words a row", ", ".join(f"{name} {cut}" for name, cut in report.length_quantiles.items()))
    grid.add_row("words", f"{report.tokens:,}, {report.vocabulary:,} distinct")
    grid.add_row(
        "coverage",
        f"{report.coverage:.2%} of the words by the {report.vocabulary_size:,} most frequent; "
        f"{report.unknown:.2%} of held-out words unknown",
    )
    grid.add_row("language", f"{report.language or 'not recognised'}, letters mostly {report.script}")
    for column, labels in report.labels.items():
        shown = [f"{escape(label)}: {count:,}" for label, count in list(labels.counts.items())[:30]]
        more = len(labels.counts) - len(shown)
        shown += [f"… and {more} more"] if more else []
        grid.add_row(escape(column), "\n".join([*shown, f"missing: {labels.missing:,}"]))
    lines = [f"line {problem.line}: {escape(problem.message)}" for problem in report.problems]
    if report.num_problems > len(lines):
        lines.append(f"… and {report.num_problems - len(lines):,} more")
    grid.add_row("problems", "\n".join(lines) or "none")
    grid.add_row("findings", "\n".join(f"- {escape(str(finding))}" for finding in report.findings) or "none")
    return grid


def render(report: FileReport, width: int = 120) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
