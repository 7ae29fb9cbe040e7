"""A corpus that lies in memory, kept as files in the run directory, so that the run can be measured again later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from textebm.errors import CorpusError, TextEBMError, did_you_mean
from textebm.files import write_atomically
from textebm.recipe.read import parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.directory import DATA
from textebm.text.corpora import HUB_SPLITS
from textebm.text.history import parse_history
from textebm.text.readers import label_text
from textebm.use.inputs import as_texts

IN_MEMORY = "memory"  # in a recipe, where the path of a file would stand


@dataclass(frozen=True)
class _Table:
    """Columns of one split, each a list in the order of its rows; class_names of label columns that have them."""

    columns: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, Sequence[str]]


def provisional(data: Any, text: str = "text", context: str | None = None) -> list[str]:
    """Overrides with which a recipe is read until its files are written: every column may be a label."""
    columns = [column for column in _table(_splits(data)["train"], text).columns if column not in (text, context)]
    return ["data.corpus=files", f"data.train={IN_MEMORY}", f"data.label_columns={json.dumps(columns)}"]


def keep_in_run(
    data: Any,
    directory: Path,
    recipe: Recipe,
    *,
    text: str = "text",
    labels: str | Sequence[str] | None = None,
    context: str | None = None,
) -> Recipe:
    """Write *data* below *directory* and give the recipe that trains on it.

    data: a list of texts, (texts, labels), a pandas DataFrame, a `datasets.Dataset`, or a dict of these by split. text,
    labels, context: the columns; labels are by default those that the recipe's heads name. Rows without text are left
    out, as they are of a file. Raises TextEBMError subclasses for anything else.
    """
    tables = {split: _table(rows, text) for split, rows in _splits(data).items()}
    wanted = [head.labels for head in recipe.heads if head.labels is not None] if labels is None else labels
    columns = list(dict.fromkeys([wanted] if isinstance(wanted, str) else wanted))
    contexts = [] if context is None else [context]
    for split, table in tables.items():
        for column in (text, *columns, *contexts):
            if column not in table.columns:
                raise CorpusError(f"data: {split} has no column {column!r}{did_you_mean(column, table.columns)}")
    options: dict[str, Any] = {"corpus": "files", "text_column": "text", "label_columns": columns, "name": None}
    options |= {"class_names": [], "context_column": "context" if contexts else None}
    options |= {"train": None, "validation": None, "test": None}
    folder = directory / DATA
    folder.mkdir(parents=True, exist_ok=True)
    for split, table in tables.items():
        path = folder / f"{split}.jsonl"
        write_atomically(path, "".join(_lines(table, text, columns, context)))
        options[split] = str(path.resolve())
    plain = recipe.model_dump(mode="json")
    return parse_recipe({**plain, "data": {**plain["data"], **options}})


def _splits(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        splits = {HUB_SPLITS[name]: rows for name, rows in data.items() if name in HUB_SPLITS}
        if "train" not in splits:
            raise CorpusError(f"data: there is no split 'train'; it has {', '.join(map(str, data))}")
        return splits
    return {"train": data}


def _table(rows: Any, text: str) -> _Table:
    if isinstance(rows, Dataset):
        features = {name: each.names for name, each in rows.features.items() if isinstance(each, ClassLabel)}
        return _Table({name: rows[name][:] for name in rows.column_names}, features)
    if hasattr(rows, "columns") and hasattr(rows, "itertuples"):  # a pandas table
        return _Table({str(name): rows[name].tolist() for name in rows.columns}, {})
    if isinstance(rows, tuple) and len(rows) == 2 and not isinstance(rows[0], str):
        texts, labels = as_texts(rows[0]), rows[1]
        columns = dict(labels) if isinstance(labels, Mapping) else {"label": labels}
        lists = {name: _items(name, values, len(texts)) for name, values in columns.items()}
        return _Table({text: texts, **lists}, {})
    return _Table({text: as_texts(rows)}, {})


def _items(name: str, values: Any, n: int) -> list[Any]:
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(items) != n:
        raise TextEBMError(f"data: {n} texts and {len(items)} labels {name!r}; expected one for each text")
    return items


def _lines(table: _Table, text: str, columns: Sequence[str], context: str | None) -> Iterator[str]:
    texts = ["" if each is None or each != each else each for each in table.columns[text]]
    for row, each in enumerate(as_texts(texts, "data")):
        line: dict[str, Any] = {"text": str(each)}
        try:
            for column in columns:
                value = table.columns[column][row]
                value = value.item() if isinstance(value, np.generic) else value
                if column in table.class_names and value is not None:
                    value = table.class_names[column][value] if value >= 0 else None
                line[column] = label_text(value)
            if context is not None:
                line["context"] = list(parse_history(table.columns[context][row]))
        except ValueError as error:
            raise CorpusError(f"data, row {row}: {error}") from None
        yield json.dumps(line, ensure_ascii=False) + "\n"
