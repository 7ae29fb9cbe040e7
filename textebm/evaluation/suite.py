"""The whole evaluation of one model on one corpus.

What a model or a corpus cannot give (no unsupervised head, no labels, one sentence) is left out and said in the
notes; nothing is filled in. Everything is a function of the seed.

`evaluate` measures what is quick; with *suite* also what the field's tables hold (`SUITES`): likelihood intervals, a
language model's perplexities, baselines, editing, outliers.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast

from textebm.errors import CorpusError, did_you_mean
from textebm.evaluation import (
    baselines,
    calibration,
    control,
    core,
    editing,
    few_labels,
    intervals,
    language,
    outliers,
    steering,
    symbols,
)
from textebm.evaluation.metric import Evaluation, MetricValue
from textebm.evaluation.state import Effort, EvaluationState, choose
from textebm.notebook import duration, tell
from textebm.text.history import texts_of

if TYPE_CHECKING:
    from textebm.api import TextEBM
    from textebm.use.reading import Encoding

PACKAGES = ("torch", "transformers", "sacrebleu", "scikit-learn", "textebm")
Section = Callable[[EvaluationState, "Encoding"], None]
OwnMetric = Callable[["TextEBM", list[str]], "float | MetricValue"]

# The order matters: the language model that `language` fits is the judge of fluency in the sections after it.
SECTIONS: dict[str, Section] = {
    "intervals": intervals.add_likelihood_interval,
    "language": language.add_language_model,
    "attribution": symbols.add_deletions,
    "baselines": baselines.add_kmeans_baselines,
    "steering": steering.add_control_cost,
    "calibration": calibration.add_calibration,
    "editing": editing.add_edits,
    "few_labels": few_labels.add_few_labels,
    "outliers": outliers.add_outliers,
}
SUITES: dict[str, tuple[str, ...]] = {
    "ptb": ("intervals", "language", "attribution", "outliers"),
    "dailydialog": ("intervals", "language", "attribution", "baselines", "few_labels", "outliers"),
    "yelp": ("intervals", "language", "attribution", "steering", "calibration", "editing", "few_labels", "outliers"),
    "outliers": ("outliers",),
    "all": tuple(SECTIONS),
}
ON_ENCODING: dict[str, Section] = {
    "probes": symbols.add_probes,
    "codes": symbols.add_codes,
    "accuracies": symbols.add_head_accuracies,
    "control": symbols.add_control,
}
QUICK = ("reconstruction", "latent", "samples", *ON_ENCODING, "likeness")
# CPU-seconds of quickstart's sections, for the time left; language, steering and editing are guesses.
SHARES = {"reconstruction": 8, "latent": 1.5, "samples": 1.5, "probes": 0.1, "codes": 3, "accuracies": 2, "control": 3}
SHARES |= {"likeness": 0.1, "intervals": 90, "language": 60, "attribution": 2, "baselines": 2, "steering": 20}
SHARES |= {"calibration": 33, "editing": 20, "few_labels": 6, "outliers": 1}
SINGLE_SENTENCES = (
    "intervals",
    "language",
    "attribution",
    "steering",
    "calibration",
    "editing",
    "outliers",
)  # not for models that read a history


def evaluate(
    model: TextEBM,
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
    metrics: Mapping[str, OwnMetric] | None = None,
    so_far: Callable[[Evaluation], object] | None = None,
) -> Evaluation:
    """Measure *model* on *split* of *corpus*, against its train split.

    limit: use a seeded choice of so many sentences of the split (not the first ones: files may be sorted by label).
    effort: its samples are free samples, and as many in all for code agreement; its samples_per_class are sentences a
    class of each labelled head, and in all for each pair of heads. judge_corpus: labelled sentences that the model
    never saw, to fit judges on. parser: the exact parser of a generated corpus (it also judges grammaticality).
    progress is called with what is measured as it starts: ``3 of 8 · control of sentiment · about 40 s left``; by
    default it is shown as other progress is.
    tokenizer, max_tokens: the model's, so that n-gram and language models read the same tokens. shown_labels: for heads
    that were shown some labels only, the rows of train that have them.

    suite: one of `SUITES`, or None for the quick sections alone; it wants the tokenizer. other_texts: sentences of
    other corpora, by name. so_far is called with what there is whenever a section of a suite is about to start.

    metrics: metrics of one's own, a name and a function of the model and the evaluated sentences each, that gives a
    number or a `MetricValue`; `UndefinedMetricError` and numbers that are not finite become notes.

    CorpusError if the split or the train split is missing or has no sentence.
    """
    effort, metrics = effort or Effort(), metrics or {}
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
    own = SUITES[suite] if suite else ()
    chosen = [name for name in own if not (model.reads_context and name in SINGLE_SENTENCES)]
    course = _Course(progress or tell, [*QUICK, *metrics, *chosen])
    state = EvaluationState(
        model,
        corpus,
        data,
        texts_of(data),
        result,
        seed,
        effort,
        judge_corpus,
        parser,
        course,
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
    course.begin("reconstruction")
    reconstructions = core.add_reconstruction(state)
    course.begin("latent")
    encoding = core.add_latent(state)
    course.begin("samples")
    core.add_free_samples(state)
    for name, add in ON_ENCODING.items():
        course.begin(name)
        add(state, encoding)
    course.begin("likeness")
    symbols.add_likeness(state, reconstructions)
    for name, function in metrics.items():
        course.begin(name)
        _add_own(state, name, function)
    for name in own:
        if name not in chosen:
            result.note(f"{name}: left out, it compares models of single sentences")
            continue
        if so_far is not None:
            so_far(result)
        course.begin(name)
        SECTIONS[name](state, encoding)
    if progress is None:
        tell("")
    return result


class _Course:
    """Says which of the sections is measured, and about how long all that are left will take: their shares at the pace
    of the finished ones, less what the section in work has taken."""

    def __init__(
        self, say: Callable[[str], None], sections: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.say, self.clock, self.sections = say, clock, list(sections)
        self.shares = [SHARES.get(name, 1.0) for name in sections]
        self.number, self.started = 0, clock()
        self.begun = self.started

    def begin(self, name: str) -> None:
        self.number, self.begun = self.sections.index(name, self.number) + 1, self.clock()

    def __call__(self, part: str) -> None:
        told = [f"{self.number} of {len(self.sections)}", part]
        if done := sum(self.shares[: self.number - 1]):
            pace = (self.begun - self.started) / done
            here = max(pace * self.shares[self.number - 1] - (self.clock() - self.begun), 0.0)
            told.append(f"about {duration(here + pace * sum(self.shares[self.number :]))} left")
        self.say(" · ".join(told))


def _add_own(state: EvaluationState, name: str, function: OwnMetric) -> None:
    """A metric that the caller brought."""
    if name in state.result.metrics:
        raise ValueError(f"metrics: {name!r} is the name of a metric that every evaluation has; choose another")
    state.progress(name)
    with state.result.noting(name):
        value = function(state.model, list(state.texts))
        own = value if isinstance(value, MetricValue) else MetricValue(float(value), n=len(state.texts))
        if np.isfinite(own.value):
            state.result.metrics[name] = own
        else:
            state.result.note(f"{name}: left out, the value came out as {own.value}")


def _choose(data: Dataset, limit: int | None, seed: int, result: Evaluation) -> Dataset:
    """The sentences with words, or a seeded choice of *limit* of them, in the order of the file."""
    written = np.array([i for i, text in enumerate(data["text"]) if text.strip()], dtype=int)
    if len(written) < len(data):
        result.note(f"{len(data) - len(written)} blank sentences of {result.split} left out")
    if len(written) == 0:
        raise CorpusError(f"the split {result.split!r} has no sentence with a word; evaluate on a split that has text")
    return data.select(written[choose(len(written), limit or len(written), seed)].tolist())


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"  # e.g. textebm run from its source folder
    return versions
