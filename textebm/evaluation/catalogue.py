"""What is known about each metric: group, unit, direction, what it is, and what to read beside it.

The tables of metrics.md, beside this file, are the catalogue: one row a metric. The same page stands in the
documentation: `python -m textebm.evaluation.catalogue > docs/metrics.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from textebm.errors import did_you_mean

PAGE = Path(__file__).with_name("metrics.md")
ARROWS = {True: "↑", False: "↓", None: ""}


@dataclass(frozen=True)
class Entry:
    """beside: a reference value, or the way in which the metric flatters; may be empty."""

    group: str
    unit: str
    higher_is_better: bool | None
    description: str
    beside: str


@cache
def catalogue() -> dict[str, Entry]:
    """All entries. In a name ``<…>`` stands for a label column, head, class or corpus; ``[…]`` may be there or not."""
    entries, group = {}, ""
    directions = {arrow: better for better, arrow in ARROWS.items()}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith("| `"):
            cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            name, arrow, unit, description, beside = cells
            entries[name.strip("`")] = Entry(group, unit, directions[arrow], description, beside)
    return entries


def describe(name: str) -> Entry:
    """The entry whose pattern *name* fits; of several the one that leaves least open. KeyError if there is none."""
    fitting = [key for key in catalogue() if re.fullmatch(_pattern(key), name)]
    if not fitting:
        raise KeyError(f"{name}: unknown metric{did_you_mean(name, list(catalogue()))}")
    return catalogue()[max(fitting, key=lambda key: len(re.sub(r"\[.*?\]|<.*?>", "", key)))]


def _pattern(key: str) -> str:
    return re.sub(r"<\w+>", ".+", key.replace("[", "(?:").replace("]", ")?"))


if __name__ == "__main__":
    print(PAGE.read_text(encoding="utf-8"), end="")
