"""The command for looking at a prior alone, on densities that are known: densities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textebm.cli.shared import HiddenSetOption, JsonOption, emit, note, print_rows, spinner, stdout_kept_clean
from textebm.errors import TextEBMError

if TYPE_CHECKING:
    from textebm.densities.bench import Row

HEADER = (
    "target",
    "prior",
    "diverged",
    "masses",
    "variance",
    "in plane",
    "across",
    "×2: variance",
    "×2: in plane",
    "1000 MMD²",
    "log p(x)",
    "evaluations",
    "seconds",
)


def densities(
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPTION=VALUE", help="Another steps, num_levels, acceptance, metropolis, …"),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="gaussians, mixture8, mixture40, ring, pinwheel, release-gaussians, release-pinwheel, all (mixture8).",
        ),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option("--prior", help="A prior kind, KIND-recovery, KIND-published, exact or all; diffusion_energy."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Train so many times, with seeds 0, 1, …")] = 1,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Optimiser steps of 256 draws.")] = 4000,
    samples: Annotated[int, typer.Option("--samples", min=100, help="Draws that are measured.")] = 8192,
    change: HiddenSetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write a figure a prior (needs matplotlib).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train priors on known densities and measure their samples against the truth: 1 is right, ×2 twice the steps."""
    # masses (least and most) and variances are in units of the true ones; twice the steps must change nothing
    if out is not None and out.exists() and not out.is_dir():
        raise TextEBMError(f"--out {str(out)!r} is a file, expected a directory")
    with stdout_kept_clean():
        from textebm.densities.bench import bench
        from textebm.densities.figures import draw_figure, require_matplotlib
        from textebm.densities.settings import SETTINGS, setting_of
        from textebm.densities.targets import TARGETS, target_of

    if out is not None:
        require_matplotlib()
    settings = _settings([*(changes or ()), *(change or ())])
    targets = list(TARGETS) if target == ["all"] else target or ["mixture8"]
    everywhere = [name for name in SETTINGS if name != "exact"]  # which needs a mixture
    priors = everywhere if prior == ["all"] else prior or ["diffusion_energy"]
    asked = [(name, target_of(name), kind, setting_of(kind, settings)) for name in targets for kind in priors]
    rows = []
    with stdout_kept_clean(), spinner("learning") as progress:
        for name, density, kind, setting in asked:
            kept: list[Any] = []
            row = bench(
                name,
                density,
                kind,
                setting,
                seeds=range(seeds),
                iterations=iterations,
                samples=samples,
                progress=progress,
                keep=kept.append,
            )
            rows.append(row)
            if out is not None:
                path = out / f"{name}-{kind}.png"
                draw_figure(density, kept[0], row, path)
                note(f"written: {path}")
    if as_json:
        emit([row.as_dict() for row in rows], indent=2)
    else:
        print_rows(HEADER, [line for row in rows for line in _lines(row, seeds)])


def _settings(written: list[str]) -> dict[str, str]:
    settings = {}
    for text in written:
        option, equals, value = (piece.strip() for piece in text.partition("="))
        if not (option and equals and value):
            raise TextEBMError(f"{text!r}: expected OPTION=VALUE, such as steps=3")
        settings[option] = value
    return settings


def _lines(row: Row, seeds: int) -> list[tuple[str, ...]]:
    """A row as it is printed, and below it what exact draws score."""
    least, most = row.masses()
    exact = row.exact
    doubled = [f"{row.mean(figure, doubled=True):.3f}" for figure in ("variance", "in_plane")]
    figures = [f"{row.mean(figure):.3f}" for figure in ("variance", "in_plane", "across")]
    seconds = sum(outcome.seconds for outcome in row.outcomes) / len(row.outcomes)
    floor = [f"{value:.3f}" for value in (exact.variance, exact.in_plane, exact.across)]
    return [
        (
            row.target,
            row.prior,
            f"{row.diverged} of {seeds}",
            f"{least:.2f}–{most:.2f}",
            *figures,
            *doubled,
            f"{row.mean('mmd'):.2f}",
            f"{row.mean('log_density'):.2f}",
            f"{row.mean('evaluations'):.0f}",
            f"{seconds:.0f}",
        ),
        (
            row.target,
            "(exact draws)",
            "",
            f"{exact.mass_least:.2f}–{exact.mass_most:.2f}",
            *floor,
            "",
            "",
            f"{exact.mmd:.2f}",
            f"{exact.log_density:.2f}",
            "",
            "",
        ),
    ]


def register(app: Any) -> None:
    app.command(epilog="Example: textebm densities --target mixture8 --prior diffusion_energy steps=3 --seeds 5")(
        densities
    )
