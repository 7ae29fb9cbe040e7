"""Commands for looking at what a run learned: report, figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textebm.cli.shared import DataOption, RunArgument, SeedOption, check_run, spinner, stdout_kept_clean
from textebm.errors import TextEBMError

SplitOption = Annotated[str, typer.Option("--split", help="Whose sentences: train, validation or test.")]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run directory; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; report.html in the run, or comparison.html here."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="At most so many sentences, chosen by the seed; as the recipe's evaluation says."
        ),
    ] = None,
    split: SplitOption = "test",
    umap: Annotated[
        bool, typer.Option("--umap", help="With a UMAP map beside PCA and t-SNE; needs umap-learn.")
    ] = False,
    seed: SeedOption = 0,
    data: DataOption = None,
) -> None:
    """Make one HTML page of what a run learned, to open from disk; of several runs, a page that compares them."""
    for run in runs:
        check_run(run)
    with stdout_kept_clean(), spinner("report") as progress:
        from textebm.runs.report import compare_runs, report_run

        if len(runs) > 1:
            if limit is not None or umap:
                raise TextEBMError("several runs are compared by what lies in them: leave --limit and --umap out")
            path = compare_runs(runs, out=out or Path("comparison.html"))
        else:
            path = report_run(
                runs[0], out=out, limit=limit, split=split, seed=seed, umap=umap, data_dir=data, progress=progress
            )
    print(path)


def figure(
    run: RunArgument,
    what: Annotated[str, typer.Argument(metavar="map|codes|heatmap", help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .pdf, .svg or .png.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="NAME", help="Head, attribute or label to colour the map by; label of the heat map."
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HEAD", help="Whose codes; those found unless given.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--map", help="pca, tsne (unless given) or umap, which needs umap-learn.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="With the prior's samples on the map.")] = False,
    width: Annotated[float | None, typer.Option("--width", min=1, max=40, help="Inches.")] = None,
    split: SplitOption = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many sentences (as the report; for codes all).")
    ] = None,
    seed: SeedOption = 0,
    data: DataOption = None,
) -> None:
    """Draw the latent map, the codes or codes against labels for a paper; needs matplotlib."""
    check_run(run)
    with stdout_kept_clean(), spinner("drawing"):
        from textebm.runs.report import figure_of_run

        path = figure_of_run(
            run,
            what,
            out,
            by=by,
            head=head,
            layout=layout,
            samples=samples,
            limit=limit,
            split=split,
            seed=seed,
            width=width,
            data_dir=data,
        )
    print(path)


def register(app: Any) -> None:
    app.command(epilog="Example: textebm report runs/quickstart; textebm report runs/a runs/b --out both.html")(report)
    app.command(epilog="Example: textebm figure runs/quickstart map --by sentiment --out map.pdf")(figure)
