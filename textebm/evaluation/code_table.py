"""The scores of one file of codes, as `textebm codes score` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from textebm.errors import CorpusError
from textebm.evaluation.assignments import BATCHES, Assignments, Match, score_assignments
from textebm.evaluation.code_baselines import BASELINES, Codes
from textebm.evaluation.code_scores import CodeScores, score_codes, shuffled
from textebm.evaluation.metric import UndefinedMetricError

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


@dataclass(frozen=True)
class Scored:
    """labels: of each label column. words: the scores without labels of the codes, of the same codes in random order,
    and of each baseline with as many codes; naming, held_out: the sentences that gave the words and those that were
    measured."""

    codes: int
    labels: Mapping[str, Assignments]
    words: Mapping[str, CodeScores]
    naming: int
    held_out: int
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def tables(self) -> list[Table]:
        """What a terminal shows: one table a label column, and one of the words."""
        found = [_label_table(name, scores) for name, scores in self.labels.items()]
        if self.words:
            names = [field.name for field in fields(CodeScores)]
            rows = [[name, *(_shown(getattr(scores, each)) for each in names)] for name, scores in self.words.items()]
            title = (
                f"{self.codes} codes without labels: words of {self.naming:,} sentences, measured on {self.held_out:,}"
            )
            found.append((title, ["", *(name.replace("_", " ") for name in names)], rows))
        return found


def score_table(
    codes: Sequence[str | None],
    labels: Mapping[str, Sequence[str | None]],
    texts: Sequence[str | None] | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    seed: int = 0,
) -> Scored:
    """Score *codes* (n,) against each label column, and by the words of *texts*; None is missing.

    For the scores without labels a random half of the sentences gives each code its words and trains the baselines; the
    other half is measured. Raises CorpusError where there are no codes.
    """
    notes = []
    kept = [row for row, code in enumerate(codes) if code is not None]
    if len(kept) < len(codes):
        notes.append(f"{len(codes) - len(kept)} of {len(codes)} rows have no code and are left out")
    own = [str(codes[row]) for row in kept]
    known = {name: place for place, name in enumerate(sorted(set(own)))}
    if not known:
        raise CorpusError("the column of codes is empty")
    numbers = np.array([known[name] for name in own], dtype=np.int64)
    matches = {}
    for name, column in labels.items():
        try:
            truth = np.array([column[row] for row in kept], dtype=object)
            matches[name] = score_assignments(numbers, truth, batches=batches, seed=seed)
        except UndefinedMetricError as reason:
            notes.append(f"{name}: left out, {reason}")
    words: dict[str, CodeScores] = {}
    naming, held_out = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if texts is not None:
        order = np.random.default_rng(seed).permutation(len(kept))
        naming, held_out = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        lines = [texts[row] or "" for row in kept]
        halves = [lines[i] for i in naming.tolist()], [lines[i] for i in held_out.tolist()]
        first, second = numbers[naming], numbers[held_out]
        candidates: dict[str, Any] = {
            "these codes": lambda: (first, second),
            "in random order": lambda: shuffled(first, second, seed),
            **{name: _baseline(name, halves, len(known), seed) for name in BASELINES},
        }
        for name, make in candidates.items():
            try:
                one, other = make()
                words[name] = score_codes((halves[0], one), (halves[1], other), seed=seed)
                if (other < 0).any():
                    notes.append(f"{name}: {(other < 0).mean():.1%} of the sentences have no code")
            except UndefinedMetricError as reason:
                notes.append(f"{name}: left out, {reason}")
    return Scored(len(known), matches, words, len(naming), len(held_out), notes)


def _baseline(name: str, halves: tuple[list[str], list[str]], count: int, seed: int) -> Any:
    def make() -> tuple[Codes, Codes]:
        return BASELINES[name](*halves, count, seed)

    return make


def _label_table(name: str, scores: Assignments) -> Table:
    names = [field.name for field in fields(Match)]
    rows = []
    for title, own, random in (
        ("all", scores.pooled, scores.random_pooled),
        *((f"batches of {size}", each, scores.random_batches[size]) for size, each in scores.batches.items()),
    ):
        for kind, match in (("", own), (", random codes", random)):
            rows.append([title + kind, *(_shown(getattr(match, each)) for each in names)])
    title = f"{name}: {scores.n:,} sentences, {scores.codes} codes, {scores.classes} classes"
    return title, ["", *(each.replace("_", " ") for each in names)], rows


def _shown(value: float) -> str:
    return f"{value:.3f}"
