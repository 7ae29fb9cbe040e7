"""Curated codes: names, merges, what is refused, the file, thresholds and the tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from textebm.errors import TextEBMError
from textebm.use.codebook import (
    Codebook,
    CodebookError,
    HeadBook,
    code_levels,
    load_codebook,
    save_codebook,
    threshold_for,
)

BOOK = HeadBook(words=(("pizza", "sauce", "crust", "hot"), ("staff", "nice"), ("minutes", "wait"), ()))


def test_a_code_is_called_by_its_words_until_somebody_names_it() -> None:
    assert BOOK.name(0) == "0 pizza sauce crust" and BOOK.name(3) == "3" and BOOK.name(-1) == "none of these"
    named = BOOK.rename(0, "  italian   food ", note="no pasta")
    assert named.name(0) == "italian food" and named.notes == {0: "no pasta"}
    assert named.code("Italian Food") == named.code(0) == named.code("0") == 0
    assert named.code("1 staff nice") == 1
    assert named.rename(0, "").name(0) == "0 pizza sauce crust"
    for wrong, message in (("italian fod", "did you mean 'italian food'"), (7, "there are 0 to 3"), ("", "no code")):
        with pytest.raises(CodebookError, match=message):
            named.code(wrong)


def test_merged_codes_are_one() -> None:
    book = BOOK.rename(1, "service").merge(1, [2])
    assert book.shown == (0, 1, 3) and book.members(1) == (1, 2) and book.name(2) == "service" and book.code(2) == 1
    p = [[0.4, 0.25, 0.3, 0.05], [0.9, 0.05, 0.05, 0.0]]
    assert book.read(p).tolist() == [1, 0]
    gathered, shown = book.gather(p)
    assert gathered[0].tolist() == pytest.approx([0.4, 0.55, 0.0, 0.05]) and shown == (0, 1, 3)
    again = book.merge(0, [1])
    assert again.merged == {1: 0, 2: 0} and again.names == {}
    assert book.split(1).shown == (0, 1, 2, 3)
    with pytest.raises(CodebookError, match="into itself"):
        BOOK.merge(1, [1])


def test_hidden_codes_and_the_threshold_give_no_code() -> None:
    p = [[0.9, 0.1, 0.0, 0.0], [0.0, 0.5, 0.3, 0.2], [0.1, 0.1, 0.7, 0.1]]
    assert BOOK.hide([2]).with_threshold(0.6).read(p).tolist() == [0, -1, -1]
    assert BOOK.hide([2]).hide([2], hidden=False) == BOOK
    with pytest.raises(ValueError, match=r"shape \(n, 4\)"):
        BOOK.read([[0.5, 0.5]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": {9: "x"}}, "there is no code 9"),
        ({"names": {0: "x", 1: "X"}}, "both called"),
        ({"names": {0: " "}}, "empty name"),
        ({"merged": {0: 1, 1: 2}}, "itself merged"),
        ({"threshold": 1.5}, "less than"),
        ({"nmaes": {}}, "[Ee]xtra"),
    ],
)
def test_what_does_not_hang_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadBook.model_validate({"words": BOOK.words, **change})


def test_the_file_gives_back_the_book(tmp_path: Path) -> None:
    book = Codebook(heads={"code": BOOK.rename(2, "yes: no, #1").merge(0, [3]).hide([1]).with_threshold(0.25)})
    assert load_codebook(tmp_path) is None
    save_codebook(book, tmp_path)
    assert load_codebook(tmp_path) == book
    path = tmp_path / "codes.yaml"
    path.write_text(path.read_text().replace("names:", "nmaes:"))
    with pytest.raises(CodebookError, match="codes.yaml: heads.code.nmaes"):
        load_codebook(tmp_path)
    path.write_text("heads: [unclosed")
    with pytest.raises(CodebookError, match="not YAML"):
        load_codebook(tmp_path)
    with pytest.raises(CodebookError, match="did you mean 'code'"):
        book.head("cod")


def test_names_are_carried_by_the_match() -> None:
    old = BOOK.rename(0, "food").rename(1, "service").merge(1, [2]).hide([3])
    new = HeadBook(words=(("wait",), ("pizza",), ("staff",), ("x",))).carry([1, 2, 0, -1], old)
    assert new.names == {1: "food", 2: "service"} and new.merged == {0: 2} and new.hidden == ()


def test_a_threshold_reaches_its_precision() -> None:
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 1, 0, 1, 0], dtype=bool)
    assert threshold_for(confidence, right, 0.75) == (0.6, 0.75, pytest.approx(0.2))
    assert threshold_for(confidence, right, 1.0)[0] == 0.8
    assert threshold_for(confidence, right, 0.6) == (0.0, pytest.approx(0.6), pytest.approx(0.0))
    with pytest.raises(TextEBMError, match="highest is 0.00"):
        threshold_for([0.5, 0.5], [False, False], 0.9)


def test_codes_of_the_same_words_share_a_group() -> None:
    counts = [{"pizza": 5, "hot": 2}, {"car": 4, "brakes": 3}, {"pizza": 4, "hot": 3}, {"car": 3, "brakes": 3}]
    assert code_levels(counts, 2) == [0, 1, 0, 1]
    assert code_levels(counts, 4) == [0, 1, 2, 3]
    assert code_levels([*counts, {}], 3)[4] == 2
