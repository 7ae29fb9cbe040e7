"""What a user gets wrong, through the command line: exit code 2, one error, no traceback, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import recipe, write_recipe
from typer.testing import CliRunner, Result

from textebm.cli import app
from textebm.runs.lock import RunLock
from textebm.runs.train import train

ROWS = [
    ("the food was great", "good"),
    ("the staff was rude", "bad"),
    ("i like this place", "good"),
    ("never again", "bad"),
]


def call(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)


def refused(*arguments: str | Path, stdin: str = "") -> str:
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 2, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.output
    return result.stderr


def own_recipe(
    folder: Path, name: str, heads: str = "[{name: mood, labels: mood}, {name: code, classes: 3}]"
) -> list[str]:
    return [
        str(write_recipe(folder / "tiny.yaml")),
        "data.corpus=files",
        f"data.train={folder / name}",
        "data.text_column=review",
        "data.label_columns=[mood]",
        f"heads={heads}",
    ]


def write_csv(path: Path, rows: int = 80) -> None:
    lines = [f'"{text} {i % 7}",{label if i % 10 else ""}' for i in range(rows) for text, label in [ROWS[i % 4]]]
    path.write_text("review,mood\n" + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTEBM_DATA", raising=False)  # a corpus that is missing must be missing here too
    write_csv(tmp_path / "own.csv")
    return tmp_path


CORPORA: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "missing corpus": (lambda f: ["ptb", "--data", str(f)], "ptb"),
    "missing file": (lambda f: own_recipe(f, "absent.csv"), "absent.csv"),
    "empty file": (lambda f: own_recipe(f, "empty.csv"), "empty.csv"),
    "binary file": (lambda f: own_recipe(f, "binary.csv"), "binary.csv"),
    "binary text": (lambda f: own_recipe(f, "binary.txt", "[]"), "binary.txt"),
    "header alone": (lambda f: own_recipe(f, "header.csv"), "train has 0 sentences"),
    "text column": (lambda f: [*own_recipe(f, "own.csv"), "data.text_column=reviw"], "did you mean 'review'"),
    "label column": (
        lambda f: [*own_recipe(f, "own.csv", "[{name: mood, labels: modd}]"), "data.label_columns=[modd]"],
        "did you mean 'mood'",
    ),
    "head without column": (
        lambda f: own_recipe(f, "own.csv", "[{name: mood, labels: modd}]"),
        "heads.0.labels: column 'modd' is not in data.label_columns",
    ),
    "misspelt option": (lambda f: ["quickstart", "training.bach_size=3"], "did you mean 'batch_size'"),
    "misspelt section": (lambda f: ["quickstart", "trainng.batch_size=3"], "did you mean 'training'"),
    "misspelt recipe": (lambda f: ["quickstrat"], "did you mean 'quickstart"),
    "wrong value": (lambda f: ["quickstart", "training.batch_size=many"], "training.batch_size"),
    "two wrong values": (lambda f: ["quickstart", "latent.dim=0", "seed=-1"], "latent.dim"),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_bad_corpus_or_option_is_one_error(name: str, folder: Path) -> None:
    (folder / "empty.csv").write_bytes(b"")
    (folder / "header.csv").write_text("review,mood\n")
    for each in ("binary.csv", "binary.txt"):
        (folder / each).write_bytes(bytes(range(256)) * 20)
    arguments, words = CORPORA[name]
    assert words in refused("train", *arguments(folder), "--out", folder / "run")
    assert not (folder / "run").exists(), "nothing is begun"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a csv of one's own, through the command line."""
    folder = tmp_path_factory.mktemp("own")
    write_csv(folder / "own.csv")
    small = ["training.stages=[{name: autoencoder, steps: 12}, {name: prior, steps: 4}]", "evaluation.limit=null"]
    result = call("train", *own_recipe(folder, "own.csv"), *small, "--out", folder / "run", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    measured = json.loads(result.stdout)["evaluation"]["metrics"]
    assert {"reconstruction_bleu", "control_accuracy_mood", "ami_mood", "code_agreement"} <= measured.keys()
    return folder / "run"


def test_own_data_trains_and_generates(finished: Path) -> None:
    done = call("generate", finished, "-n", "3", "--symbol", "mood=good", "--json")
    assert done.exit_code == 0 and len(json.loads(done.stdout)["sentences"]) == 3
    assert call("reconstruct", finished, stdin="the food was great 1\n").exit_code == 0
    assert call("evaluate", finished, "--limit", "3").exit_code == 0


def test_own_data_by_the_recipes_options_one_by_one(folder: Path) -> None:
    config = write_recipe(folder / "tiny.yaml", "heads=[{name: code, classes: 2}]", "data.corpus=grammar")
    result = call(
        "train",
        config,
        "data.corpus=files",
        f"data.train={folder / 'own.csv'}",
        "data.text_column=review",
        "data.label_columns=[mood]",
        "heads.0.name=mood",
        "heads.0.labels=mood",
        "heads.0.classes=null",
        "training.stages=[{name: autoencoder, steps: 3}]",
        "--out",
        folder / "run",
    )
    assert result.exit_code == 0, (result.output, result.exception)


SYMBOLS = {
    "mood=god": "did you mean 'good'",
    "mod=good": "did you mean 'mood'",
    "code=3": "no class '3'",
    "mood": "expected HEAD=CLASS",
}


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_that_does_not_exist_is_one_error(symbol: str, finished: Path) -> None:
    assert SYMBOLS[symbol] in refused("generate", finished, "--symbol", symbol)
    assert SYMBOLS[symbol] in refused("edit", finished, "--symbol", symbol, stdin="a\n")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_model_is_one_error(name: str, finished: Path) -> None:
    whole = (finished / name).read_bytes()
    try:
        (finished / name).write_bytes(whole[: len(whole) // 2])
        assert str(finished) in refused("generate", finished)
        refused("evaluate", finished)
    finally:
        (finished / name).write_bytes(whole)
    assert call("generate", finished, "-n", "1").exit_code == 0


def test_no_run_is_one_error(folder: Path) -> None:
    assert "does not exist" in refused("generate", folder / "runs" / "absent")
    refused("encode", folder, folder / "own.csv", "--out", folder / "codes.jsonl")


def test_truncated_checkpoints_are_one_error_and_lose_nothing(folder: Path) -> None:
    config = write_recipe(folder / "tiny.yaml")
    train(recipe(), out=folder / "run", quiet=True)
    for path in (folder / "run" / "checkpoints").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    model = (folder / "run" / "model.safetensors").read_bytes()
    assert "no usable checkpoint" in refused("train", config, "--out", folder / "run", "--resume")
    assert (folder / "run" / "model.safetensors").read_bytes() == model
    assert "not empty" in refused("train", config, "--out", folder / "run")


def test_a_run_directory_in_use_is_one_error(folder: Path) -> None:
    config = write_recipe(folder / "tiny.yaml")
    with RunLock(folder / "run"):
        for options in ([], ["--resume"]):
            assert "in use by process" in refused("train", config, "--out", folder / "run", *options)
    assert {path.name for path in (folder / "run").iterdir()} == {".lock"}


def test_a_place_that_cannot_be_a_run_directory_is_one_error(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    config = write_recipe(folder / "tiny.yaml")
    refused("train", config, "--out", folder / "file")
    refused("train", config, "--out", folder / "file" / "run")
