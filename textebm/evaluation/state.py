"""What the sections of one evaluation share: model, sentences, result, and what one section leaves for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.evaluation.control import ClassifierJudge, Judge, Parser, ParserJudge
from textebm.evaluation.language_model import LanguageModel, LanguageModelSettings
from textebm.evaluation.metric import Evaluation, UndefinedMetricError

if TYPE_CHECKING:
    from textebm.api import TextEBM

MAX_SENTENCES = 100_000  # that a classifier, clusters or an n-gram model are fitted on


@dataclass(frozen=True)
class Effort:
    """How much is generated and computed. language_samples to chains matter to suites only."""

    samples: int = 2000
    samples_per_class: int = 500
    decoding: Literal["greedy", "sample"] = "greedy"
    temperature: float = 1.0
    language_samples: int = 40_000
    draws: int = 16
    q_steps: int = 40
    temperatures: int = 4
    chains: int = 1
    refine: int = 0  # steps by which posterior means are moved, for a second reconstruction
    language_model: LanguageModelSettings = LanguageModelSettings()  # noqa: B008 (frozen)


@dataclass
class EvaluationState:
    """data: the sentences evaluated, those of the split that are not blank; texts: the same as strings. train: the
    training split, at most `MAX_SENTENCES` of it."""

    model: TextEBM
    corpus: DatasetDict
    data: Dataset
    texts: list[str]
    result: Evaluation
    seed: int
    effort: Effort
    judge_corpus: Dataset | None
    parser: Parser | None
    progress: Callable[[str], None]
    tokenizer: PreTrainedTokenizerFast | None = None
    max_tokens: int = 40
    shown_labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    other_texts: Mapping[str, list[str]] = field(default_factory=dict)
    language_model: LanguageModel | None = None  # of the training split, once a section has fitted it
    judges: dict[str, Judge] = field(default_factory=dict)

    @property
    def unsupervised(self) -> list[str]:
        return [name for name, head in self.model.heads.items() if head.column is None]

    @property
    def labelled(self) -> dict[str, str]:
        """The heads that were taught a label column, and the column."""
        return {name: head.column for name, head in self.model.heads.items() if head.column is not None}

    @property
    def labels(self) -> list[str]:
        """The label columns of the evaluated sentences."""
        return [name for name, kind in self.data.features.items() if isinstance(kind, ClassLabel)]

    @property
    def decoding(self) -> dict[str, Any]:
        """How sentences under symbols are written, as arguments of `generate`."""
        return {"decoding": self.effort.decoding, "temperature": self.effort.temperature}

    @cached_property
    def latents(self) -> Tensor:
        """Free draws of the prior, (samples, d)."""
        return self.model.sample_latents(self.effort.samples, seed=self.seed)

    @cached_property
    def train(self) -> Dataset:
        return some_rows(self.corpus["train"], MAX_SENTENCES, self.seed)

    @cached_property
    def train_texts(self) -> list[str]:
        return list(plain_texts(self.train))

    def known(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The evaluated sentences that have a label: their places and classes."""
        values = np.array(self.data[column]) if column in self.data.features else np.empty(0, dtype=int)
        places = np.flatnonzero(values >= 0)
        return places, values[places]

    def own(self, metric: str, head: str) -> str:
        """The metric's name for *head*: bare for the first unsupervised head, with the head's name for any other."""
        return metric if self.unsupervised[:1] == [head] else f"{metric}_{head}"

    def judge(self, head: str) -> Judge:
        """The exact parser if it knows the factor, else a classifier on the judge corpus, else one on the training
        split (which is not independent; noted)."""
        if head not in self.judges:
            self.judges[head] = self._fit_judge(head, self.labelled[head])
        return self.judges[head]

    def _fit_judge(self, head: str, column: str) -> Judge:
        if self.parser is not None and any(column in (self.parser(text) or {}) for text in self.texts[:20]):
            return ParserJudge(self.parser, column)
        if self.judge_corpus is not None and column in self.judge_corpus.features:
            return fit_classifier(some_rows(self.judge_corpus, MAX_SENTENCES, self.seed), column, self.seed)
        if column not in self.train.features:
            raise UndefinedMetricError(f"neither a judge corpus nor train has the column {column!r}")
        self.result.note(
            f"{head}: judged by a classifier fitted on the model's own training split; it is not independent"
        )
        return self.train_classifier(column)

    def train_classifier(self, column: str) -> ClassifierJudge:
        """TF-IDF and logistic regression of the training split's labels, fitted once."""
        if column not in self._classifiers:
            self._classifiers[column] = fit_classifier(self.train, column, self.seed)
        return self._classifiers[column]

    @cached_property
    def _classifiers(self) -> dict[str, ClassifierJudge]:
        return {}


def fit_classifier(rows: Dataset, column: str, seed: int) -> ClassifierJudge:
    """A classifier of the label *column* of *rows*."""
    return ClassifierJudge.fit(list(rows["text"]), list(rows[column]), rows.features[column].names, seed)


def plain_texts(data: Dataset) -> Iterator[str]:
    """The texts without their histories, a thousand at a time, so that memory does not grow with the corpus."""
    for batch in data.select_columns(["text"]).iter(batch_size=1000):
        yield from batch["text"]


def some_rows(data: Dataset, most: int, seed: int) -> Dataset:
    """All rows, or a seeded choice of *most* of them in the order of the file (which may be sorted by label)."""
    return data if len(data) <= most else data.select(choose(len(data), most, seed))  # shuffle would write a cache file


def choose(n: int, most: int, seed: int) -> list[int]:
    """All of n places, or a seeded choice of *most*, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most]).tolist()
