"""Several runs of one recipe: mean and standard deviation of what all of them measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from textebm.evaluation.metric import ARROWS, Evaluation, cell, number


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
        metrics = {
            name: {
                "mean": each.mean,
                "stddev": each.stddev,
                "values": list(each.values),
                "unit": each.unit,
                "higher_is_better": each.higher_is_better,
            }
            for name, each in self.metrics.items()
        }
        return {"runs": list(self.runs), "metrics": metrics, "partial": list(self.partial), "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, ...]]:
        """(metric, arrow, mean ± standard deviation, unit, each run's value)."""
        return [
            (
                name,
                ARROWS[each.higher_is_better],
                each.shown(),
                each.unit,
                " ".join(number(value) for value in each.values),
            )
            for name, each in self.metrics.items()
        ]

    def render(self) -> Table:
        table = Table("metric", "", "mean ± sd", "unit", "runs", title=f"{len(self.runs)} runs")
        for row in self.rows():
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        lines = ["| metric | | mean ± sd | unit | runs |", "|---|---|---:|---|---|"]
        lines += [f"| {' | '.join(cell(part.strip()) for part in row)} |" for row in self.rows()]
        return "\n".join(lines) + "\n" + "".join(f"\n- {cell(note)}" for note in self.notes) + "\n"


def summarize(evaluations: Mapping[str, Evaluation]) -> Summary:
    """The metrics that every run has, in the first run's order. ValueError without a run."""
    if not evaluations:
        raise ValueError("there is no run to summarize")
    runs = list(evaluations.values())
    first, *others = runs
    common = [name for name in first.metrics if all(name in each.metrics for each in others)]
    every = dict.fromkeys(name for each in runs for name in each.metrics)
    found = {}
    for name in common:
        values = tuple(each.metrics[name].value for each in runs)
        spread = statistics.stdev(values) if len(values) > 1 else None
        metric = first.metrics[name]
        found[name] = Spread(statistics.fmean(values), spread, values, metric.unit, metric.higher_is_better)
    notes = []
    for part in ("split", "sizes", "settings"):
        if any(getattr(each, part) != getattr(first, part) for each in others):
            notes.append(f"the runs differ in {part}: read the means with care")
    partial = tuple(name for name in every if name not in found)
    if partial:
        notes.append(f"left out, since some runs lack them: {', '.join(partial)}")
    return Summary(tuple(evaluations), found, partial, tuple(notes))
