"""Texts, classes and latents as people have them at hand: taken in their own order, or refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

import textebm
from tests.tiny import trained
from textebm.errors import TextEBMError
from textebm.use.inputs import as_symbols, as_texts, lost_in_reading

TEXTS = ["the pizza was bland .", "i loved the film .", "the car will be noisy ."]
FRAME = pd.DataFrame({"text": TEXTS, "y": [0, 1, 2]}).iloc[[2, 0, 1]]  # as sample, sort_values or a split leave it
ORDER = [TEXTS[2], TEXTS[0], TEXTS[1]]
COLUMNS: dict[str, Callable[[], Any]] = {
    "a list": lambda: ORDER,
    "a tuple": lambda: tuple(ORDER),
    "a generator": lambda: (text for text in ORDER),
    "a shuffled pandas column": lambda: FRAME.text,
    "numpy": lambda: FRAME.text.to_numpy(),
    "numpy text": lambda: np.array(ORDER),
    "datasets": lambda: Dataset.from_dict({"text": ORDER})["text"],
    "a filtered column": lambda: pd.Series([*ORDER, None]).dropna(),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_column_is_read_in_its_own_order(kind: str) -> None:
    model, column = trained(), COLUMNS[kind]
    assert as_texts(column()) == ORDER
    assert model.encode(column()).mean.equal(model.encode(ORDER).mean)
    assert model.reconstruct(column()) == model.reconstruct(ORDER)
    assert model.classify(column(), "sentiment").labels == model.classify(ORDER, "sentiment").labels
    assert model.edit(column(), {"sentiment": "positive"}) == model.edit(ORDER, {"sentiment": "positive"})
    assert model.elbo_terms(column()).kl.equal(model.elbo_terms(ORDER).kl)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", "expected a list of texts, got one string"),
        (b"bytes", "got bytes"),
        (FRAME[["text"]], "got a table; choose a column"),
        (Dataset.from_dict({"text": ORDER}), "got a table; choose a column"),
        ({"text": ORDER}, "got a table; choose a column"),
        ({*ORDER}, "a set has no order"),
        (["a", None], r"row 1 is missing \(None\); leave it out first"),
        (pd.Series(["a", float("nan")], index=[5, 3]), r"row 1 is missing \(nan\)"),
        ([5], "row 0 is int, not text"),
        (["a", b"b"], "row 1 is bytes; decode them first"),
        (["\ud83d the pizza"], "row 0 has half a surrogate pair"),
        (np.array([["a"]]), r"an array of shape \(1, 1\)"),
        (torch.zeros(2), "row 0 is float, not text"),
        (7, "expected a list, got int"),
    ],
)
def test_what_is_no_list_of_texts_is_one_error(texts: Any, message: str) -> None:
    model = trained()
    for method in (model.encode, model.reconstruct, model.elbo_terms, model.posterior_draws, as_texts):
        with pytest.raises(TextEBMError, match=message):
            method(texts)
    if not isinstance(texts, Dataset):
        with pytest.raises(TextEBMError, match=message):
            textebm.inspect(model, texts)


def test_classes_are_taken_by_row() -> None:
    model = trained()
    names = ["negative", "positive", "negative"]
    expected = model.generate(3, symbols={"sentiment": names}, seed=0)
    numbers = [model.heads["sentiment"].classes.index(name) for name in names]
    for classes in (pd.Series(names, index=[2, 0, 1]), np.array(names), tuple(names), torch.tensor(numbers)):
        assert model.generate(3, symbols={"sentiment": classes}, seed=0, confidence=None) == expected
    sure = model.generate(3, symbols={"sentiment": pd.Series(names, index=[2, 0, 1])}, seed=0, confidence=0.5)
    assert sure == model.generate(3, symbols={"sentiment": names}, seed=0, confidence=0.5)
    codes = model.encode(TEXTS).codes  # what encode gives back
    assert len(model.generate(3, symbols={"code": codes["code"]}, seed=0)) == 3
    assert as_symbols({"a": np.int64(1), "b": torch.tensor(2)}) == {"a": 1, "b": 2}
    with pytest.raises(TextEBMError, match="symbol 'sentiment': row 1 is NoneType"):
        model.generate(2, symbols={"sentiment": ["positive", None]}, seed=0)  # type: ignore[dict-item]


def test_latents_are_arrays_too() -> None:
    model = trained()
    mean = model.encode(TEXTS).mean
    expected = model.decode(mean)
    assert model.decode(mean.numpy()) == model.decode(mean.double()) == model.decode(mean.tolist()) == expected
    with pytest.raises(TextEBMError, match="not finite"):
        model.decode(mean * float("nan"))
    with pytest.raises(TextEBMError, match=r"expected shape \(n, d\)"):
        model.decode(mean[0])
    with pytest.raises(TextEBMError, match="expected numbers"):
        model.decode(np.array(["a"]))


def test_without_a_seed_sentences_differ_and_the_seed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    model = trained()
    first = model.generate(8, decoding="sample")
    seed = int(capsys.readouterr().err.split()[1])
    assert model.generate(8, decoding="sample", seed=seed) == first
    assert model.generate(8, decoding="sample") != first


def test_unknown_words_and_cut_ends_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = textebm.TextEBM(trained().network)
    model.encode(TEXTS[1:2])
    assert lost_in_reading(["the <unk> was"], model.tokenizer, 16) == "", "it stands there as it is"
    strange = ["zyzzyva qwxz the", "the " * 40]
    with caplog.at_level(logging.WARNING):
        model.encode(strange)
        model.classify(strange, "sentiment")
    said = [record.getMessage() for record in caplog.records if record.name == "textebm.api"]
    assert len(said) <= 1
    lost = lost_in_reading(strange, model.tokenizer, model.max_tokens)
    assert "2 of 20 words are unknown" in lost and "1 of 2 texts have more than 16 tokens" in lost
