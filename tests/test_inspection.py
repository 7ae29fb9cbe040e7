"""Code cards, maps and what the report is made of, against hand-worked numbers and laws."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tiny import sentences, trained, untrained
from typer.testing import CliRunner

from textebm.cli import app
from textebm.errors import CorpusError, TextEBMError
from textebm.evaluation import words as of_words
from textebm.evaluation.words import c_tf_idf, log_odds, top_words
from textebm.inspection import codes as of_codes
from textebm.inspection.codes import centroid_cosines, inspect_codes, spreadsheet_safe, to_rows
from textebm.inspection.paths import SHOWN_TWINS, TWINS, compose, diffusions, edits, strength_sweep, twins, walks
from textebm.inspection.projection import Projection, project, projection_key
from textebm.inspection.rows import LabelColumn, Rows, choose_rows
from textebm.use.reading import Encoding

TEXTS = ["the red car", "the red bus .", "the blue sea", "the blue sky", "a red car", "the sea"]
COLOUR = LabelColumn(("red", "blue"), np.array([0, 0, 1, 1, 0, -1]))


def test_c_tf_idf_by_hand() -> None:
    found = c_tf_idf([{"a": 3, "b": 1}, {"a": 1, "c": 3}, {}])
    # A = 8 words over the 2 classes that have any = 4; tf(a) = 4, tf(b) = 1, tf(c) = 3; either class has 4 words
    root = math.sqrt(3 / 4)
    assert found[0] == pytest.approx({"a": root * math.log(1 + 4 / 4), "b": 0.5 * math.log(1 + 4 / 1)})
    assert found[1] == pytest.approx({"a": 0.5 * math.log(2), "c": root * math.log(1 + 4 / 3)})
    assert found[2] == {}
    assert c_tf_idf([]) == []


def test_log_odds_by_hand() -> None:
    one, two = log_odds([{"a": 3, "b": 1}, {"a": 1, "c": 3}])
    # a_t = tf / 2, 4 in all. "a": (3 + 2) of (4 + 4) here, (1 + 2) of (4 + 4) in the other class
    z = (math.log(5 / 3) - math.log(3 / 5)) / math.sqrt(1 / 5 + 1 / 3)
    assert one["a"] == pytest.approx(z) and two["a"] == pytest.approx(-z)
    assert one["b"] == pytest.approx((math.log(1.5 / 6.5) - math.log(0.5 / 7.5)) / math.sqrt(1 / 1.5 + 1 / 0.5))
    assert log_odds([]) == [] and log_odds([{"a": 2}, {}]) == [{"a": 0.0}, {}]
    assert log_odds([{"a": 2, "b": 1}]) == [{"a": 0.0, "b": 0.0}]  # a single class differs from nothing


def test_function_words_do_not_lead() -> None:
    """Classes of different size and length, all full of "the" and "was": none of them says so."""
    rng = np.random.default_rng(0)
    classes = []
    for topic, size in (("soup", 40), ("staff", 15), ("car", 200)):
        fill = rng.choice(["the", "was", "and", "a", "to"], size=(size, 6), p=[0.4, 0.3, 0.1, 0.1, 0.1])
        classes.append([" ".join([*words, topic, f"{topic}{rng.integers(3)}"]) for words in fill])
    for topic, words in zip(("soup", "staff", "car"), top_words(classes), strict=True):
        assert [word.text.startswith(topic) for word in words[:4]] == [True] * 4
        assert all(word.z > 1.96 for word in words)


def test_top_words_of_little() -> None:
    red, blue, none = top_words([TEXTS[:2], TEXTS[2:4], []], n=3)
    assert [word.text for word in red] == ["red", "bus", "car"]  # equal scores: by the alphabet; no "the", no "."
    assert red[0].count == 2 and blue[0].text == "blue" and none == ()
    (alone,) = top_words([TEXTS[:2]], n=2)  # a single code has no words that others have less
    assert {word.text for word in alone} == {"the", "red"}


def test_words_of_any_script() -> None:
    assert of_words.words_of("Great tacos !  It's") == ["great", "tacos", "it's"]
    assert of_words.words_of("我爱北京。ok") == ["我", "爱", "北", "京", "ok"]
    assert of_words.words_of("مرحبا بالعالم") == ["مرحبا", "بالعالم"]
    assert of_words.words_of(" \t") == []


class Fake:
    """A model of two used codes and an unused one, whose numbers are set here."""

    def __init__(self) -> None:
        names = ("warm", "cold", "dead")
        self.heads = {"code": type("Head", (), {"name": "code", "classes": names, "column": None})()}
        self.p = torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.3, 0.7, 0], [0.9, 0.1, 0], [0, 1.0, 0]])

    def encode(self, texts: list[str]) -> Encoding:
        mean = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0], [1, 0], [-1, 0]])
        return Encoding(mean, torch.ones(6, 2), {"code": self.p}, {"code": self.p.argmax(-1)})

    def generate(self, n: int, *, symbols: dict[str, list[int]], seed: int) -> list[str]:
        return [f"made {code} {seed}" for code in symbols["code"]]


def cards() -> list[of_codes.CodeCard]:
    model: Any = Fake()
    return inspect_codes(model, Rows(list(TEXTS), {"colour": COLOUR}, 6), "code", generated=2, typical=2, seed=7)


def test_a_card_by_hand() -> None:
    warm, cold, dead = cards()
    assert (warm.size, warm.share, warm.name, warm.code) == (3, 0.5, "warm", 0)
    assert warm.confidence == pytest.approx((0.9 + 0.6 + 0.9) / 3)
    assert [(each.text, round(each.probability, 3)) for each in warm.typical] == [
        ("the red car", 0.9),
        ("a red car", 0.9),
    ]
    assert cold.typical[0].text == "the sea"
    assert warm.generated == ("made 0 7", "made 0 7") and dead.generated == ("made 2 7", "made 2 7")
    (red,) = warm.labels
    assert (red.label, red.name, red.count, red.share) == ("colour", "red", 3, 1.0)
    assert red.lift == pytest.approx(1 / (3 / 5))  # 3 of 5 labelled sentences are red
    (blue,) = cold.labels
    assert (blue.count, blue.share) == (2, 1.0)  # the missing label counts nowhere
    assert warm.nearest[0].name == "cold" and warm.nearest[0].cosine == pytest.approx(-1)
    assert dead.unused and dead.confidence is None and dead.words == () and dead.nearest == () and dead.labels == ()
    assert not warm.unused and warm.duplicates == ()


def test_duplicates_are_named() -> None:
    mean = np.array([[1.0, 0], [1.05, 0], [-1, 1], [-1, -1]])
    cosines = centroid_cosines(mean, [np.array([i]) for i in range(4)])
    assert cosines[0, 1] > 0.99 and cosines[0, 2] < 0 and np.isneginf(np.diag(cosines)).all()
    model: Any = Fake()
    model.p = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])
    rows = Rows(["red car", "red car", "sea", "sky", "red bus", "red bus"], {}, 6)
    encoding = Encoding(
        torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0], [1, 0], [1, 0]]),
        torch.ones(6, 2),
        {"code": model.p},
        {"code": model.p.argmax(-1)},
    )
    found = inspect_codes(model, rows, "code", generated=0, encoding=encoding)
    assert [card.duplicates for card in found] == [("cold",), ("warm",), ()]


def test_an_unknown_head_and_an_empty_split_are_errors() -> None:
    model: Any = Fake()
    with pytest.raises(TextEBMError, match="unknown head 'cod'; did you mean 'code'"):
        inspect_codes(model, Rows(["a"], {}, 1), "cod")
    with pytest.raises(CorpusError, match="no sentence with a word"):
        choose_rows(Dataset.from_dict({"text": ["", " "]}))


def test_rows_are_chosen_by_the_seed() -> None:
    features = Features({"text": Value("string"), "kind": ClassLabel(names=["x", "y"])})
    data = Dataset.from_dict({"text": ["", *map(str, range(50))], "kind": [-1, *([0, 1] * 25)]}, features=features)
    rows, again, other = (choose_rows(data, limit=10, seed=seed) for seed in (0, 0, 1))
    assert rows.texts == again.texts != other.texts and len(rows) == 10 and rows.total == 51
    assert rows.labels["kind"].values.tolist() == [int(text) % 2 for text in rows.texts]
    assert len(choose_rows(data)) == 50


def test_plain_rows_and_formulas() -> None:
    rows = to_rows(cards())
    assert len({tuple(row) for row in rows}) == 1 and json.dumps(rows)
    assert (rows[0]["colour"], rows[2]["colour"], rows[2]["unused"]) == ("red", None, 1)
    for text in ("=1+1", "+x", "-2", "@SUM(A1)", "\tx", "\r=1", " =cmd|' /C calc'!A0", "＝1", "\n=1"):
        assert str(spreadsheet_safe(text)).startswith("'")
    assert spreadsheet_safe(-0.5) == -0.5 and spreadsheet_safe("a=b") == "a=b" and spreadsheet_safe(None) is None


# -- maps --------------------------------------------------------------------------------------------------------------


def test_pca_is_a_rotation_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2)) * [3.0, 1.0]
    layout = project(points, points[:5], tsne=False).layouts["pca"]
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    mapped = np.linalg.norm(layout.points[:, None] - layout.points[None], axis=-1)
    assert np.abs(distance - mapped).max() < 2e-3
    assert np.array_equal(layout.points[:5], layout.samples) and "100% of the variance" in layout.note


def test_a_map_repeats_and_survives_a_file() -> None:
    rng = np.random.default_rng(1)
    near, far = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 20
    points = np.concatenate([near, far]).astype(np.float32)
    one, two = (project(points, points[:6], key="k", seed=3) for _ in range(2))
    assert one.to_json() == two.to_json() == Projection.from_json(json.loads(json.dumps(one.to_json()))).to_json()
    placed = one.layouts["tsne"].points
    assert np.linalg.norm(placed[:40].mean(0) - placed[40:].mean(0)) > 2 * placed[:40].std(0).max()


@pytest.mark.parametrize(
    "mean", [np.zeros((30, 4)), np.ones((1, 4)), np.arange(30.0)[:, None], np.random.default_rng(0).normal(size=(3, 4))]
)
def test_maps_of_little(mean: np.ndarray) -> None:
    for samples in (np.zeros((0, mean.shape[1])), np.zeros((2, mean.shape[1]))):
        for layout in project(mean, samples).layouts.values():
            assert layout.points.shape == (len(mean), 2) and layout.samples.shape == (len(samples), 2)
            assert np.isfinite(layout.points).all() and np.isfinite(layout.samples).all()


@pytest.mark.parametrize(
    "data", [None, [], {}, {"version": 1}, {"version": 1, "key": "", "layouts": {"pca": {"points": [[1, "x"]]}}}]
)
def test_a_damaged_map_is_noticed(data: Any) -> None:
    with pytest.raises(ValueError, match="not a stored projection"):
        Projection.from_json(data)


def test_the_key_knows_what_the_map_is_made_from() -> None:
    keys = {
        projection_key(*each)
        for each in [("m", ["a", "b"], 4, 0), ("n", ["a", "b"], 4, 0), ("m", ["a b"], 4, 0), ("m", ["a", "b"], 5, 0)]
    }
    assert len(keys) == 4


# -- a real model ------------------------------------------------------------------------------------------------------


def test_a_path_ends_in_the_sample() -> None:
    model = trained()
    sample = model.sample_path(3, seed=2)
    assert sample.path is not None and sample.path.shape == (4, 3, 8)
    assert torch.equal(sample.path[-1], sample.z)
    assert torch.equal(sample.z, model.sample_latents(3, seed=2))
    shown, acceptance = diffusions(model)
    assert len(shown) == 5 and shown[0].levels == (3, 2, 1, 0) and shown[0].signal[-1] == 1.0
    assert shown[2].texts[-1] == model.decode(model.sample_latents(5, seed=0))[2]
    assert len(acceptance) == 4 and all(value is not None for value in acceptance)


def test_energies_and_losses() -> None:
    model, texts = trained(), list(sentences(9))
    z = model.encode(texts).mean
    level = torch.zeros(9, dtype=torch.long)
    assert torch.allclose(model.energies(z), -model.prior.potential(z, level).detach(), atol=1e-6)
    losses = model.reconstruction_losses(texts)
    assert losses.shape == (9,) and (losses > 0).all()
    assert torch.allclose(losses[:1], model.reconstruction_losses(texts[:1]), atol=1e-4)  # padding is inert
    assert len(model.reconstruction_losses([])) == 0


@pytest.mark.parametrize(
    "overrides", [(), ("prior.kind=gaussian",), ("prior.kind=energy", "heads=[{name: code, classes: 1}]")]
)
def test_what_the_model_does_is_shown_for_every_prior(overrides: tuple[str, ...]) -> None:
    model, rows = untrained(*overrides), Rows(list(sentences(12)), {}, 12)
    for head in model.heads:
        assert [card.code for card in inspect_codes(model, rows, head, generated=1)] == list(
            range(len(model.heads[head].classes))
        )
    for walk in walks(model, rows):
        assert walk[0] in rows.texts and walk[-1] in rows.texts and len(walk) == 9
    found = edits(model, rows)
    assert all(each.source != each.target and len(each.texts) == len(each.levels) for each in found)
    assert bool(found) == (len(model.heads) > 1)
    grid = compose(model)
    assert (grid is None) == (len(model.heads) < 2)
    if grid is not None:
        assert grid.heads == ("sentiment", "topic") and len(grid.cells) == 12
    assert all(0 <= each.agreement <= 1 for each in strength_sweep(model, next(iter(model.heads))))
    diffusions(model)


# -- the command -------------------------------------------------------------------------------------------------------


def test_twins_say_what_a_symbol_changes_and_what_it_leaves() -> None:
    model = trained()
    first, second = twins(model, seed=3)
    assert (first.head, second.head) == ("sentiment", "topic") and first.n == TWINS
    assert (first.first, first.second) == ("negative", "positive") and set(first.kept) == {"topic", "code"}
    pairs = model.compare({"sentiment": "negative"}, {"sentiment": "positive"}, TWINS, seed=3)
    assert first.changed == pytest.approx(np.mean([each.changed for each in pairs]))
    a, b = (model.encode(texts).codes for texts in ([each.a for each in pairs], [each.b for each in pairs]))
    assert first.read == pytest.approx(float(((a["sentiment"] == 0) & (b["sentiment"] == 1)).float().mean()))
    unrelated = [(i, (i - 1) % TWINS) for i in range(TWINS)]
    assert first.kept["code"] == pytest.approx(np.mean([int(a["code"][i] == b["code"][i]) for i in range(TWINS)]))
    assert first.kept_chance["code"] == pytest.approx(
        np.mean([int(a["code"][i] == b["code"][j]) for i, j in unrelated])
    )
    assert len(first.changes) == SHOWN_TWINS
    for pair, changes in zip(pairs, first.changes, strict=False):
        for text, own in ((pair.a, "out"), (pair.b, "in")):
            assert " ".join(words for kind, words in changes if kind in ("same", own)) == " ".join(text.split())
    found = untrained("heads=[{name: code, classes: 3}]")
    assert [each.head for each in twins(found)] == ["code"] and twins(untrained("heads=[]")) == []


def test_the_codes_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textebm.runs import report

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    asked: dict[str, Any] = {}

    def stand_in(directory: Path, **options: Any) -> list[of_codes.CodeCard]:
        asked.update(options)
        return cards()

    monkeypatch.setattr(report, "codes_of_run", stand_in)
    shown = CliRunner().invoke(app, ["codes", str(run), "--head", "code", "--limit", "9"])
    assert shown.exit_code == 0 and "unused: dead" in shown.stdout and "red 100%" in shown.stdout
    assert (asked["head"], asked["limit"], asked["split"]) == ("code", 9, "test")
    parsed = json.loads(CliRunner().invoke(app, ["codes", str(run), "--json"]).stdout)
    assert [card["size"] for card in parsed] == [3, 3, 0] and parsed[0]["labels"][0]["name"] == "red"
    table = tmp_path / "codes.csv"
    assert CliRunner().invoke(app, ["codes", str(run), "--csv", str(table)]).exit_code == 0
    with table.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert [record["code"] for record in records] == ["warm", "cold", "dead"] and records[0]["colour"] == "red"
    wrong = CliRunner().invoke(app, ["codes", str(run), "--csv", str(tmp_path / "no" / "x.csv")])
    assert wrong.exit_code == 2 and "its folder does not exist" in wrong.stderr
