"""Does the text have the symbol it was asked to have? Judged by something other than the model, except for codes,
which only the encoder can read. An empty text, or one that the judge cannot read, is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from textebm.evaluation.metric import UndefinedMetricError
from textebm.text.words import WORD_PATTERN

if TYPE_CHECKING:
    from textebm.evaluation.protocols import Model

Parser = Callable[[str], Mapping[str, Any] | None]


class Writer(Protocol):
    """Writes n sentences under symbols; `Model.generate` unless another way of decoding is wanted."""

    def __call__(
        self, n: int, symbols: dict[str, str | int], *, strength: float | None = None, seed: int
    ) -> list[str]: ...


class Judge(Protocol):
    """Reads one symbol off a text."""

    def predict(self, texts: Sequence[str]) -> list[str | None]:
        """The class name of each text; None where there is none to read."""
        ...


@dataclass(frozen=True)
class ParserJudge:
    """The exact parser of a generated corpus: `parse` gives a sentence's factors, or None if it is not a sentence of
    the grammar.
    """

    parse: Parser
    factor: str

    def predict(self, texts: Sequence[str]) -> list[str | None]:
        return [None if factors is None else str(factors[self.factor]) for factors in map(self.parse, texts)]


@dataclass(frozen=True)
class CodeJudge:
    """The model's own encoder, for codes: the class of `head` that the text encodes to. It is no independent judge."""

    model: Model
    head: str

    def predict(self, texts: Sequence[str]) -> list[str | None]:
        verdicts: list[str | None] = [None] * len(texts)
        written = [i for i, text in enumerate(texts) if text.strip()]
        if written:
            codes = self.model.encode([texts[i] for i in written]).codes[self.head]
            for i, code in zip(written, codes.tolist(), strict=True):
                verdicts[i] = self.model.heads[self.head].classes[code]
        return verdicts


@dataclass(frozen=True)
class ClassifierJudge:
    """TF-IDF of words and pairs of words, then logistic regression. Fitted where it is used and kept in memory, never
    in a file.

    Settings by accuracy on 6,000 sentences held out of yelp's classifier corpus (standard error .003): 1-2-grams with C
    4 / 10 / 30: .955 / .9575 / .958; 1-3-grams: .951 / .953 / .957. So the simplest that is not worse.
    """

    vectorizer: TfidfVectorizer
    regression: LogisticRegression
    classes: tuple[str, ...]

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[int], classes: Sequence[str], seed: int = 0) -> ClassifierJudge:
        """Fit on *texts* with *labels* (indices into *classes*; negative = missing, left out).

        UndefinedMetricError unless at least two classes occur among texts with words.
        """
        kept = [(text, label) for text, label in zip(texts, labels, strict=True) if label >= 0 and text.strip()]
        if len({label for _, label in kept}) < 2:
            raise UndefinedMetricError("a classifier needs labelled sentences of at least two classes")
        vectorizer = TfidfVectorizer(token_pattern=WORD_PATTERN, ngram_range=(1, 2), sublinear_tf=True)
        features = vectorizer.fit_transform([text for text, _ in kept])
        regression = LogisticRegression(C=10.0, max_iter=300, random_state=seed)
        regression.fit(features, np.array([label for _, label in kept]))
        return cls(vectorizer, regression, tuple(classes))

    def predict(self, texts: Sequence[str]) -> list[str | None]:
        if not texts:
            return []
        labels = self.regression.predict(self.vectorizer.transform(texts))
        return [self.classes[label] if text.strip() else None for text, label in zip(texts, labels, strict=True)]


def accuracy(verdicts: Sequence[str | None], truth: Sequence[str]) -> float:
    """Share of verdicts that are right."""
    if not truth:
        raise UndefinedMetricError("there are no labelled sentences")
    return sum(v == t for v, t in zip(verdicts, truth, strict=True)) / len(truth)


@dataclass(frozen=True)
class Control:
    """Accuracy over all classes (equally often), by class, and the sentences it was judged on; n sentences in all."""

    accuracy: float
    per_class: dict[str, float]
    texts: dict[str, list[str]]
    n: int


def control_accuracy(
    model: Model,
    head: str,
    judge: Judge,
    n_per_class: int,
    *,
    strength: float | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    writer: Writer | None = None,
) -> Control:
    """Generate *n_per_class* sentences under each class of *head* (or of *classes*) and ask *judge*.

    *strength* None is the model's default. Class i draws with seed + 1 + i, so that classes share no noise.
    """
    names = model.heads[head].classes if classes is None else classes
    if not names or n_per_class < 1:
        raise UndefinedMetricError(f"there is no class of {head} to generate")
    texts = {
        name: _generate(model, writer, n_per_class, {head: name}, strength, seed + 1 + i)
        for i, name in enumerate(names)
    }
    per_class = {name: accuracy(judge.predict(found), [name] * n_per_class) for name, found in texts.items()}
    return Control(math.fsum(per_class.values()) / len(per_class), per_class, texts, n_per_class * len(per_class))


@dataclass(frozen=True)
class Composition:
    """Accuracy of sentences asked to have two symbols: `joint` (both right), each head's own, and the
    `geometric_mean` of these.
    """

    joint: float
    geometric_mean: float
    per_head: dict[str, float]
    n: int


def composition_accuracy(
    model: Model,
    judges: Mapping[str, Judge],
    n_per_pair: int,
    *,
    strength: float | None = None,
    seed: int = 0,
    classes: Mapping[str, Sequence[str]] | None = None,
    writer: Writer | None = None,
) -> Composition:
    """Generate *n_per_pair* sentences under every pair of classes of the two heads in *judges*. *classes* limits a
    head's classes.
    """
    if len(judges) != 2:
        raise ValueError(f"expected the judges of two heads, got {len(judges)}: {', '.join(judges)}")
    first, second = judges
    names = {head: (classes or {}).get(head, model.heads[head].classes) for head in judges}
    pairs = [(a, b) for a in names[first] for b in names[second]]
    if not pairs or n_per_pair < 1:
        raise UndefinedMetricError(f"there is no pair of {first} and {second} to generate")
    right = {first: 0, second: 0}
    both = 0
    for i, (a, b) in enumerate(pairs):
        texts = _generate(model, writer, n_per_pair, {first: a, second: b}, strength, seed + 1 + i)
        has_a = [verdict == a for verdict in judges[first].predict(texts)]
        has_b = [verdict == b for verdict in judges[second].predict(texts)]
        right[first] += sum(has_a)
        right[second] += sum(has_b)
        both += sum(x and y for x, y in zip(has_a, has_b, strict=True))
    n = n_per_pair * len(pairs)
    per_head = {head: count / n for head, count in right.items()}
    return Composition(both / n, math.sqrt(per_head[first] * per_head[second]), per_head, n)


def _generate(
    model: Model, writer: Writer | None, n: int, symbols: dict[str, str | int], strength: float | None, seed: int
) -> list[str]:
    if writer is None:
        texts = model.generate(n, symbols=symbols, strength=strength, seed=seed)
    else:
        texts = writer(n, symbols, strength=strength, seed=seed)
    if len(texts) != n:
        raise ValueError(f"the model gave {len(texts)} sentences for {symbols}, expected {n}")
    return texts
