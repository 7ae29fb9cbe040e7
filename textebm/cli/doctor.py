"""The command that says what is wrong with a run: doctor."""

from __future__ import annotations

import typer

from textebm.cli.shared import DataOption, JsonOption, RunArgument, emit, spinner, stdout_kept_clean


def doctor(run: RunArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Say what is wrong with a run: each finding with its evidence, the option to turn and what that should do."""
    with stdout_kept_clean(), spinner("looking at the run"):
        from textebm.runs.report import verdict_of_run

        verdict = verdict_of_run(run, data_dir=data)
    if as_json:
        emit(verdict.to_dict(), indent=2)
        return
    for line in verdict.lines():
        print(line)


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: textebm doctor runs/quickstart")(doctor)
