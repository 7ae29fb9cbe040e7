"""Recipes from files, names and overrides, and back; every error of a recipe at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from textebm.errors import RecipeError, did_you_mean
from textebm.recipe import checks as recipe_checks
from textebm.recipe import yaml_text as recipe_yaml
from textebm.recipe.schema import Part, Recipe

_HERE = Path(__file__).resolve().parents[1]  # the package
_MISSING = object()


@dataclass(frozen=True)
class RecipeInfo:
    """A shipped recipe."""

    name: str
    description: str
    path: Path


@dataclass(frozen=True)
class Option:
    """One option of the schema: dotted name, what it takes, its default and what it is for."""

    name: str
    kind: str
    default: str
    description: str


# --- shipped recipes --------------------------------------------------------------------------------------------------


def recipes_directory() -> Path:
    """Where the shipped recipes lie: inside an installed wheel, or beside the package in a checkout."""
    installed = _HERE / "_recipes"
    return installed if installed.is_dir() else _HERE.parent / "recipes"


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(recipes_directory().glob("*.yaml"))}


def list_recipes() -> list[RecipeInfo]:
    """The shipped recipes by name. Raises RecipeError when one of them cannot be read."""
    found = []
    for name, path in _shipped().items():
        data = _read_mapping(path).data
        description = data.get("description", "")
        found.append(RecipeInfo(name, description if isinstance(description, str) else "", path))
    return found


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe. Raises RecipeError, with the nearest name, when there is none."""
    shipped = _shipped()
    if name not in shipped:
        raise RecipeError(f"no recipe is called {name[:80]!r}{did_you_mean(name[:80], shipped)}")
    return shipped[name]


def recipe_text(name: str) -> str:
    """A shipped recipe as it was written, comments and all."""
    return recipe_path(name).read_text(encoding="utf-8")


# --- reading ----------------------------------------------------------------------------------------------------------


def load_recipe(source: str | Path | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a shipped name, of a YAML file or of a Recipe, with overrides such as ``prior.kind=energy``.

    A file may say ``extends: NAME`` (a shipped recipe, or a path relative to the file): sections are merged option by
    option, lists are replaced whole; name and description are never inherited. Without a name the file's is taken.
    Overrides are dotted, count list items from 0 (``heads.0.classes=50``) and have YAML values. Where an override or
    an extending file changes prior.kind, the num_levels and steps chosen for the other kind go back to their defaults
    unless they are given as well: so every prior is one override away.

    Raises RecipeError with one line for every problem found.
    """
    if isinstance(source, Recipe):
        return parse_recipe(source.model_dump(mode="json"), overrides)
    path = _find(source)
    problems: list[str] = []
    data = _extended(path, (), problems)
    return _resolve(data, overrides, problems, path.name)


def parse_recipe(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of plain data, such as the one saved with a model. Raises RecipeError as load_recipe does."""
    return _resolve(_plain(data), overrides, [], "the recipe")


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; load_recipe gives back an equal one."""
    return recipe_yaml.write_yaml(recipe.model_dump(mode="json"))


def describe() -> list[Option]:
    """Every option with its default, in the schema's order. Items of a list are written ``heads.0.name``."""
    options = []
    for name, field in recipe_checks.option_paths():
        default = field.default
        shown = "(required)" if default is PydanticUndefined else recipe_yaml.write_yaml(_plain(default))
        kind = recipe_checks.kind_in_words(field.annotation)
        options.append(Option(name, kind, shown.removesuffix("...\n").strip(), field.description or ""))
    return options


def _find(source: str | Path) -> Path:
    """The file meant by a name or a path."""
    shipped = _shipped()
    if isinstance(source, str) and source in shipped:
        return shipped[source]
    path, shown = Path(source), str(source)[:200]
    try:
        if path.is_dir():
            inside = f"; did you mean {str(path / 'recipe.yaml')!r}?" if (path / "recipe.yaml").is_file() else ""
            raise RecipeError(f"{shown!r} is a directory, expected a recipe's name or its YAML file{inside}")
        if path.is_file():
            return path
    except (OSError, ValueError) as error:  # too long, or with a NUL in it
        raise RecipeError(f"{shown!r} is no recipe: {error}") from None
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise RecipeError(f"no such recipe file: {shown!r}. Shipped recipes: {', '.join(shipped)}")
    raise RecipeError(f"no recipe is called {shown!r}{did_you_mean(shown, shipped)} (or give the path of a YAML file)")


def _read_mapping(path: Path) -> recipe_yaml.Reading:
    """The options in a file, and the problems in its text. Raises RecipeError when it holds no options at all."""
    try:
        with path.open("rb") as file:
            content = file.read(recipe_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= recipe_yaml.MAX_BYTES:
            raise RecipeError(f"{path.name}: not UTF-8 text (byte {error.start}); is this a recipe?") from None
        text = content.decode("latin-1")  # cut inside a character: only its size is still to be said
    reading = recipe_yaml.read_yaml(text, path.name)
    if not isinstance(reading.data, dict):
        if reading.problems:
            raise RecipeError("\n  ".join(reading.problems))
        came = "nothing" if reading.data is None else "a list" if isinstance(reading.data, list) else "a single value"
        raise RecipeError(f"{path.name}: expected options (name: value), got {came}")
    return reading


def _extended(path: Path, above: tuple[Path, ...], problems: list[str]) -> dict[str, Any]:
    """The options of *path* merged over those of the recipes it extends."""
    path = path.resolve()
    if path in above:
        round_trip = " → ".join(each.name for each in (*above[above.index(path) :], path))
        raise RecipeError(f"extends goes round in a circle: {round_trip}")
    reading = _read_mapping(path)
    problems += reading.problems
    data: dict[str, Any] = reading.data
    data.setdefault("name", path.stem)
    if "extends" not in data:
        return data
    base_name = data.pop("extends")
    if not isinstance(base_name, str):
        problems.append(f"{path.name}: extends: expected the name or path of one recipe, got {base_name!r}")
        return data
    try:
        base_path = _find(base_name if base_name in _shipped() else path.parent / base_name)
    except RecipeError:
        problems.append(
            f"{path.name}: extends: no recipe {base_name[:80]!r}, neither shipped nor beside this file"
            f"{did_you_mean(base_name[:80], _shipped())}"
        )
        return data
    base = _extended(base_path, (*above, path), problems)
    if isinstance(section := data.get("prior"), dict) and "kind" in section:
        _change_kind(base, section["kind"])
    base.pop("name", None)
    base.pop("description", None)
    return _merged(base, data)


def _merged(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in data.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _change_kind(data: dict[str, Any], kind: Any) -> None:
    """Forget what was chosen for another kind of prior."""
    prior = data.get("prior")
    if isinstance(prior, dict) and kind != prior.get("kind", Recipe.model_fields["prior"].default.kind):
        for option in ("num_levels", "steps"):
            prior.pop(option, None)


# --- overrides --------------------------------------------------------------------------------------------------------


def _override(data: dict[str, Any], text: str) -> list[str]:
    """Set ``a.b.0.c=value`` in *data*; the problems in doing so."""
    key, equals, written = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        return [f"{text[:80]!r}: expected option=value, such as seed=1 or prior.kind=energy"]
    try:
        reading = recipe_yaml.read_yaml(written, key)
    except RecipeError as error:
        return [f"{error}; quote text with special characters: {key}=\"'…'\""]
    if reading.problems:
        return reading.problems
    node: Any = data
    at: list[str | int] = []
    for depth, word in enumerate(keys):
        last = depth == len(keys) - 1
        here = recipe_checks.dotted(tuple(at))
        if isinstance(node, dict):
            at.append(word)
            if last:
                node[word] = reading.data
            elif node.get(word) is None:
                # a list that the recipe leaves at its default is changed from there
                node[word] = _default_list(tuple(at)) or {}
            node = node[word]
        elif isinstance(node, list):
            if not word.isascii() or not word.isdecimal() or int(word[:9]) >= len(node):
                count = f"it has {len(node)} item(s), counted from 0" if node else "it is empty"
                return [f"{key}: {here} has no item {word!r}; {count}"]
            at.append(int(word))
            if last:
                node[int(word)] = reading.data
            node = node[int(word)]
        else:
            return [f"{key}: {here} is a plain value and has no option {word!r}"]
    return []


def _default_list(path: recipe_checks.Path) -> list[Any] | None:
    """The default of a list option as plain data."""
    default: Any = Recipe.model_construct(name="")
    for key in path:
        default = getattr(default, str(key), None) if isinstance(default, Part) else None
    if not isinstance(default, tuple):
        return None
    return [item.model_dump() if isinstance(item, Part) else item for item in default]


# --- validation -------------------------------------------------------------------------------------------------------


def _resolve(data: dict[str, Any], overrides: Sequence[str], problems: list[str], where: str) -> Recipe:
    for text in overrides:
        if text.startswith("prior.kind="):
            _change_kind(data, text.removeprefix("prior.kind=").strip())
    for text in overrides:
        problems = problems + _override(data, text)
    data = _tuples(data)
    refused: list[recipe_checks.Path] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data, strict=True)
    except ValidationError as error:
        problems = problems + recipe_checks.explain(error)
        refused = [each["loc"] for each in error.errors(include_url=False, include_input=False)]
        recipe = _mended(data, refused)
    if recipe is not None:
        for found in recipe_checks.contradictions(recipe):
            if not any(_touches(read, bad) for read in (found.path, *found.reads) for bad in refused):
                problems = problems + [f"{recipe_checks.dotted(found.path)}: {found.message}"]
    if problems or recipe is None:
        lines = list(dict.fromkeys(problems))
        raise RecipeError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems in {where}:", *lines]))
    return recipe


def _touches(read: recipe_checks.Path, bad: recipe_checks.Path) -> bool:
    shorter = min(len(read), len(bad))
    return read[:shorter] == bad[:shorter]


def _plain(value: Any) -> Any:
    """A copy in dicts and lists only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
    """Lists as tuples: strict validation, which keeps '5' and 5 apart, also keeps lists and tuples apart."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _mended(data: dict[str, Any], refused: Sequence[recipe_checks.Path]) -> Recipe | None:
    """The recipe with its refused options at their defaults, so that the rest can be checked as well."""
    if () in refused:
        return None

    def without(value: Any, path: recipe_checks.Path) -> Any:
        if path in refused:
            return _MISSING
        if isinstance(value, dict):
            kept = {key: without(each, (*path, key)) for key, each in value.items()}
            return {key: each for key, each in kept.items() if each is not _MISSING}
        if isinstance(value, tuple):
            kept_items = tuple(without(each, (*path, index)) for index, each in enumerate(value))
            return _MISSING if _MISSING in kept_items else kept_items
        return value

    data = {"name": "unnamed", **without(data, ())}
    for index, head in enumerate(data.get("heads", ())):
        if isinstance(head, dict):
            head.setdefault("name", f"unnamed-{index}")
    try:
        return Recipe.model_validate(data, strict=True)
    except ValidationError:
        return None
