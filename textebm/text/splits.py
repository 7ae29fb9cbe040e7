"""Which rows of a file become validation and test, and the order of a label's classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from textebm.errors import CorpusError
from textebm.text.shuffle import LARGE, Shuffle

MIN_SPLIT = 2  # sentences: a split of one has no spread
CHUNK = 2000


def draw_splits(n: int, absent: list[str], seed: int, large: int = LARGE) -> Iterator[str]:
    """Which split each of *n* training rows goes to: 5 %, at least two, to each of the *absent* ones."""
    share = max(MIN_SPLIT, n // 20)
    names = [*absent, "train"]
    if n <= large:
        drawn = np.full(n, len(absent))
        order = np.random.default_rng(seed).permutation(n)
        for number in range(len(absent)):
            drawn[order[number * share : (number + 1) * share]] = number
        return (names[number] for number in drawn)
    order_of = Shuffle(n, seed)
    places = (order_of[np.arange(start, min(start + CHUNK, n))] for start in range(0, n, CHUNK))
    return (names[number] for chunk in places for number in np.minimum(chunk // share, len(absent)))


def draw_groups(groups: Sequence[str], absent: list[str], seed: int) -> Iterator[str]:
    """The same with every row of a group in one split: groups are drawn until a split has its 5 %."""
    sizes = Counter(groups)
    if len(sizes) <= len(absent):
        raise CorpusError(
            f"data.group_column: {len(sizes)} groups cannot be divided among {len(absent) + 1} splits; give the split "
            "files, or another column"
        )
    share, names = max(MIN_SPLIT, len(groups) // 20), sorted(sizes)
    order = iter(np.random.default_rng(seed).permutation(len(names)))
    split_of: dict[str, str] = {}
    for number, split in enumerate(absent):
        filled = 0
        while filled < share and len(names) - len(split_of) > len(absent) - number:
            name = names[next(order)]
            split_of[name] = split
            filled += sizes[name]
    return (split_of.get(name, "train") for name in groups)


NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def sort_labels(names: Iterable[str]) -> list[str]:
    """By value where all are numbers, else by code point; the same order for the same names in any order."""
    ordered = sorted(names)
    return sorted(ordered, key=float) if all(NUMBER.fullmatch(name) for name in ordered) else ordered


def named_classes(column: str, values: list[str], names: list[str] | None) -> list[str]:
    """The names of a column's classes. Raises CorpusError where there are not as many, or two are the same."""
    if names is None:
        return values
    if len(names) != len(values) or len(set(names)) != len(names):
        raise CorpusError(
            f"data.class_names: {len(names)} names ({', '.join(names)}) for the {len(values)} classes of {column!r} "
            f"({', '.join(values[:20])}); give a different one for each, in this order"
        )
    return names
