"""Commands about attributes: a finished model is taught one from a few labelled sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textebm.cli.shared import (
    JsonOption,
    RunArgument,
    SeedOption,
    check_run,
    emit,
    load_model,
    note,
    print_rows,
    stdout_kept_clean,
)
from textebm.errors import TextEBMError

if TYPE_CHECKING:
    from textebm.api import TextEBM

app = typer.Typer(no_args_is_help=True, help="Teach a finished model an attribute from a few labelled sentences.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The attribute's name.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A csv, tsv, jsonl or parquet file.")]
TextOption = Annotated[str, typer.Option("--text", metavar="COLUMN", help="The column with the sentence.")]
LabelOption = Annotated[str, typer.Option("--label", metavar="COLUMN", help="The column with the class.")]


@app.command(epilog="Example: textebm attribute add runs/yelp formal examples.csv --text review --label formal")
def add(
    run: RunArgument,
    name: NameArgument,
    file: FileArgument,
    text: TextOption = "text",
    label: LabelOption = "label",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Add an attribute from 10 or more labelled sentences; say how well it reads held-out ones."""
    model = load_model(run)
    with stdout_kept_clean():
        from textebm.use.attributes import save_attribute

        texts, labels = _examples(file, text, label)
        report = model.add_attribute(name, texts, labels, seed=seed)
        save_attribute(model.attributes[name], run)
    if as_json:
        emit({"name": name, "classes": list(report.classes), **model.attributes[name].facts}, indent=2)
    else:
        print(report)


@app.command("list", epilog="Example: textebm attribute list runs/yelp")
def list_(run: RunArgument, as_json: JsonOption = False) -> None:
    """List the attributes of a run, with what was measured when each was added."""
    attributes = load_model(run).attributes.values()
    if as_json:
        emit([{"name": each.name, "classes": list(each.classes), **each.facts} for each in attributes], indent=2)
        return
    rows = [
        (
            each.name,
            ", ".join(each.classes),
            str(each.facts["n"]),
            f"{each.facts['accuracy']:.3f} ({each.facts['majority']:.3f})",
            f"{each.facts['calibration_error']:.3f}",
        )
        for each in attributes
    ]
    print_rows(
        ("attribute", "classes", "examples", "held-out accuracy (most frequent class)", "calibration error"), rows
    )


@app.command(epilog="Example: textebm attribute evaluate runs/yelp formal more.csv --text review --label formal")
def evaluate(
    run: RunArgument,
    name: NameArgument,
    file: FileArgument,
    text: TextOption = "text",
    label: LabelOption = "label",
    as_json: JsonOption = False,
) -> None:
    """Measure how well an attribute reads labelled sentences that it was not made from."""
    model = load_model(run)
    with stdout_kept_clean():
        measured = _measure(model, name, *_examples(file, text, label))
    if as_json:
        emit(measured, indent=2)
    else:
        print_rows(("measure", "value"), [(key, f"{value:.3f}") for key, value in measured.items()])


@app.command(epilog="Example: textebm attribute remove runs/yelp formal")
def remove(run: RunArgument, name: NameArgument) -> None:
    """Remove an attribute from a run."""
    check_run(run)
    with stdout_kept_clean():
        from textebm.use.attributes import remove_attribute

        remove_attribute(run, name)
    note(f"{run} has no attribute {name!r} any more")


def _examples(file: Path, text: str, label: str) -> tuple[list[str], list[str]]:
    """The sentences of a file that have a class, and their classes."""
    from textebm.text.readers import table_columns

    columns = table_columns(file, [text, label])
    pairs = [(t, c) for t, c in zip(columns[text], columns[label], strict=True) if t and c is not None]
    if not pairs:
        raise TextEBMError(f"{file}: no row has both {text!r} and {label!r}")
    return [t for t, _ in pairs], [c for _, c in pairs]


def _measure(model: TextEBM, name: str, texts: list[str], labels: list[str]) -> dict[str, float]:
    """Accuracy and calibration of an attribute, and the share of the most frequent class. Raises TextEBMError."""
    import numpy as np

    from textebm.use.attributes import calibration_error

    if name not in model.attributes:
        raise TextEBMError(f"no attribute {name!r}; it has {', '.join(model.attributes) or 'none'}")
    head = model.attributes[name].head
    truth = np.array([head.index(each) for each in labels])
    probabilities = model.classify(texts, name).probabilities.numpy()
    correct = probabilities.argmax(-1) == truth
    return {
        "n": float(len(texts)),
        "accuracy": float(correct.mean()),
        "majority": float(np.bincount(truth).max() / len(truth)),
        "calibration_error": calibration_error(probabilities.max(-1), correct),
    }
