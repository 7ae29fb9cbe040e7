"""One measured number, what is known about each name, and a whole evaluation: kept, saved and shown.

A metric that is undefined (no labels, one sentence, no words) raises `UndefinedMetricError`; `Evaluation.measure`
turns that into a note, so that a missing number says why it is missing and NaN never reaches a file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from textebm.errors import did_you_mean


class UndefinedMetricError(ValueError):
    """The metric has no value on this input; the message says why."""


@dataclass(frozen=True)
class Metric:
    """A measured value. `n` counts what it was measured on (sentences, unless the catalogue says otherwise)."""

    value: float
    unit: str
    higher_is_better: bool | None
    n: int

    @classmethod
    def named(cls, name: str, value: float, n: int) -> Metric:
        """The metric *name* of the catalogue with its unit and direction. ValueError if *value* is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"metric {name}: expected a finite number, got {value}")
        entry = describe(name)
        return cls(float(value), entry.unit, entry.higher_is_better, int(n))


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows about a metric."""

    unit: str
    higher_is_better: bool | None
    description: str


_BLEU, _NATS, _SHARE = "BLEU (0-100)", "nats", "share (0-1)"
_PER_SENTENCE = "nats/sentence"

# `<…>` stands for a label column, a head, a class or a pair of heads: describe("ami_topic") finds "ami_<label>".
CATALOGUE: dict[str, Entry] = {
    "reconstruction_bleu": Entry(_BLEU, True, "greedy decode of the posterior mean against the sentence, corpus BLEU"),
    "reconstruction_nll": Entry(_PER_SENTENCE, False, "-E_q log p(x|z)"),
    "kl": Entry(_PER_SENTENCE, None, "KL(q(z|x) || p(z)), the safe (upper) side where the prior has no closed form"),
    "elbo": Entry(_PER_SENTENCE, True, "-(reconstruction_nll + kl): a lower bound of log p(x)"),
    "ppl": Entry("per token", False, "exp(-elbo / token) over the corpus: an upper bound of the perplexity"),
    "active_units": Entry("dimensions", True, "latent dimensions with Var_x E[z|x] > 0.01"),
    "mutual_information_xz": Entry(_NATS, True, "E KL(q(z|x) || q(z)) over n posteriors; cannot exceed log n"),
    "mutual_information_zy": Entry(
        _NATS, True, "H(mean p(y|z)) - mean H(p(y|z)) of the unsupervised head, at z = E[z|x]"
    ),
    "mutual_information_zy_<head>": Entry(_NATS, True, "the same for another head"),
    "codes_in_use": Entry("codes", True, "codes that at least one sentence takes"),
    "codes_in_use_<head>": Entry("codes", True, "the same for another unsupervised head"),
    "code_perplexity": Entry("codes", True, "exp of the entropy of the code counts: the effective number of codes"),
    "code_perplexity_<head>": Entry("codes", True, "the same for another unsupervised head"),
    "code_agreement": Entry(
        _SHARE, True, "sentences generated under a code that encode back to it, codes in use equally often"
    ),
    "code_agreement_<head>": Entry(_SHARE, True, "the same for another unsupervised head"),
    "latent_stddev": Entry(
        "latent units", None, "root mean square over dimensions of prior samples' standard deviation"
    ),
    "latent_stddev_more_steps": Entry("latent units", None, "the same with 4x the sampler steps: should not change"),
    "latent_stddev_posterior": Entry(
        "latent units", None, "the same of the aggregated posterior: what the prior should match"
    ),
    "wkl": Entry(_NATS, False, "unigram KL of free samples against training words; falls as n grows"),
    "wkl_matched": Entry(_NATS, False, "wkl of as many free samples as wkl_reconstruction has sentences"),
    "wkl_reconstruction": Entry(_NATS, False, "unigram KL of reconstructed sentences against training words"),
    "wkl_real": Entry(_NATS, False, "unigram KL of the real evaluation split against training words: the floor"),
    "wkl_more_steps": Entry(_NATS, False, "wkl with 4x the sampler steps: should not change"),
    "self_bleu": Entry(
        _BLEU, False, "mean sentence BLEU-4 of each sample against all others (diversity); rises with n"
    ),
    "self_bleu_real": Entry(_BLEU, None, "the same of as many real sentences (or all, when there are fewer)"),
    "distinct_1": Entry(_SHARE, True, "distinct words / words of the free samples; falls as n grows"),
    "distinct_2": Entry(_SHARE, True, "distinct bigrams / bigrams of the free samples; falls as n grows"),
    "copied": Entry(_SHARE, False, "free samples that are training sentences"),
    "empty": Entry(_SHARE, False, "free samples without a word"),
    "grammatical": Entry(_SHARE, True, "free samples that the exact parser accepts"),
    "homogeneity_<label>": Entry("0-1", True, "homogeneity of codes against a label; rises with the number of codes"),
    "v_measure_<label>": Entry("0-1", True, "V-measure of codes against a label"),
    "ami_<label>": Entry("at most 1, 0 by chance", True, "adjusted mutual information of codes and a label"),
    "permuted_homogeneity_<label>": Entry("0-1", None, "homogeneity of the same codes shuffled: what chance gives"),
    "permuted_v_measure_<label>": Entry("0-1", None, "V-measure of the same codes shuffled: what chance gives"),
    "probe_<label>_layer<l>": Entry(
        _SHARE, None, "logistic regression from one layer of the latent (1 is the lowest) to a label, on held-out half"
    ),
    "probe_base_<label>": Entry(_SHARE, None, "the same from nothing: the share of the commonest label"),
    "judge_accuracy_<head>": Entry(_SHARE, True, "the judge's own accuracy on real sentences of the evaluation split"),
    "control_accuracy_<head>": Entry(_SHARE, True, "sentences generated under a class that the judge gives that class"),
    "control_accuracy_<head>_<class>": Entry(_SHARE, True, "the same for one class"),
    "control_self_bleu_<head>": Entry(
        _BLEU, False, "self-BLEU within a class, mean over classes; n counts sentences a class"
    ),
    "composition_joint_<heads>": Entry(_SHARE, True, "sentences generated under two symbols at once that have both"),
    "composition_geometric_<heads>": Entry(
        _SHARE, True, "geometric mean of the two accuracies under two symbols at once"
    ),
}

_ARROWS = {True: "↑", False: "↓", None: " "}


def describe(name: str) -> Entry:
    """The catalogue's entry of *name*: the name itself, or else the longest prefix that takes a suffix. KeyError if
    neither.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    prefixes = {key.split("<")[0]: key for key in CATALOGUE if "<" in key}
    found = max((p for p in prefixes if name.startswith(p) and len(name) > len(p)), key=len, default=None)
    if found is None:
        raise KeyError(f"{name}: unknown metric{did_you_mean(name, CATALOGUE)}")
    return CATALOGUE[prefixes[found]]


@dataclass
class Evaluation:
    """Everything that one evaluation measured, with what is needed to read it: seed, versions, sizes, notes and
    samples.

    `metrics` holds finite numbers only. `sizes` counts sentences. `samples` keeps some of the texts behind the numbers.
    """

    seed: int
    split: str = "test"
    metrics: dict[str, Metric] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sacrebleu_signature: str = ""
    self_bleu_signature: str = ""

    def add(self, name: str, value: float, n: int) -> None:
        """Record a value; one that is not finite becomes a note."""
        if math.isfinite(value):
            self.metrics[name] = Metric.named(name, value, n)
        else:
            self.note(f"{name}: left out, the value came out as {value}")

    def measure(self, name: str, n: int, function: Callable[..., float], /, *arguments: Any, **keywords: Any) -> None:
        """Record ``function(*arguments, **keywords)``; an undefined metric becomes a note."""
        try:
            self.add(name, function(*arguments, **keywords), n)
        except UndefinedMetricError as reason:
            self.note(f"{name}: left out, {reason}")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON (it contains no NaN); the samples are in `samples_text`."""
        return {
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "seed": self.seed,
            "split": self.split,
            "versions": dict(self.versions),
            "sacrebleu_signature": self.sacrebleu_signature,
            "self_bleu_signature": self.self_bleu_signature,
            "sizes": dict(self.sizes),
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to *path*, which is then the old file or the new one, never half of it."""
        path = Path(path)
        text = json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """What `to_json` gave (without samples), for tables of a saved run."""
        plain = {
            k: data[k]
            for k in ("split", "versions", "sizes", "notes", "sacrebleu_signature", "self_bleu_signature")
            if k in data
        }
        return cls(seed=data["seed"], metrics={name: Metric(**m) for name, m in data["metrics"].items()}, **plain)

    def render(self) -> Table:
        """A rich table; arrows give the better direction."""
        table = Table("metric", "", "value", "unit", "n", title=f"Evaluation on {self.split} (seed {self.seed})")
        for column in (2, 4):
            table.columns[column].justify = "right"
        for name, m in self.metrics.items():  # Text, since class names may look like rich markup
            table.add_row(Text(name), _ARROWS[m.higher_is_better], _number(m.value), Text(m.unit), f"{m.n:,}")
        return table

    def table(self, console: Console) -> None:
        """Print the table and the notes."""
        console.print(self.render())
        for note in self.notes:
            console.print(Text(f"note: {note}"))

    def markdown(self) -> str:
        """The table and notes as Markdown, for the model card."""
        lines = ["| metric | | value | unit | n |", "|---|---|---:|---|---:|"]
        for name, m in self.metrics.items():
            cells = _cell(name), _ARROWS[m.higher_is_better].strip(), _number(m.value), _cell(m.unit), str(m.n)
            lines.append(f"| {' | '.join(cells)} |")
        if self.notes:
            lines += ["", *(f"- {_cell(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def samples_text(self) -> str:
        """The kept samples, one a line under a heading, for samples.txt."""
        blocks = [
            f"# {name}\n" + "".join(f"{' '.join(text.split())}\n" for text in texts)
            for name, texts in self.samples.items()
        ]
        return "\n".join(blocks)


def _number(value: float) -> str:
    return (
        f"{value:.0f}"
        if value == int(value) and abs(value) >= 1
        else f"{value:.4g}"
        if abs(value) < 1000
        else f"{value:.1f}"
    )


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
