"""Commands that make and measure a run: train, evaluate."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textebm.cli.shared import (
    DataOption,
    JsonOption,
    RunArgument,
    SeedOption,
    check_run,
    console,
    emit,
    note,
    spinner,
    stdout_kept_clean,
)
from textebm.errors import CheckpointError

if TYPE_CHECKING:
    from textebm.evaluation.metric import Evaluation
    from textebm.training.run import Run

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
    from textebm.recipe_io import load_recipe

    resolved = load_recipe(recipe, overrides or ())
    directory = out or Path("runs") / resolved.name
    # under torchrun or accelerate every process runs this line, but the first one makes the directory and prints
    first = os.environ.get("RANK", "0") == "0"
    if first and not resume:
        _refuse_used(directory)
    with stdout_kept_clean():
        from textebm.training.run import train as run_training

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
    run: RunArgument,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only the first so many test sentences.")
    ] = None,
    seed: SeedOption = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a trained run on its test split."""
    check_run(run)
    with stdout_kept_clean(), spinner("measuring") as progress:
        from textebm.training.run import evaluate_run

        evaluation = evaluate_run(run, limit=limit, seed=seed, data_dir=data, progress=progress)
    if as_json:
        emit(evaluation.to_json(), indent=2)
    else:
        evaluation.table(console())


def register(app: Any) -> None:
    app.command(epilog="Example: textebm train yelp training.batch_size=64 --data ../shared/data")(train)
    app.command(epilog="Example: textebm evaluate runs/quickstart --limit 500")(evaluate)
