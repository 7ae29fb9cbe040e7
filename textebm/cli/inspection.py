"""Commands for looking at what a run learned: report, codes, figure."""

from __future__ import annotations

import csv
from dataclasses import asdict
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
from textebm.files import check_output, text_output

if TYPE_CHECKING:
    from textebm.inspection.codes import CodeCard, LabelShare

SplitOption = Annotated[str, typer.Option("--split", help="Whose sentences: train, validation or test.")]


def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; report.html in the run unless given.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many sentences, chosen by the seed.")] = 3000,
    split: SplitOption = "test",
    umap: Annotated[
        bool, typer.Option("--umap", help="With a UMAP map beside PCA and t-SNE; needs umap-learn.")
    ] = False,
    seed: SeedOption = 0,
    data: DataOption = None,
) -> None:
    """Make one HTML page of what a run learned, to open from disk."""
    check_run(run)
    with stdout_kept_clean(), spinner("report") as progress:
        from textebm.runs.report import report_run

        path = report_run(
            run, out=out, limit=limit, split=split, seed=seed, umap=umap, data_dir=data, progress=progress
        )
    print(path)


def codes(
    run: RunArgument,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HEAD", help="Which symbol; the codes found unless given.")
    ] = None,
    split: SplitOption = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many sentences, chosen by the seed.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV, for a spreadsheet.")
    ] = None,
    seed: SeedOption = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each code stands for: its words, labels and sentences."""
    check_run(run)
    if csv_file is not None:
        check_output(csv_file)
    with stdout_kept_clean(), spinner("looking at the codes"):
        from textebm.runs.report import codes_of_run

        cards = codes_of_run(run, head=head, split=split, limit=limit, seed=seed, data_dir=data)
    if csv_file is not None:
        _write_csv(cards, csv_file)
        note(f"{len(cards)} codes written to {csv_file}")
    if as_json:
        emit([asdict(card) for card in cards], indent=2)
    elif csv_file is None:
        _show(cards)


def figure(
    run: RunArgument,
    what: Annotated[str, typer.Argument(metavar="map|codes|heatmap", help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .pdf, .svg or .png.")],
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NAME", help="Head or label that colours the map; label of the heat map."),
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
        int | None, typer.Option("--limit", min=1, help="At most so many sentences (3,000, and for codes all).")
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


def _write_csv(cards: list[CodeCard], path: Path) -> None:
    from textebm.inspection.codes import spreadsheet_safe, to_rows

    rows = to_rows(cards)
    with text_output(path) as file:
        writer = csv.writer(file)
        writer.writerow([spreadsheet_safe(name) for name in rows[0]])
        writer.writerows([spreadsheet_safe(value) for value in row.values()] for row in rows)


def _show(cards: list[CodeCard]) -> None:
    """A table, the most used codes first, and what is wrong with some of them. Text: brackets are not markup, and
    what would steer the terminal is taken out."""
    from rich.table import Table
    from rich.text import Text

    labels = list(dict.fromkeys(share.label for card in cards for share in card.labels))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
    table.add_column(cards[0].head, no_wrap=True)
    table.add_column("size", justify="right")
    table.add_column("p", justify="right")
    table.add_column("words", ratio=3, min_width=20)
    for label in labels:
        table.add_column(Text(label))
    table.add_column("most typical, and generated", ratio=5, min_width=30)
    for card in sorted(cards, key=lambda card: (-card.size, card.code)):
        shares = [next((share for share in card.labels if share.label == label), None) for label in labels]
        sentences = Text("\n".join(_printable(each.text) for each in card.typical[:2]))
        sentences.append("".join(f"\n→ {_printable(text)}" for text in card.generated[:1]), style="dim")
        table.add_row(
            Text(_printable(card.name), style="bold"),
            f"{card.size:,}",
            "" if card.confidence is None else f"{card.confidence:.2f}",
            Text(_printable(" ".join(word.text for word in card.words[:8]))),
            *(Text(_share(share)) for share in shares),
            sentences,
        )
    out = console()
    out.print(table)
    if unused := [card.name for card in cards if card.unused]:
        out.print(Text(f"unused: {', '.join(unused)}"))
    for card in cards:
        if card.duplicates:
            out.print(Text(f"nearly the same: {card.name} and {', '.join(card.duplicates)}"))


def _share(share: LabelShare | None) -> str:
    return f"{_printable(share.name)} {share.share:.0%}\nlift {share.lift:.2g}" if share else ""


def _printable(text: str) -> str:
    """Text without control characters: a corpus may hold a terminal's escape sequences."""
    return "".join(char for char in text if char.isprintable())


def register(app: Any) -> None:
    app.command(epilog="Example: textebm report runs/quickstart --out quickstart.html")(report)
    app.command(epilog="Example: textebm codes runs/quickstart --head code --csv codes.csv")(codes)
    app.command(epilog="Example: textebm figure runs/quickstart map --by sentiment --out map.pdf")(figure)
