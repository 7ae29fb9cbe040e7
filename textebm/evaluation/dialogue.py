"""Models of dialogues: what the turns before a sentence are worth, and how answers compare with the real next turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from textebm.evaluation import fluency
from textebm.evaluation.latent import circle
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.reconstruction import reconstruction_bleu
from textebm.evaluation.state import choose
from textebm.text.history import Turn, histories_of
from textebm.text.words import WORD_PATTERN, split_words

if TYPE_CHECKING:
    from textebm.evaluation.state import EvaluationState

VECTOR_SIZE, VOCABULARY = 100, 20_000
KEPT = 20
Vectors = NDArray[np.float64]


def with_others_histories(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Each text with the history of another, by one seeded circle through all of them."""
    histories = histories_of(texts)
    return [Turn(text, histories[other]) for text, other in zip(texts, circle(len(texts), seed).tolist(), strict=True)]


def add_context_gain(state: EvaluationState, nll: float, kl: float) -> None:
    """How much the bound, whose means nll and kl are, loses with shuffled histories: nats a sentence."""
    terms = state.model.elbo_terms(with_others_histories(state.texts, state.seed), seed=state.seed)
    reconstruction = float(terms.reconstruction_nll.double().mean()) - nll
    prior = float(terms.kl.double().mean()) - kl
    for name, value in (("", reconstruction + prior), ("_reconstruction", reconstruction), ("_kl", prior)):
        state.result.add(f"context_gain{name}", value, len(state.texts))


@dataclass(frozen=True)
class WordVectors:
    """A vector for each known word."""

    places: dict[str, int]
    vectors: Vectors  # (V, d)

    @classmethod
    def fit(cls, texts: Iterable[str], *, size: int = VECTOR_SIZE, seed: int = 0) -> WordVectors:
        """Truncated SVD of the TF-IDF matrix of *texts*: a word is its loading on each component times the component's
        singular value (latent semantic analysis; Deerwester et al. 1990). Undefined with hardly a word."""
        vectorizer = TfidfVectorizer(token_pattern=WORD_PATTERN, max_features=VOCABULARY, sublinear_tf=True)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError:  # not a word in it
            raise UndefinedMetricError("word vectors need text with words") from None
        if min(counts.shape) < 3:
            raise UndefinedMetricError("word vectors need at least three sentences and words")
        svd = TruncatedSVD(min(size, min(counts.shape) - 1), random_state=seed).fit(counts)
        return cls(dict(vectorizer.vocabulary_), (svd.components_ * svd.singular_values_[:, None]).T)

    def of(self, text: str) -> Vectors:
        """The vectors of the text's known words, (words, d)."""
        words = (self.places.get(word) for word in split_words(text.lower()))
        return self.vectors[[place for place in words if place is not None]]


@dataclass(frozen=True)
class EmbeddingMatch:
    """Means over pairs of texts of three cosines (Liu et al. 2016, "How NOT to evaluate your dialogue system",
    arXiv 1603.08023, section 3.2). A pair of which one text has no known word counts 0.

    average: of the mean word vectors. extrema: of the vectors that hold each dimension's most extreme value. greedy:
    each word's cosine to the nearest word of the other text, averaged over words, and over both directions.
    """

    average: float
    extrema: float
    greedy: float


def embedding_match(answers: Sequence[str], references: Sequence[str], vectors: WordVectors) -> EmbeddingMatch:
    """Of each answer with its reference. Undefined without a pair."""
    if not answers:
        raise UndefinedMetricError("there are no answers")
    rows = []
    for answer, reference in zip(answers, references, strict=True):
        a, b = vectors.of(answer), vectors.of(reference)
        if not len(a) or not len(b):
            rows.append((0.0, 0.0, 0.0))
            continue
        near = _unit(a) @ _unit(b).T  # (words of a, words of b)
        greedy = (near.max(1).mean() + near.max(0).mean()) / 2
        rows.append((_cosine(a.mean(0), b.mean(0)), _cosine(_extrema(a), _extrema(b)), float(greedy)))
    return EmbeddingMatch(*np.mean(rows, axis=0).tolist())


def _extrema(vectors: Vectors) -> Vectors:
    """(words, d) -> (d,)"""
    return vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _cosine(a: Vectors, b: Vectors) -> float:
    return float(_unit(a) @ _unit(b))


def add_responses(state: EvaluationState) -> None:
    """Answers to the histories of evaluated turns against the real next turns; beside them real turns drawn at
    random."""
    state.progress("answers to real histories")
    turns = [text for text in state.texts if isinstance(text, Turn) and text.history]
    turns = [turns[i] for i in choose(len(turns), state.effort.samples, state.seed)]
    result, n = state.result, len(turns)
    with result.noting("responses"):
        if n < 2:
            raise UndefinedMetricError("fewer than two sentences have turns before them")
        vectors = WordVectors.fit(state.train_texts, seed=state.seed)
        answers = state.model.respond([turn.history for turn in turns], seed=state.seed, **state.decoding)
        others = np.random.default_rng(state.seed).permutation(len(state.train_texts))
        drawn = [state.train_texts[others[i % len(others)]] for i in range(n)]
        own = [answer for (answer,) in answers]
        result.samples["answers"] = [f"{turns[i].history[-1]} -> {own[i]}" for i in range(min(n, KEPT))]
        for suffix, texts in (("", own), ("_random", drawn)):
            match = embedding_match(texts, turns, vectors)
            for name in ("average", "extrema", "greedy"):
                result.add(f"response_{name}{suffix}", getattr(match, name), n)
            result.add(f"response_bleu{suffix}", reconstruction_bleu(texts, turns).score, n)
            result.compute(f"response_distinct_1{suffix}", n, fluency.distinct_n, texts, 1)
            result.compute(f"response_distinct_2{suffix}", n, fluency.distinct_n, texts, 2)
