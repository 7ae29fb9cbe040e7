"""Codes from what tells a turn's answer: its kind is found and not its subject, once, and a resumed run agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from test_context import fresh, parts, talking

from textebm.errors import CorpusError, RecipeError
from textebm.model.build import build_corpus
from textebm.objective import answers
from textebm.objective.answers import answer_features, canonical_directions, ends_of, features_of
from textebm.recipe.read import parse_recipe
from textebm.training.data import read_split
from textebm.training.features import found_in
from textebm.training.loop import Trainer

SUBJECTS = ("tea", "music", "rain", "trains", "cats", "money")
KINDS = {
    "{} is what i like .": ("i see .", "oh , really ?"),
    "do you like {} ?": ("yes , i do .", "no , i do not ."),
    "bring me some {} please .": ("sure , at once .", "certainly , sir ."),
}


def turns(n: int) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Turns of three kinds about six subjects, an answer of its kind to each, the kinds and the subjects."""
    rng = np.random.default_rng(0)
    kinds, subjects = rng.integers(3, size=n), rng.integers(6, size=n)
    templates = list(KINDS.items())
    said = [templates[kind][0].format(SUBJECTS[subject]) for kind, subject in zip(kinds, subjects, strict=True)]
    return said, [str(rng.choice(templates[kind][1])) for kind in kinds], kinds, subjects


def test_ends_and_features_by_hand() -> None:
    assert ends_of("yes , i do .") == ["0:yes", "1:,", "-1:."]
    assert ends_of("no") == ["0:no", "-1:no"] and ends_of("") == []
    found = features_of("oh ? could you sing ?")
    assert {"oh", "0:oh", "-2:sing", "begins:could you", "closing:could you sing", "closing:could…?"} <= set(found)
    assert {"sentences:2", "length:1"} <= set(found) and features_of("") == []


def test_turns_that_are_answered_alike_lie_together_whatever_their_subject() -> None:
    said, answered, kinds, subjects = turns(400)
    pairs = list(zip(said, answered, strict=True))
    found = answer_features(said, pairs, components=2)
    assert found.shape == (400, 4) and found.dtype == np.float32
    assert (found == answer_features(said, pairs, components=2)).all()
    codes = KMeans(3, n_init=5, random_state=0).fit_predict(found)
    assert adjusted_mutual_info_score(kinds, codes) > 0.99 and adjusted_mutual_info_score(subjects, codes) < 0.05
    mixed = np.random.default_rng(1).permutation(400)
    chance = answer_features(said, [(text, answered[i]) for text, i in zip(said, mixed, strict=True)], components=2)
    assert chance.std() < 0.3 * found.std(), "variates count by their correlation, and here there is none to find"


def test_canonical_directions_find_the_shared_signal_and_weigh_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "RIDGE", 1e-9)
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(5000, 1))
    x = np.hstack([shared + rng.normal(size=(5000, 1)), 9 * rng.normal(size=(5000, 2)) + 4])
    y = np.hstack([5 * rng.normal(size=(5000, 2)), shared])
    values, vectors = np.linalg.eigh(np.cov(x.T))
    variates = x @ canonical_directions(csr_matrix(x), csr_matrix(y), 2, (vectors / np.sqrt(values)) @ vectors.T)
    assert abs(np.corrcoef(variates[:, 0], x[:, 0])[0, 1]) > 0.999
    np.testing.assert_allclose(variates.std(0), [0.5, 0], atol=0.03)  # corr(x₀, shared)² = 1/2, else none


def test_little_text_gives_few_variates_and_no_pairs_none() -> None:
    assert answer_features(["a b", "c"], []).shape == (2, 0)
    found = answer_features(["hi .", "", "oh ?"], [("hi .", "oh ?"), ("oh ?", "")], components=50)
    assert found.shape[0] == 3 and 2 <= found.shape[1] < 100 and np.isfinite(found).all()


OVERRIDES = ("objective.cluster_features=answer", "heads.1.classes=3", "training.stages.0.steps=12")


def worker(*overrides: str) -> Trainer:
    corpus, tokenizer, read = parts(talking())
    chosen = talking(*OVERRIDES, *overrides)
    data = chosen.data
    train = read_split(
        corpus["train"],
        tokenizer,
        data.max_tokens,
        context_turns=data.context_turns,
        context_tokens=data.context_tokens,
    )
    train = replace(train, features=found_in(corpus["train"], chosen, {})[1])
    return Trainer(fresh(*OVERRIDES, *overrides).network, train, read["validation"], chosen)


def test_codes_teach_from_the_start_and_stay() -> None:
    run = worker()
    steps = run.steps()
    first = next(steps)
    assert "cross_entropy_code" in first.values, "the first epoch has them already"
    codes = run.classes.clusters["code"].copy()
    assert sorted(np.unique(codes)) == [0, 1, 2]
    list(steps)
    assert run.plan[1].name == "prior" and (run.classes.clusters["code"] == codes).all()


def test_only_codes_of_the_latent_wait_for_cluster_start() -> None:
    heads = "heads=[{name: code, classes: 3}, {name: form, classes: 3, features: latent}]"
    run = worker(heads, "objective.cluster_start=0.3")
    steps = [step.values for step in run.steps() if step.stage.name == "autoencoder"]
    batches = run.plan[0].batches_per_epoch
    assert all("cross_entropy_code" in values for values in steps)
    assert ["cross_entropy_form" in values for values in steps] == [step >= batches for step in range(12)]
    assert batches == 5


def test_a_resumed_run_has_the_same_codes() -> None:
    whole, broken = worker(), worker()
    steps = broken.steps()
    for _ in range(7):
        next(steps)
    resumed = worker()
    resumed.restore(*broken.state())
    list(whole.steps())
    list(resumed.steps())
    assert (whole.classes.clusters["code"] == resumed.classes.clusters["code"]).all()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_it_needs_dialogues() -> None:
    plain = {"name": "x", "data": {"corpus": "ptb"}, "objective": {"cluster_features": "answer"}}
    with pytest.raises(RecipeError, match="objective.cluster_features: 'answer' needs the turns before each sentence"):
        parse_recipe(plain, ())
    parse_recipe(plain, ("data.corpus=dailydialog",))
    corpus = build_corpus(talking().data)["train"]
    alone = corpus.select([i for i, history in enumerate(corpus["context"]) if not history])
    with pytest.raises(CorpusError, match="no training sentence has a turn before it"):
        found_in(alone, talking(*OVERRIDES), {})
