"""The schema seen as a tree of options: where each lies, what it takes and what it is for."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from textebm.recipe.schema import Part, Recipe
from textebm.recipe.yaml_text import write_yaml

Path = tuple[str | int, ...]

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LISTED = {int: "whole numbers", str: "text", tuple[str, ...]: "lists of text"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class Option(NamedTuple):
    """name: dotted; kind: what it takes, with its range; when: when to touch it."""

    name: str
    kind: str
    default: str
    description: str
    when: str


def without_none(annotation: Any) -> Any:
    """``int`` of ``int | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [each for each in get_args(annotation) if each is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def section_of(annotation: Any) -> type[Part] | None:
    """The section class of an annotation, or None where it is a plain option."""
    kind = without_none(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, Part) else None


def item_of(annotation: Any) -> Any:
    """``X`` of ``tuple[X, ...]`` (also of ``tuple[Annotated[X, …], ...]``), else None."""
    kind = without_none(annotation)
    item = get_args(kind)[0] if get_origin(kind) is tuple else None
    return get_args(item)[0] if get_origin(item) is Annotated else item


def annotation_at(path: Path) -> Any:
    """The annotation of the option at *path*; None when the schema has no such place."""
    kind: Any = Recipe
    for key in path:
        if isinstance(key, int):
            kind = item_of(kind)
        else:
            section = section_of(kind)
            field = section.model_fields.get(key) if section else None
            kind = field.annotation if field else None
        if kind is None:
            return None
    return kind


def option_paths(section: type[Part] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted path, pydantic field) of every option below *section*; items of a list are written ``heads.0.name``."""
    for name, field in section.model_fields.items():
        item = item_of(field.annotation)
        inner = section_of(field.annotation) or section_of(item)
        if inner is None:
            yield prefix + name, field
        else:
            yield from option_paths(inner, f"{prefix}{name}." + ("0." if item else ""))


def kind_in_words(annotation: Any) -> str:
    """What an option takes, for people: ``a whole number or null``."""
    kind = without_none(annotation)
    if section_of(kind):
        words = "a section (option: value)"
    elif item := item_of(kind):
        words = "a list" if section_of(item) else f"a list of {_LISTED.get(item, item)}"
    elif get_origin(kind) is Literal:
        words = " | ".join(str(choice) for choice in get_args(kind))
    else:
        words = _KINDS.get(kind, str(kind))
    return words if kind is annotation else f"{words} or null"


def _bounds(field: FieldInfo) -> str:
    """``≥ 0, < 1`` of an option's constraints."""
    bounds = [
        f"{sign} {getattr(each, key)}" for each in field.metadata for key, sign in _SIGNS.items() if hasattr(each, key)
    ]
    return ", ".join(bounds)


def _described(name: str, field: FieldInfo) -> Option:
    kind, bounds = kind_in_words(field.annotation), _bounds(field)
    if bounds:
        kind, null, _ = kind.partition(" or null")
        kind += f" {bounds}{null}"
    default = "(required)" if field.default is PydanticUndefined else write_yaml(plain(field.default), flow=True)
    extra = field.json_schema_extra
    when = str(extra.get("when", "")) if isinstance(extra, dict) else ""
    return Option(name, kind, default.removesuffix("...\n").strip(), field.description or "", when)


def describe() -> list[Option]:
    """Every option with its default, in the schema's order. Items of a list are written ``heads.0.name``."""
    return [_described(name, field) for name, field in option_paths()]


def plain(value: Any) -> Any:
    """A copy in dicts and lists only."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def options_page() -> str:
    """Every option as a page of Markdown, a table a section: docs/reference/options.md."""
    pages: dict[str, list[Option]] = {}
    for option in describe():
        section, dot, _ = option.name.rpartition(".")
        pages.setdefault(section.replace(".0", "") if dot else "recipe", []).append(option)
    lines = [
        "# Recipe options",
        "",
        "Written by `textebm recipes options --markdown`; do not edit. An option is set in a recipe's file or on the "
        "command line (`textebm train yelp latent.dim=64`); items of a list are counted from 0 (`heads.0.classes=50`). "
        "Most recipes touch few of them.",
    ]
    for section, options in pages.items():
        lines += ["", f"## {section}", "", "| option | takes | default | what it does | touch it when |"]
        lines += ["|---|---|---|---|---|"]
        for name, kind, default, what, when in options:
            told = [text.replace("<unk>", "`<unk>`") for text in (what, when)]
            cells = (f"`{name}`", kind, f"`{default}`" if default else "", *told)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
