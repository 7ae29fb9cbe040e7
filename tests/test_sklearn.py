"""The estimators of scikit-learn, on the tiny recipe."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny import recipe

from textebm.errors import CorpusError
from textebm.sklearn import TextEBMClassifier, TextEBMTopicModel
from textebm.text.grammar import corpus

ROWS = corpus(300)["train"][:200]
TEXTS, SENTIMENT = ROWS["text"], np.array(["bad", "good"])[np.array(ROWS["sentiment"])]


def test_a_classifier_in_a_pipeline() -> None:
    longer = ["training.learning_rate=0.02", "training.stages=[{name: autoencoder, steps: 60}]"]
    classifier = TextEBMClassifier(
        recipe(),
        overrides=[*longer, "prior.kind=gaussian", "objective.supervised_weight=100", "objective.kl_weight=0.05"],
        seed=3,
    )
    assert clone(classifier).get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        classifier.predict(TEXTS)
    with pytest.raises(CorpusError, match="200 texts and 3 labels"):
        classifier.fit(TEXTS, SENTIMENT[:3])
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = make_pipeline(lower, classifier).fit(TEXTS, SENTIMENT)
    p = pipeline.predict_proba(TEXTS)
    assert p.shape == (200, 2) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert pipeline.classes_.tolist() == ["bad", "good"]
    assert pipeline.score(TEXTS, SENTIMENT) > 0.7
    assert classifier.transform(TEXTS[:5]).shape == (5, 8)
    assert classifier.model_.generate(1, symbols={"label": "good"}, seed=0)


def test_topics_with_a_table_and_a_proposed_recipe() -> None:
    short = ["training.stages=[{name: autoencoder, steps: 4}]", "prior.kind=gaussian", "encoder.hidden_size=16"]
    short += ["decoder.hidden_size=16", "encoder.embedding_size=8", "decoder.embedding_size=8", "latent.dim=4"]
    topics = TextEBMTopicModel(3, overrides=short)
    p = topics.fit_transform(TEXTS)
    assert p.shape == (200, 3) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert (topics.predict(TEXTS) == topics.labels_).all()
    table = topics.get_topic_info()
    assert table["count"].sum() == 200 and table["topic"].tolist() == [0, 1, 2] and len(table["words"]) == 3
