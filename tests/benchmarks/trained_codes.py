"""The found codes of trained runs, scored on sentences that no run saw, beside topic models on the same text.

    python tests/benchmarks/trained_codes.py RUN… --data ../shared/data --held-out FILE… [--train 20000] [--cards]
    python tests/benchmarks/trained_codes.py RUN… --data ../shared/data --split validation

Codes get their words from the runs' training sentences; everything is measured on the held-out ones: lines of files, or
a split of the corpus. Several runs, of several seeds say, are compared with one another. --cards: each code of the
first run, with a typical sentence and one that is written under it. --strengths: code agreement at each, ten sentences
a code.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch

from textebm import TextEBM
from textebm.evaluation import code_scores as scores
from textebm.evaluation.assignments import match
from textebm.evaluation.code_baselines import BASELINES
from textebm.evaluation.control import code_agreement
from textebm.model.build import build_corpus
from textebm.recipe.read import load_recipe
from textebm.text.lines import text_lines

WRITTEN, SUREST = 50, 40  # sentences written under a code; sentences of which a card shows one


def sample(texts: list[str], n: int) -> list[str]:
    return [texts[i] for i in np.sort(np.random.default_rng(0).permutation(len(texts))[:n])]


def cards(model: TextEBM, head: str, train: list[str], naming: np.ndarray, held_out: list[str]) -> None:
    """A line of Markdown for each code, the commonest first."""
    read = model.encode(held_out)
    codes, p, count = read.codes[head].numpy(), read.probabilities[head].numpy(), len(model.heads[head].classes)
    words = scores.names_from_words(train, naming, count)
    told = scores.detection(words, held_out, codes, scores.tfidf_judge(train))
    for code in np.argsort(-np.bincount(codes, minlength=count), kind="stable").tolist():
        agreed = code_agreement(model, head, WRITTEN, codes=[code], seed=code)
        (written,) = agreed.texts.values()
        own = [i for i in np.flatnonzero(codes == code) if 6 <= len(held_out[i].split()) <= 12]
        surest = sorted(own, key=lambda i: -p[i, code])[:SUREST]
        typical = held_out[surest[int(np.random.default_rng(code).integers(len(surest)))]] if surest else "–"
        share = float((codes == code).mean())
        figures = f"{share:.1%} | {told.per_code[code]:.2f} | {agreed.accuracy:.2f}"
        print(f"| {' '.join(words[code])} | {figures} | {typical} | {written[0]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--train", type=int, default=20000, help="training sentences that name the codes")
    parser.add_argument("--limit", type=int, default=20000, help="held-out sentences")
    parser.add_argument("--held-out", nargs="+", metavar="FILE", help="lines of text, a file for each class of --label")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--head", default="code")
    parser.add_argument("--label", nargs="+", default=["sentiment"], help="compared with the codes")
    parser.add_argument("--cards", action="store_true")
    parser.add_argument("--strengths", nargs="+", type=float, default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    corpus = build_corpus(load_recipe(Path(asked.runs[0]) / "recipe.yaml").data, data_dir=asked.data, seed=0)
    train = sample(list(corpus["train"]["text"]), asked.train)
    if asked.held_out:
        lines = [(text, place) for place, file in enumerate(asked.held_out) for text in text_lines(Path(file))]
        lines = [lines[i] for i in np.random.default_rng(1).permutation(len(lines))[: asked.limit]]
        held_out, labels = [text for text, _ in lines], {asked.label[0]: np.array([place for _, place in lines])}
    else:
        rows = corpus[asked.split].select(range(min(asked.limit, len(corpus[asked.split]))))
        held_out, labels = list(rows["text"]), {label: np.array(rows[label]) for label in asked.label}
    codings, models = {}, [TextEBM.from_pretrained(run) for run in asked.runs]
    for run, model in zip(asked.runs, models, strict=True):
        codings[run] = tuple(model.encode(texts).codes[asked.head].numpy() for texts in (train, held_out))
    count = len(models[0].heads[asked.head].classes)
    for name, fit in BASELINES.items():
        codings[name] = fit(train, held_out, count, 0)
    codings["random"] = scores.shuffled(*codings[asked.runs[0]])
    for name, (naming, read) in codings.items():
        measured = scores.score_codes((train, naming), (held_out, read), seed=0)
        row = {key: round(value, 3) for key, value in asdict(measured).items()}
        for label, values in labels.items():
            told = match(read[values >= 0], values[values >= 0])
            row |= {f"{label}_homogeneity": round(told.homogeneity, 3), f"{label}_ami": round(told.ami, 3)}
        print(json.dumps({"codes": name, **row}), flush=True)
    for one, other in combinations(asked.runs, 2):
        same = scores.stability(codings[one][1], codings[other][1], count)
        print(json.dumps({"between": [one, other], "ami": round(same.ami, 3), "agreement": round(same.agreement, 3)}))
    for (run, model), strength in product(zip(asked.runs, models, strict=True), asked.strengths):
        agreed = code_agreement(model, asked.head, 10, strength=strength, seed=1).accuracy
        print(json.dumps({"codes": run, "strength": strength, "agreement": round(agreed, 3)}), flush=True)
    if asked.cards:
        cards(models[0], asked.head, train, codings[asked.runs[0]][0], held_out)


if __name__ == "__main__":
    main()
