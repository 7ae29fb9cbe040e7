"""Commands that make and measure a run: train, evaluate."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from textebm.cli.shared import (
    DataOption,
    HiddenSetOption,
    JsonOption,
    SeedOption,
    check_run,
    console,
    emit,
    note,
    spinner,
    stdout_kept_clean,
)
from textebm.errors import CheckpointError, TextEBMError

if TYPE_CHECKING:
    from textebm.evaluation.metric import Evaluation
    from textebm.runs.train import Run

SHOWN_SAMPLES = 10


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OPTION=VALUE", help="Such as training.batch_size=64.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory; runs/NAME unless given.")
    ] = None,
    data: DataOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that lies in the run directory.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, then measure and save it."""
    from textebm.recipe.read import load_recipe

    resolved = load_recipe(recipe, overrides or ())
    directory = out or Path("runs") / resolved.name
    # under torchrun or accelerate every process runs this line, but the first one makes the directory and prints
    first = os.environ.get("RANK", "0") == "0"
    if first and not resume:
        _refuse_used(directory)
    with stdout_kept_clean():
        from textebm.runs.train import train as run_training

        run = run_training(resolved, out=directory, data_dir=data, resume=resume)
    if first and as_json:
        evaluation = run.evaluation
        samples = _samples(evaluation.samples) if evaluation else []
        measured = evaluation.to_json() if evaluation else None
        emit({"directory": str(run.directory), "evaluation": measured, "samples": samples}, indent=2)
    elif first and run.evaluation:
        _report(run, run.evaluation)
    if first and run.evaluation is None:  # a signal stopped it, and it was saved
        place = shlex.quote(str(run.directory))
        given = f" --data {shlex.quote(str(data))}" if data else ""
        note(f"stopped and saved; go on with: textebm train {place}/recipe.yaml --out {place}{given} --resume")
        raise typer.Exit(130)


def _refuse_used(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{str(directory)!r} is a file; choose another run directory with --out")
    if directory.is_dir() and any(path.name != ".lock" for path in directory.iterdir()):
        raise CheckpointError(
            f"the run directory {str(directory)!r} is not empty; continue its run with --resume, "
            "or choose another directory with --out"
        )


def _samples(samples: dict[str, list[str]]) -> list[str]:
    """Free samples, or whichever were kept."""
    kept = samples.get("free") or next((texts for texts in samples.values() if texts), [])
    return kept[:SHOWN_SAMPLES]


def _report(run: Run, evaluation: Evaluation) -> None:
    """What a person wants to know after training."""
    evaluation.table(console())
    if samples := _samples(evaluation.samples):
        print("\nSamples:")
        for text in samples:
            print(f"  {text}")
    heads = sorted(run.model.heads.values(), key=lambda head: head.column is None)  # a taught one before a found one
    steer = f" --symbol {shlex.quote(f'{heads[0].name}={heads[0].classes[-1]}')}" if heads else ""
    report = " Look at it: report.html there." if (run.directory / "report.html").is_file() else ""
    print(f"\nThe run lies in {run.directory}.{report} Next:")
    write = "respond" if run.model.reads_context else "generate"
    print(f"  textebm {write} {shlex.quote(str(run.directory))} -n 10{steer}")


def evaluate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [OPTION=VALUE]...",
            help="Run directories, such as runs/quickstart; and evaluation.draws=64 or another evaluation.… than the "
            "recipe's.",
        ),
    ],
    suite: Annotated[
        Literal["ptb", "dailydialog", "yelp", "outliers", "all"] | None,
        typer.Option(
            "--suite",
            help="Also the field's table of this corpus: likelihood interval, perplexities, baselines, edits. Slow; a "
            "stopped one leaves evaluation.unfinished.json.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many test sentences, chosen by the seed.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=40, help="With --suite: sentences for perplexities; the recipe's unless given."),
    ] = None,
    change: HiddenSetOption = None,
    saved: Annotated[bool, typer.Option("--saved", help="Measure nothing: read evaluation.json of each run.")] = False,
    seed: SeedOption = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure trained runs on their test splits. Several runs give means and standard deviations."""
    runs = [Path(text) for text in arguments if not _is_change(text)]
    changes = [*filter(_is_change, arguments), *(change or ())]
    if not runs:
        raise TextEBMError("name a run directory, such as runs/quickstart, before the options")
    for run in runs:
        check_run(run)
    if samples is not None and suite is None:
        raise TextEBMError("--samples has no effect here; it needs --suite")
    if saved and (suite is not None or limit is not None or changes):
        raise TextEBMError("--saved measures nothing: leave --suite, --limit and OPTION=VALUE out")
    options: dict[str, Any] = {"limit": limit, "seed": seed, "data_dir": data, "suite": suite, "samples": samples}
    if changes:
        options["overrides"] = changes
    if len(runs) > 1 or saved:
        with stdout_kept_clean(), spinner("measuring") as progress:
            from textebm.runs.evaluate import evaluate_runs

            given = {} if saved else options
            summary = evaluate_runs(runs, saved=saved, progress=progress, **given)
        if as_json:
            emit(summary.to_json(), indent=2)
            return
        console().print(summary.render())
        for text in summary.notes:
            note(f"note: {text}")
        return
    with stdout_kept_clean(), spinner("measuring") as progress:
        from textebm.runs.train import evaluate_run

        evaluation = evaluate_run(runs[0], progress=progress, **options)
    if as_json:
        emit(evaluation.to_json(), indent=2)
        return
    evaluation.table(console())
    if suite is not None:
        note(f"the tables, beside published rows: {runs[0] / 'tables.md'}")


def _is_change(text: str) -> bool:
    """Whether an argument is OPTION=VALUE, not a directory with = in its name."""
    return "=" in text and "/" not in text.partition("=")[0] and not Path(text).exists()


def register(app: Any) -> None:
    app.command(epilog="Example: textebm train yelp training.batch_size=64 --data ../shared/data")(train)
    app.command(epilog="Example: textebm evaluate runs/yelp --suite yelp --limit 500 evaluation.draws=64")(evaluate)
