from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textebm.errors import CorpusError
from textebm.text import grammar
from textebm.text.grammar import FACTORS

EXAMPLES = grammar.generate(3000, seed=7)
WORDS = grammar.vocabulary()


def factors(example: grammar.Example) -> dict[str, str]:
    return {name: getattr(example, name) for name in FACTORS}


def test_every_sentence_parses_to_its_factors() -> None:
    for example in EXAMPLES:
        assert grammar.parse(example.text) == factors(example)


def test_no_sentence_is_ambiguous() -> None:
    """The whole language, written out from the slots: every sentence once, and parsed to the factors it came from."""
    seen: set[str] = set()
    for each in grammar.combinations():
        for template in grammar.templates(each):
            seen.update(sentences := [" ".join(phrases) for phrases in product(*template)])
            assert all(grammar.parse(sentence) == each._asdict() for sentence in sentences)
    assert len(seen) == grammar.language_size()


def derivable(tokens: list[str]) -> set[tuple[str, ...]]:
    """The readings found by walking the slots, without the regular expression: an independent parser."""
    found: set[tuple[str, ...]] = set()
    for each in grammar.combinations():
        for template in grammar.templates(each):
            ends = {0}
            for slot in template:
                phrases = [phrase.split() for phrase in slot]
                ends = {end + len(p) for end in ends for p in phrases if tokens[end : end + len(p)] == p}
            if len(tokens) in ends:
                found.add(tuple(each))
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EXAMPLES), st.sampled_from(["swap", "drop", "replace", "repeat"]), st.data())
def test_a_changed_sentence_is_rejected_or_another_of_the_language(
    example: grammar.Example, how: str, data: st.DataObject
) -> None:
    tokens = example.text.split()
    at = data.draw(st.integers(0, len(tokens) - 2))
    if how == "swap":
        tokens[at], tokens[at + 1] = tokens[at + 1], tokens[at]
    elif how == "drop":
        del tokens[at]
    elif how == "repeat":
        tokens.insert(at, tokens[at])
    else:
        tokens[at] = data.draw(st.sampled_from(WORDS))
    readings = derivable(tokens)
    assert len(readings) <= 1
    expected = dict(zip(FACTORS, next(iter(readings)), strict=True)) if readings else None
    assert grammar.parse(" ".join(tokens)) == expected


def test_hand_worked_sentences() -> None:
    parsed = grammar.parse("the pizza was really bland yesterday .")
    assert parsed == {"sentiment": "negative", "topic": "food", "tense": "past"}
    assert grammar.parse("  the pizza was  really tasty yesterday . ") == parsed | {"sentiment": "positive"}
    for wrong in (
        "the pizza was really bland tomorrow .",  # tenses differ
        "the pizza was really filthy yesterday .",  # an adjective of another topic
        "it was a awful pizza for most diners .",  # a, an
        "the sauce and the sauce were so tasty .",  # one part twice
        "the pizza was really bland yesterday",
        "",
        ". . .",
    ):
        assert grammar.parse(wrong) is None, wrong


def test_size_and_shape_of_the_language() -> None:
    assert grammar.language_size() > 100_000
    assert 150 <= len(WORDS) <= 260
    lengths = Counter(len(example.text.split()) for example in EXAMPLES)
    assert 7 <= min(lengths) and max(lengths) <= 14
    assert all(example.text == example.text.lower() and example.text.endswith(" .") for example in EXAMPLES)


def test_draws_are_balanced_distinct_and_repeatable() -> None:
    assert grammar.generate(50, seed=1) == grammar.generate(50, seed=1) != grammar.generate(50, seed=2)
    assert len({example.text for example in EXAMPLES}) == len(EXAMPLES)
    for factor, values in FACTORS.items():
        counts = Counter(getattr(example, factor) for example in EXAMPLES)
        expected = len(EXAMPLES) / len(values)
        assert all(abs(counts[value] - expected) < 5 * np.sqrt(expected) for value in values)


def test_corpus_splits_are_disjoint() -> None:
    splits = grammar.corpus(500, seed=3)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 500, "validation": 200, "test": 200}
    texts = [text for rows in splits.values() for text in rows["text"]]
    assert len(set(texts)) == 900
    row = splits["test"][0]
    features = splits["test"].features
    assert grammar.parse(row["text"]) == {name: features[name].int2str(row[name]) for name in FACTORS}
    assert {name: tuple(features[name].names) for name in FACTORS} == FACTORS


def test_too_many_sentences() -> None:
    with pytest.raises(CorpusError, match="at most"):
        grammar.generate(10**7, seed=0)
