"""Commands about codes: what each stands for (``textebm codes RUN``), and what anybody's codes are worth."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from textebm.cli.shared import (
    DataOption,
    DeviceOption,
    JsonLinesOption,
    JsonOption,
    RunArgument,
    SeedOption,
    SentencesArgument,
    TextOption,
    as_read,
    batches,
    check_run,
    console,
    emit,
    given_sentences,
    load_model,
    note,
    print_rows,
    spinner,
    stdout_kept_clean,
)
from textebm.errors import TextEBMError
from textebm.files import check_output, text_output

if TYPE_CHECKING:
    from textebm.inspection.codes import CodeCard, LabelShare
    from textebm.use.codebook import HeadBook


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


@app.command(epilog="Example: textebm codes show runs/quickstart --head code --csv codes.csv")
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
    levels: Annotated[
        int | None, typer.Option("--levels", min=1, metavar="N", help="Gather the codes into N groups by their words.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each code stands for: its words, labels and sentences (show may be left out)."""
    check_run(run)
    if levels is not None:
        _show_levels(run, levels, head, data, seed, as_json)
        return
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


CodeArgument = Annotated[str, typer.Argument(metavar="CODE", help="A code's number, or what it is called.")]
HeadOption = Annotated[
    str | None, typer.Option("--head", metavar="HEAD", help="Which symbol; the codes found unless given.")
]


@app.command(epilog='Example: textebm codes rename runs/yelp 3 "delivery time"')
def rename(
    run: RunArgument,
    code: CodeArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help='What to call it; "" for its words again.')],
    head: HeadOption = None,
    note_: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A remark to keep beside it.")] = None,
    data: DataOption = None,
) -> None:
    """Give a code a name, which every command then uses."""
    _change(run, head, data, lambda book: book.rename(book.code(code), name, note_))


@app.command(epilog="Example: textebm codes merge runs/yelp 3 7 12")
def merge(
    run: RunArgument,
    into: Annotated[str, typer.Argument(metavar="CODE", help="The code that stays.")],
    parts: Annotated[list[str], typer.Argument(metavar="CODES", help="Those that become part of it.")],
    head: HeadOption = None,
    data: DataOption = None,
) -> None:
    """Make one code of several that say the same; `merge CODE CODE` takes it apart again."""

    def change(book: HeadBook) -> HeadBook:
        stays, others = book.code(into), [book.code(part) for part in parts]
        return book.split(stays) if others == [stays] else book.merge(stays, others)

    _change(run, head, data, change)


@app.command(epilog="Example: textebm codes hide runs/yelp 5 9")
def hide(
    run: RunArgument,
    codes: Annotated[list[str], typer.Argument(metavar="CODES", help="Numbers or names.")],
    again: Annotated[bool, typer.Option("--show", help="Show them again.")] = False,
    head: HeadOption = None,
    data: DataOption = None,
) -> None:
    """Give no sentence a code that says nothing."""
    _change(run, head, data, lambda book: book.hide([book.number(code) for code in codes], hidden=not again))


@app.command(epilog="Example: textebm codes threshold runs/yelp --precision 0.9")
def threshold(
    run: RunArgument,
    precision: Annotated[
        float | None,
        typer.Option("--precision", min=0.0, max=1.0, help="How often a sentence's code must be right on validation."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Give every sentence a code again.")] = False,
    head: HeadOption = None,
    seed: SeedOption = 0,
    data: DataOption = None,
) -> None:
    """Let sentences that no code fits have none."""
    check_run(run)
    if (precision is None) != off:
        raise TextEBMError("give either --precision or --off")
    if precision is None:
        _change(run, head, data, lambda book: book.with_threshold(None))
        return
    with stdout_kept_clean(), spinner("choosing the threshold"):
        from textebm.runs.codes import set_threshold

        found = set_threshold(run, head, precision, data_dir=data, seed=seed)
    print(f"p >= {found.threshold:.3f}: right in {found.precision:.1%}; {found.none:.1%} of validation have no code")


@app.command(epilog="Example: textebm codes export runs/yelp --out codes.json")
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="- is standard output.")] = Path("-"),
    head: HeadOption = None,
    data: DataOption = None,
) -> None:
    """Write what each code is called, its words, parts and notes as JSON."""
    check_run(run)
    with stdout_kept_clean():
        from textebm.files import text_output
        from textebm.runs.codes import codebook_of_run, head_of

        book = codebook_of_run(run, data_dir=data)
        own = book.head(head_of(book, head))
    with text_output(out) as file:
        emit(
            [
                {
                    "code": code,
                    "name": own.name(code),
                    "words": list(own.words[code]),
                    "parts": list(own.members(code)[1:]),
                    "hidden": code in own.hidden,
                    "note": own.notes.get(code),
                }
                for code in range(len(own.words))
                if code not in own.merged
            ],
            file,
            indent=2,
        )
    if str(out) != "-":
        note(f"written to {out}")


@app.command(epilog="Example: textebm codes why runs/yelp reviews.txt")
def why(
    run: RunArgument,
    sentences: SentencesArgument = None,
    head: HeadOption = None,
    text: TextOption = "text",
    method: Annotated[
        Literal["integrated_gradients", "leave_one_out"],
        typer.Option("--method", help="Parts that add up, or what log p loses without the word."),
    ] = "integrated_gradients",
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Say what each word of a sentence adds to the log-probability of its code."""
    model = load_model(run, device)
    name = head or next(
        (each.name for each in model.heads.values() if each.column is None), next(iter(model.heads), "")
    )
    for batch in batches(given_sentences(sentences, text)):
        texts = as_read(model, [line for line in batch if line.strip()])
        with stdout_kept_clean():
            found = model.attribute(texts, name, method=method)
        for each in found:
            if as_json:
                emit(asdict(each))
            else:
                words = " ".join(f"{word} {part:+.2f}" for word, part in zip(each.words, each.parts, strict=True))
                print(f"{_printable(each.name)}\t{each.log_probability:.2f}\t{_printable(words)}")


@app.command(epilog="Example: textebm codes carry runs/yelp runs/yelp-longer --least 0.3")
def carry(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The run whose codes have names.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The run that gets them.")],
    head: HeadOption = None,
    least: Annotated[float, typer.Option("--least", min=0.0, max=1.0, help="Leave pairs of less overlap alone.")] = 0.0,
    seed: SeedOption = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Carry names, merges and hidden codes over to a retrained model, matched by the sentences that both code."""
    check_run(old)
    check_run(new)
    with stdout_kept_clean(), spinner("matching the codes"):
        from textebm.runs.codes import carry_codes

        found = carry_codes(old, new, head, least=least, data_dir=data, seed=seed)
    if as_json:
        emit([asdict(each) for each in found], indent=2)
    else:
        rows = [(str(e.old), e.name, "-" if e.new < 0 else str(e.new), f"{e.overlap:.2f}") for e in found]
        print_rows(("old", "name", "new", "overlap"), rows)


def _change(run: Path, head: str | None, data: Path | None, change: Callable[[HeadBook], HeadBook]) -> None:
    check_run(run)
    with stdout_kept_clean(), spinner("reading the codes"):
        from textebm.runs.codes import change_codes

        book = change_codes(run, head, change, data_dir=data)
    print_rows(("code", "name"), [(str(code), book.name(code)) for code in book.shown])


def _show_levels(run: Path, groups: int, head: str | None, data: Path | None, seed: int, as_json: bool) -> None:
    with stdout_kept_clean(), spinner("gathering the codes"):
        from textebm.runs.codes import codebook_of_run, head_of, levels_of_run

        found = levels_of_run(run, groups, head, data_dir=data, seed=seed)
        book = codebook_of_run(run, data_dir=data, seed=seed)
        own = book.head(head_of(book, head))
    named = [[own.name(code) for code in group] for group in found]
    if as_json:
        emit(named, indent=2)
    else:
        print_rows(("group", "codes"), [(str(place), "; ".join(group)) for place, group in enumerate(named, 1)])


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
