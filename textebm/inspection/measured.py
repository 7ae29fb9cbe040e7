"""What was measured, for the page: what a reader asks first, each figure beside its reference, and all by group."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from textebm.evaluation.catalogue import describe
from textebm.evaluation.metric import Evaluation, MetricValue

MOST = 8


@dataclass(frozen=True)
class Figure:
    """A figure with its reference: of the metric *name*, of all metrics, -> what is said beside it."""

    title: str
    name: str
    beside: Callable[[Mapping[str, float]], str]


def headline(
    evaluation: Evaluation | None, heads: Sequence[str], labels: Sequence[str], most: int | None = MOST
) -> list[dict[str, Any]]:
    """The first figures that were measured, as (title, value, beside, description, and the metric's name).

    heads, labels: the names of the model's heads and of the corpus's label columns.
    """
    if evaluation is None:
        return []
    values = {name: metric.value for name, metric in evaluation.metrics.items()}
    found = []
    for figure in _figures(heads, labels, values):
        if (metric := evaluation.metrics.get(figure.name)) is not None:
            said = describe(figure.name).description
            found.append(
                {
                    "title": figure.title,
                    "name": figure.name,
                    "value": _shown(metric),
                    "beside": figure.beside(values),
                    "description": said,
                }
            )
    return found[:most]


def _shown(metric: MetricValue) -> str:
    if metric.unit.startswith("share"):
        return f"{metric.value:.1%}"
    digits = 2 if abs(metric.value) < 10 else int(abs(metric.value) < 100)
    return f"{metric.value:,.{digits}f}"


def _figures(heads: Sequence[str], labels: Sequence[str], values: Mapping[str, float]) -> list[Figure]:
    def of(text: str, *names: str) -> Callable[[Mapping[str, float]], str]:
        """The text with the values of these metrics, or nothing where one is missing."""
        return lambda v: text.format(*(v[name] for name in names)) if all(name in v for name in names) else ""

    control = []
    for head in heads:
        count = sum(name.startswith(f"control_accuracy_{head}_") for name in values)  # classes that were asked for
        guessing = f", guessing {1 / count:.0%}" if count else ""
        beside = of("judge on real text {:.1%}" + guessing, f"judge_accuracy_{head}")
        control.append(Figure(f"Control: {head}", f"control_accuracy_{head}", beside))
    agreement = max(labels, key=lambda label: values.get(f"ami_{label}", -1.0), default="")
    return [
        *control,
        Figure("Grammatical samples", "grammatical", of("words drawn: {:.1%}", "grammatical_sampled")),
        Figure("Fluency of samples", "fluency", of("shuffled words 0, real text 1")),
        Figure("Sentences rebuilt", "reconstruction_bleu", of("BLEU; a copy has 100")),
        Figure("Perplexity, at most", "ppl", of("bigrams {:.3g}, unigrams {:.3g}", "bigram_ppl", "unigram_ppl")),
        Figure(f"Codes against {agreement}", f"ami_{agreement}", of("AMI; 0 by chance, at most 1")),
        Figure("Sameness of samples", "self_bleu", of("self-BLEU; real text {:.3g}", "self_bleu_real")),
        Figure("Use of the latent", "reliance", of("nats a token; 0 is collapse")),
        Figure("Copied from training", "copied", of("samples that are training sentences")),
    ]


def judged(evaluation: Evaluation | None, head: str, classes: Sequence[str]) -> dict[str, Any]:
    """Control of *head* with its judge and base rate: accuracy (n), the judge's own accuracy on real text, what
    guessing gives, that of each class, how often the model's own encoder agrees (own, own_n), and the shares asked with
    those found (calibration). None: not measured.
    """
    metrics = {} if evaluation is None else evaluation.metrics
    accuracy = metrics.get(f"control_accuracy_{head}")
    judge = metrics.get(f"judge_accuracy_{head}")
    own = next((metrics[n] for n in (f"code_agreement_{head}", "code_agreement") if n in metrics), None)
    by_class = [metrics.get(f"control_accuracy_{head}_{name}") for name in classes]
    return {
        "accuracy": accuracy and accuracy.value,
        "n": accuracy and accuracy.n,
        "judge": judge and judge.value,
        "chance": 1 / (sum(each is not None for each in by_class) or len(classes)) if classes else None,
        "classes": [each and each.value for each in by_class],
        "own": None if own is None or accuracy else own.value,
        "own_n": None if own is None or accuracy else own.n,
        "calibration": sorted(
            [float(name.removeprefix("judged_").removesuffix(f"_{head}")), metric.value]
            for name, metric in metrics.items()
            if re.fullmatch(rf"judged_[0-9.]+_{re.escape(head)}", name)
        ),
    }


def measured(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """All metrics with their group and description."""
    if evaluation is None:
        return None
    rows = [{**described(name), **asdict(metric)} for name, metric in evaluation.metrics.items()]
    return {"rows": rows, "notes": evaluation.notes, "split": evaluation.split, "seed": evaluation.seed}


def described(name: str) -> dict[str, str]:
    """A metric's group and description; those of one's own have none."""
    try:
        entry = describe(name)
    except KeyError:
        return {"name": name, "group": "Metrics of one's own", "description": ""}
    return {
        "name": name,
        "group": entry.group,
        "description": " ".join(filter(None, (entry.description, entry.beside))),
    }
