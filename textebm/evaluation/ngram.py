"""N-gram language models: references for perplexities that cost a second, and a score of how fluent texts are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textebm.evaluation.metric import UndefinedMetricError
from textebm.text.words import split_words

ORDER = 3
START, END, UNKNOWN = ("start",), ("end",), ("unknown",)  # no word of a text is a tuple
Gram = tuple[Hashable, ...]


@dataclass(frozen=True)
class NGramModel:
    """An n-gram model by interpolated Kneser–Ney with one discount an order (Kneser & Ney 1995; Chen & Goodman 1999,
    equation 24):

        p(w | h) = (max(c(hw) − D, 0) + D N(h) p(w | h')) / c(h),   p() = 1 / |V|

    h' is h without its first word; c counts occurrences at the highest order and different words before at the lower
    ones; N(h) counts the different words after h; D = n1 / (n1 + 2 n2). V holds the known words, the unknown word and
    the end of a sentence. An unknown word is each of the *rare* different ones with the same probability, so that
    invented words are no cheaper than others.
    """

    known: frozenset[Hashable]
    counts: tuple[Mapping[Gram, int], ...]  # of the orders 1 … n
    followers: tuple[Mapping[Gram, tuple[int, int]], ...]  # history -> c(h), N(h)
    discounts: tuple[float, ...]
    rare: int = 1  # different words that the unknown word stands for

    @classmethod
    def fit(cls, sentences: Iterable[Sequence[Hashable]], *, order: int = ORDER, min_count: int = 1) -> NGramModel:
        """From sentences as sequences of words or token ids. Words seen less than *min_count* times become the unknown
        word, so that it has a probability. Undefined without a word."""
        read = [tuple(sentence) for sentence in sentences]
        frequency = Counter(word for sentence in read for word in sentence)
        if not frequency:
            raise UndefinedMetricError("an n-gram model needs sentences with a word")
        known = frozenset(word for word, count in frequency.items() if count >= min_count)
        highest: Counter[Gram] = Counter()
        for sentence in read:
            highest.update(_grams(sentence, known, order))
        counts = [highest]
        while len(counts) < order:
            counts.insert(0, Counter(gram[1:] for gram in counts[0]))
        rare = max(1, len(frequency) - len(known))
        return cls(known, tuple(counts), tuple(map(_followers, counts)), tuple(map(_discount, counts)), rare)

    def probability(self, gram: Gram) -> float:
        """p(last word | those before it), of the unknown word as a whole; *gram* has as many words as the model's
        order."""
        p = 1 / (len(self.known) + 2)
        for order, (counts, followers, discount) in enumerate(
            zip(self.counts, self.followers, self.discounts, strict=True), 1
        ):
            end = gram[len(gram) - order :]
            if (total := followers.get(end[:-1])) is None:
                break  # a longer history was not seen either
            p = (max(counts.get(end, 0) - discount, 0.0) + discount * total[1] * p) / total[0]
        return p

    def nll(self, sentence: Sequence[Hashable]) -> float:
        """−log p of a sentence and its end, nats."""
        grams = list(_grams(sentence, self.known, len(self.counts)))
        unknown = sum(gram[-1] == UNKNOWN for gram in grams)
        return unknown * math.log(self.rare) - math.fsum(math.log(self.probability(gram)) for gram in grams)

    def perplexity(self, sentences: Iterable[Sequence[Hashable]]) -> float:
        """exp of the mean −log p a word, ends of sentences included. Undefined without a sentence."""
        nll, words = [], 0
        for sentence in sentences:
            nll.append(self.nll(sentence))
            words += len(sentence) + 1
        if not words:
            raise UndefinedMetricError("there are no sentences")
        return math.exp(math.fsum(nll) / words)


def _grams(sentence: Sequence[Hashable], known: frozenset[Hashable], order: int) -> Iterable[Gram]:
    words = [*[START] * (order - 1), *(word if word in known else UNKNOWN for word in sentence), END]
    return zip(*(words[i:] for i in range(order)), strict=False)


def _followers(counts: Mapping[Gram, int]) -> dict[Gram, tuple[int, int]]:
    totals: dict[Gram, tuple[int, int]] = {}
    for gram, count in counts.items():
        total, kinds = totals.get(gram[:-1], (0, 0))
        totals[gram[:-1]] = total + count, kinds + 1
    return totals


def _discount(counts: Mapping[Gram, int]) -> float:
    once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
    return min(max(once / (once + 2 * twice), 0.1), 0.9) if once else 0.1


@dataclass(frozen=True)
class Fluency:
    """score: 0 = the words of real sentences in random order, 1 = real sentences, in between by log-perplexity; above 1
    = more predictable than real text (dull or copied). The perplexities are those of the n-gram model, a word."""

    score: float
    perplexity: float
    real: float
    shuffled: float


def fluency(samples: Sequence[str], real: Sequence[str], model: NGramModel, *, seed: int = 0) -> Fluency:
    """How fluent *samples* are for an n-gram *model* of training text (`fit_words`):

        score = (ln P(shuffled) − ln P(samples)) / (ln P(shuffled) − ln P(real)),   P = perplexity

    real: sentences that the model was not fitted on. shuffled: their words dealt at random over sentences of the same
    lengths. Undefined without sentences, or where shuffling changes nothing.
    """
    sentences = [split_words(text) for text in real]
    words = [word for sentence in sentences for word in sentence]
    order = iter(np.random.default_rng(seed).permutation(len(words)).tolist())
    dealt = [[words[next(order)] for _ in sentence] for sentence in sentences]
    floor, ceiling = model.perplexity(dealt), model.perplexity(sentences)
    own = model.perplexity(map(split_words, samples))
    if floor <= ceiling * (1 + 1e-9):
        raise UndefinedMetricError("the real sentences are no likelier than their words in random order")
    return Fluency(math.log(floor / own) / math.log(floor / ceiling), own, ceiling, floor)


def fit_words(texts: Iterable[str]) -> NGramModel:
    """The trigram model of the words of *texts*; words seen once stand for the unknown ones."""
    return NGramModel.fit(map(split_words, texts), min_count=2)
