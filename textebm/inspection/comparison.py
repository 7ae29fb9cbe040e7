"""Runs side by side, as data for one page: verdicts, key figures, samples, what differs in the recipes, all metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textebm import __version__
from textebm.evaluation.metric import Evaluation
from textebm.files import finite
from textebm.inspection.measured import described, headline
from textebm.inspection.page_data import recipe_options

SAMPLES = 10
NAMES = ("name", "description", "training.out")  # options that say nothing of what a run is


@dataclass(frozen=True)
class ComparedRun:
    """A run by what its directory holds. samples: sentences drawn freely; verdict: as verdict.json says it, or {}."""

    name: str
    recipe: Mapping[str, Any]
    evaluation: Evaluation
    samples: Sequence[str]
    verdict: Mapping[str, Any]


def comparison_data(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """What the page of several runs shows, as plain data."""
    options = [dict(recipe_options(run.recipe)) for run in runs]
    named = [name for name in dict.fromkeys(name for own in options for name in own) if name not in NAMES]
    rows = [(name, [own.get(name) for own in options]) for name in named]
    corpora = {name for name, values in rows if name.startswith("data.") and len(set(values)) > 1}
    notes = [f"{', '.join(sorted(corpora))} differ: their figures are of other texts, and not to be compared."] * bool(
        corpora
    )
    splits = {(run.evaluation.split, tuple(run.evaluation.sizes.items())) for run in runs}
    if len(splits) > 1 and not corpora:
        notes.append("They were measured on different sentences: compare with care.")
    data = {
        "compared": {
            "version": __version__,
            "notes": notes,
            "runs": [
                {"name": run.name, "samples": list(run.samples)[:SAMPLES], "verdict": dict(run.verdict) or None}
                for run in runs
            ],
            "headline": _headline(runs),
            "options": [{"name": name, "values": values} for name, values in rows if len(set(values)) > 1],
            "groups": _groups(runs),
        }
    }
    return finite(data)


def _headline(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """A row for each key figure that one of the runs has, a cell for each run."""
    shown = []
    for run in runs:
        heads = [str(head["name"]) for head in run.recipe.get("heads", [])]
        labels = [name.removeprefix("ami_") for name in run.evaluation.metrics if name.startswith("ami_")]
        shown.append({figure["name"]: figure for figure in headline(run.evaluation, heads, labels, most=None)})
    every = {name: figure for own in reversed(shown) for name, figure in own.items()}
    order = list(dict.fromkeys(name for own in shown for name in own))
    return [
        {
            "title": every[name]["title"],
            "description": every[name]["description"],
            "cells": [{key: own[name][key] for key in ("value", "beside")} if name in own else None for own in shown],
        }
        for name in order
    ]


def _groups(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.evaluation.metrics):
        metrics = [run.evaluation.metrics.get(name) for run in runs]
        first = next(each for each in metrics if each is not None)
        entry = described(name)
        row = {"name": name, "description": entry["description"], "unit": first.unit, "better": first.higher_is_better}
        values = [each and each.value for each in metrics]
        groups.setdefault(entry["group"], []).append({**row, "values": values})
    return [{"name": name, "rows": rows} for name, rows in groups.items()]
