"""What the verdict on a run rests on, gathered from its files, its corpus and its model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score

from textebm.api import TextEBM
from textebm.evaluation.metric import Evaluation
from textebm.recipe.schema import Recipe
from textebm.runs.directory import VERDICT, write_recorded
from textebm.runs.progress import read_history
from textebm.runs.verdict import Facts, diagnose
from textebm.text.finding import Verdict
from textebm.text.history import histories_of, texts_of
from textebm.text.statistics import text_digest
from textebm.text.words import split_words
from textebm.training.data import Split, known_labels, label_names, read_split, split_findings

LOOKED_AT = 1000  # sentences of a split on which the model is asked
SAMPLES = 400  # written for what is counted on free samples


def judge(
    model: TextEBM, recipe: Recipe, corpus: Mapping[str, Dataset], directory: Path, evaluation: Evaluation | None
) -> Verdict:
    """The verdict on a run whose model and corpus are at hand."""
    return diagnose(gather(model, recipe, corpus, read_history(directory), evaluation))


def keep_verdict(verdict: Verdict, directory: Path) -> None:
    """Write verdict.json; the caller holds the directory's lock. Raises FileError."""
    write_recorded(directory, VERDICT, json.dumps(verdict.to_dict(), indent=1))


def gather(
    model: TextEBM,
    recipe: Recipe,
    corpus: Mapping[str, Dataset],
    history: Sequence[Mapping[str, Any]],
    evaluation: Evaluation | None,
) -> Facts:
    """Facts of a run whose model and corpus are at hand; asks the model about some thousand sentences."""
    train, test = corpus["train"], corpus["test"]
    seen: Counter[bytes] = Counter(text_digest(text) for text in train["text"])
    real = _some(test)
    answering = model.answering(histories_of(real))
    splits = {name: read_split(rows, model.tokenizer, model.max_tokens) for name, rows in corpus.items()}
    known = known_labels(splits["train"], {head.name: head for head in recipe.heads}, recipe.seed)
    names = label_names(train)
    class_rows = {}
    for head in recipe.heads:
        if head.labels is not None:
            shown = known[head.name]
            counts = np.bincount(shown[shown >= 0], minlength=len(names[head.labels]))
            class_rows[head.name] = {
                name: int(count) for name, count in zip(names[head.labels], counts, strict=True) if count
            }
    samples = answering.generate(min(SAMPLES, recipe.evaluation.samples, max(20, len(real))), seed=0)
    measured = {} if evaluation is None else evaluation.metrics
    findings = split_findings(corpus, splits, model.tokenizer, model.max_tokens)
    return Facts(
        recipe=recipe,
        history=history,
        metrics={name: metric.value for name, metric in measured.items()},
        counts={name: metric.n for name, metric in measured.items() if metric.n},
        samples=len(samples),
        rows={name: len(rows) for name, rows in corpus.items()},
        mean_tokens=_mean(splits["train"]),
        copies=float(np.mean([text_digest(text) in seen for text in test["text"]])) if len(test) else 0.0,
        repeats=1 - len(seen) / max(1, len(train)),
        class_rows=class_rows,
        train_accuracy=_train_accuracy(model, train, known),
        repeating=(_repeating(samples), _repeating(real)),
        invented=_invented(train["text"], samples, real),
        form=_form(model, real),
        code_names={} if evaluation is None else evaluation.code_names,
        text_findings=findings,
        attributes={name: attribute.facts for name, attribute in model.attributes.items()},
    )


def _mean(split: Split) -> float:
    return float(np.mean(split.store.lengths)) if len(split) else 0.0


def _some(rows: Dataset) -> list[str]:
    """A seeded choice of sentences, each with its turns where there are some."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:LOOKED_AT])
    return texts_of(rows.select(chosen))


def _train_accuracy(model: TextEBM, train: Dataset, known: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    accuracy = {}
    for head, labels in known.items():
        shown = np.flatnonzero(labels >= 0)
        rows = np.sort(np.random.default_rng(0).permutation(shown)[:LOOKED_AT])
        if len(rows):
            codes = model.encode(texts_of(train.select(rows))).codes[head].numpy()
            accuracy[head] = float(np.mean(codes == labels[rows]))
    return accuracy


def _repeating(texts: Sequence[str]) -> float:
    """Share of the texts in which a word, or a pair of words, is followed by itself."""
    return float(np.mean([_repeats(split_words(text.lower())) for text in texts])) if texts else 0.0


def _repeats(words: Sequence[str]) -> bool:
    letters = [word if any(map(str.isalnum, word)) else "" for word in words]
    once = any(word and word == after for word, after in zip(letters, letters[1:], strict=False))
    pairs = list(zip(words, words[1:], strict=False))
    return once or any(pair == after for pair, after in zip(pairs, pairs[2:], strict=False))


def _invented(train: Iterable[str], samples: Sequence[str], real: Sequence[str]) -> tuple[float, float]:
    """Share of the words of *samples*, and of *real* texts, that are in none of *train*."""
    known = {word for text in train for word in split_words(text.lower())}
    told = ([word for text in texts for word in split_words(text.lower())] for texts in (samples, real))
    own, beside = (float(np.mean([word not in known for word in words])) if words else 0.0 for words in told)
    return own, beside


def _form(model: TextEBM, texts: Sequence[str]) -> float:
    """Normalised mutual information of the first found codes with length (in five bins) and last character."""
    head = next((head for head in model.heads.values() if head.column is None), None)
    if head is None or len(texts) < 50:
        return 0.0
    codes = model.encode(list(texts)).codes[head.name].numpy()
    lengths = np.array([len(split_words(text)) for text in texts])
    bins = np.searchsorted(np.unique(np.quantile(lengths, (0.2, 0.4, 0.6, 0.8))), lengths)
    marks = [text[-1:] if not text[-1:].isalnum() else "" for text in texts]
    form = [f"{length} {mark}" for length, mark in zip(bins, marks, strict=True)]
    return float(normalized_mutual_info_score(form, codes))
