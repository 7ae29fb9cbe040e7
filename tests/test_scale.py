"""A large corpus: the same laws as for a small one, and nothing that is kept grows with it. Loading in processes."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import recipe, splits

from textebm.model.build import build_corpus, build_heads, build_model, build_tokenizer
from textebm.text.batches import BatchOrder
from textebm.text.shuffle import Shuffle
from textebm.text.splits import draw_splits
from textebm.text.tokenizer import TokenStore, encode_chunks, train_word
from textebm.training.data import read_split
from textebm.training.loop import Trainer

LENGTHS = np.random.default_rng(0).integers(1, 60, size=10_000).astype(np.int16)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000, 4097])
def test_a_shuffle_is_a_permutation(n: int) -> None:
    first, second = Shuffle(n, [0, 1])[np.arange(n)], Shuffle(n, [0, 2])[np.arange(n)]
    assert sorted(first) == sorted(second) == list(range(n))
    assert n < 10 or (first != second).any()
    assert (Shuffle(n, [0, 1])[np.arange(n)[n // 2 :]] == first[n // 2 :]).all(), "any stretch of it by itself"


def test_a_shuffle_has_no_order_left() -> None:
    n = 100_000
    rows = Shuffle(n, 5)[np.arange(n)]
    for lag in (1, 2, 256):
        assert abs(np.corrcoef(rows[:-lag], rows[lag:])[0, 1]) < 4 / n**0.5
    assert abs(np.corrcoef(rows, np.arange(n))[0, 1]) < 4 / n**0.5
    assert abs((rows[: n // 2] < n // 2).mean() - 0.5) < 4 / n**0.5


def test_an_epoch_of_many_rows_holds_each_once_and_can_be_entered_anywhere() -> None:
    order = BatchOrder(LENGTHS, 7, seed=3)
    number = -(-len(LENGTHS) // 7)
    batches = [rows.tolist() for rows in order.batches(2, 0, number)]
    assert len(batches) == number and sorted(row for rows in batches for row in rows) == list(range(len(LENGTHS)))
    assert Counter(map(len, batches)) == {7: number - 1, len(LENGTHS) % 7: 1}
    for first, last in ((0, 3), (49, 51), (50, 100), (333, 1201), (number - 1, number)):
        assert [rows.tolist() for rows in order.batches(2, first, last)] == batches[first:last]
    assert [rows.tolist() for rows in order.batches(3, 0, number)] != batches
    widest = np.mean([LENGTHS[rows].max() - LENGTHS[rows].min() for rows in batches])
    assert widest < 10, "of similar length"


def test_a_batch_of_many_rows_takes_no_more_memory_than_one_of_few() -> None:
    def peak(n: int) -> int:
        order = BatchOrder(np.broadcast_to(np.int16(5), n), 32)
        tracemalloc.start()
        next(order.batches(0, n // 64, n // 32))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(30_000_000) < 1.2 * peak(30_000)


def test_splits_of_many_rows_have_their_shares() -> None:
    drawn = list(draw_splits(10_003, ["validation", "test"], seed=1, large=100))
    assert Counter(drawn) == {"validation": 500, "test": 500, "train": 9003}
    assert drawn == list(draw_splits(10_003, ["validation", "test"], seed=1, large=100))
    assert drawn[:2000].count("test") == pytest.approx(100, abs=40), "anywhere in the file"
    assert Counter(draw_splits(10_003, ["validation", "test"], seed=1)) == Counter(drawn)


def test_a_store_in_files_is_the_one_in_memory(tmp_path: Path) -> None:
    tokenizer, texts = train_word(["a b c d e f"], 10), ["a b", "", "c d e f", "zzz"] * 3000
    held = TokenStore.build(texts, tokenizer, 3)
    TokenStore.write(tmp_path / "tokens", encode_chunks(texts, tokenizer, 3))
    mapped = TokenStore.open(tmp_path / "tokens")
    mapped.release()
    for store in (mapped, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(held))):
        assert (store.tokens == held.tokens).all() and (store.offsets == held.offsets).all()
        assert (store.lengths == held.lengths).all() and len(store) == len(texts)
    TokenStore.write(tmp_path / "none", encode_chunks(["", ""], tokenizer, 3))
    assert TokenStore.open(tmp_path / "none").lengths.tolist() == [0, 0]


def test_a_large_split_is_mapped_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path))
    rows = build_corpus(recipe().data)["train"]
    tokenizer = build_tokenizer(recipe(), rows["text"])
    small = read_split(rows, tokenizer, 16)
    assert small.store.folder is None
    for _ in range(2):
        large = read_split(rows, tokenizer, 16, large=10)
        assert large.store.folder is not None and (large.store.tokens == small.store.tokens).all()
        assert all((large.labels[name] == small.labels[name]).all() for name in small.labels)
    other = read_split(rows.select(range(40)), tokenizer, 16, large=10)
    assert len(other) == 40 and (other.store.tokens == small.store.tokens[: len(other.store.tokens)]).all()
    assert len(list(tmp_path.glob("tokens-*"))) == 2, "written once each"


# ------------------------------------------------------------------------------------------------------- the trainer

STAGES = "training.stages=[{name: autoencoder, steps: 14}, {name: prior, steps: 5}, {name: joint, steps: 5}]"


def many(*overrides: str) -> Trainer:
    """A trainer to which 100 rows are many."""
    chosen = recipe(STAGES, *overrides)
    tokenizer, read, names = splits(recipe(*(each for each in overrides if each.startswith("data."))))
    torch.manual_seed(0)
    model = build_model(chosen, tokenizer, build_heads(chosen, names))
    return Trainer(model, read["train"], read["validation"], chosen, sample=100)


@pytest.mark.parametrize("overrides", [(), ("objective.cluster_residual=false",)])
def test_many_sentences_train_through_every_stage_and_resume_exactly(overrides: tuple[str, ...]) -> None:
    whole = many(*overrides)
    expected, saved = [], {}
    for step in whole.steps():
        expected.append(step.values)
        if step.number in (12, 16, 21):
            tensors, state = whole.state()
            copied = {group: {name: value.clone() for name, value in of.items()} for group, of in tensors.items()}
            saved[step.number] = copied, json.loads(json.dumps(state))
    assert all("cross_entropy_code" in values for values in expected[10:]), "clusters teach every row"
    for number, (tensors, state) in saved.items():
        again = many(*overrides)
        again.restore(tensors, state)
        assert [step.values for step in again.steps()] == expected[number:], number


def test_what_is_kept_does_not_grow_with_the_corpus() -> None:
    sizes = []
    for size in (150, 600):
        worker = many(f"data.size={size}")
        for step in worker.steps():
            held = worker._latents
            assert (held is not None and len(held[1].posterior.mean) <= 100) == (step.stage.name == "prior")
        kept = [each for group in worker.classes.state().values() for each in group.values()]
        sizes.append(sum(each.numel() for each in kept))
    assert sizes[0] == sizes[1]


def test_a_row_beside_the_sample_gets_the_cluster_of_its_mean() -> None:
    worker = many()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 8)).astype(np.float32)
    group = rng.integers(5, size=len(worker.train))
    means = centres[group] + 0.01 * rng.normal(size=(len(group), 8)).astype(np.float32)
    worker.classes.residual = False
    worker.classes.find(means[worker.classes.sample])
    rows = np.arange(len(worker.train))
    targets = worker.classes.targets(rows, torch.device("cpu"))
    assert callable(targets)
    code = targets(torch.from_numpy(means))["code"].numpy()
    assert (code[worker.classes.sample] == worker.classes.clusters["code"]).all()
    assert all(len(set(code[group == k])) == 1 for k in range(5)) and len(set(code)) == 5
