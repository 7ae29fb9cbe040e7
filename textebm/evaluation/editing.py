"""Rewriting real sentences into the other class: does it have it, and what is left of the sentence?

By the least change that is read (`textebm.use.editing`; at several prices of a changed word), and written anew from
every second level of noise. For heads of two classes. BLEU is corpus BLEU of tokenised text, as for reconstructions: to
the input, and to the human rewrites where the corpus has them (column `reference`). Beside it what copying the input
and the humans get.
"""

from __future__ import annotations

from collections.abc import Sequence

from textebm.errors import TextEBMError
from textebm.evaluation import control
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.reconstruction import reconstruction_bleu
from textebm.evaluation.setting import Setting, judge_of

KEPT = 10
KEEPS = (0.0, 3.0, 10.0)  # beside the default: nats that another word must be likelier by


def measure(run: Setting, encoding: Encoding) -> None:
    heads = [head for head in run.labelled if len(run.model.heads[head].classes) == 2]
    for head in heads:
        try:
            _edit(run, head, "" if head == heads[0] else f"_{head}")
        except UndefinedMetricError as reason:
            run.result.note(f"edits of {head}: left out, {reason}")


def _edit(run: Setting, head: str, suffix: str) -> None:
    run.progress(f"edits of {head}")
    judge, result = judge_of(run, head), run.result
    column, classes = run.model.heads[head].column, run.model.heads[head].classes
    if column not in run.data.features:
        raise UndefinedMetricError(f"{result.split} has no column {column!r}")
    rows = [i for i, value in enumerate(run.data[column]) if value >= 0]
    if not rows:
        raise UndefinedMetricError("no sentence has a label")
    texts = [run.texts[i] for i in rows]
    target = [classes[1 - run.data[column][i]] for i in rows]
    references = [run.data["reference"][i] for i in rows] if "reference" in run.data.features else None
    if references is not None and not all(isinstance(text, str) and text.strip() for text in references):
        references = None
        result.note("human rewrites: left out, some sentences have none")
    if references is not None:
        n = len(rows)
        result.add(f"edit_human_accuracy{suffix}", control.accuracy(judge.predict(references), target), n)
        result.add(f"edit_human_input_bleu{suffix}", reconstruction_bleu(references, texts).score, n)
        result.add(f"edit_copy_reference_bleu{suffix}", reconstruction_bleu(texts, references).score, n)
    edited = run.model.edit(texts, {head: target}, seed=run.seed, decoding=run.effort.decoding)
    _judge_edits(run, edited, texts, references, target, judge, suffix)
    result.samples[f"edited to the other {head}"] = [
        f"{before} -> {after}" for before, after in list(zip(texts, edited, strict=True))[:KEPT]
    ]
    for keep in KEEPS:
        edited = run.model.edit(texts, {head: target}, keep=keep, seed=run.seed, decoding=run.effort.decoding)
        _judge_edits(run, edited, texts, references, target, judge, f"{suffix}_keep{keep:g}")
    for level in _levels(run, texts[:1], head, target[:1]):
        edited = run.model.edit(texts, {head: target}, level=level, seed=run.seed, decoding=run.effort.decoding)
        _judge_edits(run, edited, texts, references, target, judge, f"{suffix}_level{level}")


def _judge_edits(
    run: Setting,
    edited: Sequence[str],
    texts: Sequence[str],
    references: Sequence[str] | None,
    target: Sequence[str],
    judge: control.Judge,
    suffix: str,
) -> None:
    n = len(texts)
    run.result.add(f"edit_accuracy{suffix}", control.accuracy(judge.predict(edited), target), n)
    run.result.add(f"edit_input_bleu{suffix}", reconstruction_bleu(edited, texts).score, n)
    if references is not None:
        run.result.add(f"edit_reference_bleu{suffix}", reconstruction_bleu(edited, references).score, n)


def _levels(run: Setting, text: list[str], head: str, target: list[str]) -> list[int]:
    """Every second level that this model can edit at: none where its prior has no ladder of noise."""
    found = []
    for level in range(2, 65, 2):
        try:
            run.model.edit(text, {head: target}, level=level, seed=run.seed)
        except TextEBMError:
            break
        found.append(level)
    return found
