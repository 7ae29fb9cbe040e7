"""What several commands need: options, checks of a run directory, sentences in, results out."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.text import Text

from textebm.errors import CheckpointError, CorpusError, TextEBMError, did_you_mean
from textebm.files import finite
from textebm.notebook import duration, progress_to
from textebm.terminal import make_console, plain

if TYPE_CHECKING:
    from rich.console import Console

    from textebm.api import TextEBM

T = TypeVar("T")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # files whose sentences stand in a column
BATCH = 256  # sentences given to the model at once: enough to be fast, little enough that a pipe keeps flowing

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, such as runs/quickstart.")]
RefineOption = Annotated[
    int,
    typer.Option("--refine", min=0, metavar="K", help="Move each latent K gradient steps towards the true posterior."),
]
DeviceOption = Annotated[
    Literal["cpu", "cuda"],
    typer.Option("--device", help="Where the model runs; a GPU (cuda) pays for thousands of sentences."),
]
SentencesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SENTENCE|FILE|-",
        help="Sentences; or one file of them (txt, csv, tsv, jsonl, parquet); or - (as when nothing is given): stdin, "
        "one a line.",
    ),
]
TextOption = Annotated[
    str, typer.Option("--text", metavar="COLUMN", help="The column with the sentences, of a file that has columns.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each sentence.")]
# The old way to say OPTION=VALUE, which is an argument now.
HiddenSetOption = Annotated[list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", hidden=True)]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where the corpora lie; else $TEXTEBM_DATA, else data/.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed gives the same result.")]
SymbolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--symbol",
        metavar="HEAD=CLASS",
        help="sentiment=positive, sentiment=!negative (no such), topic=food,hotel (either); once a head.",
    ),
]


def _strength(text: str) -> float | str:
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number or auto, got {text!r}") from None


StrengthOption = Annotated[
    Any,
    typer.Option(
        "--strength",
        parser=_strength,
        metavar="NUMBER|auto",
        help="How strongly symbols steer; the recipe's unless given. auto: found for the share --confidence (.95).",
    ),
]
DecodingOption = Annotated[
    Literal["greedy", "sample", "beam"] | None, typer.Option("--decoding", help="How words are chosen (greedy).")
]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", min=0.01, help="With --decoding sample (1).")]
TopKOption = Annotated[int | None, typer.Option("--top-k", min=0, help="With --decoding sample (0: all words).")]
TopPOption = Annotated[float | None, typer.Option("--top-p", min=0.01, max=1.0, help="With --decoding sample (1).")]
BeamsOption = Annotated[int | None, typer.Option("--beams", min=1, help="With --decoding beam (4).")]


# --- out --------------------------------------------------------------------------------------------------------------


def emit(data: Any, file: IO[str] | None = None, *, indent: int | None = None) -> None:
    """*data* as a JSON document, or as a line of JSONL. Numbers that are not finite become null, as JSON has none."""
    print(json.dumps(finite(data), ensure_ascii=False, indent=indent, allow_nan=False), file=file)


def note(text: str) -> None:
    """A line for the person, beside the result."""
    print(plain(text), file=sys.stderr)


def console() -> Console:
    """A rich console on stdout. It does not cut tables to 80 columns when their reader is a file."""
    return make_console(width=160)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people, tab-separated lines (without the header) for pipes."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are not markup
    console().print(table)


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """While the library works, whatever it prints goes to stderr: stdout belongs to the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None] | None]:
    """On a terminal, a spinner that the function it gives renames as the parts of the work begin, and that says how
    long a part will take; else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    told = _Told(title)
    with make_console(stderr=True).status(told), progress_to(told.track):
        yield told.begin


class _Told:
    """The line beside a spinner: what is done, how far it is, and since when."""

    def __init__(self, title: str) -> None:
        self.title, self.part, self.progress, self.begun = title, "", "", time.monotonic()

    def begin(self, part: str) -> None:
        self.part, self.progress = part, ""

    def track(self, text: str) -> None:
        self.progress = text

    def __rich__(self) -> Text:
        parts = [self.title, self.part, self.progress, f"{duration(time.monotonic() - self.begun)} so far"]
        return Text(" · ".join(filter(None, parts)))


# --- the model --------------------------------------------------------------------------------------------------------


def check_run(directory: Path) -> None:
    """Raises CheckpointError, before anything slow is imported, when *directory* holds no trained model."""
    shown = repr(str(directory))
    if not directory.exists():
        near = [str(path.parent) for path in directory.parent.glob("*/config.json")]
        hint = did_you_mean(str(directory), near) if near else "; train one first, as with: textebm train quickstart"
        raise CheckpointError(f"no run at {shown}: the directory does not exist{hint}")
    if not directory.is_dir():
        raise CheckpointError(f"{shown} is a file, expected a run directory")
    if not (directory / "config.json").exists():
        if (directory / "recipe.yaml").exists():
            command = f"textebm train {directory / 'recipe.yaml'} --out {directory} --resume"
            raise CheckpointError(f"the training in {shown} is not finished; continue it with: {command}")
        raise CheckpointError(f"{shown} is not a run: it holds no config.json")


def load_model(directory: Path, device: str = "cpu") -> TextEBM:
    """The model of a run, on *device*. Raises CheckpointError, and TextEBMError where there is no such device."""
    check_run(directory)
    with stdout_kept_clean():
        check_device(device)
        gc.disable()  # libraries make many objects that stay: looking through them costs a tenth of the start
        try:
            from textebm.api import TextEBM
        finally:
            gc.enable()
        return TextEBM.from_pretrained(directory).to(device)


def check_device(device: str) -> None:
    """Raises TextEBMError where cuda is asked for and PyTorch sees no GPU."""
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise TextEBMError("--device cuda: PyTorch sees no GPU here; leave the option out to use the CPU")


def parse_symbols(given: Sequence[str] | None) -> dict[str, str | int]:
    """``["sentiment=positive"]`` as a dict. Whether the head and the class exist is the model's to say."""
    symbols: dict[str, str | int] = {}
    for text in given or ():
        head, equals, name = (part.strip() for part in text.partition("="))
        if not (head and equals and name):
            raise TextEBMError(f"--symbol {text!r}: expected HEAD=CLASS, such as sentiment=positive")
        if head in symbols:
            raise TextEBMError(f"--symbol: head {head!r} is given twice ({symbols[head]!r} and {name!r}); keep one")
        symbols[head] = name
    return symbols


def decoding_options(
    decoding: str | None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
) -> dict[str, Any]:
    """The decoding arguments that were given. An option that this way of decoding would not read is an error."""
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    for name, value, needed in (
        *((name, value, "sample") for name, value in sampling.items()),
        ("beams", beams, "beam"),
    ):
        if value is not None and decoding != needed:
            raise TextEBMError(f"--{name.replace('_', '-')} has no effect here; it needs --decoding {needed}")
    given = {"decoding": decoding, **sampling, "num_beams": beams}
    return {name: value for name, value in given.items() if value is not None}


# --- sentences in -----------------------------------------------------------------------------------------------------


def given_file(given: Sequence[str] | None) -> Path | None:
    """The file that a command was given instead of sentences, if it was. Raises CorpusError for one that is missing."""
    if given is None or len(given) != 1 or given[0] == "-":
        return None
    path = Path(given[0])
    if path.is_file():
        return path
    if path.suffix.lower() in TABLES or path.suffix.lower() == ".txt":
        raise CorpusError(f"no such file: {given[0]!r}")
    return None


def given_sentences(given: Sequence[str] | None, column: str = "text") -> Iterator[str]:
    """The sentences that a command was given: as arguments, as one file, or, where there are none or "-", from stdin.

    column: of a csv, tsv, jsonl or parquet file. Raises CorpusError.
    """
    file = given_file(given)
    if file is not None and file.suffix.lower() in TABLES:
        from textebm.text.readers import file_rows

        yield from (row["text"] for _, row in file_rows(file, column))
    elif file is None and given and list(given) != ["-"]:
        yield from given
    else:
        yield from read_sentences(file)


def read_sentences(file: Path | None = None) -> Iterator[str]:
    """Lines of a UTF-8 text file, or of stdin, without their line ends. Raises CorpusError naming the line."""
    from textebm.text.lines import decoded_lines

    name = "standard input" if file is None else str(file)
    if file is None:
        if sys.stdin.isatty():
            note("sentences, one a line; end with Ctrl-D")
        yield from decoded_lines(sys.stdin.buffer, name)
        return
    try:
        with file.open("rb") as stream:
            yield from decoded_lines(stream, name)
    except OSError as error:
        raise CorpusError(f"cannot read {name!r}: {error.strerror}") from None


def as_read(model: TextEBM, lines: Sequence[str]) -> list[str]:
    """Lines as the model reads them: for a model of dialogues the last turn of a line is the text, and those before it,
    separated by tabs or __eou__, are what it answers."""
    if not model.reads_context:
        return list(lines)
    from textebm.text.history import parse_turn

    return [parse_turn(line) for line in lines]


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
