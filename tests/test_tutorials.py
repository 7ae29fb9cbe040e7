"""The code of the documents runs: each page's blocks, in their order, on a small model of quickstart's symbols."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe, untrained

import textebm
from textebm import sklearn as estimators
from textebm.evaluation.metric import Evaluation, MetricValue
from textebm.runs.evaluate import read_evaluation
from textebm.runs.train import Run
from textebm.text import grammar
from textebm.text.grammar import corpus

ROOT = Path(__file__).resolve().parents[1]
HEADS = "heads=[{name: sentiment, labels: sentiment}, {name: tense, labels: tense}, {name: code, classes: 6}]"
PAGES = {"README.md": 1, "docs/notebook.md": 5, "docs/howto.md": 3, "docs/steering.md": 5, "docs/explore.md": 1}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAGES says how many blocks it has at least."""
    model = untrained(HEADS)
    model.save_pretrained(tmp_path / "runs" / "quickstart")
    measured = Evaluation(seed=0, metrics={"control_accuracy_sentiment": MetricValue(0.5, "share (0-1)", True, 9)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(textebm, "train", lambda *a, **k: Run(tmp_path, untrained(HEADS), measured), raising=False)
    monkeypatch.setattr(estimators, "load_recipe", lambda name: recipe())
    labels = (["yes", "no"] if "steering" in page else ["good", "bad"]) * 30
    texts = list(corpus(300)["train"]["text"][:60])
    known: dict[str, Any] = {"textebm": textebm, "model": model, "texts": texts, "labels": labels}
    known |= {"warm_texts": texts[:10], "cold_texts": texts[10:20]}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= PAGES[page]
    for block in blocks:
        if "auto" in block:
            continue  # thousands of pilot draws
        if "plot_" in block and not find_spec("matplotlib"):
            continue
        exec(compile(block, page, "exec"), known)


QUICKSTART = ROOT / "runs" / "quickstart"


@pytest.mark.skipif(not (QUICKSTART / "evaluation.json").exists(), reason="the README's first command was not run here")
def test_the_ten_lines_of_the_first_page_print_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the run that the first command leaves: sentences of the embedded language, with the symbols asked for, the
    edit that is shown, twins which differ in the symbol that was changed, and control within .02 of what is shown."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    model = textebm.TextEBM.from_pretrained(QUICKSTART)
    measured = read_evaluation(QUICKSTART)
    monkeypatch.setattr(textebm, "train", lambda recipe: Run(QUICKSTART, model, measured), raising=False)
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    known: dict[str, Any] = {}
    values = []
    for node in ast.parse(block).body:
        if isinstance(node, ast.Expr):
            values.append(eval(ast.unparse(node), known))
        else:
            exec(ast.unparse(node), known)
    free, asked, edited, twins, _ = values
    control = measured.metrics["control_accuracy_sentiment"].value
    (printed,) = re.findall(r"```text\n(.*?)```", page, re.S)
    shown = printed.strip().splitlines()
    assert all(grammar.parse(sentence) for sentence in [*free, *asked, *edited])
    for sentence in asked:
        factors = grammar.parse(sentence)
        assert factors and (factors["sentiment"], factors["tense"]) == ("positive", "past")
    assert str(edited) == shown[2]
    for twin in twins:
        assert (grammar.parse(twin.a) or {})["sentiment"] == "negative"
        assert (grammar.parse(twin.b) or {})["sentiment"] == "positive"
    assert control == pytest.approx(float(shown[-1]), abs=0.02)
