"""What codes are found in, beside the latent: the content of a text, as its words say it.

A latent that reconstructs holds a sentence's form first, and k-means on it finds first words. Here each text is a point
made from its content words alone, by what they occur with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import silhouette_score
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

Words = Callable[[str], list[str]]
FEATURES = 5000  # words, the commonest
LEAST_USES = 5
COMPONENTS = 64
SMOOTHING = 0.4  # chosen on validation sentences of Yelp and AG News (docs/codes.md)
LABEL_ODDS, LABEL_ERRORS = 12.0, 4.0  # by how much a word must tell a label's class, and by how many standard errors
MIX_ROWS = 5000  # enough to scale a feature, and to count clusters
CANDIDATES = (5, 10, 15, 20, 30, 40, 50, 75, 100)
CONTEXT_POWER = 0.75  # exponent of a context word's share (Levy, Goldberg & Dagan 2015)


def content_features(
    texts: Sequence[str],
    words: Words,
    *,
    labels: Sequence[NDArray[np.integer]] = (),
    components: int = COMPONENTS,
    smoothing: float = SMOOTHING,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Each text as a point made of its content words, (n, k).

    Two points of unit length beside each other: TF-IDF in its leading singular vectors, where texts are neighbours that
    share words, times 1 − *smoothing*; and the mean of the words' own vectors (`word_vectors`), where texts are that
    speak of the same without a word in common, times *smoothing*. words: the content words of a text. labels: (n,)
    each, −1 where unknown; words that tell a label's classes apart are left out, since a head that is taught them says
    that already. A text without a known word is zero.
    """
    least = min(LEAST_USES, max(1, len(texts) // 200))
    vectorizer = TfidfVectorizer(analyzer=words, max_features=FEATURES, min_df=least, sublinear_tf=True)
    try:
        rows = csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 0), dtype=np.float32)
    told = [label_words(rows, values) for values in labels]
    rows = rows[:, ~np.any(told, axis=0)] if told else rows
    size = min(components, min(rows.shape) - 1)
    if size < 1:
        return np.zeros((len(texts), 0), dtype=np.float32)
    with threadpool_limits(1):  # threads' sums arrive in any order: several would not repeat exactly
        shared = rows @ randomized_svd(rows, size, random_state=seed)[2].T
        alike = rows @ word_vectors(rows, size, seed)
    empty = np.asarray(rows.sum(1)).ravel() == 0
    points = [weight * _centred(each, empty) for weight, each in ((1 - smoothing, shared), (smoothing, alike))]
    return np.concatenate(points, axis=1).astype(np.float32)


def _centred(points: NDArray[np.float64], empty: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rows of unit length about their mean, and zeros where *empty*."""
    middle = points[~empty].mean(0) if not empty.all() else 0.0
    return unit(np.where(empty[:, None], 0.0, points - middle))


def word_vectors(rows: csr_matrix, size: int, seed: int = 0) -> NDArray[np.float64]:
    """Vectors of the words of texts, (p, size), unit length: singular vectors, times the root of their values, of the
    positive pointwise mutual information of words in one text (Bullinaria & Levy 2007; Levy, Goldberg & Dagan 2015).
    rows (n, p): which text holds which word."""
    held = csr_matrix((np.ones_like(rows.data), rows.indices, rows.indptr), rows.shape)
    together = (held.T @ held).tocsr()
    together.setdiag(0)
    together.eliminate_zeros()
    pairs = together.tocoo()
    of_word = np.asarray(together.sum(1)).ravel()
    if not of_word.any():  # every text has one word
        return np.zeros((rows.shape[1], size))
    context = of_word**CONTEXT_POWER
    share = of_word.sum() / context.sum()
    information = np.log(pairs.data * of_word.sum() / (of_word[pairs.row] * context[pairs.col] * share))
    positive = csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), together.shape)
    left, values, _ = randomized_svd(positive, size, random_state=seed)
    return unit(left * np.sqrt(values))


def label_words(rows: csr_matrix, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which words tell a class of a label: `LABEL_ODDS` times the odds of the other classes', and surely so, (p,).
    rows (n, p): which text holds which word; labels (n,), −1 where unknown."""
    known = labels >= 0
    held = (rows[known] > 0).astype(np.float64)
    total = np.asarray(held.sum(0)).ravel()
    found = np.zeros(rows.shape[1], dtype=bool)
    for value in np.unique(labels[known]):
        inside = labels[known] == value
        uses = np.asarray(held[inside].sum(0)).ravel() + 0.5
        others = total - uses + 1.0
        size, rest = inside.sum() + 1.0, (~inside).sum() + 1.0
        odds = np.log(uses / (size - uses + 0.5)) - np.log(others / np.maximum(rest - others + 0.5, 0.5))
        found |= (odds > np.log(LABEL_ODDS)) & (odds / np.sqrt(1 / uses + 1 / others) > LABEL_ERRORS)
    return found


def unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of length 1; a zero row stays zero."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def mix(blocks: Sequence[tuple[float, NDArray[np.floating]]], classes: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Several features beside each other, (n, Σ k), so that k-means heeds each as much as its weight says.

    blocks: (weight, (n, k)). Each is divided by the error that k-means with *classes* centres leaves in it by itself:
    its share of the joint error is then its weight's square, however large or noisy it is.
    """
    scaled = []
    for weight, points in blocks:
        fit = points[np.sort(np.random.default_rng(seed).permutation(len(points))[:MIX_ROWS])]
        with threadpool_limits(1):
            inertia = KMeans(min(classes, len(fit)), n_init=1, random_state=seed).fit(fit).inertia_ / len(fit)
        scaled.append(weight * points / max(inertia, 1e-12) ** 0.5)
    return np.concatenate(scaled, axis=1).astype(np.float32)


def count_classes(points: NDArray[np.floating], *, seed: int = 0) -> int:
    """How many clusters the points (n, k) have, among `CANDIDATES`: the number of the highest mean silhouette
    (Rousseeuw 1987) of a sample, after k-means on unit vectors."""
    fit = unit(points[np.sort(np.random.default_rng(seed).permutation(len(points))[:MIX_ROWS])])
    best, count = -2.0, 2
    with threadpool_limits(1):
        for candidate in (each for each in CANDIDATES if each < len(np.unique(fit, axis=0))):
            found = KMeans(candidate, n_init=2, random_state=seed).fit_predict(fit)
            score = float(silhouette_score(fit, found, sample_size=min(2000, len(fit)), random_state=seed))
            if score > best:
                best, count = score, candidate
    return count
