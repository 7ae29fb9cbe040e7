"""The whole evaluation of one model on one corpus.

What a model or a corpus cannot give (no unsupervised head, no labels, one sentence) is left out and said in the
notes; nothing is filled in. Everything is a function of the seed.

`evaluate` measures what is quick; with *suite* also what the field's tables hold (`SUITES`): likelihood intervals, a
language model's perplexities, baselines, editing, outliers.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast

from textebm.errors import CorpusError, did_you_mean
from textebm.evaluation import (
    baselines,
    control,
    editing,
    intervals,
    language,
    outliers,
    parts,
    semisupervised,
    steering,
    symbols,
)
from textebm.evaluation.metric import Evaluation
from textebm.evaluation.protocols import Encoding, Model
from textebm.evaluation.setting import Effort, Setting
from textebm.text.history import texts_of

__all__ = ["SUITES", "Effort", "Evaluation", "Model", "evaluate"]

PACKAGES = ("torch", "transformers", "sacrebleu", "scikit-learn", "textebm")
Part = Callable[[Setting, Encoding], None]

# The order matters: the language model that `language` fits is the judge of fluency in the parts after it.
PARTS: dict[str, Part] = {
    "intervals": intervals.measure,
    "language": language.measure,
    "baselines": baselines.measure,
    "steering": steering.measure,
    "editing": editing.measure,
    "semisupervised": semisupervised.measure,
    "outliers": outliers.measure,
}
SUITES: dict[str, tuple[str, ...]] = {
    "ptb": ("intervals", "language", "outliers"),
    "dailydialog": ("intervals", "language", "baselines", "semisupervised", "outliers"),
    "yelp": ("intervals", "language", "steering", "editing", "semisupervised", "outliers"),
    "all": tuple(PARTS),
}


def evaluate(
    model: Model,
    corpus: DatasetDict,
    *,
    judge_corpus: Dataset | None = None,
    seed: int = 0,
    limit: int | None = None,
    split: str = "test",
    effort: Effort | None = None,
    parser: control.Parser | None = None,
    progress: Callable[[str], None] | None = None,
    suite: str | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    max_tokens: int = 40,
    shown_labels: Mapping[str, Sequence[int]] | None = None,
    other_texts: Mapping[str, list[str]] | None = None,
    so_far: Callable[[Evaluation], object] | None = None,
) -> Evaluation:
    """Measure *model* on *split* of *corpus*, against its train split.

    limit: use a seeded choice of so many sentences of the split (not the first ones: files may be sorted by label).
    effort: its samples are free samples, and as many in all for code agreement; its samples_per_class are sentences a
    class of each labelled head, and in all for each pair of heads. judge_corpus: labelled sentences that the model
    never saw, to fit judges on. parser: the exact parser of a generated corpus (it also judges grammaticality).
    progress is called with the name of each part as it starts.

    suite: one of `SUITES`, or None for the quick part alone. It wants the model's tokenizer and max_tokens (the
    language model reads the same tokens). other_texts: sentences of other corpora, by name. shown_labels: for heads
    that were shown some labels only, the rows of train that have them. so_far is called with what there is whenever a
    part of a suite is about to start.

    CorpusError if the split or the train split is missing or has no sentence.
    """
    effort = effort or Effort()
    if effort.samples < 1 or effort.samples_per_class < 1 or (limit is not None and limit < 1):
        raise ValueError(
            "samples, samples_per_class and limit must be at least 1, got "
            f"{effort.samples}, {effort.samples_per_class}, {limit}"
        )
    if suite is not None and (suite not in SUITES or tokenizer is None):
        raise ValueError(f"a suite is one of {', '.join(SUITES)} and needs the tokenizer, got {suite!r}")
    for name in ("train", split):
        if name not in corpus:
            raise CorpusError(f"the corpus has no split {name!r}{did_you_mean(name, list(corpus))}")
    result = Evaluation(seed=seed, split=split, versions=_versions())
    data = _choose(corpus[split], limit, seed, result)
    run = Setting(
        model,
        corpus,
        data,
        texts_of(data),
        result,
        seed,
        effort,
        judge_corpus,
        parser,
        progress or (lambda name: None),
        tokenizer,
        max_tokens,
        shown_labels or {},
        other_texts or {},
    )
    result.sizes = {
        "train": len(corpus["train"]),
        "split": len(corpus[split]),
        "evaluated": len(data),
        "samples": effort.samples,
        "samples_per_class": effort.samples_per_class,
    }
    result.settings = {
        "suite": suite or "none",
        "free samples": f"greedy; in _sampled and the perplexities words drawn at temperature {effort.temperature:g}",
        "sentences under symbols, edits": effort.decoding,
    }
    if split != "test":
        result.note(f"measured on {split}, not on test")
    reconstructions = parts.reconstruction(run)
    encoding = parts.latent_health(run)
    parts.free_samples(run, reconstructions)
    symbols.probes(run, encoding)
    symbols.codes(run, encoding)
    symbols.head_accuracies(run, encoding)
    symbols.controlled(run, encoding)
    symbols.by_example(run, reconstructions)
    for part in SUITES[suite] if suite else ():
        if so_far is not None:
            so_far(result)
        PARTS[part](run, encoding)
    return result


def _choose(data: Dataset, limit: int | None, seed: int, result: Evaluation) -> Dataset:
    """The sentences with words, or a seeded choice of *limit* of them, in the order of the file."""
    written = np.array([i for i, text in enumerate(data["text"]) if text.strip()], dtype=int)
    if len(written) < len(data):
        result.note(f"{len(data) - len(written)} blank sentences of {result.split} left out")
    if len(written) == 0:
        raise CorpusError(f"the split {result.split!r} has no sentence with a word; evaluate on a split that has text")
    if limit is not None and limit < len(written):
        written = np.sort(np.random.default_rng(seed).choice(written, limit, replace=False))
    return data.select(written.tolist())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"  # e.g. textebm run from its source folder
    return found
