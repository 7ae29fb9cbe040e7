"""A recipe for a file of one's own: sizes from counts, a reason beside each choice, time measured on this machine."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textebm.errors import CorpusError
from textebm.model.build import build_corpus
from textebm.recipe.read import parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.train import build_trainer
from textebm.runs.verdict import LITTLE_TOKENS
from textebm.text.check import FEW, FileReport, check_file
from textebm.text.readers import file_rows
from textebm.text.statistics import TextStatistics
from textebm.text.tokenizer import TokenStore, train_bpe

SAMPLE = 20_000  # texts from which the tokenizer's pieces a text are counted
TIMED_ROWS, TIMED_STEPS = 2000, 4
ANSWERED = {"unknown_words", "no_spaces", "glued_punctuation", "mixed_case", "html", "cut_texts"}  # by the proposal
LEAST_TEXTS = 50  # different ones; with fewer there is nothing to learn and nothing to hold out
LONG = 128  # tokens beyond which one latent says little of a text


@dataclass(frozen=True)
class Proposal:
    """text: the recipe as YAML with comments. recipe: the same, read. seconds: of training, None where unmeasured."""

    text: str
    recipe: Recipe
    seconds: float | None


@dataclass
class _Facts:
    rows: int
    tokens: int  # pieces of the proposed tokenizer, all rows
    vocabulary: int
    longest: int  # tokens that 98 % of the rows do not exceed
    report: FileReport
    labels: dict[str, Counter[str]] = field(default_factory=dict)


def propose(
    path: str | Path,
    *,
    text_column: str = "text",
    label_columns: Sequence[str] = (),
    context_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    written_as: str | None = None,
    measure: bool = True,
) -> Proposal:
    """A commented recipe for a txt, csv, tsv, jsonl or parquet file.

    written_as: how the recipe names the file, if not by *path*. measure: time a few steps of it here.
    Raises CorpusError for a file that cannot be trained on.
    """
    path = Path(path)
    facts = _facts(path, text_column, label_columns, context_column, group_column)
    data = {"corpus": "files", "train": str(path), "text_column": text_column}
    sections = _sections(facts, data, label_columns, context_column, group_column)
    title = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.") or "mine"
    open_findings = [finding for finding in facts.report.findings if finding.name not in ANSWERED]
    head = [f"# textebm train {title}.yaml", *(f"# note: {finding}" for finding in open_findings)]
    if facts.tokens < LITTLE_TOKENS:
        head.append(
            f"# note: {facts.tokens:,} tokens are little: labels, codes, and edits of sentences that you give work "
            "with so few; new sentences will hardly be fluent unless all are alike (more text, or decoder.pretrained)"
        )
    body = [f"name: {title}", f"description: {json.dumps(f'{facts.rows:,} texts of {path.name}.')}"]
    recipe = parse_recipe({"name": title, **{key: value for key, (value, _) in sections.items()}})
    seconds = None
    if measure:
        seconds, memory = _timed(recipe)
        head.append(
            f"# {_in_words(seconds)} of training on this machine, then the evaluation and the report; about "
            f"{memory / 2**30:.1f} GB of memory (measured over {2 * TIMED_STEPS} steps)"
        )
    for key, (value, reasons) in sections.items():
        body += [f"# {reason}" for reason in reasons]
        body += _yaml(key, value)
    text = "\n".join([*head, *body]).replace(_flow(str(path)), _flow(written_as or str(path))) + "\n"
    return Proposal(text, recipe, seconds)


def _facts(
    path: Path, text_column: str, label_columns: Sequence[str], context_column: str | None, group_column: str | None
) -> _Facts:
    report = check_file(path, text_column, label_columns, max_tokens=10**9, group_column=group_column)
    if not report.ok:
        first = report.problems[0] if report.problems else None
        where = f"line {first.line}: {first.message}" if first else "it has no text"
        raise CorpusError(f"{path}: {report.num_problems} problems ({where}); textebm data check {path} lists them")
    rows = report.rows - report.empty_rows
    if (different := rows - report.duplicates) < LEAST_TEXTS:
        raise CorpusError(
            f"{path}: {rows:,} rows hold {different:,} different text{'s' if different != 1 else ''}, too few for any "
            f"model: expected {LEAST_TEXTS} or more to classify and find codes, some thousands to write; codes and "
            "classes of so few are read by eye"
        )
    # Each piece should be seen often enough to be learned: a dozen words for one piece.
    vocabulary = int(np.clip(round(report.tokens / 12, -2), 600, 10_000))
    texts = TextStatistics()
    sample: list[str] = []
    every = max(1, rows // SAMPLE)
    for number, (_, row) in enumerate(file_rows(path, text_column, context_column=context_column)):
        if number % every == 0 and row["text"]:
            sample.append(row["text"])
            texts.add(row["text"])
    lengths = TokenStore.build(sample, train_bpe(sample, vocabulary), 10**6).lengths
    longest = int(np.quantile(lengths, 0.98, method="higher"))
    counts = {column: Counter(report.labels[column].counts) for column in label_columns}
    return _Facts(rows, int(lengths.mean() * rows), vocabulary, longest, report, counts)


Section = tuple[Any, list[str]]  # its options, and the comments above it


def _sections(
    facts: _Facts,
    data: dict[str, Any],
    label_columns: Sequence[str],
    context_column: str | None,
    group_column: str | None,
) -> dict[str, Section]:
    found = {finding.name for finding in facts.report.findings}
    usable = [column for column in label_columns if len(facts.labels[column]) > 1]
    max_tokens = int(np.clip(facts.longest + 2, 8, LONG))
    if usable:
        data["label_columns"] = usable
    if group_column is not None:
        data["group_column"] = group_column
    if context_column is not None:
        data |= {"context_column": context_column, "context_turns": 2}
    data["max_tokens"] = max_tokens
    reasons = [f"98 % of the texts have at most {facts.longest} tokens."]
    if facts.longest > LONG:
        reasons = [
            f"Half or more of a text of {facts.longest} tokens does not fit one latent: texts are cut to {LONG} "
            "tokens. Better: one sentence or paragraph a row."
        ]
    small, large = facts.tokens < 150_000, facts.tokens > 2_000_000
    embedding, hidden = (128, 256) if small else (256, 512) if large else (192, 384)
    batch = 64 if facts.rows < 20_000 else 128
    epochs = int(np.clip(np.ceil(2500 * batch / facts.rows), 4, 30))
    dim = 32 if small else 64 if large else 48
    codes = int(np.clip(round((facts.rows / 50) ** 0.5), 5, 30))
    tokenizer: dict[str, Any] = {"kind": "bpe", "vocabulary_size": facts.vocabulary}
    told = [
        f"Pieces of words, so that nothing is unknown and texts are given back as they were written; each of "
        f"{facts.vocabulary:,} pieces is seen often enough to be learned."
    ]
    if "html" in found:
        tokenizer["html"] = True
        told.append("HTML entities were found.")
    if "mixed_case" in found and small:
        told.append("Capitals cost much of so little text: lowercase: true learns more where they need not be written.")
    # labels of few texts are learned from whole words, which a text without spaces does not show
    by_words = bool(small and usable and context_column is None and "no_spaces" not in found)
    mean_tokens = facts.tokens / facts.rows
    heads: list[dict[str, Any]] = [{"name": _head_name(column), "labels": column} for column in usable]
    heads.append({"name": "code" if "code" not in usable else "codes", "classes": codes})
    return {
        "data": (data, reasons),
        "tokenizer": (tokenizer, told),
        "encoder": (
            {"kind": "whole_words", "dropout": 0.3, "word_dropout": 0.0},
            [
                f"Labels of {facts.rows:,} texts: a network that reads pieces in order learns them by heart; whole "
                "words, each a vector in the latent, generalise as TF-IDF does."
            ],
        )
        if by_words
        else (
            {"embedding_size": embedding, "hidden_size": hidden, "dropout": 0.3 if small else 0.1, "word_dropout": 0.0},
            [f"Sizes for {facts.tokens:,} tokens; dropout, since so little text is learned by heart."]
            if small
            else [f"Sizes for {facts.tokens:,} tokens."],
        ),
        "decoder": (
            {
                "embedding_size": embedding,
                "hidden_size": hidden,
                "dropout": 0.3 if small else 0.1,
                **({"word_dropout": 0.3, "skip": True} if small else {}),
            },
            ["With hidden words it must read the latent, which so little text does not teach by itself."]
            if small
            else [],
        ),
        "latent": (
            {"dim": dim, "max_stddev": 0.9, "standardize": False},
            ["Not standardised: a text whose words say little of its label may then lie near 0."],
        )
        if by_words
        else (
            {"dim": dim, "max_stddev": 0.9},
            ["A cap near 1 leaves the KL free to fall: at 0.6 each dimension would cost 0.7 nats whatever the text."],
        ),
        "heads": (
            heads,
            [
                _told_of_labels(facts, usable),
                f"{codes} codes of content words: about {facts.rows // codes:,} texts for each.",
            ],
        ),
        "prior": ({"kind": "diffusion_energy", "num_levels": 8, "hidden_size": 256, "strength": 4.0}, []),
        "objective": (
            {
                "kl_weight": 0.15 if by_words else 0.3 if small else 1.0,
                **(
                    {"supervised_weight": float(np.clip(round(2 * mean_tokens), 5, 30)) if small else 5.0}
                    if usable
                    else {}
                ),
            },
            [
                *(["At 1 the posteriors of so little text widen to their cap."] if small else []),
                *(["A label weighs as much as some words of its text."] if usable else []),
            ],
        ),
        "training": (
            {
                "batch_size": batch,
                "learning_rate": 0.002,
                "stages": [{"name": "autoencoder", "epochs": epochs}, {"name": "prior", "steps": 1500}],
                "patience": 3,
                "evaluate_every": 200,
                "checkpoint_every": 400,
            },
            [f"About {epochs * facts.rows // batch:,} steps of {batch} texts."],
        ),
        "evaluation": (
            {"samples": 1000, "samples_per_class": 100, "limit": 2000},
            ["For quick results; leave limit out to measure on all of test."],
        ),
    }


def _head_name(column: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", column).strip("_.-") or "label"


def _told_of_labels(facts: _Facts, usable: Sequence[str]) -> str:
    if not usable:
        return "No labels; codes are found in the text."
    shown = "; ".join(
        f"{column}: {len(facts.labels[column])} classes, the smallest has {min(facts.labels[column].values()):,} rows"
        for column in usable
    )
    return f"{shown}. A class needs {FEW} rows or more."


def _timed(recipe: Recipe) -> tuple[float, float]:
    """(seconds of training, bytes of memory at the peak), from a few steps of each stage."""
    overrides = [f"data.limit={TIMED_ROWS}"]
    for number, stage in enumerate(recipe.training.stages):
        overrides.append(f"training.stages.{number}={{name: {stage.name}, steps: {TIMED_STEPS}}}")
    short = parse_recipe(recipe.model_dump(mode="json"), overrides)
    corpus = build_corpus(recipe.data, seed=recipe.seed)
    rows = len(corpus["train"])
    trainer = build_trainer(short, corpus)
    times: dict[str, list[float]] = {}
    began = time.perf_counter()
    for step in trainer.steps():
        times.setdefault(step.stage.name, []).append(time.perf_counter() - began)
        began = time.perf_counter()
    total = 0.0
    for stage in recipe.training.stages:
        batch = recipe.training.batch_size
        steps = stage.steps or int((stage.epochs or 1) * rows / batch)
        total += steps * min(times[stage.name])  # others take longer: the first, and those in which others run
    return total, _peak_memory()


def _peak_memory() -> float:
    """Bytes that this process has held at most; NaN where the system does not tell."""
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024))


def _in_words(seconds: float) -> str:
    return f"about {seconds / 60:.0f} minutes" if seconds > 90 else "a minute or two"


def _yaml(key: str, value: Any) -> list[str]:
    """A section in the style of the shipped recipes: one line, or one an item or an option where it is longer."""
    if isinstance(value, list):
        return [f"{key}:", *(f"  - {_flow(item)}" for item in value)]
    line = f"{key}: {_flow(value)}"
    if len(line) <= 110 and "stages" not in value:
        return [line]
    lines = [f"{key}:"]
    for option, each in value.items():
        if option == "stages":
            lines += [f"  {option}:", *(f"    - {_flow(item)}" for item in each)]
        else:
            lines.append(f"  {option}: {_flow(each)}")
    return lines


PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off)$)[A-Za-z][A-Za-z0-9_./-]*", re.IGNORECASE)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
