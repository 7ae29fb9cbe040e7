"""What a run tells while it works: metrics.jsonl for machines, a bar or a plain line now and then for people."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from textebm.errors import CheckpointError
from textebm.files import append_line, finite, write_atomically
from textebm.notebook import duration
from textebm.runs.directory import METRICS, read_recorded, write_recorded
from textebm.terminal import make_console

logger = logging.getLogger(__name__)
MEAN_OF = 50  # steps

# metric name -> (label, format) in a health line, in this order; any other name is shown as it is, after these.
HEALTH = {
    "loss": ("loss", ".3f"),
    "reconstruction_nll": ("reconstruction", ".2f"),
    "kl": ("KL", ".2f"),
    "reliance": ("reliance", ".3f"),
    "kl_per_unit_used": ("units", ".0f"),
    "mutual_information_xz": ("I(x;z)", ".2f"),
    "mutual_information_zy": ("I(z;y)", ".2f"),
    "codes_in_use": ("codes", ".0f"),
    "energy_magnitude": ("|F|", ".2f"),
    "acceptance": ("acceptance", ".2f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
}


class MetricsLog:
    """Append-only JSON lines, `{"step": 100, "loss": 3.2}`.

    A run that was killed and resumed must leave the same file as one that was not. So what depends on the clock
    (seconds, tokens a second) belongs in a log of its own, timing.jsonl, and a step's lines are written before its
    checkpoint. Numbers that are not finite become null, which JSON readers accept.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line and hand it to the system; it outlives this process, however that ends."""
        append_line(self.path, json.dumps({"step": step, **{name: finite(value) for name, value in values.items()}}))

    def read(self) -> list[dict[str, Any]]:
        """The complete lines, oldest first; a last line that was cut short is left out."""
        return [record for _, record in self._records()]

    def truncate_after(self, step: int) -> int:
        """Drop, atomically, the lines of later steps and any that was cut short; returns how many lines went."""
        if not self.path.exists():
            return 0
        before = self.path.read_bytes()
        kept = b"".join(line for line, record in self._records() if record["step"] <= step)
        if kept != before:
            if self.path.name == METRICS:
                write_recorded(self.path.parent, METRICS, kept)
            else:  # what the clock decides has no checksum
                write_atomically(self.path, kept)
        return len(before.splitlines()) - len(kept.splitlines())

    def _records(self) -> list[tuple[bytes, dict[str, Any]]]:
        records = []
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append((line, record))
        return records


def health_line(step: int, values: Mapping[str, Any], total: int | None = None, left: str = "") -> str:
    """`step 200/1000 · 3 min left · reconstruction 41.20 · KL 8.31 · reliance 0.410`; unknown names follow."""
    known = [name for name in HEALTH if name in values]
    parts = [f"step {step}" if total is None else f"step {step}/{total}"]
    parts += [left] if left else []
    parts += [f"{HEALTH[name][0]} {_format(values[name], HEALTH[name][1])}" for name in known]
    parts += [f"{name} {_format(values[name], '.4g')}" for name in values if name not in HEALTH]
    return " · ".join(parts)


def _format(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else str(value)


class Progress:
    """A bar with stage, step, loss and tokens a second on a terminal; elsewhere a health line every *every* seconds.

    Steps count from the run's first to its last, over all stages. What is shown of a step's values are running means
    over about MEAN_OF steps of the stage. Everything goes to stderr: stdout belongs to results. `quiet` (as with
    --json) turns the bar off also on a terminal.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None, every: float = 30.0) -> None:
        self.console = console or make_console(stderr=True)
        self.every = every
        self.stage_name = ""
        self.total: int | None = None
        self._end: int | None = None  # the stage's last step
        self.tokens_per_second = 0.0
        self._means, self._seen = dict[str, float](), 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None  # when which step of the stage was done first
        self._ticked: float | None = None  # when the stage's last step was done
        self._printed = time.monotonic()
        if self.console.is_terminal and not quiet:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=self.console,
            )

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int | None = None, step: int = 0, steps: int | None = None) -> None:
        """Begin a stage that has *steps* steps to go, in a run of *total* (None: unknown) of which *step* are done."""
        self.stage_name, self.total, self.tokens_per_second = name, total, 0.0
        self._end = total if steps is None else step + steps
        self._means, self._seen = {}, 0
        self._first = self._ticked = None
        if self._bar is None:
            of = "" if steps is None else f": {steps:,} steps, their losses running means over about {MEAN_OF}"
            self.message(f"{name}{of}")
        elif self._task is None:
            self._task = self._bar.add_task(name, total=total, completed=step, numbers="")
        else:
            self._bar.update(self._task, description=name, total=total, completed=step)

    def update(self, step: int, values: Mapping[str, float] | None = None, tokens: int = 0) -> None:
        """The run's step *step* is done; *tokens* were used since the last call. A stage's first call only starts the
        clock: it comes when the first step is done, with nothing to measure that step from."""
        now = time.monotonic()
        if tokens and self._ticked is not None:
            speed = tokens / max(now - self._ticked, 1e-9)
            # Smoothed over about ten calls: a single step says little, the whole run hides a slowdown.
            self.tokens_per_second = speed if not self.tokens_per_second else 0.9 * self.tokens_per_second + 0.1 * speed
        self._ticked, self._first = now, self._first or (now, step)
        self._seen += 1
        share = max(1 / self._seen, 1 / MEAN_OF)  # the plain mean of the first ones
        for name, value in (values or {}).items():
            self._means[name] = self._means.get(name, value) + share * (value - self._means.get(name, value))
        shown: dict[str, Any] = {name: self._means[name] for name in values or {}}
        if self.tokens_per_second:
            shown["tokens_per_second"] = self.tokens_per_second
        if self._bar is not None and self._task is not None:
            short: dict[str, Any] = {name: shown[name] for name in ("loss", "tokens_per_second") if name in shown}
            numbers = health_line(step, short, left=self.left(step))
            self._bar.update(self._task, completed=step, numbers=numbers.partition(" · ")[2])
        elif self._bar is None and now - self._printed >= self.every:
            self.message(f"{self.stage_name}: {health_line(step, shown, self.total, self.left(step))}")

    def left(self, step: int) -> str:
        """``3 min left``, until the stage's last step at its pace so far; empty before there is one, and at the end."""
        if self._end is None or self._first is None or self._ticked is None or not self._first[1] < step < self._end:
            return ""
        began, first = self._first
        seconds = (self._ticked - began) / (step - first) * (self._end - step)
        return f"{duration(seconds)} left" + ("" if self._end == self.total else " of this stage")

    def part(self, text: str) -> None:
        """What is done now, as a line if the last one is *every* seconds old."""
        if time.monotonic() - self._printed >= self.every:
            self.message(text)

    def message(self, text: str) -> None:
        """A line of its own, above the bar if there is one. The text is shown as it is, never read as markup."""
        self._printed = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_history(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics. A last line cut short by a crash is passed over."""
    if not (directory / METRICS).is_file():
        return []
    try:
        read_recorded(directory, METRICS)
    except CheckpointError as error:
        logger.warning("%s; the report's curves may be wrong", error)
    return MetricsLog(directory / METRICS).read()
