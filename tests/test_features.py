"""Where codes are found beside the latent: content, sentences, mixtures, seeds; and that a recipe can ask for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_mutual_info_score
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.trainers import WordLevelTrainer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from textebm.errors import CorpusError, RecipeError
from textebm.model.build import build_corpus
from textebm.networks.sentence_encoder import SentenceEncoder
from textebm.objective.clustering import find_clusters
from textebm.objective.features import content_features, count_classes, label_words, mix
from textebm.objective.seeds import lexicon_scores, parse_seeds, prototype_scores, seeded_classes
from textebm.recipe.read import parse_recipe
from textebm.recipe.schema import Objective
from textebm.runs.train import build_trainer
from textebm.text.words import content_words
from textebm.training.classes import Classes
from textebm.training.features import Features, found_in, parse_mix

SUBJECTS = ("pizza sauce cheese crust", "engine brakes tires oil", "piano violin drums choir")


def save_encoder(folder: Path, texts: Sequence[str]) -> str:
    """A small BERT with a tokenizer of the words of *texts*; its weights are random."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def sentences(n: int = 300) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Two words of one of three subjects in one of two frames, the subjects and the frames."""
    rng = np.random.default_rng(0)
    subjects, frames = rng.integers(3, size=n), rng.integers(2, size=n)
    pairs = [rng.choice(SUBJECTS[subject].split(), 2, replace=False) for subject in subjects]
    shapes = ("i did not like the {} or the {} at all .", "where is my {} , and who has that {} ?")
    texts = [shapes[frame].format(*pair) for frame, pair in zip(frames, pairs, strict=True)]
    return texts, subjects, frames


def test_content_finds_the_subject_and_not_the_form() -> None:
    texts, subjects, frames = sentences()
    points = content_features(texts, content_words, components=8)
    assert points.dtype == np.float32 and (points == content_features(texts, content_words, components=8)).all()
    found, _ = find_clusters(points, 3, components=16, seed=0)
    assert adjusted_mutual_info_score(subjects, found) > 0.95 and adjusted_mutual_info_score(frames, found) < 0.05


def test_smoothing_brings_texts_together_that_share_no_word() -> None:
    texts = [f"{a} {b}" for a, b in (("cat", "milk"), ("dog", "milk"), ("cat", "fur"), ("dog", "fur"))] * 5
    texts += [f"{a} {b}" for a, b in (("bank", "loan"), ("fund", "loan"), ("bank", "rate"), ("fund", "rate"))] * 5

    def likeness(smoothing: float) -> float:
        points = content_features(texts, content_words, components=3, smoothing=smoothing)
        return float(points[0] @ points[3] / (np.linalg.norm(points[0]) * np.linalg.norm(points[3])))

    assert likeness(1.0) > likeness(0.0) and likeness(1.0) > 0.8


def test_words_of_labels_are_left_out() -> None:
    texts = ["good pizza", "bad pizza", "good engine", "bad engine"] * 50
    labels = np.array([1, 0] * 100)
    told = label_words(csr_matrix([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]] * 50), labels)
    assert told.tolist() == [True, True, False, False]
    points = content_features(texts, content_words, labels=[labels])
    assert np.allclose(points[0], points[1], atol=1e-6) and not np.allclose(points[0], points[2], atol=0.1)


def test_texts_without_content_are_zero() -> None:
    points = content_features(["pizza sauce", "the of it", "engine oil", ""], content_words)
    assert not points[1].any() and not points[3].any() and points[0].any()
    assert content_features(["the", "of"], content_words).shape == (2, 0)


def test_a_mixture_heeds_each_by_its_weight() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(2, size=400), rng.integers(2, size=400)
    a = first[:, None] + 0.1 * rng.normal(size=(400, 4))
    b = 1000 * (second[:, None] + 0.1 * rng.normal(size=(400, 4)))
    for weights, truth in (((1.0, 0.1), first), ((0.1, 1.0), second)):
        found, _ = find_clusters(mix(list(zip(weights, (a, b), strict=True)), 2), 2, components=8, seed=0)
        assert adjusted_mutual_info_score(truth, found) > 0.9
    assert parse_mix(("content=2", "answer")) == {"content": 2.0, "answer": 1.0}
    for wrong in ("latent=1", "content=x", "content=0"):
        with pytest.raises(RecipeError, match="objective.cluster_mix"):
            parse_mix((wrong,))


def test_the_number_of_classes_may_be_counted() -> None:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(10, 12))
    assert count_classes(centres[rng.integers(10, size=900)] + 0.1 * rng.normal(size=(900, 12))) == 10


def test_seeds_are_lines_of_phrases() -> None:
    assert parse_seeds(["joy: happy, what a day", "none:"], "x") == {"joy": ["happy", "what a day"], "none": []}
    for wrong in (["joy happy", "b: c"], ["a: b"], ["a: b", "a: c"], ["a:", "b:"]):
        with pytest.raises(RecipeError, match="heads.e.seeds"):
            parse_seeds(wrong, "heads.e.seeds")


def test_seeds_find_texts_that_no_seed_names() -> None:
    texts, subjects, _ = sentences()
    seeds = {"food": ["pizza"], "cars": ["brakes"], "music": ["a nice piano"]}
    scores = lexicon_scores(texts, seeds, content_words)
    assert (scores.max(1) > 0).mean() < 0.7, "half of the texts have no seed"
    found = seeded_classes(scores, content_features(texts, content_words, components=8))
    told = found >= 0
    assert told.mean() > 0.9 and (found[told] == subjects[told]).mean() > 0.95


def test_the_rest_needs_no_seed() -> None:
    texts, subjects, _ = sentences()
    seeds = {"other": [], "food": ["pizza", "cheese", "sauce", "crust"]}
    scores = lexicon_scores(texts, seeds, content_words)
    found = seeded_classes(scores, content_features(texts, content_words, components=8), rest=0)
    told = found >= 0
    assert ((found[told] == 1) == (subjects[told] == 0)).mean() > 0.95


def test_prototypes_are_told_by_the_nearest_phrase() -> None:
    points = np.eye(3)[[0, 0, 1, 2]]
    scores = prototype_scores(points, {"a": ["x", "y"], "rest": []}, lambda texts: np.eye(3)[: len(texts)])
    assert scores[:, 0].tolist() == pytest.approx([0.25, 0.25, 0.25, -0.75]) and not scores[:, 1].any()


def test_a_sentence_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    source = save_encoder(tmp_path / "encoder", tiny.sentences(40))
    encoder = SentenceEncoder(source)
    texts = ["the food was great", "staff", *tiny.sentences(20)]
    found = encoder(texts)
    assert found.shape == (22, 16) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(encoder(["staff"])[0], found[1], atol=1e-5)
    both = encoder.read(texts, [1, -1])
    assert np.allclose(both[:, 1], found, atol=1e-6) and not np.allclose(both[:, 0], found, atol=1e-4)
    with pytest.raises(RecipeError, match="has layers 0 to 2 .*, got 7"):
        SentenceEncoder(source, layer=[-1, 7])
    two = SentenceEncoder(source, layer=[1, -1])(texts)
    assert np.allclose(two, both.reshape(22, -1) / np.sqrt(2), atol=1e-6)
    with pytest.raises(RecipeError, match="no tokenizer that can be loaded"):
        SentenceEncoder(str(tmp_path / "nothing"), option="objective.sentence_encoder")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_each_head_is_found_in_its_own_features(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_encoder(tmp_path / "encoder", tiny.sentences(40))
    heads = [
        {"name": "topic", "classes": 3, "features": "content"},
        {"name": "meaning", "classes": 4, "features": "sentence"},
        {"name": "both", "classes": 3, "features": "mixed"},
        {"name": "form", "classes": 3},
        {"name": "subject", "seeds": ["food: pizza, coffee, soup", "rest:"]},
        {"name": "sentiment", "labels": "sentiment"},
        {"name": "auto", "classes": "auto", "features": "content"},
    ]
    options: dict[str, Any] = {**tiny.RECIPE, "heads": heads}
    options["objective"] = {**options["objective"], "sentence_encoder": source}
    recipe = parse_recipe(options, ["training.stages.0.steps=12", "training.stages.1.steps=2"])
    worker = build_trainer(recipe, build_corpus(recipe.data))
    assert set(worker.train.features) == {"topic", "meaning", "both", "subject", "auto"}
    assert worker.model.heads["subject"].classes == ("food", "rest") and worker.model.heads["subject"].column is None
    assert 5 <= len(worker.model.heads["auto"].classes) <= 100
    steps = worker.steps()
    first = next(steps).values
    assert "cross_entropy_topic" in first and "cross_entropy_form" not in first, "latents are not there yet"
    topics = worker.classes.clusters["topic"].copy()
    list(steps)
    assert (worker.classes.clusters["topic"] == topics).all() and "form" in worker.classes.clusters
    monkeypatch.setattr(SentenceEncoder, "__call__", lambda *_: pytest.fail("the cache has them"))
    found_in(build_corpus(recipe.data)["train"], recipe.model_copy(update={"heads": recipe.heads[1:2]}), {})


@pytest.mark.parametrize(
    "heads, error, message",
    [
        ([{"name": "a", "classes": 3, "features": "sentence"}], RecipeError, "objective.sentence_encoder: is missing"),
        ([{"name": "a", "classes": 3, "features": "answer"}], RecipeError, "needs the turns before each sentence"),
        ([{"name": "a", "seeds": ["x: y", "b: c"], "features": "content"}], RecipeError, "no effect without classes"),
        ([{"name": "a", "seeds": ["x: y", "b: c"], "classes": 3}], RecipeError, "and seeds .phrases., got two"),
        ([{"name": "a", "seeds": ["x: y"]}], RecipeError, "needs two classes or more"),
        ([{"name": "a", "classes": "auto"}], RecipeError, "auto needs features that do not change"),
    ],
)
def test_what_cannot_be_found_is_said(heads: list[dict[str, Any]], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recipe = parse_recipe({**tiny.RECIPE, "heads": heads})
        found_in(build_corpus(recipe.data)["train"], recipe, {})


def test_texts_without_content_cannot_be_clustered_by_it(caplog: pytest.LogCaptureFixture) -> None:
    recipe = parse_recipe({**tiny.RECIPE, "heads": [{"name": "a", "classes": 2, "features": "content"}]})
    rows = build_corpus(recipe.data)["train"].select(range(6)).map(lambda row: {"text": "it is what it is"})
    with pytest.raises(CorpusError, match="heads.a.features: hardly a training text has a content word"):
        found_in(rows, recipe, {})
    asked = recipe.model_copy(update={"heads": (recipe.heads[0].model_copy(update={"features": None}),)})
    asked = asked.model_copy(update={"objective": Objective()})
    assert asked.objective.cluster_features == "content", "the default, which gives way"
    assert found_in(rows, asked, {})[1] == {} and "are found in the latent" in caplog.text


def test_a_text_without_content_has_no_code() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    points[[1, 6]] = 0.0
    classes = Classes(np.arange(12), 2, {}, {"code": 3}, components=3, features={"code": points})
    classes.find(np.zeros((12, 2), dtype=np.float32))
    targets = classes.targets(np.arange(12), torch.device("cpu"))
    assert callable(targets)
    codes = targets(torch.zeros(12, 2))["code"].numpy()
    assert (np.flatnonzero(codes < 0) == [1, 6]).all() and (classes.clusters["code"] == codes).all()
    assert len(set(codes[codes >= 0])) == 3


def test_a_revision_of_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "textebm.training.features.SentenceEncoder", lambda *names, **rest: asked.update(rest, name=names)
    )
    options: dict[str, Any] = {**tiny.RECIPE}
    options["objective"] = {**options["objective"], "sentence_encoder": "owner/reader@abc123"}
    recipe = parse_recipe(options)
    Features(build_corpus(recipe.data)["train"], recipe, {}).encoder  # noqa: B018
    assert asked["name"] == ("owner/reader",) and asked["revision"] == "abc123" and asked["layer"] == (-1,)
