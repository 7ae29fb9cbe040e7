"""Scores of codes: hand-worked numbers, agreement with scikit-learn, and what random codes reach."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure
from typer.testing import CliRunner

from textebm.cli import app
from textebm.evaluation import code_scores as scores
from textebm.evaluation.assignments import match, score_assignments
from textebm.evaluation.code_baselines import BASELINES, kmeans_codes
from textebm.evaluation.metric import UndefinedMetricError
from textebm.text.words import content_words, subject_words

FOOD = ["the tasty pizza was hot", "a tasty hot pizza", "hot pizza , tasty sauce", "tasty sauce on a hot pizza"] * 10
CARS = ["the car has new brakes", "new brakes for my car", "my car needs a new engine", "an engine and new brakes"] * 10
TEXTS, CODES = FOOD + CARS, np.array([0] * 40 + [1] * 40)


@pytest.mark.parametrize("n, codes, classes", [(30, 125, 7), (500, 20, 4), (7, 1, 3), (7, 3, 1), (6, 6, 6)])
def test_a_match_is_scikit_learns(n: int, codes: int, classes: int) -> None:
    rng = np.random.default_rng(n)
    found, labels = rng.integers(0, codes, n), rng.integers(0, classes, n)
    homogeneity, _, v_measure = homogeneity_completeness_v_measure(labels, found)
    expected = [homogeneity, v_measure, adjusted_mutual_info_score(labels, found)]
    own = match(found, labels)
    assert np.allclose([own.homogeneity, own.v_measure, own.ami], expected, atol=1e-9)


def test_purity_by_hand() -> None:
    assert match(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])).purity == pytest.approx(3 / 5)


def test_small_batches_flatter_random_codes_and_ami_does_not() -> None:
    rng = np.random.default_rng(0)
    found = score_assignments(rng.integers(0, 125, 3000), rng.integers(0, 4, 3000), batches=(30,), permutations=2)
    assert found.pooled.homogeneity < 0.06 and found.random_pooled.homogeneity < 0.06
    assert found.batches[30].homogeneity > 0.85 and found.random_batches[30].homogeneity > 0.85
    assert abs(found.pooled.ami) < 0.01 and abs(found.batches[30].ami) < 0.05


def test_missing_labels_are_left_out() -> None:
    labels = np.array(["a", None, "b", "", "a", "b"], dtype=object)
    found = score_assignments(np.array([0, 0, 1, 1, 0, 1]), labels, batches=(2,))
    assert found.n == 4 and found.pooled.homogeneity == pytest.approx(1.0) and found.pooled.ami == pytest.approx(1.0)
    with pytest.raises(UndefinedMetricError):
        score_assignments([0, 1], ["a", "a"])


def test_npmi_by_hand() -> None:
    texts = ["a b", "a b", "a c", "d"]
    (both,) = scores.npmi([["a", "b"]], texts)
    assert both == pytest.approx(math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5))
    assert scores.npmi([["b", "c"], ["a"], ["b", "c", "a"]], texts)[0] == -1.0
    assert math.isnan(scores.npmi([["a"]], texts)[0])


def test_windows_keep_distant_words_apart() -> None:
    text = "left " + "x " * 10 + "right"
    assert scores.npmi([["left", "right"]], [text], window=5) == [-1.0]
    assert scores.npmi([["left", "right"]], [text, "y"], window=12)[0] == pytest.approx(1.0)


def test_diversity_by_hand() -> None:
    assert scores.diversity([["a", "b"], ["a", "c"]]) == pytest.approx(3 / 4)


def test_auroc_by_hand() -> None:
    assert scores.auroc([0.9, 0.8, 0.1], [True, False, False]) == 1.0
    assert scores.auroc([0.5, 0.5, 0.1, 0.9], [True, False, True, False]) == pytest.approx((0.5 + 0 + 0 + 0) / 4)
    assert math.isnan(scores.auroc([1.0, 2.0], [True, True]))


def test_names_find_their_sentences_and_shuffled_ones_do_not() -> None:
    judge = scores.tfidf_judge(TEXTS)
    names = scores.names_from_words(TEXTS, CODES, 2)
    assert set(names[0]) >= {"pizza", "tasty"} and set(names[1]) >= {"car", "brakes"}
    told = scores.detection(names, TEXTS, CODES, judge)
    assert told.auroc == told.f1 == 1.0
    assert scores.detection(["hot pizza", "brakes of a car"], TEXTS, CODES, judge).auroc > 0.95
    mixed = np.random.default_rng(1).permutation(CODES)
    assert abs(scores.detection(names, TEXTS, mixed, judge).auroc - 0.5) < 0.15


def test_a_persons_judge_may_tell() -> None:
    told = scores.detection(["x", "y"], TEXTS, CODES, lambda names, texts: np.eye(2)[CODES])
    assert told.auroc == told.f1 == 1.0 and told.per_code == (1.0, 1.0)
    with pytest.raises(ValueError, match="judge gave scores of shape"):
        scores.detection(["x", "y"], TEXTS, CODES, lambda names, texts: np.zeros((3, 2)))


def test_intruders_are_told_or_guessed() -> None:
    assert scores.intruder(TEXTS, CODES, questions=100) > 0.9
    same = scores.intruder(TEXTS, CODES, lambda texts: np.ones((len(texts), 2)), questions=100)
    assert same == pytest.approx(0.2)
    typical = np.where(np.arange(80) % 4 == 0, 1.0, 0.0)
    assert scores.intruder(TEXTS, CODES, questions=50, typical=typical) == 1.0


def test_stability_does_not_mind_names() -> None:
    found = scores.stability(CODES, 1 - CODES)
    assert found.ami == pytest.approx(1.0) and found.agreement == 1.0 and found.partner == (1, 0)
    half = CODES.copy()
    half[:10] = 1
    found = scores.stability(CODES, half)
    assert found.agreement == pytest.approx(70 / 80) and found.overlap == pytest.approx((30 / 40, 40 / 50))


def test_baselines_separate_two_subjects() -> None:
    for name, make in BASELINES.items():
        train, held_out = make(TEXTS, TEXTS, 2, 0)
        assert train.shape == held_out.shape == (80,)
        if name != "lda":
            assert match(train, CODES).ami > 0.9, name
    with pytest.raises(UndefinedMetricError):
        kmeans_codes(["the", "of the"], ["it"], 2)


def test_content_words() -> None:
    assert content_words("The food was n't very good , 20 minutes !") == ["food", "good", "minutes"]
    assert subject_words("We got the food and went home") == ["food", "home"]


def test_the_score_command(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sentence", "cluster", "subject"])
        writer.writerows([text, code, "ab"[code]] for text, code in zip(TEXTS, CODES.tolist(), strict=True))
    command = ["codes", "score", str(file), "--codes", "cluster", "--labels", "subject", "--text", "sentence"]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["labels"]["subject"]["pooled"]["ami"] == pytest.approx(1.0)
    assert set(found["words"]) == {"these codes", "in random order", *BASELINES}
    assert found["words"]["these codes"]["detection_auroc"] > 0.95
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0 and "random codes" in shown.stdout and "batches of 30" in shown.stdout
    for arguments, message in (
        (["--codes", "clusters", "--labels", "subject"], "did you mean 'cluster'"),
        (["--codes", "cluster"], "nothing to score"),
    ):
        wrong = CliRunner().invoke(app, ["codes", "score", str(file), *arguments])
        assert wrong.exit_code == 2 and message in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_score_command_reads_numbers_in_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"code": i % 3, "label": None if i % 5 == 0 else i % 3 == 0} for i in range(60)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    found = CliRunner().invoke(app, ["codes", "score", str(file), "--codes", "code", "--labels", "label", "--json"])
    assert json.loads(found.stdout)["labels"]["label"]["pooled"]["homogeneity"] == pytest.approx(1.0)
    assert json.loads(found.stdout)["labels"]["label"]["n"] == 48
