"""Commands whose result is what the model found in sentences: encode, classify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textebm.cli.shared import (
    DeviceOption,
    JsonLinesOption,
    RefineOption,
    RunArgument,
    SeedOption,
    as_read,
    batches,
    emit,
    load_model,
    note,
    read_sentences,
    stdout_kept_clean,
)
from textebm.errors import TextEBMError
from textebm.files import check_output, text_output

if TYPE_CHECKING:
    from textebm.api import TextEBM


def encode(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sentences, one a line; - for stdin.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the JSON lines go; - for stdout.")] = Path(
        "-"
    ),
    refine: RefineOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Write each sentence's latent, codes and probabilities as a line of JSON."""
    source = None if str(file) == "-" else file
    if source is not None and not source.is_file():
        raise TextEBMError(f"no such file: {str(file)!r}")
    if source is not None and out.exists() and out.samefile(source):
        raise TextEBMError(f"--out {str(out)!r} is the input itself; choose another file")
    if str(out) != "-":
        check_output(out)
    model = load_model(run, device)
    count = 0
    with text_output(out) as target:
        numbered = enumerate(read_sentences(source), start=1)
        for batch in batches((number, text) for number, text in numbered if text.strip()):
            for record in _records(model, batch, refine, seed):
                emit(record, target)
            count += len(batch)
    if count == 0:
        note(f"note: no sentences in {file}")
    elif str(out) != "-":
        note(f"{count} sentences encoded into {out}")


def _records(model: TextEBM, batch: list[tuple[int, str]], refine: int, seed: int) -> Iterator[dict[str, Any]]:
    with stdout_kept_clean():
        encoding = model.encode(as_read(model, [text for _, text in batch]), refine=refine, seed=seed)
    means, stddevs = encoding.mean.tolist(), encoding.stddev.tolist()
    codes = {
        name: model.codes.labels(name, encoding.probabilities[name])
        or [model.heads[name].classes[code] for code in values.tolist()]
        for name, values in encoding.codes.items()
    }
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
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Name the class of each sentence on stdin: class, probability and sentence, separated by tabs."""
    model = load_model(run, device)
    for batch in batches(read_sentences()):
        texts = as_read(model, [line for line in batch if line.strip()])
        with stdout_kept_clean():
            found = model.classify(texts, head) if texts else None
        rows = iter(zip(found.labels, found.probabilities.tolist(), strict=True)) if found else iter(())
        for line in batch:
            label, values = next(rows) if line.strip() else (None, [])
            if as_json:
                named = dict(zip(model.heads[head].classes, values, strict=True)) if values else {}
                emit({"text": line, "label": label, "probabilities": named})
            else:
                print(f"{label}\t{max(values):.3f}\t{line}" if label is not None else "")


def register(app: Any) -> None:
    app.command(epilog="Example: textebm encode runs/yelp reviews.txt --out codes.jsonl")(encode)
    app.command(epilog="Example: textebm classify runs/yelp --head sentiment < reviews.txt")(classify)
