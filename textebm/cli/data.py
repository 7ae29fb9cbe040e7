"""Commands about text: list, fetch, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textebm.cli.shared import DataOption, JsonOption, console, emit, note, print_rows, stdout_kept_clean

app = typer.Typer(no_args_is_help=True, help="List and fetch the corpora, and check a file of your own.")


@app.command("list", epilog="Example: textebm data list --data ../shared/data")
def list_(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the corpora that recipes know, and whether they are here."""
    with stdout_kept_clean():
        from textebm.text.listing import list_corpora

        found = list_corpora(data)
    if as_json:
        emit(found, indent=2)
        return
    rows = []
    for each in found:
        count = "" if each["sentences"] is None else f"{each['sentences']:,}"
        where = each["found"] or f"not here; get it from {each['source']}"
        rows.append((each["name"], count, ", ".join(each["labels"]) or "none", where))
    print_rows(("corpus", "sentences", "labels", "where"), rows)


@app.command(epilog="Example: textebm data fetch dailydialog --data data")
def fetch(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="dailydialog, agnews or smd.")],
    data: DataOption = None,
) -> None:
    """Download a corpus from its public source and check its files; what was broken off goes on."""
    with stdout_kept_clean():
        from textebm.text import fetch as fetching

        folder = fetching.fetch(corpus, data, say=note)
    typer.echo(folder)


@app.command(epilog="Example: textebm data check reviews.csv --text review --label stars --against test.csv")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A txt, csv, tsv, jsonl or parquet file.")],
    text: Annotated[str, typer.Option("--text", metavar="COLUMN", help="The column with the sentence.")] = "text",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="COLUMN", help="A column with a label; may be repeated.")
    ] = None,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=1, help="Words that coverage is counted for.")] = 10000,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=2, help="Words after which a text is cut.")] = 40,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="A column that names each row's document.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="FILE", help="Another split, for texts in both; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report a file's rows, lengths, labels, problems by line and what will hurt a model; exit code 1 for problems."""
    with stdout_kept_clean():
        from textebm.text.check import check_file, table

        report = check_file(
            file, text, label or (), vocabulary, max_tokens=max_tokens, group_column=group, against=against or ()
        )
    if as_json:
        emit(report.to_dict(), indent=2)
    else:
        console().print(table(report))
    if not report.ok:
        raise typer.Exit(1)
