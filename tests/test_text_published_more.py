"""AG News and the Stanford dialogues, as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from textebm.errors import CorpusError
from textebm.text.agnews import plain
from textebm.text.corpora import load_corpus


def news(path: Path, n: int, first: int = 0) -> None:
    rows = [{"headline": f"Headline {i}", "text": f"Kuwait #39;s item {i}", "label": 1 + i % 4} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[first:]))


def dialogues(path: Path, n: int) -> None:
    turns = [("driver", "Where's gas?"), ("assistant", " "), ("assistant", "A Chevron, 3 miles.")]
    one = {
        "dialogue": [{"turn": who, "data": {"utterance": said}} for who, said in turns],
        "scenario": {"task": {"intent": "navigate"}},
    }
    path.write_text(json.dumps([one] * n))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Kuwait #39;s minister", "Kuwait's minister"),
        ("a  quot;big quot; day", 'a "big" day'),
        ("cost \\$40", "cost  $40"),
        ("by. &lt;br&gt;&lt;FONT face=", "by.  "),
    ],
)
def test_mark_up_is_taken_out(raw: str, text: str) -> None:
    assert " ".join(plain(raw).split()) == " ".join(text.split())


def test_agnews_trains_on_dev_and_on_the_real_training_file_where_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "agnews"
    folder.mkdir()
    news(folder / "dev.jsonl", 60)
    news(folder / "test.jsonl", 8)

    def load(**options: str) -> dict[str, list[str]]:
        corpus = load_corpus("agnews", data_dir=tmp_path, cache_dir=tmp_path / "cache", **options)
        return {split: list(corpus[split]["text"]) for split in corpus}

    texts = load()
    assert len(texts["train"]) + len(texts["validation"]) == 60 and 2 <= len(texts["validation"]) <= 14
    assert set(texts["train"]).isdisjoint(texts["validation"]) and len(texts["test"]) == 8
    assert texts["test"][0] == "headline 0 . kuwait 's item 0"
    assert load(text_column="headline")["test"][0] == "headline 0"
    with pytest.raises(CorpusError, match="no column 'headlin'; did you mean 'headline'"):
        load(text_column="headlin")
    news(folder / "train.jsonl", 100)
    texts = load()
    assert (len(texts["train"]), len(texts["validation"])) == (100, 60)


def test_smd_has_a_row_a_turn_with_the_turns_before_and_the_task(tmp_path: Path) -> None:
    folder = tmp_path / "smd"
    folder.mkdir()
    dialogues(folder / "kvret_dev_public.json", 3)
    dialogues(folder / "kvret_test_public.json", 20)
    corpus = load_corpus("smd", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    # without the training file: test is trained on (but for every tenth dialogue), dev is the test split
    assert {split: len(rows) for split, rows in corpus.items()} == {"train": 36, "validation": 4, "test": 6}
    first, second = list(corpus["test"])[:2]
    assert first == {"text": "where 's gas ?", "context": [], "domain": 0, "speaker": 0}
    assert second == {"text": "a chevron , 3 miles .", "context": ["where 's gas ?"], "domain": 0, "speaker": 1}
    dialogues(folder / "kvret_train_public.json", 5)
    corpus = load_corpus("smd", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert {split: len(rows) for split, rows in corpus.items()} == {"train": 10, "validation": 6, "test": 40}


@pytest.mark.parametrize("content", ["{", "[" * 9000, "[{}, {}]", '{"a": 1}', '[[], {"scenario": 3}]'])
def test_files_of_another_form_are_refused_in_a_line(content: str, tmp_path: Path) -> None:
    for name in ("kvret_dev_public.json", "kvret_test_public.json"):
        (tmp_path / "smd").mkdir(exist_ok=True)
        (tmp_path / "smd" / name).write_text(content)
    with pytest.raises(CorpusError, match="kvret_test_public.json"):
        load_corpus("smd", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    for name in ("dev.jsonl", "test.jsonl"):
        (tmp_path / "agnews").mkdir(exist_ok=True)
        (tmp_path / "agnews" / name).write_text(content)
    with pytest.raises(CorpusError, match="dev.jsonl, line 1: expected headline, text and a label"):
        load_corpus("agnews", data_dir=tmp_path, cache_dir=tmp_path / "cache")
