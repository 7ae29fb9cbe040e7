from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textebm.errors import CorpusError
from textebm.text.check import MAX_PROBLEMS, check_file, render, table
from textebm.text.listing import list_corpora
from textebm.text.natural import tokenize

WORDS = "good bad clean kind rude slow fast warm cold old new big small nice loud calm dull rich poor fine".split()


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("text,label\na b a c,x\n,x\na b a c,y\na,\nd d d d d d d d d d,x\n")
    report = check_file(path, "text", ["label"], vocabulary_size=2)
    assert (report.rows, report.empty_rows, report.duplicates) == (5, 1, 1)
    assert report.length_quantiles == {"0%": 1, "50%": 4, "90%": 10, "99%": 10, "100%": 10}
    assert (report.tokens, report.vocabulary) == (19, 4)
    assert report.coverage == pytest.approx(15 / 19)  # d ten times, a five
    assert report.labels["label"].counts == {"x": 2, "y": 1} and report.labels["label"].missing == 1
    assert report.ok and report.problems == ()
    assert json.loads(json.dumps(report.to_dict()))["labels"]["label"]["counts"] == {"x": 2, "y": 1}
    shown = render(report)
    assert "1 duplicates" in shown and "missing: 1" in shown and "78.95%" in shown


def test_problems_are_listed_by_line_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(b'text,label\ngood,1\nbad \xff,1\na,b,c\n"x"y,1\nfine,2\nn\0ul,2\n')
    report = check_file(path, "text", ["label"])
    assert [problem.line for problem in report.problems] == [3, 4, 5, 7]
    assert report.labels["label"].counts == {"1": 2, "2": 2} and not report.ok
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
        check_file(path, "text", ["label"])


def test_brackets_in_text_are_not_markup(tmp_path: Path) -> None:
    path = tmp_path / "[bold].csv"
    path.write_text("text,label\na,[red]\n")
    assert "[red]: 1" in render(check_file(path, "text", ["label"]))
    assert table(check_file(path)).row_count >= 4


def test_list_without_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTEBM_DATA", raising=False)
    listed = {entry["name"]: entry for entry in list_corpora(tmp_path)}
    assert list(listed) == ["grammar", "ptb", "dailydialog", "yelp", "agnews", "smd"]
    assert listed["grammar"]["found"] == "embedded" and listed["ptb"]["found"] is None


def findings(path: Path, *labels: str, **options: Any) -> dict[str, str]:
    return {each.name: str(each) for each in check_file(path, "text", labels, **options).findings}


NOUNS = ("film", "room", "meal")
CLEAN = [f"the {noun} was {word} and {other} ." for noun in NOUNS for word in WORDS for other in WORDS]


def test_a_clean_file_has_no_finding(tmp_path: Path) -> None:
    path = tmp_path / "clean.csv"
    path.write_text("text,label\n" + "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(CLEAN)))
    assert findings(path, "label") == {}
    assert (check_file(path).language, check_file(path).script) == ("English", "LATIN")


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("no_spaces", lambda text, n: f"我今天去公园吃饭很好{n}", "tokenizer.kind=bpe"),
        ("unknown_words", lambda text, n: f"{text} word{n}", "tokenizer.kind=bpe"),
        ("glued_punctuation", lambda text, n: text.replace(" .", "!"), "tokenizer.punctuation=apart"),
        ("mixed_case", lambda text, n: text.upper() if n % 2 else text, "tokenizer.lowercase=true"),
        ("html", lambda text, n: f"{text} &amp;" if n == 3 else text, "1 rows"),
        ("misread", lambda text, n: f"{text} cafÃ©" if n == 3 else text, "1 rows"),
        ("addresses", lambda text, n: f"{text} https://example.org/a" if n % 10 == 0 else text, "10.0% of the rows"),
        ("cut_texts", lambda text, n: text + " very" * 50 if n % 10 == 0 else text, "data.max_tokens=57"),
        ("cut_texts", lambda text, n: text + " very" * 300, "one sentence or paragraph a row"),
        ("duplicates", lambda text, n: "again and again" if n % 4 == 0 else text, '"again and again"'),
        ("little_text", lambda text, n: text if n < 30 else "", "30 rows"),
    ],
)
def test_what_will_hurt_is_named_with_its_cure(
    tmp_path: Path, name: str, change: Callable[[str, int], str], says: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{change(text, n)}\n" for n, text in enumerate(CLEAN)))
    found = findings(path)
    assert says in found[name]
    assert set(found) <= {name, "unknown_words", "no_spaces"} or name == "no_spaces", found


@pytest.mark.parametrize(
    ("name", "label", "says"),
    [
        ("one_class", lambda n: "x", "leave 'label' out"),
        ("numbered_classes", lambda n: n % 3, "data.class_names"),
        ("numeric_labels", lambda n: (n % 40) / 10, "40 numbers"),
        ("rare_classes", lambda n: "xyz"[0 if n % 2 else 1 if n > 4 else 2], "1 of 3 classes"),
        ("one_sided", lambda n: "x" if n % 20 else "y", "95.0% of the labels"),
    ],
)
def test_labels_that_will_hurt(tmp_path: Path, name: str, label: Callable[[int], object], says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label(n)}\n" for n, text in enumerate(CLEAN)))
    assert says in findings(path, "label")[name]


def test_leaks_and_groups(tmp_path: Path) -> None:
    path, other = tmp_path / "a.csv", tmp_path / "b.txt"
    path.write_text("text,talk\n" + "".join(f"{text},{min(n, 500)}\n" for n, text in enumerate(CLEAN)))
    other.write_text("\n".join(CLEAN[:12]) + "\nnew\n")
    found = findings(path, group_column="talk", against=[other])
    assert found["leak"].startswith("12 rows (1.0%)") and "12 of 13 rows there" in found["leak"]
    assert found["large_group"].startswith("group '500' has 58%")


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
