"""Quality of text against energy evaluations: PYTHONPATH=. python tests/benchmarks/steps.py RUN… [--steps 1,2,4]

Runs that differ in ``prior.num_levels`` alone (one autoencoder, `training.start_from`). Learning by score matching runs
no chains, so the number of steps is a choice made afterwards: each run is sampled at each, with the step size found
again (`prior.sampling.calibrate`). Prints a row of a Markdown table each.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import torch

from textebm.evaluation.control import ClassifierJudge, Judge, ParserJudge, code_agreement, control_accuracy
from textebm.evaluation.fluency import wkl, word_counts
from textebm.model.build import build_corpus, build_judge_corpus
from textebm.model.files import load
from textebm.prior.sampling import calibrate, sample
from textebm.recipe.schema import Recipe
from textebm.text import grammar

FREE, PER_CLASS, PER_CODE, SEED = 2000, 500, 100, 0


def main(runs: list[str], steps: list[int]) -> None:
    recipe = Recipe.model_validate(load(runs[0]).recipe)
    corpus = build_corpus(recipe.data, seed=recipe.seed)
    counts = word_counts(corpus["train"]["text"])
    exact = recipe.data.corpus == "grammar"
    judges: dict[str, Judge] = {}
    for head in recipe.heads:
        if head.labels is not None and exact:
            judges[head.name] = ParserJudge(grammar.parse, head.labels)
        elif head.labels is not None:
            source = build_judge_corpus(recipe.data) or corpus["train"]
            rows = np.random.default_rng(SEED).permutation(len(source))[:50_000]
            part = source.select(np.sort(rows).tolist())
            names = part.features[head.labels].names
            judges[head.name] = ClassifierJudge.fit(list(part["text"]), list(part[head.labels]), names, SEED)
    print("| levels × steps | evaluations | acceptance | grammatical | wKL | control | code agreement |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for run in runs:
        model = load(run).eval()
        chain = model.prior.chain
        for number in steps:
            model.prior.chain = replace(chain, steps=number)
            with torch.no_grad():
                calibrate(model.prior, generator=torch.Generator().manual_seed(SEED))
                drawn = sample(model.prior, 1000, generator=torch.Generator().manual_seed(SEED))
            texts = model.generate(FREE, seed=SEED)
            right = sum(grammar.parse(text) is not None for text in texts) / FREE if exact else math.nan
            control = [control_accuracy(model, head, judge, PER_CLASS).accuracy for head, judge in judges.items()]
            codes = [code_agreement(model, h.name, PER_CODE).accuracy for h in recipe.heads if h.labels is None]
            print(
                f"| {model.prior.num_levels} × {number} | {drawn.evaluations} | {drawn.acceptance.nanmean():.2f} | "
                f"{right:.3f} | {wkl(texts, counts):.3f} | {' / '.join(f'{c:.3f}' for c in control)} | "
                f"{' / '.join(f'{c:.3f}' for c in codes)} |",
                flush=True,
            )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    chosen = "1,2,4"
    if "--steps" in arguments:
        place = arguments.index("--steps")
        chosen = arguments[place + 1]
        del arguments[place : place + 2]
    main(arguments, [int(number) for number in chosen.split(",")])
