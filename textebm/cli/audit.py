"""The command that compares likelihood estimators where the truth is known: audit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from textebm.cli.shared import (
    DeviceOption,
    JsonOption,
    RunArgument,
    SeedOption,
    emit,
    load_model,
    note,
    print_rows,
    spinner,
    stdout_kept_clean,
)

HEADER = ("estimator", "nats", "less the reference", "side of −log p(x)", "")


def audit(
    run: RunArgument,
    sentences: Annotated[int, typer.Option("--sentences", min=2, help="Fresh sentences of the language.")] = 200,
    groups: Annotated[int, typer.Option("--groups", min=1, help="Groups whose intervals are checked.")] = 200,
    group_size: Annotated[int, typer.Option("--group-size", min=1, help="Sentences in each group.")] = 20,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Posterior draws of IWAE and of the interval.")] = 16,
    reference_draws: Annotated[int, typer.Option("--reference-draws", min=2, help="Those of the reference.")] = 64,
    fit_steps: Annotated[int, typer.Option("--fit-steps", min=1, help="Steps that fit each text's posterior.")] = 60,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Which side of −log p(x) each likelihood estimator is on, on the embedded language, whose entropy is known."""
    with stdout_kept_clean(), spinner("audit") as progress:
        from textebm.evaluation.audit import Effort, audit

        found = audit(
            load_model(run, device),
            sentences=sentences,
            groups=groups,
            group_size=group_size,
            effort=Effort(draws=draws, reference_draws=reference_draws, fit_steps=fit_steps),
            seed=seed,
            progress=progress or (lambda message: None),
        )
    if as_json:
        emit(found.as_dict(), indent=2)
        return
    rows = [("entropy of the language", f"{found.entropy:.2f}", "", "no mean is below it", "")]
    rows.append(("reference", f"{found.reference:.2f}", f"± {found.reference_width / 2:.2f}", "", ""))
    for each in found.estimates:
        remark = "below the entropy" if each.nats < found.entropy else "" if each.holds else "NOT AS PROMISED"
        difference = f"{each.difference:+.2f} ± {each.error:.2f}"
        rows.append((each.name, f"{each.nats:.2f}", difference, each.side, remark))
    print_rows(HEADER, rows)
    note(
        f"the interval holds the reference in {found.coverage:.1%} of {found.groups} groups of {found.group_size} of "
        f"the {found.sentences} sentences, in {found.coverage_with_error:.1%} with two standard errors of its draws"
    )


def register(app: Any) -> None:
    app.command(epilog="Example: textebm audit runs/quickstart --sentences 100")(audit)
