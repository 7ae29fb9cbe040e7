"""Estimators for scikit-learn: a classifier and a topic model that are fitted on lists of texts.

Each fit trains a model in memory, by a proposed recipe (`textebm recipes new`) or one's own; a tenth of the texts is
held out for its validation and test splits. The model is `model_`, to write, edit and save with. The estimators take
texts: those of scikit-learn's own checks that feed matrices of numbers do not apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import set_seed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from textebm.api import TextEBM
from textebm.errors import CorpusError
from textebm.evaluation.words import top_words
from textebm.model.build import build_corpus
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.recipe.schema import Recipe
from textebm.runs.memory import IN_MEMORY, keep_in_run, provisional
from textebm.runs.propose import propose
from textebm.runs.train import build_trainer
from textebm.use.inputs import as_texts

if TYPE_CHECKING:
    import pandas as pd

LABEL, CODE = "label", "code"


class InputError(CorpusError, ValueError):
    """Texts or labels that cannot be fitted: of the family of errors here, and what scikit-learn expects."""


class _Estimator(BaseEstimator):
    recipe: Any
    overrides: Sequence[str]
    seed: int

    def _train(self, texts: list[str], labels: list[str] | None, heads: list[dict[str, Any]]) -> TextEBM:
        """A model of these texts with the *heads*."""
        data: Any = texts if labels is None else (texts, {LABEL: labels})
        columns = [] if labels is None else [LABEL]
        with TemporaryDirectory(prefix="textebm-") as folder:
            directory = Path(folder)
            if self.recipe is None:
                first = keep_in_run(data, directory, parse_recipe({"name": "fit"}, provisional(data)), labels=columns)
                path = first.data.train
                assert isinstance(path, str)
                plain = propose(path, label_columns=columns, measure=False).recipe.model_dump(mode="json")
            else:
                plain = load_recipe(self.recipe).model_dump(mode="json")
            plain = {**plain, "heads": heads, "seed": self.seed}
            recipe = parse_recipe(plain, [*provisional(data), *self.overrides])
            recipe = keep_in_run(data, directory, recipe, labels=columns)
            model = _trained(recipe)
        kept = model.network.recipe
        assert kept is not None, "a model that was built has one"
        model.network.recipe = {**kept, "data": {**kept["data"], "train": IN_MEMORY}}  # the files are gone
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def transform(self, X: Any) -> NDArray[Any]:
        """The latent of each text: posterior means (n, d)."""
        check_is_fitted(self, "model_")
        return np.asarray(self.model_.encode(as_texts(X)).mean.numpy())


def _fitted(X: Any) -> list[str]:
    texts = as_texts(X)
    if not texts:
        raise InputError("found 0 samples: fit needs texts")
    return texts


def _trained(recipe: Recipe) -> TextEBM:
    set_seed(recipe.seed)
    trainer = build_trainer(recipe, build_corpus(recipe.data, seed=recipe.seed))
    for _ in trainer.steps():
        pass
    trainer.end()
    return TextEBM(trainer.model.to("cpu").eval())


class TextEBMClassifier(ClassifierMixin, TransformerMixin, _Estimator):
    """A classifier of texts with a latent, which also writes: `model_.generate(5, symbols={"label": "positive"})`.

    recipe: a name, path or `Recipe`; None proposes one from the texts. Its heads are replaced by one of the labels.
    overrides: ``["training.batch_size=64"]``.

    Example: ``TextEBMClassifier().fit(texts, labels).predict(["it was great ."])``.
    """

    def __init__(self, recipe: Any = None, *, overrides: Sequence[str] = (), seed: int = 0) -> None:
        self.recipe, self.overrides, self.seed = recipe, overrides, seed

    def fit(self, X: Any, y: Any) -> TextEBMClassifier:
        """Train on texts and their labels. Raises InputError, and CorpusError for texts that cannot be trained on."""
        texts = _fitted(X)
        if y is None:
            raise InputError("fit requires y to be passed, but the target y is None: give a label for each text")
        try:
            labels = column_or_1d(check_array(y, input_name="y", ensure_2d=False, dtype=None), warn=True)
            check_classification_targets(labels)
        except ValueError as error:
            raise InputError(str(error)) from None
        if len(labels) != len(texts):
            raise InputError(f"{len(texts)} texts and {len(labels)} labels; expected one label a text")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        names = [str(each) for each in self.classes_]
        head = {"name": LABEL, "labels": LABEL}
        self.model_ = self._train(texts, [names[code] for code in codes], [head])
        known = self.model_.heads[LABEL].classes
        self._places = [known.index(name) if name in known else -1 for name in names]  # −1: none was in its train split
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """p(label | text), (n, K), in the order of `classes_`."""
        check_is_fitted(self, "model_")
        p = self.model_.encode(as_texts(X)).probabilities[LABEL].double().numpy()
        return np.column_stack([p[:, place] if place >= 0 else np.zeros(len(p)) for place in self._places])

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each text."""
        check_is_fitted(self, "model_")
        return np.asarray(self.classes_[self.predict_proba(X).argmax(1)])


class TextEBMTopicModel(TransformerMixin, _Estimator):
    """Codes of texts that are found without labels.

    n_topics: how many codes. recipe, overrides, seed: as of `TextEBMClassifier`.

    Example: ``TextEBMTopicModel(20).fit(texts).get_topic_info()``.
    """

    def __init__(self, n_topics: int = 20, recipe: Any = None, *, overrides: Sequence[str] = (), seed: int = 0) -> None:
        self.n_topics, self.recipe, self.overrides, self.seed = n_topics, recipe, overrides, seed

    def fit(self, X: Any, y: Any = None) -> TextEBMTopicModel:
        """Train on texts; y is not read. Raises InputError, and CorpusError for texts that cannot be trained on."""
        texts = _fitted(X)
        self.model_ = self._train(texts, None, [{"name": CODE, "classes": self.n_topics}])
        self.labels_ = self.predict(texts)
        members = [[text for text, code in zip(texts, self.labels_, strict=True) if code == k] for k in self._topics()]
        self.words_ = [[word.text for word in own] for own in top_words(members)]
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """p(topic | text), (n, n_topics)."""
        check_is_fitted(self, "model_")
        return np.asarray(self.model_.encode(as_texts(X)).probabilities[CODE].double().numpy())

    def predict(self, X: Any) -> NDArray[np.int64]:
        """The most probable topic of each text."""
        return self.transform(X).argmax(1)

    def get_topic_info(self) -> pd.DataFrame:
        """A table, one row a topic: its number, how many texts of the fit have it, and its words."""
        import pandas as pd

        check_is_fitted(self, "model_")
        counts = np.bincount(self.labels_, minlength=self.n_topics)
        names = [" ".join((str(k), *own[:3])) for k, own in enumerate(self.words_)]
        return pd.DataFrame({"topic": self._topics(), "count": counts, "name": names, "words": self.words_})

    def _topics(self) -> range:
        return range(self.n_topics)
