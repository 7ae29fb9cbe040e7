"""The words that stand for a class of sentences among classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WORDS = 12
MARKED = 2.0  # times as often as all classes together: what makes a word a class's own, see top_words
# Scripts without spaces are counted by the character; everything else by what stands between spaces.
_UNSPACED = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff0f"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


@dataclass(frozen=True)
class Word:
    """A word of a code: its c-TF-IDF score, and how often the code's sentences use it."""

    text: str
    score: float
    count: int


def words_of(text: str) -> list[str]:
    """The words of a sentence that have a letter or digit, in lower case."""
    return [word for word in _WORD.findall(text.lower()) if any(map(str.isalnum, word))]


def c_tf_idf(counts: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    """Class-based TF-IDF: how much a word stands for a class among classes.

        W(t, c) = tf(t, c) · log(1 + A / tf(t))

    tf(t, c): how often class c uses the word t; tf(t): how often all classes do; A: words a class, on average over
    the classes that have any (Grootendorst 2022, "BERTopic", arXiv 2203.05794, equation 2). counts: tf(t, c) of each
    class -> W of each class.
    """
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    average = sum(total.values()) / max(1, sum(1 for own in counts if own))
    return [{word: count * float(np.log1p(average / total[word])) for word, count in own.items()} for own in counts]


def top_words(classes: Sequence[Sequence[str]], n: int = WORDS) -> list[tuple[Word, ...]]:
    """The n words of highest c-TF-IDF of each class of sentences.

    The formula alone puts "the" first everywhere, so only words count that the class uses at least `MARKED` times as
    often as all classes together, or, in a large class, half-way (by ratio) to the most that is possible there. A
    class without such words shows all of its own.
    """
    counts = [Counter(word for text in texts for word in words_of(text)) for texts in classes]
    total: Counter[str] = sum(counts, Counter())
    everything = max(1, sum(total.values()))
    found = []
    for own, scores in zip(counts, c_tf_idf(counts), strict=True):
        size = max(1, sum(own.values()))
        lift = min(MARKED, (everything / size) ** 0.5)
        marked = [word for word in own if own[word] / size >= lift * total[word] / everything]
        best = sorted(marked or own, key=lambda word: (-scores[word], word))[:n]
        found.append(tuple(Word(word, scores[word], own[word]) for word in best))
    return found
