"""What the parts of one evaluation share: model, sentences, result, and what one part leaves for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.evaluation.control import ClassifierJudge, Judge, Parser, ParserJudge
from textebm.evaluation.language_model import LanguageModel, LanguageModelSettings
from textebm.evaluation.metric import Evaluation, UndefinedMetricError
from textebm.evaluation.protocols import Model

MAX_JUDGE_SENTENCES = 100_000


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
class Setting:
    """data: the sentences evaluated, a part of the split without blanks; texts: the same as strings."""

    model: Model
    corpus: DatasetDict
    data: Dataset
    texts: list[str]
    result: Evaluation
    seed: int
    effort: Effort
    judge_corpus: Dataset | None
    parser: Parser | None
    progress: Callable[[str], None]
    # suites only
    tokenizer: PreTrainedTokenizerFast | None = None
    max_tokens: int = 40
    shown_labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outliers: Mapping[str, list[str]] = field(default_factory=dict)
    language_model: LanguageModel | None = None  # of the training split, once a part has fitted it
    judges: dict[str, Judge] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return self.effort.samples

    @property
    def samples_per_class(self) -> int:
        return self.effort.samples_per_class

    @property
    def unsupervised(self) -> list[str]:
        return [name for name, head in self.model.heads.items() if head.column is None]

    @property
    def labelled(self) -> list[str]:
        return [name for name, head in self.model.heads.items() if head.column is not None]

    @property
    def labels(self) -> list[str]:
        """The label columns of the evaluated sentences."""
        return [name for name, kind in self.data.features.items() if isinstance(kind, ClassLabel)]

    @cached_property
    def latents(self) -> Tensor:
        """`samples` free draws of the prior, (n, d)."""
        return self.model.sample_latents(self.samples, symbols=None, strength=None, seed=self.seed)

    def own(self, metric: str, head: str) -> str:
        """The metric's name for *head*: bare for the first unsupervised head, with the head's name for any other."""
        return metric if self.unsupervised[:1] == [head] else f"{metric}_{head}"

    def write(
        self,
        n: int,
        symbols: dict[str, str | int],
        *,
        strength: float | None = None,
        seed: int,
        confidence: float | None = None,
        temperature: float | None = None,
    ) -> list[str]:
        """n sentences under *symbols*, decoded as the recipe says, or with words drawn at *temperature*. confidence: a
        sentence that the model's own encoder does not read as asked is drawn again."""
        decoding = self.effort.decoding if temperature is None else "sample"
        return self.model.generate(
            n,
            symbols=symbols,
            strength=strength,
            seed=seed,
            decoding=decoding,
            confidence=confidence,
            temperature=self.effort.temperature if temperature is None else temperature,
        )


def texts_of(data: Dataset) -> Iterator[str]:
    """The texts a thousand at a time, so that memory does not grow with the corpus."""
    for batch in data.select_columns(["text"]).iter(batch_size=1000):
        yield from batch["text"]


def some_rows(data: Dataset, most: int, seed: int) -> Dataset:
    """All rows, or a seeded choice of *most* of them in the order of the file."""
    if len(data) <= most:
        return data
    chosen = np.random.default_rng(seed).choice(len(data), most, replace=False)
    return data.select(np.sort(chosen).tolist())  # Dataset.shuffle would write a cache file


def some_texts(data: Dataset, most: int, seed: int) -> list[str]:
    """The texts of `some_rows`."""
    return list(texts_of(some_rows(data, most, seed)))


def judge_of(run: Setting, head: str) -> Judge:
    """The exact parser if it knows the factor, else a classifier on the judge corpus, else one on the training split
    (which is not independent; noted).
    """
    if head in run.judges:
        return run.judges[head]
    run.judges[head] = _fit_judge(run, head)
    return run.judges[head]


def _fit_judge(run: Setting, head: str) -> Judge:
    column = run.model.heads[head].column
    assert column is not None, "unsupervised heads have no judge"
    if run.parser is not None and any(column in (run.parser(text) or {}) for text in run.texts[:20]):
        return ParserJudge(run.parser, column)
    if run.judge_corpus is not None and column in run.judge_corpus.features:
        source = run.judge_corpus
    else:
        source = run.corpus["train"]
        if column not in source.features:
            raise UndefinedMetricError(f"neither a judge corpus nor train has the column {column!r}")
        run.result.note(
            f"{head}: judged by a classifier fitted on the model's own training split; it is not independent"
        )
    source = some_rows(source, MAX_JUDGE_SENTENCES, run.seed)
    return ClassifierJudge.fit(list(source["text"]), list(source[column]), source.features[column].names, run.seed)
