"""Commands about codes: what each stands for (``textebm codes RUN``), and what anybody's codes are worth."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

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
from textebm.errors import TextEBMError
from textebm.files import check_output, text_output

if TYPE_CHECKING:
    from textebm.inspection.codes import CodeCard, LabelShare


class _ShowUnlessNamed(TyperGroup):
    """``textebm codes RUN`` is ``textebm codes show RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowUnlessNamed,
    no_args_is_help=True,
    help="Say what each code of a run stands for (textebm codes RUN), and score and curate codes.",
)
SplitOption = Annotated[str, typer.Option("--split", help="Whose sentences: train, validation or test.")]


@app.command(epilog="Example: textebm codes runs/quickstart --head code --csv codes.csv")
def show(
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


@app.command(epilog="Example: textebm codes score turns.csv --codes cluster --labels act --labels emotion --text turn")
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A csv, tsv, jsonl or parquet file, a row a sentence.")],
    codes: Annotated[str, typer.Option("--codes", metavar="COLUMN", help="Whose codes, made by anything.")],
    labels: Annotated[
        list[str] | None, typer.Option("--labels", metavar="COLUMN", help="What people said of each; once for each.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="COLUMN", help="The sentences, for the scores that need no label.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Score anybody's codes against labels and by their words, beside random codes of the same sizes."""
    if not labels and text is None:
        raise TextEBMError("nothing to score: give --labels COLUMN, --text COLUMN or both")
    with stdout_kept_clean(), spinner("scoring"):
        from textebm.evaluation.code_table import score_table
        from textebm.text.readers import table_columns

        wanted = dict.fromkeys([codes, *(labels or ()), *([] if text is None else [text])])
        table = table_columns(file, list(wanted))
        found = score_table(
            table[codes],
            {label: table[label] for label in labels or ()},
            None if text is None else table[text],
            seed=seed,
        )
    if as_json:
        emit(found.to_json(), indent=2)
        return
    for title, header, rows in found.tables():
        _print_table(title, header, rows)
    for line in found.notes:
        note(line)


def _print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(header):
        table.add_column(Text(name), justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console().print(table)


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
