"""Recipes from files, names and overrides, and back; every error of a recipe at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from textebm.errors import RecipeError, did_you_mean
from textebm.recipe import yaml_text
from textebm.recipe.checks import dotted, explain
from textebm.recipe.contradictions import contradictions
from textebm.recipe.options import Path as OptionPath
from textebm.recipe.options import plain
from textebm.recipe.schema import Part, Recipe

_HERE = Path(__file__).resolve().parents[1]  # the package
_MISSING = object()
MAX_EXTENDS = 20  # recipes that extend one another


@dataclass(frozen=True)
class RecipeInfo:
    """A shipped recipe."""

    name: str
    description: str
    path: Path


# --- shipped recipes --------------------------------------------------------------------------------------------------


def recipes_directory() -> Path:
    """Where the shipped recipes lie: inside an installed wheel, or beside the package in a checkout."""
    installed = _HERE / "_recipes"
    return installed if installed.is_dir() else _HERE.parent / "recipes"


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(recipes_directory().glob("*.yaml"))}


def list_recipes() -> list[RecipeInfo]:
    """The shipped recipes by name. Raises RecipeError when one of them cannot be read."""
    shipped = {name: (path, _read_mapping(path).data) for name, path in _shipped().items()}
    return [RecipeInfo(name, str(data.get("description", "")), path) for name, (path, data) in shipped.items()]


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
    unless they are given as well: so every prior is one override away. Files that a recipe names are looked for beside
    the recipe, then in the working directory.

    Raises RecipeError with one line for every problem found.
    """
    if isinstance(source, Recipe):
        return parse_recipe(source.model_dump(mode="json"), overrides)
    path = _find(source)
    problems: list[str] = []
    data = _extended(path, problems)
    return _resolve(data, overrides, problems, path.name)


def parse_recipe(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of plain data, such as the one saved with a model. Raises RecipeError as load_recipe does."""
    return _resolve(plain(data), overrides, [], "the recipe")


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; load_recipe gives back an equal one."""
    return yaml_text.write_yaml(recipe.model_dump(mode="json"))


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


def _read_mapping(path: Path) -> yaml_text.Reading:
    """The options in a file, and the problems in its text. Raises RecipeError when it holds no options at all."""
    try:
        with path.open("rb") as file:
            content = file.read(yaml_text.MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {str(path)!r}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= yaml_text.MAX_BYTES:
            raise RecipeError(f"{path.name}: not UTF-8 text (byte {error.start}); is this a recipe?") from None
        text = content.decode("latin-1")  # cut inside a character: only its size is still to be said
    reading = yaml_text.read_yaml(text, path.name)
    if not isinstance(reading.data, dict):
        if reading.problems:
            raise RecipeError("\n  ".join(reading.problems))
        came = "nothing" if reading.data is None else "a list" if isinstance(reading.data, list) else "a single value"
        raise RecipeError(f"{path.name}: expected options (name: value), got {came}")
    return reading


def _extended(path: Path, problems: list[str]) -> dict[str, Any]:
    """The options of *path* merged over those of the recipes it extends."""
    chain: list[dict[str, Any]] = []
    paths: list[Path] = []
    base: Path | None = path
    while base is not None:
        path = base.resolve()
        if path in paths:
            round_trip = " → ".join(each.name for each in (*paths[paths.index(path) :], path))
            raise RecipeError(f"extends goes round in a circle: {round_trip}")
        if len(paths) == MAX_EXTENDS:
            raise RecipeError(f"{paths[0].name}: a chain of more than {MAX_EXTENDS} recipes that extend one another")
        reading = _read_mapping(path)
        problems += reading.problems
        reading.data.setdefault("name", path.stem)
        _place(reading.data, path.parent)
        chain.append(reading.data)
        paths.append(path)
        base = _base(reading.data, path, problems)
    data = chain.pop()
    while chain:
        extending = chain.pop()
        if isinstance(section := extending.get("prior"), dict) and "kind" in section:
            _change_kind(data, section["kind"])
        data = _merged({key: data[key] for key in data if key not in ("name", "description")}, extending)
    return data


# Options that may name a file or folder.
PATHS = (
    *(("data", "train"), ("data", "validation"), ("data", "test"), ("data", "name"), ("training", "start_from")),
    *(("tokenizer", "name"), ("encoder", "pretrained"), ("decoder", "pretrained")),
)


def _place(data: dict[str, Any], folder: Path) -> None:
    """Make the paths absolute that lie below *folder*; those of the home directory are written ``~/…``, so that a
    published recipe names nobody. Others stay: they may be a name on the Hub, or relative to the working directory."""
    for section, option in PATHS:
        options = data.get(section)
        if not isinstance(options, dict):
            continue
        value = options.get(option)
        if not isinstance(value, str) or not value or "\0" in value:
            continue
        try:
            path = folder / Path(value).expanduser()
            if path.exists() and (value.startswith("~") or not Path(value).is_absolute()):
                path, home = path.resolve(), Path.home()
                inside = section == "data" and path.is_relative_to(home) and home != Path(home.anchor)
                options[option] = f"~/{path.relative_to(home).as_posix()}" if inside else str(path)
        except (OSError, RuntimeError):  # too long a name; no home directory
            continue


def _base(data: dict[str, Any], path: Path, problems: list[str]) -> Path | None:
    """The recipe that the one at *path* extends, if any; its `extends` is taken out of *data*."""
    if "extends" not in data:
        return None
    name, shipped = data.pop("extends"), _shipped()
    if not isinstance(name, str):
        problems.append(f"{path.name}: extends: expected the name or path of one recipe, got {name!r}")
        return None
    try:
        return _find(name if name in shipped else path.parent / name)
    except RecipeError:
        problems.append(
            f"{path.name}: extends: no recipe {name[:80]!r}, neither shipped nor beside this file"
            f"{did_you_mean(name[:80], shipped)}"
        )
        return None


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


class _Override(NamedTuple):
    """``a.b.0.c=value``, read."""

    keys: tuple[str, ...]
    value: Any

    @property
    def option(self) -> str:
        return ".".join(self.keys)


def _read_override(text: str, problems: list[str]) -> _Override | None:
    written, equals, value = text.partition("=")
    keys = tuple(word.strip() for word in written.split("."))
    if not equals or not all(keys):
        problems.append(f"{text[:80]!r}: expected option=value, such as seed=1 or prior.kind=energy")
        return None
    option = ".".join(keys)
    try:
        reading = yaml_text.read_yaml(value, option)
    except RecipeError as error:
        problems.append(f"{error}; quote text with special characters: {option}=\"'…'\"")
        return None
    problems += reading.problems
    return None if reading.problems else _Override(keys, reading.data)


def _set(data: dict[str, Any], override: _Override) -> str | None:
    """Set the option in *data*; the problem in doing so, if there is one."""
    node: Any = data
    for depth, word in enumerate(override.keys):
        above, last = override.keys[:depth], depth == len(override.keys) - 1
        if isinstance(node, dict):
            if not last and node.get(word) is None:
                # a list that the recipe leaves at its default is changed from there
                node[word] = _default_list((*above, word)) or {}
            place: Any = word
        elif isinstance(node, list):
            if not word.isascii() or not word.isdecimal() or int(word[:9]) >= len(node):
                count = f"it has {len(node)} item(s), counted from 0" if node else "it is empty"
                return f"{override.option}: {'.'.join(above)} has no item {word!r}; {count}"
            place = int(word)
        else:
            return f"{override.option}: {'.'.join(above)} is a plain value and has no option {word!r}"
        if last:
            node[place] = override.value
        else:
            node = node[place]
    return None


def _default_list(keys: Sequence[str]) -> list[Any] | None:
    """The default of a list option as plain data."""
    default: Any = Recipe.model_construct(name="")
    for key in keys:
        default = getattr(default, key, None) if isinstance(default, Part) else None
    if not isinstance(default, tuple):
        return None
    return [item.model_dump() if isinstance(item, Part) else item for item in default]


# --- validation -------------------------------------------------------------------------------------------------------


def _resolve(data: dict[str, Any], overrides: Sequence[str], problems: list[str], where: str) -> Recipe:
    problems = list(problems)
    changes = [change for text in overrides if (change := _read_override(text, problems))]
    if kinds := [change.value for change in changes if change.keys == ("prior", "kind")]:
        _change_kind(data, kinds[-1])
    problems += [problem for change in changes if (problem := _set(data, change))]
    _place(data, Path())
    data = _tuples(data)
    refused: list[OptionPath] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data, strict=True)
    except ValidationError as error:
        problems += explain(error)
        refused = [each["loc"] for each in error.errors(include_url=False, include_input=False)]
        recipe = _mended(data, refused)
    if recipe is not None:
        wrong = [dotted(path) for path in refused]
        for each in contradictions(recipe):
            if not any(_touches(read, bad) for read in (each.option, *each.reads) for bad in wrong):
                problems.append(f"{each.option}: {each.message}")
    if problems or recipe is None:
        lines = list(dict.fromkeys(problems))
        raise RecipeError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems in {where}:", *lines]))
    return recipe


def _touches(option: str, other: str) -> bool:
    """Whether one of two dotted options lies inside the other, or is the same."""
    return f"{option}.".startswith(f"{other}.") or f"{other}.".startswith(f"{option}.")


def _tuples(value: Any) -> Any:
    """Lists as tuples: strict validation, which keeps '5' and 5 apart, also keeps lists and tuples apart."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _mended(data: dict[str, Any], refused: Sequence[OptionPath]) -> Recipe | None:
    """The recipe with its refused options at their defaults, so that the rest can be checked as well."""
    if () in refused:
        return None

    def without(value: Any, path: OptionPath) -> Any:
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
