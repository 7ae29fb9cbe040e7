"""The command that trains a grid of recipes: sweep."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from textebm.cli.shared import DataOption, JsonOption, emit, note, stdout_kept_clean
from textebm.errors import TextEBMError


def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")],
    vary: Annotated[
        list[str],
        typer.Option("--vary", metavar="OPTION=VALUE,…", help="Values to compare; several of these make a grid."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OPTION=VALUE", help="The same for all, as for train.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Train each so many times, with seeds 0, 1, …")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the runs and the table lie; runs/NAME-sweep.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="A,B", help="Columns of the table, such as elbo,ppl.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a grid of variants over seeds and compare them in a table; the same command goes on after a stop."""
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    if names is not None and not all(names):
        raise TextEBMError(f"--metrics {metrics!r}: a name is empty; expected names with commas between, as elbo,ppl")
    with stdout_kept_clean():
        from textebm.runs.sweep import sweep as run_sweep

        result = run_sweep(
            recipe,
            vary,
            seeds=seeds,
            out=out,
            overrides=overrides or (),
            data_dir=data,
            metrics=names or (),
            progress=note,
        )
    if as_json:
        emit(result.to_json(), indent=2)
    elif not result.stopped:
        print(result.markdown(), end="")
    if result.stopped:
        command = ["textebm", "sweep", recipe, *(overrides or ())]
        for text in vary:
            command += ["--vary", text]
        command += ["--seeds", str(seeds)]
        for option, value in (("--out", out), ("--metrics", metrics), ("--data", data)):
            command += [] if value is None else [option, str(value)]
        note(f"stopped and saved; go on with: {shlex.join(command)}")
        raise typer.Exit(130)
    note(f"the table and the runs: {result.directory}")
    if result.failed:
        count = len(result.failed)
        note(f"{count} {'run' if count == 1 else 'runs'} failed; the same command tries again")
        raise typer.Exit(1)


def register(app: Any) -> None:
    app.command(
        epilog="Example: textebm sweep quickstart --vary prior.kind=gaussian,energy,diffusion_energy --seeds 3"
    )(sweep)
