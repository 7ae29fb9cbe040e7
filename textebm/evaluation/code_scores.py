"""What codes of texts are worth without any label: whether their words belong together, whether they differ, whether
somebody who knows only a code's name finds its sentences, and whether another seed finds the same codes.

Everything here takes texts and codes, whoever made them. Names are words with weights, or a string that a person gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.preprocessing import normalize

from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.words import MARKED, top_words
from textebm.text.words import content_words, words_of

Name: TypeAlias = str | Mapping[str, float]
Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.floating[Any]]]  # texts -> (n, d)
Judge: TypeAlias = Callable[[Sequence[Name], Sequence[str]], NDArray[np.floating[Any]]]  # names, texts -> (n, K)

TOP = 10  # words of a code, as in the literature on topic coherence
WINDOW = 10  # words


@dataclass(frozen=True)
class Detection:
    """How well names alone find their sentences, means over the codes that occur.

    auroc: of a name's score between the code's sentences and all others, .5 by chance. f1: where each sentence is
    given the name of its highest score, and none where no name scores above 0. per_code: AUROC of each code, NaN where
    it occurs in no sentence or in all.
    """

    auroc: float
    f1: float
    per_code: tuple[float, ...]


@dataclass(frozen=True)
class Stability:
    """Two codings of the same texts. ami: 0 by chance. agreement: share of texts whose codes are matched one to one;
    partner[a]: the code of the second coding matched with a of the first, −1 where it has none, overlap[a]: the texts
    that both have over those that either has."""

    ami: float
    agreement: float
    partner: tuple[int, ...]
    overlap: tuple[float, ...]


@dataclass(frozen=True)
class CodeScores:
    """coherence: mean NPMI of a code's top words in held-out texts, −1 to 1. diversity: share of different words among
    all codes' top words. detection: see `Detection`. intruder: share of intruders told, .2 by chance."""

    coherence: float
    diversity: float
    detection_auroc: float
    detection_f1: float
    intruder: float


# -- names ---------------------------------------------------------------------------------------------------------


def names_from_words(texts: Sequence[str], codes: ArrayLike, count: int, top: int = TOP) -> list[dict[str, float]]:
    """The *top* content words of highest c-TF-IDF of each code 0 … count − 1, with their scores (`words.top_words`). A
    code with fewer than three of them has function words, too: they are all that it stands for."""
    chosen = np.asarray(codes)
    members = [[texts[i] for i in np.flatnonzero(chosen == code).tolist()] for code in range(count)]
    names = []
    for content, every in zip(top_words(members, top, content_words), top_words(members, top), strict=True):
        marked = [word for word in content if word.z > MARKED]
        names.append({word.text: word.score for word in (marked if len(marked) >= 3 else every)})
    return names


# -- coherence and diversity ---------------------------------------------------------------------------------------


def npmi(words: Sequence[Sequence[str]], texts: Sequence[str], *, window: int = WINDOW) -> list[float]:
    """The mean over the pairs of each list's words of

        NPMI(a, b) = log(p(a, b) / (p(a) p(b))) / −log p(a, b)

    with p the share of windows of *window* neighbouring words that hold the word, or both (Bouma 2009; Röder, Both &
    Hinneburg 2015, "C_NPMI"). A shorter text is one window. A pair that never meets counts −1, and a list of fewer than
    two words NaN.
    """
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(word for own in words for word in own))}
    if not vocabulary:
        return [float("nan")] * len(words)
    rows: list[int] = []
    columns: list[int] = []
    total = 0
    for text in texts:
        found = [vocabulary.get(word, -1) for word in words_of(text)]
        for start in range(max(1, len(found) - window + 1)):
            inside = {place for place in found[start : start + window] if place >= 0}
            rows += [total] * len(inside)
            columns += inside
            total += 1
    seen = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(max(total, 1), len(vocabulary)))
    together = np.asarray((seen.T @ seen).todense()) / max(total, 1)
    return [_mean_npmi(together, [vocabulary[word] for word in own]) for own in words]


def _mean_npmi(together: NDArray[np.float64], places: Sequence[int]) -> float:
    values = []
    for a, b in combinations(places, 2):
        both = together[a, b]
        if both <= 0:
            values.append(-1.0)
        else:
            values.append(1.0 if both >= 1 else float(np.log(both / (together[a, a] * together[b, b])) / -np.log(both)))
    return float(np.mean(values)) if values else float("nan")


def diversity(words: Sequence[Sequence[str]]) -> float:
    """Different words over all words (Dieng, Ruiz & Blei 2020); 1 where no two lists share a word."""
    everything = [word for own in words for word in own]
    return len(set(everything)) / len(everything) if everything else float("nan")


# -- detection -----------------------------------------------------------------------------------------------------


def tfidf_judge(texts: Sequence[str]) -> Judge:
    """A judge that scores by the cosine of TF-IDF vectors; the words' rarities are learned from *texts*.
    Of a name that is a string its content words count."""
    vectorizer = TfidfVectorizer(analyzer=words_of, sublinear_tf=True).fit(texts)

    def judge(names: Sequence[Name], texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        rarity = dict(zip(vectorizer.get_feature_names_out(), vectorizer.idf_, strict=True))
        vectors = np.zeros((len(names), len(rarity)))
        for row, name in enumerate(names):
            weights = dict.fromkeys(content_words(name) or words_of(name), 1.0) if isinstance(name, str) else name
            for word, weight in weights.items():
                if word in rarity:
                    vectors[row, vectorizer.vocabulary_[word]] = weight * rarity[word]
        return np.asarray(vectorizer.transform(texts) @ normalize(vectors).T)

    return judge


def detection(names: Sequence[Name], texts: Sequence[str], codes: ArrayLike, judge: Judge) -> Detection:
    """Which of *texts* have code k, told from names[k] alone; codes (n,). Undefined with fewer than two codes."""
    truth, scores = np.asarray(codes), np.asarray(judge(names, texts), dtype=np.float64)
    if scores.shape != (len(texts), len(names)):
        raise ValueError(f"the judge gave scores of shape {scores.shape}, expected {(len(texts), len(names))}")
    used = np.unique(truth[truth >= 0])
    if len(used) < 2:
        raise UndefinedMetricError("fewer than two codes occur")
    areas = [auroc(scores[:, code], truth == code) for code in range(len(names))]
    told = np.where(scores.max(1) > 0, scores.argmax(1), -1)
    hits = np.array([((told == code) & (truth == code)).sum() for code in used])
    sizes = np.array([(told == code).sum() + (truth == code).sum() for code in used])
    return Detection(_known_mean(areas), float((2 * hits / sizes).mean()), tuple(areas))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The probability that a positive scores above a negative, ties counted half; NaN where one kind is missing."""
    chosen = np.asarray(positive, dtype=bool)
    positives, negatives = int(chosen.sum()), int((~chosen).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(np.asarray(scores))[chosen].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


# -- intruder ------------------------------------------------------------------------------------------------------


def intruder(
    texts: Sequence[str],
    codes: ArrayLike,
    embed: Embed | None = None,
    *,
    typical: ArrayLike | None = None,
    questions: int = 500,
    seed: int = 0,
) -> float:
    """Share of questions in which the sentence least like the other four is the one of another code; .2 by chance.

    A question is four sentences of a code and one of another, alike by the cosine of *embed* (TF-IDF unless given),
    ties counted by share. typical (n,): how typical each text is of its code (p(code|z), say); the four are then drawn
    from the most typical quarter. Undefined unless two codes have four sentences.
    """
    truth, rng = np.asarray(codes), np.random.default_rng(seed)
    pools = {int(code): np.flatnonzero(truth == code) for code in np.unique(truth[truth >= 0])}
    if typical is not None:
        weight = np.asarray(typical)
        pools = {k: own[np.argsort(-weight[own], kind="stable")][: max(4, len(own) // 4)] for k, own in pools.items()}
    pools = {code: own for code, own in pools.items() if len(own) >= 4}
    if len(pools) < 2:
        raise UndefinedMetricError("fewer than two codes have four sentences")
    asked = np.zeros((questions, 5), dtype=np.int64)
    known = list(pools)
    for row in asked:
        own, other = rng.choice(len(known), 2, replace=False)
        row[:4] = rng.choice(pools[known[own]], 4, replace=False)
        row[4] = rng.choice(pools[known[other]])
    rows, places = np.unique(asked, return_inverse=True)
    vectors = (embed or tfidf_vectors)([texts[i] for i in rows.tolist()])
    five = normalize(vectors)[places.reshape(asked.shape)]
    alike = np.einsum("qad,qbd->qab", five, five)
    others = alike.sum(2) - np.einsum("qaa->qa", alike)
    least = np.isclose(others, others.min(1, keepdims=True))
    return float((least[:, 4] / least.sum(1)).mean())


def tfidf_vectors(texts: Sequence[str], components: int = 2000) -> NDArray[np.floating[Any]]:
    """TF-IDF of the *components* commonest words, dense."""
    vectorizer = TfidfVectorizer(analyzer=words_of, sublinear_tf=True, max_features=components, dtype=np.float32)
    return np.asarray(vectorizer.fit_transform(texts).todense())


# -- stability -----------------------------------------------------------------------------------------------------


def stability(first: ArrayLike, second: ArrayLike, count: int | None = None) -> Stability:
    """Compare two codings (n,) of the same texts, codes 0 … count − 1, matched by Hungarian assignment on how many
    texts they share (Kuhn 1955)."""
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two codings of one shape (n,), got {a.shape} and {b.shape}")
    count = count or int(max(a.max(initial=0), b.max(initial=0))) + 1
    both = (a >= 0) & (b >= 0)
    counts = np.zeros((count, count), dtype=np.int64)
    np.add.at(counts, (a[both], b[both]), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    either = counts.sum(1)[rows] + counts.sum(0)[columns] - counts[rows, columns]
    overlap = counts[rows, columns] / np.maximum(either, 1)
    partner = np.where(counts[rows, columns] > 0, columns, -1)
    return Stability(
        float(adjusted_mutual_info_score(a, b)),
        float(counts[rows, columns].sum() / max(len(a), 1)),
        tuple(partner.tolist()),
        tuple(overlap.tolist()),
    )


# -- all of them ---------------------------------------------------------------------------------------------------


def score_codes(
    naming: tuple[Sequence[str], ArrayLike],
    held_out: tuple[Sequence[str], ArrayLike],
    *,
    names: Sequence[Name] | None = None,
    judge: Judge | None = None,
    embed: Embed | None = None,
    seed: int = 0,
) -> CodeScores:
    """Every score of this file that needs one coding alone.

    naming: texts and codes from which each code gets its words; held_out: others, on which all is measured. names: of
    the codes, where people gave them (detection only). judge, embed: who tells (TF-IDF unless given). Negative codes
    are none.
    """
    (texts, codes), (others, truth) = naming, held_out
    known, measured = np.asarray(codes), np.asarray(truth)
    count = int(max(known.max(initial=-1), measured.max(initial=-1))) + 1
    words = names_from_words(texts, known, count)
    lists = [list(own) for own in words]
    told = detection(names or words, others, measured, judge or tfidf_judge(texts))
    return CodeScores(
        coherence=_known_mean(npmi(lists, others)),
        diversity=diversity(lists),
        detection_auroc=told.auroc,
        detection_f1=told.f1,
        intruder=intruder(others, measured, embed, seed=seed),
    )


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def shuffled(naming: ArrayLike, held_out: ArrayLike, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both codings in random order: codes of the same sizes that mean nothing."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.asarray(naming)), rng.permutation(np.asarray(held_out))
