"""The words that stand for a class of sentences among classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textebm.text.words import words_of

WORDS = 12
MARKED = 1.96  # standard errors above the other classes: what makes a word a class's own, see top_words


@dataclass(frozen=True)
class Word:
    """A word of a code: its c-TF-IDF score; how often the code's sentences use it; and by how many standard errors
    more than the others' do (`log_odds`)."""

    text: str
    score: float
    count: int
    z: float


def c_tf_idf(counts: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    """Class-based TF-IDF: how much a word stands for a class among classes.

        W(t, c) = sqrt(tf(t, c) / |c|) · log(1 + A / tf(t))

    tf(t, c): how often class c uses the word t; |c|: its words; tf(t): how often all classes use t; A: words a class,
    on average over the classes that have any (Grootendorst 2022, "BERTopic", arXiv 2203.05794, equation 2; the root,
    that paper's software's option against frequent words). counts: tf(t, c) of each class -> W of each class.
    """
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    average = sum(total.values()) / max(1, sum(1 for own in counts if own))
    return [
        {
            word: (count / own_size) ** 0.5 * float(np.log1p(average / total[word]))
            for own_size in [sum(own.values())]
            for word, count in own.items()
        }
        for own in counts
    ]


def log_odds(counts: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    """How surely a class uses a word more than the other classes do, in standard errors.

        z(t, c) = (logit p(t|c) − logit p(t|¬c)) / sqrt(1 / (tf(t, c) + a_t) + 1 / (tf(t, ¬c) + a_t))

    with each frequency estimated under a Dirichlet prior a_t = tf(t) / C, one class's worth of the corpus (the
    informative prior of Monroe, Colaresi & Quinn 2008, "Fightin' Words"). counts: of the C classes -> z of their words.
    """
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    classes, everything = max(1, len(counts)), sum(total.values())
    weight = everything / classes
    classes_scores = []
    for own in counts:
        size, scores = sum(own.values()), {}
        for word, count in own.items():
            prior = total[word] / classes
            here, there = count + prior, total[word] - count + prior
            others, rest = size + weight - here, everything - size + weight - there
            # a corpus of one word has no others, and no odds
            odds = np.log(here / others) - np.log(there / rest) if others > 0 and rest > 0 else 0.0
            scores[word] = float(odds / (1 / here + 1 / there) ** 0.5)
        classes_scores.append(scores)
    return classes_scores


def top_words(
    classes: Sequence[Sequence[str]], n: int = WORDS, words: Callable[[str], list[str]] = words_of
) -> list[tuple[Word, ...]]:
    """The n words of highest c-TF-IDF of each class of sentences, among those that the class surely uses more than
    the others do: `log_odds` above `MARKED`, and not once only. The formula alone lets "the" and "was" lead.

    words: which words of a sentence count. A class with fewer than three such words shows those that it uses more at
    all, and a single class all of its own.
    """
    counts = [Counter(word for text in texts for word in words(text)) for texts in classes]
    best_words = []
    for own, scores, odds in zip(counts, c_tf_idf(counts), log_odds(counts), strict=True):
        marked = [word for word in own if odds[word] > MARKED and own[word] > 1]
        if len(marked) < 3:
            marked = [word for word in own if odds[word] > 1e-9] or list(own)
        best = sorted(marked, key=lambda word: (-scores[word], word))[:n]
        best_words.append(tuple(Word(word, scores[word], own[word], odds[word]) for word in best))
    return best_words
