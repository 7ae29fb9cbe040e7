"""What can be wrong with a recipe, said in lines a person can act on.

`textebm.recipe.contradictions` finds options that are fine alone but not together.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from textebm.errors import did_you_mean
from textebm.recipe.implementation import PATTERN
from textebm.recipe.options import Path, annotation_at, item_of, kind_in_words, option_paths, section_of, without_none
from textebm.recipe.removed import removal
from textebm.recipe.schema import NAME_PATTERN

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


# --- what the schema refuses ------------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    """``heads.0.name``"""
    return ".".join(str(key) for key in path)


def _shown(value: Any) -> str:
    """A value as an error message quotes it: short, with its kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {value if len(value) <= 40 else value[:40] + '…'!r}"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value)[:40]


def _unknown(path: Path) -> str:
    """The option does not exist; where is one of that name, or of nearly that name?"""
    if message := removal(path):
        return message
    *parent, name = path
    section = section_of(annotation_at(tuple(parent)))
    known = section.model_fields if section else ()
    elsewhere = [option for option, _ in option_paths() if option.rpartition(".")[2] == name]
    if elsewhere and len(elsewhere) <= 3:
        return f"unknown option; did you mean {' or '.join(map(repr, elsewhere))}? Known: {', '.join(sorted(known))}"
    return f"unknown option{did_you_mean(str(name), known)}"


def _line(error: ErrorDetails) -> str:
    """One pydantic error as a line: what was expected, what came."""
    path, kind, value, context = error["loc"], error["type"], error["input"], error.get("ctx", {})
    annotation = annotation_at(path)
    came = f"got {_shown(value)}"
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return f"is missing; expected {kind_in_words(annotation)}"
    if kind == "literal_error":
        choices = [str(choice) for choice in get_args(without_none(annotation))]
        if isinstance(value, str):
            return f"unknown value {value[:40]!r}{did_you_mean(value, choices)}"
        return f"expected one of {', '.join(choices)}; {came}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, {came}"
    if kind == "finite_number":
        return f"must be a finite number, {came}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} item(s), got {context['actual_length']}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == PATTERN:
        return f"expected package.module:Class, {came}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        return f"must be a plain name (letters, digits, '_', '-' and '.', starting with a letter or digit), {came}"
    if annotation is not None and kind.endswith(("_type", "_parsing", "_from_float", "_size")):
        hint = ""
        if without_none(annotation) is str and isinstance(value, int | float):
            hint = "; put it in quotes"
        elif item_of(annotation) is str and isinstance(value, str):
            hint = f"; write [{value[:40]}]"
        return f"expected {kind_in_words(annotation)}, {came}{hint}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, {came}"


def explain(error: ValidationError) -> list[str]:
    """A line for each thing that the schema refuses."""
    return [f"{dotted(each['loc']) or 'recipe'}: {_line(each)}" for each in error.errors(include_url=False)]
