"""Rewriting real sentences into the other class: does it have it, and what is left of the sentence?

By the least change that is read (`textebm.use.editing`; at several prices of a changed word), and written anew from
every second level of noise. For heads of two classes. BLEU is corpus BLEU of tokenised text, as for reconstructions: to
the input, and to the human rewrites where the corpus has them (column `reference`). Beside it what copying the input
and the humans get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textebm.errors import TextEBMError
from textebm.evaluation import control
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.reconstruction import reconstruction_bleu
from textebm.evaluation.state import EvaluationState

if TYPE_CHECKING:
    from textebm.use.reading import Encoding

KEPT = 10
KEEPS = (0.0, 3.0, 10.0)  # beside the default: nats that another word must be likelier by


def add_edits(state: EvaluationState, encoding: Encoding) -> None:
    heads = [head for head in state.labelled if len(state.model.heads[head].classes) == 2]
    for head in heads:
        with state.result.noting(f"edits of {head}"):
            _add_edits(state, head, "" if head == heads[0] else f"_{head}")


def _add_edits(state: EvaluationState, head: str, suffix: str) -> None:
    state.progress(f"edits of {head}")
    judge, result = state.judge(head), state.result
    places, values = state.known(state.labelled[head])
    if not len(places):
        raise UndefinedMetricError(f"no sentence of {result.split} has a label")
    n, classes = len(places), state.model.heads[head].classes
    texts, target = [state.texts[i] for i in places], [classes[1 - value] for value in values]
    references = [state.data["reference"][i] for i in places] if "reference" in state.data.features else None
    if references is not None and not all(isinstance(text, str) and text.strip() for text in references):
        references = None
        result.note("human rewrites: left out, some sentences have none")
    if references is not None:
        result.add(f"edit_human_accuracy{suffix}", control.accuracy(judge.predict(references), target), n)
        result.add(f"edit_human_input_bleu{suffix}", reconstruction_bleu(references, texts).score, n)
        result.add(f"edit_copy_reference_bleu{suffix}", reconstruction_bleu(texts, references).score, n)

    def add(way: str, **options: Any) -> list[str]:
        edited = state.model.edit(texts, {head: target}, seed=state.seed, **options)
        result.add(f"edit_accuracy{suffix}{way}", control.accuracy(judge.predict(edited), target), n)
        result.add(f"edit_input_bleu{suffix}{way}", reconstruction_bleu(edited, texts).score, n)
        if references is not None:
            result.add(f"edit_reference_bleu{suffix}{way}", reconstruction_bleu(edited, references).score, n)
        return edited

    pairs = zip(texts[:KEPT], add("")[:KEPT], strict=True)
    result.samples[f"edited to the other {head}"] = [f"{before} -> {after}" for before, after in pairs]
    for keep in KEEPS:
        add(f"_keep{keep:g}", keep=keep)
    for level in _levels(state, texts[:1], head, target[:1]):
        add(f"_level{level}", level=level, decoding=state.effort.decoding)


def _levels(state: EvaluationState, text: list[str], head: str, target: list[str]) -> list[int]:
    """Every second level that this model can edit at: none where its prior has no ladder of noise."""
    levels: list[int] = []
    for level in range(2, 65, 2):
        try:
            state.model.edit(text, {head: target}, level=level, seed=state.seed)
        except TextEBMError:
            break
        levels.append(level)
    return levels
