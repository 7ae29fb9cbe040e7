"""Rows of the results page, each made again by one call: what was measured, what this machine measures, and how far
apart the two may lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from textebm.errors import TextEBMError, did_you_mean
from textebm.evaluation.metric import Evaluation
from textebm.recipe.read import load_recipe
from textebm.runs import checkpoint
from textebm.runs.evaluate import read_evaluation
from textebm.runs.train import train


@dataclass(frozen=True)
class Expected:
    """A figure of the results page. tolerance: what a seed and another machine may move it by, in its own unit."""

    metric: str
    value: float
    tolerance: float


@dataclass(frozen=True)
class Experiment:
    """recipe and overrides as for ``textebm train``; minutes: about how long a seed takes one core."""

    what: str
    recipe: str
    expected: tuple[Expected, ...]
    overrides: tuple[str, ...] = ()
    minutes: int = 4

    def command(self, seed: int) -> str:
        return " ".join(["textebm train", self.recipe, *self.overrides, f"seed={seed}"])


QUICKSTART = (
    Expected("reconstruction_bleu", 82.0, 6.0),
    Expected("grammatical", 0.98, 0.02),
    Expected("control_accuracy_sentiment", 0.99, 0.015),
    Expected("control_accuracy_tense", 0.985, 0.02),
    Expected("wkl", 0.023, 0.012),
)
EXPERIMENTS = {
    "quickstart": Experiment(
        "the embedded language under the default prior",
        "quickstart",
        (*QUICKSTART, Expected("ami_topic", 0.97, 0.05), Expected("code_agreement", 0.985, 0.03)),
    ),
    "yelp": Experiment(
        "Yelp sentences: control of sentiment, codes",
        "yelp",
        (
            Expected("reconstruction_bleu", 36.2, 2.0),
            Expected("elbo", -55.2, 1.0),
            Expected("code_agreement", 0.937, 0.03),
            Expected("control_accuracy_sentiment", 0.966, 0.03),
            Expected("head_accuracy_sentiment", 0.965, 0.01),
            Expected("wkl", 0.139, 0.03),
        ),
        minutes=25,
    ),
    "ptb": Experiment(
        "Penn Treebank: reconstruction and likelihood",
        "ptb",
        (Expected("reconstruction_bleu", 20.5, 2.0), Expected("reconstruction_nll", 71.8, 3.0)),
        ("encoder.word_dropout=0", "evaluation.limit=1000", "evaluation.samples=1000", "evaluation.refine=0"),
        65,
    ),
    **{
        f"agnews-{labels}": Experiment(
            f"AG News documents as bags of words, {labels} labels in all",
            "agnews",
            (Expected("head_accuracy_topic", value, 0.015),),
            (f"heads.0.label_limit={labels}", "training.stages=[{name: autoencoder, epochs: 15}]"),
            2,
        )
        for labels, value in ((200, 0.846), (500, 0.850), (2500, 0.866))
    },
}


@dataclass(frozen=True)
class Standing:
    """Where this machine stands on one figure. values: a seed each; missing ones were not measured here."""

    expected: Expected
    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def within(self) -> bool:
        return self.mean is not None and abs(self.mean - self.expected.value) <= self.expected.tolerance

    def as_row(self) -> dict[str, Any]:
        spread = stdev(self.values) if len(self.values) > 1 else None
        own = {"mean": self.mean, "stddev": spread, "values": list(self.values), "within": self.within}
        return {"metric": self.expected.metric, "expected": self.expected.value, **own} | {
            "tolerance": self.expected.tolerance
        }


def experiment_of(name: str) -> Experiment:
    """Raises TextEBMError, with the nearest name, when there is none."""
    if name not in EXPERIMENTS:
        raise TextEBMError(f"no experiment is called {name[:80]!r}{did_you_mean(name[:80], EXPERIMENTS)}")
    return EXPERIMENTS[name]


def reproduce(
    name: str,
    *,
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Standing]:
    """Train and measure the experiment *name* once for each seed, in *out* (runs/reproduce). What is there is not done
    again, and a stopped run goes on. Raises TextEBMError subclasses."""
    experiment = experiment_of(name)
    root, measured = Path(out or "runs/reproduce"), list[Evaluation]()
    for seed in seeds:
        directory = root / f"{name}-seed{seed}"
        recipe = load_recipe(experiment.recipe, [*experiment.overrides, f"seed={seed}"])
        if not (directory / "evaluation.json").is_file():
            say(f"{experiment.command(seed)} --out {directory}")
            resume = checkpoint.latest(directory) is not None
            if train(recipe, out=directory, data_dir=data_dir, resume=resume).evaluation is None:
                raise TextEBMError("stopped and saved; the same command goes on")
        measured.append(read_evaluation(directory))
    return [standing(expected, measured) for expected in experiment.expected]


def standing(expected: Expected, measured: Sequence[Evaluation]) -> Standing:
    """One figure of all seeds."""
    values = [each.metrics[expected.metric].value for each in measured if expected.metric in each.metrics]
    return Standing(expected, tuple(values))
