"""Labels for texts that have none, from the few that have one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

ROUNDS = 15
UNLABELLED = 0.3  # what a text without a label counts
PRIOR = 0.5  # of a word in a class, in occurrences (Jeffreys)


def bag_of_tokens(tokens: NDArray[np.integer], offsets: NDArray[np.integer]) -> csr_matrix:
    """How often each topical word stands in each text, (n, V): words of at least two texts and at most a tenth of them.
    tokens (N,), one text after the other; offsets (n + 1,)."""
    n = len(offsets) - 1
    own = np.asarray(tokens[: offsets[-1]], dtype=np.int64)
    ones, ends = np.ones(len(own)), np.asarray(offsets, dtype=np.int64)
    counts = csr_matrix((ones, own, ends), (n, int(own.max(initial=0)) + 1))
    counts.sum_duplicates()
    texts = np.bincount(counts.indices, minlength=counts.shape[1])
    chosen = (texts >= 2) & (texts <= max(n / 10, 2))
    return counts[:, chosen]


def estimate_labels(counts: csr_matrix, labels: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """The labels (n,), −1 where unknown, with the unknown ones filled in by naive Bayes: a multinomial of words for
    each class, fitted by EM to all texts (Nigam, McCallum, Thrun & Mitchell 2000). Known ones stay; where all are
    known, or none, nothing changes."""
    given: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
    known = given >= 0
    if not known.any() or known.all():
        return given.copy()
    truth = np.eye(classes)[np.maximum(given, 0)] * known[:, None]
    weighted = truth
    for _ in range(ROUNDS + 1):
        words = (counts.T @ weighted).T + PRIOR  # (K, V)
        log_word = np.log(words / words.sum(1, keepdims=True))
        logits = counts @ log_word.T + np.log(weighted.sum(0) + 1)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        weighted = np.where(known[:, None], truth, UNLABELLED * p)
    return np.where(known, given, p.argmax(1)).astype(np.int64)
