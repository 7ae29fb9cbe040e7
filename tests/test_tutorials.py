"""The code of the documents runs: each page's blocks, in their order, on a small model of quickstart's symbols."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe, untrained

import textebm
from textebm import sklearn as estimators
from textebm.evaluation.metric import Evaluation, MetricValue
from textebm.runs.train import Run
from textebm.text.grammar import corpus

ROOT = Path(__file__).resolve().parents[1]
HEADS = "heads=[{name: sentiment, labels: sentiment}, {name: tense, labels: tense}, {name: code, classes: 6}]"
PAGES = {"README.md": 1, "docs/notebook.md": 5, "docs/howto.md": 3, "docs/steering.md": 5, "docs/explore.md": 1}  # blocks at least


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        exec(compile(block, page, "exec"), known)
