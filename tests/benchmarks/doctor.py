"""Twenty small runs, ten healthy and ten spoiled in a known way: is each spoiled one named, and no healthy one accused?

    python -m tests.benchmarks.doctor [--data ../shared/data] [--only NAME]… [--out DIR] [--seed N]

About forty seconds of a core a run; reports are not made. Prints a line a run as JSON, and at the end how many were
right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textebm.errors import DivergenceError
from textebm.recipe.read import parse_recipe
from textebm.runs import train as training
from textebm.runs.directory import VERDICT
from textebm.runs.train import train
from textebm.text import grammar
from textebm.text.lines import text_lines

BASE: dict[str, Any] = {
    "name": "bench",
    "data": {"corpus": "grammar", "size": 2500, "max_tokens": 16},
    "tokenizer": {"kind": "word"},
    "encoder": {"embedding_size": 48, "hidden_size": 64},
    "decoder": {"embedding_size": 48, "hidden_size": 96},
    "latent": {"dim": 16, "max_stddev": 0.9},
    "heads": [{"name": "sentiment", "labels": "sentiment"}, {"name": "code", "classes": 6}],
    "prior": {"hidden_size": 64, "num_blocks": 2, "num_levels": 4, "steps": 2, "strength": 3.0},
    "objective": {"cluster_weight": 2.0, "supervised_weight": 5.0},
    "training": {
        "batch_size": 64,
        "learning_rate": 4e-3,
        "prior_learning_rate": 3e-3,
        "stages": [{"name": "autoencoder", "epochs": 22}, {"name": "prior", "steps": 200}],
        "evaluate_every": 80,
        "checkpoint_every": 1000,
    },
    "evaluation": {"samples": 400, "samples_per_class": 20, "limit": 300},
}


@dataclass(frozen=True)
class Case:
    """expected: any of these findings names the fault; empty for a healthy run. rows: (text, label) of train and test,
    instead of the embedded corpus."""

    overrides: dict[str, Any] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    rows: Callable[[Path], tuple[list[tuple[str, str]], list[tuple[str, str]]]] | None = None


def sentences(n: int, seed: int = 0) -> list[tuple[str, str]]:
    return [(each.text, each.sentiment) for each in grammar.generate(n, seed=seed)]


def shuffled(_: Path) -> Any:
    rows = sentences(2400)
    labels = [label for _, label in rows]
    random.Random(0).shuffle(labels)
    mixed = [(text, label) for (text, _), label in zip(rows, labels, strict=True)]
    return mixed[:2000], mixed[2000:]


def few(_: Path) -> Any:
    return sentences(50), sentences(300, seed=1)


def one_class(_: Path) -> Any:
    rows = [(text, label) for text, label in sentences(4600) if label == "positive"]
    return rows[:2000], rows[2000:2200]


def leaking(_: Path) -> Any:
    rows = sentences(2200)
    return rows[:2000], rows[:200] + rows[2000:2200]


def reviews(n: int) -> Callable[[Path], Any]:
    def read(data: Path) -> Any:
        halves = {}
        for split, count in (("train", n), ("test", 300)):
            rows = []
            for label in (0, 1):
                lines = list(text_lines(data / "yelp" / f"sentiment.{split}.{label}"))
                rows += [(text, "np"[label]) for text in random.Random(0).sample(lines, min(count // 2, len(lines)))]
            halves[split] = rows
        return halves["train"], halves["test"]

    return read


REVIEWS = {
    "data.max_tokens": 28,
    "tokenizer.kind": "bpe",
    "tokenizer.vocabulary_size": 1500,
    "decoder.hidden_size": 128,
    "encoder.dropout": 0.2,
    "objective.kl_weight": 0.3,
    "training.evaluate_every": 120,
}
EPOCHS = "training.stages.0.epochs"
CASES = {
    "plain": Case(),
    "another seed": Case({"seed": 1}),
    "more text": Case({"data.size": 4000, EPOCHS: 14}),
    "a wider latent": Case({"latent.dim": 24}),
    "byte pairs": Case({"tokenizer.kind": "bpe", "tokenizer.vocabulary_size": 500, "data.max_tokens": 24, EPOCHS: 40}),
    "a Gaussian prior": Case({"prior.kind": "gaussian"}),
    "LSTM": Case({"encoder.kind": "lstm", "decoder.kind": "lstm"}),
    "other heads": Case({"heads": [{"name": "tense", "labels": "tense"}, {"name": "code", "classes": 8}]}),
    "reviews": Case({**REVIEWS, EPOCHS: 9}, rows=reviews(4000)),
    "more reviews": Case({**REVIEWS, EPOCHS: 7}, rows=reviews(6000)),
    "learning rate x 30": Case(
        {"training.learning_rate": 0.12}, frozenset({"learning_rate", "worse_than_unigrams", "diverging"})
    ),
    "one epoch": Case({EPOCHS: 1, "training.evaluate_every": 8}, frozenset({"undertrained"})),
    "cap too low": Case({"latent.max_stddev": 0.1}, frozenset({"posterior_cap"})),
    "shuffled labels": Case({}, frozenset({"unreadable_labels"}), shuffled),
    "50 rows": Case({EPOCHS: 200}, frozenset({"little_text"}), few),
    "one class": Case({}, frozenset({"one_class"}), one_class),
    "latent of 2": Case({"latent.dim": 2}, frozenset({"small_latent"})),
    "vocabulary of 50": Case({"tokenizer.vocabulary_size": 50}, frozenset({"unknown_words"})),
    "KL weight 50": Case({"objective.kl_weight": 50.0}, frozenset({"collapse", "posterior_cap"})),
    "test rows in train": Case({}, frozenset({"leak"}), leaking),
}


def run(name: str, case: Case, data: Path, out: Path, seed: int) -> dict[str, Any]:
    began, directory = time.process_time(), out / name.replace(" ", "-")
    overrides = {"name": "bench", **case.overrides, "seed": case.overrides.get("seed", 0) + seed}
    recipe, memory = parse_recipe(BASE), None
    plain = recipe.model_dump(mode="json")
    if case.rows is not None:
        split = case.rows(data)
        memory = {
            part: ([text for text, _ in rows], {"sentiment": [label for _, label in rows]})
            for part, rows in zip(("train", "test"), split, strict=True)
        }
    try:
        train(plain, data=memory, overrides=overrides, out=directory, quiet=True)
        verdict = json.loads((directory / VERDICT).read_text(encoding="utf-8"))
        found = {finding["name"]: finding["evidence"] for finding in verdict["findings"]}
        references = [" ".join(reference.values()) for reference in verdict["references"]]
    except DivergenceError as error:
        found, references = {"diverging": str(error)}, []
    right = bool(case.expected & found.keys()) if case.expected else not found
    seconds = round(time.process_time() - began)
    return {"run": name, "right": right, "findings": found, "references": references, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", action="append", choices=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="added to each run's seed")
    options = parser.parse_args()
    training.write_report = lambda *_, **__: Path("none")  # what is told does not depend on it
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TEXTEBM_CACHE"] = str(Path(temporary) / "cache")
        right = 0
        chosen = options.only or list(CASES)
        for name in chosen:
            result = run(name, CASES[name], options.data, options.out or Path(temporary), options.seed)
            right += result["right"]
            print(json.dumps(result), flush=True)
        print(f"{right} of {len(chosen)} right")


if __name__ == "__main__":
    main()
