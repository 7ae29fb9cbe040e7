from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textebm.errors import CorpusError
from textebm.text.corpora import find_corpus, load_corpus, load_judge_corpus
from textebm.text.natural import tokenize


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.delenv("TEXTEBM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def yelp(folder: Path) -> Path:
    for split, counts in {"train": (2, 4), "dev": (1, 1), "test": (1, 1), "classifier": (1, 2)}.items():
        for label, count in enumerate(counts):
            lines = "".join(f"{split} {label} sentence {n} .\n" for n in range(count))
            write(folder / "yelp" / f"sentiment.{split}.{label}", lines)
    for label in (0, 1):
        write(folder / "yelp" / f"reference.{label}", f"test {label} sentence 0 .\trewritten {label} .\n")
    return folder


def dailydialog(folder: Path) -> Path:
    for split in ("train", "validation", "test"):
        files = {
            "dialogues": "Hi , I don ’ t know ! __eou__ You are right.But why ? __eou__\nOne . __eou__ Two __eou__\n",
            "dialogues_act": "1 2 \n3 \n",
            "dialogues_emotion": "0 6 \n4 \n",
        }
        for name, text in files.items():
            write(folder / "dailydialog" / split / f"{name}_{split}.txt", text)
    return folder


def test_ptb(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / "ptb" / f"ptb.{split}.txt", f" the <unk> {split} \n\n N years \n")
    splits = load_corpus("ptb", data_dir=tmp_path)
    assert splits["train"]["text"][:] == ["the <unk> train", "N years"]
    assert splits["validation"][0] == {"text": "the <unk> valid"}


def test_yelp_merges_the_sentiments_and_keeps_the_references(tmp_path: Path) -> None:
    splits = load_corpus("yelp", data_dir=yelp(tmp_path))
    assert splits["train"]["sentiment"][:3].count(0) == 1 and splits["train"]["sentiment"][:].count(0) == 2
    assert splits["train"].features["sentiment"].names == ["negative", "positive"]
    assert splits["test"].to_list() == [
        {"text": f"test {label} sentence 0 .", "sentiment": label, "reference": f"rewritten {label} ."}
        for label in (0, 1)
    ]
    judge = load_judge_corpus("yelp", tmp_path)
    assert judge is not None and len(judge) == 3 and set(judge.column_names) == {"text", "sentiment"}
    assert load_judge_corpus("ptb", tmp_path) is None


def test_dailydialog_turns_context_and_the_extra_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        splits = load_corpus("dailydialog", data_dir=dailydialog(tmp_path))
    assert "line 2: 2 turns, 1 labels" in caplog.text
    first, second, third = splits["train"].to_list()
    assert first == {"text": "hi , i do n't know !", "context": [], "act": 0, "emotion": 0}
    assert second == {"text": "you are right . but why ?", "context": [first["text"]], "act": 1, "emotion": 6}
    assert third == {"text": "one .", "context": [], "act": 2, "emotion": 4}
    assert splits["train"].features["act"].names == ["inform", "question", "directive", "commissive"]


def test_dailydialog_bad_label(tmp_path: Path) -> None:
    dailydialog(tmp_path)
    write(tmp_path / "dailydialog/train/dialogues_act_train.txt", "1 5 \n3 \n")
    with pytest.raises(CorpusError, match="line 1: expected acts of 1..4"):
        load_corpus("dailydialog", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("You're right.But I can't!", "you 're right . but i ca n't !"),
        ("It ’ s 6:30 p.m. , isn't it ?", "it 's 6:30 p.m. , is n't it ?"),
        ("$1,000.50 isn't a lot...really", "$ 1,000.50 is n't a lot ... really"),
        ("mail me@x.com or www.x.com.", "mail me@x.com or www.x.com ."),
        ("A well-known “X-ray” o'clock", 'a well-known " x-ray " o\'clock'),
        ("3.But", "3 . but"),
    ],
)
def test_tokenize(written: str, tokens: str) -> None:
    assert tokenize(written) == tokens


def test_a_missing_corpus_says_where_it_looked_and_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTEBM_DATA", str(tmp_path / "elsewhere"))
    write(tmp_path / "given" / "ptb" / "ptb.train.txt", "a\n")
    with pytest.raises(CorpusError) as caught:
        load_corpus("ptb", data_dir=tmp_path / "given")
    message = str(caught.value)
    assert str(tmp_path / "given" / "ptb") in message and "elsewhere" not in message
    assert "lacks ptb.valid.txt, ptb.test.txt" in message and "Get it from" in message
    with pytest.raises(CorpusError) as caught:
        load_corpus("ptb")
    for part in (tmp_path / "elsewhere" / "ptb", tmp_path / "data" / "ptb"):
        assert str(part) in str(caught.value)


def test_environment_and_working_directory_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yelp(tmp_path / "data")
    assert find_corpus("yelp") == Path("data/yelp")
    monkeypatch.setenv("TEXTEBM_DATA", str(yelp(tmp_path / "env")))
    assert find_corpus("yelp") == tmp_path / "env" / "yelp"
    assert find_corpus("yelp", yelp(tmp_path / "mine")) == tmp_path / "mine" / "yelp"


def test_an_unknown_corpus_gets_a_suggestion() -> None:
    with pytest.raises(CorpusError, match="did you mean 'grammar'"):
        load_corpus("gramar")


CSV = "text,label,other\n" + "".join(f'"sentence, {n}",{n % 3},x\n' for n in range(40))


def test_files_splits_are_drawn_by_seed_and_labels_sorted(tmp_path: Path) -> None:
    path = write(tmp_path / "own.csv", CSV)
    splits = load_corpus("files", train=path, label_columns=["label"])
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 36, "validation": 2, "test": 2}
    assert splits["train"].features["label"].names == ["0", "1", "2"]
    assert sorted(row["text"] for rows in splits.values() for row in rows) == sorted(
        f"sentence, {n}" for n in range(40)
    )
    again = load_corpus("files", train=path, label_columns=["label"], cache_dir=tmp_path / "other")
    other = load_corpus("files", train=path, label_columns=["label"], seed=1)
    assert again["test"].to_list() == splits["test"].to_list() != other["test"].to_list()
    assert len(load_corpus("files", train=path, limit=5)["train"]) == 5


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"text": f'a "b"\té{n}', "y": None if n == 0 else f"c{n % 2}"} for n in range(6)]
    jsonl = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    quoted = [('"' + str(row["text"]).replace('"', '""') + '"', str(row["y"] or "")) for row in rows]
    csv = write(tmp_path / "a.csv", "\ufefftext,y\r\n" + "".join(f"{text},{y}\r\n" for text, y in quoted))
    tsv = write(tmp_path / "a.tsv", "text\ty\n" + "".join(f"{text}\t{y}\n" for text, y in quoted))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    loaded = [
        load_corpus("files", train=path, validation=path, test=path, label_columns=("y",))["train"]
        for path in (jsonl, csv, tsv, tmp_path / "a.parquet")
    ]
    assert loaded[0][0] == {"text": 'a "b" é0', "y": -1}
    assert loaded[0].features["y"].names == ["c0", "c1"]
    assert all(rows.to_list() == loaded[0].to_list() for rows in loaded)
    text = load_corpus("files", train=write(tmp_path / "a.txt", "one\n\n two  three\nfour\n"), validation=csv, test=csv)
    assert text["train"]["text"][:] == ["one", "two three", "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.txt", "  \n \n", "is empty"),
        ("a.txt", b"good\nbad \xff\n", r"line 2: not UTF-8 \(byte 0xff at position 4\)"),
        ("a.txt", b"good\nb\0d\nx\ny\n", "line 2: a NUL byte"),
        ("a.txt", bytes(range(256)) * 20, "binary file"),
        ("a.csv", b"\x1f\x8b\x08rest", "this is gzip"),
        ("a.txt", "text\n".encode("utf-16"), "this is UTF-16"),
        ("a.csv", "txet,label\na,b\n", "no column 'text'; did you mean 'txet'"),
        ("a.csv", "text,label\na,b\nc,d,e\n", "line 3: 3 fields, the header has 2"),
        ("a.csv", 'text,label\na,b\n"c"d,e\n', "line 3: .*quotes"),
        ("a.csv", 'text,label\na,b\n"never closed,e\n', "line 3"),
        ("a.csv", "text,label,label\na,b,c\n", "same name"),
        ("a.csv", 'te"xt,"label\na,b\n', "line 1: the header cannot be read"),
        ("a.csv", "text;label\na;b\n", "the columns are separated by ';'"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", "line 2: 3 fields, the header has 2; a tsv has one row a line"),
        ("a.jsonl", '[{"text": "a", "label": "b"}]', "a JSON array; write one object a line"),
        ("a.jsonl", '{"text": "a"}\n', "no column 'label'"),
        ("a.jsonl", '{"text": "a", "label": "\\udc80"}\n', "line 1: a lone surrogate"),
        ("a.csv", "text,label\n" + "a,\n" * 5, "label column 'label' has no values"),
        ("a.csv", "text,label\n" + "".join(f"t{n},{n}\n" for n in range(1002)), "over 1000 distinct values"),
        ("a.csv", "text,label\na,b\n", "at least 5"),
        ("a.csv", "text,label\n", "at least 5"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n[1]\n', "line 2: expected one JSON object"),
        ("a.jsonl", '{"text": 3, "label": "b"}\n', "line 1: column 'text' holds int"),
        ("a.jsonl", '{"text": "a", "label": ["b"]}\n', "line 1: a label is"),
        ("a.jsonl", '{"text": "\\ud800", "label": "b"}\n', "line 1: a lone surrogate"),
        ("a.parquet", "PAR1 not really", "not a readable parquet"),
        ("a.cvs", "text\na\n", "did you mean 'csv'"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(CorpusError, match=message):
        load_corpus("files", train=path, label_columns=() if name == "a.txt" else ("label",))
    assert not list((tmp_path / "cache").glob("[!.]*")), "a failed build leaves nothing behind"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\nb\nc\n")
    first = load_corpus("files", train=path, validation=path, test=path)
    write(path, "a\nb\nd\n")
    second = load_corpus("files", train=path, validation=path, test=path)
    assert first["train"]["text"][:] == ["a", "b", "c"] and second["train"]["text"][:] == ["a", "b", "d"]


def test_the_corpus_is_memory_mapped_and_a_damaged_cache_rebuilt(tmp_path: Path) -> None:
    first = load_corpus("grammar", size=200)
    file = Path(first["train"].cache_files[0]["filename"])
    assert file.is_relative_to(tmp_path / "cache")
    expected = first["train"].to_list()
    file.unlink()
    write(file, b"damaged")
    assert load_corpus("grammar", size=200)["train"].to_list() == expected


def load_rows(path: Path, cache: Path) -> int:
    return len(load_corpus("files", train=path, cache_dir=cache)["train"])


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "".join(f"sentence {n}\n" for n in range(2000)))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(load_rows, [(path, tmp_path / "shared")] * 4, chunksize=1) == [1800] * 4
    assert len(list((tmp_path / "shared").glob("files-*"))) == 1


def test_hub_reads_a_local_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    lines = (json.dumps({"review": f"r {n}", "stars": n % 3 + 1}) + "\n" for n in range(30))
    write(folder / "train.jsonl", "".join(lines))
    write(folder / "test.jsonl", json.dumps({"review": "t", "stars": 2}) + "\n")
    splits = load_corpus("hub", name=str(folder), text_column="review", label_columns=("stars",))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 28, "validation": 2, "test": 1}
    assert splits["test"].to_list() == [{"text": "t", "stars": 1}]
    assert splits["test"].features["stars"].names == ["1", "2", "3"]
    with pytest.raises(CorpusError, match="did you mean 'review'"):
        load_corpus("hub", name=str(folder), text_column="reviews")


def test_hub_runs_no_code_and_reads_no_pickle(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = tmp_path / "scripted"
    write(folder / "scripted.py", f"open({str(marker)!r}, 'w')")
    with pytest.raises(CorpusError):
        load_corpus("hub", name=str(folder))
    with pytest.raises(CorpusError):
        load_corpus("hub", name=str(folder / "scripted.py"))
    write(tmp_path / "pickled" / "train.pkl", b"\x80\x04N.")
    with pytest.raises(CorpusError):
        load_corpus("hub", name=str(tmp_path / "pickled"))
    with pytest.raises(CorpusError, match="format 'pandas' is not read"), pytest.warns(FutureWarning):
        load_corpus("hub", name="pandas")  # the loader of `datasets` that unpickles
    assert not marker.exists()
