"""Does the text have the symbol it was asked to have? Judged by something other than the model, except for codes,
which only the encoder can read. An empty text, or one that the judge cannot read, is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from textebm.evaluation.metric import UndefinedMetricError
from textebm.text.words import WORD_PATTERN

if TYPE_CHECKING:
    from textebm.api import TextEBM

Parser = Callable[[str], Mapping[str, Any] | None]


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

    model: TextEBM
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

    On held-out reviews (6,000 sentences, standard error .003) larger n-grams and weaker regularisation were not better.
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
    model: TextEBM,
    head: str,
    judge: Judge,
    n_per_class: int,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Control:
    """Generate *n_per_class* sentences under each class of *head* (or of *classes*), in one call, and ask *judge*.

    options: further arguments of `TextEBM.generate`.
    """
    names = model.heads[head].classes if classes is None else classes
    if not names or n_per_class < 1:
        raise UndefinedMetricError(f"there is no class of {head} to generate")
    wanted = [name for name in names for _ in range(n_per_class)]
    texts = _generate(model, {head: wanted}, seed, options)
    right = [verdict == name for verdict, name in zip(judge.predict(texts), wanted, strict=True)]
    own = {name: slice(i * n_per_class, (i + 1) * n_per_class) for i, name in enumerate(names)}
    per_class = {name: sum(right[rows]) / n_per_class for name, rows in own.items()}
    return Control(sum(right) / len(right), per_class, {name: texts[rows] for name, rows in own.items()}, len(texts))


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
    model: TextEBM,
    judges: Mapping[str, Judge],
    n_per_pair: int,
    *,
    seed: int = 0,
    classes: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> Composition:
    """Generate *n_per_pair* sentences under every pair of classes of the two heads in *judges*. *classes* limits a
    head's classes. options: as in `control_accuracy`.
    """
    if len(judges) != 2:
        raise ValueError(f"expected the judges of two heads, got {len(judges)}: {', '.join(judges)}")
    first, second = judges
    names = [(classes or {}).get(head, model.heads[head].classes) for head in judges]
    pairs = [pair for pair in product(*names) for _ in range(n_per_pair)]
    if not pairs:
        raise UndefinedMetricError(f"there is no pair of {first} and {second} to generate")
    asked = {first: [a for a, _ in pairs], second: [b for _, b in pairs]}
    texts, n = _generate(model, asked, seed, options), len(pairs)
    right = {
        head: [verdict == name for verdict, name in zip(judges[head].predict(texts), asked[head], strict=True)]
        for head in judges
    }
    per_head = {head: sum(each) / n for head, each in right.items()}
    joint = sum(a and b for a, b in zip(right[first], right[second], strict=True)) / n
    return Composition(joint, math.sqrt(per_head[first] * per_head[second]), per_head, n)


def code_agreement(
    model: TextEBM, head: str, n_per_code: int, *, codes: Sequence[int] | None = None, **options: Any
) -> Control:
    """Share of sentences generated under code k that encode back to k; *n_per_code* for each of *codes* (those in
    use; default all). options: as in `control_accuracy`.
    """
    classes = model.heads[head].classes
    names = list(classes) if codes is None else [classes[code] for code in codes]
    return control_accuracy(model, head, CodeJudge(model, head), n_per_code, classes=names, **options)


def _generate(model: TextEBM, symbols: Mapping[str, list[str]], seed: int, options: Mapping[str, Any]) -> list[str]:
    n = len(next(iter(symbols.values())))
    texts = model.generate(n, symbols=dict(symbols), seed=seed, **options)
    if len(texts) != n:
        raise ValueError(f"the model gave {len(texts)} sentences for {n} of {', '.join(symbols)}")
    return texts
