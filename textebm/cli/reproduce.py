"""The command that makes rows of the results page again: reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textebm.cli.shared import DataOption, JsonOption, emit, note, print_rows, stdout_kept_clean


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or list for all of them.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Train so many times, with seeds 0, 1, …")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the runs lie; runs/reproduce unless given.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a row of the results page again and say where this machine stands; exit code 1 where it stands apart."""
    with stdout_kept_clean():
        from textebm.runs import reproduce as experiments

        if name == "list":
            every = experiments.EXPERIMENTS
            listed = [(key, each.what, f"{each.minutes} min", each.command(0)) for key, each in every.items()]
        else:
            numbers = range(seeds)
            standings = experiments.reproduce(name, seeds=numbers, out=out, data_dir=data, say=note)
    if name == "list":
        header = ("name", "what", "a seed takes", "command")
        if as_json:
            emit([dict(zip(header, row, strict=True)) for row in listed], indent=2)
        else:
            print_rows(header, listed)
        return
    if as_json:
        emit([each.as_row() for each in standings], indent=2)
    else:
        rows = [
            (
                each.expected.metric,
                f"{each.expected.value:g} ± {each.expected.tolerance:g}",
                "not measured" if each.mean is None else f"{each.mean:.4g}",
                "as expected" if each.within else "apart",
            )
            for each in standings
        ]
        print_rows(("metric", "expected", "here", ""), rows)
    if not all(each.within for each in standings):
        raise typer.Exit(1)


def register(app: Any) -> None:
    app.command(epilog="Example: textebm reproduce quickstart --seeds 3")(reproduce)
