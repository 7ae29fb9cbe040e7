"""Numbers and names that a user gives a model: checked at the door, so that a wrong one is one clear error."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, TypeVar

from textebm.errors import TextEBMError

T = TypeVar("T")
LEAST = {  # of whole numbers
    **dict.fromkeys(("n", "seed", "refine", "top_k", "level", "burn_in", "q_steps"), 0),
    **dict.fromkeys(("batch_size", "steps_factor", "num_beams", "max_tokens", "resample_from_layer"), 1),
    **dict.fromkeys(("draws", "temperatures", "chains", "steps"), 1),
}
REAL = ("strength", "like_strength", "temperature", "top_p", "confidence", "keep")
NAMES = ("head", "decoding", "method", "a", "b")
MOST = 2**63 - 1


def checked(methods: type[T]) -> type[T]:
    """A class whose public methods refuse, with a TextEBMError, arguments of the wrong type for their names.

    None stays None where it is the default. What a number may be beyond that is the method's to say.
    """
    for name, method in vars(methods).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(methods, name, _checking(method))
    return methods


def _checking(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)
    optional = {name for name, each in signature.parameters.items() if each.default is None}
    known = {name for name in signature.parameters if name in LEAST or name in REAL or name in NAMES}

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        for name, value in bound.arguments.items():
            if name in known and not (value is None and name in optional):
                bound.arguments[name] = _argument(name, value)
        return method(*bound.args, **bound.kwargs)

    return call


def _argument(name: str, value: Any) -> Any:
    """The value, if it is of the kind that arguments of this name are."""
    if name in NAMES:
        if isinstance(value, str):
            return value
        raise TextEBMError(f"{name}: expected text, got {_short(value)}")
    if name in REAL:
        if name == "strength" and isinstance(value, str) and value == "auto":
            return value
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise TextEBMError(f"{name} must be a finite number, got {_short(value)}")
    try:
        whole = operator.index(value)
    except TypeError:
        raise TextEBMError(f"{name} must be a whole number, got {_short(value)}") from None
    if isinstance(value, bool) or not LEAST[name] <= whole <= MOST:
        raise TextEBMError(f"{name} must be a whole number from {LEAST[name]} up, got {_short(value)}")
    return whole


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) < 60 else type(value).__name__
