from __future__ import annotations

import json
from pathlib import Path

import pytest

from textebm.errors import CorpusError
from textebm.text.check import MAX_PROBLEMS, check_file, list_corpora, render, table
from textebm.text.readers import tokenize


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("text,label\na b a c,x\n,x\na b a c,y\na,\nd d d d d d d d d d,x\n")
    report = check_file(path, "text", "label", vocabulary_size=2)
    assert (report.rows, report.empty_rows, report.duplicates) == (5, 1, 1)
    assert report.length_quantiles == {"0%": 1, "50%": 4, "90%": 10, "99%": 10, "100%": 10}
    assert (report.tokens, report.vocabulary) == (19, 4)
    assert report.coverage == pytest.approx(15 / 19)  # d ten times, a five
    assert report.label_counts == {"x": 2, "y": 1} and report.missing_labels == 1
    assert report.ok and report.problems == ()
    assert json.loads(json.dumps(report.to_dict()))["label_counts"] == {"x": 2, "y": 1}
    shown = render(report)
    assert "1 duplicates" in shown and "missing: 1" in shown and "78.95%" in shown


def test_problems_are_listed_by_line_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(b'text,label\ngood,1\nbad \xff,1\na,b,c\n"x"y,1\nfine,2\nn\0ul,2\n')
    report = check_file(path, "text", "label")
    assert [problem.line for problem in report.problems] == [3, 4, 5, 7]
    assert report.label_counts == {"1": 2, "2": 2} and not report.ok
    assert "line 4: 3 fields" in render(report)


def test_problems_are_capped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "a"}\n' + "{\n" * 50)
    report = check_file(path)
    assert len(report.problems) == MAX_PROBLEMS and report.num_problems == 50
    assert "and 30 more" in render(report)


def test_what_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        check_file(tmp_path / "none.txt")
    path = tmp_path / "own.csv"
    path.write_text("text,lable\na,b\n")
    with pytest.raises(CorpusError, match="did you mean 'lable'"):
        check_file(path, "text", "label")


def test_brackets_in_text_are_not_markup(tmp_path: Path) -> None:
    path = tmp_path / "[bold].csv"
    path.write_text("text,label\na,[red]\n")
    assert "[red]: 1" in render(check_file(path, "text", "label"))
    assert table(check_file(path)).row_count >= 4


def test_list_without_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTEBM_DATA", raising=False)
    listed = {entry["name"]: entry for entry in list_corpora(tmp_path)}
    assert list(listed) == ["grammar", "ptb", "dailydialog", "yelp"]
    assert listed["grammar"]["found"] == "embedded" and listed["ptb"]["found"] is None


@pytest.mark.corpora
def test_the_real_corpora(corpora: Path, tmp_path: Path) -> None:
    """The counts of data/README.md."""
    from textebm.text.corpora import load_corpus, load_judge_corpus

    counts = {"ptb": (42_068, 3_370, 3_761), "dailydialog": (87_170, 8_069, 7_740), "yelp": (113_133, 3_000, 1_000)}
    listed = {entry["name"]: entry["sentences"] for entry in list_corpora(corpora)}
    for name, expected in counts.items():
        splits = load_corpus(name, data_dir=corpora, cache_dir=tmp_path)
        assert tuple(len(rows) for rows in splits.values()) == expected
        assert listed[name] == expected[0]
        sample = splits["test"][:200]["text"]
        assert all(text == " ".join(text.split()) and text for text in sample)
        if name == "dailydialog":
            assert all(tokenize(text) == text for text in sample), "tokenizing twice changes nothing"
    judge = load_judge_corpus("yelp", corpora, cache_dir=tmp_path)
    assert judge is not None and len(judge) == 19_246 + 29_527
