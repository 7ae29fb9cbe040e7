"""Recipes: what they accept, how they refuse, and that every option is read by something."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from textebm.errors import RecipeError
from textebm.recipe import read as recipe_io
from textebm.recipe import removed
from textebm.recipe import yaml_text as recipe_yaml
from textebm.recipe.options import annotation_at, describe, item_of, option_paths, options_page, section_of
from textebm.recipe.read import dump_recipe, list_recipes, load_recipe, parse_recipe, recipe_text
from textebm.recipe.schema import Part, Recipe

PACKAGE = Path(recipe_io.__file__).parents[1]
SHIPPED = sorted(path.stem for path in recipe_io.recipes_directory().glob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped recipes of our own, so that these tests do not lean on the real ones."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "ptb.yaml").write_text(
        "name: ptb\ndescription: Penn Treebank\ndata: {corpus: ptb}\nencoder: {hidden_size: 64}\n"
        "heads: [{name: code, classes: 20}]\n"
        "training: {stages: [{name: autoencoder, epochs: 2}, {name: prior, steps: 9}]}\n"
    )
    (folder / "yelp.yaml").write_text("name: yelp\ndescription: reviews\ndata: {corpus: yelp}\n")
    monkeypatch.setattr(recipe_io, "recipes_directory", lambda: folder)
    return folder


def refusal(source: Any, overrides: Any = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, overrides)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_empty_mapping_is_a_recipe_named_after_its_file(write: Any) -> None:
    assert load_recipe(write("{}", "little.yaml")) == Recipe(name="little")


def test_numbers_without_a_dot_in_the_exponent_are_numbers(write: Any) -> None:
    assert yaml.safe_load("1e-4") == "1e-4"  # why the reader is not safe_load
    recipe = load_recipe(write("training: {learning_rate: 1e-4, batch_size: 1e2}"), ["training.weight_decay=2E-3"])
    assert recipe.training.learning_rate == 0.0001
    assert recipe.training.weight_decay == 0.002
    assert recipe.training.batch_size == 100 and isinstance(recipe.training.batch_size, int)


def test_no_is_a_word_and_only_true_and_false_are_booleans(write: Any) -> None:
    assert load_recipe(write("training: {mixed_precision: no}")).training.mixed_precision == "no"
    assert (
        refusal(write("encoder: {bidirectional: no}")) == "encoder.bidirectional: expected true or false, got text 'no'"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", "0x10"),
        ("010", 10),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", 1000),
        ("~", None),
        ("", None),
        ("-.5", -0.5),
        ("3.", 3),
        ("'3'", "3"),
        ("[1, {a: yes}]", [1, {"a": "yes"}]),
        ("é", "é"),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    assert recipe_yaml.read_yaml(text, "x") == recipe_yaml.Reading(value, [])


def test_byte_order_marks_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\r\nlatent:\r\n  dim: 8\r\n")
    assert load_recipe(path).latent.dim == 8


def test_a_recipe_passes_through_and_takes_overrides() -> None:
    recipe = Recipe(name="a")
    assert load_recipe(recipe) == recipe
    assert load_recipe(recipe, ["prior.kind=energy"]).prior.kind == "energy"
    assert recipe.prior.kind == "diffusion_energy"


def test_recipes_are_frozen_closed_and_json_able() -> None:
    recipe = Recipe(name="a")
    with pytest.raises(ValidationError):
        recipe.seed = 3  # type: ignore[misc]
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


# --- overrides --------------------------------------------------------------------------------------------------------


def test_overrides_reach_options_and_list_items(shipped: Path) -> None:
    recipe = load_recipe(
        "ptb", ["prior.kind=energy", "heads.0.classes=50", "training.stages.0.epochs=0.5", "data.limit=null", "seed=7"]
    )
    assert recipe.prior.kind == "energy" and recipe.heads[0].classes == 50 and recipe.seed == 7
    assert recipe.training.stages[0].epochs == 0.5 and recipe.training.stages[1].steps == 9


def test_an_override_of_a_default_list_changes_the_default_list(write: Any) -> None:
    stages = load_recipe(write("{}"), ["training.stages.1.steps=5"]).training.stages
    default = Recipe(name="a").training.stages
    assert stages[0] == default[0] and stages[1] == default[1].model_copy(update={"steps": 5, "epochs": None})


def test_overrides_take_yaml_values_and_the_last_one_wins(write: Any) -> None:
    given = ["heads=[{name: a, classes: 3}]", "heads.0.classes=4", "description='x: y'", "description=a=b"]
    recipe = load_recipe(write("{}"), given)
    assert recipe.heads[0].classes == 4 and recipe.description == "a=b"


def test_another_prior_forgets_the_ladder_of_the_last_one(write: Any, shipped: Path) -> None:
    path = write("prior: {num_levels: 10, steps: 2, strength: 5}")
    prior = load_recipe(path, ["prior.steps=30", "prior.kind=energy"]).prior
    assert (prior.num_levels, prior.steps, prior.strength) == (None, 30, 5)
    assert load_recipe(path, ["prior.kind=diffusion_energy"]).prior.num_levels == 10
    assert load_recipe(path, ["prior.kind='diffusion_energy'"]).prior.num_levels == 10  # quoted, it is the same kind
    assert load_recipe(path, [" prior . kind = energy "]).prior.num_levels is None
    assert load_recipe(path, ["prior.kind=energy", "prior.kind=diffusion_energy"]).prior.num_levels == 10
    assert refusal(path, ["prior.kind=energy", "prior.num_levels=10"]).startswith(
        "prior.num_levels: kind 'energy' has one"
    )
    vae = "extends: mine.yaml\nprior: {kind: gaussian}\ntraining: {stages: [{name: autoencoder, epochs: 1}]}"
    assert load_recipe(write(vae, "other.yaml")).prior.steps is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "'seed': expected option=value, such as seed=1 or prior.kind=energy"),
        ("=3", "'=3': expected option=value, such as seed=1 or prior.kind=energy"),
        ("prior..kind=x", "'prior..kind=x': expected option=value, such as seed=1 or prior.kind=energy"),
        ("heads.1.name=x", "heads.1.name: heads has no item '1'; it has 1 item(s), counted from 0"),
        ("heads.-1.name=x", "heads.-1.name: heads has no item '-1'; it has 1 item(s), counted from 0"),
        ("prior.kind.x=3", "prior.kind.x: prior.kind is a plain value and has no option 'x'"),
        (
            "seed=[",
            "seed, line 1, column 2: not YAML: expected the node content, but found '<stream end>'; "
            "quote text with special characters: seed=\"'…'\"",
        ),
        (
            "training.epochs=3",
            "training.epochs: unknown option; did you mean 'training.stages.0.epochs'? Known: "
            + ", ".join(sorted(type(Recipe(name="a").training).model_fields)),
        ),
    ],
)
def test_overrides_that_cannot_be_followed(write: Any, override: str, line: str) -> None:
    path = write("prior: {kind: energy}\nheads: [{name: a, classes: 2}]")
    assert refusal(path, [override]) == line


# --- errors -----------------------------------------------------------------------------------------------------------

KINDS = ("gaussian", "gaussian_mixture", "energy", "diffusion_energy", "joint_energy", "hierarchical_diffusion_energy")
KINDS_IN_WORDS = " | ".join(KINDS)
ERRORS = [
    (
        "prior: {num_level: 3}",
        "prior.num_level: unknown option; did you mean 'num_levels'? Known: "
        + ", ".join(sorted(type(Recipe(name="a").prior).model_fields)),
    ),
    (
        "trainin: {}",
        "trainin: unknown option; did you mean 'training'? Known: " + ", ".join(sorted(Recipe.model_fields)),
    ),
    (
        "learning_rate: 1",
        "learning_rate: unknown option; did you mean 'training.learning_rate'? Known: "
        + ", ".join(sorted(Recipe.model_fields)),
    ),
    (
        "prior: {kind: energi}",
        "prior.kind: unknown value 'energi'; did you mean 'energy'? Known: "
        "diffusion_energy, energy, gaussian, gaussian_mixture, hierarchical_diffusion_energy, joint_energy",
    ),
    (
        "prior: {kind: 3}",
        "prior.kind: expected one of gaussian, gaussian_mixture, energy, diffusion_energy, "
        "joint_energy, hierarchical_diffusion_energy; got 3",
    ),
    ("training: {batch_size: many}", "training.batch_size: expected a whole number, got text 'many'"),
    ("training: {batch_size: '5'}", "training.batch_size: expected a whole number, got text '5'"),
    ("training: {batch_size: 2.5}", "training.batch_size: expected a whole number, got 2.5"),
    ("training: {batch_size: true}", "training.batch_size: expected a whole number, got true"),
    ("training: {batch_size: }", "training.batch_size: expected a whole number, got null"),
    ("data: {limit: x}", "data.limit: expected a whole number or null, got text 'x'"),
    ("encoder: {dropout: [1]}", "encoder.dropout: expected a number, got a list"),
    ("prior: {metropolis: 1}", "prior.metropolis: expected true or false or null, got 1"),
    ("data: {text_column: 5}", "data.text_column: expected text, got 5; put it in quotes"),
    ("data: {label_columns: act}", "data.label_columns: expected a list of text, got text 'act'; write [act]"),
    ("data: yelp", "data: expected a section (option: value), got text 'yelp'"),
    ("heads: {name: x}", "heads: expected a list, got a section"),
    ("heads: [x]", "heads.0: expected a section (option: value), got text 'x'"),
    ("heads: [{classes: 3}]", "heads.0.name: is missing; expected text"),
    ("training: {batch_size: 0}", "training.batch_size: must be at least 1, got 0"),
    ("encoder: {dropout: 1}", "encoder.dropout: must be less than 1, got 1"),
    ("objective: {kl_warmup: 1.5}", "objective.kl_warmup: must be at most 1, got 1.5"),
    ("training: {learning_rate: 0}", "training.learning_rate: must be greater than 0, got 0"),
    ("prior: {strength: .nan}", "prior.strength: must be a finite number, got nan"),
    ("prior: {strength: .inf}", "prior.strength: must be a finite number, got inf"),
    ("training: {stages: []}", "training.stages: needs at least 1 item(s), got 0"),
    (
        "name: a b",
        "name: must be a plain name (letters, digits, '_', '-' and '.', starting with a letter or digit), "
        "got text 'a b'",
    ),
    # across options
    (
        "heads: [{name: a}]",
        "heads.0: give one of classes (codes to be found), labels (a column) and seeds (phrases), got none",
    ),
    (
        "heads: [{name: a, classes: 2, labels: topic}]",
        "heads.0: give one of classes (codes to be found), labels (a column) and seeds (phrases), got two",
    ),
    (
        "heads: [{name: a, classes: 2}, {name: a, classes: 3}]",
        "heads.1.name: 'a' is also the name of heads.0; rename one",
    ),
    (
        "heads: [{name: a, classes: 2, label_limit: 3}]",
        "heads.0.label_limit: needs labels; a head with classes has no labels to limit",
    ),
    (
        "heads: [{name: a, labels: sentimant}]",
        "heads.0.labels: corpus 'grammar' has no label column 'sentimant'; "
        "did you mean 'sentiment'? Known: sentiment, tense, topic",
    ),
    (
        "data: {corpus: ptb}\nheads: [{name: a, labels: x}]",
        "heads.0.labels: corpus 'ptb' has no labels; give classes instead, or take another corpus",
    ),
    (
        "data: {corpus: files, train: a.csv}\nheads: [{name: a, labels: x}]",
        "heads.0.labels: column 'x' is not in data.label_columns; add it there",
    ),
    (
        "data: {corpus: hub, name: a, label_columns: [stars]}\nheads: [{name: a, labels: star}]",
        "heads.0.labels: column 'star' is not in data.label_columns; did you mean 'stars'? Known: stars",
    ),
    (
        "data: {corpus: files}",
        "data.train: is missing; corpus 'files' needs a txt, csv, tsv, jsonl or parquet file here",
    ),
    ("data: {corpus: hub}", "data.name: is missing; corpus 'hub' needs the data set's name here"),
    (
        "tokenizer: {kind: pretrained}",
        "tokenizer.name: is missing; kind 'pretrained' needs a directory or a Hub id here",
    ),
    (
        "encoder: {kind: transformer, hidden_size: 10, num_attention_heads: 4}",
        "encoder.hidden_size: must be a multiple of num_attention_heads (4), got 10",
    ),
    (
        "decoder: {kind: transformer, hidden_size: 10, num_attention_heads: 4}",
        "decoder.hidden_size: must be a multiple of num_attention_heads (4), got 10",
    ),
    (
        "prior: {kind: energy, num_levels: 6}",
        "prior.num_levels: kind 'energy' has one level, got 6; set it to null, or use kind: diffusion_energy",
    ),
    (
        "prior: {kind: joint_energy, num_levels: 2}",
        "prior.num_levels: kind 'joint_energy' has one level, got 2; set it to null, "
        "or use kind: hierarchical_diffusion_energy",
    ),
    ("latent: {layers: 8}", "latent.layers: expected a list of whole numbers, got 8"),
    ("latent: {layers: [0, 32]}", "latent.layers.0: must be at least 1, got 0"),
    ("latent: {dim: 8, layers: [4, 3]}", "latent.layers: must sum to latent.dim (8), got 4 + 3 = 7"),
    (
        "latent: {dim: 1}\nprior: {kind: joint_energy}",
        "latent.dim: kind 'joint_energy' has 2 layers, so it must be at least 2, got 1",
    ),
    (
        "heads: [{name: a, classes: 2, layer: 1}]",
        "heads.0.layer: kind 'diffusion_energy' has one potential for all layers; set it to null, "
        "or use joint_energy or hierarchical_diffusion_energy",
    ),
    (
        "heads: [{name: a, classes: 2, layer: 3}]\nprior: {kind: joint_energy}",
        "heads.0.layer: must be at most 2, the number of the latent's layers, got 3",
    ),
    (
        "prior: {transport: ladder}",
        "prior.transport: a ladder needs several layers; give latent.layers, such as [16, 16], or set it to null",
    ),
    (
        "decoder: {ladder: true, kind: transformer, num_layers: 2}\nprior: {kind: joint_energy}",
        "decoder.ladder: needs decoder.kind gru or lstm; a transformer reads the whole latent at every block",
    ),
    (
        "encoder: {tie_embedding: true, embedding_size: 8}\ndecoder: {embedding_size: 6}",
        "encoder.tie_embedding: needs encoder.embedding_size and decoder.embedding_size to be the same, got 8 and 6",
    ),
    ("latent: {dim: 32, segments: 5}", "latent.segments: must divide latent.dim (32), got 5"),
    (
        "latent: {dim: 30, segments: 4}\nprior: {kind: joint_energy}",
        "latent.segments: must divide each of latent.layers (15, 15), got 4",
    ),
    (
        "decoder: {skip: true, kind: transformer}",
        "decoder.skip: needs decoder.kind gru or lstm; a transformer adds the latent to what every block passes on",
    ),
    (
        "decoder: {ladder: true}\nprior: {kind: joint_energy}",
        "decoder.ladder: needs several latent.layers and decoder.num_layers, got 2 and 1: "
        "with one of either the whole latent enters the one layer anyway",
    ),
    ("prior: {log_snr_max: -4}", "prior.log_snr_max: must be greater than log_snr_min (-4), got -4"),
    ("training: {stages: [{name: prior}]}", "training.stages.0: give either epochs or steps, got neither"),
    (
        "training: {stages: [{name: prior, epochs: 1, steps: 2}]}",
        "training.stages.0: give either epochs or steps, got both (set one to null)",
    ),
    # YAML
    ("seed: 1\nseed: 2", "mine.yaml, line 2, column 1: 'seed' is given twice (first in line 1); keep one"),
    (
        "seed: !!python/object/apply:os.system [ls]",
        "mine.yaml, line 1, column 7: the tag 'tag:yaml.org,2002:python/object/apply:os.system' "
        "has no place in a recipe",
    ),
    ("? [a]\n: 3", "mine.yaml, line 1, column 3: an option's name must be a plain word"),
    (
        "seed: 12345678901234567890",
        "mine.yaml, line 1, column 7: the number 12345678901234567890… has more than 15 digits",
    ),
    ('"\\ud800": 3', "mine.yaml, line 1, column 1: '\\ud800' is not a valid str"),
    ('description: "\\ud800"', "mine.yaml, line 1, column 14: '\\ud800' is not a valid str"),
    ("seed: [1", "mine.yaml, line 1, column 9: not YAML: expected ',' or ']', but got '<stream end>'"),
    ("a: 1\n---\nb: 2", "mine.yaml, line 2, column 1: not YAML: but found another document"),
    ("a: \0", "mine.yaml: not YAML: character 3 is not printable"),
    ("", "mine.yaml: expected options (name: value), got nothing"),
    ("- 1", "mine.yaml: expected options (name: value), got a list"),
    ("just words", "mine.yaml: expected options (name: value), got a single value"),
]


@pytest.mark.parametrize(("text", "line"), ERRORS, ids=[text[:30] for text, _ in ERRORS])
def test_each_error_says_what_where_and_what_to_do(write: Any, text: str, line: str) -> None:
    assert refusal(write(text)) == line


def test_all_errors_come_at_once(write: Any) -> None:
    text = """
        seed: -1
        data: {corpus: ptp, limit: 0}
        prior: {kind: energy, num_levels: 4, strenght: 2, log_snr_max: -9}
        encoder: {kind: transformer, hidden_size: 10}
        heads: [{name: a b, classes: 2}, {name: c}, {name: c, labels: nosuch}]
    """
    message = refusal(write(text), ["training.batch_size=0", "x"])
    first, *lines = message.split("\n  ")
    assert first == "12 problems in mine.yaml:"
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        [
            "seed",
            "data.corpus",
            "data.limit",
            "prior.strenght",
            "prior.num_levels",
            "prior.log_snr_max",
            "encoder.hidden_size",
            "heads.0.name",
            "heads.1",
            "heads.2.name",
            "training.batch_size",
            "'x'",
        ]
    )
    # heads.2.labels is not judged: which columns there are depends on data.corpus, which is wrong itself


def test_nothing_is_concluded_from_an_option_that_is_wrong(write: Any) -> None:
    assert "prior.num_levels" not in refusal(write("prior: {kind: energi, num_levels: 6}"))
    assert refusal(write("heads: [{name: a, classes: x}]")).startswith("heads.0.classes: ")


@pytest.mark.parametrize("name", ["nosuch.yaml", "some/where", "x" * 5000, "a\0b", "", "ptbb"])
def test_sources_that_do_not_exist(name: str, shipped: Path) -> None:
    message = refusal(name)
    assert "ptb" in message and len(message) < 600 or "is no recipe" in message or "is a directory" in message


def test_a_misspelt_name_is_answered_with_the_nearest(shipped: Path) -> None:
    assert (
        refusal("ptbb")
        == "no recipe is called 'ptbb'; did you mean 'ptb'? Known: ptb, yelp (or give the path of a YAML file)"
    )


def test_a_directory_is_no_recipe_but_its_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    assert f"did you mean {str(tmp_path / 'recipe.yaml')!r}?" in refusal(tmp_path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"seed: \xff\xfe")
    assert refusal(tmp_path / "a.yaml") == "a.yaml: not UTF-8 text (byte 6); is this a recipe?"
    (tmp_path / "b.yaml").write_bytes(b"# " + b"x" * 1_000_000)
    assert refusal(tmp_path / "b.yaml") == "b.yaml: larger than 1000 kB; a recipe is a page of text"


BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in pairwise("abcdefghi")),
    "circle": "a: &a [*a]",
    "depth": "[" * 100_000,
    "blocks": "".join(" " * depth + "a:\n" for depth in range(900)),
    "width": "a: [" + "x," * 300_000 + "]",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_before_they_grow(write: Any, kind: str) -> None:
    message = refusal(write(BOMBS[kind]))
    assert message == (
        "mine.yaml: more than 10000 values, or nested deeper than 30, aliases expanded; a recipe is a page of text"
    )


def test_harmless_aliases_are_copies(write: Any) -> None:
    path = write("encoder: &net {hidden_size: 32}\ndecoder: *net")
    recipe = load_recipe(path, ["decoder.hidden_size=16"])
    assert (recipe.encoder.hidden_size, recipe.decoder.hidden_size) == (32, 16)


# --- extends ----------------------------------------------------------------------------------------------------------


def test_extends_merges_sections_and_replaces_lists(write: Any, shipped: Path) -> None:
    recipe = load_recipe(write("extends: ptb\nencoder: {dropout: 0.1}\ntraining: {stages: [{name: joint, steps: 2}]}"))
    assert (recipe.name, recipe.description) == ("mine", "")  # those belong to one file
    assert recipe.data.corpus == "ptb" and recipe.heads[0].classes == 20
    assert (recipe.encoder.hidden_size, recipe.encoder.dropout) == (64, 0.1)
    assert [stage.name for stage in recipe.training.stages] == ["joint"]


def test_extends_takes_a_path_relative_to_the_file_and_chains(write: Any, shipped: Path) -> None:
    write("extends: ptb\nlatent: {dim: 4}", "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\nseed: 5"), ["latent.standardize=false"])
    assert (recipe.latent.dim, recipe.seed, recipe.data.corpus, recipe.latent.standardize) == (4, 5, "ptb", False)


def test_a_section_that_is_not_one_is_not_merged(write: Any, shipped: Path) -> None:
    assert refusal(write("extends: ptb\nencoder: 5")) == "encoder: expected a section (option: value), got 5"


def test_extends_in_a_circle_is_refused(write: Any) -> None:
    write("extends: b.yaml", "a.yaml")
    assert refusal(write("extends: a.yaml", "b.yaml")) == "extends goes round in a circle: b.yaml → a.yaml → b.yaml"
    assert refusal(write("extends: c.yaml", "c.yaml")) == "extends goes round in a circle: c.yaml → c.yaml"


def test_a_long_chain_of_recipes_is_refused_in_a_line(tmp_path: Path) -> None:
    for index in range(5000):
        (tmp_path / f"{index}.yaml").write_text(f"extends: {index + 1}.yaml")
    (tmp_path / "5000.yaml").write_text("seed: 3")
    line = "0.yaml: a chain of more than 20 recipes that extend one another"
    assert refusal(tmp_path / "0.yaml") == line
    assert load_recipe(tmp_path / "4981.yaml").seed == 3


def test_extends_of_nothing_is_refused_together_with_the_rest(write: Any, shipped: Path) -> None:
    message = refusal(write("extends: ptbb\nseed: -1"))
    assert message.split("\n  ") == [
        "2 problems in mine.yaml:",
        "mine.yaml: extends: no recipe 'ptbb', neither shipped nor beside this file; "
        "did you mean 'ptb'? Known: ptb, yelp",
        "seed: must be at least 0, got -1",
    ]
    assert "expected the name or path of one recipe" in refusal(write("extends: [ptb, yelp]"))


# --- shipped recipes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_described_and_reloads_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name, "a run of this recipe would lie in a directory of another name"
    assert recipe.description
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_prior_is_one_override_away(name: str, kind: str) -> None:
    assert load_recipe(name, [f"prior.kind={kind}"]).prior.kind == kind


def test_listing_and_showing(shipped: Path) -> None:
    assert [(each.name, each.description) for each in list_recipes()] == [("ptb", "Penn Treebank"), ("yelp", "reviews")]
    assert recipe_text("yelp").startswith("name: yelp\n")
    with pytest.raises(RecipeError, match="no recipe is called 'yelpp'; did you mean 'yelp'"):
        recipe_text("yelpp")


def test_an_installed_wheel_finds_its_recipes_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_io, "_HERE", tmp_path / "textebm")
    assert recipe_io.recipes_directory() == tmp_path / "recipes"
    (tmp_path / "textebm" / "_recipes").mkdir(parents=True)
    assert recipe_io.recipes_directory() == tmp_path / "textebm" / "_recipes"


def test_options_are_all_described_with_their_defaults() -> None:
    options = {each.name: each for each in describe()}
    assert options["prior.kind"].default == "diffusion_energy"
    assert options["prior.kind"].kind == KINDS_IN_WORDS
    assert options["heads.0.name"].default == "(required)"
    assert options["training.stages.0.epochs"].kind == "a number > 0 or null"
    # a default, given back as an override, changes nothing
    given = [
        f"{each.name}={each.default}" for each in options.values() if ".0." not in each.name and each.name != "name"
    ]
    assert parse_recipe({"name": "a"}, given) == Recipe(name="a")


@pytest.mark.parametrize("option", describe(), ids=lambda option: option.name)
def test_each_option_says_what_it_does_and_when_to_touch_it(option: Any) -> None:
    assert option.description.endswith(".") and len(option.description.split()) >= 2, option
    assert option.when and option.when.endswith("."), option


def test_the_reference_page_is_current() -> None:
    page = PACKAGE.parent / "docs" / "reference" / "options.md"
    message = "write it anew: textebm recipes options --markdown > docs/reference/options.md"
    assert page.read_text(encoding="utf-8") == options_page(), message


# --- dump -------------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TRICKY = st.sampled_from(
    ["no", "1e3", "0o7", "1_000", "~", "null", "2020-01-01", "<<", "=", "- a", "a: b", "#", "\x85", "%", "1:30"]
)


@given(st.lists(WORDS | TRICKY, max_size=4), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_what_is_read(texts: list[str], number: float) -> None:
    data = {"texts": texts, "number": number, "nested": {"first": texts[0] if texts else None, "flag": True}}
    text = recipe_yaml.write_yaml(data)
    assert recipe_yaml.read_yaml(text, "dump") == recipe_yaml.Reading(data, [])
    assert yaml.safe_load(text)["texts"] == texts  # and other readers see the same


@pytest.mark.parametrize("corpus", ["grammar", "ptb", "dailydialog", "yelp", "files"])
def test_a_dump_is_complete_and_reloads_equal(corpus: str, write: Any) -> None:
    given = [
        "data.train=x.csv",
        "training.learning_rate=1e-7",
        "description='a: ~ # \u2028'",
        "training.mixed_precision=no",
    ]
    recipe = parse_recipe({"name": "a", "heads": [{"name": "c", "classes": 2}]}, [f"data.corpus={corpus}", *given])
    text = dump_recipe(recipe)
    assert load_recipe(write(text)) == recipe
    assert sum(1 for line in text.splitlines() if ":" in line) > len(describe()), "each option stands in the dump"


# --- fuzz -------------------------------------------------------------------------------------------------------------

SEED_TEXT = """\
name: a
data: {corpus: yelp, limit: 100}
prior: {kind: diffusion_energy, num_levels: 6, log_snr_max: 5.0}
heads:
  - {name: sentiment, labels: sentiment}
  - {name: code, classes: 20}
training:
  learning_rate: 1e-4
  stages: [{name: autoencoder, epochs: 2}, {name: prior, steps: 9}]
"""
PIECES = st.sampled_from(
    [
        ":",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "'",
        '"',
        "\n",
        "  ",
        "\t",
        "#",
        "|\n",
        ">\n",
        "? ",
        "---\n",
        "%YAML 9\n",
        "\0",
        "\ufeff",
        "\u2028",
        "\U0001f600",
        "\\ud800",
        '"\\ud800"',
        '"\\UFFFFFFFF"',
        "1e999",
        "-0",
        ".nan",
        "9" * 5000,
        '"\\ud800": ',
        "null",
        "~",
        "true",
        "<<: *a",
        "extends: a",
        "extends: ../..",
        "extends: .",
        "0.0.0",
        "\x1b",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = SEED_TEXT
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(PIECES | st.text(max_size=3)) + text[end:]
    return text


@given(mutated())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_text_is_a_recipe_or_one_recipe_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mutated.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert isinstance(load_recipe(path), Recipe)
    except RecipeError as error:
        assert str(error)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["energy", "yelp", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OPTIONS = st.sampled_from([name for name, _ in option_paths()])


@given(
    st.lists(st.tuples(OPTIONS, VALUES), max_size=4),
    st.lists(st.text(max_size=20) | OPTIONS.map(lambda o: o + "=0"), max_size=2),
)
@settings(max_examples=300, deadline=None)
def test_mutated_values_are_a_recipe_or_one_recipe_error(changes: list[tuple[str, Any]], overrides: list[str]) -> None:
    data: dict[str, Any] = {
        "name": "a",
        "heads": [{"name": "c", "classes": 2}],
        "training": {"stages": [{"name": "prior"}]},
    }
    for name, value in changes:
        node: Any = data
        *parents, last = name.split(".")
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[last] = value
    try:
        recipe = parse_recipe(data, overrides)
    except RecipeError as error:
        assert str(error)
    else:
        assert load_recipe(recipe) == recipe


# --- every option is read ---------------------------------------------------------------------------------------------


class Reads(ast.NodeVisitor):
    """Which options of which sections a module reads, by following where a section goes.

    A section is known by where it comes from (``recipe.prior``) or by an annotation naming a class of recipe.schema.
    Attributes of anything else do not count: ``encoder.dropout`` of a network is not a reading of the recipe.
    """

    def __init__(self) -> None:
        self.found: set[tuple[type[Part], str]] = set()
        self.classes: dict[str, type[Part]] = {f"recipe.{section.__name__}": section for section in sections()}
        self.names: dict[str, type[Part]] = {}  # what the names of the current function stand for, and self.x of any

    def kind(self, node: ast.expr | None) -> type[Part] | None:
        """The section that an expression is, or that it is a list of."""
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in self.names:
            return self.names[ast.unparse(node)]
        if isinstance(node, ast.Attribute):
            owner = self.kind(node.value)
            field = owner.model_fields.get(node.attr) if owner else None
            return section_in(field.annotation) if field else None
        if isinstance(node, ast.Subscript | ast.Starred | ast.NamedExpr):
            return self.kind(node.value)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body) or self.kind(node.orelse)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("items", "values"):
                return self.kind(node.func.value)
            if name in ("load_recipe", "parse_recipe", "keep_in_run", "Recipe.model_validate"):
                return Recipe
            if name in ("enumerate", "list", "tuple", "sorted", "reversed", "iter", "next") and node.args:
                return self.kind(node.args[0])
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            self.bind(node.generators[0].target, self.kind(node.generators[0].iter))
            return self.kind(node.elt)
        return None

    def bind(self, target: ast.expr, kind: type[Part] | None) -> None:
        if isinstance(target, ast.Name | ast.Attribute):
            self.names.pop(ast.unparse(target), None)
            if kind is not None:
                self.names[ast.unparse(target)] = kind
        elif isinstance(target, ast.Tuple) and target.elts:  # for index, stage in enumerate(…)
            self.bind(target.elts[-1], kind)

    def annotated(self, annotation: ast.expr | None) -> type[Part] | None:
        inside = [ast.unparse(node) for node in ast.walk(annotation)] if annotation else []
        return next((self.classes[name] for name in inside if name in self.classes), None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "textebm.recipe.schema":
            known = {section.__name__: section for section in sections()}
            self.classes |= {each.asname or each.name: known[each.name] for each in node.names if each.name in known}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.names)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            self.bind(ast.Name(argument.arg), self.annotated(argument.annotation))
        self.generic_visit(node)
        kept = {name: kind for name, kind in self.names.items() if name.startswith("self.")}
        self.names = outer | kept

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for each, value in zip(target.elts, node.value.elts, strict=True):
                    self.bind(each, self.kind(value))
            else:
                self.bind(target, self.kind(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        self.bind(node.target, self.annotated(node.annotation) or self.kind(node.value))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self.bind(node.target, self.kind(node.value))

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, self.kind(node.iter))
        self.generic_visit(node)

    def visit_ListComp(self, node: Any) -> None:
        for generator in node.generators:  # bound before the element, which is written first
            self.bind(generator.target, self.kind(generator.iter))
        self.generic_visit(node)

    visit_GeneratorExp = visit_SetComp = visit_DictComp = visit_ListComp

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.kind(node.value)
        if owner is not None and node.attr in owner.model_fields and isinstance(node.ctx, ast.Load):
            self.found.add((owner, node.attr))
        self.generic_visit(node)


def section_in(annotation: Any) -> type[Part] | None:
    """The section that an option is, or is a list of."""
    return section_of(annotation) or section_of(item_of(annotation))


def sections(section: type[Part] = Recipe) -> set[type[Part]]:
    inner = {section_in(field.annotation) for field in section.model_fields.values()} - {None}
    return {section}.union(*(sections(each) for each in inner if each is not None))


def reads(source: str) -> set[tuple[type[Part], str]]:
    visitor = Reads()
    visitor.visit(ast.parse(source))
    return visitor.found


def unread_options(found: set[tuple[type[Part], str]]) -> set[str]:
    informative = {(Recipe, "name"), (Recipe, "description")}  # for people, and for the run directory's name
    options = {(section, name) for section in sections() for name in section.model_fields}
    return {f"{section.__name__}.{name}" for section, name in options - found - informative}


@pytest.mark.parametrize(
    ("body", "option"),
    [
        ("def f(recipe: Recipe):\n  return recipe.prior.kind", "Prior.kind"),
        ("def f(options: recipe.Prior | None):\n  g(n=options.steps)", "Prior.steps"),
        ("def f(r: Recipe):\n  for i, s in enumerate(r.training.stages):\n    g(s.epochs)", "Stage.epochs"),
        ("def f(r: Recipe):\n  return [h.name for h in r.heads if h.labels]", "Head.labels"),
        ("def f(r: Recipe):\n  a, data = 1, r.data\n  return data.limit", "Data.limit"),
        (
            "def f(heads: Mapping[str, Symbols]):\n  for name, head in heads.items():\n    head.label_limit",
            "Head.label_limit",
        ),
        ("def f(heads: tuple[Symbols, ...]):\n  return heads[0].classes", "Head.classes"),
        (
            "class A:\n def f(self, r: Recipe):\n  self.t = r.training\n def g(self):\n  self.t.batch_size",
            "Training.batch_size",
        ),
    ],
)
def test_the_search_sees_readings(body: str, option: str) -> None:
    assert option not in unread_options(reads("from textebm.recipe.schema import Recipe, Head as Symbols\n" + body))


@pytest.mark.parametrize(
    "body",
    [
        "def f(encoder: Encoder):\n  return encoder.dropout",
        "def f(encoder):\n  return encoder.dropout",
        "def f(r: Recipe):\n  encoder = build(r.encoder)\n  return encoder.dropout",
        "dropout = 1\nself.dropout",
    ],
)
def test_the_search_is_not_fooled_by_the_same_word_elsewhere(body: str) -> None:
    source = "from textebm.recipe.schema import Recipe\nfrom textebm.networks import Encoder\n" + body
    assert "Encoder.dropout" in unread_options(reads(source))


def test_every_option_is_read_somewhere() -> None:
    """An option that nothing reads is a promise the program does not keep."""
    found: set[tuple[type[Part], str]] = set()
    for path in PACKAGE.rglob("*.py"):
        if not path.name.startswith("recipe") and "cli" not in path.relative_to(PACKAGE).parts:
            found |= reads(path.read_text(encoding="utf-8"))
    unread = sorted(unread_options(found))
    assert not unread, f"nothing reads {', '.join(unread)}"


def test_importing_recipes_is_quick_and_brings_no_torch() -> None:
    code = (
        "import sys, time; import textebm.recipe.schema, textebm.recipe.read; "
        "print(time.process_time(), any(m in sys.modules for m in ('torch', 'numpy', 'transformers', 'datasets')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = run.stdout.split()
    assert heavy == "False"
    assert float(seconds) < 0.5  # processor time with Python's own start; about 0.12, and torch alone takes 2


def test_a_prior_stage_with_nothing_to_learn_is_answered() -> None:
    with pytest.raises(RecipeError, match="has nothing to learn: leave the stage out"):
        load_recipe("quickstart", ["prior.kind=gaussian", "heads=[]"])
    load_recipe("quickstart", ["prior.kind=gaussian"])


# --- options that recipes had once ------------------------------------------------------------------------------------

OLD = Path(__file__).parent / "data" / "recipe-c7225b5.yaml"  # dumped by that commit: each option at its default


def test_a_recipe_that_an_earlier_program_wrote_out_in_full_loads() -> None:
    heads = [{"name": "code", "classes": 20}, {"name": "sentiment", "labels": "sentiment"}]
    old = load_recipe(OLD)
    assert old == parse_recipe(
        {
            "name": "old",
            "description": old.description,
            "heads": heads,
            "tokenizer": {"kind": "word"},
            "objective": {"cluster_features": "latent", "cluster_weight": 1.0},  # the defaults of that program
        }
    )
    assert Recipe.model_validate(recipe_yaml.read_yaml(OLD.read_text(), "old").data) == old  # as config.json is read


def test_a_removed_option_is_dropped_where_it_is_neutral_and_else_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        removed, "REMOVED", {"prior.gone": removed.Removed((False, (1, 2)), "is gone; do this instead")}
    )
    monkeypatch.setitem(removed.REMOVED, "heads.*.gone", removed.Removed((None,), "is gone from heads"))
    heads = [{"name": "a", "classes": 2, "gone": None}]
    data = {"name": "x", "prior": {"gone": [1, 2]}, "heads": heads}
    assert parse_recipe(data) == parse_recipe({"name": "x", "heads": [{"name": "a", "classes": 2}]})
    assert data["prior"] == {"gone": [1, 2]} and "gone" in heads[0]  # the caller's data is left as it was
    assert load_recipe(Recipe(name="x"), ["prior.gone=false"]) == Recipe(name="x")
    assert refusal(Recipe(name="x"), ["prior.gone=7"]) == "prior.gone: is gone; do this instead"
    with pytest.raises(RecipeError, match="heads.0.gone: is gone from heads"):
        parse_recipe(data | {"heads": [{"name": "a", "classes": 2, "gone": 5}]})


@pytest.mark.parametrize("option", removed.REMOVED)
def test_a_removed_option_is_no_option_and_says_what_to_do(option: str) -> None:
    assert annotation_at(tuple(0 if key == "*" else key for key in option.split("."))) is None
    neutral, message = removed.REMOVED[option]
    assert neutral and len(message) > 20 and not message.endswith(".")
