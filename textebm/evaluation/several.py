"""Several runs of one recipe: mean and standard deviation of what all of them measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from textebm.evaluation.catalogue import ARROWS
from textebm.evaluation.metric import Evaluation, cell, markdown_table, number

HEADS = ("metric", "", "mean ± sd", "unit", "runs")


@dataclass(frozen=True)
class Spread:
    """One metric over runs. stddev is the sample's (n − 1), None for a single run."""

    mean: float
    stddev: float | None
    values: tuple[float, ...]
    unit: str
    higher_is_better: bool | None

    def shown(self) -> str:
        """Mean ± standard deviation, as printed."""
        return number(self.mean) + ("" if self.stddev is None else f" ± {number(self.stddev)}")


@dataclass(frozen=True)
class Summary:
    """runs: their directories, in the order of each metric's values; partial: metrics that some runs lack."""

    runs: tuple[str, ...]
    metrics: dict[str, Spread]
    partial: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Lists in place of tuples."""
        metrics = {name: {**asdict(each), "values": list(each.values)} for name, each in self.metrics.items()}
        return {"runs": list(self.runs), "metrics": metrics, "partial": list(self.partial), "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, ...]]:
        """(metric, arrow, mean ± standard deviation, unit, each run's value)."""
        return [
            (name, ARROWS[each.higher_is_better], each.shown(), each.unit, " ".join(map(number, each.values)))
            for name, each in self.metrics.items()
        ]

    def render(self) -> Table:
        table = Table(*HEADS, title=f"{len(self.runs)} runs")
        for row in self.rows():
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        lines = markdown_table(HEADS, [list(map(cell, row)) for row in self.rows()], numeric=(2,))
        return "\n".join(lines) + "\n" + "".join(f"\n- {cell(note)}" for note in self.notes) + "\n"


def summarize(evaluations: Mapping[str, Evaluation]) -> Summary:
    """The metrics that every run has, in the first run's order. ValueError without a run."""
    if not evaluations:
        raise ValueError("there is no run to summarize")
    runs = list(evaluations.values())
    first, *others = runs
    spreads = {}
    for name, metric in first.metrics.items():
        if all(name in each.metrics for each in others):
            values = tuple(each.metrics[name].value for each in runs)
            stddev = statistics.stdev(values) if others else None
            spreads[name] = Spread(statistics.fmean(values), stddev, values, metric.unit, metric.higher_is_better)
    notes = [
        f"the runs differ in {field}: read the means with care"
        for field in ("split", "sizes", "settings")
        if any(getattr(each, field) != getattr(first, field) for each in others)
    ]
    partial = tuple(
        name for name in dict.fromkeys(name for each in runs for name in each.metrics) if name not in spreads
    )
    if partial:
        notes.append(f"left out, since some runs lack them: {', '.join(partial)}")
    return Summary(tuple(evaluations), spreads, partial, tuple(notes))
