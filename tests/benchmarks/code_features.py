"""Which features make codes that mean something? k-means in each, beside topic models, without training any model.

    python tests/benchmarks/code_features.py yelp --codes 20 --train 40000 --held-out 20000
    python tests/benchmarks/code_features.py agnews --codes 20 [--encoder DIRECTORY]
    python tests/benchmarks/code_features.py embedded --codes 6 --degrade
    python tests/benchmarks/code_features.py dailydialog --codes 125 --weights

Validation only (but --weights ends with a line of the test turns): Yelp and the embedded corpus take both parts from
their training split, AG News headlines 4,000 and 1,000 of its dev file (words that meet are counted in the 5,000
documents), DailyDialog train and validation.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from textebm.evaluation import code_scores as scores
from textebm.evaluation.assignments import match
from textebm.evaluation.code_baselines import BASELINES
from textebm.model.build import build_corpus
from textebm.networks.sentence_encoder import SentenceEncoder
from textebm.objective.answers import AS_ANSWER, answer_features
from textebm.objective.clustering import find_clusters
from textebm.objective.features import content_features, mix
from textebm.recipe.read import load_recipe
from textebm.text.published import tokenize
from textebm.text.words import subject_words

Labels = dict[str, tuple[np.ndarray, np.ndarray]]
KNOWN = {"yelp": ("sentiment",), "embedded": ("topic",), "dailydialog": ("act", "emotion")}
RECIPES = {"yelp": "yelp", "embedded": "quickstart", "dailydialog": "dailydialog"}


def read(name: str, data: Path, train: int, held_out: int) -> tuple[list[str], list[str], Labels, list[str], list]:
    """Two sets of texts, their labels, the texts in which words that meet are counted, and pairs of turns."""
    rng = np.random.default_rng(0)
    if name == "agnews":
        rows = [json.loads(line) for line in (data / "agnews" / "dev.jsonl").open(encoding="utf-8")]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        texts, values = [tokenize(row["headline"]) for row in rows], np.array([int(row["label"]) for row in rows])
        documents = [tokenize(row["text"]) for row in rows]
        return texts[:4000], texts[4000:], {"topic": (values[:4000], values[4000:])}, documents, []
    corpus = build_corpus(load_recipe(RECIPES[name]).data, data_dir=str(data), seed=0)
    rows, pairs = corpus["train"], []
    if name == "dailydialog":
        pairs = [(turns[-1], text) for turns, text in zip(rows["context"], rows["text"], strict=True) if turns]
        one = rows.select(np.sort(rng.permutation(len(rows))[:train]))
        rest = corpus["validation"]
        two = rest.select(np.sort(rng.permutation(len(rest))[:held_out]))
    else:
        order = rng.permutation(len(rows))
        one, two = rows.select(order[:train]), rows.select(order[train : train + held_out])
    labels = {label: (np.array(one[label]), np.array(two[label])) for label in KNOWN[name]}
    return list(one["text"]), list(two["text"]), labels, list(two["text"]), pairs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", choices=("yelp", "agnews", "embedded", "dailydialog"))
    parser.add_argument("--codes", type=int, default=20)
    parser.add_argument("--train", type=int, default=8000)
    parser.add_argument("--held-out", type=int, default=4000)
    parser.add_argument("--encoder", help="A sentence encoder's directory.")
    parser.add_argument("--degrade", action="store_true", help="Rank correlations over 20 degraded codings.")
    parser.add_argument("--words", action="store_true", help="Print each code's words.")
    parser.add_argument("--weights", action="store_true", help="Choose what a turn counts as an answer, for its act.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TEXTEBM_DATA", "../shared/data")))
    options = parser.parse_args()
    if options.weights:
        if options.corpus != "dailydialog":
            parser.error("--weights is for dailydialog, whose turns answer one another")
        weights(options.data, options.codes)
        return
    train, held_out, labels, documents, pairs = read(options.corpus, options.data, options.train, options.held_out)
    count, n, everything = options.codes, len(train), [*train, *held_out]
    judge = scores.tfidf_judge(held_out)

    def row(title: str, one: np.ndarray, two: np.ndarray) -> dict[str, float]:
        words = scores.names_from_words(train, one, count)
        lists = [list(own) for own in words]
        told = scores.detection(words, held_out, two, judge)
        found = {
            "npmi": float(np.nanmean(scores.npmi(lists, documents))),
            "diversity": scores.diversity(lists),
            "auroc": told.auroc,
            "f1": told.f1,
            "intruder": scores.intruder(held_out, two, questions=300),
        }
        for label, (_, values) in labels.items():
            own = match(two[two >= 0], values[two >= 0])
            found[f"{label} h"], found[f"{label} ami"] = own.homogeneity, own.ami
        print(f"{title:28s}", "  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
        if options.words:
            print("".join(f"    {' '.join(own)}\n" for own in lists), end="")
        return found

    def clusters(points: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        one, cells = find_clusters(points[:n], count, components=64, seed=seed)
        return one, cells.assign(points[n:])

    content = content_features(everything, subject_words)
    if options.degrade:
        degrade(row, clusters, content, count)
        return
    rng = np.random.default_rng(0)
    row("random", rng.integers(0, count, n), rng.integers(0, count, len(held_out)))
    for name, make in BASELINES.items():
        row(name, *make(train, held_out, count, 0))
    features = {"content": content}
    if pairs:
        features["answer"] = answer_features(everything, pairs)
    if options.encoder:
        encoder = SentenceEncoder(options.encoder)
        middle = encoder.layers // 2
        states = encoder.read(everything, [middle, -1])
        features[f"sentence, layer {middle}"], features["sentence, last layer"] = states[:, 0], states[:, 1]
        features["mixed 1:1 (last)"] = mix([(1.0, content), (1.0, states[:, 1])], count)
        features["mixed 1:2 (last)"] = mix([(0.5, content), (1.0, states[:, 1])], count)
        if pairs:
            features[f"mixed answer, layer {middle}"] = mix([(1.0, features["answer"]), (1.0, states[:, 0])], count)
    for name, points in features.items():
        row(name, *clusters(points))


def weights(data: Path, count: int) -> None:
    """Of several weights of a turn as an answer, the one whose k-means, on all training turns, has the highest AMI with
    the acts of the validation turns (mean of three seeds); then it and the default on the test turns, once."""
    corpus = build_corpus(load_recipe("dailydialog").data, data_dir=str(data), seed=0)
    splits = [corpus[name] for name in ("train", "validation", "test")]
    ends = np.cumsum([len(rows) for rows in splits])
    texts = [text for rows in splits for text in rows["text"]]
    pairs = [(turns[-1], text) for turns, text in zip(splits[0]["context"], splits[0]["text"], strict=True) if turns]

    def measured(weight: float, split: int) -> np.ndarray:
        own = []
        for each in cells[weight]:
            codes = each.assign(features[weight][ends[split - 1] : ends[split]])
            for label in ("act", "emotion"):
                told = match(codes, np.array(splits[split][label]))
                own.append((told.homogeneity, told.ami))
        return np.array(own).reshape(3, 4)

    def told(title: str, values: np.ndarray) -> None:
        named = zip(("act h", "act ami", "emotion h", "emotion ami"), values.mean(0), values.std(0), strict=True)
        print(f"{title:24s}", "  ".join(f"{name} {mean:.4f} ± {error:.4f}" for name, mean, error in named), flush=True)

    features = {weight: answer_features(texts, pairs, as_answer=weight) for weight in (0.0, 0.25, AS_ANSWER, 0.75, 1.0)}
    cells = {
        weight: [find_clusters(points[: ends[0]], count, components=64, seed=seed)[1] for seed in range(3)]
        for weight, points in features.items()
    }
    found = {}
    for weight in features:
        found[weight] = measured(weight, 1)
        told(f"validation, weight {weight}", found[weight])
    chosen = max(found, key=lambda each: float(found[each][:, 1].mean()))
    for weight in dict.fromkeys((chosen, AS_ANSWER)):
        told(f"test, weight {weight}", measured(weight, 2))


def degrade(row, clusters, points: np.ndarray, count: int) -> None:  # type: ignore[no-untyped-def]
    """Codes in content features with a share of the sentences' codes drawn anew, and with noise in the features."""
    rows, (first, second) = [], clusters(points)
    for share in np.arange(10) / 10:
        rng, codes = np.random.default_rng(int(share * 100)), [first.copy(), second.copy()]
        for each in codes:
            drawn = rng.random(len(each)) < share
            each[drawn] = rng.integers(0, count, drawn.sum())
        rows.append(row(f"reassigned {share:.1f}", *codes))
    for seed, scale in enumerate((0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)):
        noise = np.random.default_rng(100 + seed).normal(size=points.shape).astype(np.float32)
        rows.append(row(f"noise {scale}", *clusters(points + scale * noise, seed)))
    truth = next(name for name in rows[0] if name.endswith(" ami"))
    for name in ("npmi", "diversity", "auroc", "f1", "intruder"):
        print(f"{name}: Spearman {spearmanr([each[name] for each in rows], [each[truth] for each in rows])[0]:.2f}")


if __name__ == "__main__":
    main()
