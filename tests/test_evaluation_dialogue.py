"""Answers against real turns: hand-worked cosines, and a model of dialogues that answers as it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from test_evaluation_suite import FakeModel, sentence

from textebm.evaluation.dialogue import WordVectors, embedding_match, with_others_histories
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.state import Effort
from textebm.evaluation.suite import evaluate
from textebm.text.history import Turn

VECTORS = WordVectors({"a": 0, "b": 1, "c": 2}, np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 1.0]]))


def test_cosines_by_hand() -> None:
    found = embedding_match(["a b"], ["A c"], VECTORS)
    # means (.5, 1) and (−1, .5): 0. extrema (1, 2) and (−3, 1): −1 / sqrt(5 · 10)
    assert found.average == pytest.approx(0.0, abs=1e-12)
    assert found.extrema == pytest.approx(-1 / math.sqrt(50))
    # a: itself 1; b: c at 1/sqrt(10), a at 0. back: a 1; c: b at 1/sqrt(10)
    assert found.greedy == pytest.approx((1 + 1 / math.sqrt(10)) / 2)
    two = embedding_match(["a", "a b"], ["a", "unknown words"], VECTORS)  # a pair without known words counts 0
    assert (two.average, two.extrema, two.greedy) == (0.5, 0.5, 0.5)
    with pytest.raises(UndefinedMetricError):
        embedding_match([], [], VECTORS)


def test_vectors_put_words_of_the_same_sentences_together() -> None:
    texts = ["rain wet cold", "wet rain", "cold rain wet", "soup bread hot", "bread soup", "hot soup bread"] * 3
    vectors = WordVectors.fit(texts, size=2)
    near, far = embedding_match(["rain"], ["wet"], vectors), embedding_match(["rain"], ["soup"], vectors)
    assert near.average > 0.95 and abs(far.average) < 0.1
    with pytest.raises(UndefinedMetricError, match="words"):
        WordVectors.fit(["", " "])
    with pytest.raises(UndefinedMetricError, match="three"):
        WordVectors.fit(["a b"])


def test_histories_go_round() -> None:
    turns = [Turn(str(i), (f"before {i}",)) for i in range(6)]
    moved = with_others_histories(turns, seed=1)
    assert [str(turn) for turn in moved] == [str(i) for i in range(6)]
    assert all(a.history != b.history for a, b in zip(turns, moved, strict=True))  # type: ignore[attr-defined]
    assert {turn.history for turn in moved} == {turn.history for turn in turns}  # type: ignore[attr-defined]


class Talker(FakeModel):
    """Answers a question about a noun with a sentence about it, or always with the same sentence."""

    deaf = False

    def encode(self, texts: list[str]) -> Any:
        assert all(isinstance(text, Turn) for text in texts), "a model of dialogues reads each text in its dialogue"
        return super().encode(texts)

    def generate(self, n: int, **options: Any) -> list[str]:
        return [Turn(text, ("about the food ?",)) for text in super().generate(n, **options)]

    def respond(self, contexts: Sequence[Sequence[str]], *, seed: int = 0, **options: Any) -> list[list[str]]:
        nouns = ["food" if self.deaf else history[-1].split()[2] for history in contexts]
        return [[f"the {noun} was good ."] for noun in nouns]


def dialogues(times: int) -> Dataset:
    rows = [("how was the staff ?".replace("staff", noun), sentence(i, 1)) for i, noun in enumerate(("food", "staff"))]
    rows = [(question.replace("how was the", "about the"), answer) for question, answer in rows] * times
    features = Features({"text": Value("string"), "context": List(Value("string"))})
    texts, histories = [answer for _, answer in rows], [[question] for question, _ in rows]
    return Dataset.from_dict({"text": [*texts, sentence(0, 0)], "context": [*histories, []]}, features=features)


def test_answers_are_measured_against_real_turns_and_random_ones() -> None:
    data = DatasetDict(train=dialogues(10), test=dialogues(6))
    listens, deaf = Talker(reads_context=True), Talker(reads_context=True)
    deaf.deaf = True
    value, other = (
        {
            name: metric.value
            for name, metric in evaluate(model, data, effort=Effort(30, 4)).metrics.items()  # type: ignore[arg-type]
        }
        for model in (listens, deaf)
    )
    names = ("response_bleu", "response_average", "response_extrema", "response_greedy")
    assert [value[name] for name in names] == pytest.approx([100, 1, 1, 1])
    for name in names:  # half of the deaf one's answers are about another noun, as are half of the random turns
        assert max(other[name], value[f"{name}_random"]) < 0.99 * value[name], name
    assert other["response_distinct_2"] < value["response_distinct_2"]
    assert value["response_distinct_1"] == pytest.approx(6 / 60)  # the was good . + 2 nouns
    assert {"context_gain", "context_gain_kl"} <= value.keys()


def test_a_suite_of_a_dialogue_model_leaves_out_what_compares_single_sentences() -> None:
    data = DatasetDict(train=dialogues(10), test=dialogues(6))
    from test_evaluation_trivial import TOKENIZER

    model: Any = Talker(reads_context=True)
    found = evaluate(model, data, suite="dailydialog", tokenizer=TOKENIZER, effort=Effort(30, 4))
    assert "response_bleu" in found.metrics and "nll_upper" not in found.metrics and found.code_names
    assert any(note.startswith("intervals: left out") for note in found.notes)
