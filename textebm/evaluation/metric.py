"""One measured number, what is known about each name, and a whole evaluation: kept, saved and shown.

A metric that is undefined (no labels, one sentence, no words) raises `UndefinedMetricError`; `Evaluation.noting`
turns that into a note, so that a missing number says why it is missing and NaN never reaches a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from textebm.evaluation.catalogue import ARROWS, describe
from textebm.files import read_json, write_output
from textebm.notebook import html_table


class UndefinedMetricError(ValueError):
    """The metric has no value on this input; the message says why."""


@dataclass(frozen=True)
class MetricValue:
    """A measured value. `n` counts what it was measured on (sentences, unless the catalogue says otherwise; 0 where it
    is not known)."""

    value: float
    unit: str = ""
    higher_is_better: bool | None = None
    n: int = 0

    @classmethod
    def named(cls, name: str, value: float, n: int) -> MetricValue:
        """The metric *name* of the catalogue with its unit and direction. ValueError if *value* is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"metric {name}: expected a finite number, got {value}")
        entry = describe(name)
        return cls(float(value), entry.unit, entry.higher_is_better, int(n))


@dataclass
class Evaluation:
    """Everything that one evaluation measured, with what is needed to read it: seed, versions, sizes, notes and
    samples.

    `metrics` holds finite numbers only. `sizes` counts sentences; `settings` says how text was written.
    `samples` keeps some of the texts behind the numbers, `code_names` the words that stand for each code.
    """

    seed: int
    split: str = "test"
    metrics: dict[str, MetricValue] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    code_names: dict[str, str] = field(default_factory=dict)
    sacrebleu_signature: str = ""
    self_bleu_signature: str = ""

    def __repr__(self) -> str:
        first = ", ".join(f"{name} {number(m.value)}" for name, m in [*self.metrics.items()][:4])
        return f"Evaluation({len(self.metrics)} metrics on {self.split}, seed {self.seed}: {first}, …)"

    def _repr_html_(self) -> str:
        rows = [(name, ARROWS[m.higher_is_better], number(m.value), m.unit, m.n) for name, m in self.metrics.items()]
        title = f"Evaluation on {self.split} (seed {self.seed})"
        return html_table(title, rows, ("metric", "", "value", "unit", "n"))

    def add(self, name: str, value: float, n: int) -> None:
        """Record a value; one that is not finite becomes a note."""
        if math.isfinite(value):
            self.metrics[name] = MetricValue.named(name, value, n)
        else:
            self.note(f"{name}: left out, the value came out as {value}")

    def compute(self, name: str, n: int, function: Callable[..., float], /, *arguments: Any, **keywords: Any) -> None:
        """Record ``function(*arguments, **keywords)``; an undefined metric becomes a note."""
        with self.noting(name):
            self.add(name, function(*arguments, **keywords), n)

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """What is undefined in this block ends it, and becomes a note."""
        try:
            yield
        except UndefinedMetricError as reason:
            self.note(f"{what}: left out, {reason}")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON (it contains no NaN); the samples are in `samples_text`."""
        data = asdict(self)
        del data["samples"]
        return {"metrics": data.pop("metrics"), **data}

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to *path*, which is then the old file or the new one, never half of it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, self.to_text())
        return path

    def to_text(self) -> str:
        """`to_json` as the text of a file."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """What `to_json` gave (without samples), for tables of a saved run. Raises ValueError for anything else."""
        empty = cls(0).to_json()
        if not isinstance(data, Mapping) or not isinstance(data.get("metrics"), dict):
            raise ValueError("not a saved evaluation: it has no metrics")
        plain = {name: data[name] for name in empty if name in data and name != "metrics"}
        for name, value in plain.items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            if type(value) is not type(empty[name]) or not all(isinstance(item, str | int) for item in items):
                raise ValueError(f"not a saved evaluation: {name} is {str(value)[:80]!r}")
        if "seed" not in plain:
            raise ValueError("not a saved evaluation: it has no seed")
        return cls(metrics={name: _metric(name, each) for name, each in data["metrics"].items()}, **plain)

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """What `save` wrote, without samples. Raises FileError, and ValueError if it is not that."""
        return cls.from_json(read_json(Path(path)))

    def render(self) -> Table:
        """A rich table; arrows give the better direction."""
        table = Table("metric", "", "value", "unit", "n", title=f"Evaluation on {self.split} (seed {self.seed})")
        for column in (2, 4):
            table.columns[column].justify = "right"
        for name, m in self.metrics.items():  # Text, since class names may look like rich markup
            table.add_row(Text(name), ARROWS[m.higher_is_better], number(m.value), Text(m.unit), f"{m.n:,}")
        return table

    def table(self, console: Console) -> None:
        """Print the table and the notes."""
        console.print(self.render())
        for note in self.notes:
            console.print(Text(f"note: {note}"))

    def markdown(self) -> str:
        """The table and notes as Markdown, for the model card."""
        rows = [
            (cell(name), ARROWS[m.higher_is_better], number(m.value), cell(m.unit), str(m.n))
            for name, m in self.metrics.items()
        ]
        lines = [*markdown_table(("metric", "", "value", "unit", "n"), rows, numeric=(2, 4))]
        if self.notes:
            lines += ["", *(f"- {cell(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def samples_text(self) -> str:
        """The kept samples, one a line under a heading, for samples.txt."""
        blocks = [
            f"# {name}\n" + "".join(f"{' '.join(text.split())}\n" for text in texts)
            for name, texts in self.samples.items()
        ]
        return "\n".join(blocks)


def _metric(name: str, data: Any) -> MetricValue:
    match data:
        case {"value": float() | int() as value, "unit": str(), "higher_is_better": bool() | None, "n": int()}:
            if len(data) == 4 and math.isfinite(value) and not isinstance(value, bool):
                return MetricValue(**data)
    raise ValueError(f"not a saved evaluation: the metric {name[:80]!r} is no measured number")


def number(value: float) -> str:
    """As printed: four digits, whole numbers without a point."""
    if value == int(value) and abs(value) >= 1:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Container[int]) -> list[str]:
    """The lines of a Markdown table; columns in *numeric* are set flush right. Cells as they are: see `cell`."""
    rule = "|".join("---:" if place in numeric else "---" for place in range(len(heads)))
    return [f"| {' | '.join(heads)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def cell(text: str) -> str:
    """A text that neither ends a Markdown cell nor opens an element."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
