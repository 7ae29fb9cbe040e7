"""Why a text has its code: parts that add up, that agree with leaving words out, and that deletion bears out."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from textebm.errors import TextEBMError
from textebm.evaluation import suite
from textebm.evaluation.state import Effort
from textebm.model.build import build_corpus
from textebm.use.attribution import attribute, deletion_test, reads_vectors

TEXTS = list(tiny.sentences(24))


@pytest.fixture(scope="module")
def network() -> object:
    return tiny.trained().network


def test_parts_of_integrated_gradients_add_up(network) -> None:
    for each in attribute(network, TEXTS, "sentiment"):
        assert len(each.words) == len(each.parts) == len(each.text.split())
        assert each.baseline is not None
        assert each.baseline + sum(each.parts) == pytest.approx(each.log_probability, abs=0.02)


def test_parts_are_of_the_class_that_is_asked(network) -> None:
    zero, one = (attribute(network, TEXTS, "sentiment", classes=[k] * len(TEXTS)) for k in (0, 1))
    for a, b in zip(zero, one, strict=True):
        assert np.exp(a.log_probability) + np.exp(b.log_probability) == pytest.approx(1.0, abs=1e-4)
        assert (a.name, b.name) == network.head("sentiment").classes
    best = attribute(network, TEXTS, "sentiment")
    assert all(x in (a, b) for x, a, b in zip(best, zero, one, strict=True))


def test_leaving_a_word_out_is_reading_the_text_without_it(network) -> None:
    text = TEXTS[0].split()
    (found,) = attribute(network, [" ".join(text)], "topic", method="leave_one_out")
    kind = network.head("topic").classes.index(found.name)
    for place, part in enumerate(found.parts):
        without = " ".join(text[:place] + text[place + 1 :])
        (other,) = attribute(network, [without], "topic", method="leave_one_out", classes=[kind])
        assert found.log_probability - other.log_probability == pytest.approx(part, abs=1e-4)


def test_a_text_does_not_depend_on_those_beside_it(network) -> None:
    for method in ("integrated_gradients", "leave_one_out"):
        together = attribute(network, TEXTS[:6], "code", method=method)
        (single,) = attribute(network, TEXTS[3:4], "code", method=method)
        assert np.allclose(together[3].parts, single.parts, atol=1e-4)
    assert attribute(network, [], "code") == []


def test_deleting_the_words_of_largest_parts_matters_more_than_others(network) -> None:
    for method in ("integrated_gradients", "leave_one_out"):
        found = deletion_test(network, TEXTS, "sentiment", method=method, seed=0)
        assert found.n == len(TEXTS) and found.top > found.random


def test_the_evaluation_has_the_deletion_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.SUITES, "all", ("attribution",))
    corpus = build_corpus(tiny.recipe().data)
    small = Effort(samples=5, samples_per_class=2)
    model = tiny.trained()
    found = suite.evaluate(model, corpus, limit=24, effort=small, suite="all", tokenizer=model.tokenizer, seed=3)
    measured = found.metrics
    assert measured["deleted_top_words"].value > measured["deleted_random_words"].value
    assert measured["deleted_top_words"].n == 24


def test_the_network_is_left_as_it_was(network) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attribute(network, TEXTS[:2], "code")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training and all(parameter.requires_grad for parameter in network.decoder.parameters())


def test_what_cannot_be_attributed_is_said(network) -> None:
    with pytest.raises(TextEBMError, match="did you mean 'sentiment'"):
        attribute(network, TEXTS, "sentimnt")
    with pytest.raises(TextEBMError, match="did you mean 'leave_one_out'"):
        attribute(network, TEXTS, "code", method="leave_one")
    short = tiny.untrained("inference.kind=short_run").network
    whole = tiny.untrained("encoder.kind=whole_words", "latent.standardize=false").network
    assert not reads_vectors(whole) and len(attribute(whole, TEXTS[:2], "code", method="leave_one_out")) == 2
    with pytest.raises(TextEBMError, match="ask for leave_one_out"):
        attribute(short, TEXTS[:1], "code")
    assert len(attribute(short, TEXTS[:2], "code", method="leave_one_out")) == 2
