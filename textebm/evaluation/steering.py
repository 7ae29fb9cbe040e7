"""What control costs: accuracy beside fluency and diversity, over strengths and with sentences read back, and two rows
that steer nothing.

The rows beside it: real sentences of the class, and a language model of that class's training sentences alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from textebm.evaluation import control, fluency, language
from textebm.evaluation.language_model import LanguageModel
from textebm.evaluation.metric import UndefinedMetricError
from textebm.evaluation.protocols import Encoding
from textebm.evaluation.setting import Setting, judge_of

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
TIMED = 150  # samples, as published
CHECKED = 0.95  # probability that the encoder must give what was asked
# Its words drawn, at strength 1. Chosen on Yelp by the judge's accuracy, self-BLEU and forward perplexity.
DIVERSE, DIVERSE_TEMPERATURE = 0.995, 0.89


def measure(run: Setting, encoding: Encoding) -> None:
    for head in run.labelled:
        run.progress(f"steering of {head}")
        try:
            judge, model = judge_of(run, head), language.train_model(run)
        except UndefinedMetricError as reason:
            run.result.note(f"steering of {head}: left out, {reason}")
            continue
        _own(run, head, judge, model)
        _checked(run, head, judge, model)
        _beside(run, head, judge, model)


def _own(run: Setting, head: str, judge: control.Judge, model: LanguageModel) -> None:
    """The default strength with its time, then the sweep."""
    classes, began = run.model.heads[head].classes, time.perf_counter()
    run.write(TIMED, {head: classes[-1]}, seed=run.seed)
    run.result.add(f"control_seconds_{head}", time.perf_counter() - began, TIMED)
    for strength in (None, *STRENGTHS):
        found = control.control_accuracy(
            run.model, head, judge, run.samples_per_class, strength=strength, seed=run.seed, writer=run.write
        )
        if strength is None:
            run.result.measure(
                f"control_forward_ppl_{head}", found.n, language.forward_perplexity, model, _flat(found.texts)
            )
            continue
        suffix = f"{head}_strength{strength:g}"
        run.result.add(f"sweep_accuracy_{suffix}", found.accuracy, found.n)
        _fluency(run, f"sweep_{{}}_{suffix}", found.texts, model)


def _checked(run: Setting, head: str, judge: control.Judge, model: LanguageModel) -> None:
    """What the model's own encoder does not read as asked drawn again, at both ends of a trade: the typical sentences
    of the default strength, and sentences as diverse as real ones."""
    ways: dict[str, tuple[float | None, Callable[..., list[str]]]] = {
        "checked": (None, partial(run.write, confidence=CHECKED)),
        "diverse": (1.0, partial(run.write, confidence=DIVERSE, temperature=DIVERSE_TEMPERATURE)),
    }
    for name, (strength, writer) in ways.items():
        found = control.control_accuracy(
            run.model, head, judge, run.samples_per_class, strength=strength, seed=run.seed, writer=writer
        )
        run.result.add(f"{name}_accuracy_{head}", found.accuracy, found.n)
        _fluency(run, f"{name}_{{}}_{head}", found.texts, model)


def _beside(run: Setting, head: str, judge: control.Judge, model: LanguageModel) -> None:
    """Real sentences of each class, and what a language model of each class writes."""
    column = run.model.heads[head].column
    assert column is not None
    n, classes = run.samples_per_class, run.model.heads[head].classes
    if column in run.data.features:
        values = np.array(run.data[column])
        real = {name: [run.texts[i] for i in np.flatnonzero(values == k)[:n]] for k, name in enumerate(classes)}
        if all(len(texts) > 1 for texts in real.values()):
            _fluency(run, f"real_{{}}_{head}", real, model)
    train = run.corpus["train"]
    if column not in train.features:
        return
    values, written = np.array(train[column]), {}
    try:
        for k, name in enumerate(classes):
            texts = list(train.select(np.flatnonzero(values == k).tolist())["text"])
            written[name] = language.fit(run, texts, f"language model of {name}").sample(n, seed=run.seed + k)
    except UndefinedMetricError as reason:
        run.result.note(f"language models of the classes of {head}: left out, {reason}")
        return
    right = [control.accuracy(judge.predict(texts), [name] * len(texts)) for name, texts in written.items()]
    run.result.add(f"class_lm_accuracy_{head}", math.fsum(right) / len(right), n * len(right))
    _fluency(run, f"class_lm_{{}}_{head}", written, model)


def _fluency(run: Setting, name: str, texts: Mapping[str, Sequence[str]], model: LanguageModel) -> None:
    """Forward perplexity over all classes; self-BLEU within a class, the mean over classes."""
    everything = _flat(texts)
    run.result.measure(name.format("forward_ppl"), len(everything), language.forward_perplexity, model, everything)
    diversity = [fluency.self_bleu(each) for each in texts.values() if len(each) > 1]
    if diversity:
        run.result.add(name.format("self_bleu"), math.fsum(diversity) / len(diversity), len(everything) // len(texts))


def _flat(texts: Mapping[str, Sequence[str]]) -> list[str]:
    return [text for each in texts.values() for text in each]
