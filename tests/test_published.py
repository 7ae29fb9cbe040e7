"""The published networks of docs/pretrained.md, from a directory: `TEXTEBM_MODELS=DIR python -m pytest -m published`.

DIR holds `all-minilm-l6-v2` and `smollm2-135m-instruct` as safetensors (the page says how they are made). Nothing here
is in the gate: where they are absent, these tests skip."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from tiny import RECIPE, start

import textebm
from textebm.errors import TextEBMError

pytestmark = [pytest.mark.published, pytest.mark.timeout(900)]
SHORT = {
    "name": "published",
    "data": {"corpus": "grammar", "size": 300, "max_tokens": 16},
    "heads": RECIPE["heads"],
    "prior": RECIPE["prior"],
    "latent": {"dim": 48},
    "objective": {"cluster_start": 0.0},
    "tokenizer": {"kind": "pretrained"},
    "training": {
        "batch_size": 16,
        "stages": [{"name": "autoencoder", "steps": 3}, {"name": "prior", "steps": 3}],
        "health_sentences": 16,
        "keep_checkpoints": 1,
    },
    "evaluation": {"samples": 4, "samples_per_class": 2, "limit": 8, "report_sentences": 10},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that a test may take a network away."""
    place = tmp_path_factory.mktemp("models")
    for name in ("all-minilm-l6-v2", "smollm2-135m-instruct"):
        shutil.copytree(Path(os.environ["TEXTEBM_MODELS"], name), place / name)
    return place


@pytest.fixture(scope="module")
def run(models: Path) -> Path:
    """Three steps of each stage with both networks, made by the command line in a process of its own."""
    recipe = {
        **SHORT,
        "encoder": {"pretrained": str(models / "all-minilm-l6-v2"), "tune": "rest", "pooling": "mean"},
        "decoder": {"pretrained": str(models / "smollm2-135m-instruct")},
    }
    (models / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    made = start("train", models / "recipe.yaml", "--out", models / "run")
    told, errors = made.communicate(timeout=600)
    assert made.returncode == 0, told + errors
    return models / "run"


def test_a_run_keeps_what_was_trained_and_not_the_base(run: Path) -> None:
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 60e6
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3e6  # kB, at batches of 16


def test_the_run_writes_reads_and_is_steered(run: Path) -> None:
    model = textebm.TextEBM.from_pretrained(run)
    texts = model.generate(4, symbols={"sentiment": "positive"}, seed=0)
    assert texts == model.generate(4, symbols={"sentiment": "positive"}, seed=0) and any(texts)
    assert model.encode(["the food was great ."] * 4).mean.shape == (4, 48)


def test_half_precision_computes(run: Path) -> None:
    model = textebm.TextEBM.from_pretrained(run, dtype=torch.bfloat16)
    assert torch.isfinite(model.encode(["the food was great ."]).mean).all()


def test_a_base_that_has_changed_or_is_gone_is_one_line(run: Path, models: Path) -> None:
    weights = models / "smollm2-135m-instruct" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    for said in ("has changed: the SHA-256 of model.safetensors", "smollm2-135m-instruct"):
        with pytest.raises(TextEBMError, match=said) as refused:
            textebm.TextEBM.from_pretrained(run)
        assert "\n" not in str(refused.value)
        shutil.rmtree(weights.parent, ignore_errors=True)
