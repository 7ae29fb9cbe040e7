"""A run directory, looked at: its report, the cards of its codes, and figures."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from textebm import __version__
from textebm.api import TextEBM
from textebm.errors import CheckpointError, CorpusError, FileError, TextEBMError, did_you_mean
from textebm.evaluation.metric import Evaluation
from textebm.files import check_output, parse_json, read_json, write_atomically, write_output
from textebm.inspection import figures
from textebm.inspection.codes import CodeCard, inspect_codes, label_counts
from textebm.inspection.comparison import ComparedRun, comparison_data
from textebm.inspection.page import render
from textebm.inspection.page_data import RunFacts, page_data
from textebm.inspection.projection import Projection, find_umap
from textebm.inspection.report import inspect_rows, projection_of
from textebm.inspection.rows import choose_rows
from textebm.model.build import build_corpus
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.recipe.schema import Evaluation as EvaluationOptions
from textebm.recipe.schema import Recipe
from textebm.runs.directory import (
    EVALUATION,
    PROJECTION,
    RECIPE,
    VERDICT,
    check_run_corpus,
    data_place,
    read_recorded,
    write_recorded,
)
from textebm.runs.doctor import judge
from textebm.runs.evaluate import read_evaluation
from textebm.runs.lock import RunLock
from textebm.runs.progress import read_history
from textebm.runs.verdict import Facts, diagnose
from textebm.text.finding import Verdict
from textebm.text.history import histories_of

logger = logging.getLogger(__name__)

REPORT = "report.html"
SENTENCES = 3000  # at most, unless the recipe or the caller asks for more
FIGURES = ("map", "codes", "heatmap")


def report_run(
    directory: str | Path,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    umap: bool = False,
    data_dir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Make the report of a run directory as one HTML file (default: report.html there) and return its path.

    limit: at most so many sentences, a seeded choice; None for as many as the recipe says (`sentences_of`). umap: with
    a UMAP map (extra ``[umap]``). The maps are kept in projection.json, so that they look the same each time for the
    same model and sentences.
    Raises TextEBMError subclasses.
    """
    directory = Path(directory)
    check_output(directory / REPORT if out is None else Path(out))
    if umap:
        find_umap()  # before the work, not after
    say = progress or (lambda part: None)
    say("reading the run")
    model, corpus = open_run(directory, data_dir)
    with RunLock(directory) if os.access(directory, os.W_OK) else nullcontext():
        return write_report(
            model, corpus, directory, out=out, limit=limit, split=split, seed=seed, umap=umap, progress=say
        )


def write_report(
    model: TextEBM,
    corpus: DatasetDict,
    directory: Path,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    umap: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The same for a model and corpus that are at hand; the caller holds the directory's lock."""
    path = directory / REPORT if out is None else Path(out)
    check_output(path)
    say = progress or (lambda part: None)
    rows = choose_rows(corpus[_split(corpus, split)], limit=limit or sentences_of(model), seed=seed)
    say("looking at the model")
    stored = _stored(directory)
    answering = model.answering(histories_of(rows.texts))
    found = inspect_rows(answering, rows, seed=seed, umap=umap, identity=_identity(directory), stored=stored)
    sizes = {name: len(corpus[name]) for name in corpus}
    history = read_history(directory)
    facts = RunFacts(
        directory.resolve().name, __version__, split, sizes, saved_evaluation(directory), history, _verdict(directory)
    )
    say("writing the page")
    page = render(page_data(found, facts, model.recipe or {}), f"{facts.name} · textebm report")
    if found.projection is not stored and os.access(directory, os.W_OK):
        kept = json.dumps(found.projection.to_json(), separators=(",", ":"), allow_nan=False)
        write_recorded(directory, PROJECTION, kept)
    if out is None:
        write_atomically(path, page)
    else:
        write_output(path, page)
    return path


def compare_runs(directories: Sequence[str | Path], *, out: str | Path) -> Path:
    """Runs side by side as one HTML file: verdicts, key figures, samples, what differs in their recipes, all metrics.
    Nothing is computed: it shows what lies in the directories. Raises TextEBMError subclasses.
    """
    path = Path(out)
    check_output(path)
    runs = [_compared(Path(directory)) for directory in directories]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # runs of the same name in different places
        runs = [replace(run, name=str(directory)) for run, directory in zip(runs, directories, strict=True)]
    write_output(path, render(comparison_data(runs), f"{' and '.join(run.name for run in runs)} · textebm report"))
    return path


def _compared(directory: Path) -> ComparedRun:
    evaluation = read_evaluation(directory)
    recipe = load_recipe(directory / RECIPE).model_dump(mode="json")
    try:
        text = (directory / "samples.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    blocks = dict(block.partition("\n")[::2] for block in text.split("\n\n"))
    samples = next((blocks[name].splitlines() for name in ("# free", *blocks) if blocks.get(name)), [])
    return ComparedRun(directory.resolve().name, recipe, evaluation, samples, _verdict(directory))


def sentences_of(model: TextEBM) -> int:
    """How many sentences a report or a map shows: the recipe's evaluation.report_sentences, else its evaluation.limit,
    else 3,000; no more than that of the last two."""
    return _sentences(EvaluationOptions.model_validate((model.recipe or {}).get("evaluation", {})))


def _sentences(options: EvaluationOptions) -> int:
    return options.report_sentences or min(options.limit or SENTENCES, SENTENCES)


def verdict_of_run(directory: str | Path, *, data_dir: str | Path | None = None) -> Verdict:
    """What is wrong with a run, and what to turn; of one whose training did not end, by its curves alone.

    Raises TextEBMError subclasses.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        if not (directory / RECIPE).is_file():
            raise CheckpointError(f"{str(directory)!r} is no run: it holds no recipe.yaml")
        return diagnose(Facts(load_recipe(directory / RECIPE), read_history(directory)))
    model, corpus = open_run(directory, data_dir)
    return judge(model, parse_recipe(model.recipe or {}), corpus, directory, saved_evaluation(directory))


def codes_of_run(
    directory: str | Path,
    *,
    head: str | None = None,
    split: str = "test",
    limit: int | None = None,
    generated: int = 5,
    typical: int = 5,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> list[CodeCard]:
    """The cards of *head* (default: the first found one, else the first) of a run. Raises TextEBMError subclasses."""
    model, corpus = open_run(Path(directory), data_dir)
    if not model.heads:
        raise TextEBMError("this model has no symbol heads, and so no codes")
    head = head or _found_head(model)
    assert head is not None
    rows = choose_rows(corpus[_split(corpus, split)], limit=limit, seed=seed)
    answering = model.answering(histories_of(rows.texts))
    return inspect_codes(answering, rows, head, generated=generated, typical=typical, seed=seed)


def figure_of_run(
    directory: str | Path,
    what: str,
    out: str | Path,
    *,
    by: str | None = None,
    head: str | None = None,
    layout: str | None = None,
    samples: bool = False,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    width: float | None = None,
    data_dir: str | Path | None = None,
) -> Path:
    """One figure of a run as PDF, SVG or PNG: "map", "codes" or "heatmap". Raises TextEBMError subclasses.

    by: the head, added attribute or label that colours the map, or the label of the heat map. head: whose codes; a heat
    map may be an attribute's. layout: which map. A map is the report's own where it is stored for the same sentences.
    """
    figures.choose(what, FIGURES, "figure")
    out, directory = Path(out), Path(directory)
    figures.find_matplotlib()
    figures.check_out(out)
    if what == "codes":
        cards = codes_of_run(directory, head=head, split=split, limit=limit, generated=0, seed=seed, data_dir=data_dir)
        figures.save(figures.draw_codes(cards, width=width or 6.5), out)
        return out
    model, corpus = open_run(directory, data_dir)
    rows = choose_rows(corpus[_split(corpus, split)], limit=limit or sentences_of(model), seed=seed)
    encoding, known = model.encode(rows.texts), [*model.heads, *model.attributes]
    if what == "heatmap":
        head = figures.choose(head, known, "head", _found_head(model))
        label = figures.choose(by, list(rows.labels), "label")
        column, codes = rows.labels[label], encoding.codes[head].numpy()
        classes = model.network.head(head).classes
        counts = np.stack([label_counts(column, np.flatnonzero(codes == code)) for code in range(len(classes))])
        drawn = figures.draw_heatmap(counts, classes, column.classes, head=head, label=label, width=width)
    else:
        projection = projection_of(
            model,
            rows,
            encoding,
            seed=seed,
            umap=layout == "umap",
            identity=_identity(directory),
            stored=_stored(directory),
        )
        layout = figures.choose(layout, list(projection.layouts), "map", "tsne")
        by = figures.choose(
            by, list(dict.fromkeys([*known, *rows.labels])), "head, attribute or label", head or _found_head(model)
        )
        if by in rows.labels:  # what was labelled, where a head has learned the same
            names, values = rows.labels[by].classes, rows.labels[by].values
        else:
            names, values = model.network.head(by).classes, encoding.codes[by].numpy()
        drawn = figures.draw_map(
            projection.layouts[layout],
            names,
            values,
            title=f"{directory.resolve().name}, by {by}",
            samples=samples,
            width=width or 5.0,
        )
    figures.save(drawn, out)
    return out


def _found_head(model: TextEBM) -> str | None:
    """The first head whose classes were found, else the first, else none."""
    return next((each.name for each in model.heads.values() if each.column is None), next(iter(model.heads), None))


def open_run(directory: Path, data_dir: str | Path | None) -> tuple[TextEBM, DatasetDict]:
    """The model of a run, its codes by their names, and the corpus it was trained on."""
    model = TextEBM.from_pretrained(directory)
    recipe = Recipe.model_validate(model.recipe)
    place = data_place(directory, recipe, data_dir)
    corpus = build_corpus(recipe.data, data_dir=None if place is None else str(place), seed=recipe.seed)
    check_run_corpus(directory, corpus)
    return model, corpus


def _split(corpus: DatasetDict, split: str) -> str:
    if split not in corpus:
        raise CorpusError(f"the corpus has no split {split!r}{did_you_mean(split, list(corpus))}")
    return split


def _identity(directory: Path) -> str:
    """The checksum of the weights, as the model's config.json states it."""
    try:
        return str(read_json(directory / "config.json")["checksums"]["model.safetensors"]["sha256"])
    except (FileError, KeyError, TypeError):
        return ""


def _stored(directory: Path) -> Projection | None:
    """The projection that lies there, if it is one: a damaged file costs only the time to make it again."""
    if not (directory / PROJECTION).is_file():
        return None
    try:
        return Projection.from_json(parse_json(read_recorded(directory, PROJECTION), PROJECTION))
    except (CheckpointError, FileError, ValueError) as error:
        logger.warning("%s: the stored map is not used, but made again: %s", directory, error)
        return None


def saved_evaluation(directory: Path) -> Evaluation | None:
    return read_evaluation(directory) if (directory / EVALUATION).exists() else None


def _verdict(directory: Path) -> dict[str, Any]:
    """What verdict.json holds, for the page; nothing where it is missing or damaged."""
    try:
        return dict(parse_json(read_recorded(directory, VERDICT), VERDICT))
    except (CheckpointError, FileError):
        return {}
