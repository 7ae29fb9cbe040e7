"""Outliers by hand: areas and precisions, a class that train never saw, and the log-posterior of a real model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import DatasetDict
from test_evaluation_suite import FakeModel, Terms, all_rows, corpus
from test_evaluation_trivial import TOKENIZER
from tiny import recipe, sentences, trained

from textebm.errors import CorpusError, TextEBMError
from textebm.evaluation import suite
from textebm.evaluation.language_model import LanguageModelSettings
from textebm.evaluation.latent import circle
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.outliers import posterior_score, separation
from textebm.evaluation.state import Effort
from textebm.evaluation.suite import evaluate
from textebm.model.build import build_corpus


def test_areas_by_hand() -> None:
    # outliers 3 and 1 among 0, 2: of four pairs three are in order; precision 1 at 3, 2/3 at 1
    found = separation([0.0, 2.0], [3.0, 1.0])
    assert (found.auroc, found.n) == (0.75, 4) and found.auprc == pytest.approx((1 + 2 / 3) / 2)
    assert separation([float("nan"), 0.0], [float("inf"), 1.0]).auroc == 1.0
    with pytest.raises(UndefinedMetricError, match="no such sentence"):
        separation([1.0], [])


class Surprised(FakeModel):
    """Finds sentences about the room unlikely, by the bound alone."""

    def elbo_terms(self, texts: list[str], *, seed: int = 0) -> Terms:
        terms = super().elbo_terms(texts)
        strange = torch.tensor([5.0 if "room" in text else 0.0 for text in texts])
        return Terms(terms.reconstruction_nll, terms.kl + strange, terms.num_tokens)


def test_a_class_that_train_lacks_is_an_outlier(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [row for row in all_rows(20) if row[2] != 2]
    data = DatasetDict(train=corpus(seen), test=corpus(all_rows(5)))
    monkeypatch.setitem(suite.SUITES, "all", ("outliers",))
    effort = Effort(6, 2, language_model=LanguageModelSettings(embedding_size=8, hidden_size=16, epochs=4))
    model: Any = Surprised()
    found = evaluate(model, data, suite="all", tokenizer=TOKENIZER, effort=effort).metrics
    assert found["outlier_auroc_topic_room"].value == found["outlier_auprc_topic_room"].value == 1.0
    assert found["outlier_auroc_topic_room"].n == 30
    assert found["posterior_outlier_auroc_topic_room"].value == 0.5  # by chance: it has the same score everywhere
    assert found["rnn_lm_outlier_auroc_topic_room"].value > 0.9  # a word that train never has
    assert found["outlier_auroc_shuffled"].n == 40  # of the sentences of known classes alone
    assert not any("sentiment" in name for name in found if "outlier" in name)


def test_a_class_can_be_left_out_of_training() -> None:
    whole, data = (build_corpus(recipe(*options).data) for options in ((), ("data.leave_out=topic=food",)))
    food = data["train"].features["topic"].names.index("food")
    for split in ("train", "validation"):
        assert food in whole[split]["topic"] and food not in data[split]["topic"]
        assert len(data[split]) == sum(topic != food for topic in whole[split]["topic"])
    assert data["test"]["text"] == whole["test"]["text"]
    for option, said in (
        ("data.leave_out=subject=food", "no label 'subject'"),
        ("data.leave_out=topic=fod", "no class 'fod'; did you mean 'food'"),
    ):
        with pytest.raises(CorpusError, match=said):
            build_corpus(recipe(option).data)
    with pytest.raises(TextEBMError):
        recipe("data.leave_out=topic")


def test_reliance_of_a_trained_model() -> None:
    """What decoding from another's latent costs, a token; nothing where the decoder does not look at the latent."""
    model, texts = trained(), list(sentences(12))
    draws, others = model.posterior_draws(texts, seed=3), circle(12, 3)
    assert sorted(others.tolist()) == list(range(12)) and all(i != other for i, other in enumerate(others.tolist()))
    terms = model.elbo_terms(texts, seed=3)
    own = model.reconstruction_losses(texts, latents=draws)
    assert own.tolist() == pytest.approx(terms.reconstruction_nll.tolist(), abs=1e-4)
    alone = [model.reconstruction_losses([text], latents=z[None]) for text, z in zip(texts, draws, strict=True)]
    assert torch.cat(alone).tolist() == pytest.approx(own.tolist(), abs=1e-4)  # each text has its own row
    lost = (model.reconstruction_losses(texts, latents=draws[others]) - own).sum() / terms.num_tokens.sum()
    assert float(lost) > 0.03  # a model of 26 steps
    with pytest.raises(TextEBMError, match="expected latents of shape"):
        model.reconstruction_losses(texts, latents=draws[:3])


def test_the_log_posterior_of_a_trained_model() -> None:
    model, texts = trained(), list(sentences(5))
    z = model.encode(texts).mean
    log_prior = -model.energies(z) - 0.5 * z.square().sum(-1)
    tokens = model.elbo_terms(texts).num_tokens
    expected = (model.reconstruction_losses(texts) - log_prior) / tokens
    assert posterior_score(model, texts).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
