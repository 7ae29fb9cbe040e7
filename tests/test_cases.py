"""Small inputs that once went wrong, each with its right answer. Numbers are those of the collection of cases."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textebm.errors import CorpusError
from textebm.recipe.read import dump_recipe, load_recipe
from textebm.text.check import check_file
from textebm.text.corpora import load_corpus
from textebm.text.lines import decoded_lines
from textebm.text.readers import file_rows


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def texts(path: Path) -> list[str]:
    return [row["text"] for _, row in file_rows(path, "text")]


def test_01_quotes_in_a_tsv_join_no_rows() -> None:
    rows = ["First one here\t0", '" Second starts with a quote\t1', "Third is plain\t0", 'she said so "\t0', "Fifth\t1"]
    path = write("merge.tsv", "text\tlabel\n" + "\n".join([*rows, '"as ""pandas"" writes"\t1']) + "\n")
    assert texts(path) == [*(row.partition("\t")[0].strip() for row in rows), 'as "pandas" writes']
    assert check_file(path, "text", ["label"]).rows == 6


def test_01_a_quote_left_open_in_a_csv_is_named_with_the_lines_it_swallows() -> None:
    path = write("open.csv", 'text,label\nfine,1\n"opens here,0\nswallowed,1\nand this,0\n')
    with pytest.raises(CorpusError, match=r"line 3: .*open until line 5"):
        texts(path)


def test_02_a_field_as_long_as_a_line_may_be() -> None:
    rows = [("short one", 0), ("word " * 100_000, 1), ("third", 0)]
    path = write("long.csv", "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    assert [len(text) for text in texts(path)] == [9, 499_999, 5]


def test_03_a_lone_carriage_return_ends_a_line_in_every_reader() -> None:
    assert texts(write("cr.csv", "text,label\rone,1\rtwo,0\r")) == ["one", "two"]
    assert texts(write("cr.tsv", "text\tlabel\rone\t1\rtwo\t0")) == ["one", "two"]
    assert texts(write("cr.txt", "one\rtwo\r\nthree\nfour")) == ["one", "two", "three", "four"]
    assert texts(write("cr.jsonl", '{"text": "one"}\r{"text": "two"}\r')) == ["one", "two"]
    assert list(decoded_lines(io.BytesIO(b"one\rtwo\n\nthree"), "standard input")) == ["one", "two", "", "three"]


def test_03_line_ends_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textebm.text.lines.BLOCK", 3)
    assert list(decoded_lines(io.BytesIO(b"ab\r\ncdef\rg\r\n\r\nh"), "x")) == ["ab", "cdef", "g", "", "h"]


def test_04_one_table_has_the_same_classes_in_every_format() -> None:
    values = [0.0, 1.0, None, 1.0, 0.0, 2.0] * 4
    rows = [{"text": f"text {number}", "label": value} for number, value in enumerate(values)]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["text", "label"])
    writer.writerows([row["text"], "" if row["label"] is None else row["label"]] for row in rows)
    write("a.csv", stream.getvalue())
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    write("b.csv", "text,label\n" + "".join(f"test {n},{n % 2}\n" for n in range(6)))  # whole numbers beside floats
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        splits = load_corpus("files", train=name, test="b.csv", label_columns=["label"])
        assert splits["train"].features["label"].names == ["0", "1", "2"]
        assert sorted(splits["test"]["label"]) == [0, 0, 0, 1, 1, 1]
    for name in ("t.csv", "f.jsonl"):
        lines = "text,label\na,True\n" if name == "t.csv" else '{"text": "a", "label": true}\n'
        assert [row["label"] for _, row in file_rows(write(name, lines), "text", ["label"])] == ["true"]


def test_05_a_label_column_may_begin_late() -> None:
    lines = [json.dumps({"text": f"sentence {n} ."} | ({"label": n % 2} if n >= 1200 else {})) for n in range(1500)]
    report = check_file(write("sparse.jsonl", "\n".join(lines)), "text", ["label"])
    assert (report.rows, report.labels["label"].missing) == (1500, 1200)
    with pytest.raises(CorpusError, match="no column 'lable'; did you mean 'label'"):
        check_file(Path("sparse.jsonl"), "text", ["lable"])


def test_06_twenty_rows_are_enough_and_fewer_are_told_what_to_do() -> None:
    path = write("train.csv", "text,label\n" + "".join(f"sentence {n},{n % 2}\n" for n in range(20)))
    splits = load_corpus("files", train=path, label_columns=["label"])
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    with pytest.raises(CorpusError, match="expected at least 5; give more rows, or data.validation and data.test"):
        load_corpus("files", train=write("four.csv", "text\na\nb\nc\nd\n"))


ORDER = (
    "from textebm.text.corpora import load_corpus\n"
    "print(load_corpus('files', train='zip.csv', label_columns=['label'])['train'].features['label'].names)"
)


def test_10_classes_have_one_order_whatever_python_hashes() -> None:
    labels = ["1", "01", "001", "2", "-1", "10"]
    write("zip.csv", "text,label\n" + "".join(f"sentence number {n} .,{labels[n % 6]}\n" for n in range(60)))
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "TEXTEBM_CACHE": f"cache-{seed}", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", ORDER], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == "['-1', '001', '01', '1', '2', '10']", done.stderr


def test_22_unnamed_trailing_columns_are_ignored() -> None:
    assert texts(write("trail.csv", "text,label,,\nhi there,1,,\nbye,0,,\n")) == ["hi there", "bye"]
    assert texts(write("short.csv", "text,label\nhi there,1,,\n")) == ["hi there"]
    assert texts(write("index.csv", ",text\n0,one\n1,two\n")) == ["one", "two"], "the index that pandas writes"


def test_22_a_json_array_is_told_apart_from_a_wrong_column() -> None:
    with pytest.raises(CorpusError, match="a JSON array; write one object a line"):
        texts(write("arr.jsonl", '[{"text": "a"}, {"text": "b"}]'))


def test_parquet_with_bytes_that_are_no_text_names_the_row() -> None:
    column = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"ok\xff"))
    pq.write_table(pa.table({"text": column}), "bad.parquet")
    with pytest.raises(CorpusError, match="line 2: not UTF-8"):
        texts(Path("bad.parquet"))
    assert check_file("bad.parquet").num_problems == 1


def test_a_limit_is_drawn_not_cut_off() -> None:
    write("sorted.csv", "text,label\n" + "".join(f"sentence {n},{n // 100}\n" for n in range(200)))
    splits = load_corpus("files", train="sorted.csv", label_columns=["label"], limit=40)
    assert len(splits["train"]) == 40 and 10 < sum(splits["train"]["label"]) < 30
    again = load_corpus("files", train="sorted.csv", label_columns=["label"], limit=40)
    assert splits["train"].to_list() == again["train"].to_list()


def test_a_group_is_on_one_side_of_a_drawn_split() -> None:
    write("talk.csv", "text,talk\n" + "".join(f"turn {n},{n // 7}\n" for n in range(140)))
    splits = load_corpus("files", train="talk.csv", group_column="talk")
    talks = {name: {int(text.split()[1]) // 7 for text in rows["text"]} for name, rows in splits.items()}
    assert not (
        talks["train"] & talks["test"] or talks["train"] & talks["validation"] or talks["test"] & talks["validation"]
    )
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 126, "validation": 7, "test": 7}
    write("one.csv", "text,talk\n" + "".join(f"turn {n},a\n" for n in range(20)))
    with pytest.raises(CorpusError, match="1 groups cannot be divided among 3 splits"):
        load_corpus("files", train="one.csv", group_column="talk")


def test_numbered_classes_get_names() -> None:
    write("a.csv", "text,label,y\n" + "".join(f"sentence {n},{n % 3 + 1},{n % 2}\n" for n in range(30)))
    names = [["world", "sports", "business"], []]
    options = {"train": "a.csv", "label_columns": ["label", "y"]}
    rows = load_corpus("files", **options, class_names=names)["train"]
    assert rows.features["label"].names == names[0] and rows.features["y"].names == ["0", "1"]
    assert all(row["label"] == int(row["text"].split()[1]) % 3 for row in rows)
    with pytest.raises(CorpusError, match=r"2 names \(a, b\) for the 3 classes of 'label' \(1, 2, 3\)"):
        load_corpus("files", **options, class_names=[["a", "b"]])


def test_files_are_beside_the_recipe_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere, home = tmp_path / "project", tmp_path / "elsewhere", tmp_path / "home"
    for folder in (project, elsewhere, home):
        folder.mkdir()
        (folder / "own.txt").write_text("".join(f"{folder.name} {n}\n" for n in range(20)))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    (project / "mine.yaml").write_text("data: {corpus: files, train: own.txt}\n")
    (tmp_path / "up.yaml").write_text("extends: project/mine.yaml\n")
    (project / "home.yaml").write_text("data: {corpus: files, train: ~/own.txt}\n")
    (project / "cwd.yaml").write_text("data: {corpus: files, train: other.txt}\n")
    (elsewhere / "other.txt").write_text("beside the shell\n")
    for recipe, expected in (
        (project / "mine.yaml", str(project / "own.txt")),
        (tmp_path / "up.yaml", str(project / "own.txt")),
        (project / "home.yaml", "~/own.txt"),
        (project / "cwd.yaml", str(elsewhere / "other.txt")),
    ):
        loaded = load_recipe(recipe)
        assert loaded.data.train == expected
        (tmp_path / "saved.yaml").write_text(dump_recipe(loaded))
        assert load_recipe(tmp_path / "saved.yaml").data == loaded.data
    rows = load_corpus("files", train=load_recipe(project / "home.yaml").data.train)["train"]
    assert rows[0]["text"].startswith("home")
    assert load_recipe(project / "home.yaml", ["data.train=own.txt"]).data.train == str(elsewhere / "own.txt")
