"""Reading at scale: PYTHONPATH=. python tests/benchmarks/scale.py 10000 100000 1000000

For each number of sentences, in a process of its own: seconds and peak memory of tokenising generated text as a stream,
ordering an epoch and collating all of its batches in the loading thread.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np


def texts(n: int) -> Iterator[str]:
    """n sentences of 1 to 40 made-up words, never all in memory."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(9_996)])
    for start in range(0, n, 1000):
        for length in rng.integers(1, 41, min(1000, n - start)):
            yield " ".join(words[rng.integers(len(words), size=length)])


def measure(n: int) -> None:
    from textebm.text.batches import BatchOrder, load_batches
    from textebm.text.tokenizer import TokenStore, train_word

    tokenizer = train_word([" ".join(f"w{number}" for number in range(9_996))] * 2, 10_000)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    store = TokenStore.build(texts(n), tokenizer, 40)
    built = time.perf_counter()
    batches = sum(1 for _ in load_batches(store, BatchOrder(store.lengths, 128).epoch(0), {}, tokenizer))
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n:>10,} sentences: tokenised in {built - began:7.1f} s, {batches:,} batches in {ended - built:6.1f} s; "
        f"store {(store.tokens.nbytes + store.offsets.nbytes) / 2**20:7.1f} MiB, peak {before:,.0f} -> {peak:,.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    for size in map(int, sys.argv[1:] or ["10000", "100000"]):
        process = spawn.Process(target=measure, args=(size,))
        process.start()
        process.join()
