"""What a person at a notebook sees: short values, figures, tables of what was read, quiet progress."""

from __future__ import annotations

import inspect as python_inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import sentences, trained

import textebm
from textebm import notebook
from textebm.evaluation.metric import Evaluation
from textebm.inspection.frames import Inspection
from textebm.runs.train import Run

TEXTS = list(sentences(12))


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return textebm.inspect(trained(), TEXTS)


def test_values_are_shown_in_a_few_words(inspection: Inspection) -> None:
    evaluation = Evaluation(seed=0)
    for name in ("kl", "elbo", "ppl", "reliance", "wkl"):
        evaluation.add(name, 1.0, 10)
    values: list[Any] = [trained(), inspection, trained().encode(TEXTS), evaluation]
    for value in [*values, Run(Path("runs/x"), trained(), evaluation)]:
        assert len(repr(value)) < 700, repr(value)[:900]
        assert len(value._repr_html_()) < 6000 and "<table>" in value._repr_html_()
    assert "diffusion energy, 4 levels" in repr(values[0]) and "code (" in repr(values[0])
    assert repr(evaluation).startswith("Evaluation(5 metrics on test, seed 0: kl 1")
    assert "&lt;b&gt;" in notebook.html_table("<b>", [["<i>"]])


def test_an_encoding_is_arrays_and_a_table() -> None:
    encoding = trained().encode(TEXTS)
    arrays, frame = encoding.numpy(), encoding.frame()
    assert arrays["mean"].shape == (12, trained().prior.dim) and arrays["code"].shape == (12,)
    assert np.allclose(arrays["code probabilities"].sum(1), 1, atol=1e-5)
    assert encoding.labels["sentiment"] == trained().classify(TEXTS, "sentiment").labels
    assert frame["sentiment"].tolist() == encoding.labels["sentiment"] and len(frame) == len(encoding) == 12
    assert frame["sentiment p"].min() >= 0.5 - 1e-6
    assert np.allclose(frame["z0"], arrays["mean"][:, 0])


def test_figures_are_drawn_inline(inspection: Inspection) -> None:
    pytest.importorskip("matplotlib")
    for figure in (inspection.plot_map(), inspection.plot_codes("code"), inspection.plot_control()):
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    axes = inspection.plot_control().axes[0]
    assert axes.get_ylim()[0] == 0 and "strength" in axes.get_xlabel()
    with pytest.raises(textebm.TextEBMError, match="unknown head or label 'cod'; did you mean 'code'"):
        inspection.plot_map("cod")


def test_every_method_has_an_example_that_parses() -> None:
    for name, method in vars(textebm.TextEBM).items():
        if python_inspect.isfunction(method) and not name.startswith("_") and name != "answered":
            described = python_inspect.getdoc(method) or ""
            assert "Example: ``" in described, name
            compile(described.split("Example: ``")[1].split("``.")[0], name, "exec")


def test_progress_says_what_is_left_and_can_be_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(notebook.time, "monotonic", lambda: float(next(clock)))
    with notebook.progress_to(told.append):
        assert list(notebook.track([1, 2, 3, 4], "reading")) == [1, 2, 3, 4]
    assert told == ["reading: 25%, 6 s left", "reading: 50%, 4 s left", "reading: 75%, 2 s left", ""]
    told.clear()
    with notebook.progress_to(None):
        assert list(notebook.track([1, 2], "reading")) == [1, 2]
    with notebook.progress_to(told.append):
        try:
            textebm.show_progress(False)
            list(notebook.track(range(9), "reading"))
        finally:
            textebm.show_progress()
        monkeypatch.setenv("TEXTEBM_PROGRESS", "0")
        list(notebook.track(range(9), "reading"))
    assert told == [] and notebook.duration(3900) == "1 h 5 min" and notebook.duration(61) == "1 min"


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(notebook.time, "monotonic", lambda: float(next(clock)))
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    assert list(notebook.track(range(5), "reading")) == [0, 1, 2, 3, 4] and written.getvalue() == ""


@pytest.mark.slow
def test_a_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    trained().save_pretrained(tmp_path / "model")
    cells = [
        "import textebm\nmodel = textebm.TextEBM.from_pretrained('model')\nmodel",
        "model.generate(3, symbols={'sentiment': 'positive'}, seed=0)",
        f"texts = {TEXTS!r}\nmodel.encode(texts).frame().head(3)",
        "looked = textebm.inspect(model, texts)\nlooked.plot_map()",
    ]
    made = [
        {"cell_type": "code", "id": str(i), "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for i, source in enumerate(cells)
    ]
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}
    (tmp_path / "book.ipynb").write_text(json.dumps(book))
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook", "--inplace", "book.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        output.get("data", {})
        for cell in json.loads((tmp_path / "book.ipynb").read_text())["cells"]
        for output in cell["outputs"]
    ]
    shown = [kind for output in outputs for kind in output]
    assert shown.count("image/png") == 1 and shown.count("text/html") == 2
