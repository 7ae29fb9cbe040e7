"""YAML for recipes: plain data in and out, and nothing else.

Reading differs from ``yaml.safe_load`` on purpose. Scalars follow YAML 1.2, because 1.1 turns ``1e-4`` into text and
``mixed_precision: no`` into false. Keys must be unique. Nodes are counted *after* aliases are expanded, so an alias
bomb is refused rather than built. Tags that would make objects do not exist here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from textebm.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 30
MAX_DIGITS = 15  # beyond 2^53 a number is no longer the same in JSON, and no option means anything there

_REFUSED = object()  # stands where a value was complained about, and is left out: one mistake, one message

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _TooMuch(yaml.YAMLError):
    """The document has more nodes, or nests deeper, than any recipe needs."""


class _Reader(yaml.SafeLoader):
    """The safe loader's parser with YAML 1.2 scalars and a bound on what it composes."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.num_nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.num_nodes += 1
        self.depth += 1
        if self.num_nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise _TooMuch
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Writer(yaml.SafeDumper):
    """Quotes text that YAML 1.1 *or* 1.2 would read as something else."""

    yaml_implicit_resolvers = {first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes U+0085 and its kin as they are, and reads them back as line breaks
    return writer.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Writer.add_representer(str, _text)
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Reader, _Writer):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass
class Reading:
    """What a document holds, and one line for each thing in it that cannot be taken."""

    data: Any = None
    problems: list[str] = field(default_factory=list)


def read_yaml(text: str, where: str) -> Reading:
    """Plain dicts, lists, texts, numbers, booleans and nulls of a document; *where* names it in messages.

    Raises RecipeError when the text is not YAML at all, or is too large or too deep.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RecipeError(f"{where}: larger than {MAX_BYTES // 1000} kB; a recipe is a page of text")
    try:
        reader = _Reader(text)
        try:
            node = reader.get_single_node()
        finally:
            reader.dispose()
        return _Converter(where).read(node)
    except _TooMuch:
        raise RecipeError(
            f"{where}: more than {MAX_NODES} values, or nested deeper than {MAX_DEPTH}, aliases expanded; "
            "a recipe is a page of text"
        ) from None
    except yaml.reader.ReaderError as error:
        raise RecipeError(f"{where}: not YAML: character {error.position} is not printable") from None
    except yaml.MarkedYAMLError as error:
        what = error.problem or error.context or "cannot be parsed"
        raise RecipeError(f"{where}{_place(error.problem_mark or error.context_mark)}: not YAML: {what}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as the escape "\UFFFFFFFF"
        raise RecipeError(f"{where}: not YAML: {error}") from None


def write_yaml(data: Any, *, flow: bool = False) -> str:
    """The document of plain *data*, keys in their order; read_yaml gives back equal data. flow: lists as ``[1, 2]``."""
    style = None if flow else False
    return yaml.dump(data, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120, default_flow_style=style)


def _place(mark: yaml.Mark | None) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


class _Converter:
    """Nodes to plain data. Every alias is copied, so no two places of the result share a list or a dict."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []
        self.num_nodes = 0

    def read(self, node: yaml.Node | None) -> Reading:
        data = None if node is None else self.convert(node, 0)
        return Reading(None if data is _REFUSED else data, self.problems)

    def problem(self, node: yaml.Node, text: str) -> Any:
        self.problems.append(f"{self.where}{_place(node.start_mark)}: {text}")
        return _REFUSED

    def convert(self, node: yaml.Node, depth: int) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _TooMuch
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            items = [self.convert(item, depth + 1) for item in node.value]
            return _REFUSED if any(item is _REFUSED for item in items) else items
        if isinstance(node, yaml.ScalarNode) and kind in (*_SCALARS, "str"):
            return self.scalar(node, kind)
        return self.problem(node, f"the tag {node.tag!r} has no place in a recipe")

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, "an option's name must be a plain word")
                continue
            name = self.scalar(key, "str")
            if name is _REFUSED:
                continue
            if name in lines:
                self.problem(key, f"{name!r} is given twice (first in line {lines[name]}); keep one")
            lines.setdefault(name, key.start_mark.line + 1)
            converted = self.convert(value, depth + 1)
            if converted is not _REFUSED:
                result[name] = converted
        return result

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text: str = node.value
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind in ("int", "float"):
                return self.number(node, text.replace("_", ""))
            text.encode("utf-8")  # "\ud800" is legal YAML, but no text
            return text
        except (KeyError, ValueError):
            return self.problem(node, f"{text[:40]!r} is not a valid {kind}")

    def number(self, node: yaml.ScalarNode, text: str) -> Any:
        if text.lstrip("+-").isdecimal():
            if len(text.lstrip("+-0")) > MAX_DIGITS:
                return self.problem(node, f"the number {text[:20]}… has more than {MAX_DIGITS} digits")
            return int(text)
        # float() knows "inf" and "nan" without YAML's dot
        value = float(text.replace(".", "") if text.lower().endswith(("inf", "nan")) else text)
        # 1e4 and 2.0 are whole numbers to people; a number option takes either
        return int(value) if value.is_integer() and abs(value) < 10**MAX_DIGITS else value
