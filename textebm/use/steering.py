"""What is asked of a draw, as one value: symbols, examples to be like, directions, and the turns to answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.model.latent_text_model import Attribute, LatentTextModel, SymbolHead
from textebm.prior.condition import Condition, Tilt
from textebm.use.contexts import Contexts, DialogueContext, read_contexts
from textebm.use.reading import views

# A class by name or number; "!name", any other; a set of these or "a,b", any of them; or a sequence, one for each draw.
SymbolValue = "str | int | Others | frozenset[str | int] | set[str | int]"
SymbolRequest = Mapping[str, Any]


@dataclass(frozen=True)
class Others:
    """All classes of a head but those that *value* means."""

    value: Any


@dataclass(frozen=True)
class Direction:
    """A weighted sum of readings, Σ w log p(y ∈ S | u, t): what draws are tilted by, as a value.

    ``2 * d``, ``d + e``; ``-d`` asks for the other classes, so that the tilt stays bounded and no draw leaves the data.
    terms: (weight, a symbol's name or an `Attribute`, the classes asked for).
    """

    terms: tuple[tuple[float, str | Attribute, Any], ...]

    def __mul__(self, weight: float) -> Direction:
        if weight < 0:
            return -self * -weight
        return Direction(tuple((weight * each, reading, value) for each, reading, value in self.terms))

    __rmul__ = __mul__

    def __add__(self, other: Direction) -> Direction:
        return Direction(self.terms + other.terms)

    def __neg__(self) -> Direction:
        return Direction(tuple((weight, reading, Others(value)) for weight, reading, value in self.terms))

    def __sub__(self, other: Direction) -> Direction:
        return self + -other


@dataclass(frozen=True)
class Steering:
    """What is asked of n draws.

    symbols: head or attribute -> what it shall be (`SymbolValue`), for all draws or, in a sequence, for each; several
    compose as a product of experts. strength: how strongly log p(y|z) tilts the prior (1 = Bayes), None for the model's
    own; "auto" is found by `writing.generate` (`textebm.use.calibration`). like: example sentences; like_strength as
    strength. contexts: for models of dialogues, what each draw answers. direction: a tilt beside the symbols. drawn:
    the class of each draw where several may be (`one_class_each`); the tilt asks for it instead of any of them.
    """

    symbols: SymbolRequest | None = None
    strength: float | Literal["auto"] | None = None
    like: Sequence[str] = ()
    like_strength: float | None = None
    contexts: Contexts | None = None
    direction: Direction | None = None
    drawn: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def rows(self, rows: Sequence[int]) -> Steering:
        """What is asked of these of the draws."""
        given = (self.symbols or {}).items()
        symbols = {name: value if _is_single(value) else [value[i] for i in rows] for name, value in given}
        contexts = None if self.contexts is None else [self.contexts[i] for i in rows]
        drawn = {name: [classes[i] for i in rows] for name, classes in self.drawn.items()}
        return replace(self, symbols=symbols, contexts=contexts, drawn=drawn)

    def repeated(self, n: int, contexts: Contexts) -> Steering:
        """The same for n draws of each of the rows, which answer *contexts*."""
        given = (self.symbols or {}).items()
        symbols = {name: value if _is_single(value) else [v for v in value for _ in range(n)] for name, value in given}
        return replace(self, symbols=symbols, contexts=contexts)


SINGLE = (str, int, Others, set, frozenset)  # what is a value for all draws, and no sequence of one for each


def _is_single(value: Any) -> bool:
    return isinstance(value, SINGLE)


def classes_meant(head: SymbolHead, value: Any) -> frozenset[int]:
    """The numbers of the classes that *value* means. Raises TextEBMError for one that does not exist, and for none."""
    if isinstance(value, set | frozenset):
        meant = frozenset[int]().union(*(classes_meant(head, each) for each in value))
    elif isinstance(value, Others):
        meant = frozenset(range(len(head.classes))) - classes_meant(head, value.value)
    elif isinstance(value, str) and value not in head.classes and value.startswith("!"):
        return classes_meant(head, Others(value[1:]))
    elif isinstance(value, str) and value not in head.classes and "," in value:
        return classes_meant(head, frozenset(each.strip() for each in value.split(",")))
    else:
        meant = frozenset([head.index(value)])
    if not meant:
        raise TextEBMError(f"symbol {head.name!r}: nothing is left to be; its classes are {', '.join(head.classes)}")
    return meant


def asked_of(model: LatentTextModel, symbols: SymbolRequest | None, n: int) -> dict[str, Tensor]:
    """What is asked of n draws by head or attribute: a class (n,) where one is meant, else the classes (n, K) that may
    be. Raises TextEBMError for what the model does not know."""
    asked = {}
    for name, value in (symbols or {}).items():
        head = model.head(name)
        if _is_single(value):
            meant = [classes_meant(head, value)] * n  # answered even when n is 0
        else:
            meant = [classes_meant(head, each) for each in value]
        if len(meant) != n:
            raise TextEBMError(f"symbol {name!r}: expected one class or {n} of them, got {len(meant)}")
        asked[name] = _as_tensor(meant, len(head.classes), model.device)
    return asked


def one_class_each(model: LatentTextModel, steering: Steering, n: int, seed: int) -> Steering:
    """The same with one class drawn for each of n rows that may be several, so that they are draws of the mixture

        p(z | y ∈ S) = Σ_{y ∈ S} p(y) p(z | y) / p(S)

    p(y): the share of training's sentences (`SymbolHead.shares`), even for a taught head where no one has counted them.
    Attributes, and codes that were not counted, stay as they are: the tilt log p(y ∈ S | z) has the free draws' shares.
    Systematic sampling: n rows of one S meet the shares to within a row.
    """
    drawn = dict(steering.drawn)
    for name, may in asked_of(model, steering.symbols, n).items():
        head = model.heads.get(name)
        if name in drawn or may.dtype != torch.bool or head is None or not (head.column or head.shares):
            continue
        allowed = may.cpu().double()
        weights = allowed * torch.tensor(head.shares or [1.0] * allowed.shape[1]).double()
        weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, allowed)
        generator = torch.Generator().manual_seed(seed)
        places = (torch.randperm(n, generator=generator) + torch.rand(1, generator=generator)) / n
        rising = weights.cumsum(-1)
        chosen = (rising <= places[:, None] * rising[:, -1:]).sum(-1)
        drawn[name] = torch.where(may.cpu().all(-1), -1, chosen).tolist()  # any class: nothing is asked
    return replace(steering, drawn=drawn)


def _as_tensor(meant: Sequence[frozenset[int]], size: int, device: torch.device) -> Tensor:
    if all(len(each) == 1 for each in meant):
        return torch.tensor([next(iter(each)) for each in meant], dtype=torch.long, device=device)
    allowed = torch.zeros(len(meant), size, dtype=torch.bool)
    for row, each in enumerate(meant):
        allowed[row, sorted(each)] = True
    return allowed.to(device)


def condition_of(
    model: LatentTextModel, steering: Steering, n: int, context: DialogueContext | None = None
) -> tuple[Condition, DialogueContext | None]:
    """The condition of n draws and their contexts, which are read here unless *context* has them. Raises TextEBMError
    for what the model does not know."""
    if steering.strength == "auto":
        raise TextEBMError("strength='auto' is found for generate and respond alone; give a number here")
    for option, number in (("strength", steering.strength), ("like_strength", steering.like_strength)):
        if number is not None and not 0 <= number < math.inf:
            raise TextEBMError(f"{option} must be a number from 0 up, got {number}")
    if context is None:
        context = read_contexts(model, steering.contexts, n)
    strength = model.prior.strength if steering.strength is None else steering.strength
    asked = asked_of(model, steering.symbols, n)
    asked |= {name: torch.tensor(classes, device=model.device) for name, classes in steering.drawn.items()}
    heads = {name: each for name, each in asked.items() if name in model.heads}
    tilts = [_tilt(model, model.attributes[name], each, strength) for name, each in asked.items() if name not in heads]
    weights = dict[str, float]()
    for weight, reading, value in steering.direction.terms if steering.direction is not None else ():
        attribute = reading if isinstance(reading, Attribute) else model.attributes.get(reading)
        head = attribute.head if attribute is not None else model.head(str(reading))
        classes = _as_tensor([classes_meant(head, value)] * n, len(head.classes), model.device)
        if attribute is not None:
            tilts.append(_tilt(model, attribute, classes, weight))
        elif head.name in heads:
            raise TextEBMError(
                f"symbol {head.name!r} is asked for twice: in symbols and direction, or in two directions"
            )
        else:
            heads[head.name], weights[head.name] = classes, weight
    examples = None
    if len(steering.like):
        examples = views(model, steering.like).sum(0).to(model.device).expand(n, -1)
    condition = Condition(
        heads,
        strength,
        examples,
        model.prior.like_strength if steering.like_strength is None else steering.like_strength,
        None if context is None else context.vectors,
        tuple(tilts),
        weights,
    )
    return condition, context


def _tilt(model: LatentTextModel, attribute: Attribute, asked: Tensor, weight: float) -> Tilt:
    return Tilt(attribute.slopes.to(model.device), attribute.offsets.to(model.device), asked, weight)
