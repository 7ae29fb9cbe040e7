"""Commands whose result is what the model found in sentences: encode, classify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import ZIP_DEFLATED, ZipFile

import typer

from textebm.cli.shared import (
    DeviceOption,
    JsonLinesOption,
    RefineOption,
    RunArgument,
    SeedOption,
    SentencesArgument,
    TextOption,
    as_read,
    batches,
    emit,
    given_file,
    given_sentences,
    load_model,
    note,
    spinner,
    stdout_kept_clean,
)
from textebm.errors import TextEBMError
from textebm.files import check_output, output, text_output

if TYPE_CHECKING:
    from textebm.api import TextEBM


def encode(
    run: RunArgument,
    sentences: SentencesArgument = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="A .parquet or .npz file, or any other for JSON lines; - for stdout."
        ),
    ] = Path("-"),
    text: TextOption = "text",
    refine: RefineOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Write each sentence's latent, codes and probabilities: as lines of JSON, a parquet table or numpy arrays."""
    source = given_file(sentences)
    if source is not None and out.exists() and out.samefile(source):
        raise TextEBMError(f"--out {str(out)!r} is the input itself; choose another file")
    if str(out) != "-":
        check_output(out)
    model = load_model(run, device)
    numbered = enumerate(given_sentences(sentences, text), start=1)
    written = batches((number, sentence) for number, sentence in numbered if sentence.strip())
    records = ((row for row in _records(model, batch, refine, seed)) for batch in written)
    write = {".parquet": _write_parquet, ".npz": _write_arrays}.get(out.suffix.lower(), _write_lines)
    with spinner("encoding") if str(out) != "-" else nullcontext() as progress:
        count = write(_counted(records, progress), out)
    if count == 0:
        note(f"note: no sentences in {source or 'what was given'}")
    elif str(out) != "-":
        note(f"{count} sentences encoded into {out}")


Batches = Iterable[list[dict[str, Any]]]


def _counted(batches: Iterable[Iterator[dict[str, Any]]], progress: Callable[[str], None] | None) -> Batches:
    done = 0
    for batch in batches:
        yield (rows := list(batch))
        done += len(rows)
        if progress is not None:
            progress(f"{done:,} sentences")


def _write_lines(batches: Batches, out: Path) -> int:
    count = 0
    with text_output(out) as target:
        for rows in batches:
            for row in rows:
                emit(row, target)
            count += len(rows)
    return count


def _write_parquet(batches: Batches, out: Path) -> int:
    """A row a sentence: line, text, mean and stddev (lists), and for each head its class and its probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with output(out) as file, ExitStack() as stack:
        writer = None
        for rows in batches:
            table = pa.Table.from_pylist([_flat(row) for row in rows])
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table)
            count += len(rows)
    return count


def _write_arrays(batches: Batches, out: Path) -> int:
    """The same columns as arrays, for ``numpy.load``; none of them is an object that could run code."""
    import numpy as np

    rows = [_flat(row) for batch in batches for row in batch]
    with output(out) as file:
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            for name in rows[0] if rows else ():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, np.array([row[name] for row in rows]), allow_pickle=False)
    return len(rows)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    heads = {name: label for name, label in row["codes"].items()}
    heads |= {f"{name} probabilities": values for name, values in row["probabilities"].items()}
    return {"line": row["line"], "text": row["text"], **heads, "mean": row["mean"], "stddev": row["stddev"]}


def _records(model: TextEBM, batch: list[tuple[int, str]], refine: int, seed: int) -> Iterator[dict[str, Any]]:
    with stdout_kept_clean():
        encoding = model.encode(as_read(model, [text for _, text in batch]), refine=refine, seed=seed)
    means, stddevs = encoding.mean.tolist(), encoding.stddev.tolist()
    labels = encoding.labels
    codes = {name: model.codes.labels(name, p) or labels[name] for name, p in encoding.probabilities.items()}
    probabilities = {name: values.tolist() for name, values in encoding.probabilities.items()}
    for row, (number, text) in enumerate(batch):
        yield {
            "line": number,
            "text": text,
            "codes": {name: values[row] for name, values in codes.items()},
            "probabilities": {name: values[row] for name, values in probabilities.items()},
            "mean": means[row],
            "stddev": stddevs[row],
        }


def classify(
    run: RunArgument,
    head: Annotated[str, typer.Option("--head", metavar="HEAD", help="Which symbol, such as sentiment.")],
    sentences: SentencesArgument = None,
    text: TextOption = "text",
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Name the class of each sentence: class, probability and sentence, separated by tabs."""
    model = load_model(run, device)
    for batch in batches(given_sentences(sentences, text)):
        texts = as_read(model, [line for line in batch if line.strip()])
        with stdout_kept_clean():
            found = model.classify(texts, head) if texts else None
        rows = iter(zip(found.labels, found.probabilities.tolist(), strict=True)) if found else iter(())
        for line in batch:
            label, values = next(rows) if line.strip() else (None, [])
            if as_json:
                named = dict(zip(model.network.head(head).classes, values, strict=True)) if values else {}
                emit({"text": line, "label": label, "probabilities": named})
            else:
                print(f"{label}\t{max(values):.3f}\t{line}" if label is not None else "")


def register(app: Any) -> None:
    app.command(epilog="Example: textebm encode runs/yelp reviews.csv --text review --out codes.parquet")(encode)
    app.command(epilog="Example: textebm classify runs/yelp --head sentiment reviews.txt")(classify)
