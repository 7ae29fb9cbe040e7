"""Codes that no generative model made: TF-IDF, 32 singular vectors, unit length, k-means. Homogeneity alone flatters
whoever has many codes, and these have as many. Fitted on the training split, read on the evaluated one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from textebm.evaluation.interpretability import match_codes_to_labels
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting, texts_of
from textebm.evaluation.symbols import MATCHES
from textebm.evaluation.words import top_words

COMPONENTS = 32
MAX_FEATURES = 50_000
MAX_SENTENCES = 100_000


def words(text: str) -> list[str]:
    return text.lower().split()


def ngrams(text: str) -> list[str]:
    """Words, pairs and triples."""
    found = words(text)
    return [" ".join(found[i : i + n]) for n in (1, 2, 3) for i in range(len(found) - n + 1)]


def ends(text: str) -> list[str]:
    """The first two and the last two words, each marked with its place."""
    found = words(text)
    return [f"{place}:{word}" for place, word in zip(("0", "1"), found[:2], strict=False)] + [
        f"-{place}:{word}" for place, word in zip(("1", "2"), reversed(found[-2:]), strict=False)
    ]


FEATURES: dict[str, Callable[[str], list[str]]] = {"words": words, "ngrams": ngrams, "ends": ends}


def kmeans_codes(
    train: Sequence[str], texts: Sequence[str], num_codes: int, features: Callable[[str], list[str]], seed: int = 0
) -> NDArray[Any]:
    """Codes (n,) of *texts*. Undefined with fewer training sentences than codes, or hardly a word."""
    if len(train) < num_codes:
        raise UndefinedMetricError(f"{len(train)} training sentences cannot make {num_codes} clusters")
    vectorizer = TfidfVectorizer(analyzer=features, max_features=MAX_FEATURES, sublinear_tf=True)
    fitted = vectorizer.fit_transform(train)
    size = min(COMPONENTS, fitted.shape[1] - 1)
    if size < 1:
        raise UndefinedMetricError("the training sentences have fewer than two words between them")
    svd = TruncatedSVD(size, random_state=seed)
    clusters = KMeans(num_codes, n_init=3, random_state=seed).fit(normalize(svd.fit_transform(fitted)))
    return clusters.predict(normalize(svd.transform(vectorizer.transform(texts))))


def measure(run: Setting, encoding: Encoding) -> None:
    """For the first unsupervised head's number of codes; and the words that stand for each found code."""
    if not run.unsupervised:
        return
    head = run.unsupervised[0]
    num_codes = len(run.model.heads[head].classes)
    name_codes(run, encoding, head)
    if not run.labels:
        return
    train = list(texts_of(run.corpus["train"]))
    if len(train) > MAX_SENTENCES:
        chosen = np.random.default_rng(run.seed).choice(len(train), MAX_SENTENCES, replace=False)
        train = [train[i] for i in np.sort(chosen).tolist()]
    for name, features in FEATURES.items():
        run.progress(f"k-means baseline: {name}")
        try:
            codes = kmeans_codes(train, run.texts, num_codes, features, run.seed)
            for label in run.labels:
                match = match_codes_to_labels(codes, np.array(run.data[label]), seed=run.seed)
                for metric in (each for each in MATCHES if not each.startswith("permuted")):
                    run.result.add(f"kmeans_{name}_{metric}_{label}", getattr(match, metric), match.n)
        except UndefinedMetricError as reason:
            run.result.note(f"k-means baseline {name}: left out, {reason}")


def name_codes(run: Setting, encoding: Encoding, head: str) -> None:
    """The five words of highest c-TF-IDF of each code in use, and how many sentences have it."""
    codes = encoding.codes[head].numpy()
    used = sorted(set(codes.tolist()), key=lambda code: -int((codes == code).sum()))
    members = [[run.texts[i] for i in np.flatnonzero(codes == code).tolist()] for code in used]
    classes = run.model.heads[head].classes
    run.result.code_names = {
        classes[code]: f"{' '.join(word.text for word in best)} ({len(texts)})"
        for code, texts, best in zip(used, members, top_words(members, 5), strict=True)
    }
