"""Options that recipes had once: what to say to a recipe that names one.

A saved run or model writes every option of its day. So an option whose value changed nothing is dropped without a word;
any other value is refused with a sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Removed(NamedTuple):
    """neutral: the values under which today's program does the same. message: for a recipe that has another one."""

    neutral: tuple[Any, ...]
    message: str


PROTOCOL = "was removed, so that perplexities can be compared; delete the line, the language model has"

# Dotted option -> what became of it; items of a list are written `heads.*.name`.
REMOVED: dict[str, Removed] = {
    "prior.fused_chains": Removed(
        (False, True), "was removed: a chain has no kernel of its own any more; delete the line, draws stay the same"
    ),
    "training.workers": Removed(
        tuple(range(65)), "was removed: a thread prepares every batch in time; delete the line, batches stay the same"
    ),
    "objective.cluster_sampling": Removed(
        (False,), "was removed: it trained a model on another distribution than it was measured on; delete the line"
    ),
    "prior.view_size": Removed((32,), "was removed: views have 32 dimensions; train a model anew that has others"),
    "objective.cluster_whiten": Removed(
        (False,), "was removed: whitening loses what clusters should find; delete the line"
    ),
    "objective.contrastive_word_dropout": Removed((0.2,), "was removed: it is .2; delete the line"),
    "objective.contrastive_negatives": Removed((16,), "was removed: there are 16 in a batch; delete the line"),
    "evaluation.language_model.num_layers": Removed((1,), f"{PROTOCOL}: one layer"),
    "evaluation.language_model.dropout": Removed((0.3,), f"{PROTOCOL}: a dropout of .3"),
    "evaluation.language_model.batch_size": Removed((64,), f"{PROTOCOL}: batches of 64"),
}


def removal(path: tuple[str | int, ...]) -> str | None:
    """The message for a recipe that names the option at *path*, or None where there never was such an option."""
    option = REMOVED.get(".".join("*" if isinstance(key, int) else key for key in path))
    return option.message if option else None


def without_removed(data: Any) -> Any:
    """A recipe's plain data without the removed options that stand at a neutral value."""
    for option, (neutral, _) in REMOVED.items():
        data = _without(data, option.split("."), neutral)
    return data


def _without(data: Any, keys: list[str], neutral: tuple[Any, ...]) -> Any:
    """A copy where the option at *keys* is left out if it is neutral; *data* itself where there is nothing to do."""
    key, *rest = keys
    if key == "*" and isinstance(data, list | tuple):
        return type(data)(_without(item, rest, neutral) for item in data)
    if not isinstance(data, Mapping) or key not in data:
        return data
    if rest:
        return {**data, key: _without(data[key], rest, neutral)}
    value = tuple(data[key]) if isinstance(data[key], list) else data[key]
    return {name: each for name, each in data.items() if name != key} if value in neutral else data
