"""Each shipped recipe's smoke variant runs from corpus to evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from textebm import TextEBM
from textebm.recipe.read import list_recipes, load_recipe
from textebm.runs.train import train
from textebm.text.corpora import corpus_places

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
SMOKE = [name for name in SHIPPED if name.endswith("-smoke")]
FILES = {"recipe.yaml", "model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "evaluation.json"}
FILES |= {"samples.txt", "README.md", "checkpoints"}


def data_of(corpus: str) -> Path | None:
    """The directory that holds a real corpus, where this machine has it."""
    places = [*corpus_places(corpus), ROOT.parent / "shared" / "data" / corpus, ROOT / "data" / corpus]
    return next((place.parent for place in places if place.is_dir()), None)


@pytest.mark.parametrize("name", SMOKE)
def test_a_smoke_recipe_runs_to_its_end(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    data = None if recipe.data.corpus == "grammar" else data_of(recipe.data.corpus)
    if recipe.data.corpus != "grammar" and data is None:
        pytest.skip(f"{recipe.data.corpus} is in none of $TEXTEBM_DATA, ../shared/data, data/")
    run = train(name, out=tmp_path / "run", data_dir=data, quiet=True)
    assert FILES <= {path.name for path in run.directory.iterdir()}
    assert run.evaluation is not None
    evaluation = json.loads((run.directory / "evaluation.json").read_text())
    assert all(math.isfinite(metric["value"]) for metric in evaluation["metrics"].values())
    expected = {"reconstruction_bleu", "reconstruction_nll", "kl", "kl_per_unit_used", "mutual_information_xz", "wkl"}
    expected |= {"self_bleu", "distinct_2"}
    if recipe.decoder.pretrained:  # greedy sentences of a random network may have no word at all
        expected -= {"wkl", "distinct_2", "self_bleu"}
    assert expected <= evaluation["metrics"].keys()
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    numbers = [value for line in lines for value in line.values() if isinstance(value, (int, float))]
    assert lines and all(math.isfinite(value) for value in numbers)
    assert not any(value is None for line in lines for value in line.values())
    assert load_recipe(run.directory / "recipe.yaml") == recipe
    loaded = TextEBM.from_pretrained(run.directory)
    if run.model.reads_context:
        assert loaded.respond(["how are you ?"], seed=1) == run.model.respond(["how are you ?"], seed=1)
    else:
        assert loaded.generate(2, seed=1) == run.model.generate(2, seed=1)


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith("-smoke")])
def test_a_shipped_recipe_has_a_smoke_variant_of_itself(name: str) -> None:
    assert f"{name}-smoke" in SHIPPED, "each recipe has a variant that finishes in seconds"
    full, smoke = load_recipe(name), load_recipe(f"{name}-smoke")
    assert (full.data.corpus, full.prior.kind) == (smoke.data.corpus, smoke.prior.kind)
    assert [head.name for head in full.heads] == [head.name for head in smoke.heads]


def test_every_recipe_is_listed_with_its_description_and_its_command() -> None:
    listed = {info.name: info.description for info in list_recipes()}
    assert sorted(listed) == SHIPPED and all(listed.values())
    for name in SHIPPED:
        first = (ROOT / "recipes" / f"{name}.yaml").read_text().splitlines()[0]
        assert first.startswith(f"# textebm train {name}")
