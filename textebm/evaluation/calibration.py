"""Ask for p: what share does a judge that had no part in the steering find? By head, and for two heads at once.

The expected calibration error is the mean distance between the share asked and the share found, over `ASKED` and the
classes, equally often.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any

from textebm.evaluation import control
from textebm.evaluation.state import EvaluationState

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

ASKED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
CLASSES = 8  # of a head, or pairs of classes of two: with more it is left out, as each has pilot draws of its own


def add_calibration(state: EvaluationState, encoding: Encoding) -> None:
    heads = {head: len(state.model.heads[head].classes) for head in state.labelled}
    for head, classes in heads.items():
        if classes <= CLASSES:
            _add(state, head, classes, lambda n, head=head, **asked: _accuracy(state, head, n, asked))
    for first, second in combinations(heads, 2):
        if (pairs := heads[first] * heads[second]) <= CLASSES:
            judges = {head: state.judge(head) for head in (first, second)}
            _add(
                state,
                f"{first}_{second}",
                pairs,
                lambda n, judges=judges, **asked: (
                    control.composition_accuracy(
                        state.model, judges, n, seed=state.seed, **{**state.decoding, **asked}
                    ).joint
                ),
            )


def _add(state: EvaluationState, name: str, classes: int, judged: Callable[..., float]) -> None:
    """The share that *judged* finds for each share asked, n sentences a class, and the mean distance."""
    state.progress(f"calibration of {name}")
    with state.result.noting(f"calibration of {name}"):
        n, errors = state.effort.samples_per_class, []
        for asked in ASKED:
            share = judged(n, strength="auto", confidence=asked)
            state.result.add(f"judged_{asked:g}_{name}", share, n * classes)
            errors.append(abs(share - asked))
        state.result.add(f"calibration_error_{name}", math.fsum(errors) / len(errors), n * classes * len(ASKED))


def _accuracy(state: EvaluationState, head: str, n: int, asked: dict[str, Any]) -> float:
    return control.control_accuracy(
        state.model, head, state.judge(head), n, seed=state.seed, **{**state.decoding, **asked}
    ).accuracy
