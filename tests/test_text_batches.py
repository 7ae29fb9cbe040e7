from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textebm.text.batches import BatchOrder, collate, collate_texts, load_batches, padding_share, prefetch, shards
from textebm.text.tokenizer import TokenStore, train_word

STORE = TokenStore(np.array([5, 6, 7, 8, 9, 4], dtype=np.int32), np.array([0, 3, 3, 5, 6]))


def test_collate_by_hand() -> None:
    batch = collate(STORE, [2, 0, 1], {"y": np.array([0, 1, -1, 2])}, pad=0, bos=1, eos=2)
    assert batch.tokens.tolist() == [[1, 8, 9, 2, 0], [1, 5, 6, 7, 2], [1, 2, 0, 0, 0]]
    assert batch.lengths.tolist() == [4, 5, 2]
    assert batch.mask.tolist() == [[True] * 4 + [False], [True] * 5, [True] * 2 + [False] * 3]
    assert batch.labels["y"].tolist() == [-1, 0, 1] and batch.index.tolist() == [2, 0, 1]
    assert {batch.tokens.dtype, batch.lengths.dtype, batch.index.dtype, batch.labels["y"].dtype} == {torch.int64}
    assert len(batch) == 3 and torch.equal(batch.to("cpu").tokens, batch.tokens)


def test_collate_texts() -> None:
    tokenizer = train_word(["a b"], 10)
    batch = collate_texts(["a", "", "b zzz a"], tokenizer, max_tokens=2)
    assert batch.tokens.tolist() == [[1, 4, 2, 0], [1, 2, 0, 0], [1, 5, 3, 2]]


LENGTHS = np.random.default_rng(0).integers(1, 60, size=10_000)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9))
def test_each_epoch_holds_every_row_once(n: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = list(BatchOrder(LENGTHS[:n], batch_size, seed).batches(epoch))
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(list(BatchOrder(LENGTHS, 32, seed).batches(epoch))).tolist()

    assert flat(0, 3) == flat(0, 3)
    assert flat(0, 3) != flat(0, 4) and flat(0, 3) != flat(1, 3)
    assert flat(0, 1) != flat(1, 0)


def test_buckets_save_padding() -> None:
    order = BatchOrder(LENGTHS, 32)
    shuffled = np.array_split(np.random.default_rng(1).permutation(len(LENGTHS)), len(LENGTHS) // 32)
    assert padding_share(LENGTHS, order.batches(0)) < 0.05 < 0.3 < padding_share(LENGTHS, shuffled)
    widths = [int(LENGTHS[rows].max()) for rows in order.batches(0)]
    assert abs(np.corrcoef(widths[:-1], widths[1:])[0, 1]) < 0.25, "long batches do not follow one another"


def test_padding_share_by_hand() -> None:
    assert padding_share(np.array([1, 3, 2]), [np.array([0, 1]), np.array([2])]) == pytest.approx(1 - 6 / 8)
    assert padding_share(np.array([1]), []) == 0


def prefetch_threads() -> int:
    return sum(thread.name == "textebm-prefetch" for thread in threading.enumerate())


def test_prefetch_keeps_the_order_and_stays_bounded() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = prefetch(items(), ahead=2)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    assert list(ahead) == list(range(1, 100))
    assert prefetch_threads() == 0


def test_prefetch_passes_errors_on_and_closes() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    ahead = prefetch(failing())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="broken"):
        next(ahead)
    endless = prefetch(itertools.count())
    assert next(endless) == 0
    endless.close()
    with pytest.raises(RuntimeError, match="consumer"):
        for _ in prefetch(itertools.count()):
            raise RuntimeError("consumer")
    prefetch(itertools.count())  # never started, and dropped
    assert prefetch_threads() == 0


def test_loading_is_collating_in_order() -> None:
    tokenizer = train_word(["a b c d e f"], 10)
    texts = ["a", "b c", "d e f", "", "f f f f"]
    store = TokenStore.build(texts, tokenizer, 10)
    order = list(BatchOrder(store.lengths, 2).batches(0))
    batches = [batch for ((batch, _),) in load_batches(store, map(shards, order), {"y": np.arange(5)}, tokenizer)]
    assert [batch.index.tolist() for batch in batches] == [rows.tolist() for rows in order]
    assert all(torch.equal(batch.labels["y"], batch.index) for batch in batches)
    assert all(int(batch.tokens[0, 0]) == tokenizer.bos_token_id for batch in batches)


@pytest.mark.parametrize(
    ("n", "turns", "processes"), [(7, 1, 1), (7, 2, 1), (7, 1, 3), (8, 2, 2), (2, 2, 2), (1, 2, 3)]
)
def test_shards_hold_each_row_once_and_every_process_has_as_many(n: int, turns: int, processes: int) -> None:
    rows = np.arange(10, 10 + n)
    dealt = [shards(rows, turns, processes, rank) for rank in range(processes)]
    assert len({len(of) for of in dealt}) == 1, "or the processes would wait for each other for ever"
    own = [shard for of in dealt for shard in of]
    assert sorted(row for shard in own if shard.share > 0 for row in shard.rows) == rows.tolist()
    assert sum(shard.share for shard in own) == pytest.approx(1)
    for shard in own:
        assert shard.share == pytest.approx(len(shard.rows) / n) if shard.share else shard.rows.tolist() == [10]
