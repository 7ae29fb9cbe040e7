"""Tables and figures: `model.inspect`, its pandas frames, `textebm figure`, and the UMAP map."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import save_trained, sentences, trained
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.inspection.codes import CodeCard, LabelShare, Word
from textebm.inspection.frames import Inspection
from textebm.inspection.projection import Layout, Projection, project
from textebm.inspection.report import inspect, projection_of
from textebm.inspection.rows import choose_rows
from textebm.runs import report as reports
from textebm.text.grammar import corpus
from textebm.use.attributes import save_attribute


@pytest.fixture(scope="module")
def found() -> Inspection:
    return inspect(trained(), corpus(300)["test"], limit=50)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("runs") / "tiny")


# -- tables ------------------------------------------------------------------------------------------------------------


def test_frames_hold_what_was_found(found: Inspection) -> None:
    tables = found.frames()
    rows, codes = tables["sentences"], tables["codes"]
    assert rows["text"].tolist() == found.rows.texts and len(rows) == 50
    assert rows["energy"].tolist() == found.energies and rows["loss"].tolist() == found.losses
    assert rows["code"].tolist() == [str(code) for code in found.encoding.codes["code"].tolist()]
    named = [found.rows.labels["topic"].classes[value] for value in found.rows.labels["topic"].values]
    assert rows["topic"].tolist() == named and "predicted topic" in rows  # a label and a head of one name
    assert np.array_equal(rows[["tsne x", "tsne y"]].to_numpy(), found.projection.layouts["tsne"].points)
    assert len(tables["samples"]) == 50 and codes["size"].sum() == 3 * 50
    assert set(tables["words"]["head"]) == {"sentiment", "topic", "code"}
    labels = tables["labels"]
    assert labels[(labels["head"] == "code") & (labels["label"] == "topic")]["count"].sum() == 50
    assert tables["chains"]["level"].tolist() == [0, 1, 2, 3] and len(tables["energies"]) == 4 * 32
    assert tables["control"].query("head == 'sentiment'")["strength"].tolist() == [0, 1, 2, 4, 8]


def test_inspect_takes_texts() -> None:
    model = trained()
    found = inspect(model, ["", *sentences(30), "  "], seed=1, limit=7)
    assert len(found.rows) == 7 and set(found.rows.texts) <= set(sentences(30)) and found.rows.labels == {}
    assert found.frames()["labels"].empty
    with pytest.raises(TextEBMError, match="expected a list of texts, got one string"):
        inspect(model, "one text")


# -- maps --------------------------------------------------------------------------------------------------------------


def fake_umap(monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> None:
    """umap-learn's interface, so far as it is used here."""

    class UMAP:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            assert points.dtype == np.float32
            return points[:, :2] * 2

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)


def test_umap_is_added_and_the_other_maps_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    fake_umap(monkeypatch, asked)
    model, rows = trained(), choose_rows(corpus(300)["test"], limit=40)
    encoding = model.encode(rows.texts)
    first = projection_of(model, rows, encoding, identity="m")
    assert set(first.layouts) == {"pca", "tsne"} and asked == []
    second = projection_of(model, rows, encoding, identity="m", stored=first, umap=True)
    assert list(second.layouts) == ["pca", "tsne", "umap"] and second.layouts["tsne"] is first.layouts["tsne"]
    assert asked == [{"n_neighbors": 15, "min_dist": 0.1, "random_state": 0, "n_jobs": 1}]
    mean = encoding.mean.numpy()
    assert np.allclose(second.layouts["umap"].points, 2 * mean[:, :2], atol=1e-3)
    third = projection_of(model, rows, encoding, identity="m", stored=second, umap=True)
    assert third is second and len(asked) == 1  # stored: it never moves
    assert projection_of(model, rows, encoding, identity="m", stored=second) is second
    assert Projection.from_json(json.loads(json.dumps(second.to_json()))).to_json() == second.to_json()


def test_umap_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, run_directory: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(TextEBMError, match=r"pip install 'textebm\[umap\]'"):
        project(np.zeros((3, 2)), np.zeros((0, 2)), umap=True)
    answer = CliRunner().invoke(app, ["report", str(run_directory), "--umap", "--out", str(tmp_path / "x.html")])
    assert answer.exit_code == 2 and "textebm[umap]" in answer.stderr and not (tmp_path / "x.html").exists()


def test_umap_itself() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed (the extra [umap])")
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(60, 6)), rng.normal(size=(60, 6)) + 30]).astype(np.float32)
    one, two = (project(points, points[:4], umap=True, tsne=False, seed=1).layouts["umap"] for _ in range(2))
    assert np.array_equal(one.points, two.points)  # seeded
    assert np.linalg.norm(one.points[:60].mean(0) - one.points[60:].mean(0)) > 2 * one.points[:60].std(0).max()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_matplotlib_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, run_directory: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answer = CliRunner().invoke(app, ["figure", str(run_directory), "map", "--out", "/tmp/never.pdf"])
    assert answer.exit_code == 2 and "pip install 'textebm[figures]'" in answer.stderr


def card(code: int, size: int, name: str = "", words: tuple[str, ...] = ()) -> CodeCard:
    label = LabelShare("act", "50$ $^{", size, 1.0, 2.0)
    return CodeCard(
        "code",
        code,
        name or str(code),
        size,
        0.1,
        0.5,
        tuple(Word(word, 1.0, 1, 2.0) for word in words),
        (),
        (),
        (label,) if size else (),
        (),
        (),
    )


def test_each_figure_shows_its_data() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra [figures])")
    from textebm.inspection import figures

    rng = np.random.default_rng(0)
    layout = Layout(rng.normal(size=(30, 2)), rng.normal(size=(5, 2)), "a $note")
    values = np.array([0] * 20 + [2] * 8 + [-1] * 2)
    drawn = figures.draw_map(layout, ["a_{$", "unused", "مرحبا"], values, samples=True)
    sets = {each.get_label(): len(each.get_offsets()) for each in drawn.axes[0].collections}
    assert sets == {"no label": 2, "a_{$ (20)": 20, "مرحبا (8)": 8, "prior samples (5)": 5}
    bars = figures.draw_codes([card(0, 3), card(1, 9, words=("x$y", "中")), card(2, 0)], words=2)
    assert [patch.get_width() for patch in bars.axes[0].patches] == [9, 3, 0]  # the largest first
    assert {"x$y 中", "50$ $^{ 100% ×2.0", "unused"} <= {text.get_text() for text in bars.axes[0].texts}
    counts = np.array([[1, 0], [5, 5], [0, 0]])
    heat = figures.draw_heatmap(counts, ["one", "two", "none"], ["l", "r"], head="code", label="act")
    assert [text.get_text() for text in heat.axes[0].texts] == ["5", "5", "1", "0", "0", "0"]
    assert [tick.get_text() for tick in heat.axes[0].get_yticklabels()] == ["two", "one", "none"]


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["map", "--samples", "--by", "topic", "--limit", "40"], b"%PDF"),
        (["map", "--map", "pca", "--width", "3"], b"<?xml"),
        (["codes"], b"%PDF"),
        (["heatmap", "--by", "sentiment", "--head", "topic"], b"\x89PNG"),
    ],
)
def test_the_figure_command(run_directory: Path, tmp_path: Path, arguments: list[str], begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra [figures])")
    ending = {b"%PDF": "pdf", b"<?xml": "svg", b"\x89PNG": "png"}[begins]
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for file in files:
        answer = CliRunner().invoke(app, ["figure", str(run_directory), *arguments, "--out", str(file)])
        assert answer.exit_code == 0, answer.stderr
        assert answer.stdout == f"{file}\n"
    assert files[0].read_bytes().startswith(begins) and files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["maps", "--out", "x.pdf"], "unknown figure 'maps'; did you mean 'map'"),
        (["map", "--out", "x.doc"], "ends in one of .pdf, .svg, .png"),
        (["map", "--out", "no/x.pdf"], "its folder does not exist"),
        (["map", "--by", "topics", "--out", "x.pdf"], "unknown head, attribute or label 'topics'; did you"),
        (["map", "--map", "tsnee", "--out", "x.pdf"], "unknown map 'tsnee'; did you mean 'tsne'"),
        (["heatmap", "--by", "code", "--out", "x.pdf"], "unknown label 'code'"),
        (["codes", "--head", "cod", "--out", "x.pdf"], "unknown head 'cod'; did you mean 'code'"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra [figures])")
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["figure", str(run_directory), *arguments])
    assert answer.exit_code == 2 and said in answer.stderr and list(tmp_path.iterdir()) == []


def test_an_added_attribute_colours_the_map(run_directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra [figures])")
    model = TextEBM.from_pretrained(shutil.copytree(run_directory, tmp_path / "run"))
    model.add_attribute("formal", model.generate(10, seed=1), ["yes", "no"] * 5)
    for attribute in model.attributes.values():
        save_attribute(attribute, tmp_path / "run")
    drawn = reports.figure_of_run(tmp_path / "run", "map", tmp_path / "x.svg", by="formal", layout="pca", limit=40)
    assert "by formal" in drawn.read_text()
    table = {"by": "sentiment", "head": "formal", "limit": 40}
    assert "formal" in reports.figure_of_run(tmp_path / "run", "heatmap", tmp_path / "y.svg", **table).read_text()


def test_the_map_is_the_reports_own(run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored map is drawn again, not made again."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra [figures])")
    reports.report_run(run_directory, limit=40, out=tmp_path / "r.html")

    def never(*arguments: Any, **options: Any) -> Projection:
        raise AssertionError("the map was made again")

    monkeypatch.setattr("textebm.inspection.report.project", never)
    reports.figure_of_run(run_directory, "map", tmp_path / "x.svg", limit=40)
    with pytest.raises(AssertionError, match="made again"):
        reports.figure_of_run(run_directory, "map", tmp_path / "x.svg", limit=30)
    assert torch.is_grad_enabled()
