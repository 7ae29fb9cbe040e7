"""Are free samples like the corpus, and unlike each other and the training text? Words are what spaces separate."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sacrebleu.metrics.bleu import BLEU

from textebm.evaluation.metric import UndefinedMetricError

MAX_ORDER = 4


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    return counts


def wkl(samples: Sequence[str], training_counts: Mapping[str, int]) -> float:
    """Sum over words in both of f_gen log(f_gen / f_train), nats (as reported by Shi et al. 2020).

    Frequencies are normalised over all words of each side, before the words in common are picked. The test split of
    PTB against its training split gives 0.136 (published: 0.14). Compare only at equal n: few sentences score too high,
    by about (vocabulary - 1) / (2 words sampled); 2,000 of PTB's own training sentences score 0.116. Words that
    training never saw cost nothing (see `unseen_share`). Undefined when the two sides share no word.
    """
    generated = word_counts(samples)
    total, training_total = sum(generated.values()), sum(training_counts.values())
    common = [word for word in generated if training_counts.get(word, 0) > 0]
    if not common:
        raise UndefinedMetricError("the texts share no word with the training split")
    return math.fsum(
        generated[w] / total * math.log(generated[w] * training_total / (total * training_counts[w])) for w in common
    )


def unseen_share(samples: Sequence[str], training_counts: Mapping[str, int]) -> float:
    """Share of the words of *samples* that the training split does not have."""
    generated = word_counts(samples)
    total = sum(generated.values())
    return sum(n for w, n in generated.items() if training_counts.get(w, 0) == 0) / total if total else 0.0


def _self_bleu_settings() -> BLEU:
    """Floor smoothing (method 1 of Chen & Cherry 2014: 0.1 for an order without a match), as usual for self-BLEU
    since Texygen (Zhu et al. 2018); effective order, since a three-word sentence has no 4-grams to be wrong about.
    """
    return BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=True, force=True)


def self_bleu_signature(n: int) -> str:
    """sacrebleu's signature of `self_bleu` over *n* sentences."""
    bleu = _self_bleu_settings()
    bleu.sentence_score("a", ["a"] * max(n - 1, 1))  # the signature counts references, so it exists only after a score
    return str(bleu.get_signature())


def self_bleu(samples: Sequence[str]) -> float:
    """Mean over sentences of sentence-level BLEU-4 (0-100) against all others as references. High = alike. Needs two
    sentences.

    Equal to sacrebleu's sentence BLEU with the settings of `self_bleu_signature`, in linear time: a sentence's
    clipped counts need only the largest count of each n-gram among the *others*, that is the largest over all or, for
    its holder, the second largest. Rises with the number of samples; an empty sentence scores 0.
    """
    if len(samples) < 2:
        raise UndefinedMetricError("self-BLEU needs at least two sentences")
    sentences = [text.split() for text in samples]
    lengths = sorted(len(words) for words in sentences)
    ngrams = [_ngram_counts(words) for words in sentences]
    top: dict[tuple[str, ...], tuple[int, int, int]] = {}  # n-gram -> largest count, its sentence, second largest count
    for i, counts in enumerate(ngrams):
        for gram, count in counts.items():
            largest, holder, second = top.get(gram, (0, -1, 0))
            if count > largest:
                top[gram] = (count, i, largest)
            elif count > second:
                top[gram] = (largest, holder, count)
    scores = []
    for i, (words, counts) in enumerate(zip(sentences, ngrams, strict=True)):
        correct = [0] * MAX_ORDER
        total = [max(len(words) - order, 0) for order in range(MAX_ORDER)]
        for gram, count in counts.items():
            largest, holder, second = top[gram]
            correct[len(gram) - 1] += min(count, second if holder == i else largest)
        closest = _closest_other(len(words), lengths)
        score = BLEU.compute_bleu(
            correct, total, len(words), closest, smooth_method="floor", smooth_value=0.1, effective_order=True
        )
        scores.append(score.score)
    return math.fsum(scores) / len(scores)


def mean_self_bleu(classes: Iterable[Sequence[str]]) -> float:
    """`self_bleu` within each class of sentences, averaged over the classes that have two."""
    scores = [self_bleu(texts) for texts in classes if len(texts) > 1]
    if not scores:
        raise UndefinedMetricError("self-BLEU needs a class of at least two sentences")
    return math.fsum(scores) / len(scores)


def _ngram_counts(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_ORDER + 1) for i in range(len(words) - n + 1))


def _closest_other(length: int, lengths: Sequence[int]) -> int:
    """The length nearest to *length* among the sorted *lengths* without one occurrence of *length* itself; the
    shorter on a tie.
    """
    at = bisect_left(lengths, length)
    neighbours = ([lengths[at - 1]] if at > 0 else []) + ([lengths[at + 1]] if at + 1 < len(lengths) else [])
    return min(neighbours, key=lambda other: (abs(other - length), other))


def distinct_n(samples: Sequence[str], n: int) -> float:
    """Distinct n-grams / n-grams over all samples (Li et al. 2016). Falls with the number of samples."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in samples:
        words = text.split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        seen.update(grams)
        total += len(grams)
    if total == 0:
        raise UndefinedMetricError(f"no sentence has {n} words")
    return len(seen) / total


def copied_share(samples: Sequence[str], training_texts: Iterable[str]) -> float:
    """Share of samples that are training sentences, up to spacing. Reads the training texts once and keeps none of
    them.

    Samples without a word count as not copied.
    """
    if not samples:
        raise UndefinedMetricError("there are no samples")
    normal = [" ".join(text.split()) for text in samples]
    wanted = set(normal) - {""}
    seen = {text for text in (" ".join(line.split()) for line in training_texts) if text in wanted}
    return sum(text in seen for text in normal) / len(normal)


def empty_share(samples: Sequence[str]) -> float:
    """Share of samples without a word."""
    if not samples:
        raise UndefinedMetricError("there are no samples")
    return sum(not text.strip() for text in samples) / len(samples)
