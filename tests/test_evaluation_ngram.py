"""N-gram models against hand-worked numbers and laws; the fluency score at its ends."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.ngram import END, UNKNOWN, NGramModel, _grams, fit_words, fluency
from textebm.text.words import split_words


def test_a_unigram_model_by_hand() -> None:
    # a 3, b 1, end 2: D = 1 / (1 + 2), three kinds; |V| = a, b, the end, the unknown word
    model = NGramModel.fit([["a", "a"], ["a", "b"]], order=1)
    spread = (1 / 3) * 3 / 4
    p = {"a": (3 - 1 / 3 + spread) / 6, "b": (1 - 1 / 3 + spread) / 6, "z": spread / 6}
    end = (2 - 1 / 3 + spread) / 6
    assert model.nll(["a", "b"]) == pytest.approx(-math.log(p["a"] * p["b"] * end))
    assert model.perplexity([["z"], []]) == pytest.approx((p["z"] * end * end) ** (-1 / 3))


def test_a_bigram_model_backs_off_to_how_many_words_a_word_follows() -> None:
    """Kneser–Ney's example: "francisco" is frequent and follows one word only, so after another word it is unlikely."""
    rows = [["san", "francisco"]] * 5 + [["new", "york"], ["old", "york"], ["big", "york"], ["big", "san"]]
    model = NGramModel.fit(rows, order=2)
    assert model.probability(("york", "york")) > 2 * model.probability(("york", "francisco"))
    assert model.probability(("san", "francisco")) > 0.5
    # continuation counts: after 5 different bigrams "francisco" counts 1 of 12 kinds
    kinds = {("start",): 4, "san": 2, "francisco": 1, "new": 1, "york": 1, "old": 1, "big": 2}
    assert model.followers[0][()] == (sum(kinds.values()), len({"san", "new", "old", "big", "francisco", "york", END}))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order: int) -> None:
    rng = random.Random(0)
    words = "abcde"
    model = NGramModel.fit([rng.choices(words, k=rng.randint(0, 6)) for _ in range(30)], order=order, min_count=2)
    for history in itertools.product([*words, "never", ("start",)], repeat=order - 1):
        history = tuple(word if word in model.known or word == ("start",) else UNKNOWN for word in history)
        total = math.fsum(model.probability((*history, word)) for word in [*model.known, UNKNOWN, END])
        assert total == pytest.approx(1.0, abs=1e-12)


def test_more_context_helps_where_there_is_any() -> None:
    rows = [list("abcabcabc")] * 3 + [list("cba")]
    one, two, three = (NGramModel.fit(rows, order=order).perplexity(rows) for order in (1, 2, 3))
    assert three < two < one
    with pytest.raises(UndefinedMetricError):
        NGramModel.fit([[], []])
    with pytest.raises(UndefinedMetricError):
        NGramModel.fit(rows).perplexity([])


def language(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    nouns, verbs, places = ["cat", "dog", "fox", "hen"], ["sat", "ran", "slept", "ate"], ["mat", "hill", "farm", "bed"]
    return [f"the {rng.choice(nouns)} {rng.choice(verbs)} on the {rng.choice(places)} ." for _ in range(n)]


def test_fluency_is_zero_for_shuffled_words_and_one_for_real_sentences() -> None:
    model, real, rng = fit_words(language(300, 0)), language(200, 1), random.Random(2)
    pool = [word for text in real for word in text.split()]
    rng.shuffle(pool)
    soup = [" ".join(pool[i : i + 7]) for i in range(0, len(pool), 7)]
    half = [text if i % 2 else other for i, (text, other) in enumerate(zip(language(200, 3), soup, strict=True))]
    score = {
        name: fluency(texts, real, model).score for name, texts in (("soup", soup), ("half", half), ("real", real))
    }
    assert score["soup"] == pytest.approx(0.0, abs=0.1) and score["real"] == pytest.approx(1.0, abs=1e-12)
    assert 0.4 < score["half"] < 0.6
    assert fluency(language(200, 4), real, model).score == pytest.approx(1.0, abs=0.05)


def test_unknown_words_and_dull_text_are_seen() -> None:
    model, real = fit_words([*language(300, 0), "a rare word"]), language(100, 1)
    unknown = [text.replace("cat", "gnu").replace("dog", "yak").replace("sat", "sang") for text in real]
    assert fluency(unknown, real, model).score < 0.9
    assert fluency(["the cat sat on the mat ."] * 3, real, model).score > 0.95
    with pytest.raises(UndefinedMetricError, match="no sentences"):
        fluency([], real, model)
    with pytest.raises(UndefinedMetricError, match="random order"):
        fluency(["x"], ["x", "x"], fit_words(["x", "x"]))


def test_invented_words_cost_what_one_of_the_rare_words_does() -> None:
    """As many different rare words as there are share the unknown word's probability, by hand."""
    few = NGramModel.fit([["a", "b"], ["a", "b"], ["x", "b"]], min_count=2)
    many = NGramModel.fit([["a", "b"], ["a", "b"], ["x", "b"], ["y", "b"], ["z", "b"]], min_count=2)
    assert (few.rare, many.rare) == (1, 3)
    unknown = [gram for gram in _grams(["new"], many.known, 3) if gram[-1] == UNKNOWN]
    own = -math.log(many.probability(unknown[0])) - math.log(many.probability((*unknown[0][1:], END)))
    assert many.nll(["new"]) == pytest.approx(own + math.log(3))
    real = ["the gnat sat .", "the crow sat .", "a wren sat ."] * 5
    model = fit_words([*real, *(f"the {word} sat ." for word in ("asp", "bee", "cod", "doe"))])
    invented = [text.replace("gnat", "gnatto").replace("crow", "crowbo").replace("wren", "wrenny") for text in real]
    assert fluency(invented, real, model).score < 0.8


def test_scripts_without_spaces_are_split() -> None:
    assert split_words("我爱 New-York!") == ["我", "爱", "New-York!"]
