"""What of a turn tells its answer: canonical correlation between the words of a turn and the ends of the next.

Turns that are answered alike do alike (inform, ask, request, promise), whatever they speak of. The answer counts by its
first two words and its last: they hold what kind of answer it is and hardly a subject. Linear canonical correlation
(Hotelling 1936) between two views of one thing finds what they share (Foster, Johnson & Zhang 2008); here the views are
two neighbouring turns, as in skip-thought (Kiros et al. 2015) and its discrete kin (Zhao, Lee & Eskenazi 2018, arXiv
1804.08069).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

FEATURES = 1500  # of a turn, the commonest: their covariance is a dense matrix
ENDS = 400  # of a neighbouring turn
RIDGE = 0.3  # added to a covariance, in units of its mean eigenvalue
AS_ANSWER = 0.5  # what a turn that answers counts beside a turn that is answered
SENTENCE_ENDS = frozenset(".?!")


def ends_of(text: str, first: int = 2, last: int = 1) -> list[str]:
    """The first and the last words, each with its place."""
    words = text.split()
    head = [f"{place}:{word}" for place, word in enumerate(words[:first])]
    return head + [f"-{place}:{word}" for place, word in enumerate(reversed(words[-last:]), start=1)]


def features_of(text: str) -> list[str]:
    """Of a turn: its words, its ends, and how its sentences begin and its last one ends.

    "?" decides little alone: "could you …?", "what …?" and "really ?" are answered differently.
    """
    words = text.split()
    sentences: list[list[str]] = [[]]
    for word in words:
        sentences[-1].append(word)
        if word in SENTENCE_ENDS:
            sentences.append([])
    sentences = [sentence for sentence in sentences if sentence]
    found = words + ends_of(text, 2, 2)
    found += [f"begins:{' '.join(sentence[:n])}" for sentence in sentences for n in (1, 2, 3)]
    if sentences:
        closing = sentences[-1]
        found += [f"closing:{' '.join(closing[:n])}" for n in (1, 2, 3)] + [f"closing:{closing[0]}…{closing[-1]}"]
        found += [f"sentences:{min(len(sentences), 4)}", f"length:{min(len(closing) // 4, 5)}"]
    return found


def answer_features(
    texts: Sequence[str], pairs: Sequence[tuple[str, str]], *, components: int = 32, as_answer: float = AS_ANSWER
) -> NDArray[np.float32]:
    """Canonical variates of each text, times their squared correlations: as a turn that is answered, and with the
    weight *as_answer* as an answer, (n, k).

    pairs: neighbouring turns, (turn, answer), from which the directions are learned. There are fewer variates than
    *components* of each kind where the words allow no more, and none without pairs.
    """
    if not pairs:
        return np.zeros((len(texts), 0), dtype=np.float32)
    asked, answers = zip(*pairs, strict=True)
    turn, ends = _vectors(features_of, FEATURES, texts), _vectors(ends_of, ENDS, texts)
    found = []
    with threadpool_limits(1):  # threads' sums arrive in any order: several would not repeat exactly
        rows = turn(texts)
        whiten = _inverse_root(_covariance(rows, rows))
        for weight, own, other in ((1.0, asked, answers), (as_answer, answers, asked)):
            directions = canonical_directions(turn(own), ends(other), components, whiten)
            found.append(weight * (rows @ directions))
    variates = np.concatenate(found, axis=1)
    return np.asarray(variates - variates.mean(axis=0), dtype=np.float32)


def canonical_directions(
    x: csr_matrix, y: csr_matrix, components: int, whiten: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Directions of x, (p, k), such that its variates have the variance of their canonical correlations' fourth power.

    W = C_xx^(−1/2) U S² with U S V^T = C_xx^(−1/2) C_xy C_yy^(−1/2). x (n, p), y (n, q); whiten (p, p) is C_xx^(−1/2).
    S² is the share of a variate's variance that the other turn explains, and so what it counts for.
    """
    left, correlations, _ = np.linalg.svd(
        whiten @ _covariance(x, y) @ _inverse_root(_covariance(y, y)), full_matrices=False
    )
    kept = min(components, len(correlations))
    return whiten @ (left[:, :kept] * np.square(correlations[:kept]))


def _vectors(
    analyzer: Callable[[str], list[str]], most: int, texts: Sequence[str]
) -> Callable[[Sequence[str]], csr_matrix]:
    """Texts to rows of unit length, one column for each of the *most* commonest features of *texts*."""
    vectorizer = CountVectorizer(analyzer=analyzer, max_features=most, binary=True, dtype=np.float64)
    vectorizer.fit(texts)
    return lambda given: normalize(vectorizer.transform(given))


def _covariance(x: csr_matrix, y: csr_matrix) -> NDArray[np.float64]:
    product = np.asarray((x.T @ y).todense(), dtype=np.float64) / x.shape[0]
    return product - np.outer(np.asarray(x.mean(axis=0)).ravel(), np.asarray(y.mean(axis=0)).ravel())


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C + ridge)^(−1/2)"""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + RIDGE * max(values.mean(), 1e-12)
    return (vectors / np.sqrt(values)) @ vectors.T
