"""Corpora as `datasets.DatasetDict`s of train, validation and test: column ``text``, ``context`` where there is one,
and label columns of type ClassLabel (-1 = missing).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset, load_dataset_builder

from textebm.errors import CorpusError, did_you_mean, refused_by_library
from textebm.text import agnews, grammar, kvret, published, readers
from textebm.text.cache import SplitWriter, cache_root, cached, content_hashes, write_split
from textebm.text.history import COLUMN, parse_history
from textebm.text.readers import Row
from textebm.text.splits import MIN_SPLIT, draw_groups, draw_splits, named_classes, sort_labels

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
MAX_CLASSES = 1000

# The files a built-in corpus needs, and where they come from.
FILES: dict[str, tuple[str, ...]] = {
    "ptb": ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    "dailydialog": tuple(
        f"{split}/{name}_{split}.txt"
        for split in SPLITS
        for name in ("dialogues", "dialogues_act", "dialogues_emotion")
    ),
    "yelp": tuple(f"sentiment.{split}.{label}" for split in ("train", "dev", "test") for label in (0, 1))
    + ("reference.0", "reference.1"),
    "agnews": ("dev.jsonl", "test.jsonl"),
    "smd": ("kvret_dev_public.json", "kvret_test_public.json"),
}
OPTIONAL = {"agnews": ("train.jsonl",), "smd": ("kvret_train_public.json",)}  # read where they lie beside the others
SOURCES = {
    "ptb": "Mikolov's preprocessing of the Penn Treebank, in many language-model repositories",
    "dailydialog": "the authors' release, http://yanran.li/dailydialog (unpack the zips of the three splits)",
    "yelp": "https://github.com/lijuncen/Sentiment-and-Style-Transfer, data/yelp",
    "agnews": "the AG News corpus in the split used with VAMPIRE (Gururangan et al. 2019)",
    "smd": "the Stanford multi-domain dialogues (Eric et al. 2017), kvret_dataset_public.zip",
}

Source = Callable[[], Iterator[Row]]  # rows with labels as class names, or None where missing; may be read twice


@dataclass(frozen=True)
class _Options:
    data_dir: Path | None
    size: int
    seed: int
    given: dict[str, str | Path]
    name: str | None
    text_column: str
    label_columns: tuple[str, ...]
    class_names: dict[str, list[str]]
    context_column: str | None
    group_column: str | None
    cache: Path


def load_corpus(
    corpus: str,
    *,
    data_dir: str | Path | None = None,
    size: int = 6000,
    seed: int = 0,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    name: str | None = None,
    text_column: str = "text",
    label_columns: Iterable[str] = (),
    class_names: Sequence[Sequence[str]] = (),
    context_column: str | None = None,
    group_column: str | None = None,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> DatasetDict:
    """Train, validation and test of *corpus*: grammar, ptb, dailydialog, yelp, agnews, smd, files or hub.

    data_dir: where the published corpora lie; else $TEXTEBM_DATA, else ./data.
    size, seed: grammar's training sentences; the seed also draws the splits that `files` and `hub` do not give (5 %
    each).
    train, validation, test: `files`: txt, csv, tsv, jsonl, parquet. name: `hub`: an id, "id:config" or a local
    directory.
    class_names: for each label column, names of its classes in the order of their values; empty: the values.
    context_column: `files`, `hub`: the turns before each sentence, given as column "context" (`textebm.text.history`).
    group_column: `files`, `hub`: rows with the same value (of one document, say) go to one side of a drawn split.
    limit: keep so many training sentences, drawn by the seed (files may be sorted by label), in their order.

    Raises CorpusError for what is missing, empty or unreadable.
    """
    builders: dict[str, Callable[[_Options], DatasetDict]] = {
        "grammar": _grammar,
        "ptb": _ptb,
        "dailydialog": _dailydialog,
        "yelp": _yelp,
        "agnews": _agnews,
        "smd": _smd,
        "files": _files,
        "hub": _hub,
    }
    if corpus not in builders:
        raise CorpusError(f"corpus {corpus!r} is unknown{did_you_mean(corpus, builders)}")
    if context_column is not None and COLUMN in label_columns:
        raise CorpusError(f"a label column {COLUMN!r} cannot stand beside data.context_column: rename it in the file")
    given = {split: path for split, path in zip(SPLITS, (train, validation, test), strict=True) if path is not None}
    options = _Options(
        data_dir=Path(data_dir) if data_dir is not None else None,
        size=size,
        seed=seed,
        given=given,
        name=name,
        text_column=text_column,
        label_columns=(columns := tuple(label_columns)),
        class_names={column: list(names) for column, names in zip(columns, class_names, strict=False) if names},
        context_column=context_column,
        group_column=group_column,
        cache=cache_root(cache_dir),
    )
    splits = builders[corpus](options)
    if limit is not None and limit < len(splits["train"]):
        drawn = np.random.default_rng(seed).permutation(len(splits["train"]))[:limit]
        splits["train"] = splits["train"].select(np.sort(drawn))
    return splits


def load_judge_corpus(
    corpus: str, data_dir: str | Path | None = None, *, cache_dir: str | Path | None = None
) -> Dataset | None:
    """The labelled sentences kept apart for an independent classifier (yelp: text, sentiment); None where there are
    none."""
    if corpus != "yelp":
        return None
    folder = find_corpus(corpus, data_dir)
    paths = [folder / f"sentiment.classifier.{label}" for label in (0, 1)]
    if not all(path.is_file() for path in paths):
        return None
    features = Features({"text": Value("string"), "sentiment": ClassLabel(names=list(published.SENTIMENTS))})

    def build(target: Path) -> None:
        write_split(target / "judge.arrow", features, published.yelp_rows(folder, "classifier"))

    return cached("yelp-judge", content_hashes(paths), build, cache_root(cache_dir))["judge"]


# Places


def corpus_places(corpus: str, data_dir: str | Path | None = None) -> list[Path]:
    """Where *corpus* is looked for, in this order. An explicit *data_dir* is the only place."""
    roots = [os.environ.get("TEXTEBM_DATA"), "data"] if data_dir is None else [data_dir]
    return list(dict.fromkeys(Path(root) / corpus for root in roots if root))


def find_corpus(corpus: str, data_dir: str | Path | None = None) -> Path:
    """The first folder that holds every file of *corpus*; CorpusError tells where it looked and what it expected."""
    looked = []
    for place in corpus_places(corpus, data_dir):
        missing = [name for name in FILES[corpus] if not (place / name).is_file()]
        if not missing:
            return place
        found = f"lacks {', '.join(missing)}" if place.is_dir() else "no such folder"
        looked.append(f"  {place.absolute()}: {found}")
    places = "$TEXTEBM_DATA and data/" if data_dir is None else "--data DIR alone"
    raise CorpusError(
        f"corpus {corpus!r} was not found. Looked at {places}:\n" + "\n".join(looked) + "\n"
        f"Expected {corpus}/ with {', '.join(FILES[corpus])}.\n"
        f"Get it from: {SOURCES[corpus]}. data/README.md has checksums and licences."
    )


def expanded(path: str | Path) -> Path:
    """*path* with ``~`` as the home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CorpusError(f"{str(path)!r}: there is no home directory here; write the whole path") from error


# Builders


def _built_in(
    corpus: str,
    options: _Options,
    features: Mapping[str, Features],
    rows: Callable[[Path, str], Iterator[Row]],
    variant: str | None = None,
) -> DatasetDict:
    folder = find_corpus(corpus, options.data_dir)
    optional = [name for name in OPTIONAL.get(corpus, ()) if (folder / name).is_file()]

    def build(target: Path) -> None:
        for split in SPLITS:
            write_split(target / f"{split}.arrow", features[split], rows(folder, split))

    key: object = content_hashes(folder / name for name in (*FILES[corpus], *optional))
    return cached(corpus, key if variant is None else [variant, key], build, options.cache)


def _grammar(options: _Options) -> DatasetDict:
    def build(target: Path) -> None:
        for split, rows in grammar.corpus(options.size, options.seed).items():
            write_split(target / f"{split}.arrow", rows.features, rows)

    return cached("grammar", [options.size, options.seed], build, options.cache)


def _ptb(options: _Options) -> DatasetDict:
    features = Features({"text": Value("string")})
    return _built_in("ptb", options, dict.fromkeys(SPLITS, features), published.ptb_rows)


def _dailydialog(options: _Options) -> DatasetDict:
    features = Features(
        {
            "text": Value("string"),
            COLUMN: List(Value("string")),
            "act": ClassLabel(names=list(published.ACTS)),
            "emotion": ClassLabel(names=list(published.EMOTIONS)),
        }
    )

    def rows(folder: Path, split: str) -> Iterator[Row]:
        return published.dailydialog_rows(folder, split, log.warning)

    return _built_in("dailydialog", options, dict.fromkeys(SPLITS, features), rows)


def _yelp(options: _Options) -> DatasetDict:
    features = Features({"text": Value("string"), "sentiment": ClassLabel(names=list(published.SENTIMENTS))})
    tested = Features({**features, "reference": Value("string")})
    return _built_in("yelp", options, {"train": features, "validation": features, "test": tested}, published.yelp_rows)


def _agnews(options: _Options) -> DatasetDict:
    column = options.text_column
    if column not in agnews.COLUMNS:
        raise CorpusError(f"corpus 'agnews': no column {column!r}{did_you_mean(column, agnews.COLUMNS)}")
    features = Features({"text": Value("string"), "topic": ClassLabel(names=list(agnews.TOPICS))})

    def rows(folder: Path, split: str) -> Iterator[Row]:
        return agnews.agnews_rows(folder, split, column)

    return _built_in("agnews", options, dict.fromkeys(SPLITS, features), rows, column)


def _smd(options: _Options) -> DatasetDict:
    labels = {"domain": ClassLabel(names=list(kvret.DOMAINS)), "speaker": ClassLabel(names=list(kvret.SPEAKERS))}
    features = Features({"text": Value("string"), COLUMN: List(Value("string")), **labels})
    return _built_in("smd", options, dict.fromkeys(SPLITS, features), kvret.kvret_rows)


def _files(options: _Options) -> DatasetDict:
    if "train" not in options.given:
        raise CorpusError("corpus 'files' needs a training file: set data.train to txt, csv, tsv, jsonl or parquet")
    paths = {}
    for split, given in options.given.items():
        path = expanded(given)
        places = [path, *([options.data_dir / path, options.data_dir / path.name] if options.data_dir else [])]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise CorpusError(f"data.{split}: no such file: {' or '.join(str(place.absolute()) for place in places)}")
        paths[split] = found

    def source(path: Path) -> Source:
        return lambda: (
            row
            for _, row in readers.file_rows(
                path,
                options.text_column,
                options.label_columns,
                context_column=options.context_column,
                group_column=options.group_column,
            )
        )

    sources = {split: source(path) for split, path in paths.items()}
    kinds = [(split, readers.file_kind(path)) for split, path in paths.items()]
    columns = [*_columns(options), options.class_names, options.context_column, options.group_column]
    key = [kinds, content_hashes(paths.values()), columns, options.seed]
    return cached("files", key, lambda target: _write_splits(target, sources, options, {}), options.cache)


SAFE_BUILDERS = {"arrow", "csv", "json", "parquet", "text"}  # formats that hold data and nothing that could be run
HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def _hub(options: _Options) -> DatasetDict:
    if not options.name:
        raise CorpusError("corpus 'hub' needs a data set: set data.name to a Hub id, 'id:config' or a local directory")
    name, config = str(expanded(options.name)) if options.name.startswith("~") else options.name, None
    if not Path(name).exists() and ":" in name:
        name, config = name.rsplit(":", 1)
    try:
        builder = load_dataset_builder(name, config)
        kind = type(builder).__module__.rsplit(".", 1)[-1]
        if kind not in SAFE_BUILDERS:
            expected = ", ".join(sorted(SAFE_BUILDERS))
            raise CorpusError(f"data set {name!r}: format {kind!r} is not read; expected {expected}")
        loaded = load_dataset(name, config)
    except CorpusError:
        raise
    except Exception as error:  # `datasets` raises many kinds: not found, offline, gated, a script, unreadable files
        if not refused_by_library(error):
            raise
        raise CorpusError(f"data set {options.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    splits = {HUB_SPLITS[split]: rows for split, rows in loaded.items() if split in HUB_SPLITS}
    if "train" not in splits:
        raise CorpusError(f"data set {options.name!r} has no split 'train'; it has {', '.join(map(str, loaded))}")
    classes = {}
    for column in _columns(options):
        for rows in splits.values():
            if column not in rows.column_names:
                hint = did_you_mean(column, rows.column_names)
                raise CorpusError(f"data set {options.name!r}: no column {column!r}{hint}")
        feature = splits["train"].features[column]
        if isinstance(feature, ClassLabel):
            classes[column] = list(feature.names)
    sources = {split: _hub_source(rows, options) for split, rows in splits.items()}
    columns = [*_columns(options), options.class_names, options.context_column, options.group_column]
    key = [[(split, rows._fingerprint) for split, rows in splits.items()], columns]
    return cached(
        "hub", [key, options.seed], lambda target: _write_splits(target, sources, options, classes), options.cache
    )


def _columns(options: _Options) -> list[str]:
    """The columns that are read, each once."""
    others = [column for column in (options.context_column, options.group_column) if column is not None]
    return list(dict.fromkeys((options.text_column, *options.label_columns, *others)))


def _hub_source(rows: Dataset, options: _Options) -> Source:
    columns = rows.select_columns(_columns(options))

    def label(column: str, value: Any) -> str | None:
        feature = columns.features[column]
        if isinstance(feature, ClassLabel) and value is not None:
            return feature.names[value] if value >= 0 else None
        return readers.label_text(value)

    def read() -> Iterator[Row]:
        for number, row in enumerate(columns, start=1):
            text, where = row[options.text_column], f"data set {options.name!r}, row {number}"
            if text is not None and not isinstance(text, str):
                raise CorpusError(f"{where}: column {options.text_column!r} holds no text")
            chosen: Row = {"text": readers.one_line((text or "").replace("\0", ""))}
            try:
                chosen |= {column: label(column, row[column]) for column in options.label_columns}
                if options.context_column is not None:
                    chosen[COLUMN] = list(parse_history(row[options.context_column]))
                if options.group_column is not None:
                    chosen["group"] = label(options.group_column, row[options.group_column]) or f"row {number}"
            except ValueError as error:
                raise CorpusError(f"{where}: {error}") from error
            yield chosen

    return read


def _write_splits(target: Path, sources: dict[str, Source], options: _Options, classes: dict[str, list[str]]) -> None:
    """Write the given splits, drawing validation and test from train where they are absent. Reads each source twice:
    once for the classes and the number of sentences, once for the rows."""
    seen: dict[str, set[str]] = {column: set() for column in options.label_columns}
    counts = dict.fromkeys(sources, 0)
    groups: list[str] = []  # of the training rows
    for split, source in sources.items():
        empty = 0
        for row in source():
            if not row["text"]:
                empty += 1
                continue
            counts[split] += 1
            if options.group_column is not None and split == "train":
                groups.append(row["group"])
            for column, names in seen.items():
                if row[column] is not None:
                    names.add(row[column])
                if len(names) > MAX_CLASSES:
                    raise CorpusError(f"label column {column!r} has over {MAX_CLASSES} distinct values: no label")
        if empty:
            log.warning("%s: %d rows without text are left out", split, empty)
    absent = [split for split in SPLITS if split not in sources]
    if counts["train"] < (least := MIN_SPLIT * len(absent) + 1):
        short = f"; give more rows, or {' and '.join(f'data.{split}' for split in absent)}" if absent else ""
        raise CorpusError(f"train has {counts['train']} sentences; expected at least {least}{short}")
    for column, names in seen.items():
        if not names:
            raise CorpusError(f"label column {column!r} has no values")
    numbers = {
        column: {label: number for number, label in enumerate(classes.get(column) or sort_labels(names))}
        for column, names in seen.items()
    }
    contexts = {} if options.context_column is None else {COLUMN: List(Value("string"))}
    labelled = {
        c: ClassLabel(names=named_classes(c, list(of), options.class_names.get(c))) for c, of in numbers.items()
    }
    features = Features({"text": Value("string"), **contexts, **labelled})
    with ExitStack() as stack:
        writers = {split: stack.enter_context(SplitWriter(target / f"{split}.arrow", features)) for split in SPLITS}
        for split, source in sources.items():
            drawn: Iterable[str] = repeat(split, counts[split])
            if split == "train" and groups:
                drawn = draw_groups(groups, absent, options.seed)
            elif split == "train":
                drawn = draw_splits(counts["train"], absent, options.seed)
            rows = (row for row in source() if row["text"])
            for row, destination in zip(rows, drawn, strict=True):
                labels = {c: numbers[c].get(row[c], -1) if row[c] is not None else -1 for c in options.label_columns}
                writers[destination].add({"text": row["text"], **{c: row[c] for c in contexts}, **labels})
    for split, writer in writers.items():
        if not writer.count:
            raise CorpusError(f"{split}: no sentences")
