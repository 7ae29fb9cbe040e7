"""The estimators of scikit-learn, on the tiny recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from tiny import recipe, untrained

from textebm import sklearn as estimators
from textebm.api import TextEBM
from textebm.errors import CorpusError
from textebm.sklearn import InputError, TextEBMClassifier, TextEBMTopicModel
from textebm.text.grammar import corpus
from textebm.use.inputs import as_texts

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


def test_topics_with_a_table_and_a_proposed_recipe(tmp_path: Path) -> None:
    short = ["training.stages=[{name: autoencoder, steps: 4}]", "prior.kind=gaussian", "encoder.hidden_size=16"]
    short += ["decoder.hidden_size=16", "encoder.embedding_size=8", "decoder.embedding_size=8", "latent.dim=4"]
    topics = TextEBMTopicModel(3, overrides=short)
    p = topics.fit_transform(TEXTS)
    assert p.shape == (200, 3) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert (topics.predict(TEXTS) == topics.labels_).all()
    topics.model_.save_pretrained(tmp_path)
    data = TextEBM.from_pretrained(tmp_path).recipe["data"]
    assert (data["corpus"], data["train"], data["test"]) == ("files", "memory", None)
    table = topics.get_topic_info()
    assert table["count"].sum() == 200 and table["topic"].tolist() == [0, 1, 2] and len(table["words"]) == 3


# -- scikit-learn's own checks ----------------------------------------------------------------------------------------

NO_FEATURES = "texts have no number of features that could change between fit and predict"
NO_NUMBERS = "what is wrong with numbers is not wrong with texts; as_texts says what is no text (test_inputs.py)"
NO_SPARSE = "there are no sparse texts"
NOT_FOR_TEXT = {
    **dict.fromkeys(("check_n_features_in_after_fitting", "check_n_features_in"), NO_FEATURES),
    **dict.fromkeys(("check_transformer_general", "check_classifiers_train"), NO_FEATURES),
    "check_estimators_empty_data_messages": "0 samples are refused (below); it also wants 0 features refused",
    **dict.fromkeys(("check_complex_data", "check_dtype_object", "check_estimators_nan_inf"), NO_NUMBERS),
    **dict.fromkeys(("check_fit1d", "check_fit2d_predict1d"), "one dimension is what texts have"),
    "check_transformer_preserve_dtypes": "a latent is float32, of whatever text",
    **dict.fromkeys((f"check_estimator_sparse_{kind}" for kind in ("tag", "array", "matrix")), NO_SPARSE),
}
WORDS = ("pizza", "car", "hotel", "movie", "phone", "great", "awful", "book")


def numbers_as_texts(X: Any, what: str = "texts") -> list[str]:
    """The checks' matrices as sentences, a word a number; what is no matrix of numbers is read as it is."""
    rows = np.asarray(X) if not hasattr(X, "tocsr") else X
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        return as_texts(X, what)
    return [" ".join(WORDS[int(abs(value) * 3) % len(WORDS)] for value in row) for row in np.nan_to_num(rows)]


class OfNumbers:
    """Says that it takes the matrices which the checks make; fits are not trained, for they are many."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags

    def _train(self, texts: list[str], labels: list[str] | None, heads: list[dict[str, Any]]) -> Any:
        (head,) = heads
        return untrained(f"heads=[{{name: {head['name']}, classes: {head.get('classes') or len(set(labels or ()))}}}]")


class Classifier(OfNumbers, TextEBMClassifier):
    pass


class TopicModel(OfNumbers, TextEBMTopicModel):
    pass


@pytest.mark.parametrize("estimator", [Classifier(), TopicModel(3)], ids=lambda each: type(each).__name__)
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that cannot apply to text, each with its reason in NOT_FOR_TEXT."""
    monkeypatch.setattr(estimators, "as_texts", numbers_as_texts)
    results = check_estimator(estimator, expected_failed_checks=NOT_FOR_TEXT, on_skip=None)
    passed = {each["check_name"] for each in results if each["status"] == "passed"}
    assert len(passed) > 25 and {"check_estimators_pickle", "check_methods_subset_invariance"} <= passed
    assert {each["check_name"] for each in results if each["status"] == "xfail"} <= NOT_FOR_TEXT.keys()


def test_they_say_that_they_take_texts() -> None:
    for estimator in (TextEBMClassifier(), TextEBMTopicModel()):
        tags = estimator.__sklearn_tags__()
        assert tags.input_tags.string and not tags.input_tags.two_d_array


def test_what_cannot_be_fitted_is_an_error_of_both_families() -> None:
    classifier = TextEBMClassifier(recipe())
    for texts, labels, told in (
        ([], [], "0 samples"),
        (TEXTS, None, "requires y"),
        (TEXTS, np.linspace(0, 1, 200), "Unknown label type"),
        (TEXTS, SENTIMENT[:3], "200 texts and 3 labels"),
    ):
        with pytest.raises(InputError, match=told) as raised:
            classifier.fit(texts, labels)
        assert isinstance(raised.value, ValueError) and isinstance(raised.value, CorpusError)
