"""An ablation: the grid of some options' values, each cell trained with several seeds, and the table of what came out.

Every cell and seed is an ordinary run in OUT/<cell>/seed<k>. A finished one (evaluation.json is there) is read, one
that was begun is resumed; so the same call goes on after any stop, and more values or seeds add to what is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textebm.errors import CheckpointError, RecipeError, TextEBMError
from textebm.evaluation.catalogue import ARROWS, describe
from textebm.evaluation.metric import Evaluation, cell
from textebm.evaluation.several import Summary, summarize
from textebm.files import write_atomically
from textebm.recipe.read import load_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.evaluate import read_evaluation
from textebm.runs.interrupt import GracefulStop
from textebm.runs.lock import RunLock
from textebm.runs.train import train

__all__ = ["Cell", "CellRun", "Sweep", "plan", "sweep"]

# shown unless others are asked for; <head> stands for the recipe's heads, <label> for whatever was measured
DEFAULT_METRICS = (
    "reconstruction_bleu",
    "elbo",
    "wkl",
    "reliance",
    "fluency",
    "control_accuracy_<head>",
    "code_agreement",
    "ami_<label>",
)
LONGEST_NAME = 100


@dataclass(frozen=True)
class CellRun:
    """One seed of a cell. evaluation and error are both None while it is still to be done."""

    seed: int
    recipe: Recipe
    directory: Path
    evaluation: Evaluation | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        return "failed" if self.error is not None else "to do" if self.evaluation is None else "done"


@dataclass(frozen=True)
class Cell:
    """name: its folder; values: the varied options as they were written."""

    name: str
    values: dict[str, str]
    runs: tuple[CellRun, ...]

    @property
    def title(self) -> str:
        return " ".join(f"{option}={value}" for option, value in self.values.items())

    def summary(self) -> Summary | None:
        """Mean and standard deviation over the seeds that are done; None if none is."""
        done = {str(run.directory): run.evaluation for run in self.runs if run.evaluation is not None}
        return summarize(done) if done else None


@dataclass(frozen=True)
class Sweep:
    """metrics: those that the table shows; stopped: a signal came while runs were left."""

    directory: Path
    name: str
    overrides: tuple[str, ...]
    seeds: int
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def failed(self) -> tuple[CellRun, ...]:
        return tuple(run for each in self.cells for run in each.runs if run.error is not None)

    def chosen(self) -> list[str]:
        """The names of the table's metrics: those asked for, else the default ones that some run has."""
        if self.metrics:
            return list(self.metrics)
        runs = [run for each in self.cells for run in each.runs]
        measured = dict.fromkeys(name for run in runs if run.evaluation for name in run.evaluation.metrics)
        heads = {f"control_accuracy_{head.name}" for run in runs for head in run.recipe.heads}
        found: list[str] = []
        for name in DEFAULT_METRICS:
            prefix, _, of = name.partition("<")
            fits = [each for each in measured if each.startswith(prefix)] if of else [name] * (name in measured)
            found += [each for each in fits if of != "head>" or each in heads]
        return found

    def to_json(self) -> dict[str, Any]:
        varied: dict[str, list[str]] = {}
        for each in self.cells:
            for option, value in each.values.items():
                if value not in varied.setdefault(option, []):
                    varied[option].append(value)
        return {
            "recipe": self.name,
            "overrides": list(self.overrides),
            "vary": varied,
            "seeds": self.seeds,
            "stopped": self.stopped,
            "table": self.chosen(),
            "cells": [self._cell_json(each) for each in self.cells],
        }

    def _cell_json(self, each: Cell) -> dict[str, Any]:
        summary = each.summary()
        metrics = {} if summary is None else summary.to_json()["metrics"]
        return {
            "name": each.name,
            "values": each.values,
            "runs": [
                {
                    "seed": run.seed,
                    "directory": str(run.directory.relative_to(self.directory)),
                    "status": run.status,
                    "error": run.error,
                }
                for run in each.runs
            ],
            "metrics": {name: {**found, "n": len(found["values"])} for name, found in metrics.items()},
            "notes": [] if summary is None else list(summary.notes),
        }

    def markdown(self) -> str:
        """The table: cells by the varied options, mean ± standard deviation (n − 1) over the seeds that are done."""
        names, options = self.chosen(), list(self.cells[0].values)
        head = [*map(cell, options), "n", *(f"{cell(name)} {ARROWS[_better(name)]}".strip() for name in names)]
        lines = [_line(head), "|" + "---|" * len(options) + "---:|" * (len(names) + 1)]
        notes = []
        for each in self.cells:
            summary = each.summary()
            known = {} if summary is None else summary.metrics
            done = f"{sum(run.evaluation is not None for run in each.runs)}/{len(each.runs)}"
            values = [known[name].shown() if name in known else "–" for name in names]
            lines.append(_line([*map(cell, each.values.values()), done, *values]))
            for run in each.runs:
                if run.status != "done":
                    said = run.status if run.error is None else f"failed: {' '.join(run.error.split())}"
                    notes.append(f"- {cell(each.title)}, seed {run.seed}: {cell(said)}")
            # what some seeds lack matters where the table would show it
            lacking = [] if summary is None else [name for name in names if name in summary.partial]
            if lacking:
                notes.append(f"- {cell(each.title)}: some seeds lack {', '.join(map(cell, lacking))}")
        seeds = "seed 0" if self.seeds == 1 else f"seeds 0 to {self.seeds - 1}"
        spread = "" if self.seeds == 1 else "mean ± standard deviation (n − 1) over "
        given = f" with {' '.join(self.overrides)}" if self.overrides else ""
        lines += ["", f"{cell(self.name)}{cell(given)}: {spread}{seeds}; n counts the runs that are done."]
        return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def sweep(
    recipe: str | Path | Recipe,
    vary: Sequence[str],
    *,
    seeds: int = 1,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    metrics: Sequence[str] = (),
    quiet: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Sweep:
    """Train every cell of the grid *vary* (``["prior.kind=gaussian,energy", "latent.dim=8,16"]``) with seeds 0, 1, ….

    Everything lies in *out* (default: runs/<name>-sweep): the runs, sweep.json and table.md, which are written anew
    after each run. All recipes are checked before the first trains. A run that fails is noted, and the sweep goes on.
    On Ctrl-C or SIGTERM the run is saved and the sweep ends with `stopped`. Raises TextEBMError subclasses.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TextEBMError("a sweep trains in one process: start it without torchrun or accelerate launch")
    _check_metrics(metrics)
    planned = plan(recipe, vary, seeds=seeds, out=out, overrides=overrides)
    planned = replace(planned, metrics=tuple(dict.fromkeys(metrics)))
    say = progress or (lambda text: None)
    with RunLock(planned.directory), GracefulStop() as stop:
        cells = [[_read(run) for run in each.runs] for each in planned.cells]
        total, number = sum(map(len, cells)), 0
        result = _write(planned, cells)
        for each, runs in zip(planned.cells, cells, strict=True):
            for i, run in enumerate(runs):
                number += 1
                where = f"[{number}/{total}] {each.title}, seed {run.seed}"
                if run.status == "done":
                    say(f"{where}: done before")
                    continue
                if stop.requested:
                    return _write(planned, cells, stopped=True)
                say(where)
                runs[i] = _train(run, data_dir, quiet)
                if runs[i].status == "to do":
                    return _write(planned, cells, stopped=True)
                if runs[i].error is not None:
                    say(f"{where}: failed: {runs[i].error}")
                result = _write(planned, cells)
    return result


def plan(
    recipe: str | Path | Recipe,
    vary: Sequence[str],
    *,
    seeds: int = 1,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Sweep:
    """The cells of a sweep, the last option varying fastest, with their recipes checked; nothing is trained or written.

    Raises RecipeError with every problem of every cell, and CheckpointError where *out* holds something else.
    """
    if seeds < 1:
        raise TextEBMError(f"seeds: expected at least 1, got {seeds}")
    grid = _grid(vary, overrides)
    problems: dict[str, list[str]] = {}  # message -> the cells that have it
    found: list[tuple[str, dict[str, str], Recipe]] = []
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for values in combinations:
        title = " ".join(f"{option}={value}" for option, value in values.items())
        try:
            own = load_recipe(recipe, [*overrides, *(f"{option}={value}" for option, value in values.items())])
        except RecipeError as error:
            lines = str(error).split("\n  ")
            for line in lines[1:] or lines:
                problems.setdefault(line, []).append(title)
            continue
        twin = next((other for _, other, known in found if known == own), None)
        if twin is not None:
            same = " ".join(f"{option}={value}" for option, value in twin.items())
            problems.setdefault(f"{title} is the same recipe as {same}; keep one of them", []).append("")
        found.append((_folder(values), values, own))
    _raise(problems, len(combinations))
    name = found[0][2].name
    directory = Path(out) if out is not None else Path("runs") / f"{name}-sweep"
    _refuse_used(directory)
    cells = []
    for folder, values, own in found:
        runs = [
            CellRun(seed, own.model_copy(update={"seed": seed}), directory / folder / f"seed{seed}")
            for seed in range(seeds)
        ]
        cells.append(Cell(folder, values, tuple(runs)))
    _check_begun([run for each in cells for run in each.runs])
    return Sweep(directory, name, tuple(overrides), seeds, tuple(cells))


def split_values(text: str) -> list[str]:
    """``a,[1,2],'b,c'`` -> ``a``, ``[1,2]``, ``'b,c'``: commas inside brackets and quotes belong to the value."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        parts[-1] += letter
    return [part.strip() for part in parts]


def _grid(vary: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Option -> values. Raises RecipeError with every mistake in what was asked."""
    if not vary:
        raise RecipeError("nothing to vary: give option=value,value, such as prior.kind=gaussian,energy")
    given = {text.partition("=")[0].strip() for text in overrides}
    problems: dict[str, list[str]] = {}
    grid: dict[str, list[str]] = {}
    if "seed" in given:
        problems["seed: a sweep sets the seeds itself; give their number with --seeds"] = []
    for text in vary:
        option, equals, written = (part.strip() for part in text.partition("="))
        values = split_values(written)
        if not (option and equals):
            wrong = f"--vary {text[:80]!r}: expected option=value,value, such as prior.kind=gaussian,energy"
        elif not all(values):
            wrong = f"--vary {text[:80]!r}: a value is empty; expected option=value,value"
        elif option == "seed":
            wrong = "--vary seed: a sweep sets the seeds itself; give their number with --seeds"
        elif option in grid:
            wrong = f"--vary {option}: given twice; name all its values in one"
        elif option in given:
            wrong = f"--vary {option}: also given as {option}=…; keep one of them"
        elif len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            wrong = f"--vary {option}: {twice!r} is given twice; each value counts once"
        else:
            grid[option] = values
            continue
        problems[wrong] = []
    _raise(problems, 0)
    return grid


def _raise(problems: Mapping[str, Sequence[str]], cells: int) -> None:
    """All problems as one RecipeError; one that not every cell has says whose it is."""
    lines = [
        line if len(titles) in (0, cells) or not titles[0] else f"{line} (in {titles[0]}{_others(len(titles))})"
        for line, titles in problems.items()
    ]
    if lines:
        raise RecipeError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))


def _others(count: int) -> str:
    return "" if count == 1 else f" and {count - 1} more"


def _folder(values: Mapping[str, str]) -> str:
    """``prior.kind-energy_latent.dim-8``; a hash ends what is no safe name of a folder as it is."""
    plain = "_".join(f"{option}-{value}" for option, value in values.items())
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain)
    if safe == plain and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:LONGEST_NAME].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _refuse_used(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{str(directory)!r} is a file; choose another directory with --out")
    if any((directory / name).exists() for name in ("recipe.yaml", "config.json", "checkpoints")):
        raise CheckpointError(f"{str(directory)!r} is the directory of a single run; choose another with --out")
    others = directory.is_dir() and any(path.name != ".lock" for path in directory.iterdir())
    if others and not (directory / "sweep.json").is_file():
        raise CheckpointError(f"{str(directory)!r} is not empty and holds no sweep; choose another with --out")


def _check_begun(runs: Sequence[CellRun]) -> None:
    """Runs that are there must be of the recipes that are asked for."""
    others = []
    for run in runs:
        path = run.directory / "recipe.yaml"
        if not path.is_file():
            continue
        try:
            same = load_recipe(path) == run.recipe
        except RecipeError:
            same = False
        if not same:
            others.append(str(run.directory))
    if others:
        raise RecipeError(
            f"{others[0]}{_others(len(others))} was trained with another recipe: choose another directory with --out, "
            "or give the options of then"
        )


def _check_metrics(names: Sequence[str]) -> None:
    for name in names:
        try:
            describe(name)
        except KeyError as error:
            raise TextEBMError(f"metrics: {error.args[0]}") from None


def _better(name: str) -> bool | None:
    return describe(name).higher_is_better


def _read(run: CellRun) -> CellRun:
    """The run with its evaluation if it is finished; one that cannot be read is measured anew."""
    try:
        return replace(run, evaluation=read_evaluation(run.directory))
    except CheckpointError:
        return run


def _train(run: CellRun, data_dir: str | Path | None, quiet: bool) -> CellRun:
    """Train, or go on with what is there. As it came when a signal stopped it."""
    try:
        done = train(run.recipe, out=run.directory, data_dir=data_dir, resume=True, quiet=quiet)
    except TextEBMError as error:
        return replace(run, error=str(error))
    return replace(run, evaluation=done.evaluation)


def _write(planned: Sweep, cells: Sequence[Sequence[CellRun]], stopped: bool = False) -> Sweep:
    """sweep.json and table.md of what is known now."""
    now = [replace(each, runs=tuple(runs)) for each, runs in zip(planned.cells, cells, strict=True)]
    result = replace(planned, cells=tuple(now), stopped=stopped)
    text = json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(planned.directory / "sweep.json", text.encode())
    write_atomically(planned.directory / "table.md", result.markdown().encode())
    return result


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
