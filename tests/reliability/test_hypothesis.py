"""Bad input as hypothesis finds it: only errors of ours come out. `fuzz.py` changes good input at random instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import RECIPE, trained
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.cli import app
from textebm.errors import FileError, TextEBMError
from textebm.files import parse_json
from textebm.recipe.read import load_recipe, parse_recipe
from textebm.text.check import check_file

pytestmark = pytest.mark.reliability
few = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
OPTIONS = [f"{section}.{option}" for section, each in RECIPE.items() if isinstance(each, dict) for option in each]


def ours(call: Any) -> None:
    try:
        call()
    except TextEBMError as error:
        assert str(error)


@few
@given(option=st.sampled_from(OPTIONS), value=VALUES)
def test_an_option_of_any_value_is_a_recipe_or_an_error(option: str, value: Any) -> None:
    section, name = option.split(".")
    ours(lambda: parse_recipe({**RECIPE, section: {**RECIPE[section], name: value}}))
    ours(lambda: parse_recipe(RECIPE, [f"{option}={value}"]))


@few
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_recipe_or_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    ours(lambda: load_recipe(path))


@few
@given(data=VALUES)
def test_any_yaml_is_a_recipe_or_an_error(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8", errors="surrogatepass")
    ours(lambda: load_recipe(path))


@few
@given(
    ending=st.sampled_from(["csv", "tsv", "jsonl", "txt", "parquet"]),
    content=st.binary(max_size=200)
    | st.lists(st.text(max_size=20), max_size=6).map(
        lambda lines: "\n".join(["text,label", *lines]).encode("utf-8", "replace")
    ),
)
def test_any_file_is_a_corpus_or_an_error(ending: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"corpus.{ending}"
    path.write_bytes(content)
    ours(lambda: check_file(path))


@few
@given(text=st.text(max_size=60))
def test_any_text_is_json_or_an_error(text: str) -> None:
    try:
        assert isinstance(parse_json(text, "x"), dict)
    except FileError as error:
        assert str(error).startswith("x is not")


@few
@given(texts=st.lists(SCALARS | st.binary(max_size=4), min_size=1, max_size=3), head=SCALARS)
def test_any_texts_are_read_or_refused(texts: list[Any], head: Any) -> None:
    model = trained()
    face = model if isinstance(model, TextEBM) else TextEBM(model)
    ours(lambda: face.encode(texts))
    ours(lambda: face.classify(texts, head))


@few
@given(words=st.lists(st.text(max_size=12), max_size=5), command=st.sampled_from(["recipes", "data", "generate", ""]))
def test_any_command_line_is_answered(words: list[str], command: str) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in words]
    result = CliRunner().invoke(app, [*command.split(), *words])
    assert result.exit_code in (0, 2) and (result.exception is None or isinstance(result.exception, SystemExit))
