"""Codes by the roads that people take without a generative model, on the same texts: topic models, and embeddings with
k-means. Fitted on the training texts, read on others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, LatentDirichletAllocation, TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from textebm.evaluation.code_scores import Embed
from textebm.evaluation.metric import UndefinedMetricError
from textebm.text.words import content_words

Codes: TypeAlias = NDArray[np.int64]
MAX_FEATURES, LEAST_USES = 5000, 5
COMPONENTS = 50


def nmf_codes(train: Sequence[str], texts: Sequence[str], count: int, seed: int = 0) -> tuple[Codes, Codes]:
    """The largest topic of each text by non-negative matrix factorisation of TF-IDF (Lee & Seung 1999)."""
    counted, others = _counted(TfidfVectorizer, train, texts, count)
    return _largest(NMF(count, init="nndsvd", random_state=seed, max_iter=300), counted, others)


def lda_codes(train: Sequence[str], texts: Sequence[str], count: int, seed: int = 0) -> tuple[Codes, Codes]:
    """The largest topic of each text by latent Dirichlet allocation (Blei, Ng & Jordan 2003), online (Hoffman, Blei &
    Bach 2010)."""
    counted, others = _counted(CountVectorizer, train, texts, count)
    model = LatentDirichletAllocation(
        count, learning_method="online", batch_size=1024, max_iter=5, random_state=seed, n_jobs=1
    )
    return _largest(model, counted, others)


def kmeans_codes(
    train: Sequence[str], texts: Sequence[str], count: int, seed: int = 0, embed: Embed | None = None
) -> tuple[Codes, Codes]:
    """k-means on embeddings of unit length, reduced by PCA: *embed*, or the singular vectors of TF-IDF."""
    with threadpool_limits(1):
        if embed is None:
            counted, others = _counted(TfidfVectorizer, train, texts, count)
            reduce: Any = TruncatedSVD(min(COMPONENTS, counted.shape[1] - 1), random_state=seed)
            points, rest = normalize(reduce.fit_transform(counted)), normalize(reduce.transform(others))
        else:
            points, rest = np.asarray(embed(train)), np.asarray(embed(texts))
            reduce = PCA(min(COMPONENTS, *points.shape), random_state=seed).fit(points)
            points, rest = normalize(reduce.transform(points)), normalize(reduce.transform(rest))
        clusters = KMeans(count, n_init=3, random_state=seed).fit(points)
        return clusters.labels_.astype(np.int64), clusters.predict(rest).astype(np.int64)


BASELINES: dict[str, Callable[[Sequence[str], Sequence[str], int, int], tuple[Codes, Codes]]] = {
    "nmf": nmf_codes,
    "lda": lda_codes,
    "kmeans": kmeans_codes,
}


def _counted(kind: Any, train: Sequence[str], texts: Sequence[str], count: int) -> tuple[Any, Any]:
    least = min(LEAST_USES, max(1, len(train) // 100))
    vectorizer = kind(analyzer=content_words, max_features=MAX_FEATURES, min_df=least)
    try:
        found = vectorizer.fit_transform(train)
    except ValueError:
        raise UndefinedMetricError("the training texts have no words but function words") from None
    if min(found.shape) <= count:
        raise UndefinedMetricError(f"{found.shape[0]} texts of {found.shape[1]} words cannot make {count} codes")
    return found, vectorizer.transform(texts)


def _largest(model: Any, train: Any, texts: Any) -> tuple[Codes, Codes]:
    """Each text's largest topic, and −1 for a text without any word that the topics know."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline's last digits are not worth more iterations
        found = [model.fit_transform(train), model.transform(texts)]
    empty = [np.asarray(each.sum(1)).ravel() == 0 for each in (train, texts)]
    first, second = (
        np.where(none, -1, each.argmax(1)).astype(np.int64) for each, none in zip(found, empty, strict=True)
    )
    return first, second
