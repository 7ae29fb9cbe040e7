"""Codes that no generative model made: TF-IDF, 32 singular vectors, unit length, k-means. Homogeneity alone flatters
whoever has many codes, and these have as many. Fitted on the training split, read on the evaluated one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from textebm.evaluation.assignments import score_assignments
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.state import EvaluationState
from textebm.evaluation.words import top_words
from textebm.text.words import split_words

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

COMPONENTS = 32
MAX_FEATURES = 50_000


def words(text: str) -> list[str]:
    return split_words(text.lower())


def ngrams(text: str) -> list[str]:
    """Words, pairs and triples."""
    own = words(text)
    return [" ".join(own[i : i + n]) for n in (1, 2, 3) for i in range(len(own) - n + 1)]


def ends(text: str) -> list[str]:
    """The first two and the last two words, each marked with its place."""
    own = words(text)
    return [f"{place}:{word}" for place, word in zip(("0", "1"), own[:2], strict=False)] + [
        f"-{place}:{word}" for place, word in zip(("1", "2"), reversed(own[-2:]), strict=False)
    ]


FEATURES: dict[str, Callable[[str], list[str]]] = {"words": words, "ngrams": ngrams, "ends": ends}


def kmeans_codes(
    train: Sequence[str], texts: Sequence[str], num_codes: int, features: Callable[[str], list[str]], seed: int = 0
) -> NDArray[Any]:
    """Codes (n,) of *texts*; everything is fitted on *train*. Undefined with fewer training sentences than codes, or
    hardly a word."""
    if len(train) < num_codes:
        raise UndefinedMetricError(f"{len(train)} training sentences cannot make {num_codes} clusters")
    vectorizer = TfidfVectorizer(analyzer=features, max_features=MAX_FEATURES, sublinear_tf=True)
    weights = vectorizer.fit_transform(train)
    size = min(COMPONENTS, weights.shape[1] - 1)
    if size < 1:
        raise UndefinedMetricError("the training sentences have fewer than two words between them")
    svd = TruncatedSVD(size, random_state=seed)
    clusters = KMeans(num_codes, n_init=3, random_state=seed).fit(normalize(svd.fit_transform(weights)))
    return clusters.predict(normalize(svd.transform(vectorizer.transform(texts))))


def add_kmeans_baselines(state: EvaluationState, encoding: Encoding) -> None:
    """For the first unsupervised head's number of codes; and the words that stand for each code."""
    if not state.unsupervised:
        return
    head = state.unsupervised[0]
    num_codes = len(state.model.heads[head].classes)
    name_codes(state, encoding, head)
    for name, features in FEATURES.items() if state.labels else ():
        state.progress(f"k-means baseline: {name}")
        with state.result.noting(f"k-means baseline {name}"):
            codes = kmeans_codes(state.train_texts, state.texts, num_codes, features, state.seed)
            for label in state.labels:
                match = score_assignments(codes, np.array(state.data[label]), batches=(), permutations=1)
                for metric in ("homogeneity", "v_measure", "ami"):
                    state.result.add(f"kmeans_{name}_{metric}_{label}", getattr(match.pooled, metric), match.n)


def name_codes(state: EvaluationState, encoding: Encoding, head: str) -> None:
    """The five words of highest c-TF-IDF of each code in use, and how many sentences have it."""
    codes = encoding.codes[head].numpy()
    used = sorted(set(codes.tolist()), key=lambda code: -int((codes == code).sum()))
    members = [[state.texts[i] for i in np.flatnonzero(codes == code).tolist()] for code in used]
    classes = state.model.heads[head].classes
    state.result.code_names = {
        classes[code]: f"{' '.join(word.text for word in best)} ({len(texts)})"
        for code, texts, best in zip(used, members, top_words(members, 5), strict=True)
    }
