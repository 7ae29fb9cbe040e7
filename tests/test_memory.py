"""Corpora that lie in memory; a run knows its corpus and can be moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import textebm
from tests.tiny import RECIPE
from textebm.errors import CorpusError, TextEBMError
from textebm.recipe.read import parse_recipe
from textebm.runs.evaluate import evaluate_run
from textebm.runs.memory import keep_in_run

TEXTS = [
    f"the {noun} was {word} {n} ." for n in range(5) for noun in ("film", "room") for word in ("good", "bad", "old")
]
LABELS = ["yes" if "good" in text else "no" for text in TEXTS]
PLAIN = {**RECIPE, "heads": [{"name": "y", "labels": "label"}, {"name": "code", "classes": 3}]}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def kept(data: Any, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    given = parse_recipe(PLAIN, ["data.corpus=files", "data.train=a.txt", "data.label_columns=[label]"])
    recipe = keep_in_run(data, tmp_path / "run", given, **options)
    assert recipe.data.corpus == "files" and recipe.data.train is not None
    return [json.loads(line) for line in Path(recipe.data.train).read_text().splitlines()]


def test_every_table_is_the_same_corpus(tmp_path: Path) -> None:
    frame = pd.DataFrame({"review": TEXTS, "label": LABELS, "more": 1})
    frame.index = frame.index[::-1]  # rows count, not the index
    rows = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes", "unused"])})
    classes = Dataset.from_dict({"text": TEXTS, "label": [int(y == "yes") for y in LABELS]}, features=features)
    expected = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    assert kept((TEXTS, LABELS), tmp_path) == expected
    assert kept((pd.Series(TEXTS), {"label": pd.Series(LABELS)}), tmp_path) == expected
    assert kept(frame, tmp_path, text="review") == expected
    assert kept(rows, tmp_path) == kept(classes, tmp_path) == expected
    assert kept(DatasetDict({"train": rows, "test": rows}), tmp_path, labels="label") == expected
    assert kept({"train": (TEXTS, LABELS), "validation": (TEXTS, LABELS)}, tmp_path) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXTS, "train has no column 'label'"),
        ((TEXTS, LABELS[:-1]), "30 texts and 29 labels 'label'"),
        ({"test": TEXTS}, "no split 'train'"),
        (pd.DataFrame({"texts": TEXTS, "label": LABELS}), "no column 'text'; did you mean 'texts'"),
        (({"a", "b"}, ["x", "y"]), "a set has no order"),
        (([1, 2], ["x", "y"]), "row 0 is int, not text"),
        ((["a", "b"], ["x", ["y"]]), "row 1: a label is a string or a number"),
        ("one text", "got one string"),
    ],
)
def test_what_is_no_corpus_is_one_error(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(TextEBMError, match=message):
        kept(data, tmp_path)


def test_a_run_from_memory_can_be_moved_and_refuses_another_corpus(tmp_path: Path) -> None:
    data = pd.DataFrame({"text": TEXTS * 4, "label": LABELS * 4})
    overrides = {"training.stages.0.steps": 4, "training.stages.1.steps": 4, "data.max_tokens": 12}
    run = textebm.train(PLAIN, data=data, overrides=overrides, out=tmp_path / "run", quiet=True)
    assert run.evaluation is not None and run.model.heads["y"].classes == ("no", "yes")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    again = evaluate_run(tmp_path / "elsewhere", limit=5)
    assert again.sizes["train"] == run.evaluation.sizes["train"] == 108
    with (tmp_path / "elsewhere" / "data" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more", "label": "no"}) + "\n")
    with pytest.raises(CorpusError, match="the corpus is not the one of .*elsewhere"):
        evaluate_run(tmp_path / "elsewhere", limit=5)
    with pytest.raises(CorpusError, match="the corpus is not the one of"):
        textebm.train(
            tmp_path / "elsewhere" / "recipe.yaml",
            overrides=[f"data.train={tmp_path / 'elsewhere' / 'data' / 'train.jsonl'}"],
            out=tmp_path / "elsewhere",
            resume=True,
            quiet=True,
        )
